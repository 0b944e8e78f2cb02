"""Experience replay."""

from __future__ import annotations

from collections.abc import Iterator

import torch

from gradmix_ext.continual.data import concatenate
from gradmix_ext.continual.feed import Batch
from gradmix_ext.continual.methods.base import Stage
from gradmix_ext.continual.methods.rehearsal import Rehearsal
from gradmix_ext.continual.replay import REPLAY_MODES, split_replay

__all__ = ["ER"]


class ER(Rehearsal):
    """Experience replay: the current task together with a small buffer of earlier samples.

    Source: Chaudhry et al. 2019, "On Tiny Episodic Memories in Continual Learning".

    Args:
        replay: ``"union"`` (one pool of current and buffered samples, each once an epoch) or
            ``"split"`` (a batch of current and a batch of buffered samples in every step).
    """

    def __init__(self, replay: str = "union") -> None:
        if replay not in REPLAY_MODES:
            raise ValueError(f"unknown replay '{replay}': known are {', '.join(REPLAY_MODES)}")
        self.replay = replay

    def batches(self, stage: Stage) -> Iterator[Batch]:
        """Current and buffered samples, put together as `replay` says."""
        buffer, current = self.buffer(stage), len(stage.task.train_y)
        x, y = stage.task.train_x, stage.task.train_y
        if buffer.data is not None:
            x, y = concatenate([x, buffer.data[0]]), torch.cat([y, buffer.data[1]])
        if self.replay == "union":
            return stage.feed.batches(x, y, stage.order(len(y)))
        order = stage.order(current)
        return stage.feed.batches(x, y, split_replay(order, current, buffer, stage.batch_size))
