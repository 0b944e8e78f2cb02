"""What a comparison shows: progress, table, files."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from types import TracebackType

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.progress import (
    BarColumn,
    TextColumn,
    TimeRemainingColumn,
)
from rich.progress import Progress as Bars
from rich.table import Table as RichTable
from rich.text import Text

from gradmix_ext.continual.callbacks import Callback, EpochEnd, TaskEnd
from gradmix_ext.continual.compare import FORMULAS, Comparison, Progress
from gradmix_ext.continual.experiment import Arm, Run
from gradmix_ext.continual.statistics import percent
from gradmix_ext.continual.summary import tables
from gradmix_ext.continual.tables import Table

__all__ = ["RichProgress", "print_files", "print_tables"]


class RichProgress(Progress):
    """A progress bar on a terminal, and a plain line per finished run elsewhere."""

    def __init__(self, comparison: Comparison) -> None:
        self._console = Console()
        self._runs = len(comparison.jobs)
        self._done = 0
        scenario = comparison.experiment.scenario(comparison.seeds[0])
        self._tasks, self._epochs = len(scenario), comparison.experiment.config.epochs
        self._width = max(len(arm.label) for arm in comparison.arms)
        self._bars = Bars(
            TextColumn("{task.description}"),
            BarColumn(bar_width=10),  # all of a line fits in 80 characters
            TextColumn("{task.percentage:>3.0f}%"),
            TimeRemainingColumn(compact=True),
            console=self._console,
            disable=not self._console.is_terminal,
            transient=True,
        )
        self._bar = self._bars.add_task("", total=self._runs * self._tasks * self._epochs)

    def __enter__(self) -> RichProgress:
        self._bars.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._bars.stop()

    def begin(self, arm: Arm, seed: int) -> Callback:
        """Name the run beside the bar."""
        return _Ticks(self, f"{arm.label:<{self._width}} seed {seed}")

    def end(self, run: Run) -> None:
        """Count the run, and print its line where there is no bar."""
        self._done += 1
        if not self._console.is_terminal:
            numbers = "  ".join(
                f"{heading} {percent(getattr(run.result, name))}" for name, heading, _ in FORMULAS
            )
            label = f"{run.arm.label:<{self._width}} seed {run.seed}"
            print(
                f"[{self._done}/{self._runs}] {label}  {numbers}  ({run.seconds:.1f} s)", flush=True
            )

    def tick(self, text: str, advance: int = 0) -> None:
        """Move the bar by epochs, and say where training is."""
        self._bars.update(self._bar, advance=advance, description=text)

    def describe(self, name: str, event: EpochEnd, accuracy: str) -> str:
        """Run, task, epoch, loss, and the accuracy after the latest finished task."""
        return (
            f"{name} · task {event.task.index + 1} epoch {event.epoch + 1:>2} "
            f"· loss {event.loss:4.2f}{accuracy}"
        )


class _Ticks(Callback):
    """Moves the bar during one run."""

    def __init__(self, progress: RichProgress, name: str) -> None:
        self._progress = progress
        self._name = name
        self._accuracy = ""

    def on_epoch_end(self, event: EpochEnd) -> None:
        self._progress.tick(self._progress.describe(self._name, event, self._accuracy), advance=1)

    def on_task_end(self, event: TaskEnd) -> None:
        mean = event.evaluation.class_il[: event.task.index + 1].mean().item()
        self._accuracy = f" acc {percent(mean)}"


def print_tables(comparison: Comparison) -> None:
    """The metrics of every arm, its lead over the baseline, and the formulas."""
    console = Console()
    if not console.is_terminal:
        console.width = 200  # A file has no edge to fold lines at.
    for table in tables(comparison):
        console.print(_rich(table), "")
    for _, heading, formula in FORMULAS:
        print(f"{heading:<10} = {formula}")
    print("R[t,j] = test accuracy on task j after task t, argmax over all classes seen so far")


def _rich(table: Table) -> RichTable:
    """The table for a terminal; narrow, so that the default arms fit into 80 columns."""
    shown = RichTable(
        title=Text(table.title),
        title_justify="left",
        box=SIMPLE_HEAD,
        padding=(0, 1, 0, 0),
        pad_edge=False,
        show_edge=False,
    )
    name, *numbers = table.headings
    shown.add_column(Text(name))
    for heading in numbers:
        shown.add_column(Text(heading), justify="right")
    for row in table.rows:
        shown.add_row(*map(Text, row))
    return shown


def print_files(paths: Sequence[Path]) -> None:
    """Where the results are."""
    print(f"\nwritten to {paths[0].parent}:")
    for path in paths:
        print(f"  {path.name}")
