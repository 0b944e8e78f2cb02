"""Scores of class pairs from the gradients of a few samples of each class."""

from __future__ import annotations

import torch
from torch import Tensor

from gradmix_ext import _checks as checks
from gradmix_ext import reference
from gradmix_ext.ops._library import define
from gradmix_ext.reference.linear_scores import check


def linear_scores(
    features: Tensor,
    logits: Tensor,
    target: Tensor,
    held: int,
    *,
    bias: bool = True,
    class_mask: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Score every pair of classes by ½(s_a + s_b), s_k the mean of <g, g_buf> over class k.

    With g the last-layer gradients of single samples and g_buf their mean over the last ``held``
    samples, those of the replay buffer. This is :func:`~gradmix_ext.ops.class_gradients` of the
    buffer and :func:`~gradmix_ext.ops.pair_scores` of all in one call; on the few samples that a
    criterion looks at, most of their time is that of calling them. Not differentiable.

    Args:
        features: Inputs of the head h [N, d].
        logits: Outputs of the head [N, C], of the same dtype.
        target: Label [N] (int64) of each sample.
        held: How many samples, at the end, are of the replay buffer.
        bias: Whether the head has a bias.
        class_mask: Classes [C] (bool) that take part in the softmax, all by default.

    Returns:
        ``(scores [C, C], scored [C, C])``, both symmetric: scores in float32 (float64 for float64
        inputs), 0 where one of the classes has no samples, and whether both have (bool).

    Raises:
        TypeError: An argument has the wrong dtype.
        ValueError: An argument has the wrong shape, device or value, or requires grad.
        RuntimeError: A label is out of range or not allowed by ``class_mask`` (on a GPU only under
            ``gx.debug_checks()``; otherwise a sample with a label out of range is of no class, and
            in g_buf its label has no weight).
    """
    if checks.debug_enabled():
        check(features, logits, target, held, class_mask)
        checks.labels("linear_scores", "target", target, logits.shape[1], class_mask)
    try:
        if features.requires_grad or logits.requires_grad:
            check(features, logits, target, held, class_mask)
        result: tuple[Tensor, Tensor] = _OP(features, logits, target, held, bias, class_mask)
    except Exception:
        with checks.replacing:
            check(features, logits, target, held, class_mask)
        raise
    return result


def _fake(
    features: Tensor,
    logits: Tensor,
    target: Tensor,
    held: int,
    bias: bool = True,
    class_mask: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    check(features, logits, target, held, class_mask)
    shape = (logits.shape[1], logits.shape[1])
    dtype = checks.accumulation_dtype(logits.dtype)
    return logits.new_empty(shape, dtype=dtype), logits.new_empty(shape, dtype=torch.bool)


define(
    "linear_scores(Tensor features, Tensor logits, Tensor target, SymInt held, bool bias=True,"
    " Tensor? class_mask=None) -> (Tensor scores, Tensor scored)",
    reference.linear_scores,
    _fake,
)
_OP = torch.ops.gradmix_ext.linear_scores.default
