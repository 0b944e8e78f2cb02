"""What several seeds say: means with confidence intervals, and tests of an arm against another."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

__all__ = [
    "TESTS",
    "Contrast",
    "Estimate",
    "contrasts",
    "half_width",
    "holm",
    "paired_p",
    "percent",
    "span",
]

_LEVEL = 0.05

#: The paired tests, by the name of ``--test``.
TESTS = {"t": "paired t test", "wilcoxon": "Wilcoxon signed-rank test"}

#: Differences of accuracies are quotients of small integers; anything below this is rounding.
_DECIMALS = 12

Key = TypeVar("Key")


def half_width(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Half the width of the 95 % confidence interval of the mean over axis 0, by Student's t.

    Args:
        values: [n, ...], n at least 2.
    """
    from scipy.special import stdtrit

    n = len(values)
    quantile = stdtrit(n - 1, 1 - _LEVEL / 2)
    width: NDArray[np.float64] = quantile * values.std(axis=0, ddof=1) / math.sqrt(n)
    return width


def percent(fraction: float, sign: str = "-") -> str:
    """In percent with one decimal; 'n/a' for NaN, and never '-0.0'.

    Args:
        fraction: 1 is 100 percent.
        sign: As in format specifications: ``"+"`` shows the sign of positive numbers too.
    """
    return "n/a" if math.isnan(fraction) else f"{round(100 * fraction, 1) + 0.0:{sign}.1f}"


def span(counts: Iterable[int]) -> str:
    """'3', or '2 to 5' where they differ."""
    low, *more = sorted(set(counts))
    return f"{low} to {more[-1]}" if more else f"{low}"


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

    def percent(self, sign: str = "-") -> str:
        """In percent: '71.6 ± 1.9', '71.6' for one seed, 'n/a' where it is not defined."""
        mean = percent(self.mean, sign)
        if math.isnan(self.mean) or self.half_width is None:
            return mean
        return f"{mean} ± {percent(self.half_width)}"


@dataclass(frozen=True)
class Contrast:
    """An arm minus the baseline in one metric, seed by seed.

    Attributes:
        difference: Over the seeds that both have.
        p: Two-sided p of the paired test; NaN where the test is not defined.
        p_holm: The same after Holm's correction over everything that was tested together.
    """

    difference: Estimate
    p: float
    p_holm: float

    @property
    def significant(self) -> bool:
        """Whether the corrected p is below 0.05."""
        return self.p_holm < _LEVEL  # False for NaN


def contrasts(
    pairs: Mapping[Key, tuple[Sequence[float], Sequence[float]]], test: str = "t"
) -> dict[Key, Contrast]:
    """Compare pairs of samples, all of which are one family of tests.

    Args:
        pairs: By any key: the values of an arm and of the baseline, both in the order of the same
            seeds. Pairs without a seed are left out.
        test: A name of :data:`TESTS`.
    """
    differences: dict[Key, NDArray[np.float64]] = {
        key: (np.asarray(ours, np.float64) - np.asarray(theirs, np.float64)).round(_DECIMALS)
        for key, (ours, theirs) in pairs.items()
        if len(ours)
    }
    p = {key: paired_p(values, test) for key, values in differences.items()}
    corrected = dict(zip(p, holm(list(p.values())), strict=True))
    return {
        key: Contrast(Estimate.of(values.tolist()), p[key], corrected[key])
        for key, values in differences.items()
    }


def paired_p(differences: NDArray[np.float64], test: str = "t") -> float:
    """Two-sided p of the hypothesis that paired differences have centre 0.

    Args:
        differences: [n], one per pair.
        test: ``"t"`` (their mean is 0, given normal differences) or ``"wilcoxon"`` (their
            distribution is symmetric about 0; exact for up to 50 pairs without ties).

    Returns:
        1 if all differences are 0: nothing speaks against equality. NaN where the test is not
        defined: fewer than two pairs, a NaN among them, or for t differences without any spread.

    Raises:
        ValueError: there is no such test.
    """
    from scipy import stats

    if test not in TESTS:
        raise ValueError(f"test must be one of {', '.join(TESTS)}, got '{test}'")
    if len(differences) < 2 or np.isnan(differences).any():
        return math.nan
    if not differences.any():
        return 1.0
    if test == "wilcoxon":
        return float(stats.wilcoxon(differences).pvalue)
    if np.ptp(differences) == 0:
        return math.nan
    return float(stats.ttest_1samp(differences, 0.0).pvalue)


def holm(p: Sequence[float] | NDArray[np.float64]) -> list[float]:
    """Holm's step-down correction: bounds the probability of any false positive among all tests.

    Holm 1979, A simple sequentially rejective multiple test procedure.

    Args:
        p: Uncorrected; NaN marks a test that was not made and does not count.
    """
    values = np.array(p, dtype=np.float64)
    made = np.flatnonzero(~np.isnan(values))
    ascending = made[values[made].argsort()]
    steps = values[ascending] * np.arange(len(made), 0, -1)
    values[ascending] = np.maximum.accumulate(steps).clip(max=1)
    corrected: list[float] = values.tolist()
    return corrected
