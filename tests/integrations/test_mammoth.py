"""The mammoth model in a stand-in for mammoth, see mammoth_stand_in/README.md; not the real one."""

from __future__ import annotations

import importlib
import math
import sys
from argparse import ArgumentParser
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader

import gradmix_ext as gx
from gradmix_ext.continual import load_dataset

STAND_IN = Path(__file__).parent / "mammoth_stand_in"
MEAN, STD = 0.3, 0.4


@pytest.fixture
def model_class(monkeypatch):
    """The class of the file that users copy, with mammoth's modules stood in for."""
    monkeypatch.syspath_prepend(STAND_IN)
    yield importlib.import_module("gradmix_ext.integrations._mammoth_model").GradMix
    for name in list(sys.modules):
        if name.split(".")[0] in ("models", "utils") or name.endswith("mammoth_model"):
            del sys.modules[name]


class Normalize(nn.Module):
    """Takes a batch, as mammoth's kornia transforms."""

    def forward(self, x: Tensor) -> Tensor:
        return (x - MEAN) / STD


class Images:
    """A task's samples as mammoth has them: (augmented and normalised, label, as it is)."""

    def __init__(self, x: Tensor, y: Tensor) -> None:
        self.data, self.targets = x, y.numpy()

    def __len__(self) -> int:
        return len(self.targets)

    def __getitem__(self, i: int) -> tuple[Tensor, int, Tensor]:
        return Normalize()(self.data[i] + 0.01), int(self.targets[i]), self.data[i]


class Sequence:
    """A dataset of tasks as mammoth's ``ContinualDataset``: digits, two classes a task."""

    NAME, SETTING = "seq-digits", "class-il"
    N_TASKS, N_CLASSES, N_CLASSES_PER_TASK = 3, 6, 2

    def __init__(self, per_class: int = 16) -> None:
        data = load_dataset("digits")
        self.tasks = []
        for task in range(self.N_TASKS):
            keep = torch.cat(
                [(data.train_y == c).nonzero()[:per_class, 0] for c in self.get_classes(task)]
            )
            images = data.train_x[keep].reshape(-1, 1, 8, 8).float()
            self.tasks.append(Images(images, data.train_y[keep]))

    def get_classes(self, task: int) -> range:
        return range(*self.get_offsets(task))

    def get_offsets(self, task: int) -> tuple[int, int]:
        return 2 * task, 2 * task + 2

    def get_normalization_transform(self) -> nn.Module:
        return Normalize()

    def begin(self, task: int, batch_size: int) -> None:
        self.train_loader = DataLoader(self.tasks[task], batch_size, shuffle=True)


def parse(model_class, *flags: str):
    parser = ArgumentParser()
    args = model_class.get_parser(parser).parse_args(["--buffer_size", "40", *flags])
    args.lr, args.n_epochs, args.batch_size = 0.1, 2, 8
    args.minibatch_size = args.minibatch_size or 8
    return args


def backbone(classes: int = 6) -> nn.Module:
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, classes))


def build(model_class, *flags: str, net=None, dataset=None, transform=None):
    torch.manual_seed(0)
    np.random.seed(0)
    dataset = dataset or Sequence()
    net = net or backbone()
    transform = transform or Normalize()
    return model_class(
        net, F.cross_entropy, parse(model_class, *flags), transform, dataset
    ), dataset


def train(model, dataset, tasks: int | None = None, after_step=lambda model: None) -> None:
    """Mammoth's loop over tasks, epochs and batches, as far as a model sees it."""
    for task in range(tasks or dataset.N_TASKS):
        dataset.begin(task, model.args.batch_size)
        model.net.train()
        model.meta_begin_task(dataset)
        for epoch in range(model.args.n_epochs):
            for inputs, labels, not_aug in dataset.train_loader:
                loss = model.meta_observe(inputs, labels, not_aug, epoch=epoch, logits=None)
                assert isinstance(loss, float)
                assert not math.isnan(loss)
                after_step(model)
        model.meta_end_task(dataset)


@pytest.mark.parametrize("mixer", sorted(gx.mixers.MIXERS))
def test_every_mixer_trains(model_class, mixer):
    model, dataset = build(model_class, "--mixer", mixer)
    train(model, dataset)
    x = Normalize()(torch.cat([task.data for task in dataset.tasks]))
    y = torch.cat([torch.as_tensor(task.targets) for task in dataset.tasks])
    # Of six classes, after two tasks were forgotten more or less: chance is a sixth.
    assert (model(x).argmax(1) == y).float().mean() > 0.4
    assert type(model.mixer) is gx.mixers.MIXERS[mixer]


