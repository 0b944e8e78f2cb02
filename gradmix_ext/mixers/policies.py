"""What the scores of class pairs mean for the draw of a partner.

``"redraw"`` and ``"skip"`` are the hard rules of :func:`gradmix_ext.ops.draw_partners`: a pair is
allowed or not. ``"soft"``, drawn by :func:`gradmix_ext.ops.draw_softly`, goes beyond the paper. Of
all laws π of the partner's class it takes the one that maximises

    E_π[score] - temperature · spread · KL(π ‖ balanced),

that is π ∝ exp(score / (temperature · spread)) over the classes of the batch. What is known of the
gradients tilts a class-balanced draw; where they tell nothing, or at a high temperature, the
balanced draw is what remains, so no pair is ever shut out and every class is rehearsed.
"""

from __future__ import annotations

import torch
from torch import Tensor

from gradmix_ext import _checks as checks
from gradmix_ext.reference.draw_partners import POLICIES as HARD_POLICIES

__all__ = ["HARD_POLICIES", "POLICIES", "draw_evenly", "preferences"]

POLICIES = (*HARD_POLICIES, "soft")

# Steps that a probability of 1 is divided into; times the samples of a batch it fits into int64.
_RESOLUTION = 2**40


def preferences(scores: Tensor, scored: Tensor, temperature: float) -> Tensor:
    """Logarithms [K, K], up to a constant per row, of how much likelier than balanced a pair is.

    Args:
        scores: Scores [K, K] of the class pairs.
        scored: Pairs [K, K] (bool) that have a score; the others get the mean preference, 0.
        temperature: In units of the scores' spread, so that their scale does not matter.

    Returns:
        (score - mean) / (temperature · standard deviation), all 0 where no two scores differ.
    """
    count = scored.sum().clamp(min=1)
    mean = torch.where(scored, scores, 0.0).sum() / count
    deviation = torch.where(scored, scores - mean, 0.0)
    spread = (deviation.square().sum() / count).sqrt()
    return deviation / (temperature * spread).clamp(min=torch.finfo(spread.dtype).tiny)


def draw_evenly(target: Tensor, num_classes: int, noise: Tensor) -> Tensor:
    """Draw each sample's partner: a class of the batch, all alike, then any of its samples there.

    Args:
        target: Label [N] (int64) of each sample.
        num_classes: Number of classes K.
        noise: Uniform numbers [N] (float64) in [0, 1).

    Returns:
        Partner [N] (int64): j with probability ∝ 1 / (samples of y_j in the batch).
    """
    size = class_sizes(target, num_classes).index_select(0, target)
    # Integers: their sums are exact and, unlike those of floats on a GPU, deterministic.
    edge = (_RESOLUTION // size).cumsum(0)
    point = (noise * edge[-1:]).long()
    return torch.searchsorted(edge, point, right=True).clamp_(max=max(target.shape[0] - 1, 0))


def class_sizes(target: Tensor, num_classes: int) -> Tensor:
    """Samples [K] (int64) of each class in a batch; unlike ``bincount``, not waiting for it.

    Raises:
        RuntimeError: A label is not in [0, K) (on a GPU only under ``gx.debug_checks()``).
    """
    if checks.debug_enabled():
        checks.in_range("mix", "y", target, num_classes, f"{num_classes} classes")
    try:
        return target.new_zeros(num_classes).index_add_(0, target, torch.ones_like(target))
    except IndexError:  # the CPU has looked already: which label it is, only now
        checks.in_range("mix", "y", target, num_classes, f"{num_classes} classes")
        raise
