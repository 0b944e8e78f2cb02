"""What the scores of class pairs mean for the draw of a partner.

``"redraw"`` and ``"skip"`` are the hard rules of :func:`gradmix_ext.ops.draw_partners`: a pair is
allowed or not. ``"soft"`` goes beyond the paper. Of all laws π of the partner's class it takes the
one that maximises

    E_π[score] - temperature · spread · KL(π ‖ balanced),

that is π ∝ exp(score / (temperature · spread)) over the classes of the batch. What is known of the
gradients tilts a class-balanced draw; where they tell nothing, or at a high temperature, the
balanced draw is what remains, so no pair is ever shut out and every class is rehearsed.
"""

from __future__ import annotations

import torch
from torch import Tensor

from gradmix_ext.reference.draw_partners import POLICIES as HARD_POLICIES

__all__ = ["HARD_POLICIES", "POLICIES", "draw_softly", "preferences"]

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


def draw_softly(target: Tensor, preference: Tensor, noise: Tensor) -> tuple[Tensor, Tensor]:
    """Draw each sample's partner: a class by preference, then any of its samples in the batch.

    One pass over [N, K], without waiting for the device.

    Args:
        target: Label [N] (int64) of each sample.
        preference: Logarithms [K, K] of the odds against a balanced draw; ``-inf`` excludes a pair.
        noise: Uniform numbers [N] (float64) in [0, 1).

    Returns:
        ``(partner [N] int64, mask [N] bool)``: the partner j of i has probability
        ∝ exp(preference[y_i, y_j]) / (samples of y_j in the batch). The sample itself can be drawn.
        Where every pair is excluded it is its own partner and the mask False.
    """
    samples = target.shape[0]
    size = torch.zeros(preference.shape[0], dtype=torch.int64, device=target.device)
    size = size.index_add(0, target, torch.ones_like(target))
    order = target.argsort(stable=True)
    start = size.cumsum(0) - size

    law = preference[target].masked_fill(size == 0, -torch.inf).softmax(dim=1)
    # Integers: their sums are exact and, unlike those of floats on a GPU, deterministic.
    edge = (law.double().nan_to_num() * _RESOLUTION).long().cumsum(dim=1)
    end = edge[:, -1]
    mask = end > 0  # all is NaN where every pair is excluded
    point = (noise * end).long().minimum(end - 1)
    drawn = torch.searchsorted(edge, point[:, None], right=True).clamp(max=edge.shape[1] - 1)
    # Where the point lies within the interval of its class is uniform too, and chooses the sample.
    low = torch.where(drawn > 0, edge.gather(1, (drawn - 1).clamp(min=0)), 0)
    width = (edge.gather(1, drawn) - low).clamp(min=1)[:, 0]
    drawn = drawn[:, 0]
    within = (point - low[:, 0]) * size[drawn] // width
    own = torch.arange(samples, device=target.device)
    partner = order[(start[drawn] + within).clamp(min=0, max=max(samples - 1, 0))]
    return torch.where(mask, partner, own), mask
