"""What a training run tells to whoever listens."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from gradmix_ext.continual.evaluate import Evaluation
from gradmix_ext.continual.scenario import Scenario, Task
from gradmix_ext.mixers import GradMix, Mixer, ShuffledScoresMixup

__all__ = ["Callback", "EpochEnd", "PairMapRecorder", "PairMaps", "TaskEnd", "helpful_fraction"]


@dataclass(frozen=True, eq=False)
class EpochEnd:
    """One epoch is over.

    Attributes:
        task: The current task.
        epoch: From 0 within the task.
        loss: Mean training loss per sample, in nats.
        mixer: The mixer, as it is now.
        seen_mask: [C] bool, the classes of the current and the past tasks.
    """

    task: Task
    epoch: int
    loss: float
    mixer: Mixer
    seen_mask: Tensor


def helpful_fraction(event: EpochEnd) -> float | None:
    """Share of the pairs of seen classes that are helpful.

    None if the mixer judges no pairs, or chooses them at random whatever it finds of them.
    """
    allowed = getattr(event.mixer, "allowed", None)
    if allowed is None or isinstance(event.mixer, ShuffledScoresMixup):
        return None
    seen = event.seen_mask.to(allowed.device)  # a mixer that has mixed nothing is where it was made
    fraction: float = allowed[seen][:, seen].float().mean().item()
    return fraction


@dataclass(frozen=True, eq=False)
class TaskEnd:
    """One task is over and all tasks have been tested.

    Attributes:
        task: The task.
        evaluation: Accuracy on all tasks.
        model: The model, as it is now; it is trained on.
    """

    task: Task
    evaluation: Evaluation
    model: nn.Module


class Callback:
    """Base of all callbacks: each event is a method that does nothing unless overridden."""

    def on_fit_begin(self, scenario: Scenario) -> None:
        """Before the first task."""

    def on_epoch_end(self, event: EpochEnd) -> None:
        """After each epoch."""

    def on_task_end(self, event: TaskEnd) -> None:
        """After each task and its evaluation."""

    def on_fit_end(self) -> None:
        """When training is over, or has failed."""

    def state_dict(self) -> dict[str, Any]:
        """What it has collected (tensors and plain values), for a training that is resumed."""
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore what :meth:`state_dict` gave."""


@dataclass(frozen=True, eq=False)
class PairMaps:
    """How GradMix judged the class pairs, epoch by epoch (E entries).

    Attributes:
        task: [E] int64, from 0.
        epoch: [E] int64, from 0 within the task.
        allowed: [E, C, C] bool, the helpful pairs: all that ``redraw`` and ``skip`` mix.
        scores: [E, C, C] float32; 0 for pairs that were not scored.
        seen: [E, C] bool, the classes of the current and the past tasks.
    """

    task: Tensor
    epoch: Tensor
    allowed: Tensor
    scores: Tensor
    seen: Tensor


class PairMapRecorder(Callback):
    """Keeps the class-pair map of :class:`GradMix` after every epoch, in host memory."""

    def __init__(self) -> None:
        self._epochs: list[tuple[int, int, Tensor, Tensor, Tensor]] = []

    def on_epoch_end(self, event: EpochEnd) -> None:
        """Copy the map."""
        if isinstance(event.mixer, GradMix):
            mixer = event.mixer
            self._epochs.append(
                (
                    event.task.index,
                    event.epoch,
                    mixer.allowed.to("cpu", copy=True),
                    mixer.scores.to("cpu", torch.float32, copy=True),
                    event.seen_mask.cpu(),
                )
            )

    def state_dict(self) -> dict[str, Any]:
        """The maps so far."""
        return {"epochs": list(self._epochs)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore the maps."""
        self._epochs = list(state["epochs"])

    def maps(self) -> PairMaps | None:
        """Everything recorded, on the CPU; None if the mixer judges no pairs."""
        if not self._epochs:
            return None
        task, epoch, allowed, scores, seen = zip(*self._epochs, strict=True)
        return PairMaps(
            torch.tensor(task),
            torch.tensor(epoch),
            torch.stack(allowed),
            torch.stack(scores),
            torch.stack(seen),
        )
