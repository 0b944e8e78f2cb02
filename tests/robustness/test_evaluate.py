"""Robust accuracy against attacks written sample by sample, and what must hold of any attack."""

from __future__ import annotations

import copy
import sys
from itertools import pairwise

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import gradmix_ext as gx
from gradmix_ext.robustness.attacks import Attack

EPS = [0.0, 0.03, 0.08, 0.15, 0.3]


@pytest.fixture(scope="module")
def digits() -> tuple[nn.Module, torch.Tensor, torch.Tensor]:
    """A small classifier of the digits, and test samples."""
    dataset = gx.continual.load_dataset("digits")
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Dropout(0.3), nn.Linear(64, 10))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    for _ in range(80):
        loss = F.cross_entropy(model(dataset.train_x), dataset.train_y)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    optimizer.zero_grad()
    return model, dataset.test_x, dataset.test_y


def attack_by_sample(model, x, y, eps, norm, steps, step_size, low=0.0, high=1.0):
    """One sample at a time, its own gradient by autograd, NumPy-like arithmetic."""
    found = x.clone()
    for _ in range(steps):
        found.requires_grad_(True)
        loss = -F.log_softmax(model(found[None]), 1)[0, y]
        loss.backward()
        gradient = found.grad
        found = found.detach()
        if norm == "linf":
            found = found + step_size * torch.sign(gradient)
            found = torch.max(torch.min(found, x + eps), x - eps)
        else:
            length = gradient.square().sum().sqrt()
            found = found + step_size * gradient / length if length > 0 else found
            distance = (found - x).square().sum().sqrt()
            if distance > eps:
                found = x + (found - x) * eps / distance
        found = torch.min(torch.max(found, torch.tensor(low)), torch.tensor(high))
    return found


@pytest.mark.parametrize(
    ("attack", "norm", "steps", "rate", "radii"),
    [
        ("fgsm", "linf", 1, 1.0, [0.05, 0.15]),
        ("pgd", "linf", 10, 0.25, [0.05, 0.15]),
        ("pgd_l2", "l2", 10, 0.25, [0.4, 1.0]),
    ],
)
def test_equals_an_independent_attack(digits, attack, norm, steps, rate, radii):
    model, x, y = digits
    model, x, y = model.double(), x[:120].double(), y[:120]
    found = gx.robustness.evaluate(model, (x, y), attack, radii, steps=steps)
    model.eval()
    for eps in radii:
        moved = torch.stack(
            [
                attack_by_sample(model, row, int(label), eps, norm, steps, rate * eps)
                for row, label in zip(x, y, strict=True)
            ]
        )
        expected = (model(moved).argmax(1) == y).double().mean().item()
        assert found[eps] == pytest.approx(expected, abs=1e-3)
        assert 0 < expected < 0.98
    model.float().train()


class Scaled(nn.Module):
    """Logits of another model, k times as large: the same decisions, another confidence."""

    def __init__(self, model, k):
        super().__init__()
        self.model = model
        self.k = k

    def forward(self, x):
        return self.k * self.model(x)


@pytest.mark.parametrize(
    ("attack", "radii"), [("fgsm", [0.1, 0.15]), ("pgd", [0.1, 0.15]), ("pgd_l2", [0.4, 1.0])]
)
def test_confidence_is_no_defence(digits, attack, radii):
    """In float32 the probability of the label rounds to 1, and that of the others to 0."""
    model, x, y = digits

    def accuracy(k, x, y, class_mask=None):
        found = gx.robustness.evaluate(
            Scaled(model, k), (x, y), attack, radii, class_mask=class_mask, steps=10
        )
        return list(found.values())

    # Between two classes there is one way to go, at any scale.
    mask = torch.zeros(10, dtype=torch.bool)
    mask[[1, 7]] = True
    x_two, y_two = x[mask[y]], y[mask[y]]
    expected = accuracy(1, x_two, y_two, mask)
    assert 0.2 < expected[1] < expected[0] < 1
    for k in (10, 1000, 1e6):
        assert accuracy(k, x_two, y_two, mask) == expected
    # Among several the scale says how much the second best counts against the third.
    expected = accuracy(1, x, y)
    assert expected[1] < 0.45
    for k in (10, 1000):
        assert accuracy(k, x, y) == pytest.approx(expected, abs=0.04)


