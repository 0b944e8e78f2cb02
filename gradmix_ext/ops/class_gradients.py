"""Per-group last-layer gradients and their Gram matrix, in closed form."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from gradmix_ext import _checks as checks
from gradmix_ext import reference
from gradmix_ext.ops._last_layer import outer_products_backward
from gradmix_ext.ops._library import call, define, differentiable
from gradmix_ext.reference.class_gradients import (
    ALGORITHMS,
    check,
    check_values,
    group_counts,
    group_scale,
)


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
    """Per-group mean gradients of the cross-entropy in the last layer's weight and bias.

    For a head z = W h + b the gradient of one sample is (δ hᵀ, δ) with δ = softmax(z) - q; no
    backward pass and no [N, C, d] tensor is needed. Differentiable in ``features`` and ``logits``.

    Args:
        features: Inputs of the head h [N, d].
        logits: Outputs of the head z [N, C], of the same dtype.
        target: Label [N] (int64) of each sample.
        partner_target: Labels [N] of the partners, for mixed samples; comes with ``lam``.
        lam: Weight of ``target`` in mixed samples, a number, a scalar tensor or [N].
        groups: Group [N] (int64) of each sample, ``target`` by default.
        num_groups: Number of groups K, C by default.
        class_mask: Classes [C] (bool) that take part in the softmax, all by default.
        reduction: ``"mean"`` or ``"sum"`` over the samples of a group.

    Returns:
        ``(weight [K, C, d], bias [K, C], count [K])``: gradients in float32 (float64 for float64
        inputs), 0 for a group without samples, and the number of samples of each group (int64).

    Raises:
        TypeError: An argument has the wrong dtype.
        ValueError: An argument has the wrong shape, device or value.
        RuntimeError: A label or group is out of range or not allowed by ``class_mask`` (on a GPU
            only under ``gx.debug_checks()``).
    """
    arguments = (
        features, logits, target, partner_target, lam, groups, num_groups, class_mask, reduction,
    )  # fmt: skip
    result: tuple[Tensor, Tensor, Tensor] = _call("class_gradients", _GRADIENTS, arguments)
    return result


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
    """Gram matrix [K, K] of the per-group mean gradients, <G_k, G_l>, bias term included.

    With <g_i, g_j> = (δ_i·δ_j)(h_i·h_j + 1) neither the gradients of all samples nor, in the
    pairwise route, any [N, N] matrix is held. Differentiable in ``features`` and ``logits``.

    Args:
        features: Inputs of the head h [N, d].
        logits: Outputs of the head z [N, C], of the same dtype.
        target: Label [N] (int64) of each sample.
        partner_target: Labels [N] of the partners, for mixed samples; comes with ``lam``.
        lam: Weight of ``target`` in mixed samples, a number, a scalar tensor or [N].
        groups: Group [N] (int64) of each sample, ``target`` by default.
        num_groups: Number of groups K, C by default.
        class_mask: Classes [C] (bool) that take part in the softmax, all by default.
        reduction: ``"mean"`` or ``"sum"`` over the samples of a group.
        algorithm: ``"pairwise"`` sums products of sample pairs, N²·(C+d) multiply-adds;
            ``"classwise"`` forms the group gradients first, N·C·d + K²·C·d multiply-adds;
            ``"auto"`` takes the cheaper one.

    Returns:
        The Gram matrix in float32 (float64 for float64 inputs), symmetric to the last bit; rows
        and columns of groups without samples are 0.

    Raises:
        TypeError: An argument has the wrong dtype.
        ValueError: An argument has the wrong shape, device or value.
        RuntimeError: A label or group is out of range or not allowed by ``class_mask`` (on a GPU
            only under ``gx.debug_checks()``).
    """
    checks.choice("class_gram", "algorithm", algorithm, ALGORITHMS)
    arguments = (
        features, logits, target, partner_target, lam, groups, num_groups, class_mask, reduction,
    )  # fmt: skip
    gram: Tensor = _call("class_gram", _GRAM, arguments, algorithm)
    return gram


def _call(name: str, op: torch._ops.OpOverload, arguments: tuple[Any, ...], *own: str) -> Any:
    """Call one of the two ops; ``arguments`` are those that both take."""
    if checks.debug_enabled():
        _, groups, num_groups = check(name, *arguments)
        _, logits, target, partner_target, *_, class_mask, _ = arguments
        check_values(name, logits, target, partner_target, groups, num_groups, class_mask)
    try:
        features, logits, target, partner_target, lam, *options = arguments
        if lam is not None:
            lam = checks.as_lam(name, lam, logits)
        return call(op, features, logits, target, partner_target, lam, *options, *own)
    except Exception:
        with checks.replacing:
            check(name, *arguments)
        raise


def _fake_gradients(
    features: Tensor,
    logits: Tensor,
    target: Tensor,
    partner_target: Tensor | None = None,
    lam: Tensor | None = None,
    groups: Tensor | None = None,
    num_groups: int | None = None,
    class_mask: Tensor | None = None,
    reduction: str = "mean",
) -> tuple[Tensor, Tensor, Tensor]:
    _, _, k = check(
        "class_gradients", features, logits, target,
        partner_target, lam, groups, num_groups, class_mask, reduction,
    )  # fmt: skip
    classes, d = logits.shape[1], features.shape[1]
    dtype = checks.accumulation_dtype(logits.dtype)
    return (
        logits.new_empty((k, classes, d), dtype=dtype),
        logits.new_empty((k, classes), dtype=dtype),
        target.new_empty((k,)),
    )


def _fake_gram(*, algorithm: str = "auto", **options: Any) -> Tensor:
    weight, _, _ = _fake_gradients(**options)
    return weight.new_empty((weight.shape[0], weight.shape[0]))


def _save(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
    features, logits, target, partner_target, lam, groups, num_groups, class_mask = inputs[:8]
    ctx.save_for_backward(features, logits, target, partner_target, lam, groups, class_mask)
    ctx.num_groups = num_groups
    ctx.reduction = inputs[8]
    ctx.inputs = len(inputs)


def _backward_gradients(
    ctx: Any, grad_weight: Tensor, grad_bias: Tensor, grad_count: None
) -> tuple[Tensor | None, ...]:
    features, logits, target, partner_target, lam, groups, class_mask = ctx.saved_tensors
    groups = target if groups is None else groups
    count = group_counts(groups, grad_weight.shape[0])
    scale = group_scale(count, ctx.reduction, grad_weight.dtype)
    grad_features, grad_logits = outer_products_backward(
        scale[:, None, None] * grad_weight, scale[:, None] * grad_bias,
        features, logits, target, partner_target, lam, groups, class_mask,
    )  # fmt: skip
    return grad_features, grad_logits, *[None] * (ctx.inputs - 2)


def _backward_gram(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
    """d<G_k, G_l> reaches G_k through G_l and the other way round: dG = (S + Sᵀ) G."""
    features, logits, target, partner_target, lam, groups, class_mask = ctx.saved_tensors
    weight, bias, _ = torch.ops.gradmix_ext.class_gradients(
        features, logits, target,
        partner_target, lam, groups, ctx.num_groups, class_mask, ctx.reduction,
    )  # fmt: skip
    both = grad + grad.T
    grad_weight = (both @ weight.flatten(1)).reshape(weight.shape)
    return _backward_gradients(ctx, grad_weight, both @ bias, None)


_SAMPLES = "Tensor features, Tensor logits, Tensor target"
_OPTIONS = (
    "Tensor? partner_target=None, Tensor? lam=None, Tensor? groups=None, int? num_groups=None, "
    'Tensor? class_mask=None, str reduction="mean"'
)
define(
    f"class_gradients({_SAMPLES}, {_OPTIONS}) -> (Tensor weight, Tensor bias, Tensor count)",
    reference.class_gradients,
    _fake_gradients,
)
define(
    f'class_gram({_SAMPLES}, {_OPTIONS}, str algorithm="auto") -> Tensor',
    reference.class_gram,
    _fake_gram,
)
_GRADIENTS = torch.ops.gradmix_ext.class_gradients.default
_GRAM = torch.ops.gradmix_ext.class_gram.default
differentiable("class_gradients", _backward_gradients, _save)
differentiable("class_gram", _backward_gram, _save)
