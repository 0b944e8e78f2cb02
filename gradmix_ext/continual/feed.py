"""How samples reach the model: from where they are stored to the device, augmented, in batches."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from gradmix_ext.continual.data import RawInputs, input_count, read
from gradmix_ext.mixers.images import ImageBatch, ImageTransform, Inputs, TensorBatch

__all__ = ["STORAGE", "Feed", "fits"]

STORAGE = ("auto", "device", "host")

Batch = tuple[Tensor | TensorBatch | ImageBatch, Tensor]


class Feed:
    """Brings raw samples to the device.

    Tensors that live on the device are only indexed there. What is in host memory or on disk comes
    through a :class:`torch.utils.data.DataLoader`, with pinned memory and, if wanted, in worker
    processes; a batch of either kind holds the same samples.

    Args:
        transform: Normalisation and augmentation of uint8 images.
        device: Where the model is.
        generator: Source of the augmentation, on that device.
        workers: Processes that read samples which are not on the device.
        reading: Source, on the CPU, of what random data sets draw in those processes.
        positions: Whether a batch of floating-point samples on the device is a
            :class:`~gradmix_ext.mixers.TensorBatch`, gathered only when it is mixed.
    """

    def __init__(
        self,
        transform: ImageTransform | None,
        device: torch.device,
        generator: torch.Generator | None = None,
        workers: int = 0,
        reading: torch.Generator | None = None,
        positions: bool = False,
    ) -> None:
        self.transform = transform
        self.device = device
        self.generator = generator
        self.workers = workers
        self.reading = reading
        self.positions = positions

    def view(self, x: RawInputs) -> Inputs:
        """Samples as criteria, tests and exemplar selection take them: ready when indexed."""
        if not isinstance(x, Tensor) or x.device != self.device:
            return _Stored(self, x)
        return self._whole(x)

    def batches(self, x: RawInputs, y: Tensor, indices: Iterable[Tensor]) -> Iterator[Batch]:
        """Training batches of the samples at each index [n] (int64) into ``x`` and ``y``."""
        if isinstance(x, Tensor) and x.device == self.device:
            for index in indices:
                yield self._at(x, index), y.index_select(0, index)
            return
        loader: DataLoader[Any] = DataLoader(
            _Reader(x, y),
            batch_size=None,  # an index is a whole batch
            sampler=indices,
            num_workers=self.workers,
            pin_memory=self.device.type == "cuda",
            generator=self.reading,
        )
        for part, labels in loader:
            moved = part.to(self.device, non_blocking=True)
            yield self._whole(moved), labels.to(self.device, non_blocking=True)

    def augmented(self, x: Tensor) -> Tensor:
        """Raw samples [n, ...], augmented as in training, ready for the model."""
        batch = self._whole(x.to(self.device, non_blocking=True))
        return batch.augmented() if isinstance(batch, ImageBatch) else batch

    def _whole(self, x: Tensor) -> Tensor | ImageBatch:
        if self.transform is None:
            return x
        index = torch.arange(len(x), device=x.device)
        return ImageBatch(x, index, self.transform, self.generator)

    def _at(self, x: Tensor, index: Tensor) -> Tensor | TensorBatch | ImageBatch:
        if self.transform is None:
            return TensorBatch(x, index) if self.positions else x.index_select(0, index)
        return ImageBatch(x, index, self.transform, self.generator)


class _Stored:
    """Samples in host memory or on disk, brought to the device when they are asked for."""

    def __init__(self, feed: Feed, x: RawInputs) -> None:
        self._feed = feed
        self._x = x

    def __len__(self) -> int:
        return input_count(self._x)

    def __getitem__(self, index: slice | Tensor) -> Tensor:
        if isinstance(index, slice):
            index = torch.arange(*index.indices(len(self)))
        part = self._feed._whole(read(self._x, index.cpu()).to(self._feed.device))
        return part[:]


class _Reader(Dataset[tuple[Tensor, Tensor]]):
    """A data set whose index is that of a whole batch."""

    def __init__(self, x: RawInputs, y: Tensor) -> None:
        self._x = x
        self._y = y

    def __getitem__(self, index: Tensor) -> tuple[Tensor, Tensor]:
        return read(self._x, index), self._y[index]


def fits(inputs: Iterable[RawInputs], device: torch.device) -> bool:
    """Whether inputs can all be kept on the device: tensors of at most half its free memory."""
    size = 0
    for x in inputs:
        if not isinstance(x, Tensor):
            return False
        size += x.numel() * x.element_size()
    return device.type != "cuda" or size <= torch.cuda.mem_get_info(device)[0] // 2
