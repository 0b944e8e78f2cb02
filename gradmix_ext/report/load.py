"""Reads what `gradmix train` and `gradmix compare` left in a folder, and checks it."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gradmix_ext.continual.files import arrays_in
from gradmix_ext.experiments.statistics import TESTS

__all__ = ["ArmRecord", "Array", "PairHistory", "RunRecord", "SeedRecord", "load_run", "read_pairs"]

Array = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class PairHistory:
    """The class-pair map of a run after every epoch (E entries), classes in class order.

    Attributes:
        task: [E], from 0.
        epoch: [E], from 0 within the task.
        allowed: [E, C, C] bool, the helpful pairs: all that ``redraw`` and ``skip`` mix.
        scores: [E, C, C] float32; 0 for pairs that were not scored.
    """

    task: NDArray[np.int64]
    epoch: NDArray[np.int64]
    allowed: NDArray[np.bool_]
    scores: NDArray[np.float32]


@dataclass(frozen=True, eq=False)
class SeedRecord:
    """One arm with one seed, finished.

    Attributes:
        seed: The seed.
        class_il: [T, T], fractions: accuracy on task j after task t over all classes seen.
        task_il: [T, T], the same with the task known.
        task_il_baseline: [T], Task-IL accuracy before any training.
        task_classes: The labels of each task.
        confusion: [n, 4], rows of (task from 0, true label, predicted label, test samples), without
            those of 0 samples; None if it was not saved.
        losses: (task, epoch, loss) of every epoch, counted from 1; empty if they were not logged.
        seconds: Wall-clock time; None if it was not logged.
        pairs: Where the class-pair maps are; None if the mixer judges no pairs.
    """

    seed: int
    class_il: Array
    task_il: Array
    task_il_baseline: Array
    task_classes: tuple[tuple[int, ...], ...]
    confusion: NDArray[np.int64] | None
    losses: tuple[tuple[int, int, float], ...]
    seconds: float | None
    pairs: Path | None

    @property
    def class_order(self) -> tuple[int, ...]:
        """All labels in the order in which they came."""
        return tuple(label for task in self.task_classes for label in task)

    @property
    def task_sizes(self) -> tuple[int, ...]:
        """How many classes each task brought."""
        return tuple(len(task) for task in self.task_classes)


@dataclass(frozen=True)
class ArmRecord:
    """A method with a mixer, and its finished seeds in ascending order (at least one)."""

    label: str
    method: str
    augment: str
    seeds: tuple[SeedRecord, ...]


@dataclass(frozen=True)
class RunRecord:
    """A run folder.

    Attributes:
        path: The folder, as it was given.
        config: Content of its config.json.
        arms: Arms with at least one finished seed.
        missing: (arm, seed) of what is not finished.
    """

    path: Path
    config: dict[str, Any]
    arms: tuple[ArmRecord, ...]
    missing: tuple[tuple[str, int], ...]

    @property
    def settings(self) -> dict[str, Any]:
        """Flags by name."""
        settings: dict[str, Any] = self.config["settings"]
        return settings

    @property
    def commands(self) -> list[str]:
        """The command that began the run, and those that continued it, as far as recorded."""
        origins = [self.config, *self.config.get("resumed", [])]
        return [str(origin["command"]) for origin in origins if "command" in origin]


def load_run(path: str | Path) -> RunRecord:
    """Read a run folder.

    Raises:
        ValueError: it is no run folder, nothing in it is finished, or a file is corrupt.
        OSError: a file cannot be read.
    """
    path = Path(path)
    if not (path / "config.json").is_file():
        raise ValueError(f"{path} is not a run folder: it has no config.json")
    config = _read_json(path / "config.json")
    try:
        named = [(str(a["label"]), str(a["method"]), str(a["augment"])) for a in config["arms"]]
        planned = [int(seed) for seed in config["seeds"]]
        dict(config["settings"])
        if config.get("test", "t") not in TESTS:
            raise ValueError(f"unknown test {config['test']!r}")
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(f"{path / 'config.json'} does not hold a run: {error!r}") from error
    log = _read_log(path)
    arms, missing = [], []
    for label, method, augment in named:
        seeds = []
        for seed in sorted(planned):
            if _finished(path, label, seed):
                seeds.append(_read_seed(path, label, seed, log.get((label, seed), [])))
            else:
                missing.append((label, seed))
        if seeds:
            _require_same_tasks(path, label, seeds)
            arms.append(ArmRecord(label, method, augment, tuple(seeds)))
    if not arms:
        raise ValueError(f"{path} holds no finished run yet")
    return RunRecord(path, config, tuple(arms), tuple(missing))


def read_pairs(seed: SeedRecord) -> PairHistory:
    """The class-pair maps of a run that has them.

    Raises:
        ValueError: the file is corrupt or does not fit the run.
        OSError: it cannot be read.
    """
    assert seed.pairs is not None
    order = np.array(seed.class_order)
    with arrays_in(seed.pairs, "does not hold class-pair maps") as archive:
        task, epoch = archive["task"], archive["epoch"]
        allowed = archive["allowed"][:, order][:, :, order]
        scores = archive["scores"][:, order][:, :, order]
    if not len(task) == len(epoch) == len(allowed) == len(scores):
        raise ValueError(f"{seed.pairs} does not hold class-pair maps: lengths differ")
    return PairHistory(task, epoch, allowed.astype(bool), scores.astype(np.float32))


def _finished(folder: Path, label: str, seed: int) -> bool:
    """A run's log is its last file; older folders have one log for all runs."""
    if (folder / "events").is_dir():
        return (folder / "events" / label / f"seed-{seed}.jsonl").is_file()
    return (folder / "matrices" / label / f"seed-{seed}.json").is_file()


