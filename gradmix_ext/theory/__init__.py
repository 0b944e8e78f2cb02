"""Mixup theory as tools: what mixup does to a given model on given data.

The regulariser and the adversarial bound follow Zhang, Deng, Kawaguchi, Ghorbani, Zou: "How Does
Mixup Help With Robustness and Generalization?" (ICLR 2021, arXiv 2010.04819). The experiment on
rare features, :mod:`gradmix_ext.theory.rare_features`, follows Zou, Cao, Li, Gu: "The Benefits of
Mixup for Feature Learning" (ICML 2023, arXiv 2303.08433).
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from gradmix_ext.theory.adversarial import (
    RobustRadius,
    adversarial_loss_second_order,
    mixup_loss_second_order,
    mixup_robust_radius,
)
from gradmix_ext.theory.glm import glm_moment, glm_regularizer
from gradmix_ext.theory.moments import MixupMoments, mixup_moments, sample_lam
from gradmix_ext.theory.taylor import ClassPairTerms, MixupTaylor, mixup_class_pairs, mixup_taylor

if TYPE_CHECKING:
    from gradmix_ext.theory import rare_features

__all__ = [
    "ClassPairTerms",
    "MixupMoments",
    "MixupTaylor",
    "RobustRadius",
    "adversarial_loss_second_order",
    "glm_moment",
    "glm_regularizer",
    "mixup_class_pairs",
    "mixup_loss_second_order",
    "mixup_moments",
    "mixup_robust_radius",
    "mixup_taylor",
    "rare_features",
    "sample_lam",
]

# Imported when first used: an experiment, not a tool that every user of the package needs.
_LAZY = ("rare_features",)


def __getattr__(name: str) -> Any:
    if name in _LAZY:
        return importlib.import_module(f"{__name__}.{name}")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*globals(), *_LAZY])
