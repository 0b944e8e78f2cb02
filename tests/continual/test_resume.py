"""A training that was interrupted and resumed equals one that was not, bit for bit."""

from __future__ import annotations

from functools import partial

import pytest
import torch
from interrupting import Interrupt, InterruptionError, Weights
from stored import Stored
from torch import nn

from gradmix_ext import GradMix, ManifoldMixup, Mixup
from gradmix_ext.continual import (
    ArrayDataset,
    Checkpoint,
    CheckpointError,
    PairMapRecorder,
    ReplayBuffer,
    Trainer,
    class_incremental,
    method_by_name,
)

TASKS, EPOCHS = 3, 3


def scenario(stored: bool = False):
    g = torch.Generator().manual_seed(0)
    y = torch.arange(6).repeat(15)
    x = torch.randn(90, 4, generator=g) + y[:, None]
    test_y = torch.arange(6).repeat(4)
    test_x = torch.randn(24, 4, generator=g) + test_y[:, None]
    inputs = (Stored(x), Stored(test_x)) if stored else (x, test_x)
    data = ArrayDataset("steps", inputs[0], y, inputs[1], test_y, tuple("abcdef"))
    return class_incremental(data, tasks=TASKS)


def network(scenario, width: int = 16) -> nn.Module:
    return nn.Sequential(
        nn.Linear(4, width), nn.BatchNorm1d(width), nn.ReLU(), nn.Dropout(0.3), nn.Linear(width, 6)
    )


def run(path, interrupt_after: int = 0, replay: str = "union", **settings):
    """Everything that a training leaves behind."""
    weights, maps = Weights(), PairMapRecorder()
    given = {
        "mixer": "gradmix",
        "schedule": "cosine",
        "policy": "reservoir",
        "method": "er",
    } | settings
    stored = given.pop("stored", False)
    buffer = ReplayBuffer(12, given.pop("policy"), torch.Generator().manual_seed(5))
    trainer = Trainer(
        given.pop("model", network),
        method=method_by_name(given.pop("method"), replay),
        buffer=buffer,
        epochs=EPOCHS,
        batch_size=16,
        seed=3,
        callbacks=[weights, maps, Interrupt(interrupt_after)],
        **given,
    )
    checkpoint = None if path is None else Checkpoint(path, every_seconds=0)
    result = trainer.fit(scenario(stored), checkpoint)
    state = buffer.state_dict()
    return {
        "weights": weights.state,
        "accuracy": result.accuracy_matrix,
        "task_il": result.task_il_matrix,
        "confusion": result.confusion,
        "baseline": result.task_il_baseline,
        "buffer": state["columns"],
        "buffer_generator": state["generator"],
        "seen": torch.tensor(state["seen"]),
        "maps": {} if (m := maps.maps()) is None else vars(m),
    }


def equal(a, b) -> bool:
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(equal(a[key], b[key]) for key in a)
    return torch.equal(a, b)


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"replay": "split", "mixer": "mixup", "policy": "class-balanced"},
        {"optimizer": partial(torch.optim.AdamW, lr=0.01), "schedule": "step", "clip_grad": 1.0},
        {"amp": "bf16", "mixer": "balanced", "policy": "herding"},
        {"stored": True},
        {"method": "er-ace", "mixer": "manifold", "policy": "class-balanced"},
        {"method": "der++", "mixer": "mixup"},
        {"method": "icarl", "mixer": "manifold", "policy": "herding"},
        {"method": "a-gem", "stored": True},
    ],
    ids=[
        "gradmix-reservoir",
        "split-balanced",
        "adamw",
        "bf16-herding",
        "from-disk",
        "er-ace",
        "der++",
        "icarl",
        "a-gem",
    ],
)
def test_a_resumed_training_equals_an_uninterrupted_one(settings, tmp_path):
    whole = run(None, **settings)
    # Interrupted before the first checkpoint, within tasks, and at the end of tasks.
    for after in (1, 2, 4, 6, 8, 9):
        path = tmp_path / f"{after}.pt"
        with pytest.raises(InterruptionError):
            run(path, after, **settings)
        assert equal(run(path, **settings), whole), after


