"""Manifold mixup against mixing by hand between two halves of a model."""

from __future__ import annotations

import copy
from functools import partial

import pytest
import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

import gradmix_ext as gx
from gradmix_ext.mixers import by_name
from gradmix_ext.mixers.manifold import parts


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def network() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Linear(6, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 7), nn.Tanh(), nn.Linear(7, 4)
    ).double()


def samples(n: int = 20) -> tuple[Tensor, Tensor]:
    g = seeded(1)
    return torch.randn(n, 6, generator=g).double(), torch.randint(4, (n,), generator=g)


def by_hand(model: nn.Sequential, split: int, batch: gx.MixedBatch) -> Tensor:
    hidden = model[:split](batch.x)
    weight = batch.lam_x[:, None].double()
    return model[split:](weight * hidden + (1 - weight) * hidden[batch.partner])


@pytest.mark.parametrize("per_sample_lam", [False, True])
@pytest.mark.parametrize("split", [0, 3, 4, 5])
def test_logits_and_gradients_are_those_of_mixing_by_hand(split, per_sample_lam):
    model, (x, y) = network(), samples()
    layer = str(split) if split else "input"
    mixer = gx.ManifoldMixup([layer], per_sample_lam=per_sample_lam, generator=seeded())
    batch = mixer.mix(x, y)
    assert torch.equal(batch.x, x)
    found, expected = model, copy.deepcopy(model)
    loss = batch.loss(batch.forward(found))
    loss.backward()
    reference = batch.loss(by_hand(expected, split, batch))
    reference.backward()
    torch.testing.assert_close(loss, reference)
    for a, b in zip(found.parameters(), expected.parameters(), strict=True):
        torch.testing.assert_close(a.grad, b.grad)
    assert torch.equal(found[1].running_mean, expected[1].running_mean)
    assert not any(module._forward_pre_hooks for module in model.modules())


def test_at_the_input_it_is_mixup_bit_for_bit():
    model, (x, y) = network().float(), samples()
    x = x.float()
    manifold = gx.ManifoldMixup(["input"], generator=seeded(5))
    mixup = gx.Mixup(generator=seeded(5))
    for _ in range(3):
        ours, plain = manifold.mix(x, y), mixup.mix(x, y)
        assert torch.equal(ours.forward(model), plain.forward(model))
        assert torch.equal(ours.lam, plain.lam)
        assert torch.equal(ours.partner_target, plain.partner_target)


def test_every_layer_gets_its_turn_and_a_copy_of_the_model_gets_the_same():
    model, (x, y) = network().eval(), samples()
    twin = copy.deepcopy(model)
    mixer = gx.ManifoldMixup(generator=seeded())
    splits = (0, *map(int, parts(model)))
    turns = dict.fromkeys(splits, 0)
    for _ in range(120):
        batch = mixer.mix(x, y)
        logits = batch.forward(model)
        assert torch.equal(batch.forward(twin), logits)
        (split,) = (s for s in splits if torch.allclose(by_hand(model, s, batch), logits))
        turns[split] += 1
    assert splits == (0, 3, 5)
    assert all(20 < count < 60 for count in turns.values())


def test_the_choice_of_layers_resumes():
    model, (x, y) = network().eval(), samples()
    mixer = gx.ManifoldMixup(generator=seeded())
    mixer.mix(x, y)
    state = mixer.state_dict()
    expected = [mixer.mix(x, y).forward(model) for _ in range(8)]
    resumed = gx.ManifoldMixup(generator=seeded(99))
    resumed.load_state_dict(state)
    assert all(torch.equal(resumed.mix(x, y).forward(model), logits) for logits in expected)
    del state["layer_generator"]
    with pytest.raises(ValueError, match="state has no 'layer_generator'"):
        resumed.load_state_dict(state)


class Wrapped(nn.Module):
    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(1))
        self.inner = inner

    def forward(self, x: Tensor) -> Tensor:
        return self.inner(x) * self.scale


