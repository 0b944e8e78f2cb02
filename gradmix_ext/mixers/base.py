"""What all mixers share: drawing λ, mixing a batch, saving their state."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from typing import Any

import torch
from torch import Tensor, nn

from gradmix_ext import _checks as checks
from gradmix_ext import ops
from gradmix_ext.mixers.batch import MixedBatch

Samples = tuple[Tensor, Tensor]


class Mixer(ABC):
    """Mixes each sample of a batch with a partner; subclasses choose the partner.

    Args:
        alpha: λ ~ Beta(alpha, alpha).
        per_sample_lam: Draw one λ per sample instead of one per batch.
        generator: Source of all randomness, on the device of the data; PyTorch's own by default.
    """

    #: Whether :meth:`update` does anything.
    needs_update = False

    def __init__(
        self,
        alpha: float = 1.0,
        *,
        per_sample_lam: bool = False,
        generator: torch.Generator | None = None,
    ) -> None:
        if not (math.isfinite(alpha) and alpha > 0):
            raise ValueError(f"alpha must be positive and finite, got {alpha}")
        self.alpha = float(alpha)
        self.per_sample_lam = per_sample_lam
        self.generator = generator

    @abstractmethod
    def draw_partners(self, y: Tensor) -> tuple[Tensor, Tensor]:
        """The partner [N] of each sample with labels ``y`` [N], and whether it is mixed [N]."""

    def draw_lam(self, samples: int, device: torch.device) -> Tensor:
        """λ ~ Beta(α, α) for each sample [N], one for all unless ``per_sample_lam``."""
        drawn = beta(self.alpha, samples if self.per_sample_lam else 1, device, self.generator)
        return drawn.expand(samples)

    def mix(self, x: Tensor, y: Tensor) -> MixedBatch:
        """Mix a batch.

        Args:
            x: Samples [N, ...], floating point.
            y: Labels [N], int64.

        Returns:
            The mixed batch; nothing waits for the device.
        """
        checks.floating("mix", "x", x)
        checks.vector("mix", "y", y, x.shape[0] if x.dim() else 0, torch.int64, x.device)
        partner, mask = self.draw_partners(y)
        lam = torch.where(mask, self.draw_lam(y.shape[0], y.device), 1.0)
        return MixedBatch(
            x=ops.masked_mixup(x, partner, lam, mask),
            target=y,
            partner_target=y[partner],
            lam=lam,
            mask=mask,
            partner=partner,
        )

    def update(  # noqa: B027 - most mixers have nothing to learn
        self,
        model: nn.Module,
        current: Samples,
        buffer: Samples | None = None,
        seen_classes: Tensor | None = None,
    ) -> None:
        """Learn from the model which pairs to mix; mixers without such a criterion do nothing."""

    def update_due(self, step: int) -> bool:
        """Whether :meth:`update` is to be called before this step of an epoch (from 0)."""
        return False

    def state_dict(self) -> dict[str, Any]:
        """Everything that the next draw depends on; tensors and plain values only."""
        return {} if self.generator is None else {"generator": self.generator.get_state()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore what :meth:`state_dict` gave, so that the next draws are the same."""
        if self.generator is not None:
            if "generator" not in state:
                raise ValueError("state has no 'generator', but this mixer draws from one")
            self.generator.set_state(state["generator"])


def beta(
    alpha: float, count: int, device: torch.device, generator: torch.Generator | None
) -> Tensor:
    """``count`` draws of λ ~ Beta(α, α), float32 on ``device``, without waiting for it."""
    if alpha == 1.0:
        return torch.rand(count, device=device, generator=generator)
    # torch.distributions.Beta takes no generator; it samples by this function too.
    concentration = torch.full((count, 2), alpha, device=device)
    return torch._sample_dirichlet(concentration, generator=generator)[:, 0]
