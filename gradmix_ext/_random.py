"""Random numbers, as ops and mixers draw them."""

from __future__ import annotations

import torch
from torch import Tensor


def uniform(
    shape: int | tuple[int, ...],
    device: torch.device,
    generator: torch.Generator | None = None,
    dtype: torch.dtype = torch.float64,
) -> Tensor:
    """Uniform numbers in [0, 1), also where the shape has symbols of a compiler.

    To which ``generator=None`` is more than it can trace.
    """
    if generator is None:
        return torch.rand(shape, dtype=dtype, device=device)
    return torch.rand(shape, dtype=dtype, device=device, generator=generator)
