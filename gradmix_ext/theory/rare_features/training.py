"""Full-batch gradient descent on all pairs, with a schedule for λ."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from gradmix_ext.continual.trainer import DivergedError
from gradmix_ext.theory.rare_features.data import PatchData
from gradmix_ext.theory.rare_features.network import PatchNetwork
from gradmix_ext.theory.rare_features.pairs import class_signs, pair_loss

__all__ = ["History", "Schedule", "train"]

_ARM = re.compile(r"(?P<x>[\d.]+)(/(?P<y>[\d.]+))?((?P<kind>[@~])(?P<stop>\d+))?")


@dataclass(frozen=True)
class Schedule:
    """λ of inputs and labels over the steps.

    Attributes:
        lam_x: λ of the inputs, in [0, 1]; 1 mixes no inputs.
        lam_y: λ of the labels, in [0, 1]; 1 mixes no labels ("inputs only").
        stop: Number of mixup steps; training without mixing from then on. None: never stop.
        taper: Raise both λ linearly to 1 over the steps up to `stop`, instead of keeping them.
    """

    lam_x: float = 1.0
    lam_y: float = 1.0
    stop: int | None = None
    taper: bool = False

    def __post_init__(self) -> None:
        for name in ("lam_x", "lam_y"):
            value = getattr(self, name)
            if not 0 <= value <= 1:
                raise ValueError(f"{name} must be in [0, 1], got {value}")
        if self.stop is not None and self.stop < 0:
            raise ValueError(f"stop must be at least 0, got {self.stop}")
        if self.taper and not self.stop:
            raise ValueError(f"a taper needs a positive stop, got {self.stop}")

    @classmethod
    def parse(cls, text: str) -> Schedule:
        """Read what `label` writes: standard, LX/LY, LX/LY@STOP (stopped) or LX/LY~STOP (tapered).

        LX alone means LX/LX.

        Raises:
            ValueError: it is none of them, or a number is out of range.
        """
        if text == "standard":
            return cls()
        match = _ARM.fullmatch(text)
        try:
            if match is None:
                raise ValueError("no match")
            lam_x = float(match["x"])
            lam_y = float(match["y"] or match["x"])
        except ValueError:
            raise ValueError(
                f"unknown training '{text}': write standard, LX/LY, LX/LY@STOP (mixup stopped "
                "after STOP steps) or LX/LY~STOP (tapered to none over STOP steps)"
            ) from None
        stop = int(match["stop"]) if match["stop"] else None
        try:
            return cls(lam_x, lam_y, stop, match["kind"] == "~")
        except ValueError as error:
            raise ValueError(f"training '{text}': {error}") from None

    @property
    def label(self) -> str:
        """What tables call it, and :meth:`parse` reads."""
        if self == Schedule():
            return "standard"
        stop = "" if self.stop is None else f"{'~' if self.taper else '@'}{self.stop}"
        return f"{self.lam_x:g}/{self.lam_y:g}{stop}"

    def at(self, step: int) -> tuple[float, float]:
        """λ_x and λ_y of a step, counted from 0."""
        if self.stop is None:
            return self.lam_x, self.lam_y
        if step >= self.stop:
            return 1.0, 1.0
        share = step / self.stop if self.taper else 0.0
        return self.lam_x + share * (1 - self.lam_x), self.lam_y + share * (1 - self.lam_y)


@dataclass
class History:
    """What training recorded; every list has one entry per entry of `step`.

    Attributes:
        step: Steps done, from 0 to the last.
        loss: The loss that the next step descends (of the schedule's λ at that step).
        common_margin: Margin of either class's common feature (see :meth:`PatchNetwork.margins`).
        rare_margin: Margin of either class's rare feature.
        accuracy: Name of a test set: its accuracies; ``"train"`` is among them. ``NAME/opposed``
            counts only samples whose feature noise is that of the other class.
        snapshots: The network after the steps that were asked for.
        network: The network after the last step.
    """

    step: list[int] = field(default_factory=list)
    loss: list[float] = field(default_factory=list)
    common_margin: list[list[float]] = field(default_factory=list)
    rare_margin: list[list[float]] = field(default_factory=list)
    accuracy: dict[str, list[float]] = field(default_factory=dict)
    snapshots: dict[int, PatchNetwork] = field(default_factory=dict, repr=False)
    network: PatchNetwork | None = field(default=None, repr=False)

    def curves(self) -> dict[str, Any]:
        """The recorded numbers as plain lists, for JSON."""
        names = ("step", "loss", "common_margin", "rare_margin", "accuracy")
        return {name: getattr(self, name) for name in names}


def train(
    network: PatchNetwork,
    data: PatchData,
    schedule: Schedule,
    *,
    steps: int,
    lr: float,
    features: Tensor,
    tests: Mapping[str, PatchData] | None = None,
    record_every: int = 50,
    snapshots: Collection[int] = (),
    on_record: Callable[[int], None] | None = None,
) -> History:
    """Train by gradient descent on the loss of all samples, or of all pairs of samples.

    Args:
        network: Where to start; it is not changed.
        data: Training data, on the network's device and in its dtype, as everything else here.
        schedule: λ over the steps.
        steps: Number of steps, at least 1.
        lr: Learning rate.
        features: Features whose margins are recorded, [4, d].
        tests: Test sets whose accuracy is recorded.
        record_every: Steps between records; the first and the last state are always recorded.
        snapshots: Steps after which to keep the network.
        on_record: Called with the number of steps done at every record.

    Raises:
        ValueError: `steps`, `lr` or `record_every` is not positive.
        DivergedError: the loss is no longer finite.
    """
    for name, value in (("steps", steps), ("lr", lr), ("record_every", record_every)):
        if not 0 < value < math.inf:
            raise ValueError(f"{name} must be positive and finite, got {value}")
    history = History()
    sets = {"train": data, **(tests or {})}
    wanted = frozenset(snapshots)
    y, sign = data.y.to(network.weight.dtype), class_signs(network, data)
    kernel = len(data.atoms) < 2 * data.atoms.shape[1]
    state = (_KernelState if kernel else _DirectState)(network, data)
    gather, scale = data.index.flatten(), data.scale.reshape(-1, 1)
    for step in range(steps + 1):
        products = state.products()  # [U, 2 m]
        a = (scale * products[gather]).view(len(data), -1)
        loss, grad = pair_loss(a, sign, y, *schedule.at(step), network.activation)
        if step % record_every == 0 or step == steps:
            _record(history, step, loss, state.network(), features, sets)
            if on_record is not None:
                on_record(step)
        if step in wanted:
            history.snapshots[step] = state.network()
        if step < steps:
            patches = scale * grad.view(len(gather), -1)
            state.descend(torch.zeros_like(products).index_add_(0, gather, patches), lr)
    history.network = state.network()
    return history


def _record(
    history: History,
    step: int,
    loss: Tensor,
    network: PatchNetwork,
    features: Tensor,
    sets: Mapping[str, PatchData],
) -> None:
    value = loss.item()
    if not math.isfinite(value):
        raise DivergedError(f"the loss is {value} at step {step}: try a smaller learning rate")
    history.step.append(step)
    history.loss.append(value)
    common, rare = network.margins(features).tolist()
    history.common_margin.append(common)
    history.rare_margin.append(rare)
    for name, data in sets.items():
        correct = network.correct(data)
        history.accuracy.setdefault(name, []).append(correct.double().mean().item())
        if name != "train":
            opposed = correct[data.opposed].double().mean().item()
            history.accuracy.setdefault(f"{name}/opposed", []).append(opposed)


class _DirectState:
    """Weights, and their inner products with the U atoms: 4 U m d multiplications a step."""

    def __init__(self, network: PatchNetwork, data: PatchData) -> None:
        self._start, self._atoms = network, data.atoms
        self._weight = network.weight.flatten(0, 1).clone()

    def products(self) -> Tensor:
        """<w_r, z_u>, [U, 2 m]."""
        return self._atoms @ self._weight.T

    def descend(self, grad: Tensor, lr: float) -> None:
        """One step, for the gradient in the inner products."""
        self._weight -= lr * (grad.T @ self._atoms)

    def network(self) -> PatchNetwork:
        """The network as it is now."""
        weight = self._weight.view_as(self._start.weight).clone()
        return PatchNetwork(weight, self._start.activation)


class _KernelState:
    """The same for U < 2 d, with 2 U² m multiplications a step.

    Every gradient is a combination of atoms, so W = W_0 - Cᵀ Z, and the inner products Z Wᵀ are
    Z W_0ᵀ - (Z Zᵀ) C with a fixed Gram matrix.
    """

    def __init__(self, network: PatchNetwork, data: PatchData) -> None:
        self._start, self._atoms = network, data.atoms
        self._gram = data.atoms @ data.atoms.T
        self._first = data.atoms @ network.weight.flatten(0, 1).T
        self._moved = torch.zeros_like(self._first)

    def products(self) -> Tensor:
        """<w_r, z_u>, [U, 2 m]."""
        return torch.addmm(self._first, self._gram, self._moved, alpha=-1)

    def descend(self, grad: Tensor, lr: float) -> None:
        """One step, for the gradient in the inner products."""
        self._moved.add_(grad, alpha=lr)

    def network(self) -> PatchNetwork:
        """The network as it is now."""
        moved = (self._moved.T @ self._atoms).view_as(self._start.weight)
        return PatchNetwork(self._start.weight - moved, self._start.activation)
