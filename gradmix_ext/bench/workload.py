"""What a benchmark consists of: several ways to compute the same at several sizes."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from enum import Enum
from typing import Any, NamedTuple

import torch
from torch import Tensor

__all__ = ["GOAL", "Case", "Missing", "Role", "Setting", "Target", "Timed", "Workload", "plain"]

Inputs = tuple[Any, ...]
Call = Callable[..., Any]


#: Name of a limit that is a given time: the same on every machine, so not for comparing reports.
GOAL = "limit: the goal"


class Role(str, Enum):
    """Why a case is there."""

    OURS = "ours"
    ALTERNATIVE = "alternative"
    LIMIT = "limit"  # what the machine, or a part of the work alone, allows


class Missing(Exception):  # noqa: N818 - it says what is missing, and is no failure
    """A case cannot be measured here; the message says why."""


class Timed(NamedTuple):
    """What a call returns that holds the clock itself, for instance in a process of its own."""

    seconds: float
    value: Any = None


@dataclass(frozen=True)
class Setting:
    """One size of a workload.

    Attributes:
        name: as the tables show it, such as ``"2000x100x512 float32"``.
        values: what the functions of the workload read: sizes, dtypes.
        quick: whether it is part of a quick run.
        axis: what a series of settings varies, for scaling curves.
        at: the value of that axis.
    """

    name: str
    values: Mapping[str, Any] = field(default_factory=dict)
    quick: bool = False
    axis: str = ""
    at: float = 0.0

    def __getitem__(self, key: str) -> Any:
        return self.values[key]


def plain(function: Call) -> Callable[[Setting, torch.device], Call]:
    """The `prepare` of a case that needs no preparation."""
    return lambda setting, device: function


@dataclass(frozen=True)
class Case:
    """One way to do the work.

    Attributes:
        name: as the tables show it.
        prepare: gives the call for a setting and a device; it takes the workload's inputs. Raises
            `Missing` where it cannot be had.
        role: why the case is there.
        needs: the distribution that has to be installed.
        memory: bytes that it will take at a setting; where there are fewer it is left out.
        slow: whether a quick run leaves it out.
        value: what of the call's result is compared with the truth.
        truth: replaces the workload's truth for a case that draws for itself; takes the inputs and
            the result.
        in_process: whether its memory is that of this process.
    """

    name: str
    prepare: Callable[[Setting, torch.device], Call]
    role: Role = Role.ALTERNATIVE
    needs: str = ""
    memory: Callable[[Setting], float] | None = None
    slow: bool = False
    value: Callable[[Any], Any] = lambda result: result
    truth: Callable[[Inputs, Any], Tensor] | None = None
    in_process: bool = True


@dataclass(frozen=True)
class Target:
    """A goal: `base` takes at most 1/`at_least` of the time of `case`.

    Attributes:
        case: the yardstick.
        at_least: the least ratio of its time to that of `base`.
        base: one of the project's own cases.
        device: where the goal holds: ``"cpu"``, ``"cuda"`` or ``""`` for both.
        settings: the names of the settings that it is about; all if empty.
    """

    case: str
    at_least: float
    base: str = "gradmix_ext"
    device: str = ""
    settings: tuple[str, ...] = ()


@dataclass(frozen=True)
class Workload:
    """A piece of work, the ways to do it, and what it cannot do without.

    Attributes:
        id: P1 to P7, or ``"scaling"``.
        name: what is measured, such as the op; starts the name of each of its groups.
        settings: the sizes.
        cases: the ways; the first of the project's own is what ratios are formed with.
        inputs: makes the inputs of a call, by random numbers, on the device.
        truth: the right result in float64, from the setting and the inputs; None if each case
            checks itself.
        floor: (bytes, floating-point operations) that the work needs at least at a setting, for the
            roofline; zeros where this says nothing.
        tolerance: largest error that is let through, relative to the largest element of the truth.
        targets: goals.
        devices: kinds of device that the workload runs on.
    """

    id: str
    name: str
    settings: tuple[Setting, ...]
    cases: tuple[Case, ...]
    inputs: Callable[[Setting, torch.device], Inputs] = lambda setting, device: ()
    truth: Callable[..., Tensor] | None = None
    floor: Callable[[Setting], tuple[float, float]] = lambda setting: (0.0, 0.0)
    tolerance: Callable[[Setting], float] = lambda setting: 1e-4
    targets: tuple[Target, ...] = ()
    devices: tuple[str, ...] = ("cpu", "cuda")

    def title(self, setting: Setting) -> str:
        """The name of the group at a setting."""
        return f"{self.name} {setting.name}".strip()

    def chosen(self, quick: bool, match: str = "") -> list[Setting]:
        """The settings of a run."""
        return [
            setting
            for setting in self.settings
            if (setting.quick or not quick) and match in f"{self.name} {setting.name}"
        ]
