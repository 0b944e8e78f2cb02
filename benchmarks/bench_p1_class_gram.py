"""P1: Gram matrix of per-class last-layer gradients, against formulas and libraries of others."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import nn

import gradmix_ext as gx
from gradmix_ext.bench import Case, Missing, Role, Setting, Target, Workload
from gradmix_ext.bench.workload import plain

# samples N, classes C = groups K, features d
SIZES = (("2000x100x512", 2000, 100, 512), ("8192x100x512", 8192, 100, 512),
         ("2000x1000x512", 2000, 1000, 512))  # fmt: skip
SETTINGS = tuple(
    Setting(f"{name} float32", {"n": n, "c": c, "d": d}, quick=c == 100 and n == 2000)
    for name, n, c, d in SIZES
)


def inputs(setting, device):
    n, c, d = setting["n"], setting["c"], setting["d"]
    return (
        torch.randn(n, d, device=device),
        torch.randn(n, c, device=device),
        torch.randint(c, (n,), device=device),
    )


def truth(setting, h, z, y):
    return gx.reference.class_gram(h.double(), z.double(), y)


def floor(setting):
    """The fewest operations: by classes, or by pairs where that is less; half by symmetry."""
    n, c, d = setting["n"], setting["c"], setting["d"]
    return 4 * (n * (d + c) + c * c), 2 * min(multiply_adds(setting))


def per_sample_bytes(setting):
    """What those hold that form all gradients [N, C, d]: these, a copy, and the means."""
    n, c, d = setting["n"], setting["c"], setting["d"]
    return 4 * (2.5 * n * c * d + 2 * c * c * d)


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
    flat = h.new_zeros(classes, classes * (d + 1))
    for k in range(classes):
        own = y == k
        if not own.any():
            continue
        # zero parameters added to the given logits leave their values and carry the gradient
        logits = z[own] + h[own] @ weight.T + bias
        grads = torch.autograd.grad(F.cross_entropy(logits, y[own]), (weight, bias))
        torch.cat([g.flatten() for g in grads], out=flat[k])
    return flat @ flat.T


def gram_of(weight, bias, y, classes):
    """From gradients of samples [N, C, d] and [N, C] to the Gram matrix of their class means."""
    count = y.bincount(minlength=classes).clamp(min=1)
    mean_weight = weight.new_zeros(classes, weight[0].numel()).index_add_(0, y, weight.flatten(1))
    mean_bias = bias.new_zeros(classes, classes).index_add_(0, y, bias)
    mean_weight /= count[:, None]
    mean_bias /= count[:, None]
    return mean_weight @ mean_weight.T + mean_bias @ mean_bias.T


def head(setting, device):
    """A linear layer of zeros: added to given logits it leaves their values."""
    layer = nn.Linear(setting["d"], setting["c"]).to(device)
    nn.init.zeros_(layer.weight)
    nn.init.zeros_(layer.bias)
    return layer


def opacus(setting, device):
    from opacus.grad_sample import GradSampleModule

    layer = GradSampleModule(head(setting, device), loss_reduction="sum")

    def call(h, z, y):
        layer.zero_grad(set_to_none=True)
        F.cross_entropy(z + layer(h), y, reduction="sum").backward()
        found = layer._module.weight.grad_sample, layer._module.bias.grad_sample
        gram = gram_of(*found, y, z.shape[1])
        layer.zero_grad(set_to_none=True)
        return gram

    return call


def backpack(setting, device):
    from backpack import backpack as context
    from backpack import extend
    from backpack.extensions import BatchGrad

    layer = extend(head(setting, device))
    loss = extend(nn.CrossEntropyLoss(reduction="sum"))

    def call(h, z, y):
        with context(BatchGrad()):
            # In place on the data: the graph of the layer and the loss is what BackPACK reads.
            logits = layer(h)
            logits.data.add_(z)
            loss(logits, y).backward()
        gram = gram_of(layer.weight.grad_batch, layer.bias.grad_batch, y, z.shape[1])
        for parameter in layer.parameters():
            parameter.grad = None
            del parameter.grad_batch
        return gram

    return call


def functional(setting, device):
    from torch.func import grad, vmap

    layer = head(setting, device)
    parameters = {name: value.detach() for name, value in layer.named_parameters()}

    def loss(parameters, h, z, y):
        logits = z + h @ parameters["weight"].T + parameters["bias"]
        return F.cross_entropy(logits, y)

    each = vmap(grad(loss), in_dims=(None, 0, 0, 0))

    def call(h, z, y):
        found = each(parameters, h, z, y)
        return gram_of(found["weight"], found["bias"], y, z.shape[1])

    return call


def multiply_adds(setting):
    """Of the two ways: by classes and by pairs of samples, each half of it by symmetry."""
    n, c, d = setting["n"], setting["c"], setting["d"]
    return n * c * d + c * c * c * (d + 1) / 2, n * n / 2 * (c + d)


def gemms(setting, device):
    """The products of the cheaper way alone, as if what they multiply were there for free."""
    c, d = setting["c"], setting["d"]
    classwise, pairwise = multiply_adds(setting)
    if classwise < pairwise:
        flat = torch.randn(c, c * (d + 1), device=device)
        return lambda h, z, y: flat @ flat.T
    return lambda h, z, y: (z @ z.T, h @ h.T)


def only_where_sensible(prepare):
    """Not where the gradients of the classes take a hundred times the operations of the pairs."""

    def checked(setting, device):
        classwise, pairwise = multiply_adds(setting)
        if classwise > 50 * pairwise:
            raise Missing(f"takes {classwise / pairwise:.0f} times the operations of the pairs")
        return prepare(setting, device)

    return checked


def by(algorithm):
    return plain(lambda h, z, y: gx.ops.class_gram(h, z, y, algorithm=algorithm))


CASES = (
    Case("gradmix_ext", plain(gx.ops.class_gram), Role.OURS),
    Case("gradmix_ext pairwise", by("pairwise"), Role.OURS),
    Case("gradmix_ext classwise", only_where_sensible(by("classwise")), Role.OURS),
    Case("factorised formula", plain(factorised)),
    Case("factorised, torch.compile", lambda s, device: torch.compile(factorised, dynamic=False)),
    Case("one backward per class", only_where_sensible(plain(backward_per_class))),
    Case("opacus", only_where_sensible(opacus), needs="opacus", memory=per_sample_bytes, slow=True),
    Case(
        "backpack",
        only_where_sensible(backpack),
        needs="backpack-for-pytorch",
        memory=per_sample_bytes,
        slow=True,
    ),
    Case(
        "torch.func vmap(grad)", only_where_sensible(functional), memory=per_sample_bytes, slow=True
    ),
    Case("limit: GEMMs of the cheaper way", gemms, Role.LIMIT),
)

WORKLOADS = (
    Workload(
        "P1", "class_gram", SETTINGS, CASES, inputs, truth, floor,
        targets=(
            Target("factorised formula", 8.0, device="cpu", settings=("2000x100x512 float32",)),
            Target("factorised formula", 5.0, device="cuda", settings=("2000x100x512 float32",)),
            Target("limit: GEMMs of the cheaper way", 1 / 1.5),
        ),
    ),
)  # fmt: skip


def test_class_gram(replay):
    replay()
