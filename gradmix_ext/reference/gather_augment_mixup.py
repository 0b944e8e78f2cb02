"""From a uint8 data set to a mixed batch in one pass: what the fused kernels compute."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from gradmix_ext import _checks as checks
from gradmix_ext._random import uniform
from gradmix_ext.reference._terms import per_sample

OP = "gather_augment_mixup"
LAYOUTS = ("chw", "hwc")
MEMORY_FORMATS = (torch.contiguous_format, torch.channels_last)


def check(
    images: Tensor,
    index: Tensor,
    partner_index: Tensor | None,
    lam: Tensor | float | None,
    mask: Tensor | None,
    mean: Tensor | Sequence[float],
    std: Tensor | Sequence[float],
    padding: int,
    noise: Tensor | None,
    layout: str,
    dtype: torch.dtype,
    memory_format: torch.memory_format,
) -> tuple[Tensor | None, Tensor, Tensor]:
    """Check shapes, dtypes and devices; return λ (or None), mean and std as tensors."""
    checks.tensor(OP, "images", images)
    if images.dtype != torch.uint8:
        raise TypeError(f"{OP}: images must be torch.uint8, got {images.dtype}")
    if images.dim() != 4:
        raise ValueError(f"{OP}: images must have 4 dimensions, got shape {list(images.shape)}")
    checks.choice(OP, "layout", layout, LAYOUTS)
    checks.tensor(OP, "index", index)
    if index.dim() != 1:
        raise ValueError(f"{OP}: index must have 1 dimension, got shape {list(index.shape)}")
    samples = index.shape[0]
    checks.vector(OP, "index", index, samples, torch.int64, images.device)
    if partner_index is not None:
        checks.vector(OP, "partner_index", partner_index, samples, torch.int64, images.device)
        if mask is not None:
            checks.vector(OP, "mask", mask, samples, torch.bool, images.device)
        lam = checks.lam(OP, 1.0 if lam is None else lam, samples, images)
    elif mask is not None:
        raise ValueError(f"{OP}: mask needs partner_index, which is missing")
    elif lam is not None and (isinstance(lam, Tensor) or lam != 1.0):
        raise ValueError(f"{OP}: lam needs partner_index, which is missing")
    else:
        lam = None
    if padding < 0:
        raise ValueError(f"{OP}: padding must not be negative, got {padding}")
    if noise is not None:
        check_noise(images, index, partner_index, noise)
    if dtype not in checks.FLOATING_DTYPES:
        raise TypeError(f"{OP}: dtype must be float32, float64, float16 or bfloat16, got {dtype}")
    if memory_format not in MEMORY_FORMATS:
        raise ValueError(
            f"{OP}: memory_format must be contiguous_format or channels_last, got {memory_format}"
        )
    mean, std = per_channel(mean, images), per_channel(std, images)
    channels = images.shape[3 if layout == "hwc" else 1]
    for name, value in (("mean", mean), ("std", std)):
        checks.floating(OP, name, value)
        checks.vector(OP, name, value, channels, value.dtype, images.device)
    return lam, mean, std


def check_noise(images: Tensor, index: Tensor, partner_index: Tensor | None, noise: Tensor) -> None:
    """Check shape, dtype and device of noise that is given."""
    checks.tensor(OP, "noise", noise)
    expected = noise_shape(index, partner_index)
    if noise.dtype != torch.float32:
        raise TypeError(f"{OP}: noise must be torch.float32, got {noise.dtype}")
    if tuple(noise.shape) != expected:
        raise ValueError(f"{OP}: noise must have shape {list(expected)}, got {list(noise.shape)}")
    checks.same_device(OP, "noise", noise, images.device)


def per_channel(value: Tensor | Sequence[float], images: Tensor) -> Tensor:
    """Mean or std as a tensor [ch]; numbers become float64, which float64 results see exactly."""
    if isinstance(value, Tensor):
        return value
    return torch.tensor(value, dtype=torch.float64, device=images.device)


def check_values(images: Tensor, index: Tensor, partner_index: Tensor | None, std: Tensor) -> None:
    """Every index is an image, and no std is zero."""
    count = images.shape[0]
    checks.in_range(OP, "index", index, count, f"{count} images")
    if partner_index is not None:
        checks.in_range(OP, "partner_index", partner_index, count, f"{count} images")
    checks.nonzero(OP, "std", std)


def channels_first(images: Tensor, layout: str) -> Tensor:
    """The images as [M, ch, H, W], without a copy."""
    return images.permute(0, 3, 1, 2) if layout == "hwc" else images


def noise_shape(index: Tensor, partner_index: Tensor | None) -> tuple[int, int, int]:
    """[N, roles, 3]: role (own, partner) by (dy, dx, flip)."""
    return index.shape[0], 1 if partner_index is None else 2, 3


def draw_noise(
    index: Tensor,
    partner_index: Tensor | None,
    padding: int,
    hflip: bool,
    generator: torch.Generator | None,
) -> Tensor | None:
    """What decides crops and flips; nothing is drawn where there are none."""
    if padding == 0 and not hflip:
        return None
    return uniform(noise_shape(index, partner_index), index.device, generator, torch.float32)


def _augmented(
    images: Tensor, index: Tensor, noise: Tensor | None, padding: int, hflip: bool
) -> Tensor:
    """The values [N, H, W, ch] of images [M, ch, H, W], cropped, then flipped; 0 outside."""
    count, _, height, width = images.shape
    rows = torch.arange(height, device=images.device).expand(len(index), -1)
    columns = torch.arange(width, device=images.device).expand(len(index), -1)
    if noise is not None:
        if hflip:
            columns = torch.where(noise[:, 2:] < 0.5, width - 1 - columns, columns)
        start = (noise[:, :2] * (2 * padding + 1)).nan_to_num().clamp(0, 2 * padding).long()
        shift = start - padding
        rows, columns = rows + shift[:, :1], columns + shift[:, 1:]
    inside = ((index >= 0) & (index < count))[:, None, None]
    inside = inside & ((rows >= 0) & (rows < height))[:, :, None]
    inside = inside & ((columns >= 0) & (columns < width))[:, None, :]
    if count == 0:
        images = images.new_zeros(1, *images.shape[1:])
    at = index.clamp(0, max(count - 1, 0))[:, None, None]
    rows = rows.clamp(0, max(height - 1, 0))[:, :, None]
    columns = columns.clamp(0, max(width - 1, 0))[:, None, :]
    return images[at, :, rows, columns] * inside[..., None]


def gather_augment_mixup(
    images: Tensor,
    index: Tensor,
    partner_index: Tensor | None = None,
    lam: Tensor | float | None = 1.0,
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
    """Pure PyTorch version of :func:`gradmix_ext.ops.gather_augment_mixup`."""
    lam, mean, std = check(
        images, index, partner_index, lam, mask, mean, std, padding, noise, layout, dtype,
        memory_format,
    )  # fmt: skip
    if checks.values_checked(images.device):
        check_values(images, index, partner_index, std)
    if noise is None:
        noise = draw_noise(index, partner_index, padding, hflip, generator)
    images = channels_first(images, layout)
    accumulated = checks.accumulation_dtype(dtype)
    mean, std = mean.to(accumulated), std.to(accumulated)

    def role(which: int, chosen: Tensor) -> Tensor:
        part = None if noise is None else noise[:, which]
        values = _augmented(images, chosen, part, padding, hflip).to(accumulated)
        return (values / 255 - mean) / std

    result = role(0, index)
    if partner_index is not None and lam is not None:
        valid = (partner_index >= 0) & (partner_index < len(images))
        mixed = (valid if mask is None else valid & mask)[:, None, None, None]
        weight = per_sample(lam, len(index), accumulated)[:, None, None, None]
        both = weight * result + (1 - weight) * role(1, partner_index)
        result = torch.where(mixed, both, result)
    result = result.permute(0, 3, 1, 2)
    out = torch.empty(result.shape, dtype=dtype, device=result.device, memory_format=memory_format)
    return out.copy_(result)
