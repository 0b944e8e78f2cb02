"""A diagnosis as Markdown and as a picture."""

from __future__ import annotations

import warnings
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from numpy.typing import NDArray

from gradmix_ext.experiments.diagnosis.agreement import STATISTICS
from gradmix_ext.experiments.diagnosis.study import Diagnosis
from gradmix_ext.experiments.plots import new_figure
from gradmix_ext.experiments.statistics import half_width
from gradmix_ext.experiments.styles import nth_style

__all__ = ["markdown", "write_report"]

Array = NDArray[np.float64]

_CURVES = ("mixed", "linear", "gram", "network", "kind")
_HEADINGS = {
    "spearman": "Spearman",
    "spearman_test": "on test data",
    "partial": "given the kind",
    "sign": "sign",
    "auc": "AUC",
}
_FACTS = {
    "helpful": "helpful",
    "old_loss": "old loss",
    "buffer_loss": "buffer loss",
    "head_buffer_norm": "‖g_buf‖",
    "head_old_norm": "‖g_old‖",
    "head_cosine": "cosine",
}


def write_report(diagnosis: Diagnosis, folder: Path) -> list[Path]:
    """Write ``diagnosis.md`` and ``diagnosis.png`` into a folder."""
    text, picture = folder / "diagnosis.md", folder / "diagnosis.png"
    text.write_text(markdown(diagnosis), encoding="utf-8")
    _plot(diagnosis, picture)
    return [text, picture]


def markdown(diagnosis: Diagnosis) -> str:
    """Tables: each score over all moments, the noise of a score, and the course of training."""
    s = diagnosis.setting
    count = len(diagnosis.seeds)
    over = "one seed" if count == 1 else f"{count} seeds, mean ± 95 % confidence interval"
    lines = [
        f"# Class-pair scores and the measured change of the old tasks' loss: {s['dataset']}",
        "",
        f"{s['replay']} replay, buffer {s['buffer_size']}, {s['epochs']} epochs a task, lr "
        f"{s['lr']:g}, trained with {s['augment']}; {over}. Measured "
        f"at {len(diagnosis.moments)} moments: a step of {s['step']:g} on {s['step_samples']} "
        f"mixed samples of each pair, scores from {s['samples_per_pair']} others.",
        "",
        "| score | " + " | ".join(_HEADINGS.values()) + " |",
        "| --- |" + " ---: |" * len(_HEADINGS),
    ]
    for score in diagnosis.scores:
        if "@" not in score:
            cells = " | ".join(_cell(diagnosis.of(name, score)) for name in _HEADINGS)
            lines.append(f"| {score} | {cells} |")
    lines += ["", *(f"- {_HEADINGS[n]}: {STATISTICS[n]}" for n in _HEADINGS), ""]
    lines += ["## Samples per pair, criterion `mixed`", ""]
    lines += ["| samples | Spearman | sign | sign as with the most samples |"]
    lines += ["| --- | ---: | ---: | ---: |"]
    for samples, score in _noise(diagnosis):
        names = ("spearman", "sign", "reference_sign")
        cells = " | ".join(_cell(diagnosis.of(name, score)) for name in names)
        lines.append(f"| {samples} | {cells} |")
    lines += ["", "## Over training", ""]
    columns = [*_FACTS.values(), "Spearman, mixed", "Spearman, kind", "sign, mixed"]
    lines += ["| task | epochs trained | " + " | ".join(columns) + " |"]
    lines += ["| --- | ---: |" + " ---: |" * len(columns)]
    values = [diagnosis.fact_of(name) for name in _FACTS]
    values += [diagnosis.of("spearman", name) for name in ("mixed", "kind")]
    values += [diagnosis.of("sign", "mixed")]
    for moment, (task, epoch) in enumerate(diagnosis.moments.tolist()):
        cells = " | ".join(_cell(each[:, moment : moment + 1]) for each in values)
        lines.append(f"| {task + 1} | {epoch} | {cells} |")
    lines += [
        "",
        "Helpful: share of pairs whose step lowered the old tasks' loss. Losses in nats. Norms and "
        "the cosine of g_buf and g_old (all old training data) are those of the last layer.",
    ]
    return "\n".join(lines) + "\n"


def _noise(diagnosis: Diagnosis) -> list[tuple[int, str]]:
    """Samples per pair, and the name of the score."""
    return [(int(s.partition("@")[2]), s) for s in diagnosis.scores if "@" in s]