def test_parts_of_a_model():
    block = nn.Sequential(nn.Conv2d(4, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU())
    resnet = nn.Sequential()
    for name, module in {
        "conv1": nn.Conv2d(3, 4, 3, padding=1),
        "bn1": nn.BatchNorm2d(4),
        "layer1": block,
        "layer2": copy.deepcopy(block),
        "pool": nn.AdaptiveAvgPool2d(1),
        "flatten": nn.Flatten(),
        "fc": nn.Linear(4, 5),
    }.items():
        resnet.add_module(name, module)
    assert parts(resnet) == ["layer1", "layer2", "fc"]
    assert parts(Wrapped(resnet)) == ["inner.layer1", "inner.layer2", "inner.fc"]
    assert parts(torch.compile(resnet)) == ["layer1", "layer2", "fc"]
    assert parts(nn.Linear(3, 4)) == []
    batch = gx.ManifoldMixup(["layer2"]).mix(torch.randn(6, 3, 8, 8), torch.arange(6) % 5)
    assert batch.forward(resnet).shape == (6, 5)


def test_schedule_stops_it():
    model, (x, y) = network().eval(), samples()
    mixer = gx.ManifoldMixup(stop_epoch=1)
    mixer.set_epoch(1)
    assert torch.equal(mixer.mix(x, y).forward(model), model(x))


@pytest.mark.parametrize("wrap", [False, True], ids=["in-place", "wrapped"])
def test_a_compiled_model_mixes_as_well(wrap):
    model, (x, y) = network().eval(), samples()
    compiled = copy.deepcopy(model)
    if wrap:
        compiled = torch.compile(compiled, backend="eager")
    else:
        compiled.compile(backend="eager")
    mixer = gx.ManifoldMixup(generator=seeded())
    for _ in range(10):
        compiled(x)
        batch = mixer.mix(x, y)
        torch.testing.assert_close(batch.forward(compiled), batch.forward(model))


def test_half_precision_inside_of_the_model():
    model, (x, y) = network().float(), samples()
    batch = gx.ManifoldMixup(["3"], generator=seeded()).mix(x.float(), y)
    with torch.autocast("cpu", torch.bfloat16):
        logits = batch.forward(model)
    assert logits.dtype == torch.bfloat16
    torch.testing.assert_close(logits.float(), batch.forward(model), atol=0.02, rtol=0.02)


class Transposes(nn.Module):
    """Has a part that it never calls, and one that sees the samples in another dimension."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(6, 6)
        self.unused = nn.Linear(6, 6)
        self.across = nn.Linear(20, 20)
        self.head = nn.Linear(6, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.across(self.first(x).T).T)


def test_layers_that_cannot_be_mixed():
    x, y = samples()
    model = Transposes().double()
    for layer, message in (
        ("middle", r"\(first, unused, across, head\) or be 'input', got 'middle'"),
        ("unused", "has a module 'unused' but does not call it"),
        ("across", r"'across' must be a tensor with 20 rows, one per sample, got \[6, 20\]"),
    ):
        with pytest.raises(ValueError, match=message):
            gx.ManifoldMixup([layer]).mix(x, y).forward(model)
    assert not any(module._forward_pre_hooks for module in model.modules())
    with pytest.raises(ValueError, match="or be 'input', got 'middle'"):
        gx.ManifoldMixup(["head", "middle"]).check(model, (6,))
    with pytest.raises(ValueError, match="layers must name at least one layer, got none"):
        gx.ManifoldMixup([])


class Checkpoints(nn.Module):
    def __init__(self, use_reentrant: bool) -> None:
        super().__init__()
        self.first, self.inside, self.head = nn.Linear(6, 6), nn.Linear(6, 6), nn.Linear(6, 4)
        self.use_reentrant = use_reentrant

    def forward(self, x: Tensor) -> Tensor:
        hidden = checkpoint(self.inside, self.first(x), use_reentrant=self.use_reentrant)
        return self.head(hidden)


@pytest.mark.parametrize("use_reentrant", [True, False])
def test_a_layer_that_a_checkpoint_computes_again_is_refused(use_reentrant):
    """There is no mixing in the backward pass, so that its gradients would be others."""
    x, y = samples()
    model = Checkpoints(use_reentrant).double()
    with pytest.raises(ValueError, match="'inside' is inside of an activation checkpoint"):
        gx.ManifoldMixup(["inside"]).mix(x, y).forward(model)
    batch = gx.ManifoldMixup(["head"]).mix(x, y)
    batch.loss(batch.forward(model)).backward()
    assert model.first.weight.grad.abs().sum() > 0


def test_a_checkpoint_around_the_model_mixes_again():
    x, y = samples()
    model, batch = network().eval(), gx.ManifoldMixup(["3"], generator=seeded()).mix(x, y)
    gradients = []
    for forward in (batch.forward, partial(checkpoint, batch.forward, use_reentrant=False)):
        loss = batch.loss(forward(model))
        gradients.append(torch.autograd.grad(loss, [*model.parameters()]))
    torch.testing.assert_close(*gradients, rtol=0, atol=0)


def test_one_layer_alone():
    model, (x, y) = network().eval(), samples()
    expected = gx.ManifoldMixup(["3"], generator=seeded()).mix(x, y).forward(model)
    for layer in ("3", 3):
        mixer = gx.ManifoldMixup(layer, generator=seeded())
        mixer.check(model, (6,))
        assert torch.equal(mixer.mix(x, y).forward(model), expected)


def test_a_shared_layer_is_mixed_once():
    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.body, self.head = nn.Linear(6, 6), nn.Linear(6, 4)

        def forward(self, x: Tensor) -> Tensor:
            return self.head(self.body(self.body(x)))

    model, (x, y) = Twice().double(), samples()
    batch = gx.ManifoldMixup(["body"], generator=seeded()).mix(x, y)
    # All of it is linear but for the biases, which mixing leaves as they are.
    weight = batch.lam_x[:, None].double()
    torch.testing.assert_close(
        batch.forward(model), model(weight * x + (1 - weight) * x[batch.partner])
    )


def test_by_name():
    assert type(by_name("manifold", 3, alpha=0.5, criterion="mixed")) is gx.ManifoldMixup
