"""GradMix and its siblings: drop-in mixers with the same ``mix`` and ``loss``."""

from __future__ import annotations

import inspect
from typing import Any

from gradmix_ext.mixers.base import Mixer
from gradmix_ext.mixers.batch import MixedBatch
from gradmix_ext.mixers.gradmix import GradMix
from gradmix_ext.mixers.mixup import BalancedMixup, Mixup, NoMix
from gradmix_ext.mixers.random_mask import RandomMaskMixup

__all__ = [
    "MIXERS",
    "BalancedMixup",
    "GradMix",
    "MixedBatch",
    "Mixer",
    "Mixup",
    "NoMix",
    "RandomMaskMixup",
    "by_name",
]

#: The mixers by the names of the command line.
MIXERS: dict[str, type[Mixer]] = {
    "none": NoMix,
    "mixup": Mixup,
    "balanced": BalancedMixup,
    "random-mask": RandomMaskMixup,
    "gradmix": GradMix,
}


def by_name(name: str, num_classes: int, **options: Any) -> Mixer:
    """Build a mixer by its name.

    Args:
        name: One of :data:`MIXERS`.
        num_classes: Number of classes C of the head.
        **options: Settings of any mixer; those that this one does not have are left out.

    Raises:
        ValueError: There is no such mixer.
    """
    if name not in MIXERS:
        raise ValueError(f"augment must be one of {', '.join(MIXERS)}, got {name!r}")
    mixer = MIXERS[name]
    base = GradMix if issubclass(mixer, GradMix) else mixer
    known = {*inspect.signature(mixer).parameters, *inspect.signature(base).parameters}
    given = {"num_classes": num_classes} | options
    return mixer(**{option: value for option, value in given.items() if option in known})
