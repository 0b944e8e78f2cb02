"""ER-ACE: experience replay with an asymmetric cross-entropy."""

from __future__ import annotations

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
    sample keeps its own softmax::

        loss = λ · CE(z, a; S(a)) + (1-λ) · CE(z, b; S(b))

    with S(k) the current classes if k is one of them, and all seen ones otherwise. The paper, where
    samples come as a stream without tasks, takes the classes of the incoming batch for the current
    ones.

    Args:
        replay: As :class:`ER`; the paper's is ``"split"``.
    """

    def loss(self, stage: Stage, batch: MixedBatch, logits: Tensor) -> Tensor:
        """Cross-entropy over the classes that each label competes with.

        CE(z, k; current) = CE(z, k; seen) + log P(current), P by the softmax over the seen classes;
        so the current labels, by their weight, add log P(current) to the loss of ER.
        """
        loss = super().loss(stage, batch, logits)
        is_current = stage.current_mask.to(batch.lam)
        weight = torch.lerp(is_current[batch.partner_target], is_current[batch.target], batch.lam)
        z = widened(logits)
        seen, current = (
            z.masked_fill(~mask, -torch.inf).logsumexp(1)
            for mask in (stage.seen_mask, stage.current_mask)
        )
        return loss + batch.weighted(weight * (current - seen)).mean()
