"""Models for the built-in data."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import nn

__all__ = ["mlp", "seeded"]


def mlp(
    input_shape: Sequence[int], num_classes: int, hidden: Sequence[int] = (256, 256)
) -> nn.Sequential:
    """A multi-layer perceptron with ReLU on flattened inputs.

    Args:
        input_shape: Shape of one sample.
        num_classes: Number of logits, C.
        hidden: Widths of the hidden layers.
    """
    layers: list[nn.Module] = [nn.Flatten()]
    width = math.prod(input_shape)
    for size in hidden:
        layers += [nn.Linear(width, size), nn.ReLU()]
        width = size
    return nn.Sequential(*layers, nn.Linear(width, num_classes))


class seeded:  # noqa: N801 - a context manager, used like a function
    """Context in which PyTorch's CPU generator starts from `seed`; its state is put back after."""

    def __init__(self, seed: int) -> None:
        self.seed = seed

    def __enter__(self) -> None:
        self._state = torch.get_rng_state()
        torch.manual_seed(self.seed)

    def __exit__(self, *exception: object) -> None:
        torch.set_rng_state(self._state)
