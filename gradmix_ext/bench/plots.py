"""Plots of what was measured, as PNG files."""

from __future__ import annotations

from collections.abc import Callable
from itertools import cycle
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.ticker import NullFormatter, NullLocator

from gradmix_ext.bench.results import CaseResult, Group, Report, describe
from gradmix_ext.bench.workload import Role
from gradmix_ext.experiments.plots import new_figure
from gradmix_ext.experiments.styles import COLOURS, MARKERS, nth_style

__all__ = ["plot_roofline", "plot_scaling"]

_GREY = "#777777"


def plot_roofline(report: Report, path: Path) -> bool:
    """Each op's rates of useful work against what the machine reaches.

    Left, operations a second over operations a byte, below what copies and products of matrices
    reach there: copies of more and of less than the caches hold, and PyTorch's own products, which
    are no law of nature. Right, for each setting the share of the lower of the two (of the large
    copy and the float32 product), as timed in turn with it.

    Returns:
        False, and no file, when no group has work to count.
    """
    points = [
        (group, group.base)
        for group in report.groups
        if group.flops and group.ceilings and group.base is not None
    ]
    memory = [c for c in report.ceilings if c.kind == "bytes"]
    compute = [c for c in report.ceilings if c.kind == "flops"]
    if not points:
        return False
    figure = new_figure(13.5, max(5.5, 0.27 * len(points) + 2.2))
    left, right = figure.subplots(1, 2, width_ratios=[1.15, 1])
    ops = list(dict.fromkeys(group.op for group, _ in points))
    styles = {op: nth_style(n).points for n, op in enumerate(ops)}
    intensity = [group.flops / group.moved for group, _ in points]
    reach = np.geomspace(min(intensity) / 3, max(intensity) * 3, 200)
    top = max(c.rate for c in compute)
    for ceiling, line in zip(memory, ("-", "--"), strict=False):
        below = reach[ceiling.rate * reach <= top]
        left.plot(
            below, ceiling.rate * below / 1e9, line, color=_GREY, lw=1.2,
            label=f"{ceiling.name}: {ceiling.rate / 1e9:.0f} GB/s",
        )  # fmt: skip
    for ceiling, line in zip(compute, ("-.", ":"), strict=False):
        left.axhline(
            ceiling.rate / 1e9, color=_GREY, lw=1.2, ls=line,
            label=f"{ceiling.name}: {ceiling.rate / 1e9:.0f} GFLOP/s",
        )  # fmt: skip
    shares = []
    for (group, base), x in zip(points, intensity, strict=True):
        rate = group.flops / base.median
        left.plot(x, rate / 1e9, ls="", markersize=7, alpha=0.85, mec="white", **styles[group.op])
        shares.append(100 * rate / _roof(group, x))
    for op, style in styles.items():
        left.plot([], [], ls="", label=op, **style)
    left.set(
        xscale="log", yscale="log", xlim=(reach[0], reach[-1]),
        xlabel="operations per byte that the work needs at least", ylabel="useful GFLOP/s",
    )  # fmt: skip
    left.legend(loc="lower right", fontsize=8)
    rows = range(len(points))
    for row, (group, _), share in zip(rows, points, shares, strict=True):
        style = styles[group.op]
        right.plot([0, share], [row, row], color=style["color"], lw=1.0, alpha=0.5)
        right.plot(share, row, markersize=7, **style)
        right.annotate(
            f"{share:.0f}", (share, row), xytext=(7, -3), textcoords="offset points", fontsize=8
        )
    right.axvline(100, color=_GREY, lw=1.2)
    right.set_yticks(rows, [group.name for group, _ in points], fontsize=8)
    right.invert_yaxis()
    right.set(xlim=(0, max(110.0, 1.1 * max(shares))), xlabel="share of the limit (%)")
    figure.suptitle(f"Roofline: {describe(report.machine)}", x=0.01, ha="left", fontsize=10)
    for axes in (left, right):
        _finish(axes)
    figure.savefig(path)
    return True


def _roof(group: Group, intensity: float) -> float:
    """Operations a second that the large copy and the float32 product allow, of the same rounds."""
    copy = next(c.rate for c in group.ceilings if c.kind == "bytes")
    product = next(c.rate for c in group.ceilings if c.kind == "flops")
    return min(copy * intensity, product)


