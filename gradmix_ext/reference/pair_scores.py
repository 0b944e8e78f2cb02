"""Scores of class pairs against a direction: what the fused kernels compute."""

from __future__ import annotations

import torch
from torch import Tensor

from gradmix_ext import _checks as checks
from gradmix_ext.reference._terms import product, softmax, target_distribution


def check_samples(
    op: str,
    features: Tensor,
    logits: Tensor,
    target: Tensor,
    partner_target: Tensor,
    lam: Tensor | float,
    direction_weight: Tensor,
    direction_bias: Tensor,
    class_mask: Tensor | None,
) -> Tensor:
    """Check shapes, dtypes and devices; return λ as a tensor."""
    checks.last_layer(op, features, logits, target, partner_target, class_mask)
    classes, d = logits.shape[1], features.shape[1]
    for name, value, shape in (
        ("direction_weight", direction_weight, (classes, d)),
        ("direction_bias", direction_bias, (classes,)),
    ):
        checks.floating(op, name, value)
        if value.shape != shape:
            raise ValueError(f"{op}: {name} must have shape {list(shape)}, got {list(value.shape)}")
        checks.same_device(op, name, value, logits.device)
    return checks.lam(op, lam, logits.shape[0], logits)


def check(
    features: Tensor,
    logits: Tensor,
    target: Tensor,
    partner_target: Tensor,
    lam: Tensor | float,
    direction_weight: Tensor,
    direction_bias: Tensor,
    num_classes: int,
    class_mask: Tensor | None,
) -> Tensor:
    """Check shapes, dtypes, devices and ``num_classes``; return λ as a tensor."""
    lam = check_samples(
        "pair_scores", features, logits, target, partner_target, lam, direction_weight,
        direction_bias, class_mask,
    )  # fmt: skip
    if num_classes < 0:
        raise ValueError(f"pair_scores: num_classes must not be negative, got {num_classes}")
    return lam


def check_values(
    op: str,
    logits: Tensor,
    target: Tensor,
    partner_target: Tensor,
    num_classes: int,
    class_mask: Tensor | None,
) -> None:
    """Every label is a class of the head, of the mask and of the score matrix."""
    bound = min(logits.shape[1], num_classes)
    for name, label in (("target", target), ("partner_target", partner_target)):
        checks.in_range(op, name, label, bound, f"{bound} classes")
        checks.labels(op, name, label, logits.shape[1], class_mask)


def sample_scores(
    features: Tensor,
    logits: Tensor,
    target: Tensor,
    partner_target: Tensor,
    lam: Tensor | float,
    direction_weight: Tensor,
    direction_bias: Tensor,
    *,
    class_mask: Tensor | None = None,
) -> Tensor:
    """Pure PyTorch version of :func:`gradmix_ext.ops.sample_scores`."""
    lam = check_samples(
        "sample_scores", features, logits, target, partner_target, lam, direction_weight,
        direction_bias, class_mask,
    )  # fmt: skip
    if checks.values_checked(logits.device):
        classes = logits.shape[1]
        check_values("sample_scores", logits, target, partner_target, classes, class_mask)
    labels = target, partner_target, lam
    return inner_products(features, logits, *labels, direction_weight, direction_bias, class_mask)


def inner_products(
    features: Tensor,
    logits: Tensor,
    target: Tensor,
    partner_target: Tensor,
    lam: Tensor,
    direction_weight: Tensor,
    direction_bias: Tensor,
    class_mask: Tensor | None,
) -> Tensor:
    """<g~, G> = δ~ᵀ (G_W h~ + G_b) of every sample [N]."""
    residual = softmax(logits, class_mask) - target_distribution(
        logits, target, partner_target, lam
    )
    dtype = residual.dtype
    projected = product(features.to(dtype), direction_weight.to(dtype).T) + direction_bias.to(dtype)
    return (residual * projected).sum(dim=1)


def pair_scores(
    features: Tensor,
    logits: Tensor,
    target: Tensor,
    partner_target: Tensor,
    lam: Tensor | float,
    direction_weight: Tensor,
    direction_bias: Tensor,
    *,
    num_classes: int,
    class_mask: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Pure PyTorch version of :func:`gradmix_ext.ops.pair_scores`."""
    lam = check(
        features, logits, target, partner_target, lam, direction_weight, direction_bias,
        num_classes, class_mask,
    )  # fmt: skip
    if checks.values_checked(logits.device):
        check_values("pair_scores", logits, target, partner_target, num_classes, class_mask)
    labels = target, partner_target, lam
    value = inner_products(features, logits, *labels, direction_weight, direction_bias, class_mask)

    # A sample of (a, b) counts in [a, b] and in [b, a]; one of (a, a) once. The extra last cell
    # takes samples whose label is out of range.
    cells = num_classes * num_classes
    inside = (
        (target >= 0) & (target < num_classes)
        & (partner_target >= 0) & (partner_target < num_classes)
    )  # fmt: skip
    low, high = torch.minimum(target, partner_target), torch.maximum(target, partner_target)
    cell = torch.where(inside, low * num_classes + high, cells)
    score_sum = value.new_zeros(cells + 1).index_add(0, cell, value)[:-1]
    count = torch.zeros(cells + 1, dtype=torch.int64, device=cell.device)
    count = count.index_add(0, cell, torch.ones_like(cell))[:-1]
    shape = (num_classes, num_classes)
    return _mirror(score_sum.reshape(shape)), _mirror(count.reshape(shape))


def _mirror(upper: Tensor) -> Tensor:
    """The symmetric matrix with this upper triangle."""
    return upper + upper.triu(1).T
