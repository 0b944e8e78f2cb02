"""Finished runs in a run folder: each appears as a whole, and is read when it is needed."""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch

from gradmix_ext.continual.callbacks import PairMaps
from gradmix_ext.continual.files import arrays_in, replaced, write_tensors
from gradmix_ext.continual.result import Result
from gradmix_ext.experiments.experiment import Arm, Run

__all__ = ["EVENTS", "MATRICES", "MODELS", "PAIRS", "FinishedRun", "write_run"]

EVENTS = "events"
MATRICES = "matrices"
MODELS = "models"
PAIRS = "class_pairs"


@dataclass(frozen=True)
class FinishedRun:
    """An arm with a seed, finished, in a run folder.

    Attributes:
        folder: The run folder.
        arm: Method and mixer.
        seed: The seed.
    """

    folder: Path
    arm: Arm
    seed: int

    @property
    def log(self) -> Path:
        """Its lines of metrics.jsonl. Written last: a run with this file is finished."""
        return self.folder / EVENTS / self.arm.label / f"seed-{self.seed}.jsonl"

    @property
    def matrices(self) -> Path:
        """Its result."""
        return self.folder / MATRICES / self.arm.label / f"seed-{self.seed}.json"

    @property
    def weights(self) -> Path:
        """The model after the last task."""
        return self.folder / MODELS / self.arm.label / f"seed-{self.seed}.pt"

    @property
    def method_state(self) -> Path:
        """What its method predicts with besides the model; absent if that is nothing."""
        return self.weights.with_name(f"{self.weights.stem}-method.pt")

    @property
    def pairs(self) -> Path:
        """Its class-pair maps; absent if its mixer judges no pairs."""
        return self.folder / PAIRS / f"{self.arm.label}-seed-{self.seed}.npz"

    @property
    def is_there(self) -> bool:
        """Whether the run has been finished."""
        return self.log.is_file()

    @cached_property
    def result(self) -> Result:
        """What it measured."""
        return Result.load(self.matrices)

    @property
    def class_order(self) -> tuple[int, ...]:
        """The order in which the classes came."""
        return tuple(label for task in self.result.task_classes for label in task)

    @property
    def pair_maps(self) -> PairMaps | None:
        """The class-pair map of every epoch, for mixers that judge pairs; read on each use.

        Raises:
            ValueError: the file is damaged.
            OSError: it cannot be read, or is gone.
        """
        if self.arm.augment != "gradmix" and not self.pairs.is_file():
            return None
        with arrays_in(self.pairs, "does not hold class-pair maps") as archive:
            names = archive.keys() - {"class_order"}
            return PairMaps(**{name: torch.from_numpy(archive[name]) for name in names})

    @property
    def seconds(self) -> float:
        """Wall-clock time; of a resumed run, since it was resumed."""
        last = self.log.read_text().splitlines()[-1]
        seconds: float = json.loads(last)["seconds"]
        return seconds


def write_run(folder: Path, run: Run) -> FinishedRun:
    """Write all of a run: model, class-pair maps, result and log.

    Raises:
        OSError: the folder cannot be written.
    """
    written = FinishedRun(folder, run.arm, run.seed)
    with replaced(written.weights) as path:
        write_tensors(path, run.weights)
    if run.method_state is not None:
        with replaced(written.method_state) as path:
            write_tensors(path, run.method_state)
    if run.pair_maps is not None:
        arrays: dict[str, Any] = {name: part.numpy() for name, part in vars(run.pair_maps).items()}
        with replaced(written.pairs) as path:
            np.savez_compressed(path, class_order=run.class_order, **arrays)
    with replaced(written.matrices) as path:
        run.result.save(path)
    summary = {"event": "run", **run.result.summary(), "seconds": round(run.seconds, 3)}
    common = {"arm": run.arm.label, "seed": run.seed}
    lines = [json.dumps({**common, **event}) for event in (*run.events, summary)]
    with replaced(written.log) as path:
        path.write_text("".join(f"{line}\n" for line in lines))
    return written
