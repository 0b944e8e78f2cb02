"""`gradmix rare-features`."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import click

from gradmix_ext.cli._options import SectionedCommand, option, section
from gradmix_ext.cli._values import COUNT, MAX_COUNT, THREADS, read_list, read_seeds

if TYPE_CHECKING:
    from gradmix_ext.theory.rare_features.experiment import Experiment
    from gradmix_ext.theory.rare_features.folder import ResultFolder
    from gradmix_ext.theory.rare_features.results import StopMap, Table

__all__ = ["rare_features_command"]

# Too small a number is reported together with what it must be; too large a one overflows.
_NUMBER = click.IntRange(max=MAX_COUNT)


_HELP = """\
Which trainings learn the rare features of a class, and when mixup may stop.

Two classes; a sample shows its class's common feature or, seldom, its rare one, among noise. A
two-layer network is trained by gradient descent on all pairs of samples at once.

\b
TRAINING  standard      no mixing
          0.6/0.6       mixup: λ of the inputs / λ of the labels
          0.8/0.6       asymmetric
          0.6/1         inputs only
          0.6/0.6@1000  mixup stopped after 1000 steps
          0.6/0.6~2400  mixup tapered to none over 2400 steps

Without trainings: a table of eleven.

\b
Examples:
  gradmix rare-features                            the table, five seeds
  gradmix rare-features standard 0.6 --seeds 20    two rows of it, twenty seeds
  gradmix rare-features --sweep rho                when to stop, by share of rare samples
  gradmix rare-features 0.5 --sweep sigma-p --values 0.05,0.1 --steps 600
