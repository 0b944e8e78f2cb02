"""Optimizers and schedules by name, and the mixed-precision step."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import partial
from typing import Any

import torch
from torch import nn
from torch.optim.lr_scheduler import ConstantLR, CosineAnnealingLR, LRScheduler, MultiStepLR

__all__ = [
    "AMP",
    "OPTIMIZERS",
    "SCHEDULES",
    "OptimizerFactory",
    "ScheduleFactory",
    "optimizer_by_name",
]

OptimizerFactory = Callable[[Iterable[nn.Parameter]], torch.optim.Optimizer]
#: Called with the optimizer of a task and its number of epochs; stepped after each epoch.
ScheduleFactory = Callable[[torch.optim.Optimizer, int], LRScheduler]

OPTIMIZERS = ("sgd", "adamw")
#: Mixed precision by name: what the forward pass computes in, None for full precision.
AMP: dict[str, torch.dtype | None] = {
    "none": None,
    "bf16": torch.bfloat16,
    "fp16": torch.float16,
}


def optimizer_by_name(
    name: str, lr: float, momentum: float = 0.9, weight_decay: float = 0.0
) -> OptimizerFactory:
    """A factory of fused optimizers.

    Fused, all parameters are updated by one call; with fp16 a step of infinite gradients is skipped
    without waiting for the device.

    Args:
        name: One of :data:`OPTIMIZERS`.
        lr: Learning rate.
        momentum: For SGD; AdamW keeps its own two averages.
        weight_decay: Weight decay, decoupled in AdamW.

    Raises:
        ValueError: the name is unknown.
    """
    common: dict[str, Any] = {"lr": lr, "weight_decay": weight_decay, "fused": True}
    if name == "sgd":
        return partial(torch.optim.SGD, momentum=momentum, **common)
    if name == "adamw":
        return partial(torch.optim.AdamW, **common)
    raise ValueError(f"unknown optimizer '{name}': known are {', '.join(OPTIMIZERS)}")


def _constant(optimizer: torch.optim.Optimizer, epochs: int) -> LRScheduler:
    return ConstantLR(optimizer, factor=1.0, total_iters=0)


def _cosine(optimizer: torch.optim.Optimizer, epochs: int) -> LRScheduler:
    return CosineAnnealingLR(optimizer, T_max=epochs)


def _step(optimizer: torch.optim.Optimizer, epochs: int) -> LRScheduler:
    half = max(epochs // 2, 1)  # each rate lasts an epoch at least, the full one first
    return MultiStepLR(optimizer, milestones=[half, max(epochs * 3 // 4, half + 1)], gamma=0.1)


#: Course of the learning rate over the epochs of a task: constant; half a cosine towards 0; a tenth
#: of it after half, and again after three quarters of the epochs.
SCHEDULES: dict[str, ScheduleFactory] = {"constant": _constant, "cosine": _cosine, "step": _step}
