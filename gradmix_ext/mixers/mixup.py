"""The siblings of GradMix that look at no gradient."""

from __future__ import annotations

import torch
from torch import Tensor

from gradmix_ext import _checks as checks
from gradmix_ext.mixers.base import Mixer


class NoMix(Mixer):
    """Leaves every sample as it is: the control without mixing."""

    def draw_partners(self, y: Tensor) -> tuple[Tensor, Tensor]:
        """Each sample is its own partner."""
        return torch.arange(y.shape[0], device=y.device), torch.zeros_like(y, dtype=torch.bool)


class Mixup(Mixer):
    """Plain mixup: partners are a random permutation of the batch (Zhang et al. 2018).

    Args:
        alpha: λ ~ Beta(alpha, alpha).
        per_sample_lam: Draw one λ per sample instead of one per batch.
        generator: Source of all randomness, on the device of the data; PyTorch's own by default.
    """

    def draw_partners(self, y: Tensor) -> tuple[Tensor, Tensor]:
        """A random permutation; every sample is mixed."""
        partner = torch.randperm(y.shape[0], device=y.device, generator=self.generator)
        return partner, torch.ones_like(y, dtype=torch.bool)


class BalancedMixup(Mixer):
    """Mixup with a class-balanced partner: a class of the batch is drawn, then one of its samples.

    The control that shows how much of a selective mixer's gain is mere re-balancing of the classes.

    Args:
        num_classes: Number of classes C; labels are in [0, C).
        alpha: λ ~ Beta(alpha, alpha).
        per_sample_lam: Draw one λ per sample instead of one per batch.
        generator: Source of all randomness, on the device of the data; PyTorch's own by default.
    """

    def __init__(
        self,
        num_classes: int,
        alpha: float = 1.0,
        *,
        per_sample_lam: bool = False,
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__(alpha, per_sample_lam=per_sample_lam, generator=generator)
        self.num_classes = num_classes

    def draw_partners(self, y: Tensor) -> tuple[Tensor, Tensor]:
        """Partner j with probability ∝ 1 / (number of samples of y_j in the batch)."""
        samples = y.shape[0]
        if checks.values_checked(y.device):
            checks.in_range("mix", "y", y, self.num_classes, f"{self.num_classes} classes")
        noise = torch.rand(samples, dtype=torch.float64, device=y.device, generator=self.generator)
        count = torch.zeros(self.num_classes, dtype=torch.float64, device=y.device)
        count = count.index_add(0, y, torch.ones_like(noise))
        edges = count[y].reciprocal().cumsum(0)
        drawn = torch.searchsorted(edges, noise * edges[-1:], right=True)
        partner = drawn.clamp(max=max(samples - 1, 0))
        return partner, torch.ones_like(y, dtype=torch.bool)
