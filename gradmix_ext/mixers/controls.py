"""GradMix's controls: its two rules without what the scores of class pairs say."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn

from gradmix_ext.mixers.base import Samples
from gradmix_ext.mixers.gradmix import GradMix


class ShuffledScoresMixup(GradMix):
    """GradMix with what the scores say dealt out to other class pairs: the default's control.

    Choosing pairs also changes how often mixing happens and which classes are seen. This control
    keeps the odds themselves (``"soft"``) or the number of allowed pairs (``"redraw"``,
    ``"skip"``), and all the rest of GradMix with the same arguments, and drops the information in
    the scores; what GradMix gains over it comes from the gradients.

    Args:
        num_classes: Number of classes C of the head.
        *args: As :class:`GradMix`.
        **kwargs: As :class:`GradMix`.
    """

    def update(
        self,
        model: nn.Module,
        current: Samples,
        buffer: Samples | None = None,
        seen_classes: Tensor | Iterable[int] | None = None,
    ) -> None:
        """Draw a new order of the pairs; see :meth:`GradMix.update` for the arguments."""
        shape, device = (self.num_classes, self.num_classes), current[1].device
        generator = self.ranks.common(self.generator, device)
        self._order = torch.rand(shape, device=device, generator=generator)
        super().update(model, current, buffer, seen_classes)

    def _decide(self) -> None:
        """Shuffle what the scores say among the pairs (a <= b), by the order drawn."""
        super()._decide()
        pairs = self.scored.triu()
        rank = torch.where(pairs, self._order, torch.inf).flatten().argsort().argsort()
        chosen = (rank.reshape(pairs.shape) < self._count(pairs)) & pairs
        self.allowed: Tensor = torch.where(self.scored, chosen | chosen.T, self.allowed)
        if self.policy != "soft":
            return
        # The pairs come first in the stable order, as many as there are ranks below their number.
        listed = self.preference.flatten()[(~pairs).flatten().int().argsort(stable=True)]
        dealt = torch.where(pairs, listed[rank].reshape(pairs.shape), 0.0)
        self.preference: Tensor = dealt + dealt.triu(1).T

    def _decide_after_blending(self) -> None:
        """Shuffle anew: what a score says is not for its own pair here."""
        self._decide()

    def _count(self, pairs: Tensor) -> Tensor:
        """How many of the scored ``pairs`` [C, C] (bool, a <= b) to allow: as many as GradMix."""
        return (self.allowed & pairs).sum()


class RandomMaskMixup(ShuffledScoresMixup):
    """As many class pairs allowed as GradMix allows, at random: the published rule's control.

    Args:
        num_classes: Number of classes C of the head.
        *args: As :class:`GradMix`.
        fraction: Share of the scored pairs to allow; GradMix's own share by default.
        preset: As :class:`GradMix`, but the published rule by default. The soft rule allows every
            pair, so that it has no mask: :class:`ShuffledScoresMixup` is its control.
        **kwargs: As :class:`GradMix`.

    Raises:
        ValueError: the fraction is not in [0, 1], or the policy is ``"soft"``.
    """

    def __init__(
        self,
        num_classes: int,
        *args: Any,
        fraction: float | None = None,
        preset: str = "paper",
        **kwargs: Any,
    ) -> None:
        super().__init__(num_classes, *args, preset=preset, **kwargs)
        if self.policy == "soft":
            raise ValueError(
                "a random mask needs policy 'redraw' or 'skip' (preset 'paper' has 'redraw'), got "
                "'soft', which allows every pair: shuffled-scores is its control"
            )
        if fraction is not None and not 0 <= fraction <= 1:
            raise ValueError(f"fraction must be in [0, 1], got {fraction}")
        self.fraction = fraction

    def _count(self, pairs: Tensor) -> Tensor:
        if self.fraction is None:
            return super()._count(pairs)
        return (self.fraction * pairs.sum()).round()
