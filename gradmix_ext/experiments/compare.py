"""Arms x seeds, and what the seeds together say about an arm."""

from __future__ import annotations

from collections.abc import Generator, Sequence
from contextlib import closing
from pathlib import Path

from gradmix_ext.continual.result import METRICS
from gradmix_ext.experiments.experiment import Arm, Experiment
from gradmix_ext.experiments.finished import FinishedRun
from gradmix_ext.experiments.jobs import Job, Tick
from gradmix_ext.experiments.parallel import do_parallel
from gradmix_ext.experiments.run_folder import RunFolder
from gradmix_ext.experiments.statistics import Contrast, Estimate, contrasts

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
        test: A name of :data:`~gradmix_ext.experiments.statistics.TESTS`.
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
        self.arms: tuple[Arm, ...] = tuple(arms)
        self.seeds: tuple[int, ...] = tuple(seeds)
        self.baseline: Arm = choose_baseline(self.arms) if baseline is None else baseline
        self.test = test
        self._finished: dict[tuple[Arm, int], FinishedRun] = {}

    @property
    def jobs(self) -> list[tuple[Arm, int]]:
        """All runs to do, seed by seed, so that a comparison cut short still has pairs."""
        return [(arm, seed) for seed in self.seeds for arm in self.arms]

    @property
    def runs(self) -> list[FinishedRun]:
        """What is finished so far, in the order of :attr:`jobs`."""
        return [self._finished[job] for job in self.jobs if job in self._finished]

    def add(self, run: FinishedRun) -> None:
        """Take up a finished run."""
        self._finished[run.arm, run.seed] = run

    def collect(self, folder: Path) -> None:
        """Take up the runs that are finished in a folder already.

        Raises:
            ValueError: the result of one is damaged, or its class-pair maps are.
            OSError: it cannot be read, or is gone.
        """
        for arm, seed in self.jobs:
            run = FinishedRun(folder, arm, seed)
            if run.is_there:
                # Read here, so that damage is told before any training.
                run.result, run.pair_maps  # noqa: B018
                self.add(run)

    def left(
        self, folder: Path, checkpoint_every: float = 30.0, tensorboard: bool = False
    ) -> list[Job]:
        """The runs that are still to do, as :meth:`execute` does them."""
        return [
            Job(arm, seed, folder, checkpoint_every, tensorboard)
            for arm, seed in self.jobs
            if (arm, seed) not in self._finished
        ]

    def execute(
        self,
        folder: RunFolder,
        progress: Progress | None = None,
        workers: int = 1,
        checkpoint_every: float = 30.0,
        tensorboard: bool = False,
    ) -> None:
        """Do all runs that are still to do. Each is written as soon as it is finished.

        Args:
            folder: Where to; a run that another process began there goes on from its checkpoint.
            progress: Hears of every epoch and run.
            workers: Runs side by side: 1 trains in this process, more in as many processes.
            checkpoint_every: Least seconds between two checkpoints of a run.
            tensorboard: Whether to write event files for TensorBoard.

        Raises:
            RunFailedError: a run diverged or its process died; the message names it. The others
                are stopped.
            OSError: the folder can no longer be written.
        """
        progress = progress or Progress()
        jobs = self.left(folder.path, checkpoint_every, tensorboard)
        with closing(self._do(jobs, min(workers, len(jobs)), progress)) as finished:
            for job in finished:
                run = FinishedRun(folder.path, job.arm, job.seed)
                folder.log(run)
                self.add(run)
                progress.end(run)

    def _do(
        self, jobs: Sequence[Job], workers: int, progress: Progress
    ) -> Generator[Job, None, None]:
        """Do the jobs, and give each when it is finished."""
        if workers > 1:
            yield from do_parallel(self.experiment, self.arms, jobs, workers, progress.tick)
            return
        for job in jobs:
            job.do(self.experiment, progress.tick)
            yield job

    def of(self, arm: Arm) -> list[FinishedRun]:
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

    def tick(self, tick: Tick) -> None:
        """A run has finished an epoch."""

    def end(self, run: FinishedRun) -> None:
        """A run is finished and written."""
