"""P4: loss of mixed samples, forward and backward, against soft and hard targets.

Liger's cross-entropy has kernels for GPUs only, and none for two labels: it is left out.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F

import gradmix_ext as gx
from gradmix_ext.bench import Case, Role, Setting, Target, Workload

SETTINGS = (
    Setting("8192x1000 float32", {"n": 8192, "c": 1000}, quick=True),
    Setting("1024x1000 float32", {"n": 1024, "c": 1000}, quick=True),
    Setting("64x10 float32", {"n": 64, "c": 10}),
)
LARGE = tuple(setting.name for setting in SETTINGS[:2])


def inputs(setting, device):
    n, c = setting["n"], setting["c"]
    z = torch.randn(n, c, device=device, requires_grad=True)
    y, y2 = torch.randint(c, (2, n), device=device)
    return z, y, y2, torch.rand(n, device=device)


def truth(setting, z, y, y2, lam):
    double = z.detach().double().requires_grad_()
    loss = gx.reference.mixup_cross_entropy(double, y, y2, lam.double())
    return torch.autograd.grad(loss, double)[0]


def floor(setting):
    """One read of the logits, one write of the gradient; about five operations an element."""
    elements = setting["n"] * setting["c"]
    return 2 * 4 * elements, 5 * elements


def soft_targets(z, y, y2, lam):
    q = torch.zeros_like(z).scatter_(1, y[:, None], lam[:, None])
    return F.cross_entropy(z, q.scatter_add_(1, y2[:, None], 1 - lam[:, None]))


def two_labels(z, y, y2, lam):
    first, second = (F.cross_entropy(z, label, reduction="none") for label in (y, y2))
    return (lam * first + (1 - lam) * second).mean()


def gradient_of(loss, compiled=False):
    """The gradient by the logits, which takes a forward and a backward pass."""

    def prepare(setting, device):
        function = torch.compile(loss, dynamic=False) if compiled else loss
        return lambda z, y, y2, lam: torch.autograd.grad(function(z, y, y2, lam), z)[0]

    return prepare


CASES = (
    Case("gradmix_ext", gradient_of(gx.ops.mixup_cross_entropy), Role.OURS),
    Case("soft targets", gradient_of(soft_targets)),
    Case("soft targets, torch.compile", gradient_of(soft_targets, compiled=True)),
    Case("two hard labels", gradient_of(two_labels)),
    Case("two hard labels, torch.compile", gradient_of(two_labels, compiled=True)),
    Case(
        "limit: one hard label",
        gradient_of(lambda z, y, y2, lam: F.cross_entropy(z, y)),
        Role.LIMIT,
    ),
    Case(
        "limit: clone of the logits",
        lambda setting, device: lambda z, y, y2, lam: z.detach().clone(),
        Role.LIMIT,
    ),
)

WORKLOADS = (
    Workload(
        "P4", "mixup_cross_entropy + backward", SETTINGS, CASES, inputs, truth, floor,
        targets=(
            Target("soft targets", 2.0, settings=LARGE),
            Target("two hard labels, torch.compile", 1.3, settings=LARGE),
            Target("limit: one hard label", 1.0, settings=LARGE),
        ),
    ),
)  # fmt: skip


def test_mixup_cross_entropy(replay):
    replay()
