"""What an optimizer is given, and the course of its learning rate."""

from __future__ import annotations

from functools import partial

import pytest
import torch
from torch import nn

from gradmix_ext.continual import (
    ArrayDataset,
    Trainer,
    class_incremental,
)
from gradmix_ext.continual.optimization import SCHEDULES

C, D = 4, 6


def scenario():
    g = torch.Generator().manual_seed(0)
    y, test_y = torch.arange(C).repeat(20), torch.arange(C).repeat(5)
    centre = 3 * torch.eye(C, D)
    x = centre[y] + torch.randn(len(y), D, generator=g)
    test_x = centre[test_y] + torch.randn(len(test_y), D, generator=g)
    return class_incremental(ArrayDataset("toy", x, y, test_x, test_y, tuple("abcd")), tasks=2)


def network() -> nn.Sequential:
    torch.manual_seed(1)
    return nn.Sequential(nn.Linear(D, 8), nn.Tanh(), nn.Linear(8, C))


@pytest.mark.parametrize(
    "settings",
    [
        {"method": "finetune", "clip_grad": 0.05},
        {"method": "finetune", "clip_grad": 0.05, "amp": "fp16"},
        {"method": "a-gem"},
        {"method": "a-gem", "amp": "fp16", "clip_grad": 0.05},
    ],
    ids=str,
)
def test_parameters_without_an_optimizer_are_as_if_frozen(settings):
    sgd = partial(torch.optim.SGD, lr=0.5)
    held_back, frozen = network(), network()
    frozen[0].requires_grad_(False)
    given = {"buffer": 8, "epochs": 2, "batch_size": 8} | settings
    for model in (held_back, frozen):
        optimizer = lambda parameters: sgd(list(parameters)[2:])  # noqa: E731
        Trainer(model, optimizer=optimizer, **given).fit(scenario())
    assert not torch.equal(held_back[2].weight, network()[2].weight)
    for a, b in zip(held_back.parameters(), frozen.parameters(), strict=True):
        assert torch.equal(a, b)
    assert all(parameter.grad is None for parameter in held_back[0].parameters())


def rates(schedule: str, epochs: int) -> list[float]:
    """The learning rate of each epoch of a task."""
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=1.0)
    course, found = SCHEDULES[schedule](optimizer, epochs), []
    for _ in range(epochs):
        found.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        course.step()
    return found


def test_steps_leave_a_first_epoch_at_the_full_rate():
    for epochs in range(4, 40):
        expected = [
            0.1 ** ((epoch >= epochs // 2) + (epoch >= epochs * 3 // 4)) for epoch in range(epochs)
        ]
        assert rates("step", epochs) == pytest.approx(expected)
    assert rates("step", 1) == [1]
    assert rates("step", 2) == pytest.approx([1, 0.1])
    assert rates("step", 3) == pytest.approx([1, 0.1, 0.01])
