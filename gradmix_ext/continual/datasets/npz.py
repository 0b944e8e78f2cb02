"""Data sets from .npz files."""

from __future__ import annotations

from pathlib import Path
from zipfile import is_zipfile

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from gradmix_ext.continual.data import ArrayDataset, check_labels, first_not_finite
from gradmix_ext.continual.datasets.split import stratified_split
from gradmix_ext.mixers.images import ImageTransform

__all__ = ["load_npz", "numbered_classes"]


def load_npz(path: Path) -> ArrayDataset:
    """Read an .npz file with integer labels and inputs of numbers.

    It holds ``x`` and ``y`` (split 80/20 by class) or ``x_train``, ``y_train``, ``x_test`` and
    ``y_test``. Inputs of uint8 are images if their shape is that of images: [N, H, W],
    [N, H, W, ch] or [N, ch, H, W] with 1 or 3 channels ch. They stay uint8, channels first, and
    are scaled to [0, 1] batch by batch. Everything else becomes float32 as it is; flat uint8
    inputs are scaled to [0, 1].

    Raises:
        ValueError: the file does not hold what it must, or it cannot be told which axis of images
            is that of the channels.
        FileNotFoundError: the file is not there.
    """
    if not path.is_file():
        raise FileNotFoundError(f"data set not found: {path}")
    if not is_zipfile(path):  # NumPy takes it for a pickle, and advises to run it
        raise ValueError(f"{path} cannot be read as an .npz file: it is not a zip archive")
    try:
        with np.load(path, allow_pickle=False) as archive:
            arrays = {key: archive[key] for key in archive.files}
    except Exception as error:  # a damaged archive fails in zipfile, zlib or NumPy's own parser
        raise ValueError(f"{path} cannot be read as an .npz file: {error}") from error
    if {"x_train", "y_train", "x_test", "y_test"} <= arrays.keys():
        train_y = _integer_labels(arrays["y_train"], path, "y_train")
        return _dataset(
            path.stem,
            _inputs(arrays["x_train"], path, "x_train"),
            train_y,
            _inputs(arrays["x_test"], path, "x_test"),
            _integer_labels(arrays["y_test"], path, "y_test"),
            numbered_classes(train_y),
        )
    if {"x", "y"} <= arrays.keys():
        y = _integer_labels(arrays["y"], path, "y")
        x = _inputs(arrays["x"], path, "x")
        if len(x) != len(y):
            raise ValueError(f"{path}: x holds {len(x)} samples and y {len(y)} labels")
        class_names = numbered_classes(y)
        # Before the split, which would shuffle positions and complain of a class too small for it.
        check_labels(str(path), "y", y, len(class_names))
        train, test = stratified_split(path.stem, y, class_names)
        return _dataset(path.stem, x[train], y[train], x[test], y[test], class_names)
    found = ", ".join(sorted(arrays)) or "nothing"
    raise ValueError(
        f"{path} must hold x and y, or x_train, y_train, x_test and y_test; it holds {found}"
    )


def numbered_classes(labels: Tensor) -> tuple[str, ...]:
    """Names '0' to 'C - 1', with C the number of distinct labels in training.

    Labels that leave gaps or start elsewhere then fail the range check of the data set, before a
    head with rows for classes that do not exist is built.
    """
    return tuple(str(k) for k in range(len(labels.unique())))


def _dataset(
    name: str,
    train_x: Tensor,
    train_y: Tensor,
    test_x: Tensor,
    test_y: Tensor,
    class_names: tuple[str, ...],
) -> ArrayDataset:
    if train_x.dtype != torch.uint8:
        return ArrayDataset(name, train_x, train_y, test_x, test_y, class_names)
    channels, height, width = train_x.shape[1:]
    transform = ImageTransform((0.0,) * channels, (1.0,) * channels)
    shape = (channels, height, width)
    return ArrayDataset(name, train_x, train_y, test_x, test_y, class_names, shape, transform)


def _inputs(array: NDArray[np.generic], path: Path, key: str) -> Tensor:
    """Images [N, ch, H, W] (uint8), or float32 inputs [N, ...]."""
    if array.ndim < 2 or array.dtype.kind not in "fiub":
        raise ValueError(
            f"{path}: {key} must hold numbers of shape [N, ...], got {array.dtype} "
            f"{list(array.shape)}"
        )
    if array.dtype == np.uint8 and array.ndim in (3, 4):
        return _images(torch.from_numpy(array), path, key)
    with np.errstate(over="ignore"):  # what does not fit is reported below
        values = torch.from_numpy(array.astype(np.float32))
    position = first_not_finite(values)
    if position is not None:
        raise ValueError(
            f"{path}: {key}{list(position)} = {array[position]} is not a finite number of 32 bits"
        )
    return values / 255.0 if array.dtype == np.uint8 else values


def _images(values: Tensor, path: Path, key: str) -> Tensor:
    """[N, H, W], [N, H, W, ch] or [N, ch, H, W] as [N, ch, H, W]."""
    if values.ndim == 3:
        return values.unsqueeze(1)
    first, last = (values.shape[axis] in (1, 3) for axis in (1, -1))
    if first == last:
        raise ValueError(
            f"{path}: {key} of uint8 must hold images [N, H, W], [N, H, W, ch] or [N, ch, H, W] "
            f"with 1 or 3 channels, got {list(values.shape)}; other shapes are read as floats"
        )
    return values if first else values.permute(0, 3, 1, 2).contiguous()


def _integer_labels(array: NDArray[np.generic], path: Path, key: str) -> Tensor:
    if array.ndim != 1 or array.dtype.kind not in "iu":
        raise ValueError(
            f"{path}: {key} must hold integer labels of shape [N], got {array.dtype} "
            f"{list(array.shape)}"
        )
    return torch.from_numpy(array.astype(np.int64))
