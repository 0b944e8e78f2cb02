"""Experience replay."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import torch
from torch import Tensor

from gradmix_ext.continual.data import RawInputs, concatenate
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
        return stage.feed.batches(*self.pool(stage), self.order(stage))

    def order(self, stage: Stage) -> Iterable[Tensor]:
        """The batches of an epoch, as positions in :meth:`pool`."""
        current, buffer = len(stage.task.train_y), self.buffer(stage)
        if self.replay == "union":
            return stage.order(current, len(buffer))
        return split_replay(stage.order(current), current, buffer, stage.batch_size)

    def pool(self, stage: Stage) -> tuple[RawInputs, Tensor]:
        """Current samples and, after them, the buffered ones."""
        x, y, held = stage.task.train_x, stage.task.train_y, self.buffer(stage).data
        return (x, y) if held is None else (concatenate([x, held[0]]), torch.cat([y, held[1]]))
