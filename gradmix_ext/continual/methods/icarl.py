"""iCaRL: exemplars, distillation, and classification by the nearest mean of exemplars."""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from gradmix_ext.continual.methods.base import Stage, widened
from gradmix_ext.continual.methods.er import ER
from gradmix_ext.mixers import MixedBatch
from gradmix_ext.mixers.criteria import Probe
from gradmix_ext.mixers.head import HeadInput, find_head, in_one_dtype

__all__ = ["ICaRL"]


class ICaRL(ER):
    """Incremental classifier and representation learning (Rebuffi et al. 2017).

    The loss is a sigmoid cross-entropy per class seen so far, summed over them. Its targets are the
    labels for the classes of the current task, and for those before it the sigmoid outputs that
    the model gave when the task began. Of a mixed sample, labels are weighted by λ, and the old
    model is asked about the sample as mixed.

    A prediction is the class whose exemplars' mean feature is nearest; features, the input of the
    head, and means have length 1. Exemplars are what the buffer holds, chosen by herding.

    Args:
        replay: As :class:`ER`; the paper's is ``"union"``.
    """

    predicts_by_logits = False
    buffer_policy = "herding"

    def __init__(self, replay: str = "union") -> None:
        super().__init__(replay)
        self.begin_fit()

    def begin_fit(self) -> None:
        """Neither an old model nor means."""
        self._old: nn.Module | None = None
        self._means: Tensor | None = None  # [C, d], 0 for classes without exemplars

    def begin_task(self, stage: Stage) -> None:
        """Keep the model as it is now."""
        self._means = None
        self._old = copy.deepcopy(stage.model).eval().requires_grad_(False) if stage.past else None

    def loss(self, stage: Stage, batch: MixedBatch, logits: Tensor) -> Tensor:
        """Classification of the current classes, and distillation of the others."""
        batch.tell(logits)
        z = widened(logits)
        lam = batch.lam[:, None].to(z)
        target = torch.zeros_like(z).scatter_add(1, batch.target[:, None], lam)
        target = target.scatter_add(1, batch.partner_target[:, None], 1 - lam)
        if self._old is not None:
            with torch.no_grad():
                old = widened(batch.forward(self._old)).sigmoid()
            target = torch.where(stage.current_mask, target, old)
        each = F.binary_cross_entropy_with_logits(z, target, reduction="none")
        loss = batch.weighted(torch.where(stage.seen_mask, each, 0.0).sum(1)).mean()
        return stage.ranks.weigh(loss, len(z))

    def end_task(self, stage: Stage) -> None:
        """Choose exemplars, drop the old model, and find the means."""
        super().end_task(stage)
        self._old = None
        memory = self.memory(stage)
        if memory is None:
            return
        x, y = memory
        phi = F.normalize(self.features(stage, x), dim=1)
        member = F.one_hot(y, len(stage.seen_mask)).to(phi)
        self._means = F.normalize(stage.ranks.sum(member.T @ phi), dim=1)

    def predict(self, model: nn.Module, x: Tensor) -> Tensor:
        """Scores [N, C]: minus the squared distance to the mean of each class.

        Classes without exemplars come after all others, in the order of their logits. While a task
        is trained, and before any, the scores are the logits.
        """
        features, logits = Probe(model, find_head(model), class_mask=None).forward(x)
        if self._means is None:
            return logits
        return _nearness(features, logits, self._means)

    def classifier(self, model: nn.Module) -> nn.Module:
        """The scores of :meth:`predict` as a module, differentiable in its inputs."""
        return model if self._means is None else _NearestMean(model, self._means)

    def state_dict(self) -> dict[str, Any]:
        """The old model within a task, the means after it."""
        return {
            "old": None if self._old is None else self._old.state_dict(),
            "means": self._means,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore what :meth:`state_dict` gave."""
        self._means = state["means"]
        if self._old is not None:  # there is one as soon as the task has begun
            self._old.load_state_dict(state["old"])


class _NearestMean(nn.Module):
    """A model whose outputs are how near its features are to the means of the classes."""

    def __init__(self, model: nn.Module, means: Tensor) -> None:
        super().__init__()
        self.model = model
        self.register_buffer("means", means)

    def forward(self, x: Tensor) -> Tensor:
        """Scores [N, C] of inputs [N, ...]."""
        entered = HeadInput(find_head(self.model), detached=False)
        try:
            logits = self.model(x)
            features = entered.of(logits)
        finally:
            entered.remove()
        return _nearness(*in_one_dtype(features, logits), self.get_buffer("means"))


def _nearness(features: Tensor, logits: Tensor, means: Tensor) -> Tensor:
    """Minus the squared distance to each mean; for a class without one, less than all of these."""
    means = means.to(features)
    distance = 2 - 2 * F.normalize(features, dim=1) @ means.T  # at most 4
    return torch.where(means.any(1), -distance, F.logsigmoid(logits) - 4)
