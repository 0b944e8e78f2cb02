"""Accuracy-against-eps curves of several arms over their seeds."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from gradmix_ext.experiments.plots import new_figure
from gradmix_ext.experiments.statistics import Estimate, half_width, span
from gradmix_ext.experiments.styles import arm_styles
from gradmix_ext.experiments.tables import Table
from gradmix_ext.robustness.attacks import ATTACKS
from gradmix_ext.robustness.evaluate import RobustAccuracy

__all__ = ["Curves"]

_NORMS = {"linf": "ℓ∞", "l2": "ℓ2"}


@dataclass
class Curves:
    """Robust accuracy per arm and seed.

    Attributes:
        attack: Name of the attack.
        bounds: The range of the inputs.
        eps: The radii.
        runs: Arm: seed: accuracy and ECE for every radius.
        labels: Arm: its label, where arms of several folders have the same.
        planned: How many models are to be attacked; with fewer, the tables say so.
    """

    attack: str
    bounds: tuple[float, float]
    eps: tuple[float, ...]
    runs: dict[str, dict[int, RobustAccuracy]] = field(default_factory=dict)
    labels: dict[str, str] = field(default_factory=dict)
    planned: int = 0

    def add(self, arm: str, seed: int, accuracy: RobustAccuracy, label: str | None = None) -> None:
        """Keep what one run gave."""
        self.runs.setdefault(arm, {})[seed] = accuracy
        self.labels[arm] = label or arm

    @property
    def attacked(self) -> int:
        """How many models have been attacked."""
        return sum(map(len, self.runs.values()))

    def accuracy(self, arm: str, eps: float) -> Estimate:
        """Accuracy of an arm over its seeds."""
        return Estimate.of([run[eps] for run in self.runs[arm].values()])

    def ece(self, arm: str, eps: float) -> Estimate:
        """Expected calibration error of an arm over its seeds."""
        return Estimate.of([run.ece[eps] for run in self.runs[arm].values()])

    @property
    def unit(self) -> str:
        """What eps measures."""
        norm = _NORMS[ATTACKS[self.attack]]
        return f"eps, {norm} radius in inputs of [{self.bounds[0]:g}, {self.bounds[1]:g}]"

    def write(self, folder: Path, command: str, settings: Mapping[str, object]) -> list[Path]:
        """Write robustness.json, robustness.md and robustness.png; returns their paths."""
        content = {
            "command": command,
            "attack": self.attack,
            "norm": ATTACKS[self.attack],
            # JSON knows no infinity.
            "bounds": [bound if math.isfinite(bound) else None for bound in self.bounds],
            "settings": settings,
            "eps": self.eps,
            "arms": {
                arm: {
                    str(seed): {
                        "samples": run.samples,
                        "accuracy": list(run.values()),
                        "ece": list(run.ece.values()),
                    }
                    for seed, run in runs.items()
                }
                for arm, runs in self.runs.items()
            },
        }
        data, table, picture = (folder / f"robustness.{kind}" for kind in ("json", "md", "png"))
        data.write_text(json.dumps(content, indent=1) + "\n")
        table.write_text(self._markdown(), encoding="utf-8")
        self._plot(picture)
        return [table, data, picture]

    def _markdown(self) -> str:
        head = f"# Accuracy under {self.attack}, in percent\n\n{self.unit}. {self.over}\n"
        if self.attacked < self.planned:
            head += f"\n**Interrupted: {self.attacked} of {self.planned} models attacked.**\n"
        return "\n".join([head, *(table.markdown() for table in self.tables())])

    def tables(self) -> list[Table]:
        """Accuracy and calibration of every arm, eps by eps."""
        headings = ("arm, eps =", *(f"{eps:g}" for eps in self.eps))
        return [
            Table(
                f"{title} under {self.attack}, in percent",
                headings,
                tuple((arm, *(value(arm, eps).percent() for eps in self.eps)) for arm in self.runs),
            )
            for title, value in (("Accuracy", self.accuracy), ("ECE", self.ece))
        ]

    @property
    def over(self) -> str:
        """Over what the means are."""
        counts = {len(runs) for runs in self.runs.values()}
        if counts == {1}:
            return "One seed."
        return f"Mean ± 95 % confidence interval over {span(counts)} seeds."

    def _plot(self, path: Path) -> None:
        """Mean accuracy, and calibration error below it, with 95 % confidence bands."""
        figure = new_figure(8, 6.5)
        above, below = figure.subplots(2, 1, sharex=True, height_ratios=[2, 1])
        styles = arm_styles([self.labels[arm] for arm in self.runs])
        for (arm, runs), style in zip(self.runs.items(), styles, strict=True):
            accuracies = [list(run.values()) for run in runs.values()]
            errors = [list(run.ece.values()) for run in runs.values()]
            label = arm.replace("$", r"\$")  # no formula: the folder may be called so
            for axes, values in ((above, accuracies), (below, errors)):
                mean, low, high = _band(values)
                (line,) = axes.plot(self.eps, mean, markersize=5, label=label, lw=1.4, **style.line)
                axes.fill_between(self.eps, low, high, color=line.get_color(), alpha=0.15, lw=0)
        above.set(ylabel="accuracy (%)", ylim=(0, 102))
        below.set(ylabel="ECE (%)", xlabel=self.unit, ylim=(0, None))
        above.set_title(f"Accuracy under {self.attack}. {self.over}", loc="left", fontsize=11)
        above.legend(title="arm", loc="center left", bbox_to_anchor=(1.01, 0.5), handlelength=3)
        for axes in (above, below):
            axes.spines[["top", "right"]].set_visible(False)
            axes.grid(axis="y", color="#DDDDDD", lw=0.6)
        figure.savefig(path)


def _band(
    values: Sequence[Sequence[float]],
) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
    """Mean over seeds and the ends of its confidence interval, in percent."""
    array = 100 * np.array(values)
    mean: NDArray[np.float64] = array.mean(axis=0)
    width = half_width(array) if len(array) > 1 else np.zeros_like(mean)
    # An interval by Student's t knows no bounds; accuracy and calibration error do.
    return mean, (mean - width).clip(0, 100), (mean + width).clip(0, 100)
