"""Moving averages of the scores of class pairs, from features: what the fused op computes."""

from __future__ import annotations

from torch import Tensor

from gradmix_ext import _checks as checks
from gradmix_ext.reference.blend_scores import blend, check_averages
from gradmix_ext.reference.pair_scores import check_samples, inner_products
from gradmix_ext.reference.pair_scores import check_values as check_labels

_OP = "observe_scores"


def check(
    scores: Tensor,
    scored: Tensor,
    allowed: Tensor,
    features: Tensor,
    logits: Tensor,
    target: Tensor,
    partner_target: Tensor,
    lam: Tensor | float,
    direction_weight: Tensor,
    direction_bias: Tensor,
    class_mask: Tensor | None,
    momentum: float,
    threshold: float,
) -> Tensor:
    """Check shapes, dtypes, devices and numbers; return λ as a tensor."""
    check_averages(_OP, scores, scored, allowed, momentum, threshold)
    lam = check_samples(
        _OP, features, logits, target, partner_target, lam, direction_weight, direction_bias,
        class_mask,
    )  # fmt: skip
    checks.same_device(_OP, "logits", logits, scores.device)
    checks.without_grad(
        _OP, features=features, logits=logits, direction_weight=direction_weight,
        direction_bias=direction_bias,
    )  # fmt: skip
    return lam


def check_values(
    scores: Tensor,
    logits: Tensor,
    target: Tensor,
    partner_target: Tensor,
    class_mask: Tensor | None,
) -> None:
    """Every label is a row of ``scores``, and a class of the head and of the mask."""
    check_labels(_OP, logits, target, partner_target, len(scores), class_mask)


def observe_scores(
    scores: Tensor,
    scored: Tensor,
    allowed: Tensor,
    features: Tensor,
    logits: Tensor,
    target: Tensor,
    partner_target: Tensor,
    lam: Tensor | float,
    direction_weight: Tensor,
    direction_bias: Tensor,
    *,
    momentum: float,
    threshold: float,
    class_mask: Tensor | None = None,
) -> None:
    """Pure PyTorch version of :func:`gradmix_ext.ops.observe_scores`."""
    head = direction_weight, direction_bias, class_mask
    lam = check(
        scores, scored, allowed, features, logits, target, partner_target, lam, *head, momentum,
        threshold,
    )  # fmt: skip
    if checks.values_checked(logits.device):
        check_values(scores, logits, target, partner_target, class_mask)
    value = inner_products(features, logits, target, partner_target, lam, *head)
    blend(
        scores, scored, allowed, value.to(scores.dtype), target, partner_target, momentum, threshold
    )
