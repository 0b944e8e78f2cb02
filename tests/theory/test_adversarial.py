"""The adversarial expansion against its formula and the true loss, and the bound at random."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import gradmix_ext as gx
from gradmix_ext.theory import adversarial_loss_second_order, mixup_robust_radius

DOUBLE = torch.float64


def instance(seed: int, inside: bool = True):
    """Centred inputs, weights, and labels that the weights classify correctly (if `inside`)."""
    generator = torch.Generator().manual_seed(seed)
    n = int(torch.randint(2, 20, (), generator=generator))
    d = int(torch.randint(1, 12, (), generator=generator))
    size = 10 ** (3 * torch.rand((), generator=generator, dtype=DOUBLE) - 2)
    x = torch.randn(n, d, generator=generator, dtype=DOUBLE) * size
    x = x - x.mean(0)
    theta = torch.randn(d, generator=generator, dtype=DOUBLE)
    y = (x @ theta > 0).long()
    alpha, beta = (10 ** (2 * torch.rand(2, generator=generator) - 1)).tolist()
    return theta, x, y if inside else 1 - y, alpha, beta


def expanded_mixup_loss(theta, x, y, alpha, beta) -> float:
    """L_std + R1 + R2 over all pairs, from the formulas."""
    total = alpha + beta
    second = alpha * beta / (total * (total + 1))
    f = x @ theta
    g = torch.sigmoid(f)
    u = f[None] - f[:, None]
    standard = F.binary_cross_entropy_with_logits(f, y.double())
    R1 = 2 * second * ((g - y)[:, None] * u).mean()
    R2 = second / 2 * ((g * (1 - g))[:, None] * u**2).mean()
    return float(standard + R1 + R2)


def test_the_bound_holds_on_a_thousand_random_instances():
    for seed in range(1000):
        theta, x, y, alpha, beta = instance(seed)
        mixed = gx.theory.mixup_loss_second_order(theta, x, y, alpha, beta).item()
        assert mixed == pytest.approx(expanded_mixup_loss(theta, x, y, alpha, beta), rel=1e-9)
        radius = mixup_robust_radius(theta, x, y, alpha, beta)
        assert radius.defined
        assert radius.reasons == ()
        each = adversarial_loss_second_order(theta, x, y, radius.eps_i).item()
        least = adversarial_loss_second_order(theta, x, y, radius.eps_mix.item()).item()
        slack = 1e-12 * (1 + abs(mixed))
        assert mixed >= each - slack
        assert each >= least - slack


def test_the_bound_can_fail_outside_theta():
    """The condition is needed: with every label wrong the order turns round somewhere."""
    broken = 0
    for seed in range(50):
        theta, x, y, alpha, beta = instance(seed, inside=False)
        radius = mixup_robust_radius(theta, x, y, alpha, beta)
        assert not radius.in_theta
        assert not radius.defined
        assert radius.misclassified == len(x)
        assert "outside Θ" in radius.reasons[0]
        mixed = gx.theory.mixup_loss_second_order(theta, x, y, alpha, beta)
        broken += bool(mixed < adversarial_loss_second_order(theta, x, y, radius.eps_mix))
    assert broken


def test_radius_follows_its_formula():
    theta, x, y, alpha, beta = instance(5)
    radius = mixup_robust_radius(theta, x, y, alpha, beta)
    c_x = min(math.sqrt(float(row @ row)) for row in x) / math.sqrt(x.shape[1])
    share = 2 * alpha * beta / ((alpha + beta) * (alpha + beta + 1))
    expected = [
        abs(float(theta @ row)) / float(theta.norm() * row.norm()) * c_x * share for row in x
    ]
    assert radius.c_x.item() == pytest.approx(c_x)
    assert radius.eps_i.tolist() == pytest.approx(expected)
    assert radius.eps_mix.item() == pytest.approx(min(expected))


def test_expansion_agrees_with_the_true_adversarial_loss_to_second_order():
    """The worst case in an l2 ball is a step along ±θ; the remainder is of third order."""
    theta, x, y, _, _ = instance(11)
    errors = []
    for eps in (0.02, 0.01):
        reach = eps * math.sqrt(x.shape[1]) * theta.norm()
        f = x @ theta
        true = F.binary_cross_entropy_with_logits(f - (2 * y - 1) * reach, y.double()).item()
        errors.append(abs(adversarial_loss_second_order(theta, x, y, eps).item() - true))
    assert errors[0] < 1e-3
    assert errors[0] / errors[1] == pytest.approx(8, rel=0.15)


def test_no_attack_is_the_standard_loss():
    theta, x, y, _, _ = instance(2)
    expected = F.binary_cross_entropy_with_logits(x @ theta, y.double())
    assert adversarial_loss_second_order(theta, x, y, 0.0).item() == expected.item()


def test_relu_network_without_biases_takes_its_gradients_for_theta():
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Linear(5, 8, bias=False), nn.ReLU(), nn.Linear(8, 1, bias=False)
    ).double()
    x = torch.randn(9, 5, dtype=DOUBLE)
    x = x - x.mean(0)
    y = (model(x)[:, 0] > 0).long()
    radius = mixup_robust_radius(model, x, y, 1.0, 1.0)
    assert radius.defined
    loss = adversarial_loss_second_order(model, x, y, radius.eps_i)
    total, losses = [], []
    for row, label, eps in zip(x, y, radius.eps_i, strict=True):
        active = (model[0].weight @ row > 0).double()
        gradient = ((model[2].weight[0] * active) @ model[0].weight).detach()
        total.append(
            abs(float(gradient @ row)) / float(gradient.norm() * row.norm()) * radius.c_x / 3
        )
        losses.append(adversarial_loss_second_order(gradient, row[None], label[None], float(eps)))
    assert radius.eps_i.tolist() == pytest.approx([float(value) for value in total])
    assert loss.item() == pytest.approx(float(sum(losses)) / 9)
    assert all(parameter.grad is None for parameter in model.parameters())
    assert model.training


def test_conditions_of_the_theorem_are_reported():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(5, 8), nn.ReLU(), nn.Linear(8, 1)).double()
    x = torch.randn(9, 5, dtype=DOUBLE) + 1.0
    y = (model(x)[:, 0] > 0).long()
    radius = mixup_robust_radius(model, x, y, 1.0, 1.0)
    assert radius.in_theta
    assert not radius.centred
    assert not radius.homogeneous
    assert len(radius.reasons) == 2
    assert not radius.defined


def test_samples_without_direction_have_no_radius():
    x = torch.tensor([[0.0, 0.0], [1.0, 0.0], [-1.0, 0.0]])
    radius = mixup_robust_radius(torch.tensor([1.0, 0.0]), x, torch.tensor([1, 1, 0]), 1.0, 1.0)
    assert radius.eps_i.tolist() == [0.0, 0.0, 0.0]
    assert radius.in_theta


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"theta": torch.ones(3)}, ValueError, r"theta must have shape \[d\]"),
        ({"theta": torch.ones(2).double()}, TypeError, "theta must have the dtype of x"),
        ({"theta": [1.0, 2.0]}, TypeError, "theta must be a tensor of weights, got list"),
        ({"x": torch.zeros(0, 2)}, ValueError, "x must hold at least one sample"),
        ({"x": torch.ones(2, 2, dtype=torch.int64)}, TypeError, "x must be floating point"),
        ({"y": torch.tensor([0, 2])}, ValueError, r"y\[1\] = 2 must be 0 or 1"),
        ({"y": torch.tensor([0])}, ValueError, r"y must have shape \[2\], got \[1\]"),
        ({"eps": -0.1}, ValueError, "eps must not be negative, got -0.1"),
        ({"eps": torch.ones(3)}, ValueError, r"eps must be a number or have shape \[2\]"),
        ({"theta": nn.Linear(2, 3)}, ValueError, "theta must map x to one logit per sample"),
    ],
)
def test_errors_name_the_argument(change, error, message):
    arguments = {
        "theta": torch.ones(2),
        "x": torch.ones(2, 2),
        "y": torch.tensor([0, 1]),
        "eps": 0.1,
        **change,
    }
    with pytest.raises(error, match=message):
        adversarial_loss_second_order(**arguments)
    if "eps" not in change:
        arguments.pop("eps")
        with pytest.raises(error, match=message):
            mixup_robust_radius(**arguments, alpha=1.0, beta=1.0)
