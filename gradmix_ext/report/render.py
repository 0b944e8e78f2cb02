"""The report as one HTML page."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import groupby
from typing import Any

import numpy as np

from gradmix_ext._version import __version__
from gradmix_ext.experiments.statistics import TESTS, Contrast, Estimate, span
from gradmix_ext.page import asset, document, templates
from gradmix_ext.report.contenders import Contender, contenders, run_names
from gradmix_ext.report.figures import COMPARED, METRICS, differences
from gradmix_ext.report.load import RunRecord
from gradmix_ext.report.payload import payload

__all__ = ["render"]

_PACKAGE = "gradmix_ext.report"
# In the order in which they build on each other.
_SCRIPTS = ("data.js", "dom.js", "lines.js", "cells.js", "sections.js", "page.js")
_UNSET = "–"


def render(runs: Sequence[RunRecord]) -> str:
    """The page.

    Raises:
        ValueError: a file of class-pair maps is corrupt.
    """
    found = contenders(runs)
    tasks = max(len(each.arm.seeds[0].task_classes) for each in found)
    test = str(runs[0].config.get("test", "t"))
    title = " and ".join(dict.fromkeys(_title(run) for run in runs))
    body = (
        templates(_PACKAGE)
        .get_template("assets/report.html.jinja")
        .render(
            title=title,
            subtitle=[_subtitle(run) for run in runs],
            run_names=run_names(runs),
            runs=runs,
            missing=_missing(runs),
            metrics=METRICS,
            rows=[_row(each) for each in found],
            seeds=_seed_range(found),
            compared=COMPARED,
            baselines=_baselines(found, test),
            test=TESTS[test],
            tasks=tasks,
            settings=_table([run.settings for run in runs]),
            environment=_table([_environment(run, found) for run in runs]),
            data=payload(found),
            version=__version__,
        )
    )
    script = "\n".join(asset(_PACKAGE, f"assets/{name}") for name in _SCRIPTS)
    return document(f"{title} – gradmix report", body, asset(_PACKAGE, "assets/report.css"), script)


def _title(run: RunRecord) -> str:
    """'digits: 5 tasks, 5 × 2 classes', 'digits: 6 tasks, 5 + 5 × 1 classes'."""
    sizes = run.arms[0].seeds[0].task_sizes
    groups = [(size, len(list(group))) for size, group in groupby(sizes)]
    shape = " + ".join(f"{count} × {size}" if count > 1 else str(size) for size, count in groups)
    tasks = "1 task" if len(sizes) == 1 else f"{len(sizes)} tasks"
    return f"{run.settings.get('dataset', 'unknown data')}: {tasks}, {shape} classes"


def _subtitle(run: RunRecord) -> str:
    """The settings that matter most, those that the run has."""
    settings = run.settings
    parts = [
        ("buffer_size", "buffer {}"),
        ("buffer_policy", "{}"),
        ("replay", "{} replay"),
        ("epochs", "{} epochs a task"),
        ("batch_size", "batch {}"),
        ("lr", "lr {}"),
    ]
    return ", ".join(
        text.format(settings[name])
        for name, text in parts
        if settings.get(name) is not None  # left to the method
    )


def _missing(runs: Sequence[RunRecord]) -> list[str]:
    """One line for every folder that is not finished."""
    lines = []
    for run, name in zip(runs, run_names(runs), strict=True):
        if run.missing:
            done = sum(len(arm.seeds) for arm in run.arms)
            first = ", ".join(f"{arm} seed {seed}" for arm, seed in run.missing[:6])
            more = f" and {len(run.missing) - 6} more" if len(run.missing) > 6 else ""
            total = done + len(run.missing)
            lines.append(f"{name}: {done} of {total} runs are finished; missing: {first}{more}.")
    return lines


def _row(contender: Contender) -> dict[str, Any]:
    seeds = contender.arm.seeds
    estimates = [Estimate.of([metric.value(seed) for seed in seeds]) for metric in METRICS]
    seconds = [seed.seconds for seed in seeds if seed.seconds is not None]
    lead = estimates[0]
    half = lead.half_width or 0.0
    return {
        "name": contender.name,
        "colour": contender.colour,
        "seeds": len(seeds),
        "cells": [true_minus(estimate.percent()) for estimate in estimates],
        "mean": 100 * lead.mean,
        "low": 100 * max(lead.mean - half, 0.0),
        "high": 100 * min(lead.mean + half, 1.0),
        "seconds": duration(float(np.mean(seconds))) if seconds else "n/a",
    }


def _seed_range(found: Sequence[Contender]) -> str:
    """'3 seeds', 'one seed' or '2 to 5 seeds'."""
    counts = {len(each.arm.seeds) for each in found}
    return "one seed" if counts == {1} else f"{span(counts)} seeds"


def _baselines(found: Sequence[Contender], test: str) -> list[dict[str, Any]]:
    """For every arm as the baseline, the differences of all others.

    Chosen at first is the baseline of the run, else plain er, else the first arm.
    """
    if len(found) < 2:
        return []
    named = [each for each in found if each.arm.label == each.run.config.get("baseline")]
    plain = [each for each in found if (each.arm.method, each.arm.augment) == ("er", "none")]
    usual = [*named, *plain, *found][0]
    tables = []
    for baseline in found:
        found_differences = differences(baseline, found, test)
        rows = [
            {
                "name": each.name,
                "seeds": each.seeds,
                "reason": each.reason,
                "cells": [_contrast(contrast) for contrast in each.contrasts],
            }
            for each in found_differences
        ]
        tests = sum(not math.isnan(c.p) for each in found_differences for c in each.contrasts)
        tables.append(
            {"name": baseline.name, "chosen": baseline is usual, "rows": rows, "tests": tests}
        )
    return tables


def _contrast(contrast: Contrast) -> dict[str, Any]:
    p = contrast.p_holm
    return {
        "text": true_minus(contrast.difference.percent("+")),
        "p": "" if math.isnan(p) else "< 0.001" if p < 0.001 else f"{p:.3f}",
        "significant": contrast.significant,
    }


def true_minus(text: str) -> str:
    """With the sign that is as wide as a plus."""
    return text.replace("-", "−")


def duration(seconds: float) -> str:
    """'0.4 s', '75 s', '12 min', '3.4 h'."""
    if seconds < 10:
        return f"{seconds:.1f} s"
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


def _environment(run: RunRecord, found: Sequence[Contender]) -> dict[str, Any]:
    config = run.config
    seconds = [
        seed.seconds
        for each in found
        if each.run is run
        for seed in each.arm.seeds
        if seed.seconds is not None
    ]
    return {
        "started": str(config.get("started", _UNSET)).replace("T", " "),
        "training time, all finished runs": duration(sum(seconds)) if seconds else None,
        "device": run.settings.get("device"),
        "kernels": config.get("backend"),
        "threads": config.get("threads"),
        "platform": config.get("platform"),
        **config.get("versions", {}),
    }


def _table(columns: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """One row per name that any column has; `differs` where columns disagree."""
    names = dict.fromkeys(name for column in columns for name in column)
    rows = []
    for name in names:
        cells = [_text(column.get(name)) for column in columns]
        rows.append({"name": name, "cells": cells, "differs": len(set(cells)) > 1})
    return rows


def _text(value: Any) -> str:
    if value is None:
        return _UNSET
    if isinstance(value, bool):
        return "yes" if value else "no"
    return ", ".join(map(str, value)) if isinstance(value, list) else str(value)
