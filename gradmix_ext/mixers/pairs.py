"""Mixers that draw partners by what they know of class pairs."""

from __future__ import annotations

from abc import abstractmethod
from typing import Any, NamedTuple, final

import torch
from torch import Tensor

from gradmix_ext import ops
from gradmix_ext._random import uniform
from gradmix_ext.mixers.base import Mixer
from gradmix_ext.mixers.batch import Draw, MixedBatch
from gradmix_ext.mixers.images import ImageBatch, TensorBatch


class PairRule(NamedTuple):
    """How partners are drawn, in the terms of :func:`~gradmix_ext.ops.mix_batch`.

    Attributes:
        policy: ``"soft"``, ``"redraw"`` or ``"skip"``.
        pairs: Class pairs [C, C]: the logarithms of their odds, or which may be mixed (bool).
        exploration: Share of the samples that take any partner.
    """

    policy: str
    pairs: Tensor
    exploration: float = 0.0


class PairMixer(Mixer):
    """Base of the mixers to whom only the classes of two samples matter: one op mixes a batch.

    Subclasses choose the partner by :meth:`pair_rule` alone.
    """

    takes_positions = True

    def __init_subclass__(cls, **options: Any) -> None:
        super().__init_subclass__(**options)
        for name in ("draw_partners", "combine"):
            if getattr(cls, name) is not getattr(PairMixer, name):
                raise TypeError(
                    f"{cls.__name__} must not override {name}, which mixing a tensor does not "
                    "call: override pair_rule, or derive from Mixer"
                )

    @abstractmethod
    def pair_rule(self, device: torch.device) -> PairRule:
        """How partners are drawn now, with its tensor on ``device``."""

    @final
    def draw_partners(self, y: Tensor) -> tuple[Tensor, Tensor]:
        """Partners by :meth:`pair_rule`."""
        rule, generator = self.pair_rule(y.device), self.generator
        if rule.policy == "soft":
            return ops.draw_softly(y, rule.pairs, generator=generator)
        return ops.draw_partners(
            y,
            rule.pairs,
            policy=rule.policy,
            generator=generator,
            exploration=rule.exploration,
        )

    @final
    def _mix(self, x: Tensor | TensorBatch | ImageBatch, y: Tensor, strength: float) -> MixedBatch:
        if isinstance(x, ImageBatch):
            return super()._mix(x, y, strength)
        data, index = (x.data, x.index) if isinstance(x, TensorBatch) else (x, None)
        rule = self.pair_rule(y.device)
        law, generator = self.lam_law, self.generator
        noise: Tensor | None = None
        lam: tuple[Tensor | None, Tensor | None] = None, None
        if not law.is_uniform:  # which the op draws itself, both at once
            noise = uniform(len(y), y.device, generator)
            lam = law.draw(len(y), y.device, generator)
        mixed, partner, mask, partner_target, lam_x, lam_y, weight = ops.mix_batch(
            data,
            y,
            rule.pairs,
            rule.policy,
            index,
            *lam,
            noise=noise,
            generator=generator,
            exploration=rule.exploration,
            strength=strength,
            balance=self.balance,
        )
        drawn = partner, mask, partner_target, lam_x, lam_y
        return Draw(*drawn, weight if self.balance else None, self._observer()).batch(mixed, y)
