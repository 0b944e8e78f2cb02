"""From a uint8 data set to a normalised, augmented, mixed batch in one pass over memory."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from gradmix_ext import _checks as checks
from gradmix_ext import reference
from gradmix_ext.ops._library import define
from gradmix_ext.reference.gather_augment_mixup import (
    OP,
    channels_first,
    check,
    check_noise,
    check_values,
    draw_noise,
    per_channel,
)


def gather_augment_mixup(
    images: Tensor,
    index: Tensor,
    partner_index: Tensor | None = None,
    lam: Tensor | float = 1.0,
    mask: Tensor | None = None,
    *,
    mean: Tensor | Sequence[float],
    std: Tensor | Sequence[float],
    padding: int = 0,
    hflip: bool = False,
    noise: Tensor | None = None,
    generator: torch.Generator | None = None,
    layout: str = "chw",
    dtype: torch.dtype = torch.float32,
    memory_format: torch.memory_format = torch.contiguous_format,
) -> Tensor:
    """Gather, crop, flip, normalise and mix the images of a batch in one pass over memory.

    ``out[i] = lam[i] · A(images[index[i]]) + (1 - lam[i]) · A'(images[partner_index[i]])`` where
    ``mask[i]`` (everywhere without a mask), else ``A(images[index[i]])``. ``A`` and ``A'`` shift an
    image by up to ``padding`` pixels each way, flip it with probability 1/2, each drawn anew for
    every sample and role, and take the value u of a pixel to ``(u / 255 - mean) / std``. Pixels
    from outside the image are black, u = 0. Images are integers, so there is no gradient.

    Args:
        images: The data set [M, ch, H, W] or [M, H, W, ch] (see ``layout``), uint8, of any strides.
        index: Position [N] (int64) in the data set of each sample.
        partner_index: Position [N] (int64) in the data set of the image to mix into each; without
            it nothing is mixed.
        lam: Weight of the sample itself, a number, a scalar tensor or one per sample [N].
        mask: Samples [N] (bool) that are mixed.
        mean: Mean of each channel [ch], in units where a pixel is in [0, 1]. Numbers become a
            tensor at every call; pass tensors on the device in a loop.
        std: Standard deviation of each channel [ch], likewise.
        padding: Greatest shift in pixels; as a random crop of the image padded on all sides.
        hflip: Whether to flip left and right.
        noise: Uniform numbers [N, 2, 3] (float32; [N, 1, 3] without partners) in [0, 1) that decide
            the augmentation of (sample, partner) by (dy, dx, flip): the crop starts at
            ``floor(noise · (2 · padding + 1))`` in the padded image, and below 0.5 the crop is
            flipped. Drawn where they are needed and not given.
        generator: Source of the randomness, on the device of ``images``.
        layout: ``"chw"`` or ``"hwc"``: the order of the dimensions of ``images`` after the first.
        dtype: float32, float64, float16 or bfloat16. Arithmetic is in float32 (float64 for
            float64) and rounded once.
        memory_format: ``torch.contiguous_format`` or ``torch.channels_last``.

    Returns:
        The batch [N, ch, H, W].

    Raises:
        TypeError: An argument has the wrong dtype.
        ValueError: An argument has the wrong shape, device or value.
        RuntimeError: An index is not in [0, M), or a std is zero (on a GPU only under
            ``gx.debug_checks()``; otherwise an image that does not exist is black as a sample, and
            as a partner it leaves the sample unmixed).
    """

    def static_checks() -> None:
        check(
            images, index, partner_index, lam, mask, mean, std, padding, noise, layout, dtype,
            memory_format,
        )  # fmt: skip

    if checks.debug_enabled():
        static_checks()
        check_values(images, index, partner_index, per_channel(std, images))
    try:
        own_lam = 1.0 if lam is None else lam
        alone = partner_index is None and not isinstance(own_lam, Tensor) and own_lam == 1.0
        weight = None if alone else checks.as_lam(OP, own_lam, images)
        if noise is not None:  # which the kernels look at where it is needed
            check_noise(images, index, partner_index, noise)
        else:
            noise = draw_noise(index, partner_index, padding, hflip, generator)
        # On their way into C++ these take as long as a small batch, so defaults are left out.
        chosen: dict[str, Any] = {}
        if layout != "chw":
            chosen["layout"] = layout
        if dtype is not torch.float32:
            chosen["dtype"] = dtype
        if memory_format is not torch.contiguous_format:
            chosen["memory_format"] = memory_format
        result: Tensor = _OP(
            images, index, partner_index, weight, mask, mean=per_channel(mean, images),
            std=per_channel(std, images), padding=padding, hflip=hflip, noise=noise, **chosen,
        )  # fmt: skip
    except Exception:
        with checks.replacing:
            static_checks()
        raise
    return result


def _fake(
    images: Tensor,
    index: Tensor,
    partner_index: Tensor | None = None,
    lam: Tensor | None = None,
    mask: Tensor | None = None,
    *,
    mean: Tensor,
    std: Tensor,
    padding: int = 0,
    hflip: bool = False,
    noise: Tensor | None = None,
    layout: str = "chw",
    dtype: torch.dtype = torch.float32,
    memory_format: torch.memory_format = torch.contiguous_format,
) -> Tensor:
    check(
        images, index, partner_index, lam, mask, mean, std, padding, noise, layout, dtype,
        memory_format,
    )  # fmt: skip
    shape = (index.shape[0], *channels_first(images, layout).shape[1:])
    return torch.empty(shape, dtype=dtype, device=images.device, memory_format=memory_format)


define(
    "gather_augment_mixup(Tensor images, Tensor index, Tensor? partner_index=None,"
    " Tensor? lam=None, Tensor? mask=None, *, Tensor mean, Tensor std, int padding=0,"
    ' bool hflip=False, Tensor? noise=None, str layout="chw", ScalarType dtype=float,'
    " MemoryFormat memory_format=contiguous_format) -> Tensor",
    reference.gather_augment_mixup,
    _fake,
    tags=(torch.Tag.nondeterministic_seeded,),
)
_OP = torch.ops.gradmix_ext.gather_augment_mixup.default
