"""What a mixer does to a batch: what the fused op computes."""

from __future__ import annotations

import torch
from torch import Tensor

from gradmix_ext import _checks as checks
from gradmix_ext._random import uniform
from gradmix_ext.reference.draw_partners import POLICIES as HARD_POLICIES
from gradmix_ext.reference.draw_partners import draw_partners
from gradmix_ext.reference.draw_softly import draw_softly
from gradmix_ext.reference.masked_mixup import masked_mixup, result_strides
from gradmix_ext.reference.mix_labels import mix_labels

POLICIES = (*HARD_POLICIES, "soft")

_OP = "mix_batch"


def check(
    x: Tensor,
    target: Tensor,
    pairs: Tensor,
    policy: str,
    index: Tensor | None,
    lam_x: Tensor | None,
    lam_y: Tensor | None,
    noise: Tensor | None,
    exploration: float,
    strength: float,
    balance: float,
) -> None:
    """Check shapes, dtypes, devices and shares."""
    checks.floating(_OP, "x", x)
    if x.dim() == 0:
        raise ValueError(f"{_OP}: x must have a batch dimension, got a scalar")
    samples = x.shape[0]
    if index is not None:
        checks.tensor(_OP, "index", index)
        samples = index.numel()
        checks.vector(_OP, "index", index, samples, torch.int64, x.device)
    checks.vector(_OP, "target", target, samples, torch.int64, x.device)
    checks.choice(_OP, "policy", policy, POLICIES)
    checks.tensor(_OP, "pairs", pairs)
    if policy == "soft":
        checks.floating(_OP, "pairs", pairs)
    elif pairs.dtype != torch.bool:
        raise TypeError(f"{_OP}: pairs must be torch.bool for {policy!r}, got {pairs.dtype}")
    if pairs.dim() != 2 or pairs.shape[0] != pairs.shape[1]:
        raise ValueError(f"{_OP}: pairs must be square, got shape {list(pairs.shape)}")
    checks.same_device(_OP, "pairs", pairs, x.device)
    if (lam_x is None) != (lam_y is None):
        raise ValueError(f"{_OP}: lam_x and lam_y must both be given, or neither")
    for name, lam in (("lam_x", lam_x), ("lam_y", lam_y)):
        if lam is not None:
            checks.tensor(_OP, name, lam)
            checks.lam(_OP, lam, samples, x, name)
    if noise is not None:
        checks.vector(_OP, "noise", noise, numbers(target, lam_x), torch.float64, x.device)
    if not 0 <= exploration < 1:
        raise ValueError(f"{_OP}: exploration must be in [0, 1), got {exploration}")
    for name, share in (("strength", strength), ("balance", balance)):
        if not 0 <= share <= 1:
            raise ValueError(f"{_OP}: {name} must be in [0, 1], got {share}")


def check_values(x: Tensor, target: Tensor, pairs: Tensor, index: Tensor | None) -> None:
    """Every label is a row of ``pairs``, and every position one of ``x``."""
    classes, rows = pairs.shape[0], x.shape[0]
    checks.in_range(_OP, "target", target, classes, f"{classes} classes")
    if index is not None:
        checks.in_range(_OP, "index", index, rows, f"{rows} rows")


def batch_of(x: Tensor, index: Tensor | None) -> Tensor:
    """The rows of ``x`` at an index, in the layout that the result has; all of ``x`` without."""
    if index is None:
        return x
    rows = len(x)
    inside = (index >= 0) & (index < rows)
    shape = (len(index), *x.shape[1:])
    batch = x.new_empty_strided(shape, result_strides(x))
    if not rows:
        return batch.zero_()
    found = x.index_select(0, torch.where(inside, index, 0))
    return batch.copy_(torch.where(inside.reshape(-1, *[1] * (x.dim() - 1)), found, 0))


def numbers(target: Tensor, lam_x: Tensor | None) -> int:
    """How many uniform numbers a batch takes: for the partners, and for λ where none is given."""
    return target.shape[0] * (2 if lam_x is None else 1)


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
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Pure PyTorch version of :func:`gradmix_ext.ops.mix_batch`."""
    check(x, target, pairs, policy, index, lam_x, lam_y, noise, exploration, strength, balance)
    if checks.values_checked(target.device):
        check_values(x, target, pairs, index)
    if noise is None:
        noise = uniform(numbers(target, lam_x), target.device, generator)
    samples = target.shape[0]
    if lam_x is None or lam_y is None:
        lam_x = lam_y = noise[samples:].float()
    noise = noise[:samples]
    if policy == "soft":
        partner, mask = draw_softly(target, pairs, noise=noise)
    else:
        partner, mask = draw_partners(
            target, pairs, policy=policy, noise=noise, exploration=exploration
        )
    partner_target, lam_x, lam_y, weight = mix_labels(
        target, partner, mask, lam_x, lam_y, strength=strength, balance=balance
    )
    mixed = masked_mixup(batch_of(x, index), partner, lam_x, mask)
    return mixed, partner, mask, partner_target, lam_x, lam_y, weight
