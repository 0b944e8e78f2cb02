"""Harder streams made from scikit-learn's digits: more classes, worse images, rare classes.

All are cut from the data set `digits` and keep its split, so no test image has a version of itself
in training. Every draw has a fixed seed: a name always gives the same data.

- ``digits-rotated``: 30 classes, each digit upright, turned by 90 and by 180 degrees.
- ``digits-permuted``: 30 classes, each digit in the usual and in two shuffled orders of the pixels.
- ``digits-corrupted-1``, ``-2`` and ``-3``: noise of standard deviation 0.1, 0.2 or 0.3 on each
  pixel, and a black square of side 2, 3 or 4 somewhere in each image.
- ``digits-longtail``: class k keeps n_k = n_0 · 20^(-k/9) training images; test data stay.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial

import torch
from torch import Tensor

from gradmix_ext.continual.data import ArrayDataset, RawInputs
from gradmix_ext.continual.datasets import Source, load_dataset, register_dataset

__all__ = ["digits_corrupted", "digits_longtail", "digits_permuted", "digits_rotated"]

_SEED = 0
_SIDE = 8
_SEVERITIES = (1, 2, 3)
_ORDERS = 3


@register_dataset("digits-rotated")
def digits_rotated(
    source: Source | None = None, quarters: Sequence[int] = (0, 1, 2)
) -> ArrayDataset:
    """Each digit turned by so many quarters is a class of its own: class 10 i + k for quarters[i].

    Some classes are alike (0 and 1 upside down, 6 and 9), as classes of real streams are.
    """

    def turn(x: Tensor, quarter: int) -> Tensor:
        images: Tensor = x.unflatten(1, (_SIDE, _SIDE))
        return images.rot90(quarter, (1, 2)).flatten(1)

    versions = [(f"{90 * q}°", partial(turn, quarter=q)) for q in quarters]
    return _versions("digits-rotated", versions)


@register_dataset("digits-permuted")
def digits_permuted(source: Source | None = None, orders: int = _ORDERS) -> ArrayDataset:
    """Each digit under each fixed order of its pixels is a class of its own; order 0 is the usual.

    Class 10 i + k is digit k under order i. Classes of different orders share no local structure.
    """
    generator = torch.Generator().manual_seed(_SEED)
    pixels = _SIDE * _SIDE
    shuffled = [torch.randperm(pixels, generator=generator) for _ in range(orders - 1)]

    def reorder(x: Tensor, order: Tensor) -> Tensor:
        return x[:, order]

    versions = [
        (f"order {i}", partial(reorder, order=order))
        for i, order in enumerate([torch.arange(pixels), *shuffled])
    ]
    return _versions("digits-permuted", versions)


def digits_corrupted(severity: int = 2) -> ArrayDataset:
    """Digits under pixel noise and a black square, in training and test alike.

    Args:
        severity: s: Gaussian noise of standard deviation s/10, then a black square of side s + 1
            at a place drawn for each image, then clipped to [0, 1].

    Raises:
        ValueError: the square does not fit the image.
    """
    if not 0 < severity < _SIDE:
        raise ValueError(f"severity must be from 1 to {_SIDE - 1}, got {severity}")
    digits = load_dataset("digits")
    generator = torch.Generator().manual_seed(_SEED)
    corrupt = partial(_corrupt, severity=severity, generator=generator)
    return replace(
        digits,
        name=f"digits-corrupted-{severity}",
        train_x=corrupt(_pixels(digits.train_x)),
        test_x=corrupt(_pixels(digits.test_x)),
    )


@register_dataset("digits-longtail")
def digits_longtail(source: Source | None = None, imbalance: float = 20.0) -> ArrayDataset:
    """Digits with exponentially falling numbers of training images: class k keeps n_k of its own.

    Args:
        source: Unused; nothing is read.
        imbalance: n_0 / n_9. n_k = n · imbalance^(-k/9), n the size of the smallest class.

    Raises:
        ValueError: the imbalance is below 1, or leaves a class without images.
    """
    digits = load_dataset("digits")
    last = digits.num_classes - 1
    most = int(digits.train_y.bincount().min())
    if not 1 <= imbalance <= most:
        raise ValueError(f"imbalance must be from 1 to {most}, got {imbalance}")
    generator = torch.Generator().manual_seed(_SEED)
    kept = []
    for k in range(digits.num_classes):
        own = (digits.train_y == k).nonzero().flatten()
        count = round(most * imbalance ** (-k / last))
        kept.append(own[torch.randperm(len(own), generator=generator)[:count]])
    index = torch.cat(kept)
    return replace(
        digits,
        name="digits-longtail",
        train_x=_pixels(digits.train_x)[index],
        train_y=digits.train_y[index],
    )


def _versions(
    name: str, versions: Sequence[tuple[str, Callable[[Tensor], Tensor]]]
) -> ArrayDataset:
    """The digits once per version, each version with classes of its own."""
    digits = load_dataset("digits")
    ways = [way for _, way in versions]
    classes = digits.num_classes

    def labels(y: Tensor) -> Tensor:
        return torch.cat([y + classes * i for i in range(len(ways))])

    return replace(
        digits,
        name=name,
        train_x=torch.cat([way(_pixels(digits.train_x)) for way in ways]),
        train_y=labels(digits.train_y),
        test_x=torch.cat([way(_pixels(digits.test_x)) for way in ways]),
        test_y=labels(digits.test_y),
        class_names=tuple(f"{k} {label}" for label, _ in versions for k in digits.class_names),
    )


def _pixels(x: RawInputs) -> Tensor:
    """Inputs [N, 64] of the digits, which are held in memory."""
    assert isinstance(x, Tensor)
    return x


def _corrupt(x: Tensor, severity: int, generator: torch.Generator) -> Tensor:
    noisy = x + severity / 10 * torch.randn(x.shape, generator=generator)
    side = severity + 1
    corner = torch.randint(_SIDE - side + 1, (len(x), 2, 1), generator=generator)
    distance = torch.arange(_SIDE) - corner
    rows, columns = ((distance >= 0) & (distance < side)).unbind(1)
    hidden = (rows[:, :, None] & columns[:, None, :]).flatten(1)
    return noisy.masked_fill(hidden, 0.0).clamp(0.0, 1.0)


def _register_corrupted(severity: int) -> None:
    @register_dataset(f"digits-corrupted-{severity}")
    def load(source: Source) -> ArrayDataset:
        return digits_corrupted(severity)


for _severity in _SEVERITIES:
    _register_corrupted(_severity)
