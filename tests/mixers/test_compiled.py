"""Mixing, forward pass and loss as one compiled region."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import gradmix_ext as gx

C, D = 5, 8
MIXERS = {
    "mixup": lambda: gx.Mixup(),
    "balanced": lambda: gx.BalancedMixup(C, balance=0.5, per_sample_lam=True),
    "gradmix": lambda: gx.GradMix(C),
}


@pytest.mark.parametrize("name", MIXERS)
def test_a_step_compiles_without_a_graph_break(name):
    """Compiled code draws from PyTorch's own generator, as eager code without one of its own."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(D, 16), nn.ReLU(), nn.Linear(16, C))
    x, y = torch.randn(40, D), torch.randint(C, (40,))
    mixer = MIXERS[name]()
    mixer.update(model, (x, y), (torch.randn(12, D), torch.arange(12) % 3))
    seen = torch.arange(C) < C

    def step(x, y):
        batch = mixer.mix(x, y)
        return batch.loss(model(batch.x), class_mask=seen), batch.partner

    outcomes = []
    for run in (step, torch.compile(step, fullgraph=True, backend="aot_eager")):
        torch.manual_seed(1)
        loss, partner = run(x, y)
        outcomes.append((loss, partner, *torch.autograd.grad(loss, [*model.parameters()])))
    assert not torch.equal(outcomes[0][1], torch.arange(40))
    torch.testing.assert_close(*outcomes)


@pytest.mark.parametrize("name", MIXERS)
def test_batches_of_other_sizes(name):
    """The last batch of an epoch is smaller."""
    model = nn.Linear(D, C)
    mixer = MIXERS[name]()

    @torch.compile(fullgraph=True, backend="aot_eager")
    def step(x, y):
        batch = mixer.mix(x, y)
        return batch.loss(model(batch.x))

    for n in (12, 7, 9):
        step(torch.randn(n, D), torch.arange(n) % C).backward()


@pytest.mark.parametrize("name", MIXERS)
def test_batches_of_images_of_other_sizes(name):
    stored = torch.randint(256, (20, 1, 4, 4), dtype=torch.uint8)
    transform = gx.mixers.ImageTransform((0.5,), (0.25,), padding=1, hflip=True)
    mixer = MIXERS[name]()

    @torch.compile(fullgraph=True, backend="aot_eager")
    def step(index, y):
        return mixer.mix(gx.mixers.ImageBatch(stored, index, transform), y).x

    for n in (12, 7, 9):
        assert step(torch.arange(n), torch.arange(n) % C).shape == (n, 1, 4, 4)
