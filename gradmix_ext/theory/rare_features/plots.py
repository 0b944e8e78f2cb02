"""Pictures of the experiment, as PNG files."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from matplotlib.colors import LinearSegmentedColormap, Normalize, TwoSlopeNorm
from numpy.typing import NDArray

from gradmix_ext.experiments.plots import new_figure
from gradmix_ext.experiments.statistics import half_width, span
from gradmix_ext.experiments.styles import COLOURS
from gradmix_ext.theory.rare_features.experiment import Run
from gradmix_ext.theory.rare_features.training import Schedule

if TYPE_CHECKING:
    from gradmix_ext.theory.rare_features.results import StopMap, Table

__all__ = ["plot_curves", "plot_stop_map"]

_STOPPED = ((0, (5, 1.5)), (0, (3, 1, 1, 1)), (0, (1, 1)), (0, (5, 1, 1, 1, 1, 1)))
_ACCURACY = LinearSegmentedColormap.from_list("accuracy", ["#F7F7F7", "#56B4E9", "#003F63"])
_GAIN = LinearSegmentedColormap.from_list("gain", ["#D55E00", "#F7F7F7", "#0072B2"])
_AXIS_LABELS = {
    "rho": "ρ, share of rare samples",
    "sigma_p": "σ_p, noise",
    "alpha": "α, feature noise",
    "lam": "λ of mixup",
    "steps": "steps in all",
}


def plot_curves(table: Table, path: Path) -> None:
    """Rare accuracy and feature margins over the steps, mean and 95 % band of every training."""
    figure = new_figure(10.5, 6.4)
    grid = figure.subplots(2, 2, sharex=True)
    panels = (
        (grid[0, 0], "rare test data: accuracy (%)", _accuracy("rare")),
        (grid[0, 1], "the same, opposed feature noise only (%)", _accuracy("rare/opposed")),
        (grid[1, 0], "rare features: margin", _margin("rare_margin")),
        (grid[1, 1], "common features: margin", _margin("common_margin")),
    )
    styles = _styles(table.finished_arms())
    for axes, title, quantity in panels:
        for arm, (colour, line) in styles.items():
            runs = table.of(arm)
            steps = np.array(runs[0].history.step)
            values = np.array([quantity(run) for run in runs])
            mean = values.mean(axis=0)
            axes.plot(steps, mean, color=colour, ls=line, lw=1.5, label=arm.label)
            if len(runs) > 1:
                width = half_width(values)
                axes.fill_between(steps, mean - width, mean + width, color=colour, alpha=0.12, lw=0)
        axes.set_title(title, loc="left", fontsize=10)
        axes.spines[["top", "right"]].set_visible(False)
        axes.grid(axis="y", color="#DDDDDD", lw=0.6)
        axes.set_axisbelow(True)
    for axes in grid[0]:
        axes.set_ylim(-3, 103)
    for axes in grid[1]:
        axes.set_xlabel("step")
    handles, labels = grid[0, 0].get_legend_handles_labels()
    figure.legend(
        handles, labels, loc="outside right upper", title="training\nλ_x/λ_y", handlelength=3.2
    )
    counts = {len(table.of(arm)) for arm in table.finished_arms()}
    figure.suptitle(
        "What is learned, and when: "
        + ("one seed" if counts == {1} else f"mean and 95 % band of {span(counts)} seeds"),
        fontsize=11,
        x=0.01,
        ha="left",
    )
    figure.savefig(path)


def plot_stop_map(results: StopMap, path: Path) -> None:
    """Rare accuracy for every stop and value, and what stopping gained or cost."""
    values, stops = results.finished_values(), list(results.stops)
    accuracy = np.array([[100 * results.accuracy(v, s).mean for s in stops] for v in values])
    gain = np.array([[100 * results.gain(v, s).mean for s in stops[:-1]] for v in values])
    marks = [[results.verdict(v, s) for s in stops[:-1]] for v in values]
    figure = new_figure(1.6 + 1.25 * len(stops), 1.7 + 0.42 * len(values))
    left, right = figure.subplots(1, 2, width_ratios=[len(stops), len(stops) - 1])
    first = _draw_map(left, accuracy, _ACCURACY, Normalize(40.0, 100.0))
    # Gains are small beside losses: either side of 0 has its own scale.
    scale = TwoSlopeNorm(0.0, min(-10.0, float(gain.min())), max(10.0, float(gain.max())))
    second = _draw_map(right, gain, _GAIN, scale, signed=True)
    for row, cells in enumerate(marks):
        for column, verdict in enumerate(cells):
            if verdict:
                right.text(
                    column,
                    row + 0.36,
                    verdict,
                    ha="center",
                    va="center",
                    fontsize=5.5,
                    color=_ink(_GAIN, scale, gain[row, column]),
                )
    for axes, shown, title, image in (
        (left, stops, "rare test data: accuracy (%)", first),
        (right, stops[:-1], "minus that of mixup to the end (points)", second),
    ):
        axes.set_title(title, loc="left", fontsize=9)
        axes.set_xticks(range(len(shown)), [f"{100 * stop:.0f}" for stop in shown], fontsize=8)
        axes.set_yticks(range(len(values)), [f"{value:g}" for value in values], fontsize=8)
        axes.set_xlabel("mixup stopped after this share of the steps (%)", fontsize=8)
        figure.colorbar(image, ax=axes, shrink=0.85, pad=0.02).ax.tick_params(labelsize=7)
    config = results.config
    setting = ", ".join(
        f"{symbol} = {getattr(config, name):g}"
        for name, symbol in (("steps", "steps"), ("rho", "ρ"), ("sigma_p", "σ_p"), ("alpha", "α"))
        if name != results.axis
    )
    counts = {len(results.of(value)) for value in values}
    figure.suptitle(
        f"{results.subject.capitalize()}, stopped: {setting}; "
        f"{span(counts)} seed{'' if counts == {1} else 's'}",
        fontsize=10,
        x=0.01,
        ha="left",
    )
    left.set_ylabel(_AXIS_LABELS[results.axis], fontsize=8)
    figure.savefig(path)


def _draw_map(
    axes: Any,
    values: NDArray[np.float64],
    colours: LinearSegmentedColormap,
    scale: Normalize,
    signed: bool = False,
) -> Any:
    image = axes.imshow(values, cmap=colours, norm=scale, aspect="auto")
    for (row, column), value in np.ndenumerate(values):
        number = round(value)
        axes.text(
            column,
            row,
            f"{number:+d}" if signed and number else f"{number}",
            ha="center",
            va="center",
            fontsize=8,
            color=_ink(colours, scale, value),
        )
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)
    return image


def _ink(colours: LinearSegmentedColormap, scale: Normalize, value: float) -> str:
    """Black on light cells, white on dark ones, by the cell's luminance."""
    red, green, blue, _ = colours(float(scale(value)))
    return "black" if 0.299 * red + 0.587 * green + 0.114 * blue > 0.5 else "white"


def _styles(arms: list[Schedule]) -> dict[Schedule, tuple[str, Any]]:
    """Colour by λ, kind of line by stop; standard training is black."""
    pairs = list(dict.fromkeys((arm.lam_x, arm.lam_y) for arm in arms if arm != Schedule()))
    styles: dict[Schedule, tuple[str, Any]] = {}
    stopped: dict[tuple[float, float], int] = {}
    for arm in arms:
        if arm == Schedule():
            styles[arm] = ("#000000", "-")
            continue
        pair = (arm.lam_x, arm.lam_y)
        colour = COLOURS[pairs.index(pair) % len(COLOURS)]
        if arm.stop is None:
            styles[arm] = (colour, "-")
        else:
            styles[arm] = (colour, _STOPPED[stopped.get(pair, 0) % len(_STOPPED)])
            stopped[pair] = stopped.get(pair, 0) + 1
    return styles


def _accuracy(name: str) -> Any:
    return lambda run: 100 * np.array(run.history.accuracy[name])


def _margin(name: str) -> Any:
    def mean_over_classes(run: Run) -> NDArray[np.float64]:
        margins: NDArray[np.float64] = np.array(getattr(run.history, name)).mean(axis=1)
        return margins

    return mean_over_classes
