"""Every method with every mixer, on everything that a data set can be made of."""

from __future__ import annotations

import pytest
import torch
from stored import Stored
from torch import nn

from gradmix_ext import mixers
from gradmix_ext.continual import (
    METHODS,
    ArrayDataset,
    Callback,
    Result,
    Scenario,
    Trainer,
    class_incremental,
    method_by_name,
)
from gradmix_ext.mixers import MIXERS, ImageTransform

MIXING = (*MIXERS, "gradmix-online")
NEW = ("er-ace", "der++", "icarl", "a-gem")


def pictures(kind: str) -> Scenario:
    """Four classes of 4x4 images, told apart by the brightness of a corner, in two tasks."""
    g = torch.Generator().manual_seed(0)
    y = torch.arange(4).repeat(13)
    x = torch.randint(100, (52, 1, 4, 4), generator=g)
    for k, (row, column) in enumerate([(0, 0), (0, 2), (2, 0), (2, 2)]):
        x[y == k, :, row : row + 2, column : column + 2] += 150
    images, transform = x.to(torch.uint8), ImageTransform((0.3,), (0.3,), padding=1)
    if kind == "float":
        images, transform = x / 255, None
    test = images[:20]
    if kind == "stored":
        images, test = Stored(images), Stored(test)
    data = ArrayDataset("corners", images, y, test, y[:20], tuple("abcd"), transform=transform)
    return class_incremental(data, tasks=2)


def network(scenario: Scenario) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(1, 4, 3, padding=1),
        nn.BatchNorm2d(4),
        nn.ReLU(),
        nn.Conv2d(4, 8, 2, stride=2),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(32, 4),
    )


class Weights(Callback):
    def on_task_end(self, event) -> None:
        self.state = {name: value.clone() for name, value in event.model.state_dict().items()}


def train(
    kind: str, method: str, mixing: str, replay: str = "union", model=network, **settings
) -> tuple[Result, dict[str, torch.Tensor]]:
    name, online = mixing.removesuffix("-online"), mixing.endswith("-online")
    generator = torch.Generator().manual_seed(1)
    mixer = mixers.by_name(name, 4, generator=generator, update="online" if online else "epoch")
    weights = Weights()
    trainer = Trainer(
        model,
        mixer,
        method_by_name(method, replay),
        buffer=8,
        epochs=2,
        batch_size=8,
        callbacks=[weights],
        **settings,
    )
    return trainer.fit(pictures(kind)), weights.state


def assert_sound(result: Result, weights: dict[str, torch.Tensor]) -> None:
    assert all(value.isfinite().all() for value in weights.values())
    assert result.accuracy_matrix.shape == (2, 2)
    assert (result.task_il_matrix >= result.accuracy_matrix).all()


@pytest.mark.parametrize("mixing", MIXING)
@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("kind", ["float", "uint8"])
def test_every_method_with_every_mixer(kind, method, mixing):
    assert_sound(*train(kind, method, mixing))


@pytest.mark.parametrize("mixing", ["cutmix", "gradmix"])
@pytest.mark.parametrize("method", NEW)
def test_from_disk_as_from_memory(method, mixing):
    result, weights = train("stored", method, mixing)
    again, same = train("uint8", method, mixing, storage="host")
    assert torch.equal(result.accuracy_matrix, again.accuracy_matrix)
    assert all(torch.equal(weights[name], same[name]) for name in weights)


def test_split_replay():
    result, weights = train("float", "icarl", "mixup", "split")
    assert_sound(result, weights)
    _, union = train("float", "icarl", "mixup")
    assert not all(torch.equal(weights[name], union[name]) for name in weights)


@pytest.mark.parametrize("mixing", ["cutmix", "manifold", "gradmix-online"])
@pytest.mark.parametrize("method", NEW)
def test_mixed_precision(method, mixing):
    assert_sound(*train("uint8", method, mixing, amp="bf16", clip_grad=1.0))


@pytest.mark.parametrize(
    ("method", "mixing"), list(zip(NEW, ("gradmix", "manifold") * 2, strict=True))
)
def test_a_compiled_model_trains_like_any(method, mixing):
    def compiled(scenario: Scenario) -> nn.Module:
        model = network(scenario)
        model.compile(backend="eager")  # traced, not lowered: fast, and the same arithmetic
        return model

    torch._dynamo.reset()
    result, weights = train("float", method, mixing, model=compiled)
    again, expected = train("float", method, mixing)
    assert torch.equal(result.accuracy_matrix, again.accuracy_matrix)
    for name, value in weights.items():
        torch.testing.assert_close(value, expected[name])


def test_new_methods_forget_less_than_finetuning():
    scenario = class_incremental("digits", tasks=5, class_order_seed=0)

    def final(method: str) -> float:
        settings = {"method": method_by_name(method, "split"), "buffer": 100, "epochs": 3}
        return Trainer(mixer="none", **settings).fit(scenario).final_accuracy

    floor = final("finetune")
    assert floor < 0.35
    for method in ("er-ace", "der++", "icarl"):
        assert final(method) > floor + 0.3, method
