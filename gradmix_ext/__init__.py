"""Gradient-aware data mixing (GradMix) for class-incremental learning.

>>> import gradmix_ext as gx
>>> mixer = gx.GradMix(num_classes=10)

Importing costs little, compiles nothing and does not touch the GPU: kernels are compiled (once per
machine) and loaded by the first call that needs them.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from gradmix_ext import loader, mixers, ops, reference
from gradmix_ext._version import __version__
from gradmix_ext.mixers import (
    BalancedMixup,
    CutMix,
    GradMix,
    ManifoldMixup,
    MixedBatch,
    Mixer,
    Mixup,
    NoMix,
    RandomMaskMixup,
    ShuffledScoresMixup,
)
from gradmix_ext.ops import debug_checks

if TYPE_CHECKING:
    from gradmix_ext import continual, metrics, report, robustness, theory

__all__ = [
    "BalancedMixup",
    "CutMix",
    "GradMix",
    "ManifoldMixup",
    "MixedBatch",
    "Mixer",
    "Mixup",
    "NoMix",
    "RandomMaskMixup",
    "ShuffledScoresMixup",
    "__version__",
    "continual",
    "debug_checks",
    "loader",
    "metrics",
    "mixers",
    "ops",
    "reference",
    "report",
    "robustness",
    "theory",
]

# Imported when first used, so that `import gradmix_ext` stays cheap.
_LAZY = ("continual", "metrics", "report", "robustness", "theory")


def __getattr__(name: str) -> Any:
    if name in _LAZY:
        return importlib.import_module(f"{__name__}.{name}")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*globals(), *_LAZY])
