"""Names of data sets, and the one function that loads them."""

from __future__ import annotations

import os
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path

from gradmix_ext._arguments import integer, require_kind
from gradmix_ext._folder import default_folder, make_private
from gradmix_ext.continual.data import ArrayDataset
from gradmix_ext.continual.datasets.npz import load_npz

__all__ = ["Source", "dataset_names", "default_data_dir", "load_dataset", "register_dataset"]


@dataclass(frozen=True)
class Source:
    """What a loader is told about its files.

    Attributes:
        data_dir: The folder that the user named, which exists; None if none was named.
        download: Whether files that are not there may be downloaded.
        image_size: Side to which images of any size are brought; None: the loader's own.
    """

    data_dir: Path | None = None
    download: bool = True
    image_size: int | None = None

    @property
    def folder(self) -> Path:
        """Where files are looked for and downloaded to.

        The default folder is shared with the compiled kernels, which are refused where others may
        write: it is created with that in mind before files are downloaded to it.
        """
        if self.data_dir is not None:
            return self.data_dir
        if self.download and not os.environ.get("GRADMIX_EXT_DATA"):
            with suppress(OSError, RuntimeError):  # what downloads says why it cannot write
                make_private(default_folder())
        return default_data_dir()


Loader = Callable[[Source], ArrayDataset]

_LOADERS: dict[str, Loader] = {}


def register_dataset(name: str) -> Callable[[Loader], Loader]:
    """Decorator: make ``load_dataset(name)`` call a function of a :class:`Source`."""

    def register(loader: Loader) -> Loader:
        _LOADERS[name] = loader
        return loader

    return register


def dataset_names() -> list[str]:
    """Names that :func:`load_dataset` knows."""
    return sorted(_LOADERS)


def load_dataset(
    name: str | Path,
    data_dir: str | Path | None = None,
    *,
    download: bool = True,
    image_size: int | None = None,
    crop_padding: int | None = None,
    hflip: bool | None = None,
) -> ArrayDataset:
    """Load a data set.

    Args:
        name: A registered name (:func:`dataset_names`), or the path of an .npz file (see
            `gradmix_ext.continual.datasets.npz.load_npz`).
        data_dir: Where files are looked for, and downloaded to; by default
            `default_data_dir`. For ``"imagefolder"`` the folder of the images.
        download: Whether files that are not there may be downloaded.
        image_size: Side in pixels to which ``"imagefolder"`` and ``"tiny-imagenet"`` bring their
            images: the shorter side is resized to it, then the centre is cut out.
        crop_padding: Black pixels added on every side before a random crop in training; by
            default what is usual for the data set.
        hflip: Whether images are flipped left to right at random in training; by default what is
            usual for the data set.

    Raises:
        ValueError: the name is unknown, a file does not hold what it must, or a setting does not
            fit the data set.
        FileNotFoundError: files are not there and cannot be downloaded; the message says what to
            put where.
        ImportError: the data set needs torchvision, which is not installed.
        TypeError: the name is none.
    """
    require_kind("name", name, str | Path, "the name of a data set or the path of an .npz file")
    name = str(name)
    folder = None if data_dir is None else Path(data_dir).expanduser()
    if folder is not None and not folder.is_dir():
        raise FileNotFoundError(f"data folder not found: {folder}")
    if image_size is not None:
        image_size = integer("image_size", image_size)
        if image_size < 1:
            raise ValueError(f"image_size must be at least 1, got {image_size}")
    if name in _LOADERS:
        dataset = _LOADERS[name](Source(folder, download, image_size))
    elif name.endswith(".npz"):
        dataset = load_npz(Path(name).expanduser() if folder is None else folder / name)
    else:
        known = ", ".join(dataset_names())
        raise ValueError(
            f"unknown data set '{name}': known are {known}, or the path of an .npz file"
        )
    if image_size is not None and (dataset.image_shape or ())[1:] != (image_size, image_size):
        raise ValueError(
            f"image_size = {image_size} cannot be had: {dataset.name} has samples of one fixed "
            "shape; imagefolder and tiny-imagenet are resized"
        )
    return _augmented(dataset, crop_padding, hflip)


def default_data_dir() -> Path:
    """Where data sets are kept if no folder is named.

    `GRADMIX_EXT_DATA`, else ``$XDG_CACHE_HOME/gradmix_ext/data``, else
    ``~/.cache/gradmix_ext/data``.

    Raises:
        ValueError: there is no home folder to put it in.
    """
    if named := os.environ.get("GRADMIX_EXT_DATA"):
        return Path(named).expanduser().absolute()
    try:
        return default_folder() / "data"
    except RuntimeError as error:
        raise ValueError(
            f"no folder for data sets: {error}; give data_dir or set GRADMIX_EXT_DATA"
        ) from error


def _augmented(dataset: ArrayDataset, crop_padding: int | None, hflip: bool | None) -> ArrayDataset:
    if crop_padding is None and hflip is None:
        return dataset
    if dataset.transform is None:
        raise ValueError(
            f"crop_padding and hflip are for images of uint8: {dataset.name} holds other inputs"
        )
    transform = dataset.transform
    if crop_padding is not None:
        transform = replace(transform, padding=integer("crop_padding", crop_padding))
    if hflip is not None:
        transform = replace(transform, hflip=hflip)
    return replace(dataset, transform=transform)
