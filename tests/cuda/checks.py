"""Comparison with float64 brute force, on any device."""

from __future__ import annotations

import math

import brute_force
import torch
from torch import Tensor


def truth(sample) -> tuple:
    """The brute-force result for the values that the sample's tensors really hold."""

    def numpy(value):
        if not isinstance(value, Tensor):
            return value
        value = value.detach().cpu()
        return (value.double() if value.is_floating_point() else value).numpy()

    result = getattr(brute_force, sample.op)(
        *map(numpy, sample.args), **{name: numpy(v) for name, v in sample.kwargs.items()}
    )
    return result if isinstance(result, tuple) else (result,)


def relative_error(out: Tensor, want: Tensor) -> float:
    """The largest error, relative to the largest magnitude; NaN and infinity have to agree."""
    out, finite = out.double(), want.isfinite()
    if not torch.allclose(out[~finite], want[~finite].double(), equal_nan=True):
        return math.inf
    if not finite.any():
        return 0.0
    scale = max(want[finite].abs().max().item(), 1e-3)
    error = (out[finite] - want[finite]).abs().max().item() / scale
    return math.inf if math.isnan(error) else error


def assert_close(sample, outputs, dtype: torch.dtype, terms: int = 64) -> None:
    """Sums are formed in float32 or wider and rounded once to the result's dtype."""
    outputs = outputs if isinstance(outputs, tuple) else (outputs,)
    for got, expected in zip(outputs, truth(sample), strict=True):
        out, want = got.cpu(), torch.as_tensor(expected)
        assert out.shape == want.shape, str(sample)
        if not want.is_floating_point():
            assert torch.equal(out, want), str(sample)
            continue
        wide = dtype == torch.float64 == out.dtype
        accumulated = torch.float64 if wide else torch.float32
        tolerance = terms * torch.finfo(accumulated).eps + torch.finfo(out.dtype).eps
        assert relative_error(out, want) <= tolerance, str(sample)
