"""Data sets by name, by file, or from any PyTorch data set.

Importing this package registers the names; torchvision is imported when a data set needs it.
"""

from __future__ import annotations

from gradmix_ext.continual.datasets import digits, imagefolder, published, tiny_imagenet
from gradmix_ext.continual.datasets.custom import from_torch
from gradmix_ext.continual.datasets.registry import (
    Source,
    dataset_names,
    default_data_dir,
    load_dataset,
    register_dataset,
)

__all__ = [
    "Source",
    "dataset_names",
    "default_data_dir",
    "digits",
    "from_torch",
    "imagefolder",
    "load_dataset",
    "published",
    "register_dataset",
    "tiny_imagenet",
]
