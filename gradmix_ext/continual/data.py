"""A data set held as tensors: what scenarios are cut from."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

__all__ = ["ArrayDataset", "check_labels", "first_not_finite"]


@dataclass(frozen=True, eq=False)
class ArrayDataset:
    """Training and test samples as tensors, checked once so that nothing later has to.

    Attributes:
        name: What results call it.
        train_x: Training inputs, [N, ...], floating point and finite.
        train_y: Training labels, [N], int64 in [0, number of classes).
        test_x: Test inputs, [M, ...], the same shape per sample.
        test_y: Test labels, [M], int64 in [0, number of classes).
        class_names: One name per class; their number is the number of classes.
        image_shape: (channels, height, width) where a sample is an image, also when `train_x`
            holds it flat; None otherwise.

    Raises:
        TypeError: a dtype is wrong.
        ValueError: shapes disagree, an input is infinite or NaN, or a label is out of range.
    """

    name: str
    train_x: Tensor
    train_y: Tensor
    test_x: Tensor
    test_y: Tensor
    class_names: tuple[str, ...]
    image_shape: tuple[int, int, int] | None = None

    def __post_init__(self) -> None:
        if not self.class_names:
            raise ValueError(f"{self.name}: class_names is empty: at least one class is needed")
        for split in ("train", "test"):
            x, y = getattr(self, f"{split}_x"), getattr(self, f"{split}_y")
            if not x.is_floating_point():
                raise TypeError(f"{self.name}: {split}_x must be floating point, got {x.dtype}")
            if y.dtype != torch.int64:
                raise TypeError(f"{self.name}: {split}_y must be int64, got {y.dtype}")
            if x.ndim < 2 or y.ndim != 1 or len(x) != len(y):
                raise ValueError(
                    f"{self.name}: {split}_x must be [N, ...] and {split}_y [N], got "
                    f"{list(x.shape)} and {list(y.shape)}"
                )
            position = first_not_finite(x)
            if position is not None:
                raise ValueError(
                    f"{self.name}: {split}_x{list(position)} = {x[position].item()} is not finite"
                )
            check_labels(self.name, f"{split}_y", y, self.num_classes)
        if self.train_x.shape[1:] != self.test_x.shape[1:]:
            raise ValueError(
                f"{self.name}: training samples have shape {list(self.train_x.shape[1:])}, test "
                f"samples {list(self.test_x.shape[1:])}"
            )

    @property
    def num_classes(self) -> int:
        """Number of classes, C."""
        return len(self.class_names)


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
