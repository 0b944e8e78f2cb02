"""The callback in the real Lightning."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import ConcatDataset, DataLoader, Subset, TensorDataset

import gradmix_ext as gx

pytest.importorskip("lightning", reason="pip install 'gradmix_ext[integrations]'")

import lightning.pytorch as pl
from spy import Spy

from gradmix_ext.integrations.lightning import MixerCallback

pytestmark = pytest.mark.filterwarnings("ignore")

C = 4


class Classifier(pl.LightningModule):
    def __init__(self, mixer: gx.Mixer) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.net = nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, C))
        self.mixer = mixer
        self.losses: list[float] = []

    def forward(self, x: Tensor) -> Tensor:
        return self.net(x)

    def training_step(self, samples: Any, index: int) -> Tensor:
        batch = self.mixer.mix(*samples)
        loss = batch.loss(batch.forward(self))
        self.losses.append(loss.item())
        return loss

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.1)


def samples(classes: tuple[int, ...], n: int = 16) -> tuple[Tensor, Tensor]:
    g = torch.Generator().manual_seed(sum(classes))
    return torch.randn(n, 6, generator=g), torch.tensor(classes).repeat(n)[:n]


NEW, OLD = samples((2, 3)), samples((0, 1), 6)


def fit(model: Classifier, callback: MixerCallback, epochs: int = 3, **options: Any) -> pl.Trainer:
    loader = options.pop("loader", None) or DataLoader(TensorDataset(*NEW), batch_size=4)
    resumed = options.pop("ckpt_path", None)
    trainer = pl.Trainer(
        max_epochs=epochs,
        accelerator="cpu",
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        callbacks=[callback],
        **{"enable_checkpointing": False} | options,
    )
    trainer.fit(model, loader, ckpt_path=resumed)
    return trainer


@pytest.mark.parametrize("source", ["loader", "tensors", "data set", "function"])
def test_what_the_criterion_gets(source):
    current = {
        "loader": None,
        "tensors": NEW,
        "data set": Subset(ConcatDataset([TensorDataset(*OLD), TensorDataset(*NEW)]), range(6, 22)),
        "function": lambda: NEW,
    }[source]
    mixer = Spy(C)
    model = Classifier(mixer)
    fit(model, MixerCallback(mixer, current=current, buffer=OLD, seen_classes=iter(range(4))))
    assert [epoch for _, epoch, *_ in mixer.calls] == [0, 1, 2]
    for called, _, now, before, seen in mixer.calls:
        assert called is model
        assert torch.equal(now[0][:], NEW[0])
        assert torch.equal(now[0][torch.tensor([2, 0])], NEW[0][[2, 0]])
        assert torch.equal(now[1], NEW[1])
        assert torch.equal(before[0][:], OLD[0])
        assert seen == [0, 1, 2, 3]
    assert mixer.scored.all()


def test_every_so_many_steps_and_a_buffer_that_changes():
    mixer, sizes = Spy(C, update=2), iter(range(1, 7))

    def held() -> tuple[Tensor, Tensor]:
        size = next(sizes)
        return OLD[0][:size], OLD[1][:size]

    callback = MixerCallback(mixer, buffer=held)
    fit(Classifier(mixer), callback)
    assert [len(before[1]) for *_, before, _ in mixer.calls] == [1, 2, 3, 4, 5, 6]


@pytest.mark.parametrize("source", [NEW, TensorDataset(*NEW)], ids=["tensors", "data set"])
@pytest.mark.parametrize(
    ("precision", "dtype"),
    [("64", torch.float64), ("bf16-true", torch.bfloat16), ("bf16-mixed", torch.float32)],
)
def test_samples_have_the_precision_of_the_model(precision, dtype, source):
    mixer = Spy(C)
    model = Classifier(mixer)
    callback = MixerCallback(mixer, current=source, buffer=OLD)
    fit(model, callback, epochs=1, precision=precision)
    assert model.net[0].weight.dtype == dtype
    ((_, _, now, before, _),) = mixer.calls
    assert torch.equal(now[0][:], NEW[0].to(dtype))
    assert torch.equal(before[0][:], OLD[0].to(dtype))
    assert mixer.scored.all()


def test_the_first_task():
    mixer = Spy(C)
    fit(Classifier(mixer), MixerCallback(mixer, buffer=None))
    assert not mixer.scored.any()
    assert all(before is None for *_, before, _ in mixer.calls)


@pytest.mark.parametrize("make", [gx.Mixup, gx.ManifoldMixup, lambda: gx.BalancedMixup(C)])
def test_mixers_without_a_criterion_need_no_samples(make):
    mixer = make()
    model = Classifier(mixer)
    fit(model, MixerCallback(mixer))
    assert mixer.epoch == 2
    assert len(model.losses) == 12


def test_a_submodule():
    mixer = Spy(C)
    model = Classifier(mixer)
    fit(model, MixerCallback(mixer, buffer=OLD, model="net"), epochs=1)
    assert mixer.calls[0][0] is model.net


def test_resumed_is_as_if_never_interrupted(tmp_path):
    def new() -> tuple[Classifier, MixerCallback]:
        mixer = gx.GradMix(C, update=3, generator=torch.Generator().manual_seed(1))
        return Classifier(mixer), MixerCallback(mixer, buffer=OLD)

    whole, callback = new()
    fit(whole, callback, epochs=4)

    first, callback = new()
    trainer = fit(first, callback, epochs=2)
    trainer.save_checkpoint(tmp_path / "half.ckpt")
    second, callback = new()
    fit(second, callback, epochs=4, ckpt_path=tmp_path / "half.ckpt")
    assert whole.losses == first.losses + second.losses
    assert torch.equal(whole.mixer.scores, second.mixer.scores)


class Listed(torch.utils.data.Dataset):
    """Labels that only reading tells."""

    def __len__(self) -> int:
        return 16

    def __getitem__(self, i: int) -> tuple[Tensor, int]:
        return NEW[0][i], int(NEW[1][i])


class Renamed(Listed):
    """An attribute that is not what the samples say."""

    targets = (0,) * 16
    target_transform = staticmethod(lambda label: label + 2)


class Shifted(Subset):
    """A subset that gives other labels than the data set that it is of."""

    def __getitem__(self, i: int) -> tuple[Tensor, Tensor]:
        x, y = self.dataset[self.indices[i]]
        return x, y + 2

    def __getitems__(self, indices: list[int]) -> list[tuple[Tensor, Tensor]]:
        return [self[i] for i in indices]


SHIFTED = Shifted(TensorDataset(NEW[0], NEW[1] - 2), range(16))


@pytest.mark.parametrize("data", [Listed(), Renamed(), SHIFTED])
def test_labels_are_those_of_the_samples(data):
    mixer = Spy(C)
    loader = DataLoader(data, batch_size=4)
    fit(Classifier(mixer), MixerCallback(mixer, buffer=OLD), epochs=1, loader=loader)
    assert torch.equal(mixer.calls[0][2][1], NEW[1])


class Headless(Classifier):
    def __init__(self, mixer: gx.Mixer) -> None:
        super().__init__(mixer)
        self.net = nn.Conv1d(1, C, 6)


class Named(torch.utils.data.Dataset):
    """Samples that are no pairs."""

    def __len__(self) -> int:
        return 16

    def __getitem__(self, i: int) -> dict[str, Any]:
        return {"x": NEW[0][i], "y": NEW[1][i]}


class Stream(torch.utils.data.IterableDataset):
    def __iter__(self) -> Any:
        return iter(TensorDataset(*NEW))


class Formless(pl.LightningModule):
    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Linear(6, C)


def test_bad_use():
    mixer = gx.GradMix(C)
    with pytest.raises(ValueError, match="GradMix protects what a replay buffer holds: give buf"):
        MixerCallback(mixer)
    with pytest.raises(ValueError, match=r"no nn\.Linear to take as head"):
        fit(Headless(mixer), MixerCallback(mixer, buffer=OLD))
    with pytest.raises(ValueError, match="model must name a submodule, got 'nets'"):
        fit(Classifier(mixer), MixerCallback(mixer, buffer=OLD, model="nets"))
    with pytest.raises(ValueError, match="Formless has no forward to score pairs with"):
        MixerCallback(mixer, buffer=OLD).on_fit_start(None, Formless())
    with pytest.raises(TypeError, match=r"samples must be \(x, y\), .* got list"):
        fit(Classifier(mixer), MixerCallback(mixer, buffer=[1, 2]))
    for data in (Named(), Stream()):
        with pytest.raises(TypeError, match=rf"samples must be .* got {type(data).__name__}"):
            fit(Classifier(mixer), MixerCallback(mixer, current=data, buffer=OLD))
