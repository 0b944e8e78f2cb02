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
    """One epoch over (x [N, ...], y [N]) in random order; the last batch may be smaller."""
    x, y = samples
    where = y.device if generator is None else generator.device
    order = torch.randperm(len(y), generator=generator, device=where).to(y.device)
    for index in order.split(batch_size):
        yield x[index], y[index]


def union_batches(
    current: Samples, buffer: ReplayBuffer, batch_size: int, generator: torch.Generator | None
) -> Iterator[Samples]:
    """One pool of current and buffered samples, shuffled together: each sample once an epoch."""
    held = buffer.data
    pool = current if held is None else tuple(map(torch.cat, zip(current, held, strict=True)))
    return shuffled_batches((pool[0], pool[1]), batch_size, generator)


def split_batches(
    current: Samples, buffer: ReplayBuffer, batch_size: int, generator: torch.Generator | None
) -> Iterator[Samples]:
    """`batch_size` current samples and as many drawn from the buffer in every step."""
    for x, y in shuffled_batches(current, batch_size, generator):
        if len(buffer):
            old_x, old_y = buffer.sample(batch_size)
            yield torch.cat([x, old_x]), torch.cat([y, old_y])
        else:
            yield x, y
