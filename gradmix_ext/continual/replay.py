"""How an epoch's batches are put together from current and replayed samples, by their positions."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import torch
from torch import Tensor

from gradmix_ext.continual.buffer import ReplayBuffer
from gradmix_ext.ranks import ONE, Ranks

__all__ = ["REPLAY_MODES", "shuffled", "split_replay"]

REPLAY_MODES = ("union", "split")


def shuffled(
    samples: int,
    batch_size: int,
    generator: torch.Generator | None,
    device: torch.device | str = "cpu",
    buffered: int = 0,
    ranks: Ranks = ONE,
) -> list[Tensor]:
    """One epoch over all samples in random order, as positions [n]; the last batch is smaller.

    A single sample that is left over joins the batch before it, which then has `batch_size` + 1:
    batch normalisation cannot train on one sample, and a step on one alone would be noise. With a
    `batch_size` of 1, which asks for such steps, every batch has one sample.

    Over several ranks the batches are these, dealt out: every rank has as many, of sizes that
    differ by one at most, and all of them together have each sample once. What is left over joins
    the batch before it if there would not be two samples for each rank.

    Args:
        samples: Samples that are at hand on every rank.
        batch_size: Samples of a batch, over all ranks.
        generator: Source of the order, in the same state on all ranks.
        device: Where the positions shall be.
        buffered: Samples of a buffer, over all ranks, whose positions follow.
        ranks: Who trains.
    """
    where = device if generator is None else generator.device
    total = samples + buffered
    order = torch.randperm(total, generator=generator, device=where).to(device)
    ends = [*range(batch_size, total, batch_size), total]
    if len(ends) > 1 and ends[-1] - ends[-2] < min(2 * ranks.size, batch_size):
        del ends[-2]
    own = ranks.own(order, samples)
    return list(own.tensor_split([ranks.end(end) for end in ends[:-1]]))


def split_replay(
    batches: Iterable[Tensor], samples: int, buffer: ReplayBuffer, batch_size: int
) -> Iterator[Tensor]:
    """Join to every batch of current samples `batch_size` replayed ones, drawn anew each time.

    Args:
        batches: Positions of current samples.
        samples: How many current samples there are; the buffer's positions follow theirs.
        buffer: The buffer.
        batch_size: How many to draw, over all ranks.
    """
    for index in batches:
        yield torch.cat([index, buffer.draw(batch_size) + samples]) if len(buffer) else index
