"""What scores of class pairs mean for a soft draw of partners: what the fused kernels compute."""

from __future__ import annotations

import torch
from torch import Tensor

from gradmix_ext import _checks as checks


def check(scores: Tensor, scored: Tensor, temperature: float) -> None:
    """Check shapes, dtypes and devices."""
    op = "pair_preferences"
    checks.tensor(op, "scores", scores)
    if scores.dtype not in (torch.float32, torch.float64):
        raise TypeError(f"{op}: scores must be float32 or float64, got {scores.dtype}")
    checks.without_grad(op, scores=scores)
    if scores.dim() != 2 or scores.shape[0] != scores.shape[1]:
        raise ValueError(f"{op}: scores must be square, got shape {list(scores.shape)}")
    checks.tensor(op, "scored", scored)
    if scored.dtype != torch.bool:
        raise TypeError(f"{op}: scored must be torch.bool, got {scored.dtype}")
    if scored.shape != scores.shape:
        raise ValueError(
            f"{op}: scored must have shape {list(scores.shape)}, got {list(scored.shape)}"
        )
    checks.same_device(op, "scored", scored, scores.device)
    if not temperature > 0:
        raise ValueError(f"{op}: temperature must be positive, got {temperature}")


def pair_preferences(scores: Tensor, scored: Tensor, temperature: float) -> Tensor:
    """Pure PyTorch version of :func:`gradmix_ext.ops.pair_preferences`."""
    check(scores, scored, temperature)
    if scores.numel() == 0:
        return scores.clone()
    # In float64: squares of small scores would vanish in float32. From the best on, so that scores
    # which are all alike have no spread whatever their sum is rounded to.
    wide, count = scores.double(), scored.sum().clamp(min=1)
    above = torch.where(scored, wide - torch.where(scored, wide, -torch.inf).max(), 0.0)
    deviation = torch.where(scored, above - above.sum() / count, 0.0)
    spread = (deviation.square().sum() / count).sqrt()
    relative = torch.where(scored & (spread != 0), deviation / (temperature * spread), 0.0)
    return relative.to(scores.dtype).contiguous()
