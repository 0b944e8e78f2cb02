"""Finding a model's last linear layer and capturing what enters it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn


def find_head(model: nn.Module, head: nn.Linear | str | None = None) -> nn.Linear:
    """The last linear layer of a model.

    Args:
        model: Any module whose last layer is an ``nn.Linear``.
        head: The layer itself or its name in ``model.named_modules()``, where the last
            ``nn.Linear`` registered is not the one that gives the logits.

    Raises:
        ValueError: There is no such layer.
    """
    layers = {name: m for name, m in model.named_modules() if isinstance(m, nn.Linear)}
    if isinstance(head, nn.Linear):
        return head
    if isinstance(head, str):
        if head not in layers:
            raise ValueError(
                f"head must name an nn.Linear of the model ({', '.join(layers) or 'it has none'}), "
                f"got {head!r}"
            )
        return layers[head]
    if not layers:
        raise ValueError(f"the model has no nn.Linear to take as head: {type(model).__name__}")
    return list(layers.values())[-1]


class HeadInput:
    """Keeps the input of the latest forward through a head, detached, until it is taken."""

    def __init__(self, head: nn.Linear) -> None:
        self.head = head
        self._features: Tensor | None = None
        self._handle = head.register_forward_pre_hook(self._keep)

    def _keep(self, module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        self._features = inputs[0].detach()

    def take(self) -> Tensor:
        """The features [N, d] of the latest forward; forgets them."""
        features, self._features = self._features, None
        if features is None:
            raise RuntimeError(
                "no forward reached the head: the model does not call its last nn.Linear; "
                "name the right layer by head="
            )
        return features

    def remove(self) -> None:
        """Take the hook off the head."""
        self._handle.remove()
        self._features = None


@contextmanager
def evaluation(model: nn.Module) -> Iterator[None]:
    """Evaluation mode without gradients; each module's own mode is restored afterwards.

    Otherwise looking at gradients would move the statistics of normalisation layers.
    """
    training = [module for module in model.modules() if module.training]
    model.eval()
    try:
        with torch.no_grad():
            yield
    finally:
        for module in training:
            module.training = True


def in_one_dtype(features: Tensor, logits: Tensor) -> tuple[Tensor, Tensor]:
    """Both in the wider dtype of the two; under autocast they may differ."""
    dtype = torch.promote_types(features.dtype, logits.dtype)
    return features.to(dtype), logits.to(dtype)
