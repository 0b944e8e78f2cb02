"""What a mixer does to a batch, in one call."""

from __future__ import annotations

import torch
from torch import Tensor

from gradmix_ext import _checks as checks
from gradmix_ext import reference
from gradmix_ext._random import uniform
from gradmix_ext.ops._library import define
from gradmix_ext.ops.masked_mixup import masked_mixup
from gradmix_ext.reference.masked_mixup import result_strides
from gradmix_ext.reference.mix_batch import batch_of, check, check_values, numbers
from gradmix_ext.reference.mix_labels import lam_dtype

Mixed = tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]


def mix_batch(
    x: Tensor,
    target: Tensor,
    pairs: Tensor,
    policy: str,
    index: Tensor | None = None,
    lam_x: Tensor | None = None,
    lam_y: Tensor | None = None,
    *,
    generator: torch.Generator | None = None,
    noise: Tensor | None = None,
    exploration: float = 0.0,
    strength: float = 1.0,
    balance: float = 0.0,
) -> Mixed:
    """Draw partners by class pairs and mix a batch with them: four ops in one call.

    These are :func:`~gradmix_ext.ops.draw_softly` or :func:`~gradmix_ext.ops.draw_partners`, then
    :func:`~gradmix_ext.ops.mix_labels` and :func:`~gradmix_ext.ops.masked_mixup`, with the same
    result; on a small batch most of their time is that of calling them. Differentiable in ``x``,
    twice and more, by way of masked_mixup.

    Args:
        x: Batch [N, ...] of float32, float64, float16 or bfloat16, or what holds its samples.
        target: Label [N] (int64) of each sample.
        pairs: What is known of the class pairs [K, K]: for ``"soft"`` the logarithms of their odds
            (floating point), else which may be mixed (bool).
        policy: How partners are drawn: ``"soft"`` as draw_softly does, ``"redraw"`` or ``"skip"``
            as draw_partners does.
        index: Positions [N] (int64) of the batch's samples in ``x``, which are gathered and mixed
            in one pass; without it the batch is ``x``.
        lam_x: Weight of the sample's own input, one for all or one per sample [N].
        lam_y: Weight of the sample's own label, likewise. The two come together; without
            them every sample draws one λ for both uniformly, which is Beta(1, 1).
        generator: Source of the randomness, on the device of ``x``.
        noise: Uniform numbers [N] (float64) in [0, 1) to use instead, and behind them [N] others as
            λ where none is given; they determine the result.
        exploration: As in draw_partners; ``"soft"`` has no use for it.
        strength: How much of 1 - λ is used, in [0, 1].
        balance: How the loss is weighted against the imbalance of the batch, as in mix_labels.

    Returns:
        ``(mixed, partner, mask, partner_target, lam_x, lam_y, weight)``: the mixed samples [N, ...]
        and, each [N], the partners, which samples are mixed, the partners' labels, both λ as they
        are used, and the weights of the losses.

    Raises:
        TypeError: An argument has the wrong dtype.
        ValueError: An argument has the wrong shape, device or value.
        RuntimeError: A label is not in [0, K), or a position not one of ``x`` (on a GPU only under
            ``gx.debug_checks()``; otherwise a sample without a label stays unmixed, and one without
            a position is 0).
    """
    shares = exploration, strength, balance
    if checks.debug_enabled():
        check(x, target, pairs, policy, index, lam_x, lam_y, noise, *shares)
        check_values(x, target, pairs, index)
    try:
        if noise is None:
            noise = uniform(numbers(target, lam_x), target.device, generator)
        if lam_x is not None and lam_y is not None and (lam_x.requires_grad or lam_y.requires_grad):
            check(x, target, pairs, policy, index, lam_x, lam_y, noise, *shares)
        if pairs.requires_grad or noise.requires_grad:  # a draw has no gradient
            pairs, noise = pairs.detach(), noise.detach()
        rest = target, pairs, policy, index, lam_x, lam_y, noise, *shares
        if not x.requires_grad and not checks.is_transforming():
            result: Mixed = _OP(x, *rest)
            return result
        _, partner, mask, partner_target, used_x, used_y, weight = _OP(x.detach(), *rest)
        mixed = masked_mixup(batch_of(x, index), partner, used_x, mask)  # with its gradient
    except Exception:
        with checks.replacing:
            check(x, target, pairs, policy, index, lam_x, lam_y, noise, *shares)
        raise
    return mixed, partner, mask, partner_target, used_x, used_y, weight


def _fake(
    x: Tensor,
    target: Tensor,
    pairs: Tensor,
    policy: str,
    index: Tensor | None = None,
    lam_x: Tensor | None = None,
    lam_y: Tensor | None = None,
    noise: Tensor | None = None,
    exploration: float = 0.0,
    strength: float = 1.0,
    balance: float = 0.0,
) -> Mixed:
    check(x, target, pairs, policy, index, lam_x, lam_y, noise, exploration, strength, balance)
    shape = target.shape
    dtype = torch.float32 if lam_x is None or lam_y is None else lam_dtype(lam_x, lam_y)
    return (
        x.new_empty_strided((*shape, *x.shape[1:]), result_strides(x)),
        target.new_empty(shape),
        target.new_empty(shape, dtype=torch.bool),
        target.new_empty(shape),
        target.new_empty(shape, dtype=dtype),
        target.new_empty(shape, dtype=dtype),
        target.new_empty(shape, dtype=torch.float32),
    )


define(
    "mix_batch(Tensor x, Tensor target, Tensor pairs, str policy, Tensor? index=None,"
    " Tensor? lam_x=None, Tensor? lam_y=None, Tensor? noise=None,"
    " float exploration=0.0, float strength=1.0, float balance=0.0)"
    " -> (Tensor mixed, Tensor partner, Tensor mask, Tensor partner_target,"
    " Tensor used_x, Tensor used_y, Tensor weight)",
    reference.mix_batch,
    _fake,
    tags=(torch.Tag.nondeterministic_seeded,),
)
_OP = torch.ops.gradmix_ext.mix_batch.default
