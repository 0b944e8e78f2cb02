"""Cross-entropy of mixed samples from two hard labels and λ: what the fused kernels compute."""

from __future__ import annotations

import torch
from torch import Tensor

from gradmix_ext import _checks as checks
from gradmix_ext.reference._terms import masked_logits, softmax, target_distribution


def check(
    logits: Tensor,
    target: Tensor,
    partner_target: Tensor,
    lam: Tensor | float,
    class_mask: Tensor | None,
    label_smoothing: float,
    reduction: str,
    sample_weight: Tensor | None = None,
) -> Tensor:
    """Check shapes, dtypes and devices; return λ as a tensor."""
    op = "mixup_cross_entropy"
    checks.matrix(op, "logits", logits)
    samples, classes = logits.shape
    checks.vector(op, "target", target, samples, torch.int64, logits.device)
    checks.vector(op, "partner_target", partner_target, samples, torch.int64, logits.device)
    checks.class_mask(op, class_mask, classes, logits.device)
    checks.choice(op, "reduction", reduction, checks.REDUCTIONS)
    if not 0.0 <= label_smoothing <= 1.0:
        raise ValueError(f"{op}: label_smoothing must be in [0, 1], got {label_smoothing}")
    if sample_weight is not None:
        checks.sample_weight(op, sample_weight, samples, logits)
    return checks.lam(op, lam, samples, logits)


def check_values(
    logits: Tensor, target: Tensor, partner_target: Tensor, class_mask: Tensor | None
) -> None:
    """Every label is a class that the mask allows."""
    classes = logits.shape[1]
    checks.labels("mixup_cross_entropy", "target", target, classes, class_mask)
    checks.labels("mixup_cross_entropy", "partner_target", partner_target, classes, class_mask)


def mixup_cross_entropy(
    logits: Tensor,
    target: Tensor,
    partner_target: Tensor,
    lam: Tensor | float,
    *,
    class_mask: Tensor | None = None,
    label_smoothing: float = 0.0,
    reduction: str = "mean",
    sample_weight: Tensor | None = None,
) -> Tensor:
    """Pure PyTorch version of :func:`gradmix_ext.ops.mixup_cross_entropy`."""
    lam = check(
        logits, target, partner_target, lam, class_mask, label_smoothing, reduction, sample_weight
    )
    if checks.values_checked(logits.device):
        check_values(logits, target, partner_target, class_mask)
    q = target_distribution(logits, target, partner_target, lam, class_mask, label_smoothing)
    log_p = masked_logits(logits, class_mask).log_softmax(dim=1)
    # A class without weight has no say, even where its logit is -inf: 0 · -inf would be NaN.
    loss = -torch.where(q != 0, q * log_p, 0).sum(dim=1)
    if sample_weight is not None:
        loss = loss * sample_weight.to(loss.dtype)
    if reduction == "mean":
        loss = loss.mean()
    elif reduction == "sum":
        loss = loss.sum()
    return loss.to(logits.dtype)


def mixup_cross_entropy_backward(
    grad_loss: Tensor,
    logits: Tensor,
    target: Tensor,
    partner_target: Tensor,
    lam: Tensor,
    *,
    class_mask: Tensor | None = None,
    label_smoothing: float = 0.0,
    reduction: str = "mean",
    sample_weight: Tensor | None = None,
) -> Tensor:
    """The gradient of the loss in the logits, (p - q) times the incoming gradient."""
    lam = check(
        logits, target, partner_target, lam, class_mask, label_smoothing, reduction, sample_weight
    )
    if checks.values_checked(logits.device):
        check_values(logits, target, partner_target, class_mask)
    q = target_distribution(logits, target, partner_target, lam, class_mask, label_smoothing)
    residual = softmax(logits, class_mask) - q
    scale = grad_loss.to(residual.dtype)
    if reduction == "mean":
        scale = scale / max(logits.shape[0], 1)
    if sample_weight is not None:
        scale = scale * sample_weight.to(scale.dtype)
    return (residual * scale.reshape(-1, 1)).to(logits.dtype).contiguous()
