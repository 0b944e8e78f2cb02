"""P2: scores of all class pairs from mixed samples, against autograd and the dense formula."""

from __future__ import annotations

import torch
import torch.nn.functional as F

import gradmix_ext as gx
from gradmix_ext.bench import Case, Role, Setting, Target, Workload
from gradmix_ext.bench.workload import plain

SETTINGS = (Setting("4096x100x512 float32", {"n": 4096, "c": 100, "d": 512}, quick=True),)


def inputs(setting, device):
    """Every pair has the same share of the samples, or one less."""
    n, c, d = setting["n"], setting["c"], setting["d"]
    pairs = torch.combinations(torch.arange(c, device=device), with_replacement=True)
    a, b = pairs[torch.randperm(len(pairs), device=device)[:n]].unbind(1)
    h, z = torch.randn(n, d, device=device), torch.randn(n, c, device=device)
    lam = torch.rand(n, device=device)
    return h, z, a, b, lam, torch.randn(c, d, device=device), torch.randn(c, device=device)


def truth(setting, *batch):
    double = [t.double() if t.is_floating_point() else t for t in batch]
    return gx.reference.pair_scores(*double, num_classes=setting["c"])[0]


def floor(setting):
    n, c, d = setting["n"], setting["c"], setting["d"]
    return 4 * (n * (d + c) + c * d + 2 * c * c), 2 * n * c * d


def ours(setting, device):
    return lambda *batch: gx.ops.pair_scores(*batch, num_classes=setting["c"])[0]


def soft_targets(z, a, b, lam):
    c, weight = z.shape[1], lam[:, None]
    return weight * F.one_hot(a, c) + (1 - weight) * F.one_hot(b, c)


def mirrored(upper):
    return upper + upper.triu(1).T


def by_pair(value, a, b, c):
    cell = torch.minimum(a, b) * c + torch.maximum(a, b)
    return mirrored(value.new_zeros(c * c).index_add(0, cell, value).view(c, c))


def dense(h, z, a, b, lam, weight, bias):
    """Residual, projected features, their product and a scatter, one PyTorch call after another."""
    delta = z.softmax(1) - soft_targets(z, a, b, lam)
    value = (delta * torch.einsum("nd,cd->nc", h, weight)).sum(1) + delta @ bias
    return by_pair(value, a, b, len(bias))


def per_sample(h, z, a, b, lam, weight, bias):
    """The gradient of every sample by vmap, then its inner product with the direction."""
    soft = soft_targets(z, a, b, lam)

    def loss(w, v, h, z, q):
        return F.cross_entropy(z + h @ w.T + v, q)

    zero = torch.zeros_like(weight), torch.zeros_like(bias)
    each = torch.func.vmap(torch.func.grad(loss, argnums=(0, 1)), in_dims=(None, None, 0, 0, 0))
    grad_w, grad_v = each(*zero, h, z, soft)
    value = torch.einsum("ncd,cd->n", grad_w, weight) + grad_v @ bias
    return by_pair(value, a, b, len(bias))


def autograd_per_pair(h, z, a, b, lam, weight, bias):
    """One backward pass through the head for each class pair."""
    c = len(bias)
    w = torch.zeros_like(weight, requires_grad=True)
    v = torch.zeros_like(bias, requires_grad=True)
    soft = soft_targets(z, a, b, lam)
    cell = torch.minimum(a, b) * c + torch.maximum(a, b)
    order = cell.argsort()
    cells, sizes = cell[order].unique_consecutive(return_counts=True)
    result = h.new_zeros(c * c)
    for index, rows in zip(cells.tolist(), order.split(sizes.tolist()), strict=True):
        logits = z[rows] + h[rows] @ w.T + v
        loss = F.cross_entropy(logits, soft[rows], reduction="sum")
        grad_w, grad_v = torch.autograd.grad(loss, (w, v))
        result[index] = (grad_w * weight).sum() + (grad_v * bias).sum()
    return mirrored(result.view(c, c))


def per_sample_bytes(setting):
    return 4 * 2.5 * setting["n"] * setting["c"] * setting["d"]


CASES = (
    Case("gradmix_ext", ours, Role.OURS),
    Case("dense einsum", plain(dense)),
    Case("dense einsum, torch.compile", lambda s, device: torch.compile(dense, dynamic=False)),
    Case("one autograd call per pair", plain(autograd_per_pair), slow=True),
    Case("per-sample gradients by vmap", plain(per_sample), memory=per_sample_bytes, slow=True),
    Case(
        "limit: one GEMM [N, d] x [d, C]",
        plain(lambda h, z, a, b, lam, weight, bias: h @ weight.T),
        Role.LIMIT,
    ),
)

WORKLOADS = (
    Workload(
        "P2", "pair_scores", SETTINGS, CASES, inputs, truth, floor,
        targets=(
            Target("one autograd call per pair", 100.0, device="cpu"),
            Target("one autograd call per pair", 1000.0, device="cuda"),
            Target("dense einsum", 1.5, device="cpu"),
            Target("dense einsum", 3.0, device="cuda"),
            Target("limit: one GEMM [N, d] x [d, C]", 1 / 1.3),
        ),
    ),
)  # fmt: skip


def test_pair_scores(replay):
    replay()
