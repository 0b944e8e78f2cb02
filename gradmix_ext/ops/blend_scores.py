"""Moving averages of the scores of class pairs, from the samples of a batch."""

from __future__ import annotations

import torch
from torch import Tensor

from gradmix_ext import _checks as checks
from gradmix_ext import reference
from gradmix_ext.ops._library import define
from gradmix_ext.reference.blend_scores import check, check_values


def blend_scores(
    scores: Tensor,
    scored: Tensor,
    allowed: Tensor,
    value: Tensor,
    target: Tensor,
    partner_target: Tensor,
    *,
    momentum: float,
    threshold: float,
) -> None:
    """Let the scores of a batch's samples enter the moving averages of their class pairs, in place.

    For each unordered pair {a, b} of the batch, with m the mean ``value`` of its samples, scores[a,
    b] = scores[b, a] becomes ``momentum · scores[a, b] + (1 - momentum) · m``, or m where the pair
    was not scored yet. Then it counts as scored, and is allowed where its score is at least
    ``threshold``. Pairs that the batch does not have stay as they are, and cost nothing.

    Args:
        scores: Scores [K, K] of the class pairs, float32 or float64, symmetric.
        scored: Class pairs [K, K] (bool) that have a score.
        allowed: Class pairs [K, K] (bool) that may be mixed.
        value: Score [N] of each sample, of the dtype of ``scores``, as of
            :func:`~gradmix_ext.ops.sample_scores`.
        target: Label [N] (int64) of each sample.
        partner_target: Label [N] (int64) of each sample's partner.
        momentum: Weight of the past, in [0, 1).
        threshold: Least score of a pair that is allowed, finite.

    Raises:
        TypeError: An argument has the wrong dtype.
        ValueError: An argument has the wrong shape, device or value.
        RuntimeError: A label is not in [0, K) (on a GPU only under ``gx.debug_checks()``; otherwise
            such a sample is left out).
    """
    if checks.debug_enabled():
        check(scores, scored, allowed, value, target, partner_target, momentum, threshold)
        check_values(scores, target, partner_target)
    try:
        if scores.requires_grad:
            check(scores, scored, allowed, value, target, partner_target, momentum, threshold)
        if value.requires_grad:  # as a value of a model in training does
            value = value.detach()
        _OP(scores, scored, allowed, value, target, partner_target, momentum, threshold)
    except Exception:
        with checks.replacing:
            check(scores, scored, allowed, value, target, partner_target, momentum, threshold)
        raise


def _fake(
    scores: Tensor,
    scored: Tensor,
    allowed: Tensor,
    value: Tensor,
    target: Tensor,
    partner_target: Tensor,
    momentum: float,
    threshold: float,
) -> None:
    check(scores, scored, allowed, value, target, partner_target, momentum, threshold)


define(
    "blend_scores(Tensor(a!) scores, Tensor(b!) scored, Tensor(c!) allowed, Tensor value,"
    " Tensor target, Tensor partner_target, float momentum, float threshold) -> ()",
    reference.blend_scores,
    _fake,
)
_OP = torch.ops.gradmix_ext.blend_scores.default
