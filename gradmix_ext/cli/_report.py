"""What a comparison shows: progress, table, files."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from types import TracebackType

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.progress import BarColumn, TaskID, TextColumn, TimeRemainingColumn
from rich.progress import Progress as Bars
from rich.table import Table as RichTable
from rich.text import Text

from gradmix_ext.experiments.compare import FORMULAS, Comparison, Progress
from gradmix_ext.experiments.experiment import Arm
from gradmix_ext.experiments.finished import FinishedRun
from gradmix_ext.experiments.jobs import Tick
from gradmix_ext.experiments.statistics import percent
from gradmix_ext.experiments.summary import tables
from gradmix_ext.experiments.tables import Table

__all__ = [
    "RichProgress",
    "bars_of_runs",
    "print_files",
    "print_tables",
    "rich_table",
    "table_console",
]


class RichProgress(Progress):
    """A line per finished run, and on a terminal bars for the runs in progress and for all."""

    def __init__(self, comparison: Comparison) -> None:
        self._console = Console()
        self._total = len(comparison.jobs)
        self._done = len(comparison.runs)
        scenario = comparison.experiment.scenario(comparison.seeds[0])
        self._epochs = comparison.experiment.config.epochs
        self._epochs_per_run = len(scenario) * self._epochs
        self._width = max(len(arm.label) for arm in comparison.arms)
        self._bars = bars_of_runs(self._console)
        self._all = self._bars.add_task("", total=self._total * self._epochs_per_run)
        self._running: dict[str, TaskID] = {}

    def __enter__(self) -> RichProgress:
        self._show_all()
        self._bars.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._bars.stop()

    def tick(self, tick: Tick) -> None:
        """Move the bar of the run: its task, epoch, loss, and accuracy after the latest task."""
        name = self._name(tick.arm, tick.seed)
        if name not in self._running:
            self._running[name] = self._bars.add_task(name, total=self._epochs_per_run)
        accuracy = "" if tick.accuracy is None else f" acc {percent(tick.accuracy)}"
        text = f"{name} · task {tick.task} epoch {tick.epoch:>2} · loss {tick.loss:4.2f}{accuracy}"
        completed = (tick.task - 1) * self._epochs + tick.epoch
        self._bars.update(self._running[name], completed=completed, description=text)
        self._show_all()

    def end(self, run: FinishedRun) -> None:
        """Count the run, and print what it reached."""
        self._done += 1
        name = self._name(run.arm, run.seed)
        if name in self._running:
            self._bars.remove_task(self._running.pop(name))
        self._show_all()
        numbers = "  ".join(
            f"{heading} {percent(getattr(run.result, metric))}" for metric, heading, _ in FORMULAS
        )
        line = f"[{self._done}/{self._total}] {name}  {numbers}  ({run.seconds:.1f} s)"
        self._console.print(line, markup=False, highlight=False, soft_wrap=True)

    def _name(self, arm: Arm, seed: int) -> str:
        return f"{arm.label:<{self._width}} seed {seed}"

    def _show_all(self) -> None:
        """Finished runs and the epochs of those in progress, together."""
        epochs = sum(bar.completed for bar in self._bars.tasks if bar.id in self._running.values())
        self._bars.update(
            self._all,
            completed=self._done * self._epochs_per_run + epochs,
            description=f"{self._done} of {self._total} runs finished",
        )


def bars_of_runs(console: Console) -> Bars:
    """Bars that are named after runs and shown on a terminal alone, gone when they are done."""
    return Bars(
        TextColumn("{task.description}", markup=False),  # an arm's brackets are no markup
        BarColumn(bar_width=10),  # all of a line fits in 80 characters
        TextColumn("{task.percentage:>3.0f}%"),
        TimeRemainingColumn(compact=True),
        console=console,
        disable=not console.is_terminal,
        transient=True,
    )


def table_console() -> Console:
    """The terminal, or a file, which has no edge to fold lines at."""
    console = Console()
    if not console.is_terminal:
        console.width = 200
    return console


def print_tables(comparison: Comparison) -> None:
    """The metrics of every arm, its lead over the baseline, and the formulas."""
    console = table_console()
    for table in tables(comparison):
        console.print(rich_table(table), "")
    for _, heading, formula in FORMULAS:
        print(f"{heading:<10} = {formula}")
    print("R[t,j] = test accuracy on task j after task t, argmax over all classes seen so far")


def rich_table(table: Table) -> RichTable:
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
