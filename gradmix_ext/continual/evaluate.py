"""Accuracy on every task after each task, from one pass over the test data."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from gradmix_ext.continual.scenario import Scenario
from gradmix_ext.mixers.head import evaluation

__all__ = ["Evaluation", "Evaluator"]

# Samples per forward pass; bounds memory, changes no result.
_CHUNK = 2048


@dataclass(frozen=True)
class Evaluation:
    """Test accuracies after one task, as fractions.

    Attributes:
        class_il: [T] float64, argmax over all classes seen so far. Tasks still to come have 0.
        task_il: [T] float64, argmax over the classes of the sample's own task.
        pooled: Class-IL accuracy over the test samples of all tasks seen so far, taken together.
    """

    class_il: Tensor
    task_il: Tensor
    pooled: float


class Evaluator:
    """Holds the test data of a scenario side by side and scores a model on it.

    Args:
        scenario: The tasks, on the device of the model.
    """

    def __init__(self, scenario: Scenario) -> None:
        self._x = torch.cat([task.test_x for task in scenario])
        self._y = torch.cat([task.test_y for task in scenario])
        device = self._y.device
        sizes = torch.tensor([len(task.test_y) for task in scenario])
        self._sizes = sizes
        self._task = torch.arange(len(scenario)).repeat_interleave(sizes).to(device)
        own = torch.zeros(len(scenario), scenario.num_classes, dtype=torch.bool)
        for task in scenario:
            own[task.index, list(task.classes)] = True
        self._own_classes = own.to(device)[self._task]

    def __call__(
        self,
        model: nn.Module,
        predict: Callable[[nn.Module, Tensor], Tensor],
        seen_mask: Tensor,
        seen_tasks: int,
    ) -> Evaluation:
        """Score a model.

        Args:
            model: Put in evaluation mode for the pass; its mode is restored.
            predict: Scores [N, C] of inputs [N, ...].
            seen_mask: [C] bool, the classes that a Class-IL prediction may name.
            seen_tasks: How many tasks were trained, for the pooled accuracy.
        """
        with evaluation(model):
            scores = torch.cat([predict(model, part) for part in self._x.split(_CHUNK)])
        class_il = self._correct(scores, seen_mask)
        task_il = self._correct(scores, self._own_classes)
        seen = self._sizes[:seen_tasks]
        pooled = float(class_il[:seen_tasks].sum() / seen.sum()) if seen_tasks else 0.0
        return Evaluation(class_il / self._sizes, task_il / self._sizes, pooled)

    def _correct(self, scores: Tensor, allowed: Tensor) -> Tensor:
        """Correct predictions per task, [T] float64, among the allowed classes ([C] or [N, C])."""
        hit = scores.masked_fill(~allowed, -torch.inf).argmax(1) == self._y
        counts = torch.zeros(len(self._sizes), dtype=torch.float64, device=scores.device)
        return counts.index_add_(0, self._task, hit.double()).cpu()
