"""Arguments that cannot be, refused with their name and value before anything is done."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from interrupting import Interrupt, InterruptionError

from gradmix_ext.continual import (
    ER,
    Callback,
    Checkpoint,
    Trainer,
    class_incremental,
    load_dataset,
    mlp,
)

SGD = torch.optim.SGD(mlp((2,), 3).parameters(), lr=0.1)


@pytest.mark.parametrize(
    ("argument", "value", "error", "message"),
    [
        ("model", "mlp", TypeError, "model must be an nn.Module or a function .*, got 'mlp'"),
        ("optimizer", "sgd", TypeError, "optimizer must be a function such as .*, got 'sgd'"),
        ("optimizer", SGD, TypeError, "optimizer must be a function .*, got an object of SGD"),
        ("mixer", None, TypeError, "mixer must be a mixer or the name of one, got None"),
        ("mixer", "mix", ValueError, "must be one of none, mixup, .*, got 'mix'"),
        ("method", ER, TypeError, "method must be a method or the name of one, got <class .*ER'>"),
        ("amp", None, ValueError, "amp must be one of none, bf16, fp16, got None"),
        ("amp", torch.bfloat16, ValueError, "amp must be .*, got torch.bfloat16"),
        ("schedule", None, ValueError, "schedule must be one of constant, .*, got None"),
        ("storage", None, ValueError, "storage must be one of auto, device, host, got None"),
        ("clip_grad", "1", TypeError, "clip_grad must be a number or None, got '1'"),
        ("clip_grad", 0, ValueError, "clip_grad must be positive, got 0"),
        ("seed", 2**70, ValueError, f"seed must be .* less than 2.*60, got {2**70}"),
        ("seed", -(2**60), ValueError, f"seed must be at least .*, got -{2**60}"),
    ],
)
def test_a_trainer_refuses(argument, value, error, message):
    with pytest.raises(error, match=message):
        Trainer(**{"buffer": 10, argument: value})


def test_the_seeds_at_the_ends_are_taken():
    data = class_incremental("digits", tasks=1)
    for seed in (-(2**59), 2**60 - 1):
        Trainer(mixer="gradmix", method="finetune", seed=seed, epochs=1, batch_size=2000).fit(data)


def test_a_fit_takes_a_scenario_and_a_checkpoint():
    trainer = Trainer(buffer=10)
    with pytest.raises(TypeError, match="scenario must be what class_incremental gives, got 'dig"):
        trainer.fit("digits")
    with pytest.raises(TypeError, match=r"checkpoint must be a Checkpoint\(path\), got 'ck.pt'"):
        trainer.fit(class_incremental("digits", tasks=5), "ck.pt")


def test_data_sets_by_path(tmp_path: Path):
    path = tmp_path / "data.npz"
    np.savez(path, x=np.arange(40, dtype=np.float32).reshape(20, 2), y=np.arange(20) % 4)
    by_path, by_name = load_dataset(path), load_dataset(str(path))
    assert torch.equal(by_path.train_x, by_name.train_x)
    assert len(class_incremental(path, tasks=2)) == 2
    with pytest.raises(TypeError, match=r"name must be the name of a data set or .*, got 3"):
        load_dataset(3)
    with pytest.raises(TypeError, match=r"dataset must be an ArrayDataset, or .*, got 3"):
        class_incremental(3, tasks=2)


@pytest.mark.parametrize("seconds", [-1, float("nan")])
def test_a_checkpoint_is_saved_after_some_time(seconds):
    with pytest.raises(ValueError, match=f"every_seconds must be at least 0, got {seconds}"):
        Checkpoint("state.pt", every_seconds=seconds)


class Best(Callback):
    """Keeps a number, and whatever else it is told to."""

    def __init__(self, value: object) -> None:
        self.value = value

    def state_dict(self) -> dict:
        return {"losses": [1.0, self.value]}


@pytest.mark.parametrize("value", [np.float64(0.5), np.zeros(2)], ids=["scalar", "array"])
def test_a_callback_that_no_checkpoint_can_hold_is_refused_when_it_is_saved(tmp_path, value):
    path = tmp_path / "state.pt"
    data = class_incremental("digits", tasks=5)
    settings = {"method": "finetune", "epochs": 2, "batch_size": 500}
    with pytest.raises(InterruptionError):
        Trainer(**settings, callbacks=[Best(0.5), Interrupt(2)]).fit(data, Checkpoint(path, 0))
    before = path.read_bytes()
    trainer = Trainer(**settings, callbacks=[Best(value), Interrupt(0)])
    with pytest.raises(TypeError, match=r"state\['callbacks'\]\[0\]\['losses'\]\[1\] needs numpy"):
        trainer.fit(data, Checkpoint(path, 0))
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]
