"""Drawing mixing partners by preferences of class pairs."""

from __future__ import annotations

import torch
from torch import Tensor

from gradmix_ext import _checks as checks
from gradmix_ext import reference
from gradmix_ext._random import uniform
from gradmix_ext.ops._library import define
from gradmix_ext.reference.draw_softly import check, check_values


def draw_softly(
    target: Tensor,
    preference: Tensor,
    *,
    generator: torch.Generator | None = None,
    noise: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Draw each sample's mixing partner: a class by preference, then any of its samples.

    The partner j of i has probability ∝ ``exp(preference[y_i, y_j]) / (samples of y_j)``; the
    sample itself can be drawn. With all preferences alike that is a class-balanced partner.

    Args:
        target: Label [N] (int64) of each sample.
        preference: Logarithms [K, K] of the odds against a balanced draw, of float32, float64,
            float16 or bfloat16; each row up to a constant. ``-inf`` excludes a pair.
        generator: Source of the randomness, on the device of ``target``.
        noise: Uniform numbers [N] (float64) in [0, 1) to use instead; they determine the result.

    Returns:
        ``(partner [N] int64, mask [N] bool)``; ``mask`` tells which samples are to be mixed. Where
        every pair is excluded, or a preference of a class of the batch is NaN or ``+inf``, the
        sample is its own partner and stays unmixed.

    Raises:
        TypeError: An argument has the wrong dtype.
        ValueError: An argument has the wrong shape, device or value.
        RuntimeError: A label is not in [0, K) (on a GPU only under ``gx.debug_checks()``; otherwise
            such a sample stays unmixed).
    """
    if checks.debug_enabled():
        check(target, preference, noise)
        check_values(target, preference)
    try:
        if noise is None:
            noise = uniform(target.shape[0], target.device, generator)
        result: tuple[Tensor, Tensor] = _OP(target, preference, noise)
    except Exception:
        with checks.replacing:
            check(target, preference, noise)
        raise
    return result


def _fake(target: Tensor, preference: Tensor, noise: Tensor | None = None) -> tuple[Tensor, Tensor]:
    check(target, preference, noise)
    return target.new_empty(target.shape), target.new_empty(target.shape, dtype=torch.bool)


define(
    "draw_softly(Tensor target, Tensor preference, Tensor? noise=None)"
    " -> (Tensor partner, Tensor mask)",
    reference.draw_softly,
    _fake,
    tags=(torch.Tag.nondeterministic_seeded,),
)
_OP = torch.ops.gradmix_ext.draw_softly.default
