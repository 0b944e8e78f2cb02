"""Cross-entropy of mixed samples from two hard labels and λ."""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from torch import Tensor

from gradmix_ext import _checks as checks
from gradmix_ext import reference
from gradmix_ext.ops._library import call, define, differentiable, in_full_precision
from gradmix_ext.reference._terms import softmax, target_distribution
from gradmix_ext.reference.mixup_cross_entropy import check, check_values


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
    """Cross-entropy against λ·onehot(target) + (1-λ)·onehot(partner_target), never materialised.

    Equals ``F.cross_entropy`` with that soft target. The forward reads the logits once; the
    backward reads them once more and writes the gradient. On the CPU the forward writes the
    gradient at once, where one is asked for. Differentiable in ``logits``, twice.

    Args:
        logits: Logits [N, C] of float32, float64, float16 or bfloat16.
        target: Label [N] (int64) of each sample.
        partner_target: Label [N] (int64) of each sample's partner.
        lam: Weight of ``target``, a number, a scalar tensor or one per sample [N].
        class_mask: Classes [C] (bool) that take part in the softmax, all by default. The logits of
            the others are ignored, whatever their value.
        label_smoothing: ε in [0, 1]: the target becomes ``(1-ε)·q + ε/|A|`` over the allowed
            classes A.
        reduction: ``"mean"``, ``"sum"`` or ``"none"``. The mean over no samples is NaN.
        sample_weight: Weight [N] of each sample's loss, all 1 by default. The mean is over the N
            samples, whatever their weights.

    Returns:
        The loss, a scalar or [N] (nats), in the dtype of ``logits``.

    Raises:
        TypeError: An argument has the wrong dtype.
        ValueError: An argument has the wrong shape, device or value.
        RuntimeError: A label is not in [0, C) or not allowed by ``class_mask`` (on a GPU only
            under ``gx.debug_checks()``).
    """
    options = class_mask, label_smoothing, reduction, sample_weight
    if checks.debug_enabled():
        check(logits, target, partner_target, lam, *options)
        check_values(logits, target, partner_target, class_mask)
    try:
        own_weight = checks.as_lam("mixup_cross_entropy", lam, logits)
        if sample_weight is not None and sample_weight.requires_grad:
            checks.sample_weight("mixup_cross_entropy", sample_weight, len(logits), logits)
        own = _WithGradient.apply if _fuses(logits) else partial(call, _OP)
        loss: Tensor = own(logits, target, partner_target, own_weight, *options)
    except Exception:
        with checks.replacing:
            check(logits, target, partner_target, lam, *options)
        raise
    return loss


def _fuses(logits: Tensor) -> bool:
    """Whether loss and gradient are formed together, in the forward pass.

    On the CPU, where reading the logits twice and calling two ops costs more than a step has to
    spare. Not in float16: a gradient that is rounded before the loss scale reaches it may be gone.
    What is compiled, cast by autocast or transformed by torch.func goes through the registered op.
    """
    return (
        logits.requires_grad
        and logits.dtype in _FUSED_DTYPES
        and logits.is_cpu
        and torch.is_grad_enabled()
        and not (logits.dtype == torch.bfloat16 and torch.is_autocast_enabled("cpu"))
        and not torch.compiler.is_compiling()
        and not checks.is_transforming()
    )


class _WithGradient(torch.autograd.Function):
    """The loss, with its gradient kept for the one backward pass that is to be expected."""

    @staticmethod
    def forward(ctx: Any, *inputs: Any) -> Tensor:
        loss: Tensor
        loss, ctx.gradient = _OP_WITH_GRADIENT(*inputs)
        _save(ctx, inputs, loss)
        return loss

    @staticmethod
    def backward(ctx: Any, grad_loss: Tensor) -> tuple[Tensor | None, ...]:
        gradient, ctx.gradient = ctx.gradient, None  # the caller may change what it is given
        many = torch._C._functorch.is_legacy_batchedtensor(grad_loss)  # is_grads_batched=True
        if gradient is None or torch.is_grad_enabled() or many or checks.is_transforming():
            return _backward(ctx, grad_loss)
        _OP_SCALE(gradient, grad_loss.reshape(-1, 1))
        return gradient, *[None] * 7


def _fake(
    logits: Tensor,
    target: Tensor,
    partner_target: Tensor,
    lam: Tensor,
    class_mask: Tensor | None = None,
    label_smoothing: float = 0.0,
    reduction: str = "mean",
    sample_weight: Tensor | None = None,
) -> Tensor:
    options = class_mask, label_smoothing, reduction, sample_weight
    check(logits, target, partner_target, lam, *options)
    return logits.new_empty(logits.shape[:1] if reduction == "none" else ())


