"""The terms that the reference implementations share, in the papers' letters."""

from __future__ import annotations

import torch
from torch import Tensor

from gradmix_ext._checks import accumulation_dtype


def per_sample(lam: Tensor, samples: int, dtype: torch.dtype) -> Tensor:
    """λ as a vector [N] of ``dtype``."""
    return lam.to(dtype).reshape(-1).expand(samples)


def one_hot(label: Tensor, classes: int, dtype: torch.dtype) -> Tensor:
    """One-hot rows [N, classes]; a label out of range gives a row of zeros, never a bad access."""
    return (label[:, None] == torch.arange(classes, device=label.device)).to(dtype)


def target_distribution(
    logits: Tensor,
    target: Tensor,
    partner_target: Tensor | None,
    lam: Tensor | None,
    class_mask: Tensor | None = None,
    label_smoothing: float = 0.0,
) -> Tensor:
    """The target distribution q [N, C]: one-hot, or λ·e_y + (1-λ)·e_y' for mixed samples.

    Label smoothing ε turns it into (1-ε)·q + ε/|A| over the classes A that the mask allows.
    """
    samples, classes = logits.shape
    dtype = accumulation_dtype(logits.dtype)
    q = one_hot(target, classes, dtype)
    if partner_target is not None and lam is not None:
        weight = per_sample(lam, samples, dtype)[:, None]
        q = weight * q + (1 - weight) * one_hot(partner_target, classes, dtype)
    if label_smoothing:
        uniform = torch.ones_like(q[:1])
        if class_mask is not None:
            uniform = uniform * class_mask
        q = (1 - label_smoothing) * q + label_smoothing * uniform / uniform.sum()
    return q


def masked_logits(logits: Tensor, class_mask: Tensor | None) -> Tensor:
    """The logits in the accumulation dtype, -inf where the mask forbids the class."""
    z = logits.to(accumulation_dtype(logits.dtype))
    return z if class_mask is None else z.masked_fill(~class_mask, float("-inf"))


def product(a: Tensor, b: Tensor) -> Tensor:
    """Matrix product, in float64 where a GPU might use TF32, whose 3e-4 flips signs of scores."""
    if a.is_cuda and a.dtype == torch.float32:
        return (a.double() @ b.double()).to(a.dtype)
    return a @ b


def softmax(logits: Tensor, class_mask: Tensor | None) -> Tensor:
    """The probabilities p [N, C] over the classes that the mask allows; 0 elsewhere."""
    return masked_logits(logits, class_mask).softmax(dim=1)
