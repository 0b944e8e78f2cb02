"""A data set with everything checked: what scenarios are cut from."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor
from torch.utils.data import ConcatDataset, Dataset, Subset, TensorDataset

from gradmix_ext.mixers.images import ImageTransform

__all__ = [
    "ArrayDataset",
    "RawInputs",
    "check_labels",
    "concatenate",
    "first_not_finite",
    "input_count",
    "read",
    "subset",
]

#: Samples as they are stored: a tensor, or a map-style data set that reads one tensor per index.
RawInputs = Tensor | Dataset[Tensor]


@dataclass(frozen=True, eq=False)
class ArrayDataset:
    """Training and test samples, checked once so that nothing later has to.

    Inputs are tensors, or map-style data sets whose samples are read when a batch needs them; of
    those only the first sample can be checked here.

    Attributes:
        name: What results call it.
        train_x: Training inputs, [N, ...]: floating point and finite, ready for the model; or uint8
            images [N, ch, H, W], which `transform` makes ready.
        train_y: Training labels, [N], int64 in [0, number of classes).
        test_x: Test inputs, [M, ...], the same dtype and shape per sample.
        test_y: Test labels, [M], int64 in [0, number of classes).
        class_names: One name per class; their number is the number of classes.
        image_shape: (channels, height, width) where a sample is an image, also when `train_x`
            holds it flat; None otherwise.
        transform: Normalisation and augmentation of uint8 images; None for other inputs.

    Raises:
        TypeError: a dtype is wrong.
        ValueError: shapes or dtypes disagree, an input is infinite or NaN, a label is out of range,
            or a transform is missing or does not fit.
    """

    name: str
    train_x: RawInputs
    train_y: Tensor
    test_x: RawInputs
    test_y: Tensor
    class_names: tuple[str, ...]
    image_shape: tuple[int, int, int] | None = None
    transform: ImageTransform | None = None

    def __post_init__(self) -> None:
        if not self.class_names:
            raise ValueError(f"{self.name}: class_names is empty: at least one class is needed")
        for split in ("train", "test"):
            x, y = getattr(self, f"{split}_x"), getattr(self, f"{split}_y")
            if y.dtype != torch.int64:
                raise TypeError(f"{self.name}: {split}_y must be int64, got {y.dtype}")
            if y.ndim != 1 or (isinstance(x, Tensor) and x.ndim < 2) or input_count(x) != len(y):
                found = list(x.shape) if isinstance(x, Tensor) else input_count(x)
                raise ValueError(
                    f"{self.name}: {split}_x must be [N, ...] and {split}_y [N], got "
                    f"{found} and {list(y.shape)}"
                )
            check_labels(self.name, f"{split}_y", y, self.num_classes)
            if isinstance(x, Tensor):
                self._check_inputs(f"{split}_x", x)
            elif len(y):
                self._check_inputs(f"{split}_x", read(x, torch.tensor([0])))
        train, test = self._kind(self.train_x), self._kind(self.test_x)
        if train is not None and 0 in train[1]:
            raise ValueError(f"{self.name}: samples of shape {train[1]} hold nothing")
        if train is None or test is None:
            return
        for what, of_train, of_test in zip(("dtype", "shape"), train, test, strict=True):
            if of_train != of_test:
                raise ValueError(
                    f"{self.name}: training samples have {what} {of_train}, test samples {of_test}"
                )

    def _check_inputs(self, name: str, x: Tensor) -> None:
        if x.dtype == torch.uint8:
            if self.transform is None:
                raise ValueError(f"{self.name}: {name} holds uint8 images: give transform")
            if x.ndim != 4 or x.shape[1] != len(self.transform.mean):
                raise ValueError(
                    f"{self.name}: {name} must be images [N, {len(self.transform.mean)}, H, W] "
                    f"for this transform, got {list(x.shape)}"
                )
        elif self.transform is not None:
            raise ValueError(f"{self.name}: a transform is for uint8 images, got {name} {x.dtype}")
        elif not x.is_floating_point():
            raise TypeError(f"{self.name}: {name} must be floating point or uint8, got {x.dtype}")
        else:
            position = first_not_finite(x)
            if position is not None:
                raise ValueError(
                    f"{self.name}: {name}{list(position)} = {x[position].item()} is not finite"
                )

    @staticmethod
    def _kind(x: RawInputs) -> tuple[torch.dtype, list[int]] | None:
        """Dtype and shape of a sample, None where there is none to look at."""
        if isinstance(x, Tensor):
            return x.dtype, list(x.shape[1:])
        if not input_count(x):
            return None
        sample = _sample(x, 0)
        return sample.dtype, list(sample.shape)

    @property
    def num_classes(self) -> int:
        """Number of classes, C."""
        return len(self.class_names)


def input_count(x: RawInputs) -> int:
    """Number of samples."""
    return len(cast("Any", x))


def read(x: RawInputs, index: Tensor) -> Tensor:
    """The samples at positions [n] (int64), [n, ...]."""
    if isinstance(x, Tensor):
        return x[index]
    if not len(index):
        return read(x, torch.tensor([0]))[:0]
    return torch.stack([_sample(x, position) for position in index.tolist()])


def subset(x: RawInputs, index: Tensor) -> RawInputs:
    """The samples at positions [n] (int64), still to be read where they are not in memory."""
    return x[index] if isinstance(x, Tensor) else Subset(x, index.tolist())


def concatenate(parts: Sequence[RawInputs]) -> RawInputs:
    """The samples of all parts, in order."""
    tensors = [part for part in parts if isinstance(part, Tensor)]
    if len(tensors) == len(parts):
        return torch.cat(tensors)
    return ConcatDataset(
        [TensorDataset(part) if isinstance(part, Tensor) else part for part in parts]
    )


def _sample(x: Dataset[Any], position: int) -> Tensor:
    """One sample; a TensorDataset wraps its own in a tuple."""
    sample = x[position]
    return cast("Tensor", sample[0] if isinstance(sample, tuple) else sample)


def first_not_finite(x: Tensor) -> tuple[int, ...] | None:
    """Position of the first infinite or NaN value, None if there is none."""
    finite = torch.isfinite(x)
    return None if finite.all() else tuple((~finite).nonzero()[0].tolist())


def check_labels(owner: str, name: str, y: Tensor, num_classes: int) -> None:
    """Refuse labels [N] outside [0, num_classes).

    Raises:
        ValueError: naming the owner, the array, and the position and value of the first such label.
    """
    bad = ((y < 0) | (y >= num_classes)).nonzero().flatten()
    if len(bad):
        index = int(bad[0])
        raise ValueError(
            f"{owner}: label out of range: {name}[{index}] = {int(y[index])}, but there are "
            f"{num_classes} classes (0 to {num_classes - 1})"
        )
