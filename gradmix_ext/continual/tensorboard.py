"""Training curves for TensorBoard."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from gradmix_ext.continual.callbacks import Callback, EpochEnd, TaskEnd, helpful_fraction

__all__ = ["TensorBoardLog", "writer_class"]


def writer_class() -> Any:
    """The class that writes event files.

    Raises:
        ImportError: the package tensorboard is not installed; the message says how to get it.
    """
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError as error:
        raise ImportError(
            "--tensorboard needs tensorboard: pip install 'gradmix_ext[tensorboard]'"
        ) from error
    return SummaryWriter


class TensorBoardLog(Callback):
    """Writes the curves of one run; their steps count epochs over all tasks, from 1.

    Of a run that goes on from a checkpoint, TensorBoard hides what an earlier process had written
    beyond that checkpoint.

    Args:
        folder: Where the event files go.
        epochs: Epochs per task.
    """

    def __init__(self, folder: Path, epochs: int) -> None:
        self._folder = folder
        self._epochs = epochs
        self._writer_class = writer_class()
        self._writer: Any = None

    def on_epoch_end(self, event: EpochEnd) -> None:
        """Loss, and the share of class pairs that are mixed."""
        step = event.task.index * self._epochs + event.epoch + 1
        writer = self._open(step)
        writer.add_scalar("train/loss", event.loss, step)
        helpful = helpful_fraction(event)
        if helpful is not None:
            writer.add_scalar("train/helpful_fraction", helpful, step)

    def on_task_end(self, event: TaskEnd) -> None:
        """Accuracy on every task so far, and over them."""
        done = event.task.index + 1
        step = done * self._epochs
        writer = self._open(step + 1)  # the last epoch itself is in the checkpoint
        for name in ("class_il", "task_il"):
            accuracy = getattr(event.evaluation, name)[:done]
            writer.add_scalar(f"{name}/average", accuracy.mean().item(), step)
            for task, value in enumerate(accuracy.tolist(), start=1):
                writer.add_scalar(f"{name}/task_{task}", value, step)
        writer.add_scalar("class_il/pooled", event.evaluation.pooled, step)
        writer.flush()

    def on_fit_end(self) -> None:
        """Close the event file, and end the thread that writes it."""
        if self._writer is not None:
            self._writer.close()
            self._writer = None

    def _open(self, first: int) -> Any:
        """The writer; when new, it hides earlier values from step `first` on."""
        if self._writer is None:
            self._writer = self._writer_class(str(self._folder), purge_step=first)
        return self._writer
