"""Estimates over seeds: what the report says in numbers."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from gradmix_ext import metrics
from gradmix_ext.experiments.statistics import Contrast, contrasts, half_width
from gradmix_ext.report.contenders import Contender
from gradmix_ext.report.load import Array, SeedRecord

__all__ = [
    "COMPARED",
    "METRICS",
    "Curve",
    "Difference",
    "Metric",
    "differences",
    "forgetting_by_task",
    "running_accuracy",
]


@dataclass(frozen=True)
class Metric:
    """A column of the table: heading, meaning, formula, and its value for one run."""

    heading: str
    meaning: str
    formula: str
    value: Callable[[SeedRecord], float]


METRICS = (
    Metric(
        "AIA",
        "average incremental accuracy",
        "(1/T) Σ_t A_t, A_t = (1/t) Σ_{j≤t} R[t,j]",
        lambda run: metrics.average_incremental_accuracy(run.class_il),
    ),
    Metric(
        "final",
        "accuracy after the last task",
        "A_T = (1/T) Σ_j R[T,j]",
        lambda run: metrics.final_accuracy(run.class_il),
    ),
    Metric(
        "forgetting",
        "lower is better",
        "1/(T-1) Σ_{j<T} (max_{j≤l<T} R[l,j] - R[T,j])",
        lambda run: metrics.forgetting(run.class_il),
    ),
    Metric(
        "BWT",
        "backward transfer",
        "1/(T-1) Σ_{j<T} (R[T,j] - R[j,j])",
        lambda run: metrics.bwt(run.class_il),
    ),
    Metric(
        "final, Task-IL",
        "accuracy after the last task when the task of a sample is told",
        "(1/T) Σ_j R'[T,j]",
        lambda run: metrics.final_accuracy(run.task_il),
    ),
    Metric(
        "FWT, Task-IL",
        "forward transfer, over the untrained model's accuracy b",
        "1/(T-1) Σ_{j≥2} (R'[j-1,j] - b_j)",
        lambda run: metrics.fwt(run.task_il, run.task_il_baseline),
    ),
)

#: The metrics by which arms are compared with a baseline.
COMPARED = METRICS[:3]


@dataclass(frozen=True, eq=False)
class Curve:
    """Means over seeds [n], with half the width of their 95 % confidence intervals."""

    mean: Array
    half: Array | None

    @classmethod
    def of(cls, values: Sequence[Array]) -> Curve:
        """From one curve per seed."""
        stacked = np.stack(values)
        half = half_width(stacked) if len(stacked) > 1 else None
        return cls(stacked.mean(axis=0), half)


def running_accuracy(matrix: Array) -> Array:
    """A_t = (1/t) Σ_{j≤t} R[t,j] for every t, [T]."""
    tasks = np.arange(1, len(matrix) + 1)
    mean: Array = np.tril(matrix).sum(axis=1) / tasks
    return mean


def forgetting_by_task(matrix: Array) -> Array:
    """max_{j≤l<T} R[l,j] - R[T,j] for every task j before the last, [T-1]."""
    last = len(matrix) - 1
    return np.array([matrix[j:last, j].max() - matrix[last, j] for j in range(last)])


@dataclass(frozen=True)
class Difference:
    """An arm minus the baseline on the same seeds.

    Attributes:
        name: The arm.
        seeds: How many pairs there are.
        contrasts: One for each of :data:`COMPARED`; empty where nothing can be paired.
        reason: Why nothing can be paired, else empty.
    """

    name: str
    seeds: int
    contrasts: tuple[Contrast, ...]
    reason: str


def differences(baseline: Contender, found: Sequence[Contender], test: str) -> list[Difference]:
    """Every other arm against the baseline; all p together are corrected as one family.

    Args:
        baseline: One of `found`.
        found: All arms.
        test: A name of :data:`~gradmix_ext.experiments.statistics.TESTS`.
    """
    others = [each for each in found if each is not baseline]
    paired = {other.name: _pairs(baseline, other) for other in others}
    values = {
        (name, metric): ([metric.value(a) for a, _ in pairs], [metric.value(b) for _, b in pairs])
        for name, (pairs, _) in paired.items()
        for metric in COMPARED
    }
    tested = contrasts(values, test)
    return [
        Difference(
            name,
            len(pairs),
            tuple(tested[name, metric] for metric in COMPARED) if pairs else (),
            reason,
        )
        for name, (pairs, reason) in paired.items()
    ]


def _pairs(
    baseline: Contender, other: Contender
) -> tuple[list[tuple[SeedRecord, SeedRecord]], str]:
    """(arm, baseline) of every seed that both have, on the same tasks; and why there is none."""
    if baseline.run.settings.get("dataset") != other.run.settings.get("dataset"):
        return [], "another data set"
    of_seed = {run.seed: run for run in baseline.arm.seeds}
    common = [(run, of_seed[run.seed]) for run in other.arm.seeds if run.seed in of_seed]
    pairs = [(a, b) for a, b in common if a.task_classes == b.task_classes]
    reason = "other tasks or class orders" if common else "no seed in common"
    return pairs, "" if pairs else reason
