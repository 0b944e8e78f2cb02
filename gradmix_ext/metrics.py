"""Class-incremental metrics, each computed from an accuracy matrix R by its published formula.

R[t, j] is the test accuracy on task j after training task t, as a fraction in [0, 1], with tasks
counted from 1 in the formulas and from 0 in the code. R may be a tensor, an array, or a nested
list; rows may stop at the diagonal (``[[R11], [R21, R22], ...]``), and whatever stands above the
diagonal (NaN and None included) is read by :func:`fwt` alone. Every task counts the same, however
many classes it has.

The differences (:func:`forgetting`, :func:`bwt`, :func:`fwt`) are means over T - 1 tasks: for T = 1
they are means over nothing, and NaN. Zero would claim that something was measured.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

__all__ = ["average_incremental_accuracy", "bwt", "final_accuracy", "forgetting", "fwt"]


def average_incremental_accuracy(R: Any) -> float:
    """AIA = (1/T) sum_t A_t, with A_t = (1/t) sum_{j<=t} R[t, j]. In [0, 1], higher is better.

    Args:
        R: Accuracy matrix, [T, T] or lower-triangular rows.

    Raises:
        ValueError: R is empty, ragged, not square, or has a NaN on or below the diagonal.

    >>> average_incremental_accuracy([[1.0], [0.5, 0.7]])
    0.8
    """
    rows = _rows(R)
    return math.fsum(_mean(row[: t + 1]) for t, row in enumerate(rows)) / len(rows)


def final_accuracy(R: Any) -> float:
    """A_T = (1/T) sum_j R[T, j], the mean over tasks after the last one. In [0, 1].

    Args:
        R: Accuracy matrix, [T, T] or lower-triangular rows.

    Raises:
        ValueError: as for :func:`average_incremental_accuracy`.

    >>> final_accuracy([[1.0], [0.5, 0.75]])
    0.625
    """
    return _mean(_rows(R)[-1])


def forgetting(R: Any) -> float:
    """F = 1/(T-1) sum_{j<T} ( max_{j<=l<T} R[l, j] - R[T, j] ). In [-1, 1], lower is better.

    The maximum leaves out the last row, so a task that ends better than it ever was counts as
    negative forgetting (Chaudhry et al. 2018, Riemannian Walk, eq. 3).

    Args:
        R: Accuracy matrix, [T, T] or lower-triangular rows.

    Returns:
        The mean over the tasks before the last; NaN for T = 1.

    Raises:
        ValueError: as for :func:`average_incremental_accuracy`.

    >>> forgetting([[1.0], [0.5, 0.75], [0.25, 1.0, 0.5]])  # (1.0 - 0.25, 0.75 - 1.0)
    0.25
    """
    rows = _rows(R)
    last = len(rows) - 1
    return _mean([max(rows[t][j] for t in range(j, last)) - rows[last][j] for j in range(last)])


def bwt(R: Any) -> float:
    """BWT = 1/(T-1) sum_{j<T} ( R[T, j] - R[j, j] ). In [-1, 1], higher is better.

    Backward transfer of Lopez-Paz and Ranzato 2017 (GEM, eq. 3).

    Args:
        R: Accuracy matrix, [T, T] or lower-triangular rows.

    Returns:
        The mean over the tasks before the last; NaN for T = 1.

    Raises:
        ValueError: as for :func:`average_incremental_accuracy`.

    >>> bwt([[1.0], [0.5, 0.75], [0.25, 1.0, 0.5]])  # (0.25 - 1.0, 1.0 - 0.75)
    -0.25
    """
    rows = _rows(R)
    last = len(rows) - 1
    return _mean([rows[last][j] - rows[j][j] for j in range(last)])


def fwt(R: Any, baseline: float | Sequence[float] | Any = 0.0) -> float:
    """FWT = 1/(T-1) sum_{j>=2} ( R[j-1, j] - b_j ). In [-1, 1], higher is better.

    Forward transfer of Lopez-Paz and Ranzato 2017 (GEM, eq. 4). It reads the entries just above the
    diagonal, so R must hold them. Under Class-IL these are 0 by definition (a class that was never
    seen is never predicted): forward transfer says something about Task-IL matrices.

    Args:
        R: Accuracy matrix, [T, T]; rows need reach one entry past the diagonal.
        baseline: b_j, the accuracy of a randomly initialised model on task j: one number for all
            tasks or T numbers (the first is not used). The default 0 leaves the plain mean of
            R[j-1, j].

    Returns:
        The mean over the tasks after the first; NaN for T = 1.

    Raises:
        ValueError: as for :func:`average_incremental_accuracy`; or an entry R[j-1, j] is absent or
            NaN, or `baseline` is neither a number nor T finite numbers.

    >>> fwt([[1.0, 0.5], [0.5, 0.75]], baseline=[0.5, 0.25])
    0.25
    """
    rows = _rows(R)
    expected = _baseline(baseline, len(rows))
    gains = []
    for j in range(1, len(rows)):
        if len(rows[j - 1]) <= j or math.isnan(rows[j - 1][j]):
            raise ValueError(
                f"R[{j - 1}][{j}] is absent: forward transfer needs the accuracy on each task "
                "before it is trained"
            )
        gains.append(rows[j - 1][j] - expected[j])
    return _mean(gains)


def _mean(values: Sequence[float]) -> float:
    return math.fsum(values) / len(values) if values else math.nan


def _rows(R: Any) -> list[list[float]]:
    """Rows of R as Python floats, checked: row t holds t + 1 to T entries, none NaN up to t."""
    nested = R.tolist() if hasattr(R, "tolist") else R
    if not isinstance(nested, Sequence) or isinstance(nested, str):
        raise ValueError(f"R must be a [T, T] matrix or a list of rows, got {R!r}")
    rows = []
    for t, row in enumerate(nested):
        values = row.tolist() if hasattr(row, "tolist") else row
        if not isinstance(values, Sequence) or isinstance(values, str):
            raise ValueError(f"R must be a [T, T] matrix or a list of rows, but R[{t}] is {row!r}")
        rows.append([_number(value, f"R[{t}][{j}]") for j, value in enumerate(values)])
    if not rows:
        raise ValueError("R must have at least one task, got an empty matrix")
    for t, row in enumerate(rows):
        if not t < len(row) <= len(rows):
            raise ValueError(
                f"R[{t}] has {len(row)} entries: with {len(rows)} tasks, row {t} needs at least "
                f"{t + 1} and at most {len(rows)}"
            )
        for j in range(t + 1):
            if math.isnan(row[j]):
                raise ValueError(f"R[{t}][{j}] is NaN: entries up to the diagonal must be numbers")
    return rows


def _baseline(baseline: Any, tasks: int) -> list[float]:
    values = baseline.tolist() if hasattr(baseline, "tolist") else baseline
    if isinstance(values, (int, float)):
        values = [values] * tasks
    if not isinstance(values, Sequence) or isinstance(values, str) or len(values) != tasks:
        raise ValueError(f"baseline must be a number or {tasks} numbers, got {baseline!r}")
    checked = [_number(value, f"baseline[{j}]") for j, value in enumerate(values)]
    for j, value in enumerate(checked):
        if not math.isfinite(value):
            raise ValueError(f"baseline[{j}] = {value} is not a finite number")
    return checked


def _number(value: Any, name: str) -> float:
    try:
        return math.nan if value is None else float(value)
    except (TypeError, ValueError):
        raise ValueError(f"{name} = {value!r} is not a number") from None
