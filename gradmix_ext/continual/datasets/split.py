"""The split of data that come in one piece."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

__all__ = ["stratified_split"]

# One split for every seed and every arm: seeds differ in class order, weights and batches.
_SEED = 0
_TEST_FRACTION = 0.2


def stratified_split(name: str, y: Tensor, class_names: tuple[str, ...]) -> tuple[Tensor, Tensor]:
    """Positions of training and test samples: 80/20 within each class, the same every time.

    Args:
        name: What the data set is called in messages.
        y: Labels, [N], int64 in [0, number of classes).
        class_names: One name per class.

    Raises:
        ValueError: a class has a single sample, or there are fewer test samples than classes.
    """
    from sklearn.model_selection import train_test_split

    single = (torch.bincount(y, minlength=len(class_names)) == 1).nonzero().flatten().tolist()
    if single:
        raise ValueError(
            f"{name}: no 80/20 split by class is possible: class {single[0]} "
            f"('{class_names[single[0]]}') has a single sample"
        )
    try:
        train, test = train_test_split(
            np.arange(len(y)), test_size=_TEST_FRACTION, stratify=y.numpy(), random_state=_SEED
        )
    except ValueError as error:
        raise ValueError(f"{name}: no 80/20 split by class is possible: {error}") from error
    return torch.from_numpy(train), torch.from_numpy(test)