"""


@click.command("rare-features", cls=SectionedCommand, help=_HELP)
@click.argument("trainings", nargs=-1, metavar="[TRAINING]...")
@section(
    "Seeds",
    option(
        "--seeds",
        callback=read_seeds,
        default="5",
        metavar="N|LIST",
        help="A count (5: seeds 0 to 4) or the seeds themselves. All trainings of a seed share "
        "features, data and initial weights.",
    ),
)
@section(
    "Data",
    option("--n", type=_NUMBER, default=150, help="Training samples."),
    option("--d", type=_NUMBER, default=800, help="Entries of a patch."),
    option("--patches", type=_NUMBER, default=5, help="Patches of a sample, P."),
    option("--alpha", type=float, default=0.3, help="Coefficient of the feature noise."),
    option("--rho", type=float, default=0.1, help="Probability of the rare feature."),
    option("--sigma-p", type=float, default=0.15, help="Standard deviation of the noise."),
    option(
        "--feature-noise",
        type=click.Choice(["other", "either"]),
        default="other",
        help="Whose common feature is the feature noise in training: the other class's, or that of "
        "either class, half and half. Test data have either.",
    ),
    option(
        "--rare-count",
        type=click.Choice(["exact", "binomial"]),
        default="exact",
        help="exact: rho n rare samples, evenly over the classes. binomial: each for itself.",
    ),
    option("--shuffle-patches", is_flag=True, show_default=False, help="Patches in random order."),
    option("--test-samples", type=_NUMBER, default=500, help="Samples of either test set."),
)
@section(
    "Network and training",
    option("--filters", type=_NUMBER, default=10, help="Filters of each class, m."),
    option(
        "--activation",
        type=click.Choice(["square", "cube", "relu"]),
        default="square",
        help="σ of the network.",
    ),
    option("--init-std", type=float, default=0.01, help="Standard deviation of initial weights."),
    option("--lr", type=float, default=0.1, help="Learning rate."),
    option("--steps", type=_NUMBER, default=2400, help="Steps of trainings that mix."),
    option("--standard-steps", type=_NUMBER, default=6000, help="Steps of standard training."),
    option("--record-every", type=_NUMBER, default=50, help="Steps between points of the curves."),
    option("--device", default="cpu", metavar="DEVICE", help="cpu, cuda, ...; auto: a GPU if any."),
    option("--threads", type=THREADS, default=1, help="CPU threads of PyTorch."),
)
@section(
    "Sweep",
    option(
        "--sweep",
        type=click.Choice(["rho", "sigma-p", "alpha", "lam", "steps"]),
        help="Draw the map of stop step against this setting, instead of the table. TRAINING is "
        "the mixup that is stopped; lam replaces its λ, one for inputs and labels.  "
        "[default: 0.6/0.6]",
        show_default=False,
    ),
    option(
        "--values",
        callback=read_list(float),
        metavar="LIST",
        help="Values of the swept setting.  [default: six or so around the usual one]",
        show_default=False,
    ),
    option(
        "--stops",
        type=COUNT,
        default=10,
        help="Stops from never mixing to never stopping, with so many equal steps between them.",
    ),
)
@section(
    "Output",
    option(
        "--out",
        metavar="DIR",
        help="Folder for the results.  [default: a new one under runs/]",
        show_default=False,
    ),
    option(
        "--overwrite", is_flag=True, show_default=False, help="Replace earlier results in --out."
    ),
)
def rare_features_command(
    trainings: tuple[str, ...], seeds: tuple[int, ...], **params: Any
) -> None:
    """Read the input, train, write."""
    import torch

    from gradmix_ext.cli._errors import RunError, writing, wrong_input
    from gradmix_ext.cli._report import print_files
    from gradmix_ext.continual.files import default_folder
    from gradmix_ext.continual.trainer import DivergedError
    from gradmix_ext.theory.rare_features.folder import ResultFolder
    from gradmix_ext.theory.rare_features.results import StopMap, Table, describe

    torch.set_num_threads(params["threads"])
    with wrong_input():
        experiment, results = _plan(trainings, seeds, params)
        folder = ResultFolder(params["out"] or default_folder("rare-features"), params["overwrite"])
        folder.write_config(results, shlex.join(["gradmix", *sys.argv[1:]]))
    swept = results.axis if isinstance(results, StopMap) else None
    click.echo(describe(experiment.config, swept))
    with writing(folder.path):
        try:
            if isinstance(results, Table):
                _run_table(experiment, results, folder)
            else:
                _run_sweep(experiment, results, folder)
        except KeyboardInterrupt:
            folder.finish(results)
            click.echo(
                f"gradmix: interrupted: {len(results.runs)} of {len(results.jobs)} runs finished, "
                f"kept in {folder.path}",
                err=True,
            )
            sys.exit(130)
        except DivergedError as error:
            folder.finish(results)
            raise RunError(f"{error}; what was finished is in {folder.path}") from error
        _print(results)
        print_files(folder.finish(results))


def _plan(
    trainings: Sequence[str], seeds: Sequence[int], params: dict[str, Any]
) -> tuple[Experiment, Table | StopMap]:
    """The experiment and what will be filled, all checked.

    Raises:
        ValueError: a setting is wrong, or two do not go together.
    """
    from dataclasses import fields

    from gradmix_ext.theory.rare_features.experiment import (
        AXES,
        Experiment,
        ExperimentConfig,
        default_arms,
        default_stops,
    )
    from gradmix_ext.theory.rare_features.results import StopMap, Table
    from gradmix_ext.theory.rare_features.training import Schedule

    names = {field.name for field in fields(ExperimentConfig)}
    config = ExperimentConfig(**{name: params[name] for name in names})
    experiment = Experiment(config)
    arms = [Schedule.parse(text) for text in trainings]
    if params["sweep"] is None:
        if params["values"] is not None:
            raise ValueError("--values needs --sweep")
        chosen = arms or default_arms(config.steps)
        experiment.check(chosen)
        return experiment, Table(config, chosen, seeds)
    axis = params["sweep"].replace("-", "_")
    arm = arms[0] if arms else Schedule(0.6, 0.6)
    if len(arms) > 1 or arm.stop is not None or arm == Schedule():
        raise ValueError(
            f"--sweep takes one training that mixes, without a stop, got {' '.join(trainings)}"
        )
    values = params["values"] or AXES[axis]
    for value in values:
        experiment.at(axis, value, arm)  # every value is checked before the first run
    stops = default_stops(params["stops"])
    return experiment, StopMap(config, arm, axis, values, stops, seeds)


def _run_table(experiment: Experiment, table: Table, folder: ResultFolder) -> None:
    """Do all runs; each is written as soon as it is finished."""
    with _Progress(len(table.jobs)) as progress:
        for arm, seed in table.jobs:
            tick = progress.begin(f"{arm.label:<14} seed {seed}", experiment.steps(arm))
            run = experiment.run(arm, seed, tick)
            folder.write_run(run)
            table.runs.append(run)
            progress.end(f"rare {100 * run.final()['rare']:5.1f} %  ({run.seconds:.1f} s)")


def _run_sweep(experiment: Experiment, results: StopMap, folder: ResultFolder) -> None:
    """Do all runs; each is written as soon as it is finished."""
    with _Progress(len(results.jobs)) as progress:
        for value, seed in results.jobs:
            steps = experiment.at(results.axis, value, results.arm)[0].config.steps
            # Mixup to the end once, and what is left after every stop.
            total = round(steps * (1 + sum(1 - stop for stop in results.stops)))
            tick = progress.begin(f"{results.axis} {value:<5g} seed {seed}", total)
            run = experiment.sweep(results.arm, results.axis, value, results.stops, seed, tick)
            folder.write_sweep_run(results.axis, run)
            results.runs.append(run)
            rare = " ".join(f"{100 * run.final[stop]['rare']:.0f}" for stop in results.stops)
            progress.end(f"rare {rare} %  ({run.seconds:.1f} s)")


class _Progress:
    """A bar over all runs on a terminal, and a plain line per finished run elsewhere."""

    def __init__(self, runs: int) -> None:
        from rich.console import Console
        from rich.progress import (
            BarColumn,
            Progress,
            TextColumn,
            TimeElapsedColumn,
            TimeRemainingColumn,
        )

        console = Console()
        self._terminal = console.is_terminal
        self._runs, self._done, self._name, self._steps = runs, 0, "", 1
        self._bars = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            TextColumn("{task.percentage:>3.0f} %"),
            TimeElapsedColumn(),
            TextColumn("left"),
            TimeRemainingColumn(),
            console=console,
            disable=not self._terminal,
            transient=True,
        )
        self._bar = self._bars.add_task("", total=runs)

    def __enter__(self) -> _Progress:
        self._bars.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self._bars.stop()

    def begin(self, name: str, steps: int) -> Callable[[int], None]:
        """A run of so many steps starts; returns what is to hear of steps done."""
        self._name, self._steps = name, steps
        before, latest = 0, 0

        def tick(step: int) -> None:
            # A sweep counts its steps from 0 again after every stop.
            nonlocal before, latest
            if step < latest:
                before += latest
            latest = step
            share = min(1.0, (before + latest) / steps)
            self._bars.update(self._bar, completed=self._done + share, description=name)

        return tick

    def end(self, text: str) -> None:
        """The run is finished and written."""
        self._done += 1
        self._bars.update(self._bar, completed=self._done)
        if not self._terminal:
            print(f"[{self._done}/{self._runs}] {self._name}  {text}", flush=True)


def _print(results: Table | StopMap) -> None:
    """The table, or the map as a table."""
    from rich.box import SIMPLE
    from rich.table import Table as RichTable

    from gradmix_ext.cli._report import table_console
    from gradmix_ext.theory.rare_features.experiment import COLUMNS
    from gradmix_ext.theory.rare_features.results import Table

    seeds = len(results.seeds)
    over = f"mean ± 95 % CI over {seeds} seeds" if seeds > 1 else f"seed {results.seeds[0]}"
    if isinstance(results, Table):
        shown = RichTable(title=f"Accuracy in percent, {over}", title_justify="left")
        shown.add_column("training")
        for heading in ("steps", *(heading for _, heading, _ in COLUMNS)):
            shown.add_column(heading, justify="right")
        for arm in results.finished_arms():
            shown.add_row(*results.row(arm))
        table_console().print(shown)
        for _, heading, meaning in COLUMNS:
            print(f"{heading:<13} = {meaning}")
        return
    shown = RichTable(
        title=f"Accuracy on rare test data in percent, {results.subject} stopped after a share of "
        f"the steps, {over.replace(' ± 95 % CI', '')}",
        title_justify="left",
        box=SIMPLE,
        pad_edge=False,
    )
    shown.add_column(results.axis)
    for stop in results.stops:
        shown.add_column(f"{stop:.0%}", justify="right")
    marks = {"helps": "+", "hurts": "-", "": "" if seeds == 1 else " "}
    for value in results.values:
        cells = [
            f"{100 * results.accuracy(value, stop).mean:.0f}{marks[results.verdict(value, stop)]}"
            for stop in results.stops
        ]
        shown.add_row(f"{value:g}", *cells)
    table_console().print(shown)
    print(f"{results.budget} {results.conclusion({'helps': ' (+)', 'hurts': ' (-)'})}".rstrip())
