"""A small convolutional network, for images as small as the digits."""

from __future__ import annotations

from torch import nn

__all__ = ["small_cnn"]

_GRID = 4


def small_cnn(channels: int, num_classes: int) -> nn.Sequential:
    """Two 3x3 convolutions with 16 and 32 channels, a hidden layer of 64 and the head, with ReLU.

    The first convolution is followed by max pooling, the second by averages over a 4x4 grid (which
    leaves images of 8x8 pixels as they are by then). With one channel and 10 classes that makes
    38,282 parameters.

    Args:
        channels: Channels of the images.
        num_classes: Number of logits, C.
    """
    return nn.Sequential(
        nn.Conv2d(channels, 16, 3, padding=1),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Conv2d(16, 32, 3, padding=1),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(_GRID),
        nn.Flatten(),
        nn.Linear(32 * _GRID**2, 64),
        nn.ReLU(),
        nn.Linear(64, num_classes),
    )
