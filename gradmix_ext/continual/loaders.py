"""Data sets by name or by file."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from gradmix_ext.continual.data import ArrayDataset, check_labels, first_not_finite

__all__ = ["dataset_names", "load_dataset", "register_dataset"]

Loader = Callable[[Path | None], ArrayDataset]

_LOADERS: dict[str, Loader] = {}

# One split for every seed and every arm: seeds differ in class order, weights and batches.
_SPLIT_SEED = 0
_TEST_FRACTION = 0.2


def register_dataset(name: str) -> Callable[[Loader], Loader]:
    """Decorator: make ``load_dataset(name)`` call a function of the data folder (or None)."""

    def register(loader: Loader) -> Loader:
        _LOADERS[name] = loader
        return loader

    return register


def dataset_names() -> list[str]:
    """Names that :func:`load_dataset` knows."""
    return sorted(_LOADERS)


def load_dataset(name: str, data_dir: str | Path | None = None) -> ArrayDataset:
    """Load a data set.

    Args:
        name: A registered name (:func:`dataset_names`), or the path of an .npz file that holds
            integer labels and either ``x`` and ``y`` (split 80/20 by class) or ``x_train``,
            ``y_train``, ``x_test`` and ``y_test``. Inputs of uint8 are scaled to [0, 1].
        data_dir: Where files are looked for.

    Raises:
        ValueError: the name is unknown, or the file does not hold what it must.
        FileNotFoundError: the .npz file is not there.
    """
    folder = None if data_dir is None else Path(data_dir)
    if folder is not None and not folder.is_dir():
        raise FileNotFoundError(f"data folder not found: {folder}")
    if name in _LOADERS:
        return _LOADERS[name](folder)
    if name.endswith(".npz"):
        return _load_npz(Path(name) if folder is None else folder / name)
    known = ", ".join(dataset_names())
    raise ValueError(f"unknown data set '{name}': known are {known}, or the path of an .npz file")


@register_dataset("digits")
def _digits(data_dir: Path | None) -> ArrayDataset:
    """scikit-learn's digits: 1,797 real 8x8 images, flat, scaled to [0, 1]; nothing to download."""
    from sklearn.datasets import load_digits

    digits = load_digits()
    return _stratified(
        "digits",
        (digits.data / 16.0).astype(np.float32),
        digits.target.astype(np.int64),
        tuple(str(name) for name in digits.target_names),
        image_shape=(1, 8, 8),
    )


def _load_npz(path: Path) -> ArrayDataset:
    if not path.is_file():
        raise FileNotFoundError(f"data set not found: {path}")
    try:
        with np.load(path, allow_pickle=False) as archive:
            arrays = {key: archive[key] for key in archive.files}
    except Exception as error:  # a damaged archive fails in zipfile, zlib or NumPy's own parser
        raise ValueError(f"{path} cannot be read as an .npz file: {error}") from error
    if {"x_train", "y_train", "x_test", "y_test"} <= arrays.keys():
        train_y = _integer_labels(arrays["y_train"], path, "y_train")
        return ArrayDataset(
            path.stem,
            _inputs(arrays["x_train"], path, "x_train"),
            torch.from_numpy(train_y),
            _inputs(arrays["x_test"], path, "x_test"),
            torch.from_numpy(_integer_labels(arrays["y_test"], path, "y_test")),
            _numbered_classes(train_y),
        )
    if {"x", "y"} <= arrays.keys():
        y = _integer_labels(arrays["y"], path, "y")
        x = _inputs(arrays["x"], path, "x").numpy()
        if len(x) != len(y):
            raise ValueError(f"{path}: x holds {len(x)} samples and y {len(y)} labels")
        classes = _numbered_classes(y)
        # Before the split, which would shuffle positions and complain of a class too small for it.
        check_labels(str(path), "y", torch.from_numpy(y), len(classes))
        return _stratified(path.stem, x, y, classes)
    found = ", ".join(sorted(arrays)) or "nothing"
    raise ValueError(
        f"{path} must hold x and y, or x_train, y_train, x_test and y_test; it holds {found}"
    )


def _stratified(
    name: str,
    x: NDArray[np.generic],
    y: NDArray[np.int64],
    class_names: tuple[str, ...],
    image_shape: tuple[int, int, int] | None = None,
) -> ArrayDataset:
    """Split 80/20 within each class, the same way every time."""
    from sklearn.model_selection import train_test_split

    try:
        train, test = train_test_split(
            np.arange(len(y)), test_size=_TEST_FRACTION, stratify=y, random_state=_SPLIT_SEED
        )
    except ValueError as error:
        raise ValueError(f"{name}: no 80/20 split by class is possible: {error}") from error
    return ArrayDataset(
        name,
        torch.from_numpy(x[train]),
        torch.from_numpy(y[train]),
        torch.from_numpy(x[test]),
        torch.from_numpy(y[test]),
        class_names,
        image_shape,
    )


def _inputs(array: NDArray[np.generic], path: Path, key: str) -> Tensor:
    if array.ndim < 2 or array.dtype.kind not in "fiub":
        raise ValueError(
            f"{path}: {key} must hold numbers of shape [N, ...], got {array.dtype} "
            f"{list(array.shape)}"
        )
    with np.errstate(over="ignore"):  # what does not fit is reported below
        values = torch.from_numpy(array.astype(np.float32))
    position = first_not_finite(values)
    if position is not None:
        raise ValueError(
            f"{path}: {key}{list(position)} = {array[position]} is not a finite number of 32 bits"
        )
    return values / 255.0 if array.dtype == np.uint8 else values


def _integer_labels(array: NDArray[np.generic], path: Path, key: str) -> NDArray[np.int64]:
    if array.ndim != 1 or array.dtype.kind not in "iu":
        raise ValueError(
            f"{path}: {key} must hold integer labels of shape [N], got {array.dtype} "
            f"{list(array.shape)}"
        )
    return array.astype(np.int64)


def _numbered_classes(labels: NDArray[np.int64]) -> tuple[str, ...]:
    """Names '0' to 'C - 1', with C the number of distinct labels in training.

    Labels that leave gaps or start elsewhere then fail the range check of the data set, before a
    head with rows for classes that do not exist is built.
    """
    return tuple(str(k) for k in range(len(np.unique(labels))))
