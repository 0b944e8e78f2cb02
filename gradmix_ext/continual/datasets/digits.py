"""The data set that needs no file."""

from __future__ import annotations

import numpy as np
import torch

from gradmix_ext.continual.data import ArrayDataset
from gradmix_ext.continual.datasets.registry import Source, register_dataset
from gradmix_ext.continual.datasets.split import stratified_split

__all__ = ["load_digits"]


@register_dataset("digits")
def load_digits(source: Source) -> ArrayDataset:
    """scikit-learn's digits: 1,797 real 8x8 images, flat, scaled to [0, 1]; nothing to download."""
    from sklearn import datasets

    digits = datasets.load_digits()
    x = torch.from_numpy((digits.data / 16.0).astype(np.float32))
    y = torch.from_numpy(digits.target.astype(np.int64))
    class_names = tuple(str(name) for name in digits.target_names)
    train, test = stratified_split("digits", y, class_names)
    return ArrayDataset(
        "digits", x[train], y[train], x[test], y[test], class_names, image_shape=(1, 8, 8)
    )
