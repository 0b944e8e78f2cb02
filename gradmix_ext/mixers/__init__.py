"""GradMix and its siblings: drop-in mixers with the same ``mix`` and ``loss``."""

from __future__ import annotations

import inspect
from typing import Any

from gradmix_ext._arguments import require_choice
from gradmix_ext.mixers.base import Mixer
from gradmix_ext.mixers.batch import Draw, MixedBatch
from gradmix_ext.mixers.controls import RandomMaskMixup, ShuffledScoresMixup
from gradmix_ext.mixers.cutmix import CutMix
from gradmix_ext.mixers.gradmix import GradMix
from gradmix_ext.mixers.images import ImageBatch, ImageTransform, Inputs, TensorBatch
from gradmix_ext.mixers.manifold import ManifoldMixup
from gradmix_ext.mixers.mixup import BalancedMixup, Mixup, NoMix
from gradmix_ext.mixers.pairs import PairMixer, PairRule
from gradmix_ext.mixers.pooled import mix_shares

__all__ = [
    "MIXERS",
    "BalancedMixup",
    "CutMix",
    "Draw",
    "GradMix",
    "ImageBatch",
    "ImageTransform",
    "Inputs",
    "ManifoldMixup",
    "MixedBatch",
    "Mixer",
    "Mixup",
    "NoMix",
    "PairMixer",
    "PairRule",
    "RandomMaskMixup",
    "ShuffledScoresMixup",
    "TensorBatch",
    "by_name",
    "mix_shares",
    "option_names",
]

#: The mixers by the names of the command line.
MIXERS: dict[str, type[Mixer]] = {
    "none": NoMix,
    "mixup": Mixup,
    "cutmix": CutMix,
    "manifold": ManifoldMixup,
    "balanced": BalancedMixup,
    "random-mask": RandomMaskMixup,
    "shuffled-scores": ShuffledScoresMixup,
    "gradmix": GradMix,
}


def by_name(name: str, num_classes: int, **options: Any) -> Mixer:
    """Build a mixer by its name.

    Args:
        name: One of :data:`MIXERS`.
        num_classes: Number of classes C of the head.
        **options: Settings of any mixer; those that this one does not have are left out.

    Raises:
        ValueError: There is no such mixer, or an option has a value that it cannot have.
        TypeError: No mixer at all has such an option.
    """
    require_choice("name", name, tuple(MIXERS))
    unknown = options.keys() - set().union(*map(_option_names, MIXERS.values()))
    if unknown:
        raise TypeError(f"no mixer has an option '{min(unknown)}'")
    given = {"num_classes": num_classes} | options
    known = _option_names(MIXERS[name])
    return MIXERS[name](**{option: value for option, value in given.items() if option in known})


def option_names(name: str) -> list[str]:
    """The settings of a mixer that can be given by name, without what comes with the training."""
    given = {"num_classes", "generator", "process_group"}
    return sorted(_option_names(MIXERS[name]) - given)


def _option_names(mixer: type[Mixer]) -> set[str]:
    """The names of a mixer's options, those it hands on to its base included."""
    names: set[str] = set()
    for cls in mixer.__mro__:
        if "__init__" in vars(cls):
            _, *parameters = inspect.signature(vars(cls)["__init__"]).parameters.values()
            handed_on = {p.name for p in parameters if p.kind in (p.VAR_POSITIONAL, p.VAR_KEYWORD)}
            names |= {p.name for p in parameters} - handed_on
            if not handed_on:
                break
    return names
