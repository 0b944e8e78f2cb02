"""Plots of a comparison, as PNG files."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure
from numpy.typing import NDArray

from gradmix_ext.experiments.finished import FinishedRun
from gradmix_ext.experiments.statistics import half_width, span
from gradmix_ext.experiments.styles import arm_styles

if TYPE_CHECKING:
    from gradmix_ext.experiments.compare import Comparison

__all__ = ["new_figure", "plot_accuracy", "plot_class_pairs"]

_HELPFUL, _DETRIMENTAL = "#0072B2", "#D55E00"
_MAP = LinearSegmentedColormap.from_list("pairs", [_DETRIMENTAL, "#F7F7F7", _HELPFUL])
_MAX_ROWS = 5
_MAX_COLUMNS = 5


def plot_accuracy(comparison: Comparison, path: Path) -> None:
    """Mean accuracy over the tasks seen so far, after each task, with 95 % confidence bands."""
    curves, counts = [], set()
    for arm in comparison.finished_arms():
        matrices = [run.result.accuracy_matrix.numpy() for run in comparison.of(arm)]
        values = 100 * np.array(
            [[row[: t + 1].mean() for t, row in enumerate(R)] for R in matrices]
        )
        width = half_width(values) if len(values) > 1 else None
        counts.add(len(values))
        curves.append((arm, values.mean(axis=0), width))
    figure = new_figure(8, 5)
    axes = figure.subplots()
    styles = arm_styles([arm.label for arm, _, _ in curves])
    styled = zip(curves, styles, strict=True)
    for (arm, mean, width), style in sorted(styled, key=lambda each: -each[0][1][-1]):
        tasks = np.arange(1, len(mean) + 1)
        label = f"{arm.label}  {mean[-1]:.1f}"
        (line,) = axes.plot(tasks, mean, markersize=5, label=label, **style.line)
        if width is not None:
            # An interval by Student's t knows no bounds, an accuracy does.
            low, high = (mean - width).clip(0, 100), (mean + width).clip(0, 100)
            axes.fill_between(tasks, low, high, color=line.get_color(), alpha=0.15, lw=0)
    scenario = comparison.experiment.scenario(comparison.seeds[0])
    seen = np.cumsum([len(task.classes) for task in scenario])
    axes.set_xticks(
        range(1, len(scenario) + 1),
        [f"{t}\n{k} classes" if t == 1 else f"{t}\n{k}" for t, k in enumerate(seen, start=1)],
    )
    axes.set(
        xlabel="after task (classes seen so far)",
        ylabel="accuracy over the tasks so far (%)",
        ylim=(0, 102),
    )
    band = f"mean and 95 % confidence band over {span(counts)} seeds"
    band = "one seed" if counts == {1} else band
    axes.set_title(f"{scenario.name}: accuracy after each task, {band}", loc="left", fontsize=11)
    axes.legend(
        title="arm, accuracy at the end",
        loc="center left",
        bbox_to_anchor=(1.01, 0.5),
        handlelength=3,  # long enough for a dash
    )
    _write(figure, path)


def plot_class_pairs(runs: Sequence[FinishedRun], path: Path) -> bool:
    """The helpful and detrimental class pairs over time, as small multiples.

    Classes stand in the order in which they came, so that seeds with different class orders can be
    averaged. Above the maps: the share of helpful pairs, epoch by epoch, by kind of pair.

    Returns:
        False, and no file, when there is nothing to show: no task has a buffer to protect.
    """
    share, task, epoch, sizes = _helpful_share(runs)
    later = np.arange(1, len(sizes))
    if not len(later):
        return False
    rows = _spread(later, _MAX_ROWS)
    columns = _spread(np.arange(int(epoch.max()) + 1), _MAX_COLUMNS)
    figure = new_figure(1.8 * len(columns) + 2.2, 2.0 * len(rows) + 3.4)
    parts: Any = figure.subfigures(2, 1, height_ratios=[1.4, len(rows)])
    above, below = parts
    _plot_kinds(above.subplots(), share, task, sizes)
    grid = below.subplots(len(rows), len(columns), squeeze=False)
    image: Any = None
    for row, t in enumerate(rows):
        for column, e in enumerate(columns):
            index = int(np.flatnonzero((task == t) & (epoch == e))[0])
            axes = grid[row, column]
            image = _plot_map(axes, share[index], sizes[: t + 1])
            if row == 0:
                axes.set_title(f"epoch {e + 1}", fontsize=9)
            if column == 0:
                axes.set_ylabel(f"during task {t + 1}", fontsize=9)
    bar = below.colorbar(image, ax=grid, shrink=0.6, aspect=25, pad=0.02, ticks=[0, 0.5, 1])
    if len(runs) > 1:
        names = ["detrimental in\nall seeds", "in half of them", "helpful in\nall seeds"]
    else:
        names = ["detrimental", "", "helpful"]
    bar.ax.set_yticklabels(names, fontsize=8)
    below.supxlabel(
        "one cell per class pair; classes in the order in which they came, tasks numbered",
        fontsize=9,
    )
    _write(figure, path)
    return True


def _plot_map(axes: Any, share: NDArray[np.float64], sizes: Sequence[int]) -> Any:
    """One map, with the tasks seen so far set apart; what is still to come stays empty."""
    image = axes.imshow(share, cmap=_MAP, vmin=0, vmax=1)
    bounds = np.cumsum([0, *sizes])
    axes.hlines(bounds - 0.5, -0.5, bounds[-1] - 0.5, color="#333333", lw=0.6, clip_on=False)
    axes.vlines(bounds - 0.5, -0.5, bounds[-1] - 0.5, color="#333333", lw=0.6, clip_on=False)
    centres = (bounds[:-1] + bounds[1:] - 1) / 2
    numbers = [str(t) for t in range(1, len(sizes) + 1)]
    axes.xaxis.tick_top()  # beside the cells, which start at the top left
    axes.set_xticks(centres, numbers, fontsize=7)
    axes.set_yticks(centres, numbers, fontsize=7)
    axes.tick_params(length=0, pad=2)
    axes.spines[:].set_visible(False)
    return image


def _spread(values: NDArray[np.int64], most: int) -> NDArray[np.int64]:
    """At most `most` of the values, evenly spread, the first and the last among them."""
    chosen = np.linspace(0, len(values) - 1, min(len(values), most)).round().astype(int)
    kept: NDArray[np.int64] = values[np.unique(chosen)]
    return kept


def _helpful_share(
    runs: Sequence[FinishedRun],
) -> tuple[NDArray[np.float64], NDArray[np.int64], NDArray[np.int64], list[int]]:
    """Share of seeds in which a pair was helpful, [E, C, C] in class order; NaN while unseen."""
    shares = []
    for run in runs:
        maps = run.pair_maps
        assert maps is not None
        order = np.array(run.class_order)
        allowed = maps.allowed.numpy()[:, order][:, :, order].astype(np.float64)
        seen = maps.seen.numpy()[:, order]
        allowed[~(seen[:, :, None] & seen[:, None, :])] = np.nan
        shares.append(allowed)
    maps = runs[0].pair_maps
    assert maps is not None
    sizes = [len(classes) for classes in runs[0].result.task_classes]
    return np.mean(shares, axis=0), maps.task.numpy(), maps.epoch.numpy(), sizes


def _plot_kinds(
    axes: Any, share: NDArray[np.float64], task: NDArray[np.int64], sizes: Sequence[int]
) -> None:
    """Share of helpful pairs per epoch: both classes old, both of the current task, or one each."""
    bounds = np.cumsum([0, *sizes])
    kinds: dict[str, list[float]] = {"both old": [], "old and current": [], "both current": []}
    position = np.flatnonzero(task > 0)
    for index in position:
        old, end = bounds[task[index]], bounds[task[index] + 1]
        upper = np.triu(np.ones((end, end), dtype=bool))
        is_old = np.arange(end) < old
        both_old = upper & is_old[:, None] & is_old
        both_current = upper & ~is_old[:, None] & ~is_old
        helpful = share[index, :end, :end]
        kinds["both old"].append(helpful[both_old].mean())
        kinds["old and current"].append(helpful[upper & ~both_old & ~both_current].mean())
        kinds["both current"].append(helpful[both_current].mean())
    styles = (("#0072B2", "o"), ("#8C6D00", "s"), ("#D55E00", "^"))
    for (name, values), (colour, marker) in zip(kinds.items(), styles, strict=True):
        for t in np.unique(task[position]):
            chosen = task[position] == t
            label = name if t == 1 else None
            at, height = position[chosen] + 1, 100 * np.array(values)[chosen]
            axes.plot(at, height, color=colour, marker=marker, markersize=3.5, lw=1.2, label=label)
    starts = [int(np.flatnonzero(task == t)[0]) for t in np.unique(task[position])]
    for t, start in enumerate(starts, start=2):
        axes.axvline(start + 0.5, color="#BBBBBB", lw=0.8, zorder=0)
        axes.text(start + 0.7, 103, f"task {t}", fontsize=8, color="#555555", va="bottom")
    axes.set(
        ylim=(-3, 103),
        xlim=(starts[0] + 0.4, len(task) + 0.6),
        xlabel="epoch, counted over all tasks",
        ylabel="helpful pairs (%)",
    )
    axes.set_title("Class pairs that GradMix finds helpful", loc="left", pad=18)
    axes.legend(loc="upper left", bbox_to_anchor=(1.01, 1.0), frameon=False, fontsize=9)


def new_figure(width: float, height: float) -> Figure:
    """A figure without pyplot, and so without global state or a display."""
    figure = Figure(figsize=(width, height), layout="constrained", dpi=130)
    FigureCanvasAgg(figure)
    return figure


def _write(figure: Figure, path: Path) -> None:
    for axes in figure.axes:
        if axes.get_legend() is not None:
            axes.spines[["top", "right"]].set_visible(False)
            axes.grid(axis="y", color="#DDDDDD", lw=0.6)
            axes.set_axisbelow(True)
    figure.savefig(path)
