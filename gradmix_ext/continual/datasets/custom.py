"""Any PyTorch data set of (sample, label) pairs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset, IterableDataset

from gradmix_ext._arguments import integer
from gradmix_ext.continual.data import ArrayDataset, RawInputs
from gradmix_ext.continual.datasets.image_files import of_bytes
from gradmix_ext.continual.datasets.npz import numbered_classes
from gradmix_ext.mixers.images import ImageTransform

__all__ = ["from_torch"]


def from_torch(
    train: Dataset[Any],
    test: Dataset[Any],
    name: str = "custom",
    *,
    class_names: Sequence[str] | None = None,
    transform: ImageTransform | None = None,
    in_memory: bool = True,
) -> ArrayDataset:
    """Use map-style PyTorch data sets, whose items begin with a sample and an integer label.

    A sample is a PIL image, a tensor of uint8 ([ch, H, W] or [H, W]), or a floating point tensor
    of any shape that is ready for the model. All have the same shape and dtype.

    In memory, every item is read once, here: what a data set draws at random (augmentation) is
    drawn once. Let `transform` augment instead, or pass ``in_memory=False``.

    Args:
        train: Training data.
        test: Test data.
        name: What results call it.
        class_names: One name per class; by default ``train.classes``, else numbers.
        transform: Normalisation and augmentation of images that are PIL or uint8; by default they
            are scaled to [0, 1].
        in_memory: Whether to hold all samples in memory. Otherwise samples are read whenever a
            batch needs them, and labels are ``targets`` of the data set where it has them and no
            ``target_transform``; without, all samples are read once for their labels.

    Raises:
        TypeError: a data set is not map-style, or an item is not a sample with an integer label.
        ValueError: samples differ in shape, a data set is empty, or a label is out of range.
    """
    train_x, train_y = _read(train, "train", in_memory)
    test_x, test_y = _read(test, "test", in_memory)
    if class_names is None:
        class_names = getattr(train, "classes", None) or numbered_classes(train_y)
    shape = None
    first = train_x[0]
    if first.dtype == torch.uint8:
        channels, height, width = first.shape
        shape = (channels, height, width)
        transform = transform or ImageTransform((0.0,) * channels, (1.0,) * channels)
    names = tuple(map(str, class_names))
    return ArrayDataset(name, train_x, train_y, test_x, test_y, names, shape, transform)


class _Samples(Dataset[Tensor]):
    """The samples of a data set of pairs, as tensors that are all alike."""

    def __init__(self, pairs: Any, split: str) -> None:
        if isinstance(pairs, IterableDataset) or not hasattr(pairs, "__len__"):
            raise TypeError(
                f"{split} must be a map-style data set (with len() and indexing), got "
                f"{type(pairs).__name__}"
            )
        if not len(pairs):
            raise ValueError(f"{split} is empty")
        self.pairs = pairs
        self.split = split
        self._like: Tensor | None = None
        self._like = self[0]

    def __len__(self) -> int:
        return len(self.pairs)

    def __getitem__(self, index: int) -> Tensor:
        return self.pair(index)[0]

    def pair(self, index: int) -> tuple[Tensor, int]:
        """Sample and label `index`."""
        where = f"{self.split}[{index}]"
        item = self.pairs[index]
        if not isinstance(item, (tuple, list)) or len(item) < 2:
            raise TypeError(f"{where} must be a sample and a label, got {type(item).__name__}")
        x = _tensor(item[0], where)
        if self._like is not None and (x.shape, x.dtype) != (self._like.shape, self._like.dtype):
            raise ValueError(
                f"samples must be alike: {where} is {x.dtype} {list(x.shape)}, {self.split}[0] is "
                f"{self._like.dtype} {list(self._like.shape)}"
            )
        return x, integer(f"the label of {where}", item[1])


def _read(pairs: Any, split: str, in_memory: bool) -> tuple[RawInputs, Tensor]:
    samples = _Samples(pairs, split)
    positions = range(len(samples))
    if in_memory:
        x, y = zip(*map(samples.pair, positions), strict=True)
        return torch.stack(x), torch.tensor(y)
    targets = getattr(pairs, "targets", None)
    if targets is not None and getattr(pairs, "target_transform", None) is None:
        labels = [integer(f"{split}.targets[{i}]", label) for i, label in enumerate(targets)]
    else:
        labels = [samples.pair(i)[1] for i in positions]
    return samples, torch.tensor(labels)


def _tensor(sample: Any, where: str) -> Tensor:
    if isinstance(sample, Tensor):
        if sample.dtype == torch.uint8 and sample.ndim == 2:
            return sample.unsqueeze(0)
        if sample.is_floating_point() or (sample.dtype == torch.uint8 and sample.ndim == 3):
            return sample
        raise TypeError(
            f"{where} must be an image of uint8 ([ch, H, W] or [H, W]) or floating point, got "
            f"{sample.dtype} {list(sample.shape)}"
        )
    if hasattr(sample, "convert"):  # a PIL image: greyscale stays so, everything else becomes RGB
        try:
            sample = of_bytes(sample)
        except ValueError as error:
            raise TypeError(f"{where} cannot be used: {error}") from error
        image = torch.from_numpy(np.array(sample if sample.mode == "L" else sample.convert("RGB")))
        return image.unsqueeze(0) if image.ndim == 2 else image.permute(2, 0, 1).contiguous()
    raise TypeError(f"{where} must be a PIL image or a tensor, got {type(sample).__name__}")
