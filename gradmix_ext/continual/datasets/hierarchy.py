"""A synthetic hierarchy of classes, where it is known which classes have to do with each other."""

from __future__ import annotations

from functools import partial
from math import sqrt

import torch
from torch import Tensor

from gradmix_ext.continual.data import ArrayDataset
from gradmix_ext.continual.datasets import Source, register_dataset

__all__ = ["class_means", "hierarchy"]


def class_means(
    superclasses: int, subclasses: int, similarity: float, dimension: int, seed: int
) -> Tensor:
    """Means [superclasses · subclasses, dimension] of length 1, float64.

    The mean of class c of superclass s is √ρ u_s + √(1-ρ) v_c, with all u and v orthonormal and in
    general position to the axes. So the cosine of two means is exactly ρ within a superclass and
    exactly 0 between superclasses.

    Args:
        superclasses: Number of superclasses, S.
        subclasses: Classes in each, M. Class k belongs to superclass k // M.
        similarity: ρ in [0, 1].
        dimension: At least S + S·M.
        seed: Of the directions.

    Raises:
        ValueError: the dimension has no room, or the similarity is out of range.
    """
    classes = superclasses * subclasses
    if dimension < superclasses + classes:
        raise ValueError(
            f"dimension must be at least {superclasses + classes} for {superclasses} superclasses "
            f"and {classes} classes, got {dimension}"
        )
    if not 0 <= similarity <= 1:
        raise ValueError(f"similarity must be in [0, 1], got {similarity}")
    generator = torch.Generator().manual_seed(seed)
    square = torch.randn(dimension, dimension, dtype=torch.float64, generator=generator)
    directions: Tensor = torch.linalg.qr(square).Q.T
    shared = directions[:superclasses].repeat_interleave(subclasses, dim=0)
    own = directions[superclasses : superclasses + classes]
    return sqrt(similarity) * shared + sqrt(1 - similarity) * own


@register_dataset("hierarchy")
def hierarchy(
    source: Source | None = None,
    *,
    superclasses: int = 5,
    subclasses: int = 4,
    similarity: float = 0.5,
    noise: float = 0.25,
    dimension: int = 64,
    train_per_class: int = 100,
    test_per_class: int = 50,
    seed: int = 0,
) -> ArrayDataset:
    """Gaussian classes in superclasses: x = μ_k + noise · ε, ε ~ N(0, I), μ as `class_means`.

    Which pairs matter is known by construction. Classes of one superclass share the feature u_s:
    what is learned about one moves the logits of the others. Classes of two superclasses have
    orthogonal means: a linear model that learns one leaves the other's inputs alone, bias apart.

    Args:
        source: Unused; nothing is read.
        superclasses: Number of superclasses.
        subclasses: Classes in each; class k, named "s.c", belongs to superclass k // subclasses.
        similarity: Cosine ρ of two class means of one superclass.
        noise: Standard deviation of each coordinate; means have length 1. Two classes of one
            superclass are confused with probability Φ(-√((1-ρ)/2) / noise) by the best rule for the
            two.
        dimension: Number of coordinates.
        train_per_class: Training samples of each class.
        test_per_class: Test samples of each class.
        seed: Of means and samples.
    """
    means = class_means(superclasses, subclasses, similarity, dimension, seed)
    generator = torch.Generator().manual_seed(seed + 1)
    draw = partial(_draw, means, noise, generator)
    train_x, train_y = draw(train_per_class)
    test_x, test_y = draw(test_per_class)
    names = tuple(f"{s}.{c}" for s in range(superclasses) for c in range(subclasses))
    return ArrayDataset("hierarchy", train_x, train_y, test_x, test_y, names)


def _draw(
    means: Tensor, noise: float, generator: torch.Generator, per_class: int
) -> tuple[Tensor, Tensor]:
    """`per_class` samples of each class, as float32, with their labels."""
    y = torch.arange(len(means)).repeat_interleave(per_class)
    error = torch.randn(len(y), means.shape[1], dtype=torch.float64, generator=generator)
    return (means[y] + noise * error).float(), y
