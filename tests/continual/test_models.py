"""Models by name."""

from __future__ import annotations

import sys

import pytest
import torch
from torch import nn

from gradmix_ext.continual import models
from gradmix_ext.continual.models import ResNet32, build_model, model_names, seeded
from gradmix_ext.experiments.experiment import Experiment, ExperimentConfig
from gradmix_ext.mixers.head import HeadInput, find_head


def parameters(model: nn.Module) -> int:
    return sum(p.numel() for p in model.parameters())


def check(model: nn.Module, shape: tuple[int, ...], classes: int) -> None:
    """Logits of the head, of the right shape, that depend on every parameter."""
    head = find_head(model)
    captured = HeadInput(head)
    logits = model(torch.randn(2, *shape))
    assert logits.shape == (2, classes)
    assert captured.of(logits).shape == (2, head.in_features)
    assert head.out_features == classes
    logits.square().sum().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())
    assert sum(p.grad.abs().sum() for p in model.parameters()) > 0


def test_the_mlp():
    model = build_model("mlp", (1, 8, 8), 10, hidden=(16, 12))
    assert parameters(model) == 64 * 16 + 16 + 16 * 12 + 12 + 12 * 10 + 10
    check(model, (1, 8, 8), 10)


def test_the_small_cnn_has_the_layers_that_it_says():
    model = build_model("cnn", (1, 8, 8), 10)
    layers = [(layer.weight.shape, len(layer.bias)) for layer in model if hasattr(layer, "weight")]
    assert layers == [((16, 1, 3, 3), 16), ((32, 16, 3, 3), 32), ((64, 512), 64), ((10, 64), 10)]
    assert sum(p.numel() for p in model.parameters()) == 38_282
    x = torch.rand(2, 1, 8, 8)
    assert torch.equal(model[:6](x), model[:5](x))  # the grid leaves 4x4 pixels as they are
    check(build_model("cnn", (3, 28, 20), 7), (3, 28, 20), 7)


def test_images_that_are_held_flat_are_given_their_shape():
    experiment = Experiment(ExperimentConfig(model="cnn"), [])
    scenario = experiment.scenario(0)
    assert scenario.input_shape == (64,)
    model = experiment.model(scenario)
    x = torch.rand(3, 64)
    assert torch.equal(model(x), model[1](x.reshape(3, 1, 8, 8)))


def test_resnet32_is_the_published_network():
    """Table 6 of He et al. (2016): 0.46 M parameters; 31 convolutions and one linear layer."""
    model = build_model("resnet32", (3, 32, 32), 10)
    assert round(parameters(model) / 1e6, 2) == 0.46
    layers = [m for m in model.modules() if isinstance(m, (nn.Conv2d, nn.Linear))]
    assert len(layers) == 32
    # Table in section 4.2: 11, 10 and 10 layers with maps of 32, 16 and 8 pixels.
    sides = []
    for layer in layers[:-1]:
        layer.register_forward_hook(lambda module, x, y: sides.append(y.shape[-1]))
    check(model, (3, 32, 32), 10)
    assert [sides.count(side) for side in (32, 16, 8)] == [11, 10, 10]


def test_resnet32_shortcuts_are_those_of_option_a():
    """With convolutions that give 0 the network is a chain of shortcuts and ReLUs."""
    model = ResNet32(3, 10).eval()
    for block in model.blocks:
        for layer in block.body:
            if isinstance(layer, nn.Conv2d):
                nn.init.zeros_(layer.weight)
    x = torch.rand(2, 16, 8, 8)
    out = model.blocks(x)
    assert out.shape == (2, 64, 2, 2)
    assert torch.equal(out[:, 24:40], x[:, :, ::4, ::4])
    assert not out[:, :24].any()
    assert not out[:, 40:].any()


@pytest.mark.parametrize("shape", [(1, 28, 28), (3, 64, 64)])
def test_resnet32_takes_other_images(shape):
    check(build_model("resnet32", shape, 7), shape, 7)


@pytest.mark.parametrize(
    ("name", "shape"),
    [("resnet18", (3, 64, 64)), ("mobilenet_v3_small", (1, 32, 32)), ("googlenet", (3, 64, 64))],
)
def test_models_of_torchvision(name, shape):
    pytest.importorskip("torchvision")
    check(build_model(name, shape, 7), shape, 7)


@pytest.mark.parametrize(("name", "published"), [("resnet18", 11.69e6), ("densenet121", 7.98e6)])
def test_the_stem_for_small_images(name, published):
    pytest.importorskip("torchvision")
    shape = (1, 8, 8)
    standard = build_model(name, (3, 64, 64), 1000)
    assert parameters(standard) == pytest.approx(published, rel=1e-3)
    model = build_model(name, shape, 1000, stem="cifar")
    assert parameters(standard) - parameters(model) == 64 * (3 * 7 * 7 - 1 * 3 * 3)
    sides = []
    first = next(m for m in model.modules() if isinstance(m, nn.BatchNorm2d))
    first.register_forward_hook(lambda module, x, y: sides.append(y.shape[-1]))
    check(model, shape, 1000)
    assert sides == [8]


