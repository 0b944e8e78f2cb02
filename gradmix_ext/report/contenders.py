"""The arms of all run folders side by side: what each is called, and how it is drawn."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from gradmix_ext.report.load import ArmRecord, RunRecord

__all__ = ["Contender", "contenders", "run_names"]

_COLOURS = 7
_MARKERS = ("circle", "square", "diamond", "triangle", "cross", "down", "plus")
_DASHES = ("", "7 3", "2 3", "8 3 2 3")


@dataclass(frozen=True)
class Contender:
    """An arm of a run.

    Attributes:
        name: Its label; with several run folders, after the name of its folder.
        run: The folder.
        arm: The arm.
        colour: Name of a CSS variable.
        marker: Name of a shape.
        dash: SVG's stroke-dasharray.
    """

    name: str
    run: RunRecord
    arm: ArmRecord
    colour: str
    marker: str
    dash: str


def contenders(runs: Sequence[RunRecord]) -> list[Contender]:
    """All arms of all runs. The bounds are no contestants: they are grey and black, dashed."""
    found: list[Contender] = []
    styled = 0
    for run, run_name in zip(runs, run_names(runs), strict=True):
        for arm in run.arms:
            name = arm.label if len(runs) == 1 else f"{run_name}: {arm.label}"
            if arm.label == "finetune":
                style = ("lower", "", "2 3")
            elif arm.label == "joint":
                style = ("upper", "", "7 4")
            else:
                turn, place = divmod(styled, _COLOURS)
                marker = _MARKERS[(place + turn) % len(_MARKERS)]
                style = (f"c{place + 1}", marker, _DASHES[turn % len(_DASHES)])
                styled += 1
            found.append(Contender(name, run, arm, *style))
    return found


def run_names(runs: Sequence[RunRecord]) -> list[str]:
    """The folders' names; the whole path where two have the same."""
    short = [run.path.resolve().name for run in runs]
    count = Counter(short)
    return [
        name if count[name] == 1 else str(run.path) for name, run in zip(short, runs, strict=True)
    ]
