"""Accuracy against the size of the attack."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import cast

import torch
from torch import Tensor, nn

from gradmix_ext import _checks as checks
from gradmix_ext.mixers.head import evaluation
from gradmix_ext.robustness.attacks import ATTACKS, Attack
from gradmix_ext.robustness.autoattack import require_autoattack
from gradmix_ext.robustness.calibration import expected_calibration_error

__all__ = ["RobustAccuracy", "evaluate"]

Bound = float | Tensor


class RobustAccuracy(dict[float, float]):
    """Accuracy, as a fraction, for every eps; a dict with more to ask for.

    Attributes:
        ece: Expected calibration error on the attacked samples, for every eps.
        samples: How many samples were attacked.
    """

    def __init__(
        self, accuracy: Mapping[float, float], ece: Mapping[float, float], samples: int
    ) -> None:
        super().__init__(accuracy)
        self.ece: dict[float, float] = dict(ece)
        self.samples = samples


def evaluate(
    model: nn.Module,
    loader: Iterable[tuple[Tensor, Tensor]] | tuple[Tensor, Tensor],
    attack: str = "pgd",
    eps: Sequence[float] | float = (0.0, 0.05, 0.1, 0.2),
    bounds: tuple[Bound, Bound] = (0.0, 1.0),
    *,
    class_mask: Tensor | None = None,
    steps: int = 40,
    step_size: float | None = None,
    random_start: bool = False,
    generator: torch.Generator | None = None,
) -> RobustAccuracy:
    """Accuracy of a model on inputs moved by up to `eps` to be misclassified.

    The attacks know the model, and move inputs in the model's own input range: eps and bounds are
    in the unit of what the loader gives. They maximise the cross-entropy; the first three follow
    the direction of its gradient, which is found whatever the model's confidence.

    - ``"fgsm"``: one step of eps along the sign of the gradient (Goodfellow et al., ICLR 2015).
    - ``"pgd"``: projected gradient ascent in the l-infinity ball (Madry et al., ICLR 2018).
    - ``"pgd_l2"``: the same in the l2 ball.
    - ``"autoattack"``: the ensemble AutoAttack in the l-infinity ball, where it is installed.

    An eps of 0 is no attack: the clean accuracy, exactly. FGSM's single long step may overshoot, so
    its accuracy can rise again with eps where the model is far from linear; that of PGD does not
    but for samples that one run of it misses.

    Args:
        model: Maps inputs [N, ...] to logits [N, C]. Put in evaluation mode for the pass; its mode
            is restored, its parameters and their gradients stay as they are.
        loader: Batches (x, y), read once, or one pair of tensors; moved to the model's device.
        attack: Name of the attack.
        eps: Radii of the ball, one or several.
        bounds: Least and greatest value of an input, numbers or tensors that broadcast to one
            sample (per channel: [C, 1, 1]); infinite where there is none.
        class_mask: Classes that a prediction may name, [C] bool, such as the classes seen so far;
            all by default.
        steps: Steps of PGD.
        step_size: Step of PGD; 2.5 eps / steps by default.
        random_start: Start PGD from a random point of the ball instead of the input.
        generator: Source of randomness, on the CPU; PyTorch's own by default.

    Returns:
        The accuracy for every eps, in the order in which they were given.

    Raises:
        ImportError: the attack needs a package that is not installed.
        TypeError: an argument has the wrong type or dtype.
        ValueError: an argument is out of range, an input is out of bounds, or there is no sample.
        RuntimeError: a label is not a class, or not one of `class_mask`.
    """
    radii = _checked(attack, eps, steps, step_size)
    logits: dict[float, list[Tensor]] = {radius: [] for radius in radii}
    targets = []
    device = next((p.device for p in model.parameters()), torch.device("cpu"))

    def masked(x: Tensor) -> Tensor:
        output = cast(Tensor, model(x))
        return output if class_mask is None else output.masked_fill(~mask, -torch.inf)

    mask = torch.zeros(0, dtype=torch.bool) if class_mask is None else class_mask.to(device)
    with evaluation(model):
        for x, y in _batches(loader, device):
            low, high = _checked_bounds(bounds, x)
            attacker = Attack(attack, low, high, steps, step_size, random_start, generator)
            clean = _checked_logits(model, x, y, None if class_mask is None else mask)
            clean = clean if class_mask is None else clean.masked_fill(~mask, -torch.inf)
            for radius in radii:
                found = masked(attacker(masked, x, y, radius)) if radius else clean
                logits[radius].append(found.cpu())
            targets.append(y.cpu())
    if not targets:
        raise ValueError("evaluate: loader gave no samples")
    target = torch.cat(targets)
    accuracy, ece = {}, {}
    for radius, parts in logits.items():
        outputs = torch.cat(parts)
        accuracy[radius] = (outputs.argmax(1) == target).double().mean().item()
        ece[radius] = expected_calibration_error(outputs, target)
    return RobustAccuracy(accuracy, ece, len(target))


def _checked(
    attack: str, eps: Sequence[float] | float, steps: int, step_size: float | None
) -> list[float]:
    """The radii, of valid settings."""
    checks.choice("evaluate", "attack", attack, tuple(ATTACKS))
    if attack == "autoattack":
        require_autoattack()
    radii = [float(eps)] if isinstance(eps, (int, float)) else [float(value) for value in eps]
    if not radii:
        raise ValueError("evaluate: eps must name at least one radius, got none")
    for radius in radii:
        if not (math.isfinite(radius) and radius >= 0):
            raise ValueError(f"evaluate: eps must be finite and not negative, got {radius:g}")
    if len(set(radii)) < len(radii):
        raise ValueError(f"evaluate: eps names a radius twice: {radii}")
    if steps < 1:
        raise ValueError(f"evaluate: steps must be positive, got {steps}")
    if step_size is not None and not (math.isfinite(step_size) and step_size > 0):
        raise ValueError(f"evaluate: step_size must be positive and finite, got {step_size}")
    return radii


def _batches(
    loader: Iterable[tuple[Tensor, Tensor]] | tuple[Tensor, Tensor], device: torch.device
) -> Iterable[tuple[Tensor, Tensor]]:
    """The batches that hold a sample, on the device of the model."""
    pair = isinstance(loader, (tuple, list)) and len(loader) == 2
    if pair and all(isinstance(part, Tensor) for part in cast(Sequence[object], loader)):
        loader = [cast(tuple[Tensor, Tensor], tuple(loader))]
    for x, y in cast(Iterable[tuple[Tensor, Tensor]], loader):
        checks.floating("evaluate", "x", x)
        if x.dim() < 2:
            raise ValueError(f"evaluate: x must be [N, ...], got shape {list(x.shape)}")
        checks.vector("evaluate", "y", y, len(x), torch.int64, y.device)
        if len(x):
            yield x.to(device), y.to(device)


def _checked_bounds(bounds: tuple[Bound, Bound], x: Tensor) -> tuple[Tensor, Tensor]:
    """Least and greatest value of an input as tensors."""
    low, high = (torch.as_tensor(bound, dtype=x.dtype, device=x.device) for bound in bounds)
    for name, bound in (("low", low), ("high", high)):
        try:
            fits = torch.broadcast_shapes(bound.shape, x.shape[1:]) == x.shape[1:]
        except RuntimeError:
            fits = False
        if not fits:
            raise ValueError(
                f"evaluate: bounds[{name}] of shape {list(bound.shape)} do not broadcast to a "
                f"sample of shape {list(x.shape[1:])}"
            )
    if not bool((low < high).all()):
        raise ValueError(f"evaluate: bounds must be (low, high) with low < high, got {bounds}")
    if not bool(((x >= low) & (x <= high)).all()):
        raise ValueError(
            f"evaluate: inputs reach from {x.min().item():g} to {x.max().item():g}, outside bounds "
            f"{bounds}: give the range of the model's inputs"
        )
    return low, high


def _checked_logits(model: nn.Module, x: Tensor, y: Tensor, class_mask: Tensor | None) -> Tensor:
    """Logits of the inputs as they are, after a look at their shape and at the labels."""
    logits = model(x)
    if not isinstance(logits, Tensor) or logits.dim() != 2 or len(logits) != len(x):
        shape = list(logits.shape) if isinstance(logits, Tensor) else type(logits).__name__
        raise ValueError(f"evaluate: model must return logits [{len(x)}, C], got {shape}")
    checks.class_mask("evaluate", class_mask, logits.shape[1], x.device)
    checks.labels("evaluate", "y", y, logits.shape[1], class_mask)
    return logits