def test_the_direction_in_float32_is_that_of_float64(digits):
    """Where 1 - 1e-10 is 1 in float32, autograd in float64 still has a gradient."""
    model, x, y = digits
    model.eval()
    clean = model(x)
    sure = clean.argmax(1) == y
    x, y, clean = x[sure][:40], y[sure][:40], clean[sure][:40]
    # One factor a sample: each has the probability of its label at 1 - 1e-10 or so.
    lead = (clean.gather(1, y[:, None]) - clean.scatter(1, y[:, None], -torch.inf)).amin(1)
    k = (23 / lead).detach()[:, None]
    assert ((k * clean).softmax(1).gather(1, y[:, None]) == 1).all()
    exact = copy.deepcopy(model).double()
    at = x.double().requires_grad_()
    F.cross_entropy(k.double() * exact(at), y, reduction="sum").backward()
    attack = Attack("fgsm", torch.tensor(-9.0), torch.tensor(9.0), 1, None, False, None)
    moved = attack(lambda x: k * model(x), x, y, 1.0) - x
    # Pixels whose gradient is all rounding may differ.
    clear = at.grad.abs() > 1e-4 * at.grad.abs().amax(1, keepdim=True)
    assert clear.double().mean() > 0.8
    assert torch.equal(moved.sign()[clear], at.grad.float().sign()[clear])
    model.train()


@pytest.mark.parametrize("attack", ["fgsm", "pgd", "pgd_l2"])
def test_a_class_alone_cannot_be_left(digits, attack):
    model, x, y = digits
    mask = torch.arange(10) == 4
    found = gx.robustness.evaluate(model, (x[y == 4], y[y == 4]), attack, EPS, class_mask=mask)
    assert all(value == 1.0 for value in found.values())
    low, high = torch.tensor(0.0), torch.tensor(1.0)
    alone = Attack(attack, low, high, 3, None, False, None)
    moved = alone(lambda x: model(x).masked_fill(~mask, -torch.inf), x[:5], y[:5] * 0 + 4, 0.1)
    assert torch.equal(moved, x[:5])


@pytest.mark.parametrize("attack", ["fgsm", "pgd", "pgd_l2"])
def test_accuracy_starts_at_clean_and_does_not_rise(digits, attack):
    model, x, y = digits
    radii = EPS if attack != "pgd_l2" else [4 * eps for eps in EPS]
    found = gx.robustness.evaluate(model, (x, y), attack, radii, steps=20)
    assert list(found) == radii
    assert found.samples == len(y)
    model.eval()
    clean = model(x)
    model.train()
    assert found[0.0] == (clean.argmax(1) == y).double().mean().item()
    assert found.ece[0.0] == gx.robustness.expected_calibration_error(clean.detach(), y)
    values = list(found.values())
    assert all(later <= earlier for earlier, later in pairwise(values))
    assert values[-1] < values[0] - 0.5


def test_more_steps_do_not_make_the_attack_weaker(digits):
    model, x, y = digits
    one, many = (
        gx.robustness.evaluate(model, (x, y), "pgd", 0.15, steps=steps)[0.15] for steps in (1, 40)
    )
    fgsm = gx.robustness.evaluate(model, (x, y), "fgsm", 0.15)[0.15]
    assert many <= min(one, fgsm)


@pytest.mark.parametrize("name", ["fgsm", "pgd", "pgd_l2"])
@pytest.mark.parametrize("random_start", [False, True])
def test_moved_inputs_stay_in_the_ball_and_in_the_bounds(digits, name, random_start):
    model, x, y = digits
    low, high = torch.tensor(0.0), torch.tensor(1.0)
    attack = Attack(name, low, high, 8, None, random_start, torch.Generator().manual_seed(0))
    for eps in (0.1, 2.0):
        moved = attack(model, x, y, eps)
        delta = (moved - x).flatten(1)
        size = delta.norm(dim=1) if name == "pgd_l2" else delta.abs().amax(1)
        assert size.max() <= eps * (1 + 1e-5)
        assert size.max() > 0.5 * min(eps, 1.0)
        assert moved.min() >= 0
        assert moved.max() <= 1


