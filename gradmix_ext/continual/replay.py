"""How an epoch's batches are put together from current and replayed samples, by their positions."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import torch
from torch import Tensor

from gradmix_ext.continual.buffer import ReplayBuffer

__all__ = ["REPLAY_MODES", "shuffled", "split_replay"]

REPLAY_MODES = ("union", "split")


def shuffled(
    samples: int,
    batch_size: int,
    generator: torch.Generator | None,
    device: torch.device | str = "cpu",
) -> list[Tensor]:
    """One epoch over so many samples in random order, as positions [n]; the last batch is smaller.

    A single sample that is left over joins the batch before it, which then has `batch_size` + 1:
    batch normalisation cannot train on one sample, and a step on one alone would be noise. With a
    `batch_size` of 1, which asks for such steps, every batch has one sample.
    """
    where = device if generator is None else generator.device
    order = torch.randperm(samples, generator=generator, device=where).to(device)
    batches = list(order.split(batch_size))
    if batch_size > 1 and len(batches) > 1 and len(batches[-1]) == 1:
        batches[-2:] = [order[-(batch_size + 1) :]]
    return batches


def split_replay(
    batches: Iterable[Tensor], samples: int, buffer: ReplayBuffer, batch_size: int
) -> Iterator[Tensor]:
    """Join to every batch of current samples `batch_size` replayed ones, drawn anew each time.

    Args:
        batches: Positions of current samples.
        samples: How many current samples there are; the buffer's positions follow theirs.
        buffer: The buffer.
        batch_size: How many to draw.
    """
    for index in batches:
        yield torch.cat([index, buffer.draw(batch_size) + samples]) if len(buffer) else index
