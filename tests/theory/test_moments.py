"""Moments and draws of λ ~ D~, and the GLM regulariser, against quadrature."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy import stats
from scipy.integrate import quad

import gradmix_ext as gx

PARAMETERS = [(1.0, 1.0), (0.2, 0.2), (4.0, 4.0), (0.5, 2.0), (3.0, 0.7)]


def density(lam: float, alpha: float, beta: float) -> float:
    share = alpha / (alpha + beta)
    return share * stats.beta.pdf(lam, alpha + 1, beta) + (1 - share) * stats.beta.pdf(
        lam, beta + 1, alpha
    )


def expectation(function, alpha: float, beta: float) -> float:
    # Substituting λ = sin² tames the poles of the density at both ends.
    def integrand(t: float) -> float:
        lam = np.sin(t) ** 2
        return function(lam) * density(lam, alpha, beta) * 2 * np.sin(t) * np.cos(t)

    return quad(integrand, 0, np.pi / 2, epsabs=1e-12, epsrel=1e-11, limit=400)[0]


@pytest.mark.parametrize(("alpha", "beta"), PARAMETERS)
def test_moments_match_quadrature(alpha, beta):
    first, second = gx.theory.mixup_moments(alpha, beta)
    assert first == pytest.approx(expectation(lambda lam: 1 - lam, alpha, beta), abs=1e-8)
    assert second == pytest.approx(expectation(lambda lam: (1 - lam) ** 2, alpha, beta), abs=1e-8)


@pytest.mark.parametrize(("alpha", "beta"), PARAMETERS)
def test_draws_follow_the_mixture(alpha, beta):
    lam = gx.theory.sample_lam(20_000, alpha, beta, torch.Generator().manual_seed(0)).numpy()
    share = alpha / (alpha + beta)

    def distribution(at):
        return share * stats.beta.cdf(at, alpha + 1, beta) + (1 - share) * stats.beta.cdf(
            at, beta + 1, alpha
        )

    assert stats.kstest(lam, distribution).pvalue > 1e-3


def test_draws_repeat_with_the_generator():
    first, second = (
        gx.theory.sample_lam(5, 0.3, 0.8, torch.Generator().manual_seed(4)) for _ in range(2)
    )
    assert torch.equal(first, second)
    assert gx.theory.sample_lam(0, 1.0, 1.0).shape == (0,)


@pytest.mark.parametrize("value", [0, -1.0, float("nan"), float("inf")])
@pytest.mark.parametrize("name", ["alpha", "beta"])
def test_parameters_must_be_positive(name, value):
    arguments = {"alpha": 1.0, "beta": 1.0, name: value}
    with pytest.raises(ValueError, match=f"mixup_moments: {name} must be positive"):
        gx.theory.mixup_moments(**arguments)


def test_parameters_must_be_numbers():
    with pytest.raises(TypeError, match=r"alpha must be a number, got 'one'"):
        gx.theory.mixup_moments("one", 1.0)


@pytest.mark.parametrize(("alpha", "beta"), [(3.0, 3.0), (4.0, 2.5), (1.5, 6.0)])
def test_glm_moment_matches_quadrature(alpha, beta):
    expected = expectation(lambda lam: ((1 - lam) / lam) ** 2, alpha, beta)
    assert gx.theory.glm_moment(alpha, beta) == pytest.approx(expected, rel=1e-4)


def test_glm_moment_of_equal_parameters():
    assert gx.theory.glm_moment(4.0, 4.0) == pytest.approx(5 / 3)


@pytest.mark.parametrize(("alpha", "beta", "name"), [(1.0, 1.0, "alpha"), (2.0, 0.5, "beta")])
def test_glm_form_does_not_exist_up_to_one(alpha, beta, name):
    with pytest.raises(ValueError, match=f"{name} must be greater than 1, got .* infinite"):
        gx.theory.glm_moment(alpha, beta)
    with pytest.raises(ValueError, match=f"{name} must be greater than 1"):
        gx.theory.glm_regularizer(torch.ones(2), torch.ones(3, 2), alpha, beta)


def test_glm_regularizer_matches_the_expanded_loss():
    """Second-order term in 1-λ of the loss at x~/λ = x_i + ((1-λ)/λ) r, over all pairs."""
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(12, 3, dtype=torch.float64, generator=generator) + 2.0
    theta = torch.randn(3, dtype=torch.float64, generator=generator)
    alpha = beta = 3.0
    centred = x - x.mean(0)
    step = 1e-3

    def mean_potential(t: float) -> float:
        at = centred[:, None] + t * centred[None]
        return torch.nn.functional.softplus(at @ theta).mean().item()

    curvature = (mean_potential(step) - 2 * mean_potential(0) + mean_potential(-step)) / step**2
    expected = curvature / 2 * gx.theory.glm_moment(alpha, beta)
    # The double sum factorises only in expectation: mean_i A''_i times mean_j (θᵀr_j)².
    assert gx.theory.glm_regularizer(theta, x, alpha, beta).item() == pytest.approx(
        expected, rel=1e-5
    )
