"""Drawing mixing partners among the allowed class pairs."""

from __future__ import annotations

import torch
from torch import Tensor

from gradmix_ext import _checks as checks
from gradmix_ext import reference
from gradmix_ext._random import uniform
from gradmix_ext.ops._library import define
from gradmix_ext.reference.draw_partners import check, check_values


def draw_partners(
    target: Tensor,
    allowed: Tensor,
    *,
    policy: str = "redraw",
    generator: torch.Generator | None = None,
    noise: Tensor | None = None,
    exploration: float = 0.0,
) -> tuple[Tensor, Tensor]:
    """Draw each sample's mixing partner within the batch, keeping to the allowed class pairs.

    Args:
        target: Label [N] (int64) of each sample.
        allowed: Class pairs [K, K] (bool) that may be mixed.
        policy: ``"redraw"``: the partner of i is uniform among the samples j, i itself included,
            for which ``allowed[target[i], target[j]]``; without any it is i, unmixed.
            ``"skip"``: the partners are a uniform random permutation; a pair that is not allowed
            stays unmixed.
        generator: Source of the randomness, on the device of ``target``.
        noise: Uniform numbers [N] (float64) in [0, 1) to use instead; they determine the result.
        exploration: Share in [0, 1) of the samples whose partner is any of the batch, uniformly and
            whether the pair is allowed or not.

    Returns:
        ``(partner [N] int64, mask [N] bool)``; ``mask`` tells which samples are to be mixed.

    Raises:
        TypeError: An argument has the wrong dtype.
        ValueError: An argument has the wrong shape, device or value.
        RuntimeError: A label is not in [0, K) (on a GPU only under ``gx.debug_checks()``; otherwise
            such a sample stays unmixed).
    """
    if checks.debug_enabled():
        check(target, allowed, policy, noise, exploration)
        check_values(target, allowed)
    try:
        if noise is None:
            noise = uniform(target.shape[0], target.device, generator)
        result: tuple[Tensor, Tensor] = _OP(target, allowed, policy, noise, exploration)
    except Exception:
        with checks.replacing:
            check(target, allowed, policy, noise, exploration)
        raise
    return result


def _fake(
    target: Tensor,
    allowed: Tensor,
    policy: str = "redraw",
    noise: Tensor | None = None,
    exploration: float = 0.0,
) -> tuple[Tensor, Tensor]:
    check(target, allowed, policy, noise, exploration)
    return target.new_empty(target.shape), target.new_empty(target.shape, dtype=torch.bool)


define(
    'draw_partners(Tensor target, Tensor allowed, str policy="redraw", Tensor? noise=None,'
    " float exploration=0.0) -> (Tensor partner, Tensor mask)",
    reference.draw_partners,
    _fake,
    tags=(torch.Tag.nondeterministic_seeded,),
)
_OP = torch.ops.gradmix_ext.draw_partners.default
