"""Samples that the trainer has to read one by one."""

from __future__ import annotations

import torch
from torch.utils.data import Dataset


class Stored(Dataset[torch.Tensor]):
    """What stays on disk elsewhere."""

    def __init__(self, x: torch.Tensor) -> None:
        self.x = x

    def __len__(self) -> int:
        return len(self.x)

    def __getitem__(self, index: int) -> torch.Tensor:
        return self.x[index]
