"""What finished runs say together: the table over arms, and the map over stops."""

from __future__ import annotations

from collections.abc import Mapping, Sequence, Set
from dataclasses import dataclass, field, replace

from gradmix_ext.experiments.statistics import Estimate, span
from gradmix_ext.theory.rare_features.experiment import COLUMNS, ExperimentConfig, Run, SweepRun
from gradmix_ext.theory.rare_features.training import Schedule

__all__ = ["StopMap", "Table", "describe"]

_METRIC = "rare"


def describe(config: ExperimentConfig, swept: str | None = None) -> str:
    """One line that says what is trained on what, without the setting that is swept."""
    signs = (("alpha", "α"), ("rho", "ρ"), ("sigma_p", "σ_p"))
    parts = [
        f"n = {config.n}, d = {config.d}, P = {config.patches}",
        *(f"{sign} = {getattr(config, name):g}" for name, sign in signs if name != swept),
        f"{config.filters} {config.activation} filters a class, lr {config.lr:g}",
    ]
    return ", ".join(parts)


@dataclass
class Table:
    """Arms x seeds.

    Attributes:
        config: The settings.
        arms: The trainings, in the order of the table.
        seeds: The seeds.
        runs: What is finished so far.
    """

    config: ExperimentConfig
    arms: Sequence[Schedule]
    seeds: Sequence[int]
    runs: list[Run] = field(default_factory=list)

    @property
    def jobs(self) -> list[tuple[Schedule, int]]:
        """All runs to do, seed by seed, so that a table cut short still has pairs."""
        return [(arm, seed) for seed in self.seeds for arm in self.arms]

    @property
    def trainings(self) -> list[str]:
        """What is trained, by label."""
        return [arm.label for arm in self.arms]

    def finished_arms(self) -> list[Schedule]:
        """Arms with at least one finished run."""
        return [arm for arm in self.arms if self.of(arm)]

    def of(self, arm: Schedule) -> list[Run]:
        """The finished runs of an arm, by seed."""
        return [run for run in self.runs if run.arm == arm]

    def row(self, arm: Schedule) -> list[str]:
        """An arm's cells: what it is, its steps, and every accuracy in percent."""
        runs = self.of(arm)
        steps = str(runs[0].history.step[-1])
        values = [
            Estimate.of([run.final()[name] for run in runs]).percent() for name, _, _ in COLUMNS
        ]
        return [arm.label, steps, *values]

    def markdown(self) -> str:
        """The table as Markdown."""
        head = ["training (λ_x/λ_y)", "steps", *(heading for _, heading, _ in COLUMNS)]
        lines = [
            f"# Rare features: {describe(self.config)}",
            "",
            _over({len(self.of(arm)) for arm in self.finished_arms()}),
            *_interrupted(len(self.runs), len(self.jobs)),
            "",
            _cells(head),
            _cells(["---", *("---:" for _ in head[1:])]),
            *(_cells(self.row(arm)) for arm in self.finished_arms()),
            "",
            "LX/LY@STOP: mixup stopped after STOP steps. LX/LY~STOP: tapered to none over STOP "
            "steps.",
            "",
            *(f"- {heading}: {meaning}" for _, heading, meaning in COLUMNS),
        ]
        return "\n".join(lines) + "\n"


