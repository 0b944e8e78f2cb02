"""Tiny-ImageNet: 200 classes of 500 training and 50 validation images of 64x64 pixels."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor

from gradmix_ext.continual.data import ArrayDataset
from gradmix_ext.continual.datasets.image_files import image_inputs
from gradmix_ext.continual.datasets.registry import Source, register_dataset
from gradmix_ext.mixers.images import ImageTransform

__all__ = ["TINY_IMAGENET", "load_tiny_imagenet"]

TINY_IMAGENET = ImageTransform(
    (0.4802, 0.4480, 0.3975), (0.2770, 0.2691, 0.2821), padding=4, hflip=True
)
_SIZE = 64
_FOLDER = "tiny-imagenet-200"
_URL = "http://cs231n.stanford.edu/tiny-imagenet-200.zip"


@register_dataset("tiny-imagenet")
def load_tiny_imagenet(source: Source) -> ArrayDataset:
    """Tiny-ImageNet from its own folder layout; its validation images are the test set.

    Labels number the lines of ``wnids.txt``; classes are called by the first name that
    ``words.txt`` gives them.

    Raises:
        ValueError: an annotation does not fit, or an image cannot be read.
        FileNotFoundError: a file or folder is missing.
        ImportError: torchvision is not installed.
    """
    root = _root(source.folder)
    wnids = (root / "wnids.txt").read_text().split()
    words = _table(root / "words.txt")
    class_names = tuple(words.get(wnid, wnid).split(",")[0] for wnid in wnids)
    train_paths, train_y = _training_files(root / "train", wnids)
    test_paths, test_y = _validation_files(root / "val", wnids)
    size = source.image_size or _SIZE
    train_x, test_x = image_inputs(train_paths, test_paths, size)
    shape = (3, size, size)
    return ArrayDataset(
        "tiny-imagenet", train_x, train_y, test_x, test_y, class_names, shape, TINY_IMAGENET
    )


def _root(folder: Path) -> Path:
    """The folder with wnids.txt: `folder` itself, or what unpacking the archive there makes."""
    for root in (folder, folder / _FOLDER):
        if (root / "wnids.txt").is_file():
            return root
    raise FileNotFoundError(
        f"tiny-imagenet is not in {folder}, and has to be fetched by hand: unpack {_URL} there, so "
        f"that {folder / _FOLDER / 'wnids.txt'} exists"
    )


def _table(path: Path) -> dict[str, str]:
    """First and second column of a file with columns separated by tabs."""
    rows = (line.split("\t") for line in path.read_text().splitlines() if line.strip())
    table = {}
    for row in rows:
        if len(row) < 2:
            raise ValueError(f"{path}: a line must have columns separated by tabs, got '{row[0]}'")
        table[row[0]] = row[1].strip()
    return table


def _training_files(folder: Path, wnids: list[str]) -> tuple[list[Path], Tensor]:
    paths: list[Path] = []
    labels: list[int] = []
    for label, wnid in enumerate(wnids):
        images = sorted((folder / wnid / "images").glob("*.JPEG"))
        if not images:
            raise FileNotFoundError(f"no .JPEG files in {folder / wnid / 'images'}")
        paths += images
        labels += [label] * len(images)
    return paths, torch.tensor(labels, dtype=torch.int64)


def _validation_files(folder: Path, wnids: list[str]) -> tuple[list[Path], Tensor]:
    annotations = folder / "val_annotations.txt"
    numbers = {wnid: label for label, wnid in enumerate(wnids)}
    found = _table(annotations)
    for image, wnid in found.items():
        if wnid not in numbers:
            raise ValueError(
                f"{annotations}: {image} has class '{wnid}', which is not in wnids.txt"
            )
    labels = [numbers[wnid] for wnid in found.values()]
    return [folder / "images" / image for image in found], torch.tensor(labels, dtype=torch.int64)
