"""Initial weights that depend on a seed alone."""

from __future__ import annotations

import torch

__all__ = ["seeded"]


class seeded:  # noqa: N801 - a context manager, used like a function
    """Context in which PyTorch's CPU generator starts from `seed`; its state is put back after."""

    def __init__(self, seed: int) -> None:
        self.seed = seed

    def __enter__(self) -> None:
        self._state = torch.get_rng_state()
        torch.manual_seed(self.seed)

    def __exit__(self, *exception: object) -> None:
        torch.set_rng_state(self._state)
