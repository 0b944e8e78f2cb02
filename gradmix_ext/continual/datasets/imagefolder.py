"""Any folder of images with one subfolder per class."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor

from gradmix_ext.continual.data import ArrayDataset
from gradmix_ext.continual.datasets.image_files import image_inputs
from gradmix_ext.continual.datasets.registry import Source, register_dataset
from gradmix_ext.continual.datasets.split import stratified_split
from gradmix_ext.continual.optional import optional
from gradmix_ext.mixers.images import ImageTransform

__all__ = ["DEFAULT_SIZE", "IMAGENET", "load_imagefolder"]

IMAGENET = ImageTransform((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
DEFAULT_SIZE = 224

# What folders of images are called that hold no class, but one part of the data.
_PARTS = {"train", "training", "val", "valid", "validation", "test", "testing"}


@register_dataset("imagefolder")
def load_imagefolder(source: Source) -> ArrayDataset:
    """Images sorted into one subfolder per class.

    The folder holds ``train/`` and ``val/`` (or ``test/``), each with one subfolder per class, or
    these subfolders themselves; then it is split 80/20 by class. Hidden files and folders are left
    out. Images become RGB of `image_size` (224 by default), normalised by the mean and deviation of
    ImageNet.

    Raises:
        ValueError: no folder is named, training and test have different classes or one of them is
            not there or called otherwise, a class is too small to be split, or an image cannot be
            read.
        FileNotFoundError: there is no class folder, or one without images.
        ImportError: torchvision is not installed.
    """
    if source.data_dir is None:
        raise ValueError("data set 'imagefolder' is read from a folder of your own: give data_dir")
    root = source.data_dir
    train, held_out = root / "train", _first_folder(root / "val", root / "test")
    if train.is_dir() and held_out is not None:
        class_names, train_paths, train_y = _labelled_files(train)
        test_names, test_paths, test_y = _labelled_files(held_out)
        if test_names != class_names:
            differing = sorted(set(test_names) ^ set(class_names))
            raise ValueError(
                f"{train} and {held_out} must have the same classes: "
                f"'{differing[0]}' is in one of them only"
            )
    else:
        class_names, paths, y = _labelled_files(root)
        if _PARTS.issuperset(name.lower() for name in class_names):
            held = ", ".join(f"{name}/" for name in class_names)
            raise ValueError(f"{root} holds {held} and neither val/ nor test/ beside train/")
        chosen, rest = stratified_split(str(root), y, class_names)
        train_paths, test_paths = ([paths[i] for i in part.tolist()] for part in (chosen, rest))
        train_y, test_y = y[chosen], y[rest]
    size = source.image_size or DEFAULT_SIZE
    train_x, test_x = image_inputs(train_paths, test_paths, size)
    return ArrayDataset(
        root.resolve().name,
        train_x,
        train_y,
        test_x,
        test_y,
        class_names,
        (3, size, size),
        IMAGENET,
    )


def _first_folder(*folders: Path) -> Path | None:
    return next((folder for folder in folders if folder.is_dir()), None)


def _labelled_files(folder: Path) -> tuple[tuple[str, ...], list[str], Tensor]:
    """Names of the classes, in alphabetical order, paths of their images, and labels."""
    reader = optional("torchvision.datasets.folder", "imagefolder", "gradmix_ext[vision]")
    try:
        found, _ = reader.find_classes(folder)
        names = [name for name in found if not name.startswith(".")]  # of editors and thumbnails
        if not names:
            raise FileNotFoundError(f"Couldn't find any class folder in {folder}.")
        labels = {name: label for label, name in enumerate(names)}
        extensions = (*reader.IMG_EXTENSIONS, ".gif")
        samples = reader.make_dataset(folder, labels, extensions=extensions)
    except FileNotFoundError as error:
        raise FileNotFoundError(f"{folder}: {error}") from error
    shown = [(path, label) for path, label in samples if not _is_hidden(path, folder)]
    y = torch.tensor([label for _, label in shown], dtype=torch.int64)
    return tuple(names), [path for path, _ in shown], y


def _is_hidden(path: str, folder: Path) -> bool:
    """Whether a file in a folder, or a folder between them, is hidden."""
    return any(part.startswith(".") for part in Path(path).relative_to(folder).parts)
