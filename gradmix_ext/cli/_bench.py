"""What `gradmix bench` reads, shows and writes."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, TextColumn, TimeElapsedColumn
from rich.progress import Progress as Bars

from gradmix_ext.bench.check import committed
from gradmix_ext.bench.discover import SCALING
from gradmix_ext.bench.plots import plot_roofline, plot_scaling
from gradmix_ext.bench.results import Report
from gradmix_ext.bench.tables import (
    ceiling_table,
    goal_table,
    group_table,
    loss_table,
    markdown,
    skipped_table,
)
from gradmix_ext.cli._report import rich_table, table_console
from gradmix_ext.continual.files import default_folder

__all__ = [
    "BenchProgress",
    "choose",
    "comparable",
    "earlier",
    "kind_of",
    "prepare_folder",
    "read",
    "require_device",
    "show",
    "write",
]

#: Scaling curves are a report of their own.
KINDS = ("bench", SCALING)


def choose(names: Sequence[str], files: dict[str, Path]) -> dict[str, Path]:
    """The files of the workloads that were named; all but scaling if none was.

    Raises:
        ValueError: there is no such workload.
    """
    by_lower = {name.lower(): name for name in files}
    unknown = [name for name in names if name.lower() not in by_lower]
    if unknown:
        raise ValueError(f"no workload {', '.join(unknown)}: there are {', '.join(files)}")
    wanted = [by_lower[name.lower()] for name in names] or [n for n in files if n != SCALING]
    return {name: path for name, path in files.items() if name in wanted}


def kind_of(name: str) -> str:
    """The report that a workload belongs to."""
    return SCALING if name == SCALING else "bench"


def require_device(name: str) -> None:
    """Refuse a GPU that is not there.

    Raises:
        ValueError: PyTorch sees none.
    """
    import torch

    if name == "cuda" and not torch.cuda.is_available():
        raise ValueError("--device cuda: PyTorch sees no GPU")


def comparable(place: str, chosen: Collection[str]) -> dict[Path, Report]:
    """The reports to compare with, as they are before anything is measured and written.

    Raises:
        OSError: one cannot be read.
        ValueError: there is nothing at that place, or scaling curves alone are to be measured.
    """
    if not Path(place).exists():
        raise ValueError(f"--check: {place} does not exist")
    if set(chosen) == {SCALING}:
        raise ValueError("--check compares P1 to P7, and only scaling is to be measured")
    return committed(Path(place))


def prepare_folder(out: str | None) -> Path:
    """The folder of the results, which is there afterwards.

    Raises:
        OSError: it cannot be made.
    """
    folder = Path(out) if out is not None else default_folder("bench")
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def earlier(folder: Path) -> dict[str, Report]:
    """The reports that a folder holds already.

    Raises:
        ValueError: a file of their name is something else.
    """
    paths = {kind: folder / f"{kind}.json" for kind in KINDS}
    return {kind: Report.load(path) for kind, path in paths.items() if path.exists()}


def read(folder: Path) -> dict[str, Report]:
    """The reports of a folder.

    Raises:
        ValueError: it has none.
    """
    found = earlier(folder)
    if not found:
        raise ValueError(f"{folder} has neither {' nor '.join(f'{kind}.json' for kind in KINDS)}")
    return found


def write(reports: dict[str, Report], folder: Path) -> list[Path]:
    """JSON, Markdown and plots.

    Raises:
        OSError: they cannot be written.
    """
    paths = []
    for kind, report in reports.items():
        json, text = folder / f"{kind}.json", folder / f"{kind}.md"
        report.save(json)
        text.write_text(markdown(report), encoding="utf-8")
        paths += [json, text]
        pictures: dict[str, Callable[[Path], bool]]
        if kind == "bench":
            pictures = {"roofline.png": partial(plot_roofline, report)}
        else:
            pictures = {
                f"{kind}-{what}.png": partial(plot_scaling, report, what)
                for what in ("time", "memory")
            }
        paths += [folder / name for name, plot in pictures.items() if plot(folder / name)]
    return paths


def show(reports: dict[str, Report]) -> None:
    """The tables of ratios, next to the limits of the machine."""
    console = table_console()
    for report in reports.values():
        shown = [
            *map(group_table, report.groups),
            ceiling_table(report),
            goal_table(report.groups),
            loss_table(report.groups),
            skipped_table(report.groups),
        ]
        for table in shown:
            if table is not None and table.rows:
                console.print(rich_table(table), "")


class BenchProgress:
    """A line per finished group, and on a terminal a bar and what is being done."""

    def __init__(self, names: Sequence[str]) -> None:
        self._console = Console()
        self._names = list(names)
        self._bars = Bars(
            TextColumn("{task.description}", markup=False),
            BarColumn(bar_width=12),
            TimeElapsedColumn(),
            console=self._console,
            disable=not self._console.is_terminal,
            transient=True,
        )
        self._bar = self._bars.add_task("")
        self._name = ""

    def __enter__(self) -> BenchProgress:
        self._bars.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._bars.stop()

    def begin(self, name: str) -> None:
        """A file is next."""
        at = self._names.index(name) + 1
        self._name = f"[{at}/{len(self._names)}] {name}"
        self._bars.update(self._bar, description=self._name, total=None, completed=0)

    def __call__(self, kind: str, event: dict[str, Any]) -> None:
        """Something happened in it."""
        if kind == "planned":
            self._bars.update(self._bar, total=event["groups"])
        elif kind == "doing":
            self._bars.update(self._bar, description=f"{self._name} {event['text'][:50]}")
        elif kind == "group":
            group = event["group"]
            self._bars.advance(self._bar)
            left_out = sum(bool(case.skipped) for case in group.cases)
            tail = f", {left_out} left out" if left_out else ""
            text = f"{self._name} {group.name}: {len(group.cases) - left_out} cases{tail}"
            self._console.print(text, markup=False, highlight=False, soft_wrap=True)