def plot_scaling(report: Report, what: str, path: Path) -> bool:
    """Curves over what the settings vary: a row an op, a column an axis, their names beside them.

    Args:
        report: with groups that have an axis; an axis of which there is one point makes no curve.
        what: ``"time"`` or ``"memory"``.
        path: of the picture.

    Returns:
        False, and no file, when there is no curve.
    """
    curves: dict[str, dict[str, list[Group]]] = {}
    for group in sorted((g for g in report.groups if g.axis), key=lambda g: g.at):
        curves.setdefault(group.op, {}).setdefault(group.axis, []).append(group)
    for op, found in curves.items():
        curves[op] = {axis: groups for axis, groups in found.items() if len(groups) > 1}
    curves = {op: found for op, found in curves.items() if found}
    if not curves:
        return False
    label, value = ("seconds", _seconds) if what == "time" else ("peak MB", _megabytes)
    columns = max(map(len, curves.values()))
    figure = new_figure(3.6 * columns + 3.4, 2.6 * len(curves))
    grid = figure.subplots(
        len(curves), columns + 1, squeeze=False, width_ratios=[*[3.6] * columns, 2.8]
    )
    for row, (op, found) in zip(grid, curves.items(), strict=True):
        styles = _styles([group for groups in found.values() for group in groups])
        for axes in row[len(found) :]:
            axes.set_axis_off()
        for axes, (axis, groups) in zip(row, found.items(), strict=False):
            _curves(axes, groups, value, styles)
            axes.set_xlabel(axis)
            axes.set_title(op, loc="left", fontsize=9)
            _finish(axes)
        row[0].set_ylabel(label)
        names = row[len(found)]
        for name, style in styles.items():
            names.plot([], [], label=name, **style)
        names.legend(loc="center left", frameon=False, fontsize=8, handlelength=3.5)
    figure.suptitle(
        f"{'Time' if what == 'time' else 'Peak memory'} on {describe(report.machine)}",
        x=0.01, ha="left", fontsize=10,
    )  # fmt: skip
    figure.savefig(path)
    return True


def _styles(groups: list[Group]) -> dict[str, dict[str, Any]]:
    """How to draw each case of an op: ours in one colour, the others in different ones."""
    names = list(dict.fromkeys(case.name for group in groups for case in group.cases))
    ours = [name for name in names if _own(groups, name)]
    others = [name for name in names if name not in ours]
    lines = ("-", "--", ":", "-.")
    return {
        name: {"color": COLOURS[0], "marker": MARKERS[0], "lw": 2.0, "ls": lines[n % 4], "ms": 4.5}
        for n, name in enumerate(ours)
    } | {
        name: {"color": COLOURS[n], "marker": MARKERS[n], "lw": 1.2, "ms": 4.5}
        for name, n in zip(others, cycle(range(1, min(len(COLOURS), len(MARKERS)))), strict=False)
    }


def _curves(
    axes: Any,
    groups: list[Group],
    value: Callable[[CaseResult], float | None],
    styles: dict[str, dict[str, Any]],
) -> None:
    """Each case of an op over one axis."""
    for name, style in styles.items():
        points = [
            (group.at, found)
            for group in groups
            if (case := group.case(name)) is not None and (found := value(case)) is not None
        ]
        if points:
            axes.plot(*zip(*points, strict=True), **style)
    axes.set(xscale="log", yscale="log")
    at = [group.at for group in groups]
    axes.set_xticks(at, [f"{x:,}" for x in at])
    axes.xaxis.set_minor_locator(NullLocator())
    low, high = np.log10(axes.get_ylim())
    axes.set_ylim(10.0 ** np.floor(low), 10.0 ** np.ceil(high))  # whole decades
    axes.yaxis.set_minor_formatter(NullFormatter())


def _seconds(case: CaseResult) -> float | None:
    return case.median


def _megabytes(case: CaseResult) -> float | None:
    return case.peak_bytes / 1e6 if case.peak_bytes else None


def _own(groups: list[Group], name: str) -> bool:
    return any(c.name == name and c.role is Role.OURS for g in groups for c in g.cases)


def _finish(axes: Any) -> None:
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(which="major", color="#E4E4E4", lw=0.6)
    axes.set_axisbelow(True)
