"""Mixing a batch that several ranks have shares of."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from gradmix_ext.mixers.base import Mixer
from gradmix_ext.mixers.batch import MixedBatch
from gradmix_ext.mixers.images import ImageBatch, TensorBatch
from gradmix_ext.ranks import Ranks

__all__ = ["mix_shares"]


def mix_shares(
    mixer: Mixer, x: Tensor | TensorBatch | ImageBatch, y: Tensor, ranks: Ranks
) -> MixedBatch:
    """Mix this rank's share of a batch, with partners and class sizes of the whole batch.

    A share may lack classes of the batch, and a partner that is not there cannot be drawn. So each
    rank gathers the whole batch, mixes it by draws of its own, and keeps its own samples of it.

    Args:
        mixer: The mixer; one that cannot take partners of other ranks, or does not mix in this
            epoch, sees the share alone, and nothing is sent.
        x: The share: samples [n, ...], or positions of samples or images in a data set.
        y: Its labels [n], int64.
        ranks: Those that have shares of the batch.

    Returns:
        The mixed share. Its ``partner`` are rows of what
        :meth:`gradmix_ext.ranks.Ranks.pool` gives.
    """
    if ranks.size == 1 or not mixer.pools_ranks or not mixer.schedule.strength(mixer.epoch):
        return mixer.mix(x, y)
    if isinstance(x, TensorBatch):
        x = x.gathered()
    raw, labels = ranks.pool(x if isinstance(x, Tensor) else x.images[x.index], y)
    if isinstance(x, Tensor):
        return mixer.mix(raw, labels).first(len(y))
    batch = replace(x, images=raw, index=torch.arange(len(raw), device=raw.device))
    return mixer.mix(batch, labels).first(len(y))
