"""Everything of a mixed batch but its inputs, in one call."""

from __future__ import annotations

import torch
from torch import Tensor

from gradmix_ext import _checks as checks
from gradmix_ext import reference
from gradmix_ext.ops._library import define
from gradmix_ext.reference.mix_labels import check, check_values, lam_dtype


def mix_labels(
    target: Tensor,
    partner: Tensor,
    mask: Tensor,
    lam_x: Tensor,
    lam_y: Tensor,
    *,
    strength: float = 1.0,
    balance: float = 0.0,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """The labels and weights that belong to a mixed batch, as masked_mixup gives its inputs.

    λ as it is used is ``1 - strength · (1 - λ)`` where ``mask``, and exactly 1 elsewhere.

    Args:
        target: Label [N] (int64) of each sample, any integers.
        partner: Index [N] (int64) of each sample's partner.
        mask: Samples [N] (bool) that are mixed.
        lam_x: Weight of the sample's own input, one for all or one per sample [N].
        lam_y: Weight of the sample's own label, likewise.
        strength: How much of 1 - λ is used, in [0, 1].
        balance: How the loss is weighted against the imbalance of the batch: 0 leaves samples
            alike, 1 gives every class of the batch the same total weight, ½ (the square root, as in
            Mahajan et al. 2018) is in between.

    Returns:
        ``(partner_target [N], lam_x [N], lam_y [N], weight [N])``: the label of each sample's
        partner (int64), both λ as they are used (float32, or float64 where one was), and the weight
        of each sample's loss, float32 with mean 1, ∝ (samples of y_i in the batch)^-balance.

    Raises:
        TypeError: An argument has the wrong dtype.
        ValueError: An argument has the wrong shape, device or value.
        RuntimeError: A partner is not in [0, N) (on a GPU only under ``gx.debug_checks()``;
            otherwise such a sample stays unmixed).
    """
    if checks.debug_enabled():
        check(target, partner, mask, lam_x, lam_y, strength, balance)
        check_values(partner)
    try:
        if lam_x.requires_grad or lam_y.requires_grad:
            check(target, partner, mask, lam_x, lam_y, strength, balance)
        result: tuple[Tensor, Tensor, Tensor, Tensor] = _OP(
            target, partner, mask, lam_x, lam_y, strength, balance
        )
    except Exception:
        with checks.replacing:
            check(target, partner, mask, lam_x, lam_y, strength, balance)
        raise
    return result


def _fake(
    target: Tensor,
    partner: Tensor,
    mask: Tensor,
    lam_x: Tensor,
    lam_y: Tensor,
    strength: float = 1.0,
    balance: float = 0.0,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    check(target, partner, mask, lam_x, lam_y, strength, balance)
    shape, dtype = target.shape, lam_dtype(lam_x, lam_y)
    return (
        target.new_empty(shape),
        target.new_empty(shape, dtype=dtype),
        target.new_empty(shape, dtype=dtype),
        target.new_empty(shape, dtype=torch.float32),
    )


define(
    "mix_labels(Tensor target, Tensor partner, Tensor mask, Tensor lam_x, Tensor lam_y,"
    " float strength=1.0, float balance=0.0)"
    " -> (Tensor partner_target, Tensor used_x, Tensor used_y, Tensor weight)",
    reference.mix_labels,
    _fake,
)
_OP = torch.ops.gradmix_ext.mix_labels.default
