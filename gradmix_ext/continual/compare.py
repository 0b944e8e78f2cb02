"""Arms x seeds, and what the seeds together say about an arm."""

from __future__ import annotations

from collections.abc import Sequence

from gradmix_ext.continual.callbacks import Callback
from gradmix_ext.continual.experiment import Arm, Experiment, Run
from gradmix_ext.continual.result import METRICS
from gradmix_ext.continual.run_folder import RunFolder
from gradmix_ext.continual.statistics import Contrast, Estimate, contrasts

__all__ = ["FORMULAS", "Comparison", "Progress", "choose_baseline"]

#: The columns of a comparison: property of the result, heading, formula.
FORMULAS = (
    ("average_incremental_accuracy", "AIA", "(1/T) Σ_t A_t, A_t = (1/t) Σ_{j≤t} R[t,j]"),
    ("final_accuracy", "final", "A_T"),
    ("forgetting", "forgetting", "1/(T-1) Σ_{j<T} (max_{j≤l<T} R[l,j] - R[T,j])"),
)


def choose_baseline(arms: Sequence[Arm], text: str | None = None) -> Arm:
    """The arm that the others are tested against: the one named, else plain er, else the first.

    Raises:
        ValueError: `text` names none of the arms.
    """
    wanted = Arm.parse("er" if text is None else text)
    for arm in arms:
        if arm == wanted:
            return arm
    if text is None:
        return arms[0]
    labels = ", ".join(arm.label for arm in arms)
    raise ValueError(f"the baseline '{text}' is none of the arms {labels}")


class Comparison:
    """Runs every arm with every seed, and sums them up.

    Args:
        experiment: Settings and data.
        arms: What is compared.
        seeds: The seeds, the same for every arm.
        baseline: The arm that the others are tested against; None takes :func:`choose_baseline`'s.
        test: A name of :data:`~gradmix_ext.continual.statistics.TESTS`.

    Attributes:
        runs: What is finished so far.
    """

    def __init__(
        self,
        experiment: Experiment,
        arms: Sequence[Arm],
        seeds: Sequence[int],
        baseline: Arm | None = None,
        test: str = "t",
    ) -> None:
        self.experiment = experiment
        self.arms = tuple(arms)
        self.seeds = tuple(seeds)
        self.baseline = choose_baseline(self.arms) if baseline is None else baseline
        self.test = test
        self.runs: list[Run] = []

    @property
    def jobs(self) -> list[tuple[Arm, int]]:
        """All runs to do, seed by seed, so that a comparison cut short still has pairs."""
        return [(arm, seed) for seed in self.seeds for arm in self.arms]

    def execute(self, folder: RunFolder, progress: Progress | None = None) -> None:
        """Do all runs. Each is written to the folder as soon as it is finished.

        Raises:
            DivergedError: the training loss of a run became infinite or NaN.
            OSError: the folder can no longer be written.
        """
        for arm, seed in self.jobs:
            callbacks = () if progress is None else (progress.begin(arm, seed),)
            run = self.experiment.run(arm, seed, callbacks)
            folder.write_run(run)
            self.runs.append(run)
            if progress is not None:
                progress.end(run)

    def of(self, arm: Arm) -> list[Run]:
        """The finished runs of an arm, by seed."""
        return [run for run in self.runs if run.arm == arm]

    def finished_arms(self) -> list[Arm]:
        """Arms with at least one finished run."""
        return [arm for arm in self.arms if self.of(arm)]

    def estimates(self, arm: Arm) -> dict[str, Estimate]:
        """Every metric of an arm, over its finished seeds."""
        results = [run.result for run in self.of(arm)]
        return {name: Estimate.of([getattr(r, name) for r in results]) for name in METRICS}

    def contrasts(self) -> dict[tuple[Arm, str], Contrast]:
        """Arm minus baseline, over common seeds, in every metric of :data:`FORMULAS`."""
        baseline = {run.seed: run.result for run in self.of(self.baseline)}
        pairs = {}
        for arm in self.finished_arms():
            if arm == self.baseline:
                continue
            common = [run for run in self.of(arm) if run.seed in baseline]
            for name, _, _ in FORMULAS:
                ours = [getattr(run.result, name) for run in common]
                theirs = [getattr(baseline[run.seed], name) for run in common]
                pairs[arm, name] = ours, theirs
        return contrasts(pairs, self.test)


class Progress:
    """Listens to a comparison: base of what shows it."""

    def begin(self, arm: Arm, seed: int) -> Callback:
        """A run starts; returns what will hear of its epochs and tasks."""
        return Callback()

    def end(self, run: Run) -> None:
        """A run is finished and written."""
