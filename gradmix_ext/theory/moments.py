"""The distribution of λ that mixup amounts to once the label stays hard.

Mixing (x_i, y_i) with (x_j, y_j) by λ ~ Beta(α, β) and taking the two-label loss has the same
expectation, over all ordered pairs, as mixing x_i with a random training input by λ ~ D~, keeping
the label y_i alone, with

    D~ = α/(α+β) · Beta(α+1, β) + β/(α+β) · Beta(β+1, α)

(Zhang et al., ICLR 2021, Lemma 3.1). It is an identity, not an approximation: the two-label loss is
λ loss(x~, y_i) + (1-λ) loss(x~, y_j), and weighting Beta(α, β) by λ gives Beta(α+1, β).
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

__all__ = ["MixupMoments", "mixup_moments", "sample_lam"]


class MixupMoments(NamedTuple):
    """Moments of 1-λ, the share of the partner, for λ ~ D~."""

    #: E[1-λ] = 2αβ / ((α+β)(α+β+1)), in (0, 1/2).
    first: float
    #: E[(1-λ)²] = αβ / ((α+β)(α+β+1)), half of `first`.
    second: float


def mixup_moments(alpha: float, beta: float) -> MixupMoments:
    """E[1-λ] and E[(1-λ)²] under D~ (Zhang et al., ICLR 2021, Lemma 3.1).

    Args:
        alpha: First parameter of λ ~ Beta(alpha, beta).
        beta: Second parameter.

    Returns:
        ``(first, second)``.

    Raises:
        TypeError: a parameter is not a number.
        ValueError: a parameter is not positive and finite.

    >>> mixup_moments(1.0, 1.0)
    MixupMoments(first=0.3333333333333333, second=0.16666666666666666)
    """
    alpha, beta = beta_parameters("mixup_moments", alpha, beta)
    total = alpha + beta
    second = (alpha / total) * (beta / (total + 1))
    return MixupMoments(2 * second, second)


def sample_lam(
    samples: int, alpha: float, beta: float, generator: torch.Generator | None = None
) -> Tensor:
    """Draw λ ~ D~.

    Args:
        samples: How many.
        alpha: First parameter of Beta(alpha, beta).
        beta: Second parameter.
        generator: Source of randomness, on the CPU; PyTorch's own by default.

    Returns:
        λ, [samples] float64 on the CPU.

    Raises:
        TypeError: a parameter is not a number.
        ValueError: a parameter is not positive and finite, or `samples` is negative.
    """
    from scipy.special import betaincinv

    alpha, beta = beta_parameters("sample_lam", alpha, beta)
    if samples < 0:
        raise ValueError(f"sample_lam: samples must not be negative, got {samples}")
    # The inverse distribution function of two uniforms, since PyTorch's Beta takes no generator.
    which, level = torch.rand(2, samples, dtype=torch.float64, generator=generator).numpy()
    kept = which < alpha / (alpha + beta)
    first, second = np.where(kept, alpha, beta), np.where(kept, beta, alpha)
    return torch.from_numpy(betaincinv(first + 1, second, level))


def beta_parameters(caller: str, alpha: float, beta: float) -> tuple[float, float]:
    """Both parameters as positive finite floats.

    Raises:
        TypeError: one is not a number.
        ValueError: one is not positive and finite.
    """
    for name, value in (("alpha", alpha), ("beta", beta)):
        try:
            number = float(value)
        except (TypeError, ValueError, RuntimeError):
            raise TypeError(f"{caller}: {name} must be a number, got {value!r}") from None
        if not (math.isfinite(number) and number > 0):
            raise ValueError(f"{caller}: {name} must be positive and finite, got {value!r}")
    return float(alpha), float(beta)
