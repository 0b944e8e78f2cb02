"""Metrics against matrices worked out by hand."""

from __future__ import annotations

import doctest
import math

import numpy as np
import pytest
import torch

from gradmix_ext import metrics

# Four tasks. By hand:
#   A_t:  0.9, (0.6+0.8)/2 = 0.7, (0.7+0.4+1.0)/3 = 0.7, (0.5+0.6+0.7+0.8)/4 = 0.65
#   AIA = (0.9+0.7+0.7+0.65)/4 = 0.7375
#   F:    0.9-0.5 = 0.4, 0.8-0.6 = 0.2, 1.0-0.7 = 0.3        -> 0.3
#   BWT:  0.5-0.9, 0.6-0.8, 0.7-1.0                          -> -0.3
#   FWT with b = (., .2, .2, .2): .1-.2, .3-.2, .5-.2        -> 0.1
FOUR = [
    [0.9, 0.1, 0.0, 0.0],
    [0.6, 0.8, 0.3, 0.0],
    [0.7, 0.4, 1.0, 0.5],
    [0.5, 0.6, 0.7, 0.8],
]
LOWER = [row[: t + 1] for t, row in enumerate(FOUR)]
NAN_ABOVE = [row[: t + 1] + [math.nan] * (3 - t) for t, row in enumerate(FOUR)]
NONE_ABOVE = [row[: t + 1] + [None] * (3 - t) for t, row in enumerate(FOUR)]


@pytest.mark.parametrize(
    "R",
    [FOUR, LOWER, NAN_ABOVE, NONE_ABOVE, np.array(FOUR), torch.tensor(FOUR, dtype=torch.float64)],
    ids=["full", "lower", "nan", "none", "array", "tensor"],
)
def test_four_tasks_by_hand(R):
    assert metrics.average_incremental_accuracy(R) == pytest.approx(0.7375)
    assert metrics.final_accuracy(R) == pytest.approx(0.65)
    assert metrics.forgetting(R) == pytest.approx(0.3)
    assert metrics.bwt(R) == pytest.approx(-0.3)


def test_fwt_by_hand():
    assert metrics.fwt(FOUR, baseline=0.2) == pytest.approx(0.1)
    assert metrics.fwt(FOUR, baseline=torch.tensor([9.0, 0.2, 0.1, 0.3])) == pytest.approx(0.1)
    assert metrics.fwt(FOUR) == pytest.approx(0.3)
    one_past_the_diagonal = [row[: t + 2] for t, row in enumerate(FOUR)]
    assert metrics.fwt(one_past_the_diagonal, baseline=0.2) == pytest.approx(0.1)


def test_the_best_earlier_accuracy_counts_and_not_the_first():
    # Task 1 peaks after task 2: forgetting falls from the peak, backward transfer from the start.
    R = [[0.5], [0.9, 0.6], [0.7, 0.6, 0.8]]
    assert metrics.forgetting(R) == pytest.approx((0.2 + 0.0) / 2)
    assert metrics.bwt(R) == pytest.approx((0.2 + 0.0) / 2)


def test_the_last_row_is_outside_the_maximum():
    # Both tasks end better than ever before: with row T in the maximum this would be 0.
    R = [[0.5], [0.5, 0.5], [0.75, 1.0, 0.5]]
    assert metrics.forgetting(R) == pytest.approx(-0.375)
    assert metrics.bwt(R) == pytest.approx(0.375)


def test_one_task():
    for R in ([[0.25]], torch.tensor([[0.25]])):
        assert metrics.average_incremental_accuracy(R) == 0.25
        assert metrics.final_accuracy(R) == 0.25
        assert math.isnan(metrics.forgetting(R))
        assert math.isnan(metrics.bwt(R))
        assert math.isnan(metrics.fwt(R, baseline=[0.1]))


def test_two_tasks():
    R = [[1.0, 0.25], [0.5, 0.75]]
    assert metrics.average_incremental_accuracy(R) == 0.8125
    assert metrics.forgetting(R) == 0.5
    assert metrics.bwt(R) == -0.5
    assert metrics.fwt(R, baseline=[0.0, 0.5]) == -0.25


@pytest.mark.parametrize(
    ("R", "message"),
    [
        ([], "empty"),
        (0.5, "matrix"),
        ("ab", "matrix"),
        ([0.5, 0.5], r"R\[0\] is 0.5"),
        ([[0.5], [0.5]], r"R\[1\] has 1 entries"),
        ([[0.5, 0.5, 0.5], [0.5, 0.5]], r"R\[0\] has 3 entries"),
        ([[0.5], [math.nan, 0.5]], r"R\[1\]\[0\] is NaN"),
        ([["x"]], r"R\[0\]\[0\] = 'x'"),
        (torch.zeros(3), r"R\[0\]"),
        (torch.zeros(2, 3), r"R\[0\] has 3"),
        (torch.zeros(2, 2, 2), r"R\[0\]\[0\]"),
    ],
)
def test_bad_matrices(R, message):
    for metric in (
        metrics.average_incremental_accuracy,
        metrics.final_accuracy,
        metrics.forgetting,
        metrics.bwt,
        metrics.fwt,
    ):
        with pytest.raises(ValueError, match=message):
            metric(R)


def test_fwt_needs_the_entries_above_the_diagonal_and_a_baseline_that_fits():
    for R in (LOWER, NAN_ABOVE):
        with pytest.raises(ValueError, match=r"R\[0\]\[1\] is absent"):
            metrics.fwt(R)
    with pytest.raises(ValueError, match="4 numbers"):
        metrics.fwt(FOUR, baseline=[0.1, 0.1])
    with pytest.raises(ValueError, match=r"baseline\[2\] = nan"):
        metrics.fwt(FOUR, baseline=[0.1, 0.1, math.nan, 0.1])


def test_examples_of_the_docstrings():
    result = doctest.testmod(metrics)
    assert result.attempted > 0
    assert result.failed == 0
