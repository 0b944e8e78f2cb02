"""Everything of a mixed batch but its inputs: what the fused kernels compute."""

from __future__ import annotations

import torch
from torch import Tensor

from gradmix_ext import _checks as checks
from gradmix_ext.reference._terms import per_sample


def check(
    target: Tensor,
    partner: Tensor,
    mask: Tensor,
    lam_x: Tensor,
    lam_y: Tensor,
    strength: float,
    balance: float,
) -> None:
    """Check shapes, dtypes, devices and shares."""
    op = "mix_labels"
    checks.labels_alone(op, target)
    samples = target.shape[0]
    checks.vector(op, "partner", partner, samples, torch.int64, target.device)
    checks.vector(op, "mask", mask, samples, torch.bool, target.device)
    for name, share in (("strength", strength), ("balance", balance)):
        if not 0 <= share <= 1:
            raise ValueError(f"{op}: {name} must be in [0, 1], got {share}")
    for name, lam in (("lam_x", lam_x), ("lam_y", lam_y)):
        checks.tensor(op, name, lam)
        checks.lam(op, lam, samples, target, name)


def check_values(partner: Tensor) -> None:
    """Every partner is a sample of the batch."""
    samples = partner.shape[0]
    checks.in_range("mix_labels", "partner", partner, samples, f"a batch of {samples} samples")


def lam_dtype(lam_x: Tensor, lam_y: Tensor) -> torch.dtype:
    """The dtype of both λ as they are used."""
    return checks.accumulation_dtype(torch.promote_types(lam_x.dtype, lam_y.dtype))


def mix_labels(
    target: Tensor,
    partner: Tensor,
    mask: Tensor,
    lam_x: Tensor,
    lam_y: Tensor,
    *,
    strength: float = 1.0,
    balance: float = 0.0,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Pure PyTorch version of :func:`gradmix_ext.ops.mix_labels`."""
    check(target, partner, mask, lam_x, lam_y, strength, balance)
    if checks.values_checked(target.device):
        check_values(partner)
    samples = target.shape[0]
    exists = (partner >= 0) & (partner < samples)
    partner_target = target[torch.where(exists, partner, torch.arange(samples, device=mask.device))]

    dtype = lam_dtype(lam_x, lam_y)
    used_x, used_y = (
        torch.where(exists & mask, 1 - strength * (1 - lam) if strength < 1 else lam, 1.0)
        for lam in (per_sample(lam_x, samples, dtype), per_sample(lam_y, samples, dtype))
    )
    weight = torch.ones(samples, dtype=torch.float32, device=target.device)
    if balance:
        size = (target[:, None] == target).sum(dim=1, dtype=torch.float32)
        weight = size.pow(-balance)
        weight = weight / weight.mean()
    return partner_target, used_x, used_y, weight
