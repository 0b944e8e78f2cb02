"""DER++: replay of samples together with the logits that they once had."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterator

import torch
from torch import Tensor

from gradmix_ext.continual.methods.base import Stage, in_chunks, widened
from gradmix_ext.continual.methods.er import ER
from gradmix_ext.mixers import MixedBatch
from gradmix_ext.mixers.head import evaluation

__all__ = ["DERPlusPlus"]


class DERPlusPlus(ER):
    """Dark experience replay with labels (Buzzega et al. 2020, DER++).

    Every step takes a batch of current samples and two draws from the buffer of the same size::

        loss = CE(current) + β · CE(first draw) + α · MSE(logits of the second draw, stored logits)

    The current batch and the first draw are mixed together, and a mixed sample counts with the part
    that it belongs to itself; the second draw is never mixed.

    The paper fills the buffer during training and stores the logits of that moment, over the whole
    head. Here both happen at the end of a task, without augmentation, and a logit counts if its
    class had been seen by then: the others were never trained.

    Args:
        distill_weight: α.
        replay_weight: β.

    Both defaults are the paper's for Split CIFAR-10 with 200 samples.
    """

    def __init__(self, distill_weight: float = 0.1, replay_weight: float = 0.5) -> None:
        super().__init__("split")
        for name, weight in (("distill_weight", distill_weight), ("replay_weight", replay_weight)):
            if not 0 <= weight < math.inf:
                raise ValueError(f"{name} must be at least 0 and finite, got {weight}")
        self.distill_weight = distill_weight
        self.replay_weight = replay_weight
        self._second: deque[Tensor] = deque()

    def order(self, stage: Stage) -> Iterator[Tensor]:
        """A batch of each in every step; the second draw for it is made at once.

        Workers read batches ahead of the training, so what they are must not depend on its steps.
        """
        self._second.clear()
        for index in super().order(stage):
            if len(self.buffer(stage)):
                self._second.append(self.buffer(stage).draw(stage.batch_size))
            yield index

    def loss(self, stage: Stage, batch: MixedBatch, logits: Tensor) -> Tensor:
        """The three parts; in the first task the first alone."""
        if not len(self.buffer(stage)):
            return super().loss(stage, batch, logits)
        each = batch.loss(logits, class_mask=stage.seen_mask, reduction="none")
        current, replayed = each.tensor_split([len(each) - self.replayed(stage)])
        if self._second:
            drawn = self._second.popleft()
        else:  # a subclass has batches of its own
            drawn = self.buffer(stage).draw(stage.batch_size)
        x, stored, known = self.take(stage, drawn, "logits", "known")
        weigh, compared = stage.ranks.weigh, known.sum()
        difference = torch.where(known, widened(stage.model(x)) - stored, 0.0)
        return (
            weigh(current.mean(), len(current))
            + self.replay_weight * weigh(replayed.mean(), len(replayed))
            + weigh(self.distill_weight * difference.square().sum() / compared, compared)
        )

    def extra(self, stage: Stage) -> dict[str, Tensor]:
        """The logits [N, C] of the task's samples, and which of them mean something [N, C]."""
        with evaluation(stage.model):
            parts = [widened(stage.model(x)) for x in in_chunks(stage.current[0])]
        logits = torch.cat(parts).to(stage.task.train_y.device)
        return {"logits": logits, "known": stage.seen_mask.to(logits.device).expand_as(logits)}
