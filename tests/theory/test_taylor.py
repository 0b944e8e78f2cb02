"""The expansion against finite differences, the mixup loss against quadrature over two labels."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

import gradmix_ext as gx

DOUBLE = torch.float64


def network(kind: str, classes: int = 3, features: int = 4, scale: float = 1.0) -> nn.Module:
    torch.manual_seed(0)
    hidden = 6
    activation = {"tanh": nn.Tanh, "gelu": nn.GELU, "relu": nn.ReLU}[kind]
    model = nn.Sequential(nn.Linear(features, hidden), activation(), nn.Linear(hidden, classes)).to(
        DOUBLE
    )
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(scale * torch.randn_like(parameter))
    return model


def samples(n: int = 7, features: int = 4, classes: int = 3) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(3)
    x = torch.randn(n, features, dtype=DOUBLE, generator=generator)
    return x, torch.randint(classes, (n,), generator=generator)


def brute_force(model, x, y, alpha, beta, step=1e-4):
    """L_std, R1, R2, R3 pair by pair with central differences of the logits."""
    total = alpha + beta
    second = alpha * beta / (total * (total + 1))
    first = 2 * second
    R1 = R2 = R3 = 0.0
    n = len(x)
    with torch.no_grad():
        for i in range(n):
            z = model(x[i : i + 1])[0]
            p = z.softmax(0)
            residual = p - F.one_hot(y[i], len(z))
            for j in range(n):
                direction = x[j] - x[i]
                ahead = model((x[i] + step * direction)[None])[0]
                behind = model((x[i] - step * direction)[None])[0]
                u = (ahead - behind) / (2 * step)
                q = (ahead - 2 * z + behind) / step**2
                R1 += float(residual @ u)
                R2 += float(u @ (torch.diag(p) - torch.outer(p, p)) @ u)
                R3 += float(residual @ q)
        standard = F.cross_entropy(model(x), y).item()
    return standard, first * R1 / n**2, second / 2 * R2 / n**2, second / 2 * R3 / n**2


def two_label_loss(model, x, y, alpha, beta, nodes=400):
    """The mixup loss as it is defined: λ ~ Beta(α, β) and both labels, by Gauss-Jacobi nodes."""
    from scipy.special import roots_jacobi

    at, weight = roots_jacobi(nodes, beta - 1, alpha - 1)
    lam, weight = (at + 1) / 2, weight / weight.sum()
    n = len(x)
    i, j = np.divmod(np.arange(n * n), n)
    value = 0.0
    with torch.no_grad():
        for share, part in zip(lam, weight, strict=True):
            logits = model(share * x[i] + (1 - share) * x[j])
            loss = share * F.cross_entropy(logits, y[i]) + (1 - share) * F.cross_entropy(
                logits, y[j]
            )
            value += part * loss.item()
    return value


class Attention(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.attention = nn.MultiheadAttention(2, 1, batch_first=True)
        self.head = nn.Linear(2, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        sequence = x.reshape(-1, 2, 2)
        return self.head(
            self.attention(sequence, sequence, sequence, need_weights=False)[0].mean(1)
        )


@pytest.mark.parametrize(
    "layer",
    [
        nn.LayerNorm(4),
        nn.RMSNorm(4),
        nn.SiLU(),
        nn.Mish(),
        nn.Softplus(),
        nn.Sequential(nn.Unflatten(1, (1, 4)), nn.InstanceNorm1d(1), nn.Flatten()),
        nn.Sequential(nn.Unflatten(1, (4, 1)), nn.GroupNorm(1, 4), nn.Flatten()),
        Attention(),
    ],
    ids=lambda layer: type(layer[1] if isinstance(layer, nn.Sequential) else layer).__name__,
)
def test_every_kind_of_layer_has_right_second_derivatives(layer):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 4), layer, nn.LazyLinear(3)).double()
    x, y = samples(5)
    model(x)
    result = gx.theory.mixup_taylor(model, x, y, 1.0, 1.0)
    model.eval()
    expected = brute_force(model, x, y, 1.0, 1.0)
    found = (result.L_std, result.R1, result.R2, result.R3)
    assert found == pytest.approx(expected, rel=1e-5, abs=1e-6)


@pytest.mark.parametrize("kind", ["tanh", "gelu", "relu"])
@pytest.mark.parametrize(("alpha", "beta"), [(1.0, 1.0), (0.4, 2.0)])
def test_terms_match_finite_differences(kind, alpha, beta):
    model, (x, y) = network(kind), samples()
    result = gx.theory.mixup_taylor(model, x, y, alpha, beta, chunk_size=10)
    found = (result.L_std, result.R1, result.R2, result.R3)
    assert found == pytest.approx(brute_force(model, x, y, alpha, beta), abs=2e-6)
    assert result.L_approx == pytest.approx(sum(found))
    assert result.R_stderr == 0.0
    assert result.pairs == 49
    assert result.R2 >= 0
    if kind == "relu":
        assert result.R3 == 0.0


@pytest.mark.parametrize(("alpha", "beta"), [(1.0, 1.0), (0.3, 0.3), (2.0, 0.7)])
def test_hard_labels_under_the_other_distribution_are_the_mixup_loss(alpha, beta):
    model, (x, y) = network("tanh", scale=1.5), samples()
    generator = torch.Generator().manual_seed(0)
    result = gx.theory.mixup_taylor(model, x, y, alpha, beta, generator=generator, draws=6000)
    expected = two_label_loss(model, x, y, alpha, beta)
    assert abs(result.L_mix - expected) < 4 * result.L_mix_stderr
    assert result.L_mix_stderr < 0.01 * expected
    assert result.error == pytest.approx(result.L_approx - result.L_mix)


def test_standard_error_of_the_mixup_loss_is_its_spread():
    model, (x, y) = network("tanh"), samples()
    runs = [
        gx.theory.mixup_taylor(
            model, x, y, 1.0, 1.0, 1, torch.Generator().manual_seed(seed), draws=20
        )
        for seed in range(150)
    ]
    spread = np.std([run.L_mix for run in runs], ddof=1)
    assert np.mean([run.L_mix_stderr for run in runs]) == pytest.approx(spread, rel=0.25)


def test_the_expansion_is_off_by_the_third_order():
    """Halving the distances between samples divides what the expansion misses by 8."""
    model, (x, y) = network("tanh"), samples()
    errors = []
    for scale in (0.02, 0.01):
        expansion = gx.theory.mixup_taylor(model, scale * x, y, 1.0, 1.0).L_approx
        errors.append(abs(expansion - two_label_loss(model, scale * x, y, 1.0, 1.0)))
    assert errors[0] / errors[1] == pytest.approx(8, rel=0.1)


def test_drawn_pairs_are_unbiased_with_an_honest_error():
    model, (x, y) = network("tanh"), samples()
    exact = gx.theory.mixup_taylor(model, x, y, 1.0, 1.0, draws=2)
    exact_total = exact.L_approx - exact.L_std
    scores = []
    for seed in range(60):
        generator = torch.Generator().manual_seed(seed)
        drawn = gx.theory.mixup_taylor(model, x, y, 1.0, 1.0, 80, generator, draws=2)
        assert drawn.pairs == 80
        scores.append((drawn.L_approx - drawn.L_std - exact_total) / drawn.R_stderr)
    assert abs(np.mean(scores)) < 4 / np.sqrt(60)
    assert 0.7 < np.std(scores) < 1.4


def test_what_the_expansion_misses_has_the_noise_of_pairs_and_draws():
    model, (x, y) = network("tanh"), samples()
    generator = torch.Generator().manual_seed(5)
    for pairs, draws in ((12, 60), (200, 4)):  # mostly of the one, mostly of the other
        runs = [
            gx.theory.mixup_taylor(model, x, y, 1.0, 1.0, pairs, generator, draws=draws)
            for _ in range(100)
        ]
        spread = np.std([run.error for run in runs], ddof=1)
        claimed = np.sqrt(np.mean([run.error_stderr**2 for run in runs]))
        assert claimed == pytest.approx(spread, rel=0.25)
    single = gx.theory.mixup_taylor(model, x, y, 1.0, 1.0, 1, generator)
    assert np.isnan(single.R_stderr)
    assert np.isnan(single.error_stderr)


def test_the_result_does_not_depend_on_the_chunks():
    model, (x, y) = network("gelu"), samples()
    runs = [
        gx.theory.mixup_taylor(
            model, x, y, 1.0, 1.0, 30, torch.Generator().manual_seed(1), chunk_size=size
        )
        for size in (30, 1000)
    ]
    first, second = (run.R1 for run in runs)
    assert first == pytest.approx(second, rel=1e-12)


def test_images_batch_norm_and_dropout_in_evaluation_mode():
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(2, 3, 3, padding=1),
        nn.BatchNorm2d(3),
        nn.Softplus(),
        nn.AvgPool2d(2),
        nn.Dropout(0.5),
        nn.Flatten(),
        nn.LayerNorm(12),
        nn.Linear(12, 3),
    ).double()
    model(torch.randn(16, 2, 4, 4, dtype=DOUBLE))
    model[7].eval()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    x = torch.randn(5, 2, 4, 4, dtype=DOUBLE)
    y = torch.tensor([0, 1, 2, 0, 1])
    result = gx.theory.mixup_taylor(model, x, y, 1.0, 1.0)
    assert model[1].training
    assert model[4].training
    assert not model[7].training
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())
    assert all(parameter.grad is None for parameter in model.parameters())
    model.eval()
    expected = brute_force(model, x, y, 1.0, 1.0)
    assert (result.L_std, result.R1, result.R2) == pytest.approx(expected[:3], rel=1e-4)
    third = result.R3
    assert third == pytest.approx(expected[3], rel=1e-3, abs=1e-5)


def test_float32_agrees_with_float64():
    model, (x, y) = network("tanh"), samples()
    wide = vars(gx.theory.mixup_taylor(model, x, y, 1.0, 1.0))
    narrow = vars(gx.theory.mixup_taylor(model.float(), x.float(), y, 1.0, 1.0))
    for name in ("L_std", "R1", "R2", "R3"):
        assert narrow[name] == pytest.approx(wide[name], abs=1e-5)


def test_a_class_mask_is_a_head_without_those_classes():
    model, (x, _) = network("tanh", classes=5), samples()
    y = torch.tensor([0, 2, 4, 0, 2, 4, 4])
    mask = torch.tensor([True, False, True, False, True])
    smaller = nn.Sequential(*model[:2], nn.Linear(6, 3)).double()
    with torch.no_grad():
        smaller[2].weight.copy_(model[2].weight[mask])
        smaller[2].bias.copy_(model[2].bias[mask])
    generators = [torch.Generator().manual_seed(0) for _ in range(2)]
    masked = gx.theory.mixup_taylor(model, x, y, 1.0, 1.0, generator=generators[0], class_mask=mask)
    expected = gx.theory.mixup_taylor(smaller, x, y // 2, 1.0, 1.0, generator=generators[1])
    assert vars(masked) == pytest.approx(vars(expected))


def test_class_pairs_add_up_to_the_terms():
    model, (x, y) = network("tanh"), samples()
    whole = gx.theory.mixup_taylor(model, x, y, 1.0, 2.0)
    pairs = gx.theory.mixup_class_pairs(model, x, y, 1.0, 2.0, num_classes=4, chunk_size=11)
    assert int(pairs.count.sum()) == 49
    assert int(pairs.count[3].sum()) == 0
    for name in ("R1", "R2", "R3"):
        mean = (getattr(pairs, name) * pairs.count).sum().item() / 49
        assert mean == pytest.approx(getattr(whole, name), rel=1e-10)
    # A class mixed with itself: the pairs of its own samples alone.
    own = y == 1
    alone = gx.theory.mixup_taylor(model, x[own], y[own], 1.0, 2.0)
    assert pairs.total[1, 1].item() == pytest.approx(alone.L_approx - alone.L_std, rel=1e-10)


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"x": torch.zeros(3, 4, dtype=torch.int64)}, TypeError, "x must be float32 or float64"),
        ({"x": torch.zeros(0, 4)}, ValueError, "x must hold at least one sample"),
        ({"y": torch.zeros(2, dtype=torch.int64)}, ValueError, r"y must have shape \[3\]"),
        ({"y": torch.zeros(3)}, TypeError, "y must be torch.int64"),
        ({"y": torch.tensor([0, 1, 3])}, RuntimeError, r"y\[2\] = 3 is out of range"),
        ({"alpha": 0.0}, ValueError, "alpha must be positive"),
        ({"pairs": "some"}, ValueError, "pairs must be 'all' or a positive number, got 'some'"),
        ({"pairs": 0}, ValueError, "pairs must be 'all' or a positive number, got 0"),
        ({"draws": 1}, ValueError, "draws must be at least 2, got 1"),
        ({"chunk_size": 0}, ValueError, "chunk_size must be positive, got 0"),
        ({"model": nn.Flatten(0)}, ValueError, r"model must map .* logits"),
        ({"class_mask": torch.ones(2, dtype=torch.bool)}, ValueError, r"class_mask must have"),
    ],
)
def test_errors_name_the_argument(change, error, message):
    arguments = {
        "model": network("tanh").float(),
        "x": torch.zeros(3, 4),
        "y": torch.zeros(3, dtype=torch.int64),
        "alpha": 1.0,
        "beta": 1.0,
        **change,
    }
    with pytest.raises(error, match=message):
        gx.theory.mixup_taylor(**arguments)
