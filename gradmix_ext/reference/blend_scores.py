"""Moving averages of the scores of class pairs: what the fused kernels compute."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from gradmix_ext import _checks as checks


def check(
    scores: Tensor,
    scored: Tensor,
    allowed: Tensor,
    value: Tensor,
    target: Tensor,
    partner_target: Tensor,
    momentum: float,
    threshold: float,
) -> None:
    """Check shapes, dtypes, devices and numbers."""
    op = "blend_scores"
    check_averages(op, scores, scored, allowed, momentum, threshold)
    checks.labels_alone(op, target)
    samples = target.shape[0]
    checks.vector(op, "value", value, samples, scores.dtype, scores.device)
    for name, label in (("target", target), ("partner_target", partner_target)):
        checks.vector(op, name, label, samples, torch.int64, scores.device)


def check_averages(
    op: str, scores: Tensor, scored: Tensor, allowed: Tensor, momentum: float, threshold: float
) -> None:
    """Check the matrices that change, and the numbers that say how."""
    checks.matrix(op, "scores", scores)
    if scores.dtype not in (torch.float32, torch.float64):
        raise TypeError(f"{op}: scores must be float32 or float64, got {scores.dtype}")
    if scores.shape[0] != scores.shape[1]:
        raise ValueError(f"{op}: scores must be square, got shape {list(scores.shape)}")
    checks.without_grad(op, scores=scores)
    if scores.is_neg():
        raise ValueError(f"{op}: scores must not be a negated view: give scores.resolve_neg()")
    for name, pairs in (("scored", scored), ("allowed", allowed)):
        checks.tensor(op, name, pairs)
        if pairs.dtype != torch.bool:
            raise TypeError(f"{op}: {name} must be torch.bool, got {pairs.dtype}")
        if pairs.shape != scores.shape:
            raise ValueError(
                f"{op}: {name} must have shape {list(scores.shape)}, got {list(pairs.shape)}"
            )
        checks.same_device(op, name, pairs, scores.device)
    if not 0 <= momentum < 1:
        raise ValueError(f"{op}: momentum must be in [0, 1), got {momentum}")
    if not math.isfinite(threshold):
        raise ValueError(f"{op}: threshold must be finite, got {threshold}")


def check_values(scores: Tensor, target: Tensor, partner_target: Tensor) -> None:
    """Every label is a row of ``scores``."""
    classes = scores.shape[0]
    for name, label in (("target", target), ("partner_target", partner_target)):
        checks.in_range("blend_scores", name, label, classes, f"{classes} classes")


def blend_scores(
    scores: Tensor,
    scored: Tensor,
    allowed: Tensor,
    value: Tensor,
    target: Tensor,
    partner_target: Tensor,
    *,
    momentum: float,
    threshold: float,
) -> None:
    """Pure PyTorch version of :func:`gradmix_ext.ops.blend_scores`."""
    check(scores, scored, allowed, value, target, partner_target, momentum, threshold)
    if checks.values_checked(target.device):
        check_values(scores, target, partner_target)
    blend(scores, scored, allowed, value.detach(), target, partner_target, momentum, threshold)


def blend(
    scores: Tensor,
    scored: Tensor,
    allowed: Tensor,
    value: Tensor,
    target: Tensor,
    partner_target: Tensor,
    momentum: float,
    threshold: float,
) -> None:
    """The same for arguments that have been checked."""
    classes = scores.shape[0]
    low, high = torch.minimum(target, partner_target), torch.maximum(target, partner_target)
    inside = (low >= 0) & (high < classes)
    # The extra last cell takes samples whose label is out of range.
    cell = torch.where(inside, low * classes + high, classes**2)
    total = value.new_zeros(classes**2 + 1).index_add(0, cell, value)[:-1]
    count = cell.new_zeros(classes**2 + 1).index_add(0, cell, torch.ones_like(cell))[:-1]
    mean = (total / count.clamp(min=1)).reshape(classes, classes)
    mean, found = mean + mean.triu(1).T, (count > 0).reshape(classes, classes)
    found = found | found.T
    # The first score of a pair is taken whole, later ones share with the past.
    now = torch.where(scored, torch.lerp(scores, mean, 1 - momentum), mean)
    scores.copy_(torch.where(found, now, scores))
    scored.logical_or_(found)
    allowed.copy_(torch.where(found, now >= threshold, allowed))
