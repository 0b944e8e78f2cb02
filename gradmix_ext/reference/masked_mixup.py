"""Masked in-batch mixup: what the fused kernels compute."""

from __future__ import annotations

import torch
from torch import Tensor

from gradmix_ext import _checks as checks
from gradmix_ext.reference._terms import per_sample


def check(x: Tensor, partner: Tensor, lam: Tensor | float, mask: Tensor | None) -> Tensor:
    """Check shapes, dtypes and devices; return λ as a tensor."""
    op = "masked_mixup"
    checks.floating(op, "x", x)
    if x.dim() == 0:
        raise ValueError(f"{op}: x must have a batch dimension, got a scalar")
    checks.vector(op, "partner", partner, x.shape[0], torch.int64, x.device)
    if mask is not None:
        checks.vector(op, "mask", mask, x.shape[0], torch.bool, x.device)
    return checks.lam(op, lam, x.shape[0], x)


def check_values(x: Tensor, partner: Tensor) -> None:
    """Every partner is a sample of the batch."""
    samples = x.shape[0]
    checks.in_range("masked_mixup", "partner", partner, samples, f"a batch of {samples} samples")


def check_out(x: Tensor, out: Tensor, partner: Tensor, lam: Tensor, mask: Tensor | None) -> None:
    """``out`` can take the result in place of freshly allocated memory."""
    op = "masked_mixup"
    checks.tensor(op, "out", out)
    if out.dtype != x.dtype:
        raise TypeError(f"{op}: out must be {x.dtype} as x, got {out.dtype}")
    if out.shape != x.shape:
        raise ValueError(f"{op}: out must have shape {list(x.shape)}, got {list(out.shape)}")
    checks.same_device(op, "out", out, x.device)
    if out.requires_grad:
        raise ValueError(f"{op}: out must not require grad")
    if x.requires_grad and torch.is_grad_enabled():
        raise ValueError(f"{op}: out cannot be used where x requires grad; detach x or drop out")
    expected = result_strides(x)
    strides = zip(out.shape, out.stride(), expected, strict=True)
    if any(size > 1 and stride != want for size, stride, want in strides):
        raise ValueError(
            f"{op}: out must have strides {list(expected)} as the result, got {list(out.stride())}"
        )
    # A tensor under compilation has no address yet; there the compiler rules out the overlap.
    if torch.compiler.is_compiling() or not x.numel():
        return
    for name, value in (("x", x), ("partner", partner), ("lam", lam), ("mask", mask)):
        if value is not None and value.numel() and _overlap(value, out):
            raise ValueError(f"{op}: out must not overlap {name} in memory")


def _overlap(a: Tensor, b: Tensor) -> bool:
    """Whether the address ranges that two tensors span intersect."""
    if a.device != b.device:
        return False
    first, last = [], []
    for t in (a, b):
        extent = sum((size - 1) * stride for size, stride in zip(t.shape, t.stride(), strict=True))
        first.append(t.data_ptr())
        last.append(t.data_ptr() + (extent + 1) * t.element_size())
    return first[0] < last[1] and first[1] < last[0]


def result_strides(x: Tensor) -> tuple[int, ...]:
    """The strides of the result: those of x where each sample is dense, else contiguous ones.

    Samples are dense when x has no gaps and no overlap and its batch dimension is the outermost,
    as in contiguous and in channels_last batches.
    """
    contiguous: list[int] = []
    dense = 1
    for size in reversed(x.shape):
        contiguous.insert(0, dense)
        dense *= max(size, 1)
    expected = 1
    for stride, size in sorted(zip(x.stride()[1:], x.shape[1:], strict=True)):
        if size != 1 and stride != expected:
            return tuple(contiguous)
        expected *= size
    return tuple(x.stride()) if x.stride(0) == expected else tuple(contiguous)


def in_layout(result: Tensor, like: Tensor) -> Tensor:
    """``result`` with the strides that the op promises for ``like``."""
    strides = result_strides(like)
    if result.stride() == strides:
        return result
    return torch.empty_strided(
        result.shape, strides, dtype=result.dtype, device=result.device
    ).copy_(result)


def _rows(x: Tensor, partner: Tensor, lam: Tensor, mask: Tensor | None) -> tuple[Tensor, Tensor]:
    """Valid partners [N], and λ [N, 1, ...] that is 1 where a sample stays unmixed."""
    samples = x.shape[0]
    weight = per_sample(lam, samples, checks.accumulation_dtype(x.dtype))
    valid = (partner >= 0) & (partner < samples)
    if mask is not None:
        valid = valid & mask
    weight = torch.where(valid, weight, 1)
    partner = torch.where(valid, partner, torch.arange(samples, device=x.device))
    return partner, weight.reshape(-1, *[1] * (x.dim() - 1))


def masked_mixup(
    x: Tensor,
    partner: Tensor,
    lam: Tensor | float,
    mask: Tensor | None = None,
    *,
    out: Tensor | None = None,
) -> Tensor:
    """Pure PyTorch version of :func:`gradmix_ext.ops.masked_mixup`."""
    lam = check(x, partner, lam, mask)
    if checks.values_checked(x.device):
        check_values(x, partner)
    if out is not None:
        check_out(x, out, partner, lam, mask)
    index, weight = _rows(x, partner, lam, mask)
    wide = x.to(weight.dtype)
    mixed = (weight * wide + (1 - weight) * wide[index]).to(x.dtype)
    if mask is not None:
        # x itself, not 1·x + 0·x[partner]: bit for bit, and free of the partner's NaN or inf
        mixed = torch.where(mask.reshape(weight.shape), mixed, x)
    result = in_layout(mixed, x)
    return result if out is None else out.copy_(result)


def masked_mixup_backward(
    grad: Tensor, partner: Tensor, lam: Tensor, mask: Tensor | None = None
) -> Tensor:
    """The adjoint of :func:`masked_mixup` in x: each row's gradient goes to i and to partner[i]."""
    lam = check(grad, partner, lam, mask)
    if checks.values_checked(grad.device):
        check_values(grad, partner)
    index, weight = _rows(grad, partner, lam, mask)
    wide = grad.to(weight.dtype)
    result = (weight * wide).index_add(0, index, (1 - weight) * wide)
    return in_layout(result.to(grad.dtype), grad)
