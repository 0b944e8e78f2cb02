"""AutoAttack (Croce and Hein, ICML 2020), through the package ``pyautoattack``."""

from __future__ import annotations

import logging
from collections.abc import Callable

import torch
from torch import Tensor, nn

__all__ = ["autoattack", "require_autoattack"]

# The targeted attacks of the standard version look at up to nine other classes, and their loss is a
# ratio of differences between the four largest logits.
_MOST_TARGETS = 9
_LEAST_CLASSES = 4


def require_autoattack() -> type:
    """The class AutoAttack.

    Raises:
        ImportError: the package is not installed.
    """
    try:
        from pyautoattack.autoattack import AutoAttack
    except ImportError as error:
        raise ImportError(
            "attack 'autoattack' needs the package pyautoattack: "
            "pip install 'gradmix_ext[robustness]'"
        ) from error
    found: type = AutoAttack
    return found


def autoattack(
    logits: Callable[[Tensor], Tensor],
    x: Tensor,
    y: Tensor,
    eps: float,
    low: Tensor,
    high: Tensor,
    generator: torch.Generator | None,
) -> Tensor:
    """Inputs within `eps` of `x` in the largest coordinate, found by the l-infinity ensemble.

    The standard version: untargeted and targeted APGD, targeted FAB and Square; for less than four
    classes the untargeted attacks APGD-CE, FAB and Square. The losses of all but APGD-CE compare
    logits, and work whatever the model's confidence. APGD-CE is the package's own: its gradient
    vanishes where a probability rounds to 1, and the others then do its share.

    Args:
        logits: Maps inputs to logits [N, C]. Classes whose logit is -inf take no part.
        x: Inputs, [N, ...].
        y: Labels, [N].
        eps: Radius.
        low: Least value of an input, one finite number.
        high: Greatest value, one finite number.
        generator: Gives the seed, on the CPU.

    Raises:
        ImportError: the package is not installed.
        ValueError: the bounds are not two finite numbers.
    """
    make = require_autoattack()
    if low.numel() != 1 or high.numel() != 1 or not bool((high - low).isfinite()):
        raise ValueError("attack 'autoattack' needs bounds of two finite numbers")
    # The package works on images in [0, 1]: the model is given what it expects behind its back.
    lowest, span = low.flatten()[0], (high - low).flatten()[0]
    shape = x.shape[1:]
    image_shape = shape if len(shape) == 3 else (1, 1, shape.numel())
    with torch.no_grad():
        classes = logits(x[:1])[0].isfinite().nonzero().flatten()
    position = torch.zeros(int(classes[-1]) + 1, dtype=torch.int64, device=x.device)
    position[classes] = torch.arange(len(classes), device=x.device)

    class Scaled(nn.Module):
        def forward(self, image: Tensor) -> Tensor:
            return logits(image.reshape(-1, *shape) * span + lowest)[:, classes]

    standard = len(classes) >= _LEAST_CLASSES
    attack = make(
        Scaled(),
        norm="Linf",
        eps=eps / span.item(),
        seed=int(torch.randint(2**31, (), generator=generator)),
        version="custom",
        attacks=["apgd-ce", "apgd-t", "fab-t", "square"]
        if standard
        else ["apgd-ce", "fab", "square"],
        device=x.device,
    )
    attack.verbose = False
    attack.logger.setLevel(logging.WARNING)
    attack.apgd.n_restarts = 1
    for targeted in (attack.apgd_targeted, attack.fab):
        targeted.n_target_classes = min(_MOST_TARGETS, len(classes) - 1)
        targeted.n_restarts = 1
    images = ((x - lowest) / span).clamp(0, 1).reshape(-1, *image_shape)
    with torch.enable_grad():
        found, *_ = attack.run_standard_evaluation(images, position[y], batch_size=len(x))
    moved: Tensor = found.detach().reshape(x.shape) * span + lowest
    return moved.clamp(low, high)
