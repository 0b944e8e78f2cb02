"""What ops do to the moving averages of scores, against brute force; for every backend."""

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
                assert_averages(moved, want, 64 * torch.finfo(dtype).eps)


def assert_averages(got, want, tolerance):
    """The matrices of a backend against those in NumPy."""
    scores, *flags = (t.cpu() for t in got)
    torch.testing.assert_close(scores.double(), torch.from_numpy(want[0]), rtol=0, atol=tolerance)
    for a, b in zip(flags, want[1:], strict=True):
        assert torch.equal(a, torch.from_numpy(b))


def head(n: int, c: int, dtype: torch.dtype):
    """Features, logits and λ of samples, a direction and a class mask that hides class C."""
    make = torch.Generator().manual_seed(n - c)
    d = 7
    h = torch.randn(n, d, generator=make, dtype=torch.float64).to(dtype)
    z = (3 * torch.randn(n, c + 1, generator=make, dtype=torch.float64)).to(dtype)
    direction = torch.randn(c + 1, d, generator=make), torch.randn(c + 1, generator=make)
    return h, z, torch.rand(n, generator=make), direction, torch.arange(c + 1) < c


def check_observing(observe: Callable[..., None], device: str = "cpu") -> None:
    """``observe`` is the op of a backend."""
    law = {"momentum": 0.9, "threshold": 0.1}
    for n, c in SIZES:
        for dtype in (torch.float32, torch.float64, torch.bfloat16):
            for layout, of_scores in (("rows", torch.float32), ("strided", torch.float64)):
                pairs, (_, y, y2) = inputs(n, c, of_scores, layout)
                h, z, lam, direction, mask = head(n, c, dtype)
                want = [t.numpy().copy() for t in pairs]
                want[0] = want[0].astype(float)
                head_in = [t.double().numpy() for t in (h, z, lam, *direction)]
                value = brute_force.sample_scores(
                    *head_in[:2], y.numpy(), y2.numpy(), *head_in[2:], mask.numpy()
                )
                brute_force.blend_scores(*want, value, y.numpy(), y2.numpy(), 0.9, 0.1)
                moved = [t.to(device) for t in pairs]
                rest = (t.to(device) for t in (h, z, y, y2, lam, *direction))
                observe(*moved, *rest, **law, class_mask=mask.to(device))
                wide = dtype == torch.float64 == of_scores
                eps = torch.finfo(torch.float64 if wide else torch.float32).eps
                assert_averages(moved, want, 64 * eps * max(abs(value).max(initial=1), 1))
