"""How strongly two samples are mixed: λ for the inputs and λ for the labels."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from gradmix_ext._arguments import require_choice
from gradmix_ext._random import uniform

COUPLINGS = ("same", "independent", "fixed")
TAPERS = ("none", "linear")


@dataclass(frozen=True)
class LamLaw:
    """The law that λ_x (inputs) and λ_y (labels) are drawn from.

    Zou et al. (ICML 2023, arXiv 2303.08433) mix inputs and labels with different λ and find that
    mixup's benefit survives, so linearity is not what explains it.

    Attributes:
        alpha: λ ~ Beta(alpha, alpha).
        coupling: ``"same"``: λ_x = λ_y; ``"independent"``: two draws, both folded to [0.5, 1] so
            that the dominant input keeps the dominant label; ``"fixed"``: `fixed`.
        fixed: (λ_x, λ_y), for ``"fixed"`` alone.
        per_sample: One draw per sample instead of one per batch.
    """

    alpha: float = 1.0
    coupling: str = "same"
    fixed: tuple[float, float] | None = None
    per_sample: bool = False

    def __post_init__(self) -> None:
        if not (math.isfinite(self.alpha) and self.alpha > 0):
            raise ValueError(f"alpha must be positive and finite, got {self.alpha}")
        require_choice("lam_coupling", self.coupling, COUPLINGS)
        if (self.fixed is None) == (self.coupling == "fixed"):
            raise ValueError(
                "fixed_lam and lam_coupling='fixed' come together, got "
                f"lam_coupling={self.coupling!r} and fixed_lam={self.fixed}"
            )
        if self.fixed is not None and len(self.fixed) != 2:
            raise ValueError(f"fixed_lam must be two numbers, λ_x and λ_y, got {self.fixed}")
        for name, value in zip(("λ_x", "λ_y"), self.fixed or (), strict=False):
            if not 0 <= value <= 1:
                raise ValueError(f"fixed_lam must be in [0, 1], got {name} = {value}")

    @property
    def is_uniform(self) -> bool:
        """Whether every sample has one λ of its own, uniform in [0, 1)."""
        return self.alpha == 1 and self.per_sample and self.coupling == "same"

    @property
    def is_symmetric(self) -> bool:
        """Whether 1 - λ has the law of λ: which of two samples comes first does not matter."""
        return self.coupling == "same"

    def draw(
        self, samples: int, device: torch.device, generator: torch.Generator | None
    ) -> tuple[Tensor, Tensor]:
        """(λ_x [N], λ_y [N]) for a batch, float32, without waiting for the device."""
        if self.fixed is not None:
            x, y = (
                torch.full((samples,), value, dtype=torch.float32, device=device)
                for value in self.fixed
            )
            return x, y
        lam_x = self._beta(samples, device, generator)
        if self.coupling == "same":
            return lam_x, lam_x
        lam_y = self._beta(samples, device, generator)
        return torch.maximum(lam_x, 1 - lam_x), torch.maximum(lam_y, 1 - lam_y)

    def _beta(
        self, samples: int, device: torch.device, generator: torch.Generator | None
    ) -> Tensor:
        if self.per_sample:
            return beta(self.alpha, samples, device, generator)
        return beta(self.alpha, 1, device, generator).expand(samples)


@dataclass(frozen=True)
class Schedule:
    """How strong mixing is in each epoch, from 1 (full) to 0 (none).

    The same paper finds that mixup does its work early in training and can be stopped then.

    Attributes:
        stop_epoch: First epoch (from 0) without mixing; None never stops.
        taper: ``"none"``: full strength until then; ``"linear"``: falling evenly towards 0.
    """

    stop_epoch: int | None = None
    taper: str = "none"

    def __post_init__(self) -> None:
        require_choice("taper", self.taper, TAPERS)
        if self.stop_epoch is not None and self.stop_epoch < 0:
            raise ValueError(f"stop_epoch must not be negative, got {self.stop_epoch}")
        if self.taper != "none" and self.stop_epoch is None:
            raise ValueError(f"taper={self.taper!r} needs stop_epoch, the epoch in which it ends")

    def strength(self, epoch: int) -> float:
        """The factor on 1 - λ in this epoch."""
        if self.stop_epoch is None:
            return 1.0
        if epoch >= self.stop_epoch:
            return 0.0
        return 1 - epoch / self.stop_epoch if self.taper == "linear" else 1.0


def beta(
    alpha: float, count: int, device: torch.device, generator: torch.Generator | None
) -> Tensor:
    """``count`` draws of λ ~ Beta(α, α), float32 on ``device``, without waiting for it."""
    if alpha == 1.0:
        return uniform(count, device, generator, torch.float32)
    # torch.distributions.Beta takes no generator; it samples by this function too.
    concentration = torch.full((count, 2), alpha, dtype=torch.float32, device=device)
    return torch._sample_dirichlet(concentration, generator=generator)[:, 0]
