"""A-GEM: gradients that do not raise the loss of the buffer."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from gradmix_ext import ops
from gradmix_ext.continual.feed import Batch
from gradmix_ext.continual.methods.base import Stage
from gradmix_ext.continual.methods.rehearsal import Rehearsal

__all__ = ["AGEM"]


class AGEM(Rehearsal):
    """Averaged gradient episodic memory (Chaudhry et al. 2019, "Efficient Lifelong Learning").

    Trains on the current task alone, but a gradient g whose step would, to first order, raise the
    loss of the buffer, is replaced by the nearest one that does not::

        g - (g·r / r·r) r    if g·r < 0,

    with r the gradient of one draw from the buffer, as large as a batch and not mixed. It is taken
    in the precision of the weights. The paper's heads are one per task; here, as everywhere, the
    softmax runs over the classes seen.
    """

    def batches(self, stage: Stage) -> Iterator[Batch]:
        """The current task, shuffled."""
        x, y = stage.task.train_x, stage.task.train_y
        return stage.feed.batches(x, y, stage.order(len(y)))

    def after_backward(self, stage: Stage) -> None:
        """Project the gradient. Nothing branches on it, so nothing waits for the device."""
        if not len(self.buffer(stage)):
            return
        trained = [p for p in stage.model.parameters() if p.grad is not None]
        gradient = [p.grad for p in trained if p.grad is not None]
        x, y = self.draw(stage, "y")
        loss = ops.mixup_cross_entropy(stage.model(x), y, y, 1.0, class_mask=stage.seen_mask)
        own = torch.autograd.grad(stage.ranks.weigh(loss, len(y)), trained, materialize_grads=True)
        reference = tuple(map(stage.ranks.average, own))
        conflict = _dot(gradient, reference).clamp(max=0)
        # An r of 0 forbids nothing, and has a conflict of 0.
        share = conflict / _dot(reference, reference).clamp(min=torch.finfo(conflict.dtype).tiny)
        for g, r in zip(gradient, reference, strict=True):
            g.sub_(share * r)


def _dot(a: list[Tensor] | tuple[Tensor, ...], b: tuple[Tensor, ...]) -> Tensor:
    """Inner product over all parameters."""
    return torch.stack([(x * y).sum() for x, y in zip(a, b, strict=True)]).sum()
