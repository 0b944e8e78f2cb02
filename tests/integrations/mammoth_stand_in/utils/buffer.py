"""Stand-in for mammoth's ``utils.buffer``: reservoir sampling, images as they are, on the CPU."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn


class Buffer:
    """What is held is in ``examples`` and ``labels``, [buffer_size, ...], the free places zero."""

    def __init__(self, buffer_size: int, device: str = "cpu") -> None:
        self.buffer_size = buffer_size
        self.device = device
        self.num_seen_examples = 0

    def __len__(self) -> int:
        return min(self.num_seen_examples, self.buffer_size)

    def is_empty(self) -> bool:
        return self.num_seen_examples == 0

    def add_data(self, examples: Tensor, labels: Tensor | None = None) -> None:
        if not hasattr(self, "examples"):
            self.examples = torch.zeros(self.buffer_size, *examples.shape[1:])
            if labels is not None:
                self.labels = torch.zeros(self.buffer_size, dtype=torch.int64)
        for i in range(len(examples)):
            place = self.num_seen_examples
            if place >= self.buffer_size:
                place = np.random.randint(self.num_seen_examples + 1)
            self.num_seen_examples += 1
            if place < self.buffer_size:
                self.examples[place] = examples[i]
                if labels is not None:
                    self.labels[place] = labels[i]

    def get_data(
        self, size: int, transform: Callable[[Tensor], Tensor] | None = None, device: Any = None
    ) -> tuple[Tensor, ...]:
        """At most ``size`` samples, none twice; (examples, labels)."""
        choice = np.random.choice(len(self), size=min(size, len(self)), replace=False)
        return self._given(choice, transform, device)

    def get_all_data(
        self, transform: Callable[[Tensor], Tensor] | None = None, device: Any = None
    ) -> tuple[Tensor, ...]:
        return self._given(np.arange(len(self)), transform, device)

    def _given(self, index: Any, transform: Any, device: Any) -> tuple[Tensor, ...]:
        given = [_apply(self.examples[index], transform).to(device or self.device)]
        if hasattr(self, "labels"):
            given.append(self.labels[index].to(device or self.device))
        return tuple(given)


def _apply(x: Tensor, transform: Any) -> Tensor:
    """Mammoth's kornia transforms are modules and take a batch; others take an image each."""
    if transform is None:
        return x
    if isinstance(transform, nn.Module):
        return transform(x)
    return torch.stack([transform(image) for image in x])
