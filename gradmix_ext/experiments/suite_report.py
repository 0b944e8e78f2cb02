"""What a suite found: means, differences with paired tests, and plots."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from numpy.typing import NDArray

from gradmix_ext.experiments.compare import FORMULAS
from gradmix_ext.experiments.plots import new_figure
from gradmix_ext.experiments.statistics import TESTS, Contrast, Estimate, contrasts
from gradmix_ext.experiments.styles import nth_style
from gradmix_ext.experiments.suite_runs import Row
from gradmix_ext.experiments.suites import Suite
from gradmix_ext.experiments.tables import Table

__all__ = ["Overall", "SuiteFindings", "write_report"]

Key = tuple[str, str]  # setting and metric

#: By metric, whether more is better.
_BETTER = {"average_incremental_accuracy": 1, "final_accuracy": 1, "forgetting": -1}
_OVERALL = (
    "Means over the settings: ± over seeds is Student's t over the mean of each seed, with the "
    "settings fixed, so it is about other seeds and not about other data streams. ± over settings "
    "is Student's t over the means of the settings, as if they had been drawn from the streams "
    "that one could meet. Without the most extreme: without the setting, in brackets, that is "
    "furthest from the mean; ± over seeds."
)
_HEADINGS = {name: heading for name, heading, _ in FORMULAS}


@dataclass(frozen=True)
class Overall:
    """Contender minus reference in one metric, over all settings together.

    Attributes:
        over_seeds: From the mean over the settings of each seed. The settings are fixed: the
            interval is about other seeds, not about other data streams.
        over_settings: From the mean over the seeds of each setting, as if the settings were drawn
            from the streams that one could meet. The mean is the same.
        extreme: The setting whose mean is furthest from that of all; None with fewer than three.
        without_extreme: As `over_seeds`, without that setting.
    """

    over_seeds: Estimate
    over_settings: Estimate
    extreme: str | None
    without_extreme: Estimate | None

    def cells(self) -> tuple[str, str, str]:
        """The three means as text; the last is empty where nothing is extreme."""
        rest = self.without_extreme
        return (
            self.over_seeds.percent("+"),
            self.over_settings.percent("+"),
            f"{rest.percent('+')} ({self.extreme})" if rest else "",
        )


@dataclass(frozen=True)
class SuiteFindings:
    """The finished runs of a suite, and the tests on them.

    Attributes:
        suite: The study.
        rows: Finished runs by setting, arm and seed; those that are not of the suite do not count.
        test: A name of :data:`~gradmix_ext.experiments.statistics.TESTS`.
    """

    suite: Suite
    rows: Mapping[tuple[str, str, int], Row]
    test: str = "t"

    def values(self, setting: str, arm: str, metric: str) -> dict[int, float]:
        """A metric of an arm, by seed."""
        found = (self.rows.get((setting, arm, seed)) for seed in self.suite.seeds)
        return {row.seed: getattr(row, metric) for row in found if row is not None}

    def contrasts(self, contender: str, reference: str) -> dict[Key, Contrast]:
        """Contender minus reference over common seeds, by setting and metric.

        Holm's correction is over everything that this gives: all settings and metrics.
        """
        pairs = {}
        for setting in self.suite.settings:
            for metric in _BETTER:
                ours = self.values(setting, contender, metric)
                theirs = self.values(setting, reference, metric)
                common = [seed for seed in ours if seed in theirs]
                pairs[setting, metric] = [[v[s] for s in common] for v in (ours, theirs)]
        return contrasts({key: (ours, theirs) for key, (ours, theirs) in pairs.items()}, self.test)

    def overall(self, contender: str, reference: str, metric: str) -> Overall | None:
        """The difference over all settings, from the seeds that both have in every one of them.

        A seed is one sample, since the same seeds run in all settings; what it gives in different
        settings need not be independent. None without such a seed.
        """
        settings = list(self.suite.settings)
        pairs = [
            [self.values(setting, arm, metric) for arm in (contender, reference)]
            for setting in settings
        ]
        common = [s for s in self.suite.seeds if all(s in v for pair in pairs for v in pair)]
        if not common:
            return None
        differences: NDArray[np.float64] = np.array(
            [[ours[seed] - theirs[seed] for seed in common] for ours, theirs in pairs]
        )
        by_setting = differences.mean(axis=1)
        extreme, rest = None, None
        if len(settings) > 2 and not np.isnan(by_setting).any():
            index = int(np.abs(by_setting - by_setting.mean()).argmax())
            extreme = settings[index]
            rest = Estimate.of(np.delete(differences, index, axis=0).mean(axis=0).tolist())
        return Overall(
            Estimate.of(differences.mean(axis=0).tolist()),
            Estimate.of(by_setting.tolist()),
            extreme,
            rest,
        )

    def score(self, contender: str, reference: str, metric: str) -> tuple[int, int, int]:
        """In how many settings it is significantly better, no different, significantly worse."""
        found = self.contrasts(contender, reference)
        signs = [
            np.sign(_BETTER[metric] * contrast.difference.mean) if contrast.significant else 0
            for (_, of), contrast in found.items()
            if of == metric
        ]
        return signs.count(1), signs.count(0), signs.count(-1)

    def markdown(self) -> str:
        """Everything as Markdown."""
        suite = self.suite
        runs = sum(run in self.rows for run in suite.runs)
        parts = [
            f"# {suite.question}",
            f"{len(suite.settings)} settings, {len(suite.arms)} arms, {runs} runs; in "
            f"percent, mean ± 95 % confidence interval over seeds. Tests: {TESTS[self.test]} over "
            "seeds, corrected by Holm's method over all settings and metrics of a contender and a "
            "reference; * marks p < 0.05.",
            _OVERALL,
            "## In how many settings",
            self._scores().markdown(),
        ]
        for contender in suite.contenders:
            tables = (self._differences(contender, metric).markdown() for metric in _BETTER)
            parts += [f"## {contender}", *tables]
        parts += ["## Means", *(self._means(metric).markdown() for metric in _BETTER)]
        return "\n\n".join(part.rstrip() for part in parts) + "\n"

    def _scores(self) -> Table:
        rows = []
        for contender in self.suite.contenders:
            for reference in self.suite.references:
                counts = (self.score(contender, reference, metric) for metric in _BETTER)
                cells = (f"{better} / {same} / {worse}" for better, same, worse in counts)
                rows.append((f"{contender} against {reference}", *cells))
        headings = ("arm", *(_HEADINGS[metric] for metric in _BETTER))
        return Table("Significantly better / no difference / worse.", headings, tuple(rows))

    def _differences(self, contender: str, metric: str) -> Table:
        found = [self.contrasts(contender, reference) for reference in self.suite.references]
        rows = [
            (setting, *(_difference(each.get((setting, metric))) for each in found))
            for setting in self.suite.settings
        ]
        overall = [self.overall(contender, each, metric) for each in self.suite.references]
        cells = [each.cells() if each else ("", "", "") for each in overall]
        names = ("mean, ± over seeds", "mean, ± over settings", "mean without the most extreme")
        for name, row in zip(names, zip(*cells, strict=True), strict=True):
            if any(row) or name != names[-1]:
                rows.append((name, *row))
        headings = ("setting", *(f"- {reference}" for reference in self.suite.references))
        title = f"{_HEADINGS[metric]}, difference in percentage points:"
        return Table(title, headings, tuple(rows))

    def _means(self, metric: str) -> Table:
        rows = []
        for setting in self.suite.settings:
            values = [list(self.values(setting, a, metric).values()) for a in self.suite.arms]
            cells = (Estimate.of(v).percent() if v else "" for v in values)
            rows.append((setting, *cells))
        formula = next(formula for name, _, formula in FORMULAS if name == metric)
        title = f"{_HEADINGS[metric]} = {formula}"
        return Table(title, ("setting", *self.suite.arms), tuple(rows))


def write_report(findings: SuiteFindings, folder: Path) -> list[Path]:
    """Write ``report.md``, and a plot of the differences per metric, into a folder."""
    text = folder / "report.md"
    text.write_text(findings.markdown(), encoding="utf-8")
    written = [text]
    for metric in ("final_accuracy", "forgetting"):
        path = folder / f"{metric}.png"
        _plot(findings, metric, path)
        written.append(path)
    return written


def _difference(contrast: Contrast | None) -> str:
    if contrast is None:
        return ""
    return contrast.difference.percent("+") + ("*" if contrast.significant else "")


def _plot(findings: SuiteFindings, metric: str, path: Path) -> None:
    """Differences to each reference, one row per setting, one colour per contender."""
    suite = findings.suite
    settings = list(suite.settings)
    figure = new_figure(4 + 3 * len(suite.references), 1.6 + 0.42 * len(settings))
    panels = figure.subplots(1, len(suite.references), sharey=True, squeeze=False)[0]
    for axes, reference in zip(panels, suite.references, strict=True):
        for index, contender in enumerate(suite.contenders):
            found = findings.contrasts(contender, reference)
            shift = 0.22 * (index - (len(suite.contenders) - 1) / 2)
            chosen = [found.get((setting, metric)) for setting in settings]
            _points(axes, chosen, shift, contender, index)
        axes.axvline(0, color="#555555", lw=0.8)
        title = f"minus {reference}".replace("[", "\n[").replace(",", ",\n")
        axes.set_title(title, loc="left", fontsize=10)
        axes.set_xlabel(f"{_HEADINGS[metric]}, percentage points")
        axes.grid(axis="x", color="#DDDDDD", lw=0.6)
        axes.set_axisbelow(True)
        axes.spines[["top", "right"]].set_visible(False)
    panels[0].set_yticks(range(len(settings)), settings)
    panels[0].invert_yaxis()
    panels[-1].legend(
        title="filled: p < 0.05, corrected", loc="center left", bbox_to_anchor=(1.01, 0.5)
    )
    figure.savefig(path)


def _points(
    axes: Axes, found: Sequence[Contrast | None], shift: float, label: str, index: int
) -> None:
    drawn = nth_style(index).points
    axes.plot([], [], ls="", label=label, **drawn)
    for row, contrast in enumerate(found):
        if contrast is None or math.isnan(contrast.difference.mean):
            continue
        difference = contrast.difference
        axes.errorbar(
            100 * difference.mean,
            row + shift,
            xerr=100 * (difference.half_width or 0.0),
            markersize=4.5,
            lw=1,
            markerfacecolor=drawn["color"] if contrast.significant else "white",
            **drawn,
        )
