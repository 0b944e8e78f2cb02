"""What a comparison found, as tables: for people (Markdown, LaTeX) and for programs (CSV)."""

from __future__ import annotations

import csv
import math
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from gradmix_ext.continual.result import METRICS
from gradmix_ext.experiments.compare import FORMULAS, Comparison
from gradmix_ext.experiments.statistics import TESTS, span
from gradmix_ext.experiments.tables import Table

__all__ = [
    "describe",
    "summary_latex",
    "summary_markdown",
    "tables",
    "write_metrics_csv",
    "write_table_csv",
]


def describe(comparison: Comparison) -> str:
    """One line that says what was run."""
    config = comparison.experiment.config
    scenario = comparison.experiment.scenario(comparison.seeds[0])
    sizes = [len(task.classes) for task in scenario]
    shape = f"x {sizes[0]}" if len(set(sizes)) == 1 else "of " + "+".join(map(str, sizes))
    kept = "" if config.buffer_policy is None else f"{config.buffer_policy}, "
    return (
        f"{scenario.name}: {len(sizes)} tasks {shape} classes, "
        f"buffer {config.buffer_size} ({kept}{config.replay}), "
        f"{config.epochs} epochs a task, batch {config.batch_size}, lr {config.lr:g}"
    )


def tables(comparison: Comparison) -> list[Table]:
    """The metrics of all finished arms; and, with more than one arm, their lead over the baseline.

    A star marks what differs from the baseline beyond chance (corrected p below 0.05). Where no arm
    has finished a seed that the baseline has, as in a comparison cut short, there is no lead, and
    the first table says so.
    """
    found = [_estimates(comparison)]
    if comparison.contrasts():
        found.append(_differences(comparison))
    return found


def _estimates(comparison: Comparison) -> Table:
    contrasts = comparison.contrasts()
    starred = {key for key, contrast in contrasts.items() if contrast.significant}
    counts = {len(comparison.of(arm)) for arm in comparison.finished_arms()}
    title = f"Class-IL, in percent, {_over(counts, 'seed')}"
    if starred:
        title += f"; * differs from {comparison.baseline.label}, p < 0.05"
    elif len(comparison.finished_arms()) > 1 and not contrasts:
        title += f"; no seed in common with {comparison.baseline.label}, so no differences"
    rows = []
    for arm in comparison.finished_arms():
        estimates = comparison.estimates(arm)
        cells = [
            estimates[name].percent() + (" *" if (arm, name) in starred else "")
            for name, _, _ in FORMULAS
        ]
        rows.append((arm.label, str(len(comparison.of(arm))), *cells))
    return Table(title, ("arm", "seeds", *(heading for _, heading, _ in FORMULAS)), tuple(rows))


def _differences(comparison: Comparison) -> Table:
    contrasts = comparison.contrasts()
    tested = sum(not math.isnan(contrast.p) for contrast in contrasts.values())
    counts = {contrast.difference.n for contrast in contrasts.values()}
    title = f"Minus {comparison.baseline.label}, in percentage points, "
    title += _over(counts, "common seed")
    if tested:
        title += f"; p: {TESTS[comparison.test]}, Holm's correction over {tested} tests"
    rows = []
    for arm in comparison.finished_arms():
        cells: list[str] = []
        for name, _, _ in FORMULAS:
            contrast = contrasts.get((arm, name))
            if contrast is not None:
                cells += [contrast.difference.percent("+"), _p(contrast.p_holm)]
        if cells:
            rows.append((arm.label, *cells))
    headings = (cell for _, heading, _ in FORMULAS for cell in (f"Δ {heading}", "p"))
    return Table(title, ("arm", *headings), tuple(rows))


def _over(counts: set[int], unit: str) -> str:
    """Over how many seeds, and what stands behind ±."""
    if counts == {1}:
        return f"over 1 {unit}"
    return f"over {span(counts)} {unit}s, mean ± 95 % CI"


def _p(value: float) -> str:
    if math.isnan(value):
        return "n/a"
    return "<0.001" if value < 0.001 else f"{value:.3f}"


def summary_markdown(comparison: Comparison) -> str:
    """All tables, with the formulas of their columns."""
    parts = [f"# {describe(comparison)}\n"]
    planned = len(comparison.jobs)
    if len(comparison.runs) < planned:
        parts.append(f"**Interrupted: {len(comparison.runs)} of {planned} runs finished.**\n")
    parts += [table.markdown() for table in tables(comparison)]
    formulas = [f"- {heading} = {formula}" for _, heading, formula in FORMULAS]
    parts.append(
        "R[t, j] is the Class-IL test accuracy on task j after task t; confidence intervals are "
        "Student's t.\n\n" + "\n".join(formulas) + "\n"
    )
    return "\n".join(parts)


def summary_latex(comparison: Comparison) -> str:
    r"""All tables, to be read with ``\input``; they need ``\usepackage{booktabs}``."""
    comments = [describe(comparison), *(f"{heading} = {rule}" for _, heading, rule in FORMULAS)]
    head = "".join(f"% {line}\n" for line in comments)
    return "\n".join([head, *(table.latex() for table in tables(comparison))])


def write_table_csv(comparison: Comparison, path: Path) -> None:
    """Every metric of every finished arm as fractions, in long form; empty is undefined.

    `difference` and what follows it compare the arm with `baseline`, in the metrics that are
    tested (those of :data:`~gradmix_ext.experiments.compare.FORMULAS`).
    """
    headings = (
        "arm", "method", "augment", "metric", "seeds", "mean", "half_width",
        "baseline", "test", "common_seeds", "difference", "difference_half_width", "p", "p_holm",
    )  # fmt: skip
    contrasts = comparison.contrasts()
    rows = []
    for arm in comparison.finished_arms():
        estimates = comparison.estimates(arm)
        for name in METRICS:
            mean = estimates[name]
            row = [arm.label, arm.method, arm.augment, name, mean.n, mean.mean, mean.half_width]
            contrast = contrasts.get((arm, name))
            if contrast is not None:
                gap = contrast.difference
                row += [comparison.baseline.label, comparison.test, gap.n, gap.mean]
                row += [gap.half_width, contrast.p, contrast.p_holm]
            rows.append(row)
    _write_csv(path, headings, rows)


def write_metrics_csv(entries: Iterable[dict[str, Any]], path: Path) -> None:
    """The log in long form, one number a row.

    Args:
        entries: The lines of metrics.jsonl.
        path: Where to. `on_task` is set where the number is an accuracy on one task.
    """
    headings = ("arm", "seed", "event", "task", "epoch", "name", "on_task", "value")
    _write_csv(path, headings, (row for entry in entries for row in _numbers(entry)))


def _numbers(entry: dict[str, Any]) -> Iterator[list[Any]]:
    where = [entry.get(key) for key in ("arm", "seed", "event", "task", "epoch")]
    for name, value in entry.items():
        if name in ("arm", "seed", "event", "task", "epoch", "classes"):
            continue
        if isinstance(value, list):
            yield from ([*where, name, task, each] for task, each in enumerate(value, start=1))
        else:
            yield [*where, name, None, value]


def _write_csv(path: Path, headings: tuple[str, ...], rows: Iterable[list[Any]]) -> None:
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(headings)
        for row in rows:
            known = ["" if value is None or value != value else value for value in row]
            writer.writerow(known + [""] * (len(headings) - len(row)))
