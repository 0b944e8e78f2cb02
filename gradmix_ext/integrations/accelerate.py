"""What GradMix needs of Accelerate: the model without what ``prepare`` put around it.

Nothing is imported: the accelerator is the caller's.
"""

from __future__ import annotations

from typing import Any

from torch import nn

__all__ = ["bare_model"]


def bare_model(accelerator: Any, model: nn.Module) -> nn.Module:
    """A prepared model as it was, for ``mixer.update``; it shares its weights and hooks.

    It runs in the precision of the weights, not compiled and not distributed. Mixed precision
    makes other logits of those that the head gives, which a criterion cannot trace back.

    Args:
        accelerator: The ``Accelerator`` that prepared the model.
        model: What ``accelerator.prepare`` returned.
    """
    return _Bare(accelerator.unwrap_model(model, keep_torch_compile=False))


class _Bare(nn.Module):
    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        # Accelerate puts its own forward on the instance, and keeps the model's.
        own = vars(self.model)
        prepared = own.get("forward")
        if "_original_forward" in own:
            own["forward"] = own["_original_forward"]
        try:
            return self.model._call_impl(*args, **kwargs)  # what a call runs unless compiled
        finally:
            if prepared is not None:
                own["forward"] = prepared

    def named_modules(self, *args: Any, **kwargs: Any) -> Any:
        """The model's, so that ``head=`` names a layer as it does in the model."""
        return self.model.named_modules(*args, **kwargs)
