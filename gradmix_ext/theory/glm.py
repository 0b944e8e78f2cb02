"""Mixup as a data-adaptive regulariser of a generalised linear model."""

from __future__ import annotations

import torch
from torch import Tensor

from gradmix_ext.theory.adversarial import checked_linear
from gradmix_ext.theory.moments import beta_parameters

__all__ = ["glm_moment", "glm_regularizer"]


def glm_moment(alpha: float, beta: float) -> float:
    """E[((1-λ)/λ)²] for λ ~ D~, which is (α+1)/(α-1) for α = β.

    The integrand grows like λ^-2 at 0, where D~ has density ~ λ^α and λ^β (one for each of its
    parts), so it is finite only when both parameters exceed 1.

    Args:
        alpha: First parameter of λ ~ Beta(alpha, beta), more than 1.
        beta: Second parameter, more than 1.

    Raises:
        TypeError: a parameter is not a number.
        ValueError: a parameter is not positive and finite, or is at most 1: the expectation is
            infinite there.

    >>> glm_moment(2.0, 2.0)
    3.0
    """
    alpha, beta = beta_parameters("glm_moment", alpha, beta)
    for name, value in (("alpha", alpha), ("beta", beta)):
        if value <= 1:
            raise ValueError(
                f"{name} must be greater than 1, got {value:g}: E[((1-λ)/λ)²] is infinite for "
                f"{name} <= 1, so the GLM form of the regulariser does not exist"
            )
    return (beta * (beta + 1) / (alpha - 1) + alpha * (alpha + 1) / (beta - 1)) / (alpha + beta)


def glm_regularizer(theta: Tensor, x: Tensor, alpha: float, beta: float) -> Tensor:
    """What mixup adds to the loss of logistic regression, to second order.

    With A(z) = log(1 + e^z), inputs x~/λ and Σ the covariance of the training inputs,

        L~_mix - L_std = (1/2n) [Σ_i A''(θᵀx_i)] E[((1-λ)/λ)²] θᵀ Σ θ

    (Zhang et al., ICLR 2021, Section 3.3). It does not depend on the labels. x is centred first, as
    the derivation assumes.

    Args:
        theta: Weights of the model, [d].
        x: Training inputs, [n, d], the dtype of `theta`.
        alpha: First parameter of λ ~ Beta(alpha, beta), more than 1.
        beta: Second parameter, more than 1.

    Returns:
        The regulariser, 0-dim, at least 0; differentiable in `theta`.

    Raises:
        TypeError: an argument has the wrong type or dtype.
        ValueError: shapes disagree, or a parameter is at most 1 (see :func:`glm_moment`).
    """
    moment = glm_moment(alpha, beta)
    checked_linear("glm_regularizer", theta, x)
    score = (x - x.mean(0)) @ theta
    probability = torch.sigmoid(score)
    curvature = (probability * (1 - probability)).mean()
    return curvature * moment / 2 * score.square().mean()
