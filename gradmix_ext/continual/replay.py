"""How an epoch's batches are put together from current and replayed samples."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from gradmix_ext.continual.buffer import ReplayBuffer

__all__ = ["REPLAY_MODES", "shuffled_batches", "split_batches", "union_batches"]

REPLAY_MODES = ("union", "split")

Samples = tuple[Tensor, Tensor]


def shuffled_batches(
    samples: Samples, batch_size: int, generator: torch.Generator | None
) -> Iterator[Samples]:
    """One epoch over (x [N, ...], y [N]) in random order; the last batch may be smaller.

    A single sample that is left over joins the batch before it, which then has `batch_size` + 1:
    batch normalisation cannot train on one sample, and a step on one alone would be noise. With a
    `batch_size` of 1, which asks for such steps, every batch has one sample.
    """
    x, y = samples
    where = y.device if generator is None else generator.device
    order = torch.randperm(len(y), generator=generator, device=where).to(y.device)
    batches = list(order.split(batch_size))
    if batch_size > 1 and len(batches) > 1 and len(batches[-1]) == 1:
        batches[-2:] = [order[-(batch_size + 1) :]]
    for index in batches:
        yield x[index], y[index]


def union_batches(
    current: Samples, buffer: ReplayBuffer, batch_size: int, generator: torch.Generator | None
) -> Iterator[Samples]:
    """One pool of current and buffered samples, shuffled together: each sample once an epoch.

    Batches are those of :func:`shuffled_batches`.
    """
    held = buffer.data
    pool = current if held is None else tuple(map(torch.cat, zip(current, held, strict=True)))
    return shuffled_batches((pool[0], pool[1]), batch_size, generator)


def split_batches(
    current: Samples, buffer: ReplayBuffer, batch_size: int, generator: torch.Generator | None
) -> Iterator[Samples]:
    """`batch_size` current samples and as many drawn from the buffer in every step.

    The current samples come in the batches of :func:`shuffled_batches`, the last of which may be
    smaller, or larger by one; always `batch_size` are drawn from the buffer.
    """
    for x, y in shuffled_batches(current, batch_size, generator):
        if len(buffer):
            old_x, old_y = buffer.sample(batch_size)
            yield torch.cat([x, old_x]), torch.cat([y, old_y])
        else:
            yield x, y
