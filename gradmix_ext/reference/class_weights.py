"""Weights of samples against the imbalance of their classes: what the fused kernels compute."""

from __future__ import annotations

import torch
from torch import Tensor

from gradmix_ext import _checks as checks


def check(target: Tensor, balance: float) -> None:
    """Check shape, dtype and value."""
    checks.labels_alone("class_weights", target)
    if not 0 <= balance <= 1:
        raise ValueError(f"class_weights: balance must be in [0, 1], got {balance}")


def class_weights(target: Tensor, balance: float) -> Tensor:
    """Pure PyTorch version of :func:`gradmix_ext.ops.class_weights`."""
    check(target, balance)
    size = (target[:, None] == target).sum(dim=1, dtype=torch.float32)
    weight = size.pow(-balance)
    return weight / weight.mean()
