"""Methods of class-incremental learning: which samples are trained on, and with which loss.

A method is what remains of an algorithm once model, mixer and buffer are taken out. The
:class:`Trainer` calls the hooks of :class:`Method`; what a method does not care about it leaves to
the defaults.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from gradmix_ext.continual.buffer import ReplayBuffer
from gradmix_ext.continual.replay import (
    REPLAY_MODES,
    Samples,
    shuffled_batches,
    split_batches,
    union_batches,
)
from gradmix_ext.continual.scenario import Task
from gradmix_ext.mixers import MixedBatch
from gradmix_ext.mixers.criteria import Probe
from gradmix_ext.mixers.head import find_head

__all__ = ["ER", "METHODS", "Finetune", "Joint", "Method", "Stage", "method_by_name"]


@dataclass(frozen=True, eq=False)
class Stage:
    """What a method works with while one task is trained.

    Attributes:
        model: The model, in training.
        task: The current task.
        past: The tasks before it. Methods that claim to rehearse must not look into their data.
        seen_mask: [C] bool, the classes of the current and the past tasks.
        buffer: The replay buffer, if there is one.
        batch_size: Samples per batch (of current samples, in split replay).
        generator: Source of the order of batches.
    """

    model: nn.Module
    task: Task
    past: tuple[Task, ...]
    seen_mask: Tensor
    buffer: ReplayBuffer | None
    batch_size: int
    generator: torch.Generator | None

    @property
    def current(self) -> Samples:
        """Inputs and labels of the current task."""
        return self.task.train_x, self.task.train_y


class Method:
    """Base of all methods, with the hooks that the trainer calls.

    Only :meth:`batches` has to be there.
    """

    #: Whether the method needs a replay buffer.
    uses_buffer = False

    def begin_task(self, stage: Stage) -> None:
        """Before the first epoch of a task."""

    def memory(self, stage: Stage) -> Samples | None:
        """Samples of earlier tasks that the mixer's criterion protects, or None without any."""
        return None

    def batches(self, stage: Stage) -> Iterator[Samples]:
        """The batches (x [N, ...], y [N]) of one epoch, before mixing."""
        raise NotImplementedError

    def loss(self, stage: Stage, batch: MixedBatch, logits: Tensor) -> Tensor:
        """Scalar loss of a mixed batch: cross-entropy over the classes seen so far."""
        return batch.loss(logits, class_mask=stage.seen_mask)

    def after_backward(self, stage: Stage) -> None:
        """Between the backward pass and the optimizer's step, with gradients in ``.grad``."""

    def end_task(self, stage: Stage) -> None:
        """After the last epoch of a task."""

    def predict(self, model: nn.Module, x: Tensor) -> Tensor:
        """Scores [N, C] whose argmax is the prediction: the logits."""
        scores: Tensor = model(x)
        return scores


class Finetune(Method):
    """Trains on the current task alone: the lower bound."""

    def batches(self, stage: Stage) -> Iterator[Samples]:
        """The current task, shuffled."""
        return shuffled_batches(stage.current, stage.batch_size, stage.generator)


class Joint(Method):
    """Trains on all data of all tasks so far: the upper bound.

    The model goes on from where the task before left it, for as many epochs as every method has.
    """

    def begin_task(self, stage: Stage) -> None:
        """Put the data of all tasks so far together, the current one last."""
        tasks = (*stage.past, stage.task)
        self._x = torch.cat([task.train_x for task in tasks])
        self._y = torch.cat([task.train_y for task in tasks])

    def memory(self, stage: Stage) -> Samples | None:
        """All data of the past tasks: nothing here is an estimate."""
        past = len(self._y) - len(stage.task.train_y)
        return (self._x[:past], self._y[:past]) if past else None

    def batches(self, stage: Stage) -> Iterator[Samples]:
        """Everything so far, shuffled."""
        return shuffled_batches((self._x, self._y), stage.batch_size, stage.generator)


class ER(Method):
    """Experience replay: the current task together with a small buffer of earlier samples.

    The buffer is filled at the end of each task, so while a task is trained it holds earlier tasks
    alone (Chaudhry et al. 2019, "On Tiny Episodic Memories").

    Args:
        replay: ``"union"`` (one pool of current and buffered samples) or ``"split"`` (a batch of
            each in every step).
    """

    uses_buffer = True

    def __init__(self, replay: str = "union") -> None:
        if replay not in REPLAY_MODES:
            raise ValueError(f"unknown replay '{replay}': known are {', '.join(REPLAY_MODES)}")
        self.replay = replay

    def memory(self, stage: Stage) -> Samples | None:
        """The buffer's samples."""
        return _buffer(stage).data

    def batches(self, stage: Stage) -> Iterator[Samples]:
        """Current and buffered samples, put together as `replay` says."""
        mode = union_batches if self.replay == "union" else split_batches
        return mode(stage.current, _buffer(stage), stage.batch_size, stage.generator)

    def end_task(self, stage: Stage) -> None:
        """Offer the task's samples to the buffer."""
        buffer = _buffer(stage)
        x, y = stage.current
        buffer.add(x, y, _features(stage.model, x) if buffer.needs_features else None)


METHODS = ("finetune", "er", "joint")


def method_by_name(name: str, replay: str = "union") -> Method:
    """Build a method.

    Args:
        name: One of :data:`METHODS`.
        replay: How methods with a buffer replay, ``"union"`` or ``"split"``.

    Raises:
        ValueError: the name is unknown.
    """
    if name == "finetune":
        return Finetune()
    if name == "er":
        return ER(replay)
    if name == "joint":
        return Joint()
    raise ValueError(f"unknown method '{name}': known are {', '.join(METHODS)}")


def _buffer(stage: Stage) -> ReplayBuffer:
    assert stage.buffer is not None  # the trainer checks `uses_buffer` before it starts
    return stage.buffer


def _features(model: nn.Module, x: Tensor) -> Tensor:
    """What enters the head, [N, d], in evaluation mode."""
    features, _ = Probe(model, find_head(model), class_mask=None).forward(x)
    return features
