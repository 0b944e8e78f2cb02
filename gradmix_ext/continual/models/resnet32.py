"""The 32-layer residual network for CIFAR.

He, Zhang, Ren and Sun, *Deep Residual Learning for Image Recognition* (CVPR 2016), section 4.2; the
network of iCaRL and most class-incremental work on CIFAR-100.
"""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional as F

__all__ = ["ResNet32"]

_WIDTHS = (16, 32, 64)
_BLOCKS = 5


class ResNet32(nn.Module):
    """Three stages of five blocks of two 3x3 convolutions, with 16, 32 and 64 channels.

    Shortcuts have no parameters: where the resolution is halved they take every other pixel and
    fill the new channels with zeros ("option A" of the paper). With 3 channels and 10 classes that
    makes 0.46 million parameters.

    Args:
        channels: Channels of the images.
        num_classes: Number of logits, C.
    """

    def __init__(self, channels: int, num_classes: int) -> None:
        super().__init__()
        self.stem: nn.Sequential = nn.Sequential(*_convolution(channels, _WIDTHS[0]), nn.ReLU())
        blocks = []
        width = _WIDTHS[0]
        for stage_width in _WIDTHS:
            for _ in range(_BLOCKS):
                blocks.append(_Block(width, stage_width))
                width = stage_width
        self.blocks: nn.Sequential = nn.Sequential(*blocks)
        self.fc: nn.Linear = nn.Linear(width, num_classes)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, x: Tensor) -> Tensor:
        """Logits [N, C] of images [N, channels, H, W]."""
        features: Tensor = self.blocks(self.stem(x)).mean(dim=(2, 3))
        logits: Tensor = self.fc(features)
        return logits


class _Block(nn.Module):
    def __init__(self, channels: int, width: int) -> None:
        super().__init__()
        self.stride = 1 if channels == width else 2
        self.new_channels = width - channels
        self.body = nn.Sequential(
            *_convolution(channels, width, self.stride), nn.ReLU(), *_convolution(width, width)
        )

    def forward(self, x: Tensor) -> Tensor:
        shortcut = x
        if self.new_channels:
            before = self.new_channels // 2
            around = (0, 0, 0, 0, before, self.new_channels - before)
            shortcut = F.pad(x[:, :, :: self.stride, :: self.stride], around)
        return F.relu(shortcut + self.body(x))


def _convolution(channels: int, width: int, stride: int = 1) -> tuple[nn.Conv2d, nn.BatchNorm2d]:
    return nn.Conv2d(channels, width, 3, stride, padding=1, bias=False), nn.BatchNorm2d(width)