def _fake_backward(grad_loss: Tensor, logits: Tensor, **options: Any) -> Tensor:
    return logits.new_empty(logits.shape)


def _reference_with_gradient(
    logits: Tensor,
    target: Tensor,
    partner_target: Tensor,
    lam: Tensor,
    class_mask: Tensor | None = None,
    label_smoothing: float = 0.0,
    reduction: str = "mean",
    sample_weight: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    labels = (target, partner_target, lam)
    options: dict[str, Any] = {
        "class_mask": class_mask, "label_smoothing": label_smoothing, "reduction": reduction,
        "sample_weight": sample_weight,
    }  # fmt: skip
    loss = reference.mixup_cross_entropy(logits, *labels, **options)
    return loss, reference.mixup_cross_entropy_backward(
        torch.ones_like(loss), logits, *labels, **options
    )


def _reference_scale(gradient: Tensor, factor: Tensor) -> None:
    gradient.mul_(factor)


def _fake_scale(gradient: Tensor, factor: Tensor) -> None:
    pass


def _fake_with_gradient(logits: Tensor, *arguments: Any, **options: Any) -> tuple[Tensor, Tensor]:
    return _fake(logits, *arguments, **options), logits.new_empty(logits.shape)


def _save(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    *tensors, ctx.label_smoothing, ctx.reduction, sample_weight = inputs
    ctx.save_for_backward(*tensors, sample_weight)


def _backward(ctx: Any, grad_loss: Tensor) -> tuple[Tensor | None, ...]:
    *tensors, sample_weight = ctx.saved_tensors
    grad = torch.ops.gradmix_ext.mixup_cross_entropy_backward(
        grad_loss, *tensors, ctx.label_smoothing, ctx.reduction, sample_weight
    )
    return grad, *[None] * 7


def _double_backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
    """Differentiate w·(p - q) in w and in the logits, with differentiable operations."""
    grad_loss, logits, target, partner_target, lam, class_mask, sample_weight = ctx.saved_tensors
    p = softmax(logits, class_mask)
    q = target_distribution(logits, target, partner_target, lam, class_mask, ctx.label_smoothing)
    share = p.new_ones(()) if sample_weight is None else sample_weight.to(p.dtype)
    if ctx.reduction == "mean":
        share = share / max(logits.shape[0], 1)
    wide = grad.to(p.dtype)
    along_loss = share * (wide * (p - q)).sum(dim=1)
    if ctx.reduction != "none":
        along_loss = along_loss.sum()
    scale = (share * grad_loss.to(p.dtype)).reshape(-1, 1)
    along_logits = scale * p * (wide - (wide * p).sum(dim=1, keepdim=True))
    return along_loss.to(grad_loss.dtype), along_logits.to(logits.dtype), *[None] * 7


_LABELS = "Tensor target, Tensor partner_target, Tensor lam"
_OPTIONS = (
    'Tensor? class_mask=None, float label_smoothing=0.0, str reduction="mean",'
    " Tensor? sample_weight=None"
)
define(
    f"mixup_cross_entropy(Tensor logits, {_LABELS}, {_OPTIONS}) -> Tensor",
    reference.mixup_cross_entropy,
    _fake,
)
define(
    f"mixup_cross_entropy_backward(Tensor grad_loss, Tensor logits, {_LABELS}, {_OPTIONS})"
    " -> Tensor",
    reference.mixup_cross_entropy_backward,
    _fake_backward,
)
define(
    f"mixup_cross_entropy_with_gradient(Tensor logits, {_LABELS}, {_OPTIONS})"
    " -> (Tensor loss, Tensor gradient)",
    _reference_with_gradient,
    _fake_with_gradient,
)
define(
    "mixup_cross_entropy_scale(Tensor(a!) gradient, Tensor factor) -> ()",
    _reference_scale,
    _fake_scale,
)
_OP_SCALE = torch.ops.gradmix_ext.mixup_cross_entropy_scale.default
_OP = torch.ops.gradmix_ext.mixup_cross_entropy.default
_OP_WITH_GRADIENT = torch.ops.gradmix_ext.mixup_cross_entropy_with_gradient.default
_FUSED_DTYPES = (torch.float32, torch.bfloat16, torch.float64)
differentiable("mixup_cross_entropy", _backward, _save)
differentiable("mixup_cross_entropy_backward", _double_backward, _save)
in_full_precision("mixup_cross_entropy")
