"""The bounds that every method is measured against."""

from __future__ import annotations

from collections.abc import Iterator

import torch

from gradmix_ext.continual.data import concatenate, input_count, subset
from gradmix_ext.continual.feed import Batch
from gradmix_ext.continual.methods.base import Method, Stage
from gradmix_ext.mixers.base import Samples

__all__ = ["Finetune", "Joint"]


class Finetune(Method):
    """Trains on the current task alone: the lower bound."""

    def batches(self, stage: Stage) -> Iterator[Batch]:
        """The current task, shuffled."""
        x, y = stage.task.train_x, stage.task.train_y
        return stage.feed.batches(x, y, stage.order(len(y)))


class Joint(Method):
    """Trains on all data of all tasks so far: the upper bound.

    The model goes on from where the task before left it, for as many epochs as every method has.
    """

    def begin_task(self, stage: Stage) -> None:
        """Put the data of all tasks so far together, the current one last."""
        tasks = (*stage.past, stage.task)
        self._x = concatenate([task.train_x for task in tasks])
        self._y = torch.cat([task.train_y for task in tasks])

    def memory(self, stage: Stage) -> Samples | None:
        """All data of the past tasks: nothing here is an estimate."""
        past = input_count(self._x) - len(stage.task.train_y)
        if not past:
            return None
        share = stage.ranks.share
        return stage.view(share(subset(self._x, torch.arange(past))), share(self._y[:past]))

    def batches(self, stage: Stage) -> Iterator[Batch]:
        """Everything so far, shuffled."""
        return stage.feed.batches(self._x, self._y, stage.order(len(self._y)))
