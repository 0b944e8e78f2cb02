"""Batches whose samples are still in their data set, gathered, augmented and mixed in one pass."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Protocol

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensor

from gradmix_ext import _checks as checks
from gradmix_ext import ops

__all__ = ["ImageBatch", "ImageTransform", "Inputs", "TensorBatch", "copied"]


class Inputs(Protocol):
    """What a criterion takes samples from: a tensor, an :class:`ImageBatch`, or your own.

    Indexing by a slice or by positions [n] (int64) gives samples that are ready for the model.
    """

    def __len__(self) -> int:
        """Number of samples."""
        ...

    def __getitem__(self, index: slice | Tensor, /) -> Tensor:
        """Samples ready for the model, on its device."""
        ...


def copied(x: Inputs, start: int, end: int) -> Tensor:
    """Samples start to end, never a view of a tensor: a model may change what it is given."""
    part = x[start:end]
    return part.clone() if isinstance(x, Tensor) else part


@dataclass(frozen=True, eq=False)
class TensorBatch:
    """Samples of a floating-point data set, named by their positions.

    A mixer takes it in the place of a tensor; a
    :class:`~gradmix_ext.mixers.PairMixer` gathers and mixes in one pass.

    Attributes:
        data: The data set [M, ...].
        index: Positions [N] (int64) of the batch in it.
    """

    data: Tensor
    index: Tensor

    def __len__(self) -> int:
        return len(self.index)

    def __getitem__(self, index: slice | Tensor) -> Tensor:
        """Samples of the batch."""
        return self.data[self.index[index]]

    @property
    def device(self) -> torch.device:
        """Where the data is."""
        return self.data.device

    def gathered(self) -> Tensor:
        """The batch [N, ...] as a tensor."""
        if checks.values_checked(self.device):
            rows = len(self.data)
            checks.in_range("mix", "x.index", self.index, rows, f"{rows} samples")
        return self.data.index_select(0, self.index)


@dataclass(frozen=True)
class ImageTransform:
    """How uint8 images become what a model sees.

    Attributes:
        mean: Mean of each channel, in units of [0, 1].
        std: Standard deviation of each channel, in the same units.
        padding: In training, black pixels added on every side before a random crop to the old size.
        hflip: In training, whether images are flipped left to right with probability ½.
    """

    mean: tuple[float, ...]
    std: tuple[float, ...]
    padding: int = 0
    hflip: bool = False

    def __post_init__(self) -> None:
        # Lists too become what can be hashed: the constants on a device are kept by transform.
        for name in ("mean", "std"):
            object.__setattr__(self, name, tuple(float(value) for value in getattr(self, name)))
        if len(self.mean) != len(self.std) or not self.mean:
            raise ValueError(
                f"mean and std must have one value per channel, got {self.mean} and {self.std}"
            )
        if min(self.std) <= 0:
            raise ValueError(f"std must be positive, got {self.std}")
        if self.padding < 0:
            raise ValueError(f"padding must not be negative, got {self.padding}")


@dataclass(frozen=True, eq=False)
class ImageBatch:
    """Samples of a uint8 data set on the device, named by their positions.

    A mixer takes it in the place of a tensor. What the model gets is made by one kernel that
    gathers, crops, flips, normalises and mixes; no float copy of the batch is written before that.

    Attributes:
        images: The data set [M, ch, H, W], uint8.
        index: Positions [N] (int64) of the batch in it.
        transform: Normalisation and augmentation.
        generator: Source of the augmentation, on the device of the images.
    """

    images: Tensor
    index: Tensor
    transform: ImageTransform
    generator: torch.Generator | None = None

    def __len__(self) -> int:
        return len(self.index)

    def __getitem__(self, index: slice | Tensor) -> Tensor:
        """Samples of the batch, normalised and not augmented."""
        mean, std = self._constants()
        return ops.gather_augment_mixup(self.images, self.index[index], mean=mean, std=std)

    @property
    def device(self) -> torch.device:
        """Where the images are."""
        return self.images.device

    def augmented(self) -> Tensor:
        """The batch [N, ch, H, W], augmented and not mixed."""
        return self._gather(None, 1.0, None)

    def mixed(self, partner: Tensor, lam: Tensor, mask: Tensor) -> Tensor:
        """The batch, augmented and mixed; each partner is augmented on its own.

        Args:
            partner: Position [N] of each sample's partner in the batch.
            lam: Weight [N] of the sample itself.
            mask: Samples [N] (bool) that are mixed.
        """
        return self._gather(self.index[partner], lam, mask)

    def _constants(self) -> tuple[Tensor, Tensor]:
        # What a tracer sees must not be kept: it has to serve without one.
        traced = torch.compiler.is_compiling() or isinstance(self.images, FakeTensor)
        return (_constants if traced else _kept_constants)(self.transform, self.images.device)

    def _gather(
        self, partner_index: Tensor | None, lam: Tensor | float, mask: Tensor | None
    ) -> Tensor:
        mean, std = self._constants()
        return ops.gather_augment_mixup(
            self.images,
            self.index,
            partner_index,
            lam,
            mask,
            mean=mean,
            std=std,
            padding=self.transform.padding,
            hflip=self.transform.hflip,
            generator=self.generator,
        )


def _constants(transform: ImageTransform, device: torch.device) -> tuple[Tensor, Tensor]:
    """Mean and std on the device."""
    mean = torch.tensor(transform.mean, dtype=torch.float32, device=device)
    return mean, torch.tensor(transform.std, dtype=torch.float32, device=device)


# Copied to the device once, not in every step.
_kept_constants = lru_cache(maxsize=64)(_constants)