def test_weights_of_a_first_layer_for_other_channels():
    pytest.importorskip("torchvision")
    grey = build_model("resnet18", (1, 32, 32), 10).conv1
    rgb = build_model("resnet18", (3, 32, 32), 10).conv1
    assert (grey.kernel_size, grey.stride, grey.padding, grey.bias) == (
        (7, 7),
        (2, 2),
        (3, 3),
        None,
    )
    assert grey.weight.std().item() == pytest.approx(rgb.weight.std().item(), rel=0.1)


def test_a_vision_transformer_is_built_for_the_size_of_the_images():
    pytest.importorskip("timm")
    check(build_model("timm:vit_tiny_patch16_224", (1, 32, 32), 5), (1, 32, 32), 5)


def test_a_convolutional_network_of_timm():
    pytest.importorskip("timm")
    check(build_model("timm:resnet10t", (3, 32, 32), 5), (3, 32, 32), 5)


def test_names():
    pytest.importorskip("torchvision")
    names = model_names()
    assert names[:3] == ["mlp", "cnn", "resnet32"]
    assert {"resnet18", "vit_b_16"} <= set(names)
    assert "fasterrcnn_resnet50_fpn" not in names


def test_weights_depend_on_the_seed_alone():
    with seeded(3):
        first = build_model("resnet32", (3, 8, 8), 4)
    torch.rand(7)
    with seeded(3):
        second = build_model("resnet32", (3, 8, 8), 4)
    pairs = zip(first.parameters(), second.parameters(), strict=True)
    assert all(torch.equal(a, b) for a, b in pairs)


@pytest.mark.parametrize(
    ("name", "shape", "settings", "message"),
    [
        ("resnet81", (3, 32, 32), {}, "unknown model 'resnet81': did you mean resnet18"),
        ("resnet18", (64,), {}, r"'resnet18' needs images .* samples have shape \[64\]: use mlp"),
        ("resnet32", (64,), {}, "use mlp"),
        ("mlp", (64,), {"stem": "cifar"}, "model 'mlp' has no stem"),
        ("mobilenet_v2", (3, 32, 32), {"stem": "cifar"}, "no stem for small images"),
        ("mlp", (64,), {"stem": "small"}, "stem must be 'standard' or 'cifar', got 'small'"),
        ("squeezenet1_1", (3, 64, 64), {}, r"has no nn.Linear to take as head"),
        (
            "alexnet",
            (3, 32, 32),
            {},
            r"'alexnet' cannot be used for samples of shape \[3, 32, 32\]",
        ),
        ("cnn", (1, 1, 1), {}, r"'cnn' cannot be used for samples of shape \[1, 1, 1\]"),
        ("maxvit_t", (3, 32, 32), {}, r"'maxvit_t' cannot be used .* not divisible by partition"),
        ("vit_b_32", (3, 40, 40), {}, r"'vit_b_32' cannot be used .* indivisible by patch size"),
        ("vit_b_32", (3, 32, 64), {}, r"'vit_b_32' cannot be used .*: Wrong image width"),
    ],
)
def test_models_that_cannot_be_used(name, shape, settings, message):
    pytest.importorskip("torchvision")
    with pytest.raises(ValueError, match=message):
        build_model(name, shape, 10, **settings)


def test_models_of_timm_that_cannot_be_used():
    pytest.importorskip("timm")
    with pytest.raises(ValueError, match=r"timm has no 'resnet10'.*timm:"):
        build_model("timm:resnet10", (3, 32, 32), 10)
    with pytest.raises(ValueError, match="is for models of torchvision"):
        build_model("timm:resnet18", (3, 32, 32), 10, stem="cifar")
    with pytest.raises(ValueError, match="cannot be used"):  # its logits are a mean of two heads
        build_model("timm:deit_tiny_distilled_patch16_224", (3, 32, 32), 10)


def test_packages_that_are_missing(monkeypatch):
    monkeypatch.setitem(sys.modules, "torchvision.models", None)
    monkeypatch.setitem(sys.modules, "timm", None)
    with pytest.raises(
        ImportError, match=r"needs torchvision: pip install 'gradmix_ext\[vision\]'"
    ):
        build_model("resnet18", (3, 32, 32), 10)
    with pytest.raises(ImportError, match=r"needs timm: pip install 'gradmix_ext\[timm\]'"):
        build_model("timm:resnet18", (3, 32, 32), 10)
    assert models.build_model("resnet32", (3, 32, 32), 10)
