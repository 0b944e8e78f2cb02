"""Drawing mixing partners by preferences of class pairs: what the fused kernels compute."""

from __future__ import annotations

import torch
from torch import Tensor

from gradmix_ext import _checks as checks
from gradmix_ext._random import uniform
from gradmix_ext.reference._terms import one_hot

# Steps of the most preferred class. Odds are integers: their sums are exact in any order.
_RESOLUTION = 2**40


def check(target: Tensor, preference: Tensor, noise: Tensor | None) -> None:
    """Check shapes, dtypes and devices."""
    op = "draw_softly"
    checks.labels_alone(op, target)
    checks.matrix(op, "preference", preference)
    if preference.shape[0] != preference.shape[1]:
        raise ValueError(f"{op}: preference must be square, got shape {list(preference.shape)}")
    checks.same_device(op, "preference", preference, target.device)
    if noise is not None:
        checks.vector(op, "noise", noise, target.shape[0], torch.float64, target.device)


def check_values(target: Tensor, preference: Tensor) -> None:
    """Every label is a row of ``preference``."""
    classes = preference.shape[0]
    checks.in_range("draw_softly", "target", target, classes, f"{classes} classes")


def draw_softly(
    target: Tensor,
    preference: Tensor,
    *,
    generator: torch.Generator | None = None,
    noise: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Pure PyTorch version of :func:`gradmix_ext.ops.draw_softly`."""
    check(target, preference, noise)
    if checks.values_checked(target.device):
        check_values(target, preference)
    samples, classes = target.shape[0], preference.shape[0]
    if noise is None:
        noise = uniform(samples, target.device, generator)
    own = torch.arange(samples, device=target.device)
    if samples == 0 or classes == 0:
        return own, torch.zeros_like(own, dtype=torch.bool)
    valid = (target >= 0) & (target < classes)
    bucket = torch.where(valid, target, classes)
    order = bucket.argsort(stable=True)
    size = one_hot(bucket, classes, torch.int64).sum(dim=0)
    start = size.cumsum(0) - size

    row = preference[torch.where(valid, target, 0)].double().masked_fill(size == 0, -torch.inf)
    odds = (row - row.max(dim=1, keepdim=True).values).exp()
    # NaN where every pair is excluded, or a preference is NaN or +inf
    excluded = odds.isnan().any(dim=1, keepdim=True)
    share = (odds * _RESOLUTION).masked_fill(excluded, 0).long()
    edge = share.cumsum(dim=1)
    total = edge[:, -1]
    mask = valid & (total > 0)
    point = (noise.nan_to_num() * total).long().clamp(min=0).minimum((total - 1).clamp(min=0))
    drawn = (edge <= point[:, None]).sum(dim=1, keepdim=True).clamp(max=classes - 1)
    # Where the point lies within the interval of its class is uniform too, and chooses the sample.
    width, size = share.gather(1, drawn), size[drawn]
    steps = point[:, None] - edge.gather(1, drawn) + width
    # Not in integers, whose product would overflow from 2^23 samples of a class on.
    within = (steps.double() * size.double() / width.clamp(min=1)).long().minimum(size - 1)
    place = (start[drawn] + within)[:, 0]
    return torch.where(mask, order[place.clamp(0, samples - 1)], own), mask
