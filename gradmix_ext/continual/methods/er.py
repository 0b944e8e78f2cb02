"""Experience replay."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from gradmix_ext.continual.buffer import ReplayBuffer
from gradmix_ext.continual.data import concatenate
from gradmix_ext.continual.feed import Batch
from gradmix_ext.continual.methods.base import Method, Stage
from gradmix_ext.continual.replay import REPLAY_MODES, split_replay
from gradmix_ext.mixers.base import Samples
from gradmix_ext.mixers.criteria import Probe
from gradmix_ext.mixers.head import find_head
from gradmix_ext.mixers.images import Inputs

__all__ = ["ER"]


class ER(Method):
    """Experience replay: the current task together with a small buffer of earlier samples.

    The buffer is filled at the end of each task, so while a task is trained it holds earlier tasks
    alone (Chaudhry et al. 2019, "On Tiny Episodic Memories").

    Args:
        replay: ``"union"`` (one pool of current and buffered samples, each once an epoch) or
            ``"split"`` (a batch of current and a batch of buffered samples in every step).
    """

    uses_buffer = True

    def __init__(self, replay: str = "union") -> None:
        if replay not in REPLAY_MODES:
            raise ValueError(f"unknown replay '{replay}': known are {', '.join(REPLAY_MODES)}")
        self.replay = replay

    def memory(self, stage: Stage) -> Samples | None:
        """The buffer's samples."""
        held = self.buffer(stage).data
        return None if held is None else stage.view(*held)

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

    def end_task(self, stage: Stage) -> None:
        """Offer the task's samples to the buffer."""
        buffer = self.buffer(stage)
        features = self.features(stage, stage.current[0]) if buffer.needs_features else None
        buffer.add(stage.task.train_x, stage.task.train_y, features, self.extra(stage))

    def extra(self, stage: Stage) -> dict[str, Tensor]:
        """What the buffer shall keep of each sample of the task besides input and label."""
        return {}

    def features(self, stage: Stage, x: Inputs) -> Tensor:
        """What enters the head, [N, d], in evaluation mode."""
        features, _ = Probe(stage.model, find_head(stage.model), class_mask=None).forward(x)
        return features

    def buffer(self, stage: Stage) -> ReplayBuffer:
        """The replay buffer."""
        assert stage.buffer is not None  # the trainer checks `uses_buffer` before it starts
        return stage.buffer
