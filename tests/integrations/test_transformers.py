"""The Trainer in the real transformers, with a model of its own classes and random weights."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import Dataset

import gradmix_ext as gx

pytest.importorskip("transformers", reason="pip install 'gradmix_ext[integrations]'")
pytest.importorskip("accelerate", reason="pip install 'gradmix_ext[integrations]'")

from spy import Spy
from transformers import ResNetConfig, ResNetForImageClassification, TrainingArguments

from gradmix_ext.integrations.transformers import MixerTrainer

pytestmark = pytest.mark.filterwarnings("ignore")

C = 4


class Images(Dataset):
    """Samples as transformers takes them."""

    def __init__(self, classes: tuple[int, ...], n: int = 12, label: str = "labels") -> None:
        g = torch.Generator().manual_seed(sum(classes))
        self.y = torch.tensor(classes).repeat(n)[:n]
        self.x = torch.randn(n, 3, 8, 8, generator=g) + self.y[:, None, None, None]
        self.label = label

    def __len__(self) -> int:
        return len(self.y)

    def __getitem__(self, i: int) -> dict[str, Any]:
        return {"pixel_values": self.x[i], self.label: int(self.y[i])}


def network() -> nn.Module:
    torch.manual_seed(0)
    config = ResNetConfig(
        embedding_size=4, hidden_sizes=[4, 8], depths=[1, 1], layer_type="basic", num_labels=C
    )
    return ResNetForImageClassification(config)


def arguments(folder: Any, **options: Any) -> TrainingArguments:
    settings: dict[str, Any] = {
        "num_train_epochs": 2,
        "per_device_train_batch_size": 4,
        "learning_rate": 1e-2,
        "save_strategy": "no",
        "report_to": [],
        "use_cpu": True,
        "disable_tqdm": True,
        "remove_unused_columns": False,
        "seed": 3,
    }
    return TrainingArguments(output_dir=str(folder), **settings | options)


NEW, OLD = Images((2, 3)), Images((0, 1), 6)


def trainer(folder: Any, mixer: gx.Mixer, model: nn.Module | None = None, **options: Any) -> Any:
    settings = options.pop("settings", {})
    return MixerTrainer(
        model or network(),
        arguments(folder, **settings),
        **{"train_dataset": NEW, "mixer": mixer} | options,
    )


@pytest.mark.parametrize("precision", ["float32", "bf16"])
def test_what_the_criterion_gets(tmp_path, precision):
    mixer = Spy(C)
    settings = {"bf16": precision == "bf16"}
    agent = trainer(tmp_path, mixer, buffer=lambda: OLD, seen_classes=range(C), settings=settings)
    agent.train()
    assert [epoch for _, epoch, *_ in mixer.calls] == [0, 1]
    for _, _, current, buffer, seen in mixer.calls:
        assert torch.equal(current[0][:], NEW.x)
        assert torch.equal(current[1], NEW.y)
        assert torch.equal(buffer[0][torch.tensor([4, 1])], OLD.x[[4, 1]])
        assert torch.equal(buffer[1], OLD.y)
        assert seen == [0, 1, 2, 3]
    assert mixer.scored.all()
    assert mixer.scores.isfinite().all()


def test_the_scores_are_those_of_the_model_itself(tmp_path):
    mixer, alone = gx.GradMix(C), gx.GradMix(C)
    agent = trainer(tmp_path, mixer, buffer=OLD)
    agent._renew()

    class Plain(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.model = agent.model

        def forward(self, x: Tensor) -> Tensor:
            return self.model(pixel_values=x).logits

    alone.update(Plain(), (NEW.x, NEW.y), (OLD.x, OLD.y))
    torch.testing.assert_close(mixer.scores, alone.scores)


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_the_loss_is_the_mixed_one_in_training_and_plain_otherwise(tmp_path, smoothing):
    agent = trainer(
        tmp_path,
        gx.Mixup(generator=torch.Generator().manual_seed(1)),
        settings={"label_smoothing_factor": smoothing},
    )
    inputs = {"pixel_values": NEW.x, "labels": NEW.y}
    model = agent.model.train()
    loss, outputs = agent.compute_loss(model, dict(inputs), return_outputs=True)
    batch = gx.Mixup(generator=torch.Generator().manual_seed(1)).mix(NEW.x, NEW.y)
    torch.testing.assert_close(loss, batch.loss(outputs.logits, label_smoothing=smoothing))
    model.eval()
    with torch.no_grad():
        loss, outputs = agent.compute_loss(model, dict(inputs), return_outputs=True)
        expected = F.cross_entropy(model(NEW.x).logits, NEW.y, label_smoothing=smoothing)
    torch.testing.assert_close(loss, expected)


def test_gradient_accumulation_averages(tmp_path):
    """Two batches of 6 accumulated make the step of one batch of 12."""
    weights = []
    for size, steps in ((12, 1), (6, 2)):
        settings = {
            "per_device_train_batch_size": size,
            "gradient_accumulation_steps": steps,
            "num_train_epochs": 1,
            "optim": "sgd",
            "learning_rate": 0.1,
            "max_grad_norm": 0.0,
        }
        model = network()
        for module in model.modules():  # whose statistics would depend on the batch
            if isinstance(module, nn.BatchNorm2d):
                module.momentum, module.track_running_stats = 0.0, True
                module.train = lambda mode=True, module=module: module
                module.training = False
        trainer(tmp_path, gx.NoMix(), model, settings=settings).train()
        weights.append([p.detach().clone() for p in model.parameters()])
    for one, two in zip(*weights, strict=True):
        torch.testing.assert_close(one, two, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize(
    "make",
    [
        gx.Mixup,
        gx.CutMix,
        gx.ManifoldMixup,
        lambda: gx.BalancedMixup(C),
        lambda: gx.GradMix(C, update="online"),
        lambda: gx.GradMix(C, preset="paper", update=2),
    ],
)
def test_mixers_train_and_evaluate(tmp_path, make):
    mixer = make()
    buffer = {"buffer": OLD} if mixer.needs_update else {}
    agent = trainer(tmp_path, mixer, eval_dataset=NEW, **buffer)
    agent.train()
    metrics = agent.evaluate()
    assert metrics["eval_loss"] > 0
    assert agent.predict(NEW).predictions.shape == (12, C)
    assert mixer.epoch == 1


@pytest.mark.parametrize("at", [2, 3], ids=["within an epoch", "between epochs"])
@pytest.mark.parametrize("update", ["epoch", 2])
def test_resumed_is_as_if_never_interrupted(tmp_path, update, at):
    def new() -> Any:
        mixer = gx.GradMix(C, update=update, generator=torch.Generator().manual_seed(1))
        settings = {"save_strategy": "steps", "save_steps": at}
        return trainer(tmp_path, mixer, buffer=OLD, settings=settings)

    whole, resumed = new(), new()
    whole.train()
    resumed.train(resume_from_checkpoint=str(tmp_path / f"checkpoint-{at}"))
    assert torch.equal(whole.mixer.scores, resumed.mixer.scores)
    for one, two in zip(whole.model.parameters(), resumed.model.parameters(), strict=True):
        assert torch.equal(one, two)


def test_another_task(tmp_path):
    mixer = Spy(C)
    agent = trainer(tmp_path, mixer, train_dataset=OLD, buffer=None)
    agent.train()
    agent.train_dataset, agent.buffer = NEW, OLD
    agent.train()
    assert torch.equal(mixer.calls[-1][2][1], NEW.y)
    assert torch.equal(mixer.calls[-1][3][1], OLD.y)


@pytest.mark.parametrize(
    "make",
    [lambda: Spy(C, head="classifier.1"), lambda: gx.ManifoldMixup("resnet.encoder.stages.1")],
)
def test_layers_have_the_names_of_the_model(tmp_path, make):
    mixer = make()
    buffer = {"buffer": OLD} if mixer.needs_update else {}
    assert trainer(tmp_path, mixer, **buffer).train().global_step == 6


@pytest.mark.parametrize("make", [lambda: gx.GradMix(C), gx.ManifoldMixup])
def test_a_compiled_model(tmp_path, make):
    mixer = make()
    buffer = {"buffer": OLD} if mixer.needs_update else {}
    settings = {"torch_compile": True, "torch_compile_backend": "eager"}
    trained = []
    for options in ({}, settings):
        torch.manual_seed(0)
        agent = trainer(tmp_path, mixer, settings=options, **buffer)
        agent.train()
        trained.append(agent.model)
    for one, two in zip(*(model.parameters() for model in trained), strict=True):
        torch.testing.assert_close(one, two)


def test_columns_that_the_model_does_not_take(tmp_path):
    class Noted(Images):
        def __getitem__(self, i: int) -> dict[str, Any]:
            return super().__getitem__(i) | {"notes": [0] * (i + 1)}

    mixer = gx.GradMix(C)
    settings = {"remove_unused_columns": True}
    data = {"train_dataset": Noted((2, 3)), "buffer": Noted((0, 1))}
    trainer(tmp_path, mixer, settings=settings, **data).train()
    assert mixer.scored.all()


def test_labels_called_label(tmp_path):
    mixer = Spy(C)
    trainer(tmp_path, mixer, train_dataset=Images((2, 3), label="label"), buffer=OLD).train()
    assert torch.equal(mixer.calls[0][2][1], NEW.y)


def test_bad_use(tmp_path):
    mixer = gx.GradMix(C)
    with pytest.raises(ValueError, match="GradMix protects what a replay buffer holds: give buf"):
        trainer(tmp_path, mixer)
    with pytest.raises(ValueError, match=r"head must name an nn\.Linear of the model"):
        trainer(tmp_path, gx.GradMix(C, head="fc"), buffer=OLD)
    online = gx.GradMix(C, update="online")
    with pytest.raises(ValueError, match="update='online' cannot see through mixed precision"):
        trainer(tmp_path, online, buffer=OLD, settings={"bf16": True})
    with pytest.raises(ValueError, match="update='online' cannot see into a compiled model"):
        trainer(tmp_path, online, buffer=OLD, settings={"torch_compile": True})
    with pytest.raises(ValueError, match="compute_loss_func would not see the mixed labels"):
        trainer(tmp_path, gx.Mixup(), compute_loss_func=lambda *args, **options: None)
    with pytest.raises(ValueError, match="a batch has no 'input_values' to mix, it has pixel_v"):
        trainer(tmp_path, gx.Mixup(), input_name="input_values").train()
    with pytest.raises(ValueError, match="samples must have one of labels, label, label_ids"):
        trainer(tmp_path, mixer, buffer=Images((0, 1), label="y"))._renew()


def test_the_softmax_of_the_loss_is_that_of_the_criterion(tmp_path):
    agent = trainer(tmp_path, gx.NoMix(), seen_classes=[2, 3])
    agent.model.train()
    x, y = NEW.x[:4], NEW.y[:4]
    loss, outputs = agent.compute_loss(agent.model, {"pixel_values": x, "labels": y}, True)
    expected = F.cross_entropy(outputs.logits[:, 2:], y - 2)
    torch.testing.assert_close(loss, expected)
