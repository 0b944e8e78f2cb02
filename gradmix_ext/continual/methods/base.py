"""What a method is: the hooks that the trainer calls, and what it gives them to work with."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn

from gradmix_ext.continual.buffer import ReplayBuffer
from gradmix_ext.continual.data import RawInputs
from gradmix_ext.continual.feed import Batch, Feed
from gradmix_ext.continual.replay import shuffled
from gradmix_ext.continual.scenario import Task
from gradmix_ext.mixers import MixedBatch
from gradmix_ext.mixers.base import Samples
from gradmix_ext.mixers.images import Inputs, copied
from gradmix_ext.ranks import ONE, Ranks

__all__ = ["Method", "Stage"]


@dataclass(frozen=True, eq=False)
class Stage:
    """What a method works with while one task is trained.

    Attributes:
        model: The model, in training.
        task: The current task.
        past: The tasks before it. Methods that claim to rehearse must not look into their data.
        seen_mask: [C] bool, the classes of the current and the past tasks.
        buffer: The replay buffer, if there is one.
        batch_size: Samples per batch (of current samples, in split replay), over all ranks.
        generator: Source of the order of batches, the same on all ranks.
        feed: Brings samples to the device.
        ranks: The processes that train together.
    """

    model: nn.Module
    task: Task
    past: tuple[Task, ...]
    seen_mask: Tensor
    buffer: ReplayBuffer | None
    batch_size: int
    generator: torch.Generator | None
    feed: Feed
    ranks: Ranks = ONE

    @cached_property
    def current(self) -> Samples:
        """Inputs and labels of the current task, ready for the model when indexed.

        Over several ranks each looks at its share of them.
        """
        share = self.ranks.share
        return self.view(share(self.task.train_x), share(self.task.train_y))

    @cached_property
    def current_mask(self) -> Tensor:
        """[C] bool, the classes of the current task."""
        mask = torch.zeros_like(self.seen_mask)
        mask[list(self.task.classes)] = True
        return mask

    def view(self, x: RawInputs, y: Tensor) -> Samples:
        """Raw samples, ready for the model when indexed; labels on the device."""
        return self.feed.view(x), y.to(self.feed.device)

    def order(self, samples: int, buffered: int = 0) -> list[Tensor]:
        """The batches of one shuffled epoch, as positions. Each rank gets its share of every batch.

        Args:
            samples: Samples that every rank can read.
            buffered: Samples of the buffer, over all ranks, whose positions follow.
        """
        where = self.task.train_y.device
        return shuffled(samples, self.batch_size, self.generator, where, buffered, self.ranks)


class Method:
    """Base of all methods, with the hooks that the trainer calls.

    Only :meth:`batches` has to be there. Over several ranks every one calls the same hooks; what
    makes them one training is in :class:`~gradmix_ext.ranks.Ranks`.
    """

    #: Whether the method needs a replay buffer.
    uses_buffer = False

    #: Whether a prediction is the argmax of the model's logits, which need nothing besides it.
    predicts_by_logits = True

    #: The policy of a buffer that is given as a capacity alone.
    buffer_policy = "class-balanced"

    def begin_fit(self) -> None:
        """Before everything else: forget what another training may have left."""

    def begin_task(self, stage: Stage) -> None:
        """Before the first epoch of a task; also, with the model as saved, when it is resumed."""

    def memory(self, stage: Stage) -> Samples | None:
        """Samples of earlier tasks that the mixer's criterion protects, or None without any.

        Over several ranks these are each one's own.
        """
        return None

    def batches(self, stage: Stage) -> Iterator[Batch]:
        """The batches (x [N, ...], y [N]) of one epoch, before mixing.

        Of what lives on the device, ``x`` may be positions in it: an
        :class:`~gradmix_ext.mixers.ImageBatch` or, where the mixer takes it, a
        :class:`~gradmix_ext.mixers.TensorBatch`.
        """
        raise NotImplementedError

    def loss(self, stage: Stage, batch: MixedBatch, logits: Tensor) -> Tensor:
        """Scalar loss of a mixed batch: cross-entropy over the classes seen so far.

        Over several ranks its average is the loss of the step; see
        :meth:`~gradmix_ext.ranks.Ranks.weigh`.
        """
        loss = batch.loss(logits, class_mask=stage.seen_mask)
        return stage.ranks.weigh(loss, len(batch.target))

    def after_backward(self, stage: Stage) -> None:
        """Between the backward pass and the optimizer's step.

        What the optimizer trains has its gradient in ``.grad``, everything else None.
        """

    def end_task(self, stage: Stage) -> None:
        """After the last epoch of a task."""

    def predict(self, model: nn.Module, x: Tensor) -> Tensor:
        """Scores [N, C] whose argmax is the prediction: the logits."""
        scores: Tensor = model(x)
        return scores

    def classifier(self, model: nn.Module) -> nn.Module:
        """A module that gives the scores of :meth:`predict` and can be differentiated: the model.

        Where :attr:`predicts_by_logits` is False, :meth:`load_state_dict` with the state after the
        last task is all that it needs.
        """
        return model

    def state_dict(self) -> dict[str, Any]:
        """What :meth:`begin_task` cannot find out again; tensors and plain values only."""
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore what :meth:`state_dict` gave, after :meth:`begin_task`."""


def widened(logits: Tensor) -> Tensor:
    """Logits in float32 at least, for losses that half precision would blur."""
    return logits.to(torch.promote_types(logits.dtype, torch.float32))


def in_chunks(x: Inputs, size: int = 1024) -> Iterator[Tensor]:
    """Samples in parts that do not take more memory than training."""
    for start in range(0, len(x), size):
        yield copied(x, start, start + size)
