"""The arms of all run folders side by side: what each is called, and how it is drawn."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from gradmix_ext.experiments.styles import arm_styles
from gradmix_ext.report.load import ArmRecord, RunRecord

__all__ = ["Contender", "contenders", "run_names"]


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
    arms = [
        (run, name, arm)
        for run, name in zip(runs, run_names(runs), strict=True)
        for arm in run.arms
    ]
    styles = arm_styles([arm.label for _, _, arm in arms])
    return [
        Contender(
            arm.label if len(runs) == 1 else f"{name}: {arm.label}",
            run,
            arm,
            style.colour,
            style.marker,
            " ".join(map(str, style.dash)),
        )
        for (run, name, arm), style in zip(arms, styles, strict=True)
    ]


def run_names(runs: Sequence[RunRecord]) -> list[str]:
    """The folders' names; the whole path where two have the same."""
    short = [run.path.resolve().name for run in runs]
    count = Counter(short)
    return [
        name if count[name] == 1 else str(run.path) for name, run in zip(short, runs, strict=True)
    ]
