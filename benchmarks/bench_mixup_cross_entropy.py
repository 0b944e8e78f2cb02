"""Loss of mixed samples, forward and backward, against soft and hard targets."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

import gradmix_ext as gx

SIZES = {"8192x1000": (8192, 1000), "1024x1000": (1024, 1000), "64x10": (64, 10)}


@pytest.fixture(scope="module", params=SIZES)
def size(request):
    return request.param


@pytest.fixture(scope="module")
def batch(size, device):
    n, c = SIZES[size]
    torch.manual_seed(0)
    z = torch.randn(n, c, device=device, requires_grad=True)
    y, y2 = torch.randint(c, (2, n), device=device)
    return z, y, y2, torch.rand(n, device=device)


def soft_targets(z, y, y2, lam):
    q = torch.zeros_like(z).scatter_(1, y[:, None], lam[:, None])
    return F.cross_entropy(z, q.scatter_add_(1, y2[:, None], 1 - lam[:, None]))


def two_labels(z, y, y2, lam):
    first, second = (F.cross_entropy(z, label, reduction="none") for label in (y, y2))
    return (lam * first + (1 - lam) * second).mean()


CASES = {
    "gradmix_ext": gx.ops.mixup_cross_entropy,
    "soft targets": soft_targets,
    "two hard labels": two_labels,
    "two hard labels, torch.compile": torch.compile(two_labels),
    "limit: one hard label": lambda z, y, y2, lam: F.cross_entropy(z, y),
}


@pytest.mark.parametrize("case", CASES)
def test_mixup_cross_entropy(case, size, batch, measure, benchmark):
    benchmark.group = f"mixup_cross_entropy {size} float32, forward and backward"
    z, y, y2, lam = batch

    def step():
        return torch.autograd.grad(CASES[case](z, y, y2, lam), z)[0]

    if not case.startswith("limit"):
        double = z.detach().double().requires_grad_()
        loss = gx.reference.mixup_cross_entropy(double, y, y2, lam)
        torch.testing.assert_close(
            step().double(), torch.autograd.grad(loss, double)[0], rtol=1e-3, atol=1e-7
        )
    measure(step)