def test_what_the_criterion_gets(model_class, monkeypatch):
    """Current samples and, of the buffer, those of earlier tasks; normalised and not augmented."""
    model, dataset = build(model_class)
    calls = []

    def update(self, net, current, buffer, seen_classes):
        calls.append((net, current, buffer, seen_classes, self.epoch))

    monkeypatch.setattr(gx.GradMix, "update", update)
    train(model, dataset, tasks=2)
    assert [epoch for *_, epoch in calls] == [0, 1, 0, 1]  # once an epoch
    for call, (net, current, buffer, seen, _) in enumerate(calls):
        task = dataset.tasks[call // 2]
        assert net is model.net
        assert seen is None
        torch.testing.assert_close(current[0][:], Normalize()(task.data))
        torch.testing.assert_close(current[0][torch.tensor([3, 1])], Normalize()(task.data[[3, 1]]))
        assert current[1].tolist() == task.targets.tolist()
        assert (buffer is None) == (call < 2)
    x, y = calls[2][2]
    assert len(x) == len(y) == 40
    assert set(y.tolist()) == {0, 1}
    first = Normalize()(dataset.tasks[0].data)
    assert all((image == first).flatten(1).all(1).any() for image in x)
    assert set(calls[3][2][1].tolist()) <= {0, 1}  # although the buffer holds 2 and 3 by now


def test_the_step_is_experience_replay_with_the_mixed_loss(model_class):
    """Weights after one step, against the step written out."""
    model, dataset = build(model_class, "--mixer", "mixup")
    model.mixer = gx.Mixup(generator=torch.Generator().manual_seed(5))
    train(model, dataset, tasks=1)
    dataset.begin(1, 8)
    model.meta_begin_task(dataset)
    twin = backbone()
    twin.load_state_dict(model.net.state_dict())
    mixer = gx.Mixup(generator=torch.Generator())
    mixer.load_state_dict(model.mixer.state_dict())
    inputs, labels, not_aug = next(iter(dataset.train_loader))

    state = np.random.get_state()
    choice = np.random.choice(40, size=8, replace=False)
    x = torch.cat([inputs, Normalize()(model.buffer.examples[choice])])
    batch = mixer.mix(x, torch.cat([labels, model.buffer.labels[choice]]))
    expected = batch.loss(twin(batch.x))
    optimizer = torch.optim.SGD(twin.parameters(), lr=0.1)
    expected.backward()
    optimizer.step()

    np.random.set_state(state)
    assert model.meta_observe(inputs, labels, not_aug, epoch=0) == pytest.approx(expected.item())
    for ours, theirs in zip(model.net.parameters(), twin.parameters(), strict=True):
        torch.testing.assert_close(ours, theirs)
    assert model.buffer.num_seen_examples == 32 * 2 + 8


def test_settings_reach_the_mixer(model_class):
    model, dataset = build(model_class, "--mixer_preset", "paper", "--mixer_alpha", "0.3")
    train(model, dataset, tasks=1)
    assert (model.mixer.criterion, model.mixer.lam_law.alpha) == ("mixed", 0.3)


def test_softmax_over_the_seen_classes(model_class):
    """The outputs of classes that have not come yet get no gradient."""
    model, dataset = build(model_class)
    model.mixed_softmax = "seen"
    start = model.net[-1].weight.detach().clone()
    train(model, dataset, tasks=2)
    moved = (model.net[-1].weight != start).any(1)
    assert moved.tolist() == [True] * 4 + [False] * 2


def test_normalisation_image_by_image(model_class):
    """A torchvision Compose is no module and takes one image."""
    model, dataset = build(model_class)
    plain = Normalize()
    train(model, dataset, tasks=1)
    del model.normalization_transform
    model.normalization_transform = lambda image: plain(image)
    x = dataset.tasks[0].data
    torch.testing.assert_close(model._current[0][:5], plain(x[:5]))
    del model.normalization_transform  # data sets without one
    torch.testing.assert_close(model._current[0][:5], x[:5])


def test_bad_use(model_class):
    with pytest.raises(ValueError, match="the head must have an output for each of the 6 classes"):
        train(*build(model_class, net=backbone(4)))
    with pytest.raises(ValueError, match=r"no nn\.Linear to take as head"):
        train(*build(model_class, net=nn.Conv2d(1, 6, 8)))
    dataset = Sequence()
    dataset.SETTING = "domain-il"
    with pytest.raises(
        ValueError, match="seq-digits must be one of class-il, task-il, got 'domain"
    ):
        train(*build(model_class, dataset=dataset))
    model, dataset = build(model_class)
    del model.buffer
    with pytest.raises(ValueError, match=r"make self\.buffer = Buffer\(args\.buffer_size\)"):
        train(model, dataset)
    with pytest.raises(SystemExit):
        parse(model_class, "--mixer", "cutoff")


def test_the_copied_file_names_only_what_mammoth_has(model_class):
    assert model_class.NAME == "gradmix"
    assert model_class.COMPATIBILITY == ["class-il", "task-il"]
