"""Scores of samples and class pairs: inner products of mixed gradients with a direction."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from gradmix_ext import _checks as checks
from gradmix_ext import reference
from gradmix_ext.ops._last_layer import softmax_backward
from gradmix_ext.ops._library import call, define, differentiable
from gradmix_ext.reference._terms import softmax, target_distribution
from gradmix_ext.reference.pair_scores import check, check_samples, check_values


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
    """The inner products <g~, G> of mixed samples' gradients with a direction.

    With g~ = (δ~ h~ᵀ, δ~) the last-layer gradient of a mixed sample, <g~, G> = δ~ᵀ (G_W h~ + G_b).
    Differentiable in ``features``, ``logits`` and the direction.

    Args:
        features: Inputs of the head h~ [N, d] for the mixed samples.
        logits: Outputs of the head [N, C], of the same dtype.
        target: Label [N] (int64) of each sample.
        partner_target: Label [N] (int64) of each sample's partner.
        lam: Weight of ``target``, a number, a scalar tensor or one per sample [N].
        direction_weight: G_W [C, d], such as the mean gradient of the replay buffer.
        direction_bias: G_b [C].
        class_mask: Classes [C] (bool) that take part in the softmax, all by default.

    Returns:
        Inner product [N] of each sample, in float32 (float64 for float64 inputs).

    Raises:
        TypeError: An argument has the wrong dtype.
        ValueError: An argument has the wrong shape, device or value.
        RuntimeError: A label is out of range or not allowed by ``class_mask`` (on a GPU only under
            ``gx.debug_checks()``; otherwise such a label has no weight).
    """

    def static_checks() -> None:
        check_samples(
            "sample_scores", features, logits, target, partner_target, lam, direction_weight,
            direction_bias, class_mask,
        )  # fmt: skip

    if checks.debug_enabled():
        static_checks()
        classes = logits.shape[1]
        check_values("sample_scores", logits, target, partner_target, classes, class_mask)
    try:
        result: Tensor = call(
            _SAMPLES_OP, features, logits, target, partner_target,
            checks.as_lam("sample_scores", lam, logits),
            direction_weight, direction_bias, class_mask,
        )  # fmt: skip
    except Exception:
        with checks.replacing:
            static_checks()
        raise
    return result


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
    """Sum, per unordered class pair, the inner products <g~, G> of mixed samples' gradients.

    The inner products are those of :func:`sample_scores`.
    A sample of pair (a, b), a != b, adds to [a, b] and to [b, a]; one of (a, a) adds to [a, a]
    once. Differentiable in ``features``, ``logits`` and the direction.

    Args:
        features: Inputs of the head h~ [N, d] for the mixed samples.
        logits: Outputs of the head [N, C], of the same dtype.
        target: Label [N] (int64) of each sample.
        partner_target: Label [N] (int64) of each sample's partner.
        lam: Weight of ``target``, a number, a scalar tensor or one per sample [N].
        direction_weight: G_W [C, d], such as the mean gradient of the replay buffer.
        direction_bias: G_b [C].
        num_classes: Size K of the score matrix.
        class_mask: Classes [C] (bool) that take part in the softmax, all by default.

    Returns:
        ``(score_sum [K, K], count [K, K])``, both symmetric: sums in float32 (float64 for float64
        inputs) and the number of samples that each holds (int64).

    Raises:
        TypeError: An argument has the wrong dtype.
        ValueError: An argument has the wrong shape, device or value.
        RuntimeError: A label is out of range or not allowed by ``class_mask`` (on a GPU only under
            ``gx.debug_checks()``).
    """

    def static_checks() -> None:
        check(
            features, logits, target, partner_target, lam, direction_weight, direction_bias,
            num_classes, class_mask,
        )  # fmt: skip

    if checks.debug_enabled():
        static_checks()
        check_values("pair_scores", logits, target, partner_target, num_classes, class_mask)
    try:
        result: tuple[Tensor, Tensor] = call(
            _OP, features, logits, target, partner_target,
            checks.as_lam("pair_scores", lam, logits),
            direction_weight, direction_bias, num_classes, class_mask,
        )  # fmt: skip
    except Exception:
        with checks.replacing:
            static_checks()
        raise
    return result


def _fake(
    features: Tensor,
    logits: Tensor,
    target: Tensor,
    partner_target: Tensor,
    lam: Tensor,
    direction_weight: Tensor,
    direction_bias: Tensor,
    num_classes: int,
    class_mask: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    check(
        features, logits, target, partner_target, lam, direction_weight, direction_bias,
        num_classes, class_mask,
    )  # fmt: skip
    shape = (num_classes, num_classes)
    dtype = checks.accumulation_dtype(logits.dtype)
    return logits.new_empty(shape, dtype=dtype), target.new_empty(shape)


def _fake_samples(
    features: Tensor,
    logits: Tensor,
    target: Tensor,
    partner_target: Tensor,
    lam: Tensor,
    direction_weight: Tensor,
    direction_bias: Tensor,
    class_mask: Tensor | None = None,
) -> Tensor:
    check_samples(
        "sample_scores", features, logits, target, partner_target, lam, direction_weight,
        direction_bias, class_mask,
    )  # fmt: skip
    return logits.new_empty(logits.shape[:1], dtype=checks.accumulation_dtype(logits.dtype))


def _save(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
    *tensors, _, class_mask = inputs
    ctx.save_for_backward(*tensors, class_mask)


def _save_samples(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
    ctx.save_for_backward(*inputs)


def _backward(ctx: Any, grad_sum: Tensor, grad_count: None) -> tuple[Tensor | None, ...]:
    target, partner_target = ctx.saved_tensors[2:4]
    return *_backward_samples(ctx, _per_sample(grad_sum, target, partner_target)), None


def _backward_samples(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
    features, logits, target, partner_target, lam, weight, bias, class_mask = ctx.saved_tensors
    p = softmax(logits, class_mask)
    residual = p - target_distribution(logits, target, partner_target, lam)
    h, direction, offset = (t.to(p.dtype) for t in (features, weight, bias))
    per_sample = grad[:, None]
    weighted = per_sample * residual
    projected = h @ direction.T + offset
    return (
        (weighted @ direction).to(features.dtype),
        softmax_backward(p, per_sample * projected).to(logits.dtype),
        None,
        None,
        None,
        (weighted.T @ h).to(weight.dtype),
        weighted.sum(dim=0).to(bias.dtype),
        None,
    )


def _per_sample(grad_sum: Tensor, target: Tensor, partner_target: Tensor) -> Tensor:
    """The gradient in each sample's inner product: [a, b] plus [b, a], or [a, a] once."""
    classes = grad_sum.shape[0]
    if classes == 0:
        return grad_sum.new_zeros(target.shape)
    inside = (target >= 0) & (target < classes) & (partner_target >= 0) & (partner_target < classes)
    a = torch.where(inside, target, 0)
    b = torch.where(inside, partner_target, 0)
    cells = grad_sum + grad_sum.T - torch.diag(grad_sum.diagonal())
    return torch.where(inside, cells[a, b], 0)


_ARGUMENTS = (
    "Tensor features, Tensor logits, Tensor target, Tensor partner_target, Tensor lam,"
    " Tensor direction_weight, Tensor direction_bias"
)
define(
    f"sample_scores({_ARGUMENTS}, Tensor? class_mask=None) -> Tensor",
    reference.sample_scores,
    _fake_samples,
)
define(
    f"pair_scores({_ARGUMENTS}, int num_classes, Tensor? class_mask=None)"
    " -> (Tensor score_sum, Tensor count)",
    reference.pair_scores,
    _fake,
)
_SAMPLES_OP = torch.ops.gradmix_ext.sample_scores.default
_OP = torch.ops.gradmix_ext.pair_scores.default
differentiable("sample_scores", _backward_samples, _save_samples)
differentiable("pair_scores", _backward, _save)
