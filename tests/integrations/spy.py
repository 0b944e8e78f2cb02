"""A mixer that keeps what its criterion was given."""

from __future__ import annotations

from typing import Any

import gradmix_ext as gx


class Spy(gx.GradMix):
    """Keeps (model, epoch, current, buffer, seen_classes) of every update."""

    def __init__(self, num_classes: int, **options: Any) -> None:
        super().__init__(num_classes, **options)
        self.calls: list[Any] = []

    def update(self, model, current, buffer=None, seen_classes=None):
        self.calls.append((model, self.epoch, current, buffer, seen_classes))
        super().update(model, current, buffer, seen_classes)
