"""The two-layer patch network."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from gradmix_ext.theory.rare_features.data import COMMON, RARE, PatchData

__all__ = ["ACTIVATIONS", "PatchNetwork", "activate"]

ACTIVATIONS = ("square", "cube", "relu")


def activate(z: Tensor, activation: str) -> Tensor:
    """σ(z): z², z³ or max(z, 0).

    Raises:
        ValueError: the activation is unknown.
    """
    if activation == "relu":
        return z.relu()
    return z ** power(activation)


def power(activation: str) -> int:
    """The exponent of a polynomial activation.

    Raises:
        ValueError: the activation is not a polynomial.
    """
    if activation not in ("square", "cube"):
        raise ValueError(f"activation must be one of {ACTIVATIONS}, got {activation!r}")
    return 2 if activation == "square" else 3


@dataclass(frozen=True, eq=False)
class PatchNetwork:
    """F_k(x) = Σ_r Σ_p σ(<w_kr, x_p>); the second layer is fixed to ones.

    Attributes:
        weight: w_kr, [2, m, d].
        activation: ``"square"``, ``"cube"`` or ``"relu"``.
    """

    weight: Tensor
    activation: str = "square"

    def __post_init__(self) -> None:
        if self.weight.ndim != 3 or len(self.weight) != 2:
            raise ValueError(f"weight must be [2, m, d], got {list(self.weight.shape)}")
        if self.activation not in ACTIVATIONS:
            raise ValueError(f"activation must be one of {ACTIVATIONS}, got {self.activation!r}")

    @classmethod
    def initial(
        cls,
        filters: int,
        d: int,
        std: float,
        generator: torch.Generator,
        activation: str = "square",
    ) -> PatchNetwork:
        """Gaussian weights with standard deviation `std`, float64 on the CPU.

        Raises:
            ValueError: fewer than one filter, or `std` is not positive, or as for the class.
        """
        if filters < 1:
            raise ValueError(f"filters must be at least 1, got {filters}")
        if not 0 < std < float("inf"):
            raise ValueError(f"init std must be positive and finite, got {std}")
        weight = torch.randn(2, filters, d, generator=generator, dtype=torch.float64)
        return cls(std * weight, activation)

    def logits(self, data: PatchData) -> Tensor:
        """F_0 and F_1 of every sample, [n, 2]."""
        products = data.atoms @ self.weight.flatten(0, 1).T  # [U, 2 m]
        patches = data.scale[..., None] * products[data.index]  # [n, P, 2 m]
        return _by_class(activate(patches, self.activation).sum(dim=1))

    def correct(self, data: PatchData) -> Tensor:
        """Is the class of the larger logit the right one, bool [n]."""
        return self.logits(data).argmax(dim=1) == data.y

    def margins(self, features: Tensor) -> Tensor:
        """How strongly each feature is learned, [2, 2]: rows common and rare, columns classes.

        The margin of a feature f of class k is F_k - F_{1-k} of a sample whose only patch is f. It
        has the scale of a logit: 0 means that the network does not tell the feature's class.

        Args:
            features: Orthonormal rows as from :meth:`DataModel.features`, [4, d].
        """
        sums = _by_class(activate(features @ self.weight.flatten(0, 1).T, self.activation))
        own_minus_other = sums - sums.flip(1)
        rows = [own_minus_other[start : start + 2].diagonal() for start in (COMMON, RARE)]
        return torch.stack(rows)


def _by_class(values: Tensor) -> Tensor:
    """Sum over the filters of each class, [N, 2 m] to [N, 2]."""
    sums: Tensor = values.unflatten(1, (2, -1)).sum(dim=2)
    return sums
