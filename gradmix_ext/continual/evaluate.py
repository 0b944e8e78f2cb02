"""Accuracy on every task after each task, from one pass over the test data."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from gradmix_ext.continual.feed import Feed
from gradmix_ext.continual.scenario import Scenario
from gradmix_ext.mixers.head import evaluation
from gradmix_ext.mixers.images import copied
from gradmix_ext.ranks import ONE, Ranks

__all__ = ["Evaluation", "Evaluator"]

# Samples per forward pass; bounds memory, changes no result.
_CHUNK = 2048

Predict = Callable[[nn.Module, Tensor], Tensor]


@dataclass(frozen=True)
class Evaluation:
    """Test accuracies after one task, as fractions.

    Attributes:
        class_il: [T] float64, argmax over all classes seen so far. Tasks still to come have 0.
        task_il: [T] float64, argmax over the classes of the sample's own task.
        pooled: Class-IL accuracy over the test samples of all tasks seen so far, taken together.
        confusion: [C, C] int64, Class-IL predictions for those samples: row = true class.
    """

    class_il: Tensor
    task_il: Tensor
    pooled: float
    confusion: Tensor


class Evaluator:
    """Scores a model on the test data of all tasks of a scenario.

    Args:
        scenario: The tasks.
        feed: Brings samples to the device of the model.
        ranks: The processes that each test on their share of it.
    """

    def __init__(self, scenario: Scenario, feed: Feed, ranks: Ranks = ONE) -> None:
        device = feed.device
        self._ranks = ranks
        self._inputs = [feed.view(ranks.share(task.test_x)) for task in scenario]
        labels = [ranks.share(task.test_y) for task in scenario]
        self._y = torch.cat(labels).to(device)
        self._sizes = torch.tensor([len(task.test_y) for task in scenario])
        own_sizes = torch.tensor([len(y) for y in labels])
        self._task = torch.arange(len(scenario)).repeat_interleave(own_sizes).to(device)
        own = torch.zeros(len(scenario), scenario.num_classes, dtype=torch.bool)
        for task in scenario:
            own[task.index, list(task.classes)] = True
        self._own_classes = own.to(device)[self._task]

    def __call__(
        self, model: nn.Module, predict: Predict, seen_mask: Tensor, seen_tasks: int
    ) -> Evaluation:
        """Score a model.

        Args:
            model: Put in evaluation mode for the pass; its mode is restored.
            predict: Scores [N, C] of inputs [N, ...].
            seen_mask: [C] bool, the classes that a Class-IL prediction may name.
            seen_tasks: How many tasks were trained, for what is counted over these alone.

        Raises:
            ValueError: a prediction is not a tensor [N, C].
        """
        # A rank's share may be empty.
        parts = [seen_mask.new_zeros(0, len(seen_mask), dtype=torch.float32)]
        with evaluation(model):
            for x in self._inputs:
                for start in range(0, len(x), _CHUNK):
                    scores = predict(model, copied(x, start, start + _CHUNK))
                    self._require_scores(scores, min(len(x) - start, _CHUNK), len(seen_mask))
                    parts.append(scores)
        scores = torch.cat(parts)
        predicted = scores.masked_fill(~seen_mask, -torch.inf).argmax(1)
        within = scores.masked_fill(~self._own_classes, -torch.inf).argmax(1)
        class_il, task_il = self._correct(predicted), self._correct(within)
        seen = self._sizes[:seen_tasks]
        pooled = float(class_il[:seen_tasks].sum() / seen.sum()) if seen_tasks else 0.0
        return Evaluation(
            class_il / self._sizes,
            task_il / self._sizes,
            pooled,
            self._confusion(predicted, len(seen_mask), seen_tasks),
        )

    @staticmethod
    def _require_scores(scores: object, samples: int, classes: int) -> None:
        found = list(scores.shape) if isinstance(scores, Tensor) else type(scores).__name__
        if found != [samples, classes]:
            raise ValueError(
                f"the model must give [N, {classes}] logits, one for each class, got {found} for "
                f"{samples} samples"
            )

    def _correct(self, predicted: Tensor) -> Tensor:
        """Correct predictions per task, [T] float64."""
        hit = predicted == self._y
        counts = torch.zeros(len(self._sizes), dtype=torch.float64, device=hit.device)
        return self._ranks.sum(counts.index_add_(0, self._task, hit.double())).cpu()

    def _confusion(self, predicted: Tensor, classes: int, seen_tasks: int) -> Tensor:
        seen = self._task < seen_tasks
        cell = (self._y * classes + predicted)[seen]
        counts = self._ranks.sum(torch.bincount(cell, minlength=classes * classes))
        return counts.reshape(classes, classes).cpu()
