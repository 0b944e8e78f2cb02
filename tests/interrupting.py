"""Callbacks of trainings that are cut short and compared with others."""

from __future__ import annotations

from gradmix_ext.continual import Callback


class InterruptionError(Exception):
    pass


class Interrupt(Callback):
    """Stops the training after so many epochs, as a power cut would."""

    def __init__(self, after: int) -> None:
        self.left = after

    def on_epoch_end(self, event) -> None:
        self.left -= 1
        if self.left == 0:
            raise InterruptionError


class Weights(Callback):
    def on_task_end(self, event) -> None:
        self.state = {name: value.clone() for name, value in event.model.state_dict().items()}
