"""Samples as a criterion takes them, from what frameworks have: tensors and map-style data sets."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import ConcatDataset, Dataset, IterableDataset, Subset, TensorDataset

from gradmix_ext.mixers import Mixer
from gradmix_ext.mixers.base import Samples

__all__ = ["DatasetInputs", "Source", "labels_of", "require_source", "samples_of"]

#: Samples ``(x [N, ...], y [N])``, a map-style data set of pairs ``(x, y)``, a function that
#: returns either, or None for no samples.
Source = Samples | Dataset[Any] | Callable[[], Any] | None


class DatasetInputs:
    """Inputs of a map-style data set, read when indexed and brought to the device.

    Args:
        count: Number of samples.
        read: Gives the samples [n, ...] at these positions.
        device: Where the model is.
    """

    def __init__(
        self, count: int, read: Callable[[list[int]], Tensor], device: torch.device
    ) -> None:
        self.count = count
        self.read = read
        self.device = device

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: slice | Tensor) -> Tensor:
        """Samples ready for the model."""
        if isinstance(index, slice):
            return self.read(list(range(*index.indices(self.count)))).to(self.device)
        return self.read(index.tolist()).to(self.device)


def samples_of(source: Source, device: torch.device) -> Samples | None:
    """Samples on the device, those of a data set read on demand; None where there are none.

    Raises:
        TypeError: ``source`` is none of what :data:`Source` names.
    """
    if callable(source):
        source = source()
    if source is None:
        return None
    if isinstance(source, Dataset) and _has_pairs(source):
        labels = labels_of(source)
        dataset: Any = source

        def read(positions: list[int]) -> Tensor:
            return torch.stack([torch.as_tensor(dataset[i][0]) for i in positions])

        return DatasetInputs(len(labels), read, device), labels.to(device)
    if not (isinstance(source, tuple) and len(source) == 2 and isinstance(source[1], Tensor)):
        raise TypeError(
            "samples must be (x, y), a map-style data set of pairs (x, y), or a function that "
            f"returns either, got {type(source).__name__}"
        )
    x, y = source
    return (x.to(device) if isinstance(x, Tensor) else x), y.to(device)


def _has_pairs(dataset: Any) -> bool:
    """Whether a data set is map-style and its samples, if it has any, are pairs."""
    if isinstance(dataset, IterableDataset):
        return False
    return not len(dataset) or isinstance(dataset[0], tuple | list)


def labels_of(dataset: Any) -> Tensor:
    """Labels [N] (int64) of a map-style data set; every sample is read only where it must be."""
    targets = getattr(dataset, "targets", None)
    # The very types, since one that is derived from them may give other labels.
    if type(dataset) is TensorDataset:
        return dataset.tensors[1].long()
    if type(dataset) is Subset:
        return labels_of(dataset.dataset)[torch.as_tensor(dataset.indices, dtype=torch.int64)]
    if type(dataset) is ConcatDataset:
        return torch.cat([labels_of(part) for part in dataset.datasets])
    # A transform of the labels makes others of them than the attribute holds.
    if targets is not None and getattr(dataset, "target_transform", None) is None:
        return as_labels(targets)
    return as_labels(dataset[i][1] for i in range(len(dataset)))


def as_labels(targets: Sequence[Any] | Iterable[Any] | Tensor) -> Tensor:
    """Labels [N] (int64) of a tensor, an array or anything else that holds integers."""
    if isinstance(targets, Tensor):
        return targets.long()
    return torch.tensor([int(label) for label in targets], dtype=torch.int64)


class Missing:
    """Stands for an argument that was not given, where None means something."""


def require_source(mixer: Mixer, buffer: object) -> None:
    """Refuse a mixer that learns from a replay buffer and was not told of one.

    Raises:
        ValueError: ``buffer`` was not given although the mixer needs it.
    """
    if mixer.needs_update and buffer is Missing:
        raise ValueError(
            f"{type(mixer).__name__} protects what a replay buffer holds: give buffer=, samples of "
            "the earlier tasks, or buffer=None in the first task"
        )
