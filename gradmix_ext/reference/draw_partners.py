"""Drawing mixing partners among the allowed class pairs: what the fused kernels compute."""

from __future__ import annotations

import torch
from torch import Tensor

from gradmix_ext import _checks as checks
from gradmix_ext._random import uniform
from gradmix_ext.reference._terms import one_hot

POLICIES = ("redraw", "skip")


def check(
    target: Tensor, allowed: Tensor, policy: str, noise: Tensor | None, exploration: float
) -> None:
    """Check shapes, dtypes and devices."""
    op = "draw_partners"
    checks.labels_alone(op, target)
    checks.tensor(op, "allowed", allowed)
    if allowed.dtype != torch.bool:
        raise TypeError(f"{op}: allowed must be torch.bool, got {allowed.dtype}")
    if allowed.dim() != 2 or allowed.shape[0] != allowed.shape[1]:
        raise ValueError(f"{op}: allowed must be square, got shape {list(allowed.shape)}")
    checks.same_device(op, "allowed", allowed, target.device)
    checks.choice(op, "policy", policy, POLICIES)
    if noise is not None:
        checks.vector(op, "noise", noise, target.shape[0], torch.float64, target.device)
    if not 0 <= exploration < 1:
        raise ValueError(f"{op}: exploration must be in [0, 1), got {exploration}")


def check_values(target: Tensor, allowed: Tensor) -> None:
    """Every label is a row of ``allowed``."""
    classes = allowed.shape[0]
    checks.in_range("draw_partners", "target", target, classes, f"{classes} classes")


def draw_partners(
    target: Tensor,
    allowed: Tensor,
    *,
    policy: str = "redraw",
    generator: torch.Generator | None = None,
    noise: Tensor | None = None,
    exploration: float = 0.0,
) -> tuple[Tensor, Tensor]:
    """Pure PyTorch version of :func:`gradmix_ext.ops.draw_partners`."""
    check(target, allowed, policy, noise, exploration)
    if checks.values_checked(target.device):
        check_values(target, allowed)
    samples, classes = target.shape[0], allowed.shape[0]
    if noise is None:
        noise = uniform(samples, target.device, generator)
    own = torch.arange(samples, device=target.device)
    if classes == 0:
        return own, torch.zeros_like(own, dtype=torch.bool)
    valid = (target >= 0) & (target < classes)
    label = torch.where(valid, target, 0)
    explores = (noise < exploration) & valid
    any_sample = (noise.clamp(min=0) * (samples / exploration if exploration else 0)).long()
    any_sample = any_sample.clamp(max=max(samples - 1, 0))
    if policy == "skip":
        partner = noise.argsort(stable=True)
        mask = allowed[label, label[partner]] & valid & valid[partner]
        return torch.where(explores, any_sample, partner), mask | explores

    # Sorted by class, the candidates of a sample are runs of the batch, one run per allowed class:
    # draw a position in their concatenation and look up in which run it falls.
    bucket = torch.where(valid, target, classes)
    order = bucket.argsort(stable=True)
    size = one_hot(bucket, classes, torch.int64).sum(dim=0)
    start = size.cumsum(0) - size
    run_end = (allowed * size).cumsum(1)
    candidates = run_end[:, -1][label]
    position = (
        ((noise - exploration) / (1 - exploration) * candidates).long().clamp(max=candidates - 1)
    )
    run = (run_end[label] <= position[:, None]).sum(dim=1).clamp(max=classes - 1)
    within = position - (run_end[label, run] - size[run])
    mask = (candidates > 0) & valid
    drawn = order[(start[run] + within).clamp(min=0, max=max(samples - 1, 0))]
    partner = torch.where(mask, drawn, own)
    return torch.where(explores, any_sample, partner), mask | explores