def _read_seed(folder: Path, label: str, seed: int, log: list[dict[str, Any]]) -> SeedRecord:
    file = folder / "matrices" / label / f"seed-{seed}.json"
    values = _read_json(file)
    pairs = folder / "class_pairs" / f"{label}-seed-{seed}.npz"
    try:
        classes = tuple(tuple(int(k) for k in task) for task in values["task_classes"])
        tasks, count = len(classes), sum(map(len, classes))
        class_il = _array(values, "accuracy_matrix", (tasks, tasks))
        task_il = _array(values, "task_il_matrix", (tasks, tasks))
        baseline = _array(values, "task_il_baseline", (tasks,))
        confusion = None
        if "confusion" in values:
            confusion = _confusion(values["confusion"], tasks, count)
        losses = tuple(
            (int(e["task"]), int(e["epoch"]), _finite(e, "loss")) for e in log if _is(e, "epoch")
        )
        seconds = [_finite(e, "seconds") for e in log if _is(e, "run")]
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(f"{file}, or the log of its run, is corrupt: {error!r}") from error
    return SeedRecord(
        seed,
        class_il,
        task_il,
        baseline,
        classes,
        confusion,
        losses,
        seconds[-1] if seconds else None,
        pairs if pairs.is_file() else None,
    )


def _is(event: dict[str, Any], kind: str) -> bool:
    return event.get("event") == kind


def _finite(event: dict[str, Any], name: str) -> float:
    value = float(event[name])
    if not math.isfinite(value):
        raise ValueError(f"{name} is {value}")
    return value


def _array(values: dict[str, Any], name: str, shape: tuple[int, ...]) -> Array:
    array = np.array(values[name], dtype=np.float64)
    if array.shape != shape or not np.isfinite(array).all():
        raise ValueError(f"{name} must be finite and of shape {shape}, got {array.shape}")
    return array


def _confusion(rows: Any, tasks: int, classes: int) -> NDArray[np.int64]:
    counted = np.array(rows, dtype=np.int64).reshape(-1, 4)
    if (counted < 0).any() or (counted[:, :3] >= (tasks, classes, classes)).any():
        raise ValueError(f"confusion has counts below 0, or of more than {classes} classes")
    return counted


def _require_same_tasks(path: Path, label: str, seeds: list[SeedRecord]) -> None:
    if len({seed.task_sizes for seed in seeds}) > 1:
        raise ValueError(f"{path}: the seeds of arm {label} have different tasks")


def _read_json(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{path} is not valid JSON: {error}") from error
    if not isinstance(content, dict):
        raise ValueError(f"{path} does not hold a JSON object")
    return content


def _read_log(folder: Path) -> dict[tuple[str, int], list[dict[str, Any]]]:
    """Log events by arm and seed, from a file per run or, in older folders, from one for all."""
    files = sorted(folder.glob("events/*/*.jsonl")) or [folder / "metrics.jsonl"]
    events: dict[tuple[str, int], list[dict[str, Any]]] = {}
    for event in (event for file in files if file.is_file() for event in _lines(file)):
        events.setdefault((event["arm"], event["seed"]), []).append(event)
    return events


def _lines(path: Path) -> Iterator[dict[str, Any]]:
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(True), start=1):
        if not line.endswith("\n"):
            return  # being written, or cut off when the run was killed
        try:
            event = json.loads(line)
            event["arm"], event["seed"]
        except (KeyError, TypeError, ValueError) as error:
            raise ValueError(f"{path}, line {number}, is not a log entry: {error!r}") from error
        yield event
