"""Inside of torch.func transforms and with dual tensors: against plain autograd."""

from __future__ import annotations

import pytest
import torch
from torch.autograd import forward_ad
from torch.func import functional_call, grad, hessian, jvp, vmap

import gradmix_ext as gx

N, C, D = 7, 4, 5


@pytest.fixture
def batch():
    g = torch.Generator().manual_seed(0)
    return {
        "x": torch.randn(N, D, generator=g, dtype=torch.float64),
        "z": torch.randn(N, C, generator=g, dtype=torch.float64),
        "y": torch.randint(C, (N,), generator=g),
        "y2": torch.randint(C, (N,), generator=g),
        "lam": torch.rand(N, generator=g, dtype=torch.float64),
        "partner": torch.randperm(N, generator=g),
        "weight": torch.randn(C, D, generator=g, dtype=torch.float64),
        "bias": torch.randn(C, generator=g, dtype=torch.float64),
    }


def functions(b):
    """A number of one floating-point argument, for every op that has a gradient."""
    labels = b["y"], b["y2"], b["lam"]
    head = b["weight"], b["bias"]
    return {
        "masked_mixup": (
            lambda x: gx.ops.masked_mixup(x, b["partner"], b["lam"]).pow(3).sum(), b["x"]
        ),
        "mixup_cross_entropy": (lambda z: gx.ops.mixup_cross_entropy(z, *labels), b["z"]),
        "class_gradients": (
            lambda h: gx.ops.class_gradients(h, b["z"], b["y"])[0].pow(2).sum(), b["x"]
        ),
        "class_gram": (lambda z: gx.ops.class_gram(b["x"], z, b["y"]).sum(), b["z"]),
        "sample_scores": (
            lambda z: gx.ops.sample_scores(b["x"], z, *labels, *head).pow(2).sum(), b["z"]
        ),
        "pair_scores": (
            lambda h: (
                gx.ops.pair_scores(h, b["z"], *labels, *head, num_classes=C)[0].pow(2).sum()
            ),
            b["x"],
        ),
    }  # fmt: skip


OPS = (
    "masked_mixup", "mixup_cross_entropy", "class_gradients", "class_gram", "sample_scores",
    "pair_scores",
)  # fmt: skip


@pytest.mark.parametrize("op", OPS)
def test_gradient_is_that_of_autograd(op, batch):
    f, at = functions(batch)[op]
    leaf = at.clone().requires_grad_()
    (expected,) = torch.autograd.grad(f(leaf), leaf)
    torch.testing.assert_close(grad(f)(at), expected)


@pytest.mark.parametrize("op", OPS)
def test_forward_mode_is_the_gradient_along_a_direction(op, batch):
    f, at = functions(batch)[op]
    direction = torch.ones_like(at)
    value, along = jvp(f, (at,), (direction,))
    torch.testing.assert_close(value, f(at))
    torch.testing.assert_close(along, (grad(f)(at) * direction).sum())


@pytest.mark.parametrize("requires_grad", [False, True])
@pytest.mark.parametrize("op", OPS)
def test_dual_tensors_carry_their_tangents(op, requires_grad, batch):
    f, at = functions(batch)[op]
    direction = torch.ones_like(at)
    with forward_ad.dual_level():
        dual = forward_ad.make_dual(at.clone().requires_grad_(requires_grad), direction)
        value, along = forward_ad.unpack_dual(f(dual))
    torch.testing.assert_close(value.detach(), f(at))
    torch.testing.assert_close(along.detach(), (grad(f)(at) * direction).sum())


def test_dual_samples_carry_their_tangents_through_mix_batch(batch):
    x, y, noise = batch["x"], batch["y"], torch.rand(2 * N, dtype=torch.float64)
    pairs, direction = torch.zeros(C, C), x.flip(0)

    def mixed(x):
        return gx.ops.mix_batch(x, y, pairs, "soft", noise=noise)[0]

    with forward_ad.dual_level():
        value, along = forward_ad.unpack_dual(mixed(forward_ad.make_dual(x, direction)))
    torch.testing.assert_close(value, mixed(x))
    torch.testing.assert_close(along, mixed(direction))  # mixing is linear


@pytest.mark.parametrize("op", ["masked_mixup", "mixup_cross_entropy"])
def test_hessian_is_that_of_autograd(op, batch):
    f, at = functions(batch)[op]
    torch.testing.assert_close(hessian(f)(at), torch.autograd.functional.hessian(f, at))


def test_gradients_of_single_samples(batch):
    model = torch.nn.Linear(D, C).double()
    weights = dict(model.named_parameters())

    def loss(weights, x, y, y2, lam):
        logits = functional_call(model, weights, (x[None],))
        return gx.ops.mixup_cross_entropy(logits, y[None], y2[None], lam)

    labels = batch["y"], batch["y2"], batch["lam"]
    found = vmap(grad(loss), in_dims=(None, 0, 0, 0, 0))(weights, batch["x"], *labels)
    for i in range(N):
        own = (part[i : i + 1] for part in labels)
        each = gx.ops.mixup_cross_entropy(model(batch["x"][i : i + 1]), *own)
        expected = torch.autograd.grad(each, list(weights.values()))
        for name, value in zip(weights, expected, strict=True):
            torch.testing.assert_close(found[name][i], value)


def test_the_loss_is_in_full_precision_under_autocast(batch):
    z, labels = batch["z"].bfloat16(), (batch["y"], batch["y2"], batch["lam"].float())
    with torch.autocast("cpu", torch.bfloat16):
        inside = vmap(lambda z: gx.ops.mixup_cross_entropy(z, *labels))(z[None])[0]
        outside = gx.ops.mixup_cross_entropy(z, *labels)
        _, differentiated = grad(
            lambda z: 2 * (gx.ops.mixup_cross_entropy(z, *labels),), has_aux=True
        )(z)
    assert inside.dtype == differentiated.dtype == outside.dtype == torch.float32
    torch.testing.assert_close(inside, outside)
    torch.testing.assert_close(differentiated, outside)


def test_values_are_checked_where_they_can_be(batch):
    with pytest.raises(RuntimeError, match=r"partner\[0\] = 9"):
        grad(lambda x: gx.ops.masked_mixup(x, torch.full((N,), 9), 0.5).sum())(batch["x"])
