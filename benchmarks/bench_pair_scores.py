"""Scores of all class pairs against autograd and the dense formula."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

import gradmix_ext as gx

N, C, D = 4096, 100, 512  # all 5,050 pairs have the same share of the samples, or one less


@pytest.fixture(scope="module")
def batch(device):
    torch.manual_seed(0)
    pairs = torch.combinations(torch.arange(C, device=device), with_replacement=True)
    a, b = pairs[torch.randperm(len(pairs), device=device)[:N]].unbind(1)
    h, z = torch.randn(N, D, device=device), torch.randn(N, C, device=device)
    lam = torch.rand(N, device=device)
    return h, z, a, b, lam, torch.randn(C, D, device=device), torch.randn(C, device=device)


def ours(*batch):
    return gx.ops.pair_scores(*batch, num_classes=C)[0]


def soft_targets(z, a, b, lam):
    weight = lam[:, None]
    return weight * F.one_hot(a, C) + (1 - weight) * F.one_hot(b, C)


def mirrored(upper):
    return upper + upper.triu(1).T


def dense(h, z, a, b, lam, weight, bias):
    """Residual, projected features, their product and a scatter, one PyTorch call after another."""
    delta = z.softmax(1) - soft_targets(z, a, b, lam)
    value = (delta * torch.einsum("nd,cd->nc", h, weight)).sum(1) + delta @ bias
    cell = torch.minimum(a, b) * C + torch.maximum(a, b)
    return mirrored(value.new_zeros(C * C).index_add(0, cell, value).view(C, C))


def autograd_per_pair(h, z, a, b, lam, weight, bias):
    """One backward pass through the head for each class pair."""
    w = torch.zeros_like(weight, requires_grad=True)
    v = torch.zeros_like(bias, requires_grad=True)
    soft = soft_targets(z, a, b, lam)
    low, high = torch.minimum(a, b), torch.maximum(a, b)
    cell = low * C + high
    order = cell.argsort()
    cells, sizes = cell[order].unique_consecutive(return_counts=True)
    result = h.new_zeros(C * C)
    for index, rows in zip(cells.tolist(), order.split(sizes.tolist()), strict=True):
        logits = z[rows] + h[rows] @ w.T + v
        loss = F.cross_entropy(logits, soft[rows], reduction="sum")
        grad_w, grad_v = torch.autograd.grad(loss, (w, v))
        result[index] = (grad_w * weight).sum() + (grad_v * bias).sum()
    return mirrored(result.view(C, C))


CASES = {
    "gradmix_ext": ours,
    "dense einsum": dense,
    "one autograd call per pair": autograd_per_pair,
}


@pytest.mark.parametrize("case", [*CASES, "limit: one GEMM"])
def test_pair_scores(case, batch, measure, benchmark):
    benchmark.group = f"pair_scores {N}x{C}x{D} float32"
    h, *_, weight, _ = batch
    if case not in CASES:
        measure(lambda: h @ weight.T)
        return
    double = [t.double() if t.is_floating_point() else t for t in batch]
    want = gx.reference.pair_scores(*double, num_classes=C)[0]
    torch.testing.assert_close(
        CASES[case](*batch).double(), want, rtol=1e-3, atol=1e-4 * want.abs().max().item()
    )
    measure(lambda: CASES[case](*batch))
