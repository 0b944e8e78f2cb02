"""A mixer in a loop of the real Accelerate."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

import gradmix_ext as gx
from gradmix_ext.integrations.accelerate import bare_model

pytest.importorskip("accelerate", reason="pip install 'gradmix_ext[integrations]'")

from accelerate import Accelerator
from accelerate.state import AcceleratorState

C = 4


@pytest.fixture(autouse=True)
def apart():
    """Accelerate keeps its precision for the process."""
    AcceleratorState._reset_state(reset_partial_state=True)
    yield
    AcceleratorState._reset_state(reset_partial_state=True)


def samples(classes: tuple[int, ...], n: int = 12) -> tuple[torch.Tensor, torch.Tensor]:
    g = torch.Generator().manual_seed(sum(classes))
    return torch.randn(n, 6, generator=g), torch.tensor(classes).repeat(n)[:n]


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 8), nn.Dropout(0.5), nn.ReLU(), nn.Linear(8, C))


@pytest.mark.parametrize("precision", ["no", "bf16"])
def test_scores_are_those_of_the_model_before_it_was_prepared(precision):
    accelerator = Accelerator(cpu=True, mixed_precision=precision)
    plain = network()
    model = accelerator.prepare(copy.deepcopy(plain))
    mixers = gx.GradMix(C), gx.GradMix(C)
    for mixer, scored in zip(mixers, (plain, bare_model(accelerator, model)), strict=True):
        mixer.update(scored, samples((2, 3)), samples((0, 1)))
    assert mixers[0].scored.all()
    torch.testing.assert_close(mixers[0].scores, mixers[1].scores)
    assert model.training
    x, y = samples((0, 1, 2, 3))
    batch = mixers[0].mix(x, y)
    accelerator.backward(batch.loss(batch.forward(model)))  # as prepared as before
    with torch.no_grad():
        same = torch.equal(model.eval()(x), plain.eval()(x))
    assert same == (precision == "no")


class Classifier(nn.Module):
    """A model whose forward pass depends on its own mode."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.head = nn.Linear(6, C)
        self.other = nn.Linear(6, 6)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(nn.functional.dropout(x, training=self.training))


def doubled() -> nn.Module:
    model = Classifier()
    model.register_forward_pre_hook(lambda module, args: (2 * args[0],))
    return model


def replaced() -> nn.Module:
    model = Classifier()
    model.forward = lambda x: Classifier.forward(model, -x)
    return model


@pytest.mark.parametrize("precision", ["no", "bf16"])
@pytest.mark.parametrize("make", [lambda: nn.Linear(6, C), Classifier, doubled, replaced])
def test_the_bare_model_is_the_whole_model(make, precision):
    """Also one that is its own head, has hooks of its own, or another forward than its class."""
    accelerator = Accelerator(cpu=True, mixed_precision=precision)
    plain = make()
    head = "head" if isinstance(plain, Classifier) else None
    mixers = gx.GradMix(C, head=head), gx.GradMix(C, head=head)
    mixers[0].update(plain, samples((2, 3)), samples((0, 1)))
    model = accelerator.prepare(plain)
    prepared = vars(model).get("forward")
    mixers[1].update(bare_model(accelerator, model), samples((2, 3)), samples((0, 1)))
    assert mixers[0].scored.all()
    torch.testing.assert_close(mixers[0].scores, mixers[1].scores)
    assert vars(model).get("forward") is prepared


def test_the_prepared_model_itself_is_refused_with_mixed_precision():
    accelerator = Accelerator(cpu=True, mixed_precision="bf16")
    model = accelerator.prepare(network())
    with pytest.raises(ValueError, match="are not the output of the head"):
        gx.GradMix(C).update(model, samples((2, 3)), samples((0, 1)))


def test_save_state_keeps_the_mixer(tmp_path):
    accelerator = Accelerator(cpu=True)
    model = accelerator.prepare(network())
    mixer = gx.GradMix(C, generator=torch.Generator().manual_seed(1))
    accelerator.register_for_checkpointing(mixer)
    mixer.update(bare_model(accelerator, model), samples((2, 3)), samples((0, 1)))
    accelerator.save_state(tmp_path)
    x, y = samples((0, 1, 2, 3))
    scores, expected = mixer.scores.clone(), mixer.mix(x, y)
    mixer.update(bare_model(accelerator, model), samples((2, 3)))
    mixer.scores.zero_()
    accelerator.load_state(tmp_path)
    assert torch.equal(mixer.scores, scores)
    assert torch.equal(mixer.mix(x, y).x, expected.x)
