"""Models by name."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from difflib import get_close_matches
from typing import Any

from torch import nn

from gradmix_ext.continual.models.cnn import small_cnn
from gradmix_ext.continual.models.mlp import mlp
from gradmix_ext.continual.models.resnet32 import ResNet32
from gradmix_ext.continual.models.stem import cifar_stem, with_channels
from gradmix_ext.continual.optional import optional
from gradmix_ext.mixers.head import find_head, require_head

__all__ = ["build_model", "model_names"]

_TIMM = "timm:"


def model_names() -> list[str]:
    """Names that :func:`build_model` knows, without the ``timm:NAME`` of timm.

    Raises:
        ImportError: torchvision is not installed.
    """
    return ["mlp", "cnn", "resnet32", *_torchvision_names()]


def build_model(
    name: str,
    input_shape: Sequence[int],
    num_classes: int,
    *,
    hidden: Sequence[int] = (256, 256),
    stem: str = "standard",
) -> nn.Module:
    """An untrained model whose last layer is an ``nn.Linear`` with `num_classes` outputs.

    Args:
        name: ``"mlp"``; ``"cnn"``, a small convolutional network; ``"resnet32"``, the ResNet-32 of
            CIFAR; a classification model of torchvision (``"resnet18"``,
            ``"mobilenet_v3_small"``, ...); or ``"timm:NAME"`` for a model of timm.
        input_shape: Shape of one sample: (channels, height, width) for all but the MLP. The first
            convolution takes as many channels as there are.
        num_classes: Number of logits, C.
        hidden: Widths of the MLP's hidden layers.
        stem: ``"standard"``, or ``"cifar"`` for small images: the ResNets and DenseNets of
            torchvision then start with a 3x3 convolution of stride 1 and without pooling, and keep
            the full resolution.

    Raises:
        ValueError: the name or the stem is unknown, the model cannot take such samples or has no
            such stem, or its logits are not the output of an ``nn.Linear``.
        ImportError: the model's package is not installed.
    """
    if stem not in ("standard", "cifar"):
        raise ValueError(f"stem must be 'standard' or 'cifar', got {stem!r}")
    if name == "mlp":
        if stem == "cifar":
            raise ValueError("model 'mlp' has no stem: stem='cifar' is for ResNets and DenseNets")
        return mlp(input_shape, num_classes, hidden)
    if len(input_shape) != 3:
        raise ValueError(
            f"model '{name}' needs images of shape [channels, height, width], but samples have "
            f"shape {list(input_shape)}: use mlp"
        )
    channels, height, width = input_shape
    model: nn.Module
    if name == "cnn":
        model = small_cnn(channels, num_classes)
    elif name == "resnet32":  # its stem is that of CIFAR, asked for or not
        model = ResNet32(channels, num_classes)
    elif name.startswith(_TIMM):
        if stem == "cifar":
            raise ValueError(f"stem='cifar' is for models of torchvision, got model '{name}'")
        model = _timm(name, (channels, height, width), num_classes)
    else:
        model = _torchvision(name, (channels, height, width), num_classes)
        with_channels(model, channels)
        if stem == "cifar":
            cifar_stem(model, name)
    with _named(name, input_shape):
        require_head(model, input_shape, find_head(model))
    return model


@contextmanager
def _named(name: str, input_shape: Sequence[int]) -> Iterator[None]:
    """Say which model it is that does not take such samples."""
    try:
        yield
    except (RuntimeError, ValueError, AssertionError) as error:
        shape = list(input_shape)
        raise ValueError(
            f"model '{name}' cannot be used for samples of shape {shape}: {error}"
        ) from error


def _torchvision_names() -> list[str]:
    models = optional("torchvision.models", "a model of this name", "gradmix_ext[vision]")
    names: list[str] = models.list_models(module=models)
    return names


def _torchvision(name: str, input_shape: tuple[int, int, int], num_classes: int) -> nn.Module:
    if name not in _torchvision_names():
        near = get_close_matches(name, model_names(), n=3)
        hint = f"did you mean {' or '.join(near)}?" if near else "see model_names()"
        raise ValueError(f"unknown model '{name}': {hint}")
    settings: dict[str, Any] = {}
    if name in ("googlenet", "inception_v3"):  # one tensor of logits, not three
        settings = {"aux_logits": False, "init_weights": True}
    elif name.startswith("vit_"):
        settings = {"image_size": input_shape[1]}
    elif name.startswith("maxvit_"):
        settings = {"input_size": input_shape[1:]}
    models = optional("torchvision.models", f"model '{name}'", "gradmix_ext[vision]")
    with _named(name, input_shape):
        model: nn.Module = models.get_model(name, weights=None, num_classes=num_classes, **settings)
    return model


def _timm(name: str, input_shape: tuple[int, int, int], num_classes: int) -> nn.Module:
    timm = optional("timm", f"model '{name}'", "gradmix_ext[timm]")
    plain = name.removeprefix(_TIMM)
    if not timm.is_model(plain):
        near = timm.list_models(f"*{plain}*")[:3]
        hint = f"did you mean {_TIMM}{f' or {_TIMM}'.join(near)}?" if near else ""
        raise ValueError(f"unknown model '{name}': timm has no '{plain}'. {hint}".rstrip(". "))
    settings: dict[str, Any] = {}
    if timm.get_pretrained_cfg(plain).fixed_input_size:  # a grid of patches is laid out for it
        settings["img_size"] = input_shape[1:]
    with _named(name, input_shape):
        model: nn.Module = timm.create_model(
            plain, pretrained=False, num_classes=num_classes, in_chans=input_shape[0], **settings
        )
    return model