class Anchored(torch.optim.SGD):
    """Pulls the weights back to those that it was made with."""

    def __init__(self, parameters) -> None:
        super().__init__(parameters, lr=0.05)
        self.anchors = [p.detach().clone() for group in self.param_groups for p in group["params"]]

    def step(self, closure=None):
        for parameter, anchor in zip(self.param_groups[0]["params"], self.anchors, strict=True):
            parameter.grad.add_(parameter.detach() - anchor, alpha=0.1)
        return super().step(closure)


def test_an_optimizer_that_looks_at_the_weights_is_made_from_those_that_were_saved(tmp_path):
    whole, path = run(None, optimizer=Anchored), tmp_path / "state.pt"
    with pytest.raises(InterruptionError):  # before the first checkpoint of the second task
        run(path, EPOCHS + 1, optimizer=Anchored)
    assert equal(run(path, optimizer=Anchored), whole)


class Remembers(Mixup):
    """Keeps what it has seen where anybody can read it."""

    def __init__(self) -> None:
        super().__init__()
        self.epochs_seen: tuple[int, ...] = ()

    def set_epoch(self, epoch: int) -> None:
        super().set_epoch(epoch)
        self.epochs_seen = (*self.epochs_seen, epoch)


def test_what_a_mixer_remembers_is_no_setting(tmp_path):
    path = tmp_path / "state.pt"
    with pytest.raises(InterruptionError):
        run(path, 2, mixer=Remembers())
    assert equal(run(path, mixer=Remembers()), run(None, mixer=Remembers()))


def test_interrupted_again_and_again(tmp_path):
    whole, path = run(None), tmp_path / "state.pt"
    for _ in range(4):  # each time two epochs further, one of them not yet saved
        with pytest.raises(InterruptionError):
            run(path, 2)
    assert equal(run(path), whole)


def test_randomness_outside_of_the_training_is_left_alone(tmp_path):
    torch.manual_seed(7)
    expected = torch.rand(3)
    torch.manual_seed(7)
    run(None)
    assert torch.equal(torch.rand(3), expected)


def test_a_training_repeats_whatever_was_drawn_before():
    torch.manual_seed(1)
    first = run(None)
    torch.manual_seed(2)
    assert equal(run(None), first)


def test_what_is_read_from_disk_trains_as_what_is_in_memory():
    assert equal(run(None, stored=True), run(None))


