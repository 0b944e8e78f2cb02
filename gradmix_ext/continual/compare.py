"""Arms x seeds, and what the seeds together say about an arm."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from gradmix_ext.continual.callbacks import Callback
from gradmix_ext.continual.experiment import Arm, Experiment, Run
from gradmix_ext.continual.result import METRICS
from gradmix_ext.continual.run_folder import RunFolder

__all__ = ["FORMULAS", "Comparison", "Estimate", "Progress", "half_width", "percent"]

_CONFIDENCE = 0.95

#: The columns of a comparison: property of the result, heading, formula.
FORMULAS = (
    ("average_incremental_accuracy", "AIA", "(1/T) Σ_t A_t, A_t = (1/t) Σ_{j≤t} R[t,j]"),
    ("final_accuracy", "final", "A_T"),
    ("forgetting", "forgetting", "1/(T-1) Σ_{j<T} (max_{j≤l<T} R[l,j] - R[T,j])"),
)


def half_width(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Half the width of the 95 % confidence interval of the mean over axis 0, by Student's t.

    Args:
        values: [n, ...], n at least 2.
    """
    from scipy.special import stdtrit

    n = len(values)
    quantile = stdtrit(n - 1, (1 + _CONFIDENCE) / 2)
    width: NDArray[np.float64] = quantile * values.std(axis=0, ddof=1) / math.sqrt(n)
    return width


def percent(fraction: float) -> str:
    """In percent with one decimal; 'n/a' for NaN, and never '-0.0'."""
    return "n/a" if math.isnan(fraction) else f"{round(100 * fraction, 1) + 0.0:.1f}"


@dataclass(frozen=True)
class Estimate:
    """A mean over seeds with half the width of its 95 % confidence interval.

    Attributes:
        mean: NaN where the metric is not defined (forgetting of one task).
        half_width: None with a single seed: one number has no spread.
        n: How many seeds.
    """

    mean: float
    half_width: float | None
    n: int

    @classmethod
    def of(cls, values: Sequence[float]) -> Estimate:
        """Estimate from one value per seed."""
        array = np.asarray(values, dtype=np.float64)
        width = float(half_width(array)) if len(array) > 1 else None
        return cls(float(array.mean()), width, len(array))

    def percent(self) -> str:
        """In percent: '71.6 ± 1.9', '71.6' for one seed, 'n/a' where it is not defined."""
        if math.isnan(self.mean):
            return percent(self.mean)
        mean = percent(self.mean)
        return mean if self.half_width is None else f"{mean} ± {percent(self.half_width)}"


class Comparison:
    """Runs every arm with every seed, and sums them up.

    Attributes:
        runs: What is finished so far.
    """

    def __init__(self, experiment: Experiment, arms: Sequence[Arm], seeds: Sequence[int]) -> None:
        self.experiment = experiment
        self.arms = tuple(arms)
        self.seeds = tuple(seeds)
        self.runs: list[Run] = []

    @property
    def jobs(self) -> list[tuple[Arm, int]]:
        """All runs to do, seed by seed, so that a comparison cut short still has pairs."""
        return [(arm, seed) for seed in self.seeds for arm in self.arms]

    def execute(self, folder: RunFolder, progress: Progress | None = None) -> None:
        """Do all runs. Each is written to the folder as soon as it is finished.

        Raises:
            DivergedError: the training loss of a run became infinite or NaN.
            OSError: the folder can no longer be written.
        """
        for arm, seed in self.jobs:
            callbacks = () if progress is None else (progress.begin(arm, seed),)
            run = self.experiment.run(arm, seed, callbacks)
            folder.write_run(run)
            self.runs.append(run)
            if progress is not None:
                progress.end(run)

    def of(self, arm: Arm) -> list[Run]:
        """The finished runs of an arm, by seed."""
        return [run for run in self.runs if run.arm == arm]

    def finished_arms(self) -> list[Arm]:
        """Arms with at least one finished run."""
        return [arm for arm in self.arms if self.of(arm)]

    def estimates(self, arm: Arm) -> dict[str, Estimate]:
        """Every metric of an arm, over its finished seeds."""
        results = [run.result for run in self.of(arm)]
        return {name: Estimate.of([getattr(r, name) for r in results]) for name in METRICS}


class Progress:
    """Listens to a comparison: base of what shows it."""

    def begin(self, arm: Arm, seed: int) -> Callback:
        """A run starts; returns what will hear of its epochs and tasks."""
        return Callback()

    def end(self, run: Run) -> None:
        """A run is finished and written."""
