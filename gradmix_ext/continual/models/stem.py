"""First layers that fit the images."""

from __future__ import annotations

from torch import nn

__all__ = ["cifar_stem", "with_channels"]

# Where models of torchvision keep their first convolution and the pooling after it.
_STEMS = {"ResNet": ("conv1", "maxpool"), "DenseNet": ("features.conv0", "features.pool0")}


def with_channels(model: nn.Module, channels: int) -> None:
    """Make the first convolution of a model take images of so many channels.

    New weights are normal, with the deviation of those that the model was built with.
    """
    path, old = next((p, m) for p, m in model.named_modules() if isinstance(m, nn.Conv2d))
    if old.in_channels == channels:
        return
    new = nn.Conv2d(
        channels,
        old.out_channels,
        old.kernel_size,  # type: ignore[arg-type]
        old.stride,  # type: ignore[arg-type]
        old.padding,  # type: ignore[arg-type]
        bias=old.bias is not None,
    )
    nn.init.normal_(new.weight, std=old.weight.std().item())
    model.set_submodule(path, new)


def cifar_stem(model: nn.Module, name: str) -> None:
    """Let a network for large images keep the resolution of small ones.

    Its first convolution becomes 3x3 with stride 1, as in He et al. (2016) and Huang et al. (2017)
    for CIFAR, and the pooling after it goes.

    Raises:
        ValueError: the model is not a ResNet or DenseNet of torchvision.
    """
    if type(model).__name__ not in _STEMS:
        raise ValueError(
            f"model '{name}' has no stem for small images: stem='cifar' is for the ResNets and "
            "DenseNets of torchvision"
        )
    convolution, pooling = _STEMS[type(model).__name__]
    old = model.get_submodule(convolution)
    assert isinstance(old, nn.Conv2d)
    new = nn.Conv2d(old.in_channels, old.out_channels, 3, padding=1, bias=False)
    nn.init.kaiming_normal_(new.weight, mode="fan_out", nonlinearity="relu")
    model.set_submodule(convolution, new)
    model.set_submodule(pooling, nn.Identity())
