"""What blend_scores does to its matrices, against brute force; for every backend."""

from __future__ import annotations

from collections.abc import Callable

import brute_force
import torch

SIZES = ((0, 3), (1, 1), (5, 2), (67, 4), (130, 33))


def inputs(n: int, c: int, dtype: torch.dtype, layout: str = "rows"):
    """Matrices [C, C] as they are after earlier batches, and the samples of another one."""
    make = torch.Generator().manual_seed(n + c)
    known = torch.rand(c, c, generator=make) < 0.5
    scores = torch.randn(c, c, generator=make, dtype=torch.float64).to(dtype)
    pairs = scores + scores.T, known | known.T, torch.rand(c, c, generator=make) < 0.5
    if layout == "strided":
        pairs = tuple(torch.stack([t, t], dim=1).transpose(0, 2)[:, 0] for t in pairs)
    value = torch.randn(n, generator=make, dtype=torch.float64).to(dtype)
    y, y2 = torch.randint(c, (2, n), generator=make)
    return pairs, (value, y, y2)


def check(blend: Callable[..., None], device: str = "cpu") -> None:
    """``blend`` is the op of a backend, with momentum and threshold as positions."""
    for n, c in SIZES:
        for dtype in (torch.float32, torch.float64):
            for layout in ("rows", "strided"):
                pairs, samples = inputs(n, c, dtype, layout)
                want = [t.double().numpy() if t.is_floating_point() else t.numpy() for t in pairs]
                want = [t.copy() for t in want]
                value, y, y2 = (t.numpy() for t in samples)
                brute_force.blend_scores(*want, value.astype(float), y, y2, 0.9, 0.1)
                moved = [t.to(device) for t in pairs]
                blend(*moved, *(t.to(device) for t in samples), 0.9, 0.1)
                got = [t.cpu() for t in moved]
                torch.testing.assert_close(
                    got[0].double(), torch.from_numpy(want[0]), rtol=0,
                    atol=64 * torch.finfo(dtype).eps,
                )  # fmt: skip
                assert torch.equal(got[1], torch.from_numpy(want[1]))
                assert torch.equal(got[2], torch.from_numpy(want[2]))
