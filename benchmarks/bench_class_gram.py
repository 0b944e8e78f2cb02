"""Gram matrix of per-class gradients against the formulas that users write down."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

import gradmix_ext as gx

# samples N, classes C = groups K, features d
SIZES = {"2000x100x512": (2000, 100, 512), "8192x100x512": (8192, 100, 512)}


@pytest.fixture(scope="module", params=SIZES)
def size(request):
    return request.param


@pytest.fixture(scope="module")
def batch(size, device):
    n, c, d = SIZES[size]
    torch.manual_seed(0)
    return (
        torch.randn(n, d, device=device),
        torch.randn(n, c, device=device),
        torch.randint(c, (n,), device=device),
    )


def factorised(h, z, y):
    """<g_i, g_j> = (δ_i·δ_j)(h_i·h_j + 1), averaged over the pairs of two classes."""
    classes = z.shape[1]
    delta = z.softmax(1) - F.one_hot(y, classes)
    member = F.one_hot(y, classes).to(h.dtype)
    mean = member / member.sum(0).clamp(min=1)
    return mean.T @ ((delta @ delta.T) * (h @ h.T + 1)) @ mean


def backward_per_class(h, z, y):
    """One backward pass through the head for each class."""
    d, classes = h.shape[1], z.shape[1]
    weight = torch.zeros(classes, d, device=h.device, requires_grad=True)
    bias = torch.zeros(classes, device=h.device, requires_grad=True)
    gradients = []
    for k in range(classes):
        own = y == k
        # zero parameters added to the given logits leave their values and carry the gradient
        logits = z[own] + h[own] @ weight.T + bias
        grads = torch.autograd.grad(F.cross_entropy(logits, y[own]), (weight, bias))
        gradients.append(torch.cat([g.flatten() for g in grads]))
    flat = torch.stack(gradients)
    return flat @ flat.T


def gemm(h, z, y):
    """The class gradients' product alone, as if they were there for free."""
    c = z.shape[1]
    flat = h.new_ones(c, c * (h.shape[1] + 1))
    return lambda: flat @ flat.T


CASES = {
    "gradmix_ext": gx.ops.class_gram,
    "gradmix_ext pairwise": lambda *b: gx.ops.class_gram(*b, algorithm="pairwise"),
    "gradmix_ext classwise": lambda *b: gx.ops.class_gram(*b, algorithm="classwise"),
    "factorised": factorised,
    "one backward per class": backward_per_class,
}


@pytest.mark.parametrize("case", [*CASES, "limit: one GEMM"])
def test_class_gram(case, size, batch, measure, benchmark):
    benchmark.group = f"class_gram {size} float32"
    if case not in CASES:
        measure(gemm(*batch))
        return
    want = gx.reference.class_gram(*(t.double() if t.is_floating_point() else t for t in batch))
    torch.testing.assert_close(
        CASES[case](*batch).double(), want, rtol=1e-3, atol=1e-4 * want.abs().max().item()
    )
    measure(lambda: CASES[case](*batch))
