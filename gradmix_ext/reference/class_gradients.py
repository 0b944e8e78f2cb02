"""Per-group last-layer gradients and their Gram matrix: what the fused kernels compute.

For a linear head z = W h + b under cross-entropy the gradient of one sample is the outer product of
its residual δ = softmax(z) - q and its features h, and the gradient of the bias is δ itself.
"""

from __future__ import annotations

import torch
from torch import Tensor

from gradmix_ext import _checks as checks
from gradmix_ext.reference._terms import one_hot, product, softmax, target_distribution

# Elements of the largest temporary; bounds memory where a formula is worked through in blocks.
BLOCK_ELEMENTS = 1 << 22
ALGORITHMS = ("auto", "pairwise", "classwise")


def check(
    op: str,
    features: Tensor,
    logits: Tensor,
    target: Tensor,
    partner_target: Tensor | None,
    lam: Tensor | float | None,
    groups: Tensor | None,
    num_groups: int | None,
    class_mask: Tensor | None,
    reduction: str,
) -> tuple[Tensor | None, Tensor, int]:
    """Check shapes, dtypes and devices; return λ as a tensor, the groups and their number."""
    checks.last_layer(op, features, logits, target, partner_target, class_mask)
    checks.choice(op, "reduction", reduction, ("mean", "sum"))
    if (partner_target is None) != (lam is None):
        missing = "lam" if lam is None else "partner_target"
        raise ValueError(f"{op}: partner_target and lam come together, {missing} is missing")
    samples, classes = logits.shape
    if lam is not None:
        lam = checks.lam(op, lam, samples, logits)
    if num_groups is not None and num_groups < 0:
        raise ValueError(f"{op}: num_groups must not be negative, got {num_groups}")
    if groups is None:
        groups = target
    checks.vector(op, "groups", groups, samples, torch.int64, logits.device)
    return lam, groups, classes if num_groups is None else num_groups


def check_values(
    op: str,
    logits: Tensor,
    target: Tensor,
    partner_target: Tensor | None,
    groups: Tensor,
    num_groups: int,
    class_mask: Tensor | None,
) -> None:
    """Every label is a class that the mask allows, every group is in range."""
    classes = logits.shape[1]
    checks.labels(op, "target", target, classes, class_mask)
    if partner_target is not None:
        checks.labels(op, "partner_target", partner_target, classes, class_mask)
    name = "target" if groups is target else "groups"
    checks.in_range(op, name, groups, num_groups, f"{num_groups} groups")


def group_counts(groups: Tensor, num_groups: int) -> Tensor:
    """The number of samples of each group, int64 [K]."""
    return one_hot(groups, num_groups, torch.int64).sum(dim=0)


def group_scale(count: Tensor, reduction: str, dtype: torch.dtype) -> Tensor:
    """What turns a group's sum into its mean (or leaves it a sum), [K]; 1 for an empty group."""
    scale = count.to(dtype).clamp(min=1).reciprocal()
    return scale if reduction == "mean" else torch.ones_like(scale)


def class_gradients(
    features: Tensor,
    logits: Tensor,
    target: Tensor,
    *,
    partner_target: Tensor | None = None,
    lam: Tensor | float | None = None,
    groups: Tensor | None = None,
    num_groups: int | None = None,
    class_mask: Tensor | None = None,
    reduction: str = "mean",
) -> tuple[Tensor, Tensor, Tensor]:
    """Pure PyTorch version of :func:`gradmix_ext.ops.class_gradients`."""
    op = "class_gradients"
    lam, groups, num_groups = check(
        op, features, logits, target, partner_target, lam, groups, num_groups, class_mask, reduction
    )
    if checks.values_checked(logits.device):
        check_values(op, logits, target, partner_target, groups, num_groups, class_mask)
    residual = softmax(logits, class_mask) - target_distribution(
        logits, target, partner_target, lam
    )
    h = features.to(residual.dtype)
    (samples, classes), d = logits.shape, features.shape[1]
    count = group_counts(groups, num_groups)
    scale = group_scale(count, reduction, h.dtype)

    # One extra group takes the samples whose group is out of range.
    inside = torch.where((groups >= 0) & (groups < num_groups), groups, num_groups)
    zeros = residual.new_zeros
    bias = zeros(num_groups + 1, classes).index_add(0, inside, residual)[:-1]
    width = max(1, BLOCK_ELEMENTS // max(samples * d, 1))
    blocks = [
        zeros(num_groups + 1, block.shape[1], d).index_add(
            0, inside, block[:, :, None] * h[:, None, :]
        )[:-1]
        for block in residual.split(width, dim=1)
    ]
    weight = torch.cat(blocks, dim=1)
    return weight * scale[:, None, None], bias * scale[:, None], count


def class_gram(
    features: Tensor,
    logits: Tensor,
    target: Tensor,
    *,
    partner_target: Tensor | None = None,
    lam: Tensor | float | None = None,
    groups: Tensor | None = None,
    num_groups: int | None = None,
    class_mask: Tensor | None = None,
    reduction: str = "mean",
    algorithm: str = "auto",
) -> Tensor:
    """Pure PyTorch version of :func:`gradmix_ext.ops.class_gram`."""
    op = "class_gram"
    checks.choice(op, "algorithm", algorithm, ALGORITHMS)
    lam, groups, num_groups = check(
        op, features, logits, target, partner_target, lam, groups, num_groups, class_mask, reduction
    )
    if checks.values_checked(logits.device):
        check_values(op, logits, target, partner_target, groups, num_groups, class_mask)
    (samples, classes), d = logits.shape, features.shape[1]
    if algorithm == "auto":
        # multiply-adds of each route
        pairwise = samples * samples * (classes + d)
        classwise = (samples + num_groups * num_groups) * classes * d
        algorithm = "pairwise" if pairwise < classwise else "classwise"
    if algorithm == "classwise":
        weight, bias, _ = class_gradients(
            features, logits, target,
            partner_target=partner_target, lam=lam, groups=groups, num_groups=num_groups,
            class_mask=class_mask, reduction=reduction,
        )  # fmt: skip
        flat = torch.cat([weight.flatten(1), bias], dim=1)
        return _symmetric(product(flat, flat.T))

    residual = softmax(logits, class_mask) - target_distribution(
        logits, target, partner_target, lam
    )
    h = features.to(residual.dtype)
    scale = group_scale(group_counts(groups, num_groups), reduction, h.dtype)
    member = one_hot(groups, num_groups, h.dtype) * scale
    gram = h.new_zeros(num_groups, num_groups)
    rows = max(1, BLOCK_ELEMENTS // max(samples, 1))
    for delta_i, h_i, member_i in zip(
        residual.split(rows), h.split(rows), member.split(rows), strict=True
    ):
        # <g_i, g_j> = (δ_i·δ_j)(h_i·h_j + 1)
        pairs = product(delta_i, residual.T) * (product(h_i, h.T) + 1)
        gram = gram + product(member_i.T, product(pairs, member))
    return _symmetric(gram)


def _symmetric(gram: Tensor) -> Tensor:
    """Symmetric to the last bit, whatever order the sums were formed in."""
    return (gram + gram.T) / 2
