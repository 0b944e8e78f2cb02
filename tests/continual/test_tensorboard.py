"""Event files hold what the log holds, also when a run goes on from a checkpoint."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest

from gradmix_ext.continual.callbacks import Callback, EpochEnd
from gradmix_ext.continual.checkpoint import Checkpoint
from gradmix_ext.continual.tensorboard import TensorBoardLog
from gradmix_ext.experiments.experiment import Arm, Experiment, ExperimentConfig, Run

accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")

EPOCHS = 3
ARM = Arm.parse("gradmix")


@pytest.fixture(scope="module")
def experiment() -> Experiment:
    return Experiment(ExperimentConfig(tasks=2, epochs=EPOCHS, samples_per_pair=2), [ARM])


def curves(folder: Path) -> dict[str, list[tuple[int, float]]]:
    events = accumulator.EventAccumulator(str(folder)).Reload()
    tags = events.Tags()["scalars"]
    return {tag: [(each.step, each.value) for each in events.Scalars(tag)] for tag in tags}


def expected(run: Run) -> dict[str, list[tuple[int, float]]]:
    """The same curves, from the log."""
    found: dict[str, list[tuple[int, float]]] = {}

    def add(tag: str, step: int, value: float) -> None:
        found.setdefault(tag, []).append((step, pytest.approx(value, rel=1e-6)))

    for event in run.events:
        if event["event"] == "epoch":
            step = (event["task"] - 1) * EPOCHS + event["epoch"]
            add("train/loss", step, event["loss"])
            add("train/helpful_fraction", step, event["helpful_fraction"])
        else:
            step = event["task"] * EPOCHS
            for name in ("class_il", "task_il"):
                add(f"{name}/average", step, sum(event[name]) / len(event[name]))
                for task, value in enumerate(event[name], start=1):
                    add(f"{name}/task_{task}", step, value)
            add("class_il/pooled", step, event["pooled_accuracy"])
    return found


def test_event_files_hold_the_log(experiment, tmp_path):
    threads = threading.active_count()
    run = experiment.run(ARM, 0, (TensorBoardLog(tmp_path, EPOCHS),))
    assert threading.active_count() == threads
    assert curves(tmp_path) == expected(run)


@pytest.mark.parametrize("control", ["random-mask", "shuffled-scores"])
def test_no_share_of_helpful_pairs_where_they_are_chosen_at_random(experiment, tmp_path, control):
    arm = Arm.parse(control)
    run = experiment.run(arm, 0, (TensorBoardLog(tmp_path, EPOCHS),))
    assert "train/loss" in curves(tmp_path)
    assert "train/helpful_fraction" not in curves(tmp_path)
    assert not any("helpful_fraction" in event for event in run.events)


class Interruption(Callback):
    """Ends a run in the middle; says when a checkpoint is due."""

    def __init__(self, at: int | None) -> None:
        self.at = at
        self.epochs = 0

    def on_epoch_end(self, event: EpochEnd) -> None:
        self.epochs += 1
        if self.epochs == self.at:
            raise KeyboardInterrupt


@pytest.mark.parametrize("at", [2, 4, 5])
def test_what_a_killed_process_wrote_too_much_is_hidden(experiment, tmp_path, at):
    """The epoch of the interruption is written, but no checkpoint has it."""
    checkpoint = Checkpoint(tmp_path / "state.pt", every_seconds=0)
    logs = tmp_path / "logs"
    with pytest.raises(KeyboardInterrupt):
        experiment.run(ARM, 0, (TensorBoardLog(logs, EPOCHS), Interruption(at)), checkpoint)
    again = (TensorBoardLog(logs, EPOCHS), Interruption(None))
    run = experiment.run(ARM, 0, again, checkpoint)
    assert curves(logs) == expected(run)
