"""The default model."""

from __future__ import annotations

import math
from collections.abc import Sequence

from torch import nn

__all__ = ["mlp"]


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
