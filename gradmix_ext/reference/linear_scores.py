"""Scores of class pairs from the gradients of a sample of each: what the fused op computes."""

from __future__ import annotations

import torch
from torch import Tensor

from gradmix_ext import _checks as checks
from gradmix_ext.reference.class_gradients import class_gradients
from gradmix_ext.reference.pair_scores import pair_scores

_OP = "linear_scores"


def check(
    features: Tensor, logits: Tensor, target: Tensor, held: int, class_mask: Tensor | None
) -> None:
    """Check shapes, dtypes, devices and ``held``."""
    checks.last_layer(_OP, features, logits, target, None, class_mask)
    checks.without_grad(_OP, features=features, logits=logits)
    samples = target.shape[0]  # len() would fix the number in a compiler
    if not 0 <= held <= samples:
        raise ValueError(f"{_OP}: held must be in [0, {samples}], got {held}")


def linear_scores(
    features: Tensor,
    logits: Tensor,
    target: Tensor,
    held: int,
    *,
    bias: bool = True,
    class_mask: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Pure PyTorch version of :func:`gradmix_ext.ops.linear_scores`."""
    check(features, logits, target, held, class_mask)
    if checks.values_checked(logits.device):
        checks.labels(_OP, "target", target, logits.shape[1], class_mask)
    last = slice(target.shape[0] - held, None)
    label = target[last]
    (weight,), (offset,), _ = class_gradients(
        features[last],
        logits[last],
        label,
        groups=torch.zeros_like(label),
        num_groups=1,
        class_mask=class_mask,
    )
    # A sample paired with itself is one of the pair (k, k): the diagonal holds Σ <g, g_buf>.
    total, count = pair_scores(
        features,
        logits,
        target,
        target,
        1.0,
        weight,
        offset if bias else torch.zeros_like(offset),
        num_classes=logits.shape[1],
        class_mask=class_mask,
    )
    return pairs_of_classes(total.diagonal(), count.diagonal())


def pairs_of_classes(total: Tensor, count: Tensor) -> tuple[Tensor, Tensor]:
    """½(s_a + s_b) [C, C] from the sums Σ_k <g, g_buf> [C] of classes, and which have samples."""
    half, present = 0.5 * total / count.clamp(min=1), count > 0
    scored = present[:, None] & present
    return torch.where(scored, half[:, None] + half, 0.0), scored
