"""GradMix's control: as many class pairs allowed, but chosen at random."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from gradmix_ext.mixers.gradmix import GradMix


class RandomMaskMixup(GradMix):
    """Selective mixup whose helpful pairs are shuffled among the scored ones.

    Selecting pairs also changes how often mixing happens and which classes are seen. This control
    keeps the number of allowed pairs and the policy and drops the information in the scores; what
    GradMix gains over it comes from the gradients.

    Args:
        num_classes: Number of classes C of the head.
        *args: As :class:`GradMix`.
        fraction: Share of the scored pairs to allow; GradMix's own share by default.
        **kwargs: As :class:`GradMix`.
    """

    def __init__(
        self, num_classes: int, *args: Any, fraction: float | None = None, **kwargs: Any
    ) -> None:
        super().__init__(num_classes, *args, **kwargs)
        if fraction is not None and not 0 <= fraction <= 1:
            raise ValueError(f"fraction must be in [0, 1], got {fraction}")
        self.fraction = fraction

    def _decide(self) -> Tensor:
        """GradMix's decision, its pairs (a <= b) shuffled."""
        helpful = super()._decide()
        row, column = self.scored.triu().nonzero(as_tuple=True)
        pairs = row.shape[0]
        if self.fraction is None:
            chosen = helpful[row, column]
        else:
            chosen = torch.arange(pairs, device=row.device) < round(self.fraction * pairs)
        shuffle = torch.randperm(pairs, device=row.device, generator=self.generator)
        chosen = chosen[shuffle]
        allowed = helpful.clone()
        allowed[row, column] = chosen
        allowed[column, row] = chosen
        return allowed
