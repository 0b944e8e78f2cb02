"""Masked in-batch mixup against what users write and call today, and against a copy."""

from __future__ import annotations

import pytest
import torch

import gradmix_ext as gx

SHAPES = {
    "256x3x224x224": (256, 3, 224, 224),
    "1024x3x32x32": (1024, 3, 32, 32),
    "32x1x8x8": (32, 1, 8, 8),
}


@pytest.fixture(scope="module", params=SHAPES)
def shape(request):
    return request.param


@pytest.fixture(scope="module", params=[torch.float32, torch.bfloat16], ids=str)
def dtype(request):
    return request.param


@pytest.fixture(scope="module")
def batch(shape, dtype, device):
    torch.manual_seed(0)
    x = torch.randn(SHAPES[shape], device=device).to(dtype)
    partner = torch.randperm(len(x), device=device)
    return x, partner, torch.rand(len(x), device=device), torch.empty_like(x)


def eager(x, partner, lam):
    weight = lam.to(x.dtype).view(-1, 1, 1, 1)
    return weight * x + (1 - weight) * x[partner]


def lerp(x, partner, lam):
    return torch.lerp(x[partner], x, lam.to(x.dtype).view(-1, 1, 1, 1))


compiled = torch.compile(eager)

CASES = {
    "gradmix_ext": lambda x, p, lam, out: gx.ops.masked_mixup(x, p, lam),
    "gradmix_ext out=": lambda x, p, lam, out: gx.ops.masked_mixup(x, p, lam, out=out),
    "eager": lambda x, p, lam, out: eager(x, p, lam),
    "lerp": lambda x, p, lam, out: lerp(x, p, lam),
    "torch.compile": lambda x, p, lam, out: compiled(x, p, lam),
    "limit: copy_": lambda x, p, lam, out: out.copy_(x),
    "limit: clone": lambda x, p, lam, out: x.clone(),
}


@pytest.mark.parametrize("case", CASES)
def test_masked_mixup(case, shape, dtype, batch, measure, benchmark):
    benchmark.group = f"masked_mixup {shape} {dtype}"
    x, partner, lam, _ = batch
    if not case.startswith("limit"):
        want = gx.reference.masked_mixup(x, partner, lam)
        torch.testing.assert_close(CASES[case](*batch), want, rtol=0.02, atol=0.04)
    measure(lambda: CASES[case](*batch), bytes=3 * x.numel() * x.element_size())
