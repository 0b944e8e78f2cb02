"""The siblings of GradMix that look at no gradient."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from gradmix_ext._arguments import positive_integer
from gradmix_ext.mixers.base import Mixer
from gradmix_ext.mixers.pairs import PairMixer, PairRule


class Mixup(Mixer):
    """Plain mixup: partners are a random permutation of the batch (Zhang et al. 2018).

    Its arguments are those of :class:`Mixer`.
    """

    def draw_partners(self, y: Tensor) -> tuple[Tensor, Tensor]:
        """A random permutation; every sample is mixed."""
        partner = torch.randperm(y.shape[0], device=y.device, generator=self.generator)
        return partner, torch.ones_like(y, dtype=torch.bool)


class NoMix(Mixup):
    """Leaves every sample as it is: mixup that stops before it starts.

    Args:
        generator: Unused; taken so that mixers can be exchanged.
    """

    def __init__(self, *, generator: torch.Generator | None = None) -> None:
        super().__init__(generator=generator, stop_epoch=0)


class BalancedMixup(PairMixer):
    """Mixup with a class-balanced partner: a class of the batch is drawn, then one of its samples.

    The control that shows how much of a selective mixer's gain is mere re-balancing of the classes.

    Args:
        num_classes: Number of classes C; labels are in [0, C).
        alpha: λ ~ Beta(alpha, alpha).
        **options: As :class:`Mixer`.
    """

    def __init__(self, num_classes: int, alpha: float = 1.0, **options: Any) -> None:
        super().__init__(alpha, **options)
        self.num_classes: int = positive_integer("num_classes", num_classes)
        self._alike = torch.zeros(1, 1)

    def pair_rule(self, device: torch.device) -> PairRule:
        """Partner j with probability ∝ 1 / (number of samples of y_j in the batch)."""
        self._alike = self._alike.to(device)
        return PairRule("soft", self._alike.expand(self.num_classes, self.num_classes))
