"""Weights of samples against the imbalance of their classes."""

from __future__ import annotations

import torch
from torch import Tensor

from gradmix_ext import reference
from gradmix_ext.ops._library import define
from gradmix_ext.reference.class_weights import check


def class_weights(target: Tensor, balance: float) -> Tensor:
    """Weights of the samples of a batch by the sizes of their classes in it.

    Args:
        target: Label [N] (int64) of each sample, any integers.
        balance: 0 leaves samples alike, 1 gives every class of the batch the same total weight, ½
            (the square root, as in Mahajan et al. 2018) is in between.

    Returns:
        Weight [N], float32 with mean 1, ∝ (samples of y_i in the batch)^-balance.

    Raises:
        TypeError: ``target`` has the wrong dtype.
        ValueError: ``target`` has the wrong shape, or ``balance`` is not in [0, 1].
    """
    try:
        weight: Tensor = _OP(target, balance)
    except Exception:
        check(target, balance)
        raise
    return weight


def _fake(target: Tensor, balance: float) -> Tensor:
    check(target, balance)
    return target.new_empty(target.shape, dtype=torch.float32)


define("class_weights(Tensor target, float balance) -> Tensor", reference.class_weights, _fake)
_OP = torch.ops.gradmix_ext.class_weights.default
