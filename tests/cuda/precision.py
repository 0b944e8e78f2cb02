"""The products on tensor cores against float64 and against PyTorch's own float32, anywhere."""

from __future__ import annotations

import torch
from checks import relative_error
from torch import Tensor

FEATURES = ("normal", "positive")  # positive: as after a ReLU, where cut-off sums would drift


def last_layer(n: int, c: int, d: int, dtype: torch.dtype, features: str) -> dict[str, Tensor]:
    """What the ops on a head take, and a direction; the logits are those of a trained head."""
    make = torch.Generator().manual_seed(n + c + d)
    h, z = torch.randn(n, d, generator=make), 2 * torch.randn(n, c, generator=make)
    y, y2 = torch.randint(c, (2, n), generator=make)
    z[torch.arange(n), y] += 3
    return {
        "features": (h.relu() if features == "positive" else h).to(dtype),
        "logits": z.to(dtype),
        "target": y,
        "partner_target": y2,
        "lam": torch.rand(n, generator=make),
        "direction_weight": torch.randn(c, d, generator=make),
        "direction_bias": torch.randn(c, generator=make),
    }


def plain_gram(features, logits, target) -> Tensor:
    """class_gram by PyTorch's products, in the dtype of its arguments."""
    member = torch.eye(logits.shape[1], dtype=logits.dtype, device=logits.device)[target]
    delta, mean = logits.softmax(1) - member, member / member.sum(0).clamp(min=1)
    return mean.T @ ((delta @ delta.T) * (features @ features.T + 1)) @ mean


def plain_scores(
    features, logits, target, partner_target, lam, direction_weight, direction_bias
) -> Tensor:
    """The score sums of pair_scores by PyTorch's products, in the dtype of its arguments."""
    label = torch.eye(logits.shape[1], dtype=logits.dtype, device=logits.device)
    q = lam[:, None] * label[target] + (1 - lam[:, None]) * label[partner_target]
    projected = features @ direction_weight.T + direction_bias
    value = ((logits.softmax(1) - q) * projected).sum(1)
    low, high = torch.minimum(target, partner_target), torch.maximum(target, partner_target)
    upper = torch.zeros_like(label).index_put((low, high), value, accumulate=True)
    return upper + upper.triu(1).T


def converted(given: dict[str, Tensor], dtype: torch.dtype) -> dict[str, Tensor]:
    return {k: t.to(dtype) if t.is_floating_point() else t for k, t in given.items()}


def assert_as_exact_as_float32(ops, given: dict[str, Tensor]) -> None:
    """Errors of at most twice those of the plain float32 formulas, and a few roundings."""
    classes = given["logits"].shape[1]
    head = {name: given[name] for name in ("features", "logits", "target")}
    results = {
        "pairwise": ops.class_gram(**head, algorithm="pairwise"),
        "classwise": ops.class_gram(**head, algorithm="classwise"),
        "pair_scores": ops.pair_scores(**given, num_classes=classes)[0],
    }
    for name, got in results.items():
        formula, inputs = (plain_scores, given) if name == "pair_scores" else (plain_gram, head)
        want = formula(**converted(inputs, torch.float64))
        plain = relative_error(formula(**converted(inputs, torch.float32)), want)
        limit = 2 * plain + 8 * torch.finfo(torch.float32).eps
        error = relative_error(got, want)
        assert error <= limit, f"{name}: error {error:.2g}, float32's own is {plain:.2g}"
