"""Measurements all along the training of several seeds."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from gradmix_ext.continual.data import concatenate
from gradmix_ext.continual.feed import Batch
from gradmix_ext.continual.files import arrays_in, replaced
from gradmix_ext.continual.methods import ER, Stage
from gradmix_ext.continual.trainer import Stream, random_stream
from gradmix_ext.experiments.diagnosis.agreement import STATISTICS, agreement
from gradmix_ext.experiments.diagnosis.measure import MeasureConfig, Measurement, measure
from gradmix_ext.experiments.experiment import Arm, Experiment

__all__ = ["Diagnosis", "Study"]

_FILE = "diagnosis.npz"


@dataclass(frozen=True, eq=False)
class Diagnosis:
    """What the measurements of S seeds at M moments say.

    Attributes:
        setting: What was run, as plain values.
        seeds: The seeds [S].
        moments: Task (from 0) and number of epochs trained on it [M, 2].
        statistics: Names of the statistics.
        scores: Names of the scores.
        facts: Names of the facts; ``helpful`` is the share of pairs that helped.
        agreement: [S, M, statistics, scores] float32; NaN where not defined.
        fact: [S, M, facts] float32.
    """

    setting: dict[str, Any]
    seeds: tuple[int, ...]
    moments: NDArray[np.int64]
    statistics: tuple[str, ...]
    scores: tuple[str, ...]
    facts: tuple[str, ...]
    agreement: NDArray[np.float32]
    fact: NDArray[np.float32]

    def save(self, folder: Path) -> Path:
        """Write ``diagnosis.npz`` into a folder."""
        names: dict[str, Any] = {
            name: np.array(getattr(self, name)) for name in ("statistics", "scores", "facts")
        }
        with replaced(folder / _FILE) as path:
            np.savez_compressed(
                path,
                setting=np.array(json.dumps(self.setting)),
                seeds=np.array(self.seeds),
                moments=self.moments,
                agreement=self.agreement,
                fact=self.fact,
                **names,
            )
        return folder / _FILE

    @classmethod
    def load(cls, folder: Path) -> Diagnosis:
        """Read what :meth:`save` wrote; runs no code from the file.

        Raises:
            ValueError: the folder holds no such file, or something else under its name.
        """
        path = folder / _FILE
        if not path.is_file():
            raise ValueError(f"{folder} holds no diagnosis: {_FILE} is missing")
        with arrays_in(path, "is not a saved diagnosis") as archive:
            names = {
                name: tuple(archive[name].tolist())
                for name in ("seeds", "statistics", "scores", "facts")
            }
            return cls(
                setting=json.loads(str(archive["setting"])),
                moments=archive["moments"],
                agreement=archive["agreement"],
                fact=archive["fact"],
                **names,
            )

    def of(self, statistic: str, score: str) -> NDArray[np.float64]:
        """A statistic of a score at every moment, [S, M]."""
        at = self.statistics.index(statistic), self.scores.index(score)
        return self.agreement[:, :, at[0], at[1]].astype(np.float64)

    def fact_of(self, name: str) -> NDArray[np.float64]:
        """A fact at every moment, [S, M]."""
        return self.fact[:, :, self.facts.index(name)].astype(np.float64)


@dataclass(frozen=True)
class Study:
    """Training with replay that is measured on the way, in every task but the first.

    Attributes:
        experiment: Settings and data.
        augment: The mixer that training uses; measuring does not touch it.
        epochs: Measure when so many epochs of a task are trained; 0 is before the first.
        config: How a moment is measured.

    Raises:
        ValueError: there is no such mixer, a number of epochs is not reached, or there is only one
            task.
    """

    experiment: Experiment
    augment: str
    epochs: tuple[int, ...]
    config: MeasureConfig

    def __post_init__(self) -> None:
        last = self.experiment.config.epochs - 1
        if not self.epochs or not all(0 <= epoch <= last for epoch in self.epochs):
            raise ValueError(f"epochs must be numbers from 0 to {last}, got {list(self.epochs)}")
        if len(self.experiment.scenario(seed=0)) < 2:
            raise ValueError("there is no old task to look at: tasks must be at least 2")
        self.experiment.trainer(self._arm(), seed=0)

    def run(
        self, seeds: Sequence[int], keep: Callable[[Diagnosis], None] = lambda diagnosis: None
    ) -> Diagnosis:
        """Train and measure; `keep` is given after each seed what the seeds so far say.

        Raises:
            DivergedError: the training loss became infinite or NaN.
        """
        tables, facts = [], []
        for done, seed in enumerate(seeds, start=1):
            found = self._train(seed)
            tables.append([agreement(each) for _, each in found])
            facts.append([_facts(each) for _, each in found])
            diagnosis = self._diagnosis(seeds[:done], [at for at, _ in found], tables, facts)
            keep(diagnosis)
        return diagnosis

    def _diagnosis(
        self,
        seeds: Sequence[int],
        moments: Sequence[tuple[int, int]],
        tables: Sequence[Sequence[dict[str, dict[str, float]]]],
        facts: Sequence[Sequence[dict[str, float]]],
    ) -> Diagnosis:
        """What was found, seed by seed and moment by moment."""
        scores = tuple(tables[0][0])
        return Diagnosis(
            setting={
                **asdict(self.experiment.config),
                "augment": self.augment,
                **asdict(self.config),
            },
            seeds=tuple(seeds),
            moments=np.array(moments, dtype=np.int64),
            statistics=tuple(STATISTICS),
            scores=scores,
            facts=tuple(facts[0][0]),
            agreement=np.array(
                [[[[t[s][a] for s in scores] for a in STATISTICS] for t in row] for row in tables],
                dtype=np.float32,
            ),
            fact=np.array([[list(f.values()) for f in row] for row in facts], dtype=np.float32),
        )

    def _train(self, seed: int) -> list[tuple[tuple[int, int], Measurement]]:
        trainer = self.experiment.trainer(self._arm(), seed)
        generator = random_stream(seed, Stream.DIAGNOSIS, self.experiment.device)
        method = _MeasuredER(
            self.experiment.config.replay, frozenset(self.epochs), self.config, generator
        )
        trainer.method = method
        trainer.fit(self.experiment.scenario(seed))
        return method.found

    def _arm(self) -> Arm:
        return Arm.parse(f"er+{self.augment}")


class _MeasuredER(ER):
    """Experience replay that is measured before chosen epochs of every task but the first."""

    def __init__(
        self,
        replay: str,
        epochs: frozenset[int],
        config: MeasureConfig,
        generator: torch.Generator,
    ) -> None:
        super().__init__(replay)
        self.found: list[tuple[tuple[int, int], Measurement]] = []
        self._epochs = epochs
        self._config = config
        self._generator = generator
        self._epoch = 0

    def begin_task(self, stage: Stage) -> None:
        super().begin_task(stage)
        self._epoch = 0

    def batches(self, stage: Stage) -> Iterator[Batch]:
        memory = self.memory(stage)
        if memory is not None and self._epoch in self._epochs:
            train, test = (
                stage.view(
                    concatenate([getattr(task, f"{split}_x") for task in stage.past]),
                    torch.cat([getattr(task, f"{split}_y") for task in stage.past]),
                )
                for split in ("train", "test")
            )
            measured = measure(
                stage.model,
                stage.current,
                memory,
                train,
                test,
                stage.seen_mask,
                self._config,
                self._generator,
            )
            self.found.append(((stage.task.index, self._epoch), measured))
        self._epoch += 1
        return super().batches(stage)


def _facts(found: Measurement) -> dict[str, float]:
    helpful = float((found.train_change <= 0).double().mean())
    return {"helpful": helpful, **found.facts}
