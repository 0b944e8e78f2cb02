"""Data with common and rare features, as patches."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import torch
from torch import Tensor

__all__ = ["COMMON", "FEATURE_NOISE", "RARE", "RARE_COUNTS", "DataModel", "PatchData"]

FEATURE_NOISE = ("other", "either")
RARE_COUNTS = ("exact", "binomial")

#: Rows of the feature matrix [4, d]: ``COMMON + k`` and ``RARE + k`` belong to class k.
COMMON, RARE = 0, 2


@dataclass(frozen=True, eq=False)
class PatchData:
    """Samples of P patches, each patch a multiple of one row of `atoms`.

    The many samples that share a feature share its row, and so inner products with features are
    computed once rather than once per sample.

    Attributes:
        atoms: Distinct directions, [U, d]: the four features, then the noise patches.
        index: Row of `atoms` of each patch, int64 [n, P].
        scale: Factor of each patch, [n, P].
        y: Class, 0 or 1, int64 [n].
        rare: Does the sample carry its class's rare feature instead of the common one, bool [n].
        noise_class: Class whose common feature is the feature noise, int64 [n].
    """

    atoms: Tensor
    index: Tensor
    scale: Tensor
    y: Tensor
    rare: Tensor
    noise_class: Tensor

    def __len__(self) -> int:
        return len(self.y)

    @property
    def x(self) -> Tensor:
        """The samples, [n, P, d]."""
        return self.scale[..., None] * self.atoms[self.index]

    @property
    def opposed(self) -> Tensor:
        """Is the feature noise that of the other class, bool [n]."""
        return self.noise_class != self.y

    def to(self, device: torch.device | str, dtype: torch.dtype) -> PatchData:
        """On another device, with other floating numbers."""
        moved = {name: value.to(device) for name, value in vars(self).items()}
        for name in ("atoms", "scale"):
            moved[name] = moved[name].to(dtype)
        return replace(self, **moved)


@dataclass(frozen=True)
class DataModel:
    """Two balanced classes; a sample shows the common feature of its class, or its rare one.

    The P patches of a sample, all in R^d:

    1. its class's common feature with probability 1 - rho, its rare feature with probability rho;
    2. feature noise: alpha times the common feature of the other class;
    3. P - 2 patches of Gaussian noise, standard deviation sigma_p in every direction that is
       orthogonal to the features.

    The four features are orthonormal. After Zou, Cao, Li, Gu, "The Benefits of Mixup for Feature
    Learning" (ICML 2023, arXiv 2303.08433), derived anew from its abstract and opening.

    Attributes:
        n: Samples.
        d: Entries of a patch.
        patches: Patches of a sample, P.
        alpha: Coefficient of the feature noise.
        rho: Probability of the rare feature.
        sigma_p: Standard deviation of an entry of the noise.
        feature_noise: ``"other"``: the other class's common feature, as above; ``"either"``: that
            of the sample's own class in half of the samples, so that the feature noise as such
            says nothing about the class.
        rare_count: ``"exact"``: rho n rare samples, rounded, evenly over the classes; which ones
            is random. ``"binomial"``: every sample for itself, so that a class may have few.
        shuffle_patches: Patches in random order, instead of the same order in every sample. Mixup
            mixes patch by patch, so the order decides what meets what.
    """

    n: int = 150
    d: int = 800
    patches: int = 5
    alpha: float = 0.3
    rho: float = 0.1
    sigma_p: float = 0.15
    feature_noise: str = "other"
    rare_count: str = "exact"
    shuffle_patches: bool = False

    def __post_init__(self) -> None:
        for name, least in (("n", 2), ("d", 4), ("patches", 2)):
            value = getattr(self, name)
            if value < least:
                raise ValueError(f"{name} must be at least {least}, got {value}")
        for name in ("alpha", "sigma_p"):
            value = getattr(self, name)
            if not (value >= 0 and math.isfinite(value)):
                raise ValueError(f"{name} must be at least 0 and finite, got {value}")
        if not 0 <= self.rho <= 1:
            raise ValueError(f"rho must be in [0, 1], got {self.rho}")
        for name, known in (("feature_noise", FEATURE_NOISE), ("rare_count", RARE_COUNTS)):
            if getattr(self, name) not in known:
                raise ValueError(f"{name} must be one of {known}, got {getattr(self, name)!r}")

    def features(self, generator: torch.Generator) -> Tensor:
        """Four random orthonormal features, float64 [4, d]: common 0, common 1, rare 0, rare 1."""
        normal = torch.randn(self.d, 4, generator=generator, dtype=torch.float64)
        basis: Tensor = torch.linalg.qr(normal).Q
        return basis.T.contiguous()

    def sample(self, features: Tensor, generator: torch.Generator) -> PatchData:
        """Draw n samples, float64 on the CPU.

        Args:
            features: Orthonormal rows as from :meth:`features`, [4, d].
            generator: A generator of the CPU.

        Raises:
            ValueError: `features` is not [4, d].
        """
        if features.shape != (4, self.d):
            raise ValueError(f"features must be [4, {self.d}], got {list(features.shape)}")
        n, noises = self.n, self.patches - 2
        y = torch.arange(n) % 2
        rare = self._draw_rare(y, generator)
        noise_class = 1 - y
        if self.feature_noise == "either":
            own = _random_half(y, generator)
            noise_class = torch.where(own, y, noise_class)
        noise = torch.randn(n * noises, self.d, generator=generator, dtype=torch.float64)
        noise -= (noise @ features.T) @ features
        index = torch.cat(
            [
                (COMMON + y + (RARE - COMMON) * rare)[:, None],
                (COMMON + noise_class)[:, None],
                4 + torch.arange(n * noises).view(n, noises),
            ],
            dim=1,
        )
        scale = torch.ones(n, self.patches, dtype=torch.float64)
        scale[:, 1] = self.alpha
        if self.shuffle_patches:
            order = torch.rand(n, self.patches, generator=generator).argsort(dim=1)
            index, scale = index.gather(1, order), scale.gather(1, order)
        atoms = torch.cat([features, self.sigma_p * noise])
        return PatchData(atoms, index, scale, y, rare, noise_class)

    def test_set(
        self, kind: str, n: int, features: Tensor, generator: torch.Generator
    ) -> PatchData:
        """Draw n test samples that are all common, or all rare.

        The feature noise is that of either class, half and half (see `feature_noise`): a network
        that knows nothing but common features gets half of the rare samples right. How it does on
        those whose feature noise is as in training follows from `PatchData.opposed`.

        Args:
            kind: ``"common"`` or ``"rare"``.
            n: Samples.
            features: Those of the training data, [4, d].
            generator: A generator of the CPU.

        Raises:
            ValueError: `kind` is unknown, or n is less than 4.
        """
        if kind not in ("common", "rare"):
            raise ValueError(f"kind must be 'common' or 'rare', got {kind!r}")
        if n < 4:
            raise ValueError(f"a test set needs at least 4 samples, got {n}")
        model = replace(self, n=n, rho=float(kind == "rare"), feature_noise="either")
        return model.sample(features, generator)

    def _draw_rare(self, y: Tensor, generator: torch.Generator) -> Tensor:
        if self.rare_count == "binomial":
            return torch.rand(self.n, generator=generator, dtype=torch.float64) < self.rho
        total = round(self.rho * self.n)
        rank = _rank_in_class(y, generator)
        # Rank r of either class before rank r + 1 of any; y breaks the tie for an odd total.
        return 2 * rank + y < total


def _rank_in_class(y: Tensor, generator: torch.Generator) -> Tensor:
    """Number the samples of each class from 0, in random order, [n]."""
    rank = torch.empty_like(y)
    for k in (0, 1):
        members = (y == k).nonzero().squeeze(1)
        rank[members] = torch.randperm(len(members), generator=generator)
    return rank


def _random_half(y: Tensor, generator: torch.Generator) -> Tensor:
    """A random half of each class, bool [n]."""
    return _rank_in_class(y, generator) % 2 == 0
