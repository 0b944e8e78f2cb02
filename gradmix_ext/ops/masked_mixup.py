"""Masked in-batch mixup in one pass over memory."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from gradmix_ext import _checks as checks
from gradmix_ext import reference
from gradmix_ext.ops._library import call, define, differentiable
from gradmix_ext.reference.masked_mixup import check, check_out, check_values, result_strides


def masked_mixup(
    x: Tensor,
    partner: Tensor,
    lam: Tensor | float,
    mask: Tensor | None = None,
    *,
    out: Tensor | None = None,
) -> Tensor:
    """Mix each sample with its partner where the mask allows it, in one pass over memory.

    ``out[i] = lam[i] · x[i] + (1 - lam[i]) · x[partner[i]]`` where ``mask[i]`` (everywhere without
    a mask), else ``x[i]`` bit for bit. Differentiable in ``x``, twice and more.

    Args:
        x: Batch [N, ...] of float32, float64, float16 or bfloat16. Contiguous and channels_last
            batches are mixed in place of their layout; others give a contiguous result.
        partner: Index [N] (int64) of each sample's partner; need not be a permutation.
        lam: Weight of the sample itself, a number, a scalar tensor or one per sample [N]; of any
            floating dtype. Arithmetic is in float32 (float64 for float64) and rounded once.
        mask: Samples [N] (bool) that are mixed.
        out: Memory for the result: shape, dtype and strides of the result, no overlap with ``x``.
            Reusing it saves the page faults of fresh memory. No gradient flows through it.

    Returns:
        The mixed batch, with the shape, dtype and (where dense) strides of ``x``.

    Raises:
        TypeError: An argument has the wrong dtype.
        ValueError: An argument has the wrong shape or device, or ``out`` cannot take the result.
        RuntimeError: A partner is not in [0, N) (on a GPU only under ``gx.debug_checks()``;
            otherwise such a sample stays unmixed).
    """
    if checks.debug_enabled():
        check(x, partner, lam, mask)
        check_values(x, partner)
    try:
        weight = checks.as_lam("masked_mixup", lam, x)
        if out is None:
            result: Tensor = call(_OP, x, partner, weight, mask)
            return result
        if out.requires_grad or (x.requires_grad and torch.is_grad_enabled()):
            check_out(x, out, partner, weight, mask)
        _OP_OUT(x, partner, weight, mask, out=out)
    except Exception:
        with checks.replacing:
            weight = check(x, partner, lam, mask)
            if out is not None:
                check_out(x, out, partner, weight, mask)
        raise
    return out


def _fake(x: Tensor, partner: Tensor, lam: Tensor, mask: Tensor | None = None) -> Tensor:
    check(x, partner, lam, mask)
    return x.new_empty_strided(x.shape, result_strides(x))


def _fake_out(
    x: Tensor, partner: Tensor, lam: Tensor, mask: Tensor | None = None, *, out: Tensor
) -> None:
    check(x, partner, lam, mask)
    checks.same_device("masked_mixup", "out", out, x.device)


def _fake_backward(
    grad: Tensor, partner: Tensor, lam: Tensor, mask: Tensor | None = None
) -> Tensor:
    return _fake(grad, partner, lam, mask)


def _reference_out(
    x: Tensor, partner: Tensor, lam: Tensor, mask: Tensor | None = None, *, out: Tensor
) -> None:
    reference.masked_mixup(x, partner, lam, mask, out=out)


def _save(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    _, partner, lam, mask = inputs
    ctx.save_for_backward(partner, lam, mask)


def _backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
    return torch.ops.gradmix_ext.masked_mixup_backward(grad, *ctx.saved_tensors), None, None, None


def _double_backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
    # The op is linear in x, so the adjoint of its adjoint is the op itself.
    return torch.ops.gradmix_ext.masked_mixup(grad, *ctx.saved_tensors), None, None, None


_ARGUMENTS = "Tensor partner, Tensor lam, Tensor? mask=None"
define(f"masked_mixup(Tensor x, {_ARGUMENTS}) -> Tensor", reference.masked_mixup, _fake)
define(
    f"masked_mixup.out(Tensor x, {_ARGUMENTS}, *, Tensor(a!) out) -> ()", _reference_out, _fake_out
)
define(
    f"masked_mixup_backward(Tensor grad, {_ARGUMENTS}) -> Tensor",
    reference.masked_mixup_backward,
    _fake_backward,
)
_OP = torch.ops.gradmix_ext.masked_mixup.default
_OP_OUT = torch.ops.gradmix_ext.masked_mixup.out
differentiable("masked_mixup", _backward, _save)
differentiable("masked_mixup_backward", _double_backward, _save)