def test_a_damaged_checkpoint_is_an_error(tmp_path):
    path = tmp_path / "state.pt"
    with pytest.raises(InterruptionError):
        run(path, 3)
    whole = path.read_bytes()
    for damaged in (whole[: len(whole) // 2], b"", b"not a checkpoint"):
        path.write_bytes(damaged)
        with pytest.raises(CheckpointError, match=r"state\.pt is not a training checkpoint"):
            run(path)
    middle = len(whole) // 2
    for bits, length in ((1, 1), (255, 64)):
        flipped = bytes(byte ^ bits for byte in whole[middle : middle + length])
        path.write_bytes(whole[:middle] + flipped + whole[middle + length :])
        with pytest.raises(CheckpointError, match="is damaged: wrong checksum of"):
            run(path)
    for foreign in ({"weights": torch.zeros(3)}, torch.zeros(3), [1, 2]):
        torch.save(foreign, path)
        with pytest.raises(CheckpointError, match="is not a training checkpoint"):
            run(path)


def test_a_checkpoint_has_checksums_whatever_a_program_sets(tmp_path):
    path = tmp_path / "state.pt"
    torch.serialization.set_crc32_options(False)
    try:
        Checkpoint(path).save({"epoch": 3})
    finally:
        torch.serialization.set_crc32_options(True)
    assert Checkpoint(path).load() == {"epoch": 3}


@pytest.mark.parametrize("missing", ["settings", "epoch", "parts", "callbacks", "ranks"])
def test_a_checkpoint_that_lacks_something_is_an_error(tmp_path, missing):
    path = tmp_path / "state.pt"
    with pytest.raises(InterruptionError):
        run(path, 3)
    content = torch.load(path, weights_only=True)
    del content["state"][missing]
    torch.save(content, path)
    with pytest.raises(CheckpointError, match=f"does not fit this training: .*{missing}"):
        run(path)


def test_a_checkpoint_of_another_training_is_an_error(tmp_path):
    path = tmp_path / "state.pt"
    with pytest.raises(InterruptionError):
        run(path, 3)
    with pytest.raises(CheckpointError, match=r"threshold=0.0.*, this one has .*threshold=0.5"):
        run(path, mixer=GradMix(6, threshold=0.5))
    with pytest.raises(CheckpointError, match=r"with mixer = GradMix\(.*, this one has Mixup\("):
        run(path, mixer="mixup")
    for settings, message in (
        ({"clip_grad": 1.0}, "clip_grad = None, this one has 1.0"),
        ({"schedule": "step"}, "schedule = _cosine, this one has _step"),
        ({"optimizer": partial(torch.optim.SGD, lr=0.5)}, "SGD.*lr=0.05.*, this one has.*lr=0.5"),
        ({"optimizer": torch.optim.AdamW}, "this one has AdamW"),
    ):
        with pytest.raises(CheckpointError, match=message):
            run(path, **settings)
    # A head of another width, which PyTorch tells.
    with pytest.raises(CheckpointError, match=r"does not fit this training: .*size mismatch"):
        run(path, model=partial(network, width=8))


@pytest.mark.parametrize(
    ("before", "after", "message"),
    [
        ({"mixer": Mixup(alpha=0.1)}, {"mixer": Mixup(alpha=5.0)}, "alpha=0.1.*alpha=5.0"),
        (
            {"mixer": Mixup(lam_coupling="fixed", fixed_lam=(0.3, 0.4))},
            {"mixer": Mixup(lam_coupling="fixed", fixed_lam=(0.3, 0.5))},
            r"fixed=\(0.3, 0.4\).*fixed=\(0.3, 0.5\)",
        ),
        ({"mixer": Mixup()}, {"mixer": Mixup(stop_epoch=1)}, "this one has .*stop_epoch=1"),
        (
            {"mixer": ManifoldMixup(layers="1")},
            {"mixer": ManifoldMixup(layers=("1", "2"))},
            r"this one has .*layers=\(1, 2\)",
        ),
        (
            {"optimizer": torch.optim.AdamW},
            {"optimizer": partial(torch.optim.AdamW, betas=(0.5, 0.9))},
            r"betas=\(0.9, 0.999\).*betas=\(0.5, 0.9\)",
        ),
    ],
    ids=["alpha", "fixed_lam", "stop_epoch", "layers", "betas"],
)
def test_settings_within_settings_are_compared(tmp_path, before, after, message):
    path = tmp_path / "state.pt"
    with pytest.raises(InterruptionError):
        run(path, 3, **before)
    with pytest.raises(CheckpointError, match=message):
        run(path, **after)
    run(path, **before)


def test_an_optimizer_is_made_once_for_each_task_that_is_trained(tmp_path):
    made: list[int] = []

    def optimizer(parameters):
        made.append(1)
        return torch.optim.SGD(parameters, lr=0.05)

    run(None, optimizer=optimizer)
    assert len(made) == TASKS
    path = tmp_path / "state.pt"
    with pytest.raises(InterruptionError):
        run(path, EPOCHS + 2, optimizer=optimizer)  # within the second task
    made.clear()
    run(path, optimizer=optimizer)
    assert len(made) == TASKS - 1


def test_a_failed_save_leaves_the_last_checkpoint(tmp_path, monkeypatch):
    path = tmp_path / "state.pt"
    checkpoint = Checkpoint(path, every_seconds=0)
    checkpoint.save({"epoch": 1})

    def full(*args):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(OSError, match="No space"):
        checkpoint.save({"epoch": 2})
    assert checkpoint.load() == {"epoch": 1}
    assert list(tmp_path.iterdir()) == [path]


def test_loading_runs_no_code(tmp_path):
    class Evil:
        def __reduce__(self):
            return (open, (str(tmp_path / "was_here"), "w"))

    path = tmp_path / "state.pt"
    torch.save({"mark": Evil()}, path)
    with pytest.raises(CheckpointError):
        Checkpoint(path).load()
    assert not (tmp_path / "was_here").exists()
