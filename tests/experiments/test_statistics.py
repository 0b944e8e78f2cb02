"""Confidence intervals, paired tests and their correction, against values worked out by hand."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gradmix_ext.experiments.statistics import (
    Contrast,
    Estimate,
    contrasts,
    holm,
    paired_p,
    percent,
)

nan = math.nan


def test_estimates_against_hand_worked_intervals():
    # 0.2, 0.4, 0.9: mean 0.5, s = 0.3606; t(0.975, 2) = 4.3027; half width = t s / sqrt(3).
    estimate = Estimate.of([0.2, 0.4, 0.9])
    assert estimate.mean == pytest.approx(0.5)
    assert estimate.half_width == pytest.approx(4.302653 * 0.3605551 / 3**0.5, rel=1e-6)
    assert estimate.percent() == "50.0 ± 89.6"
    assert estimate.percent("+") == "+50.0 ± 89.6"
    assert Estimate.of([0.25]) == Estimate(0.25, None, 1)
    assert Estimate.of([0.25]).percent() == "25.0"
    assert Estimate.of([-0.0001]).percent() == "0.0"
    assert Estimate.of([nan, nan]).percent("+") == "n/a"
    assert percent(-0.123, "+") == "-12.3"


def test_paired_t_against_its_formula():
    # Student's sleep data (1908): ten patients, extra hours of sleep with two drugs; p = 0.002833.
    one = [0.7, -1.6, -0.2, -1.2, -0.1, 3.4, 3.7, 0.8, 0.0, 2.0]
    two = [1.9, 0.8, 1.1, 0.1, -0.1, 4.4, 5.5, 1.6, 4.6, 3.4]
    found = contrasts({"drug": (two, one)})["drug"]
    assert found.p == pytest.approx(0.00283289, abs=1e-8)
    assert found.difference.mean == pytest.approx(1.58)
    # The interval that every textbook gives: (0.7001142, 2.4598858).
    assert found.difference.half_width == pytest.approx(2.4598858 - 1.58, abs=1e-7)
    assert found.p_holm == found.p
    assert found.significant


@settings(deadline=None)
@given(st.lists(st.integers(-1000, 1000), min_size=2, max_size=9).map(np.array))
def test_wilcoxon_against_all_signs(values):
    """Every pattern of signs is equally likely: count those at least as extreme."""
    size = np.abs(values)
    if (values == 0).any() or len(set(size)) < len(size):
        return  # ties have no exact distribution of this form
    ranks = size.argsort().argsort() + 1
    centre = ranks.sum() / 2
    observed = abs(ranks[values > 0].sum() - centre)
    sums = [np.dot(ranks, signs) for signs in itertools.product((0, 1), repeat=len(values))]
    expected = np.mean(np.abs(np.array(sums) - centre) >= observed)
    assert paired_p(values / 1000, "wilcoxon") == pytest.approx(expected)


@pytest.mark.parametrize("test", ["t", "wilcoxon"])
def test_what_cannot_be_tested(test):
    assert math.isnan(paired_p(np.array([0.3]), test))
    assert math.isnan(paired_p(np.array([0.3, nan, 0.1]), test))
    assert paired_p(np.zeros(4), test) == 1


def test_equal_differences_have_no_t_but_signs():
    assert math.isnan(paired_p(np.full(6, 0.1)))
    assert paired_p(np.full(6, 0.1), "wilcoxon") < 0.05


def test_an_unknown_test_is_named():
    with pytest.raises(ValueError, match="test must be one of t, wilcoxon, got 'z'"):
        paired_p(np.zeros(3), "z")


def test_holm_by_hand():
    # Sorted .01 .02 .03 .2, times 4 3 2 1: .04 .06 .06 .2, and never falling.
    assert holm([0.03, 0.01, 0.2, 0.02]) == pytest.approx([0.06, 0.04, 0.2, 0.06])
    assert holm([0.6, 0.9]) == [1.0, 1.0]
    assert holm([]) == []


def test_what_was_not_tested_does_not_count():
    corrected = holm([nan, 0.01, nan, 0.04])
    assert corrected[1::2] == pytest.approx([0.02, 0.04])
    assert np.isnan(corrected[::2]).all()


@settings(deadline=None)
@given(st.lists(st.integers(0, 1000), min_size=1, max_size=6))
def test_holm_is_the_closure_of_bonferroni(thousandths):
    """A hypothesis falls when every set of hypotheses with it falls by Bonferroni's test."""
    p = np.array(thousandths) / 1000
    chosen = [np.array(s, dtype=bool) for s in itertools.product((0, 1), repeat=len(p))][1:]
    of_set = np.array([min(1, s.sum() * p[s].min()) for s in chosen])
    expected = [max(of_set[[s[i] for s in chosen]]) for i in range(len(p))]
    assert holm(p) == pytest.approx(expected)


def test_a_family_of_contrasts():
    rng = np.random.default_rng(0)
    base = rng.random(8)
    found = contrasts(
        {
            "same": (base, base),
            "better": (base + 0.3 + 0.01 * rng.random(8), base),
            "shifted": (base + 0.1, base),  # rounding apart, the same difference every time
            "alone": (base[:1], base[:1] + 0.5),
            "undefined": ([nan] * 3, [nan] * 3),
            "nothing": ([], []),
        }
    )
    assert set(found) == {"same", "better", "shifted", "alone", "undefined"}
    assert (found["same"].p, found["same"].p_holm) == (1, 1)
    assert found["better"].p_holm == pytest.approx(2 * found["better"].p)  # two tests were made
    assert [name for name, each in found.items() if each.significant] == ["better"]
    assert math.isnan(found["shifted"].p_holm)
    assert found["shifted"].difference.half_width == 0
    assert found["alone"].difference == Estimate(pytest.approx(-0.5), None, 1)
    assert math.isnan(found["alone"].p)
    assert not Contrast(Estimate(nan, nan, 3), nan, nan).significant