def test_eps_is_in_the_input_range_of_the_model(digits):
    """Inputs in [-3, 5] and eps eight times as large: the same model, the same accuracy."""
    model, x, y = digits

    class Shifted(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = model

        def forward(self, image):
            return self.inner((image.flatten(1) + 3) / 8)

    image = (8 * x - 3).reshape(-1, 1, 8, 8)
    expected = gx.robustness.evaluate(model, (x, y), "pgd", [0.1], steps=10)
    for bounds in ((-3.0, 5.0), (torch.full((1, 1, 1), -3.0), torch.full((1, 8, 8), 5.0))):
        found = gx.robustness.evaluate(Shifted(), (image, y), "pgd", [0.8], bounds=bounds, steps=10)
        assert found[0.8] == pytest.approx(expected[0.1], abs=1.5 / len(y))


def test_a_class_mask_is_a_head_without_those_classes(digits):
    model, x, y = digits
    mask = torch.zeros(10, dtype=torch.bool)
    mask[[1, 4, 7]] = True
    x, y = x[mask[y]], y[mask[y]]
    smaller = nn.Sequential(*model[:3], nn.Linear(64, 3))
    with torch.no_grad():
        smaller[3].weight.copy_(model[3].weight[mask])
        smaller[3].bias.copy_(model[3].bias[mask])
    found = gx.robustness.evaluate(model, (x, y), "pgd", EPS, class_mask=mask, steps=5)
    expected = gx.robustness.evaluate(smaller, (x, y // 3), "pgd", EPS, steps=5)
    assert found == pytest.approx(expected)
    assert found.ece == pytest.approx(expected.ece, abs=1e-6)


def test_a_loader_is_read_once_and_batches_do_not_matter(digits):
    model, x, y = digits
    whole = gx.robustness.evaluate(model, (x, y), "fgsm", EPS)
    loader = DataLoader(TensorDataset(x, y), batch_size=50)
    assert gx.robustness.evaluate(model, loader, "fgsm", EPS) == pytest.approx(whole)
    once = iter([(x[:100], y[:100]), (x[100:], y[100:])])
    assert gx.robustness.evaluate(model, once, "fgsm", EPS) == pytest.approx(whole)


def test_the_model_is_left_as_it_was(digits):
    model, x, y = digits
    model.train()
    model.zero_grad()
    model[3].eval()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    gx.robustness.evaluate(model, (x[:8], y[:8]), "pgd", [0.1], steps=2)
    assert [module.training for module in model] == [True, True, True, False]
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())
    assert all(parameter.grad is None for parameter in model.parameters())


def test_random_starts_repeat_with_the_generator(digits):
    model, x, y = digits
    runs = [
        gx.robustness.evaluate(
            model,
            (x, y),
            "pgd_l2",
            [0.5],
            steps=3,
            random_start=True,
            generator=torch.Generator().manual_seed(2),
        )
        for _ in range(2)
    ]
    assert runs[0] == runs[1]


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"attack": "cw"}, ValueError, "attack must be one of fgsm, pgd, pgd_l2, autoattack"),
        ({"eps": []}, ValueError, "eps must name at least one radius"),
        ({"eps": [-0.1]}, ValueError, "eps must be finite and not negative, got -0.1"),
        ({"eps": [0.1, 0.1]}, ValueError, "eps names a radius twice"),
        ({"steps": 0}, ValueError, "steps must be positive, got 0"),
        ({"step_size": 0.0}, ValueError, "step_size must be positive and finite, got 0.0"),
        ({"bounds": (1.0, 0.0)}, ValueError, "bounds must be .* low < high"),
        ({"bounds": (0.0, 0.5)}, ValueError, "inputs reach from 0 to 1, outside bounds"),
        ({"bounds": (torch.zeros(3), 1.0)}, ValueError, r"bounds\[low\] of shape \[3\]"),
        ({"loader": []}, ValueError, "loader gave no samples"),
        ({"class_mask": torch.ones(3, dtype=torch.bool)}, ValueError, "class_mask must have"),
        ({"class_mask": torch.arange(10) > 0}, RuntimeError, r"y\[0\] = 0 is not a class of"),
        ({"model": nn.Flatten(0)}, ValueError, "model must return logits"),
    ],
)
def test_errors_name_the_argument(change, error, message):
    arguments = {
        "model": nn.Linear(64, 10),
        "loader": (torch.eye(64)[:2], torch.tensor([0, 1])),
        **change,
    }
    with pytest.raises(error, match=message):
        gx.robustness.evaluate(**arguments)


def test_a_missing_library_says_how_to_get_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "pyautoattack.autoattack", None)
    with pytest.raises(ImportError, match=r"pip install 'gradmix_ext\[robustness\]'"):
        gx.robustness.evaluate(
            nn.Linear(2, 2), (torch.zeros(1, 2), torch.zeros(1, dtype=torch.int64)), "autoattack"
        )


@pytest.mark.parametrize("classes", [[0, 1, 4], [0, 1, 3, 4, 7]])
def test_autoattack_is_at_least_as_strong_as_pgd(digits, classes):
    pytest.importorskip("pyautoattack.autoattack")
    model, x, y = digits
    mask = torch.zeros(10, dtype=torch.bool)
    mask[classes] = True
    x, y = x[mask[y]][:5], y[mask[y]][:5]
    arguments = {"eps": [0.12], "class_mask": mask}
    strong = gx.robustness.evaluate(model, (x, y), "autoattack", **arguments)
    assert strong[0.12] <= gx.robustness.evaluate(model, (x, y), "pgd", **arguments)[0.12]
