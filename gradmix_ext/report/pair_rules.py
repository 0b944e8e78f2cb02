"""What the class-pair map of an arm means: who chose the pairs, and what their scores are."""

from __future__ import annotations

from typing import Any

from gradmix_ext.experiments.arm import Arm
from gradmix_ext.mixers.gradmix import PRESETS
from gradmix_ext.report.contenders import Contender

__all__ = ["pair_rule"]


def pair_rule(contender: Contender) -> dict[str, str]:
    """How an arm that scores class pairs chooses and scores them.

    Returns:
        ``choice``: ``"scores"``, by the scores; ``"mask"``, which pairs are mixed is chosen at
        random; ``"odds"``, every pair may be mixed, at odds dealt out to the pairs at random, and
        the pairs that are marked decide nothing. ``score``: the criterion, or ``"online"``.
    """
    own = _own_options(contender.arm.label)
    shared = contender.run.settings

    def setting(name: str) -> Any:
        return shared.get(name) if own.get(name) is None else own[name]

    masked = contender.arm.augment == "random-mask"
    preset = PRESETS[str(setting("preset") or ("paper" if masked else "tuned"))]
    policy = setting("policy") or preset.policy
    choice = "scores"
    if masked or contender.arm.augment == "shuffled-scores":
        choice = "odds" if policy == "soft" else "mask"
    score = "online" if setting("update") == "online" else setting("criterion") or preset.criterion
    return {"choice": choice, "score": str(score)}


def _own_options(label: str) -> dict[str, Any]:
    """The mixer's settings that the label of an arm names; none if this version cannot read it."""
    try:
        return dict(Arm.parse(label).options)
    except ValueError:
        return {}