def _estimate(values: Array) -> tuple[float, float]:
    """Mean over seeds of each seed's mean over moments [S, M], and half its confidence interval.

    NaN where no moment of a seed defines the statistic, or with a single seed.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # "mean of empty slice": gives NaN
        of_seed = np.nanmean(values, axis=1)
    known = of_seed[np.isfinite(of_seed)]
    if not len(known):
        return float("nan"), float("nan")
    return float(known.mean()), float(half_width(known)) if len(known) > 1 else float("nan")


def _cell(values: Array) -> str:
    mean, width = _estimate(values)
    if np.isnan(mean):
        return "n/a"
    return f"{mean:.2f}" if np.isnan(width) else f"{mean:.2f} ± {width:.2f}"


def _plot(diagnosis: Diagnosis, path: Path) -> None:
    figure = new_figure(11, 7.5)
    grid = figure.add_gridspec(2, 2)
    _plot_over_training(figure.add_subplot(grid[0, :]), diagnosis)
    _plot_noise(figure.add_subplot(grid[1, 0]), diagnosis)
    _plot_norms(figure.add_subplot(grid[1, 1]), diagnosis)
    for axes in figure.axes:
        axes.spines[["top", "right"]].set_visible(False)
        axes.grid(axis="y", color="#DDDDDD", lw=0.6)
        axes.set_axisbelow(True)
    figure.savefig(path)


def _plot_over_training(axes: Axes, diagnosis: Diagnosis) -> None:
    for index, score in enumerate(_CURVES):
        _curve(axes, diagnosis, diagnosis.of("spearman", score), score, index)
    axes.axhline(0, color="#888888", lw=0.8)
    axes.set(ylabel="rank correlation", ylim=(-1.02, 1.02))
    axes.set_title(
        "Score of a class pair and measured benefit for the old tasks, "
        f"{diagnosis.setting['dataset']}, {diagnosis.setting['replay']} replay",
        loc="left",
    )
    axes.legend(title="score", loc="center left", bbox_to_anchor=(1.01, 0.5), frameon=False)


def _plot_noise(axes: Axes, diagnosis: Diagnosis) -> None:
    noise = _noise(diagnosis)
    at = [samples for samples, _ in noise]
    for index, (statistic, label) in enumerate(
        (
            ("spearman", "rank correlation with the benefit"),
            ("sign", "sign of the benefit"),
            ("reference_sign", "sign as with the most samples"),
        )
    ):
        found = np.array([_estimate(diagnosis.of(statistic, score)) for _, score in noise])
        axes.errorbar(
            at,
            found[:, 0],
            np.nan_to_num(found[:, 1]),
            markersize=4,
            lw=1.2,
            label=label,
            **nth_style(index).points,
        )
    axes.set_xscale("log", base=2)
    axes.set_xticks(at, [str(n) for n in at])
    axes.set(xlabel="mixed samples per pair", ylim=(0, 1.02))
    axes.set_title("Noise of the criterion mixed", loc="left")
    axes.legend(loc="lower right", fontsize=8)


def _plot_norms(axes: Axes, diagnosis: Diagnosis) -> None:
    labels = (
        ("head_buffer_norm", "‖g_buf‖"),
        ("head_old_norm", "‖g_old‖, all old data"),
        ("head_cosine", "their cosine"),
    )
    for index, (name, label) in enumerate(labels):
        _curve(axes, diagnosis, diagnosis.fact_of(name), label, index)
    axes.set_title("Last-layer gradient of the buffer", loc="left")
    axes.legend(fontsize=8)


def _curve(axes: Axes, diagnosis: Diagnosis, values: Array, label: str, index: int) -> None:
    """One line per task over its moments, with 95 % confidence bands."""
    tasks = diagnosis.moments[:, 0]
    found = np.array([_estimate(values[:, m : m + 1]) for m in range(len(tasks))])
    for task in np.unique(tasks):
        at = np.flatnonzero(tasks == task)
        mean, width = found[at, 0], np.nan_to_num(found[at, 1])
        named = label if task == tasks[0] else None
        (line,) = axes.plot(at, mean, markersize=4, lw=1.2, label=named, **nth_style(index).line)
        axes.fill_between(at, mean - width, mean + width, color=line.get_color(), alpha=0.15, lw=0)
    ticks = [
        f"{epoch}\ntask {task + 1}" if m == 0 or tasks[m - 1] != task else str(epoch)
        for m, (task, epoch) in enumerate(diagnosis.moments.tolist())
    ]
    axes.set_xticks(range(len(ticks)), ticks, fontsize=8)
    axes.set_xlabel("epochs trained on the task")
