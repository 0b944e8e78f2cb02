"""What scores of class pairs mean for a soft draw of partners."""

from __future__ import annotations

import torch
from torch import Tensor

from gradmix_ext import _checks as checks
from gradmix_ext import reference
from gradmix_ext.ops._library import define
from gradmix_ext.reference.pair_preferences import check


def pair_preferences(scores: Tensor, scored: Tensor, temperature: float) -> Tensor:
    """Preferences of class pairs, as :func:`~gradmix_ext.ops.draw_softly` takes them.

    With them the class of a partner follows, of all laws π, the one that maximises

        E_π[score] - temperature · spread · KL(π ‖ balanced),

    that is π ∝ exp(score / (temperature · spread)) over the classes of the batch. What is known of
    the gradients tilts a class-balanced draw; where they tell nothing, or at a high temperature,
    the balanced draw is what remains, so no pair is ever shut out and every class is rehearsed.

    Args:
        scores: Scores [K, K] of the class pairs, float32 or float64.
        scored: Pairs [K, K] (bool) that have a score; the others get the mean preference, 0.
        temperature: In units of the scores' spread, so that their scale does not matter; positive.

    Returns:
        (score - mean) / (temperature · standard deviation) [K, K] in the dtype of ``scores``, over
        the pairs that have a score; all 0 where no two of these differ.

    Raises:
        TypeError: An argument has the wrong dtype.
        ValueError: An argument has the wrong shape, device or value.
    """
    if checks.debug_enabled():
        check(scores, scored, temperature)
    try:
        if scores.requires_grad:
            check(scores, scored, temperature)
        preference: Tensor = _OP(scores, scored, temperature)
    except Exception:
        with checks.replacing:
            check(scores, scored, temperature)
        raise
    return preference


def _fake(scores: Tensor, scored: Tensor, temperature: float) -> Tensor:
    check(scores, scored, temperature)
    return scores.new_empty(scores.shape)


define(
    "pair_preferences(Tensor scores, Tensor scored, float temperature) -> Tensor",
    reference.pair_preferences,
    _fake,
)
_OP = torch.ops.gradmix_ext.pair_preferences.default
