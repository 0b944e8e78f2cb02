"""GradMix's control: the same rule with the scores dealt out to other class pairs."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn

from gradmix_ext.mixers.base import Samples
from gradmix_ext.mixers.gradmix import GradMix


class RandomMaskMixup(GradMix):
    """GradMix with what the scores say shuffled among the scored pairs.

    Selecting pairs also changes how often mixing happens and which classes are seen. This control
    keeps the number of allowed pairs (``"redraw"``, ``"skip"``) or the odds themselves
    (``"soft"``), and all the rest of GradMix with the same arguments, and drops the information in
    the scores; what GradMix gains over it comes from the gradients.

    Args:
        num_classes: Number of classes C of the head.
        *args: As :class:`GradMix`.
        fraction: Share of the scored pairs to allow; GradMix's own share by default. Not for
            ``"soft"``, which allows them all.
        **kwargs: As :class:`GradMix`.
    """

    def __init__(
        self, num_classes: int, *args: Any, fraction: float | None = None, **kwargs: Any
    ) -> None:
        super().__init__(num_classes, *args, **kwargs)
        if fraction is not None and not 0 <= fraction <= 1:
            raise ValueError(f"fraction must be in [0, 1], got {fraction}")
        if fraction is not None and self.policy == "soft":
            raise ValueError(f"fraction = {fraction} needs policy 'redraw' or 'skip', got 'soft'")
        self.fraction = fraction

    def update(
        self,
        model: nn.Module,
        current: Samples,
        buffer: Samples | None = None,
        seen_classes: Tensor | Iterable[int] | None = None,
    ) -> None:
        """Draw a new order of the pairs; see :meth:`GradMix.update` for the arguments."""
        shape = (self.num_classes, self.num_classes)
        self._order = torch.rand(shape, device=current[1].device, generator=self.generator)
        super().update(model, current, buffer, seen_classes)

    def _decide(self) -> None:
        """Shuffle what the scores say among the pairs (a <= b), by the order drawn."""
        super()._decide()
        pairs = self.scored.triu()
        rank = torch.where(pairs, self._order, torch.inf).flatten().argsort().argsort()
        if self.fraction is None:
            count = (self.allowed & pairs).sum()
        else:
            count = (self.fraction * pairs.sum()).round()
        chosen = (rank.reshape(pairs.shape) < count) & pairs
        self.allowed: Tensor = torch.where(self.scored, chosen | chosen.T, self.allowed)
        # The pairs come first in the stable order, as many as there are ranks below their number.
        listed = self.preference.flatten()[(~pairs).flatten().int().argsort(stable=True)]
        dealt = torch.where(pairs, listed[rank].reshape(pairs.shape), 0.0)
        self.preference: Tensor = dealt + dealt.triu(1).T