@dataclass
class StopMap:
    """Stops x values of a setting x seeds.

    Attributes:
        config: The settings that are not swept.
        arm: The training whose mixup is stopped; its λ does not count where ``"lam"`` is swept.
        axis: Name of the swept setting.
        values: Its values.
        stops: Shares of the steps after which mixup was stopped; the last is 1, never, and the
            others are compared with it.
        seeds: The seeds.
        runs: What is finished so far.
    """

    config: ExperimentConfig
    arm: Schedule
    axis: str
    values: Sequence[float]
    stops: Sequence[float]
    seeds: Sequence[int]
    runs: list[SweepRun] = field(default_factory=list)

    @property
    def jobs(self) -> list[tuple[float, int]]:
        """All runs to do, seed by seed."""
        return [(value, seed) for seed in self.seeds for value in self.values]

    @property
    def trainings(self) -> list[str]:
        """What is trained and stopped, by label."""
        if self.axis == "lam":
            return [replace(self.arm, lam_x=v, lam_y=v).label for v in self.values]
        return [self.arm.label]

    @property
    def subject(self) -> str:
        """What is stopped, without the setting that is swept."""
        return "mixup" if self.axis == "lam" else f"mixup {self.arm.label}"

    def finished_values(self) -> list[float]:
        """Values with at least one finished run."""
        return [value for value in self.values if self.of(value)]

    def of(self, value: float) -> list[SweepRun]:
        """The finished runs of a value."""
        return [run for run in self.runs if run.value == value]

    def accuracy(self, value: float, stop: float) -> Estimate:
        """Accuracy on rare test data."""
        return Estimate.of([run.final[stop][_METRIC] for run in self.of(value)])

    def gain(self, value: float, stop: float) -> Estimate:
        """Accuracy on rare test data, minus that of mixup that never stops, seed by seed."""
        return Estimate.of(
            [
                run.final[stop][_METRIC] - run.final[self.stops[-1]][_METRIC]
                for run in self.of(value)
            ]
        )

    def verdict(self, value: float, stop: float) -> str:
        """``"helps"`` or ``"hurts"`` if the interval of the gain excludes 0, otherwise ``""``."""
        gain = self.gain(value, stop)
        if gain.half_width is None or abs(gain.mean) <= gain.half_width:
            return ""
        return "helps" if gain.mean > 0 else "hurts"

    @property
    def budget(self) -> str:
        """How long the runs are."""
        if self.axis == "steps":
            return "Each row has its own number of steps."
        return f"All runs take {self.config.steps} steps."

    def counts(self) -> dict[str, int]:
        """How many cells with an interval, apart from never stopping, have which verdict."""
        several = [value for value in self.finished_values() if len(self.of(value)) > 1]
        verdicts = [self.verdict(v, s) for v in several for s in self.stops[:-1]]
        return {name: verdicts.count(name) for name in ("helps", "hurts", "")}

    def conclusion(self, marks: Mapping[str, str]) -> str:
        """What the verdicts say together; empty with one seed, which leaves no interval.

        Args:
            marks: Verdict: what marks it in the table, put behind its name.
        """
        count = self.counts()
        if not any(count.values()):
            return ""
        helps, hurts = (f"{name}{marks.get(name, '')}" for name in ("helps", "hurts"))
        return (
            f"Against never stopping (100 %), seed by seed, stopping {helps} in {count['helps']} "
            f"cells, {hurts} in {count['hurts']}, and makes no difference beyond the 95 % interval "
            f"in {count['']}."
        )

    def markdown(self) -> str:
        """The accuracies and the verdicts as Markdown."""
        values = self.finished_values()
        head = [f"{self.axis}", *(f"{stop:.0%}" for stop in self.stops)]
        conclusion = self.conclusion({})
        over = _over({len(self.of(value)) for value in values})
        lines = [
            f"# When to stop {self.subject}: {describe(self.config, self.axis)}",
            "",
            "Accuracy on rare test data, by the share of the steps after which mixup was stopped; "
            f"standard training from there, 100 % never stops. {self.budget} {over}",
            *_interrupted(len(self.runs), len(self.jobs)),
            "",
            _cells(head),
            _cells(["---", *("---:" for _ in self.stops)]),
        ]
        for value in values:
            cells = []
            for stop in self.stops:
                verdict = self.verdict(value, stop)
                text = self.accuracy(value, stop).percent()
                cells.append(f"{text} ({verdict})" if verdict else text)
            lines.append(_cells([f"{value:g}", *cells]))
        if conclusion:
            lines += ["", conclusion]
        return "\n".join(lines) + "\n"


def _over(counts: Set[int]) -> str:
    if counts == {1}:
        return "In percent, one seed."
    seeds = span(counts)
    return f"In percent, mean ± 95 % confidence interval (Student's t) over {seeds} seeds."


def _interrupted(done: int, planned: int) -> list[str]:
    return [] if done == planned else ["", f"**Interrupted: {done} of {planned} runs finished.**"]


def _cells(values: Sequence[str]) -> str:
    return f"| {' | '.join(values)} |"
