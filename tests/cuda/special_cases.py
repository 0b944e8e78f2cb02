"""Sample inputs beyond the common list: shapes at which the CUDA kernels change their way."""

from __future__ import annotations

import torch
from samples import Sample, samples

# The ops that csrc/cuda serves.
OPS = (
    "masked_mixup",
    "mixup_cross_entropy",
    "class_gradients",
    "class_gram",
    "pair_scores",
    "sample_scores",
    "linear_scores",
    "draw_partners",
    "draw_softly",
    "mix_labels",
    "mix_batch",
    "pair_preferences",
    "gather_augment_mixup",
)
# Odd, beyond a warp's row; packets, held by a warp; beyond a warp's row; several tiles.
WIDE = ((3, 1031, 2), (5, 64, 8), (2, 1040, 64), (200, 6, 129))


def wide_samples(op: str, dtype: torch.dtype) -> list[Sample]:
    every = samples(op, dtype, WIDE)
    if op not in ("class_gradients", "class_gram"):
        return every
    # Where every class is a group of its own, brute force would take minutes.
    return [s for s in every if s.args[1].shape[1] < 100 or "num_groups" in s.kwargs]


def long_samples(dtype: torch.dtype) -> list[Sample]:
    """masked_mixup of samples that take a block several turns, packed and not."""
    make = torch.Generator().manual_seed(5)
    result = []
    for n, size in ((3, 16 << 10), (2, 4099), (5, 48)):
        x = torch.randn(n, size, generator=make, dtype=torch.float64).to(dtype)
        partner = torch.randint(n, (n,), generator=make)
        lam = torch.rand(n, generator=make)
        mask = torch.rand(n, generator=make) < 0.6
        result.append(Sample("masked_mixup", f"{n}x{size}", (x, partner, lam, mask)))
        shifted = torch.empty(n * size + 1, dtype=dtype)[1:].view(n, size).copy_(x)
        result.append(Sample("masked_mixup", f"{n}x{size}-shifted", (shifted, partner, lam, mask)))
    return result


def backward_samples(sample: Sample, dtype: torch.dtype) -> tuple | None:
    """Arguments of the op's backward for a sample, or None where it has none."""
    make = torch.Generator().manual_seed(9)
    if sample.op == "masked_mixup":
        grad = torch.randn(sample.args[0].shape, generator=make, dtype=torch.float64).to(dtype)
        return "masked_mixup_backward", (grad, *sample.args[1:]), {}
    if sample.op == "mixup_cross_entropy":
        each = sample.kwargs.get("reduction") == "none"
        shape = sample.args[0].shape[:1] if each else ()
        grad = torch.randn((), generator=make, dtype=torch.float64).to(dtype).expand(shape)
        return "mixup_cross_entropy_backward", (grad, *sample.args), sample.kwargs
    return None


def adjoint(grad, partner, lam, mask=None):
    """The adjoint of masked_mixup in float64, sample by sample."""
    wide = grad.double()
    lam = lam.double().reshape(-1).expand(len(wide))
    out = torch.zeros_like(wide, memory_format=torch.contiguous_format)
    for i in range(len(wide)):
        mixed = mask is None or bool(mask[i])
        out[i] += (lam[i] if mixed else 1) * wide[i]
        if mixed:
            out[partner[i]] += (1 - lam[i]) * wide[i]
    return out


def loss_gradient(
    grad, z, y, y2, lam, class_mask=None, label_smoothing=0.0, reduction="mean", sample_weight=None
):
    """The gradient of the loss in float64, by autograd through its definition."""
    allowed = torch.ones(z.shape[1], dtype=torch.bool) if class_mask is None else class_mask
    z = z.double()[:, allowed].detach().requires_grad_()
    classes = torch.eye(len(allowed), dtype=torch.float64)[:, allowed]
    lam = lam.double().reshape(-1, 1)
    q = (1 - label_smoothing) * (lam * classes[y] + (1 - lam) * classes[y2])
    q = q + label_smoothing / int(allowed.sum())
    loss = -(q * z.log_softmax(1)).sum(1)
    loss = loss if sample_weight is None else loss * sample_weight.double()
    loss = loss if reduction == "none" else loss.sum()
    if reduction == "mean":
        loss = loss / max(len(z), 1)
    out = torch.zeros(len(z), len(allowed), dtype=torch.float64)
    out[:, allowed] = torch.autograd.grad(loss, z, grad.double())[0]
    return out
