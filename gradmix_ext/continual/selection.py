"""Which samples a class-balanced memory keeps: shares per class, and the order within a class."""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["balanced_quota", "herding_rank", "rank_within_class"]


def balanced_quota(counts: Tensor, capacity: int, fill: bool = False) -> Tensor:
    """Spread `capacity` slots evenly over classes, none getting more than it has samples.

    The level L is the largest whole number with sum_k min(count_k, L) <= capacity. With `fill`,
    what is left goes, one slot each, to the first classes that have more than L samples. When
    counts grow or classes join, no share of a class that had reached it ever grows again, so a
    memory that drops samples never has to ask for one back.

    Args:
        counts: Samples seen of each class, [K] int64.
        capacity: Slots in total.
        fill: Whether to use what does not divide.

    Returns:
        [K] int64; with `fill`, the sum is min(capacity, sum of counts).
    """
    ordered, _ = counts.sort()
    filled = ordered.cumsum(0) - ordered  # slots taken by the classes smaller than class i
    sharing = torch.arange(len(counts), 0, -1, device=counts.device)
    # Were the i smallest classes to fit as a whole, the others would share the rest. The first
    # class for which that share falls short of its samples sets the level; later ones only fall.
    share = (capacity - filled).div(sharing, rounding_mode="floor")
    short = share < ordered
    level = torch.where(short.any(), torch.where(short, share, -1).max(), ordered[-1])
    quota = counts.clamp(max=level)
    if not fill:
        return quota
    left = capacity - quota.sum()
    wanting = counts > level
    return quota + (wanting & (wanting.cumsum(0) <= left)).long()


def rank_within_class(group: Tensor, key: Tensor) -> Tensor:
    """Rank of each sample in its group by ascending key, [N] int64; ties keep their order.

    Args:
        group: Group of each sample, [N] int64 in [0, K).
        key: Sort key, [N].
    """
    order = key.argsort(stable=True)
    order = order[group[order].argsort(stable=True)]
    sizes = torch.bincount(group)
    starts = sizes.cumsum(0) - sizes
    position = torch.arange(len(group), device=group.device)
    rank = torch.empty_like(order)
    rank[order] = position - starts[group[order]]
    return rank


def herding_rank(features: Tensor, y: Tensor, picks: int) -> Tensor:
    """Exemplar order of iCaRL in every class at once, by greedy matching of the class mean.

    With L2-normalised features phi, exemplar number k minimises
    ``|| mean(phi) - (phi(x) + sum of the k - 1 earlier ones) / k ||`` (Rebuffi et al. 2017,
    algorithm 4), among the samples not yet taken.

    Args:
        features: [N, d].
        y: Labels, [N] int64.
        picks: How many exemplars to find per class, at most.

    Returns:
        [N] int64: 0 for the first exemplar of a class, and so on; the samples that were not picked
        follow in the order in which they came.
    """
    _, group, sizes = torch.unique(y, return_inverse=True, return_counts=True)
    # Classes side by side in [K, n, d], padded: one greedy step serves all of them.
    place = rank_within_class(group, torch.arange(len(y), device=y.device))
    width = int(sizes.max())
    phi = torch.nn.functional.normalize(features.double(), dim=1)
    padded = phi.new_zeros(len(sizes), width, phi.shape[1])
    padded[group, place] = phi
    free = torch.arange(width, device=y.device) < sizes[:, None]
    mean = padded.sum(1) / sizes[:, None]
    total = torch.zeros_like(mean)
    rank = torch.arange(width, device=y.device).repeat(len(sizes), 1) + width
    rows = torch.arange(len(sizes), device=y.device)
    for k in range(min(picks, width)):
        distance = (mean[:, None] - (padded + total[:, None]) / (k + 1)).square().sum(2)
        pick = distance.masked_fill(~free, torch.inf).argmin(1)
        live = k < sizes  # a class with fewer samples is already used up
        rank[rows, pick] = torch.where(live, k, rank[rows, pick])
        free[rows, pick] = False
        total += padded[rows, pick] * live[:, None]
    return rank_within_class(group, rank[group, place])
