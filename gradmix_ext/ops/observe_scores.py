"""Moving averages of the scores of class pairs, from the features of a training batch."""

from __future__ import annotations

import torch
from torch import Tensor

from gradmix_ext import _checks as checks
from gradmix_ext import reference
from gradmix_ext.ops._library import define
from gradmix_ext.reference.observe_scores import check, check_values


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
    """Let a batch of mixed samples enter the moving averages of their class pairs, in place.

    :func:`~gradmix_ext.ops.sample_scores` and :func:`~gradmix_ext.ops.blend_scores` in one call,
    for every step of a training. Not differentiable.

    Args:
        scores: Scores [K, K] of the class pairs, float32 or float64, symmetric.
        scored: Class pairs [K, K] (bool) that have a score.
        allowed: Class pairs [K, K] (bool) that may be mixed.
        features: Inputs of the head h~ [N, d] for the mixed samples.
        logits: Outputs of the head [N, C], of the same dtype.
        target: Label [N] (int64) of each sample.
        partner_target: Label [N] (int64) of each sample's partner.
        lam: Weight of ``target``, a number, a scalar tensor or one per sample [N].
        direction_weight: G_W [C, d], such as the mean gradient of the replay buffer.
        direction_bias: G_b [C].
        momentum: Weight of the past, in [0, 1).
        threshold: Least score of a pair that is allowed, finite.
        class_mask: Classes [C] (bool) that take part in the softmax, all by default.

    Raises:
        TypeError: An argument has the wrong dtype.
        ValueError: An argument has the wrong shape, device or value, or requires grad.
        RuntimeError: A label is not in [0, K), not a class of the head or not allowed by
            ``class_mask`` (on a GPU only under ``gx.debug_checks()``; otherwise a sample with a
            label outside of [0, K) is left out, and any other such label has no weight).
    """
    head = direction_weight, direction_bias, class_mask
    law = momentum, threshold
    batch = features, logits, target, partner_target
    pairs = scores, scored, allowed
    if checks.debug_enabled():
        check(*pairs, *batch, lam, *head, *law)
        check_values(scores, logits, target, partner_target, class_mask)
    try:
        if any(t.requires_grad for t in (scores, features, logits, *head[:2])):
            check(*pairs, *batch, lam, *head, *law)
        weight = checks.as_lam("observe_scores", lam, logits)
        _OP(*pairs, *batch, weight, *head[:2], *law, class_mask)
    except Exception:
        with checks.replacing:
            check(*pairs, *batch, lam, *head, *law)
        raise


def _fake(
    scores: Tensor,
    scored: Tensor,
    allowed: Tensor,
    features: Tensor,
    logits: Tensor,
    target: Tensor,
    partner_target: Tensor,
    lam: Tensor,
    direction_weight: Tensor,
    direction_bias: Tensor,
    momentum: float,
    threshold: float,
    class_mask: Tensor | None = None,
) -> None:
    check(
        scores, scored, allowed, features, logits, target, partner_target, lam, direction_weight,
        direction_bias, class_mask, momentum, threshold,
    )  # fmt: skip


define(
    "observe_scores(Tensor(a!) scores, Tensor(b!) scored, Tensor(c!) allowed, Tensor features,"
    " Tensor logits, Tensor target, Tensor partner_target, Tensor lam, Tensor direction_weight,"
    " Tensor direction_bias, float momentum, float threshold, Tensor? class_mask=None) -> ()",
    reference.observe_scores,
    _fake,
)
_OP = torch.ops.gradmix_ext.observe_scores.default
