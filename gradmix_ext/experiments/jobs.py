"""One run of a comparison: trained, watched, written to the folder."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from gradmix_ext.continual.callbacks import Callback, EpochEnd, TaskEnd
from gradmix_ext.continual.checkpoint import Checkpoint, CheckpointError
from gradmix_ext.continual.trainer import DivergedError
from gradmix_ext.experiments.experiment import Arm, Experiment, Run
from gradmix_ext.experiments.finished import write_run
from gradmix_ext.ranks import FirstRankError, RankLostError

__all__ = ["CHECKPOINTS", "TENSORBOARD", "Job", "RunFailedError", "Tick"]

CHECKPOINTS = "checkpoints"
TENSORBOARD = "tensorboard"


class RunFailedError(RuntimeError):
    """A run could not be finished; the message names its arm and seed."""

    @classmethod
    def of(cls, arm: Arm, seed: int, reason: object) -> RunFailedError:
        """The error of one run."""
        return cls(f"{arm.label} with seed {seed}: {reason}")


@dataclass(frozen=True)
class Tick:
    """A run has finished an epoch.

    Attributes:
        arm: Method and mixer.
        seed: The seed.
        task: From 1.
        epoch: From 1 within the task.
        loss: Mean training loss per sample, in nats.
        accuracy: Class-IL, mean over the tasks of then, after the latest finished task; None
            before the first (and at first after a run was resumed).
    """

    arm: Arm
    seed: int
    task: int
    epoch: int
    loss: float
    accuracy: float | None


@dataclass(frozen=True)
class Job:
    """What it takes to do one run.

    Attributes:
        arm: Method and mixer.
        seed: The seed.
        folder: The run folder.
        checkpoint_every: Least seconds between two checkpoints.
        tensorboard: Whether to write event files for TensorBoard.
    """

    arm: Arm
    seed: int
    folder: Path
    checkpoint_every: float
    tensorboard: bool

    def do(self, experiment: Experiment, tell: Callable[[Tick], None]) -> None:
        """Train, from the checkpoint if there is one, and write the finished run to the folder.

        Over several processes all do so together, and the first writes.

        Args:
            experiment: Settings and data.
            tell: Hears of every epoch.

        Raises:
            RunFailedError: training diverged, the checkpoint cannot be used, the disk refused, or
                another process has died.
        """
        name = f"{self.arm.label}-seed-{self.seed}.pt"
        checkpoint = Checkpoint(self.folder / CHECKPOINTS / name, self.checkpoint_every)
        ticks = _Ticks(self.arm, self.seed, tell)
        logger = self._logger(experiment.config.epochs, experiment.ranks.first)
        try:
            run = experiment.run(self.arm, self.seed, (ticks, logger), checkpoint)
            with experiment.ranks.watched():
                experiment.ranks.on_first(lambda: self._write(run, checkpoint))
        except (DivergedError, CheckpointError, OSError, FirstRankError, RankLostError) as error:
            raise RunFailedError.of(self.arm, self.seed, error) from error

    def _write(self, run: Run, checkpoint: Checkpoint) -> None:
        write_run(self.folder, run)
        checkpoint.path.unlink(missing_ok=True)

    def _logger(self, epochs: int, first: bool) -> Callback:
        """The writer of event files; a checkpoint counts callbacks, so there is always one."""
        if not self.tensorboard or not first:
            return Callback()
        from gradmix_ext.continual.tensorboard import TensorBoardLog

        folder = self.folder / TENSORBOARD / self.arm.label / f"seed-{self.seed}"
        return TensorBoardLog(folder, epochs)


class _Ticks(Callback):
    """Turns what happens in a run into ticks."""

    def __init__(self, arm: Arm, seed: int, tell: Callable[[Tick], None]) -> None:
        self._arm = arm
        self._seed = seed
        self._tell = tell
        self._accuracy: float | None = None

    def on_epoch_end(self, event: EpochEnd) -> None:
        task, epoch = event.task.index + 1, event.epoch + 1
        self._tell(Tick(self._arm, self._seed, task, epoch, event.loss, self._accuracy))

    def on_task_end(self, event: TaskEnd) -> None:
        self._accuracy = event.evaluation.class_il[: event.task.index + 1].mean().item()
