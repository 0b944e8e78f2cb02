"""ER-ACE: experience replay with an asymmetric cross-entropy."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from gradmix_ext.continual.methods.base import Stage, widened
from gradmix_ext.continual.methods.er import ER
from gradmix_ext.mixers import MixedBatch

__all__ = ["ERACE"]


class ERACE(ER):
    """Experience replay whose new samples do not push down the logits of old classes.

    The softmax of a current sample runs over the classes of the current task alone, that of a
    replayed one over all classes seen (Caccia et al. 2022). Each of the two hard labels of a mixed
    sample keeps the softmax S of the sample that it comes from::

        loss = mean over the batch of  λ · CE(z, a; S_a) + (1-λ) · CE(z, b; S_b)

    Only replayed samples weigh old against new classes, so some of them have to be new: each is
    drawn from the current task with the probability of its share in the classes seen, and from the
    buffer otherwise. The paper's buffer, filled all the time from a stream without tasks, holds
    such samples by itself; there the classes of the incoming batch are the current ones.
    """

    def __init__(self) -> None:
        super().__init__("split")

    def loss(self, stage: Stage, batch: MixedBatch, logits: Tensor) -> Tensor:
        """Cross-entropy, each label over the classes that it competes with.

        CE(z, k; current) = CE(z, k; seen) + log P(current), P by the softmax over the seen classes;
        so the labels of current samples, by their share, add log P(current) to the loss of ER.
        """
        loss = super().loss(stage, batch, logits)
        if not len(self.buffer(stage)):
            return loss
        row = torch.arange(len(logits), device=logits.device)
        is_current = (row < len(logits) - self.replayed(stage)).to(batch.lam)
        (of_any,) = stage.ranks.pool(is_current)  # partners may be of other ranks
        share = torch.lerp(of_any[batch.partner], is_current, batch.lam)
        z = widened(logits)
        seen, current = (
            z.masked_fill(~mask, -torch.inf).logsumexp(1)
            for mask in (stage.seen_mask, stage.current_mask)
        )
        pull = batch.weighted(share * (current - seen)).mean()
        return loss + stage.ranks.weigh(pull, len(logits))

    def order(self, stage: Stage) -> Iterator[Tensor]:
        """A batch of current and a batch of replayed samples in every step."""
        buffer, samples, generator = self.buffer(stage), len(stage.task.train_y), stage.generator
        seen = {k for task in (*stage.past, stage.task) for k in task.classes}
        new_share = len(set(stage.task.classes)) / len(seen)
        for index in stage.order(samples):
            if not len(buffer):
                yield index
                continue
            where = index.device if generator is None else generator.device
            size = (2, stage.batch_size)
            noise = torch.rand(size, dtype=torch.float64, generator=generator, device=where)
            drawn = buffer.drawn(stage.batch_size)
            new, which = noise[:, drawn.start : drawn.stop].to(index.device)
            replayed = torch.where(
                new < new_share, (which * samples).long(), buffer.draw(stage.batch_size) + samples
            )
            yield torch.cat([index, replayed])
