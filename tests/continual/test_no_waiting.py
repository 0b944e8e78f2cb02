"""Nothing in a training step needs a value, or a shape, that only the device knows."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from gradmix_ext.continual import METHODS, ArrayDataset, ReplayBuffer, Trainer, class_incremental
from gradmix_ext.continual.methods import method_by_name
from gradmix_ext.mixers import MIXERS, ImageTransform, by_name

#: Operations whose result goes to the host, or has a shape that depends on values.
WAITING = {
    "aten::_local_scalar_dense",
    "aten::item",
    "aten::is_nonzero",
    "aten::nonzero",
    "aten::masked_select",
    "aten::_unique2",
    "aten::unique_dim",
    "aten::bincount",
    "aten::repeat_interleave",
    "aten::equal",
}

#: The loss of a step: on a GPU the first; on the CPU its gradient is formed with it.
LOSSES = {"gradmix_ext::mixup_cross_entropy", "gradmix_ext::mixup_cross_entropy_with_gradient"}


class Watch(TorchDispatchMode):
    """Notes every operation for which a step on a GPU would have to wait."""

    def __init__(self) -> None:
        super().__init__()
        self.found: set[str] = set()
        self.steps = 0
        self.pausing = False

    def __torch_dispatch__(self, op: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = op.name().partition(".")[0]
        by_mask = name in ("aten::index", "aten::index_put_", "aten::index_put") and any(
            index is not None and index.dtype == torch.bool for index in args[1]
        )
        if not self.pausing and (name in WAITING or by_mask):
            self.found.add(name)
        self.steps += name in LOSSES
        return op(*args, **(kwargs or {}))


def scenario():
    g = torch.Generator().manual_seed(0)
    y, test_y = torch.arange(4).repeat_interleave(12), torch.arange(4).repeat(3)
    x, test_x = (
        torch.randint(256, (len(v), 3, 6, 6), generator=g, dtype=torch.uint8) for v in (y, test_y)
    )
    transform = ImageTransform((0.5,) * 3, (0.3,) * 3, padding=1, hflip=True)
    data = ArrayDataset("tiny", x, y, test_x, test_y, tuple("abcd"), (3, 6, 6), transform)
    return class_incremental(data, tasks=2)


def network(scenario) -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(64, 4)
    )


def watched_fit(monkeypatch: pytest.MonkeyPatch, method: str, mixer: str, **options: Any) -> Watch:
    watch = Watch()
    # On a GPU labels are not looked at; on the CPU, where that costs no waiting, they are.
    monkeypatch.setattr("gradmix_ext._checks.values_checked", lambda device: False)
    chosen = by_name(mixer, 4, generator=torch.Generator().manual_seed(1), **options)
    learn = chosen.update

    def update(*args: Any, **kwargs: Any) -> None:  # once an epoch; not a part of the step
        watch.pausing = True
        learn(*args, **kwargs)
        watch.pausing = False

    monkeypatch.setattr(chosen, "update", update)
    epoch = Trainer._train_epoch

    def train_epoch(self: Trainer, *args: Any) -> torch.Tensor:
        with watch:
            return epoch(self, *args)

    monkeypatch.setattr(Trainer, "_train_epoch", train_epoch)
    buffer = ReplayBuffer(8, "class-balanced", torch.Generator().manual_seed(2))
    trainer = Trainer(
        network, chosen, method_by_name(method), buffer, epochs=2, batch_size=8, clip_grad=1.0
    )
    trainer.fit(scenario())
    return watch


@pytest.mark.parametrize("mixer", MIXERS)
def test_no_mixer_waits_in_a_step(mixer, monkeypatch):
    watch = watched_fit(monkeypatch, "er", mixer)
    assert watch.steps > 10
    assert not watch.found


@pytest.mark.parametrize("method", METHODS)
def test_no_method_waits_in_a_step(method, monkeypatch):
    assert not watched_fit(monkeypatch, method, "gradmix").found


def test_online_scoring_does_not_wait(monkeypatch):
    assert not watched_fit(monkeypatch, "er", "gradmix", update="online", preset="paper").found


def test_the_watch_sees_what_it_looks_for():
    x = torch.arange(4.0)
    for wait in (lambda: x.sum().item(), lambda: x[x > 1], lambda: x.unique(), lambda: bool(x[0])):
        with Watch() as watch:
            wait()
        assert watch.found
