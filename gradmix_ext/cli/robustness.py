"""`gradmix robustness`."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from gradmix_ext.cli._options import SectionedCommand, section
from gradmix_ext.cli._values import COUNT, THREADS, read_list

if TYPE_CHECKING:
    from gradmix_ext.experiments.saved import SavedRun
    from gradmix_ext.robustness.curves import Curves

__all__ = ["robustness_command"]

# Samples per attack; bounds memory, changes no result.
_BATCH = 1024


def _read_bounds(
    ctx: click.Context, param: click.Parameter, text: str | None
) -> tuple[float, float] | None:
    """``LOW,HIGH``, or None for the range of the data."""
    numbers = read_list(float)(ctx, param, text)
    if numbers is None:
        return None
    if len(numbers) != 2 or not numbers[0] < numbers[1]:
        raise click.BadParameter(f"'{text}' is not LOW,HIGH with LOW < HIGH")
    return numbers[0], numbers[1]


_HELP = """\
Accuracy of trained models on inputs that an attacker moves by up to eps.

RUN is a folder that `gradmix train` or `gradmix compare` left. The final model of every arm and
seed in it is attacked on the test data of all classes; arms become curves, seeds their
confidence bands. Arms of the same name in two folders get the name of the folder too. What is
attacked is what the run's accuracies are about: of iCaRL the nearest mean of exemplars, left out
with a line where an older folder holds none.

\b
Examples:
  gradmix robustness runs/demo                            PGD, all arms
  gradmix robustness runs/demo --arms er,mixup,gradmix    these three
  gradmix robustness runs/demo --arms 'er,gradmix[policy=skip,threshold=0.1]'
  gradmix robustness runs/a runs/b --attack fgsm --eps 0,0.1,0.2
"""


@click.command("robustness", cls=SectionedCommand, help=_HELP)
@click.argument("runs", nargs=-1, required=True, metavar="RUN...")
@section(
    "Attack",
    click.option(
        "--attack",
        type=click.Choice(["fgsm", "pgd", "pgd_l2", "autoattack"]),
        default="pgd",
        show_default=True,
        help="fgsm (one step), pgd (many), pgd_l2 (many, in the l2 ball), autoattack (an ensemble, "
        "slow; needs pyautoattack).",
    ),
    click.option(
        "--eps",
        callback=read_list(float),
        default="0,0.02,0.05,0.1,0.15,0.2",
        show_default=True,
        metavar="LIST",
        help="Radii, in the input range of the models.",
    ),
    click.option(
        "--bounds",
        callback=_read_bounds,
        metavar="LOW,HIGH",
        help="Range of the inputs.  [default: that of the data]",
    ),
    click.option("--steps", type=COUNT, default=40, show_default=True, help="Steps of PGD."),
    click.option(
        "--samples",
        type=COUNT,
        help="Attack that many test samples, the same of all arms and seeds.  [default: all]",
    ),
)
@section(
    "Models",
    click.option("--arms", metavar="LIST", help="Arms, by commas.  [default: all of the runs]"),
    click.option(
        "--device", default="auto", show_default=True, help="cpu, cuda, ...; auto: a GPU if any."
    ),
    click.option(
        "--threads",
        type=THREADS,
        default=1,
        show_default=True,
        help="CPU threads of PyTorch.",
    ),
)
@section(
    "Output",
    click.option(
        "--out", metavar="DIR", help="Folder for the results.  [default: a new one under runs/]"
    ),
    click.option("--overwrite", is_flag=True, help="Replace earlier results in --out."),
)
def robustness_command(runs: tuple[str, ...], **params: Any) -> None:
    """Read the input, compute, write."""
    import torch

    from gradmix_ext.cli._errors import InputError, writing, wrong_input
    from gradmix_ext.cli._report import print_files
    from gradmix_ext.cli._run import sigterm_interrupts
    from gradmix_ext.ranks import leave
    from gradmix_ext.robustness.autoattack import require_autoattack
    from gradmix_ext.robustness.curves import Curves

    torch.set_num_threads(params["threads"])
    with wrong_input():
        if params["attack"] == "autoattack":
            try:
                require_autoattack()
            except ImportError as error:
                raise InputError(str(error)) from error
        saved = _load(runs, params["arms"], params["device"])
        bounds = params["bounds"] or _range(saved)
        folder = _output(params["out"], params["overwrite"])
        curves = Curves(params["attack"], bounds, params["eps"], planned=len(saved))
        folder.mkdir(parents=True, exist_ok=True)  # an attack whose result cannot be kept is vain
    settings = {
        "runs": [str(run) for run in runs],
        "steps": params["steps"],
        "samples": params["samples"],
    }

    def write() -> list[Path]:
        with writing(folder):
            return curves.write(folder, shlex.join(["gradmix", *sys.argv[1:]]), settings)

    try:
        # Settings that do not fit show up in the first batch: one line, not a traceback.
        with sigterm_interrupts(), wrong_input():
            _attack(curves, saved, params["steps"], params["samples"])
    except BaseException as error:
        if not curves.runs:
            raise
        write()
        kept = f"{curves.attacked} of {len(saved)} models attacked, kept in {folder}"
        if isinstance(error, KeyboardInterrupt):
            click.echo(f"gradmix: interrupted: {kept}", err=True)
            leave(130)
        if isinstance(error, InputError):
            raise InputError(f"{error.message}; {kept}") from error
        click.echo(f"gradmix: {kept}", err=True)
        raise
    _print(curves)
    print_files(write())


def _load(folders: Sequence[str], arms: str | None, device: str) -> list[tuple[SavedRun, str]]:
    """The saved runs with the names of their curves.

    Raises:
        ValueError: a folder is named twice, holds no models, or an arm is in none of them, or
            none holds all that it predicts with.
    """
    from gradmix_ext.experiments.arm import split_arms
    from gradmix_ext.experiments.saved import load_runs

    if len({Path(folder).resolve() for folder in folders}) < len(folders):
        raise ValueError(f"a run is named twice: {' '.join(folders)}")
    found = [run for folder in folders for run in load_runs(folder, device)]
    labels = list(dict.fromkeys(run.arm.label for run in found))
    chosen = labels if arms is None else split_arms(arms)
    unknown = [name for name in chosen if name not in labels]
    if unknown:
        raise ValueError(f"no arm '{unknown[0]}' in these runs: there are {', '.join(labels)}")
    found = [run for run in found if run.arm.label in chosen]
    usable = [run for run in found if run.has_classifier]
    for run in found:
        if not run.has_classifier:
            reason = (
                f"{run.folder} holds the model of {run.arm.label} seed {run.seed}, but not what "
                f"{run.arm.method} predicts with besides: run the training again to save it"
            )
            if not usable:
                raise ValueError(reason)
            print(f"left out: {reason}", file=sys.stderr)
    homes = {label: {run.folder for run in found if run.arm.label == label} for label in labels}

    def name(run: SavedRun) -> str:
        label = run.arm.label
        return label if len(homes[label]) == 1 else f"{label} ({run.folder})"

    return [(run, name(run)) for run in usable]


def _range(saved: Sequence[tuple[SavedRun, str]]) -> tuple[float, float]:
    """The range of all inputs as the model sees them, training and test."""
    import torch

    from gradmix_ext.continual.feed import Feed

    ends = []
    for data in {id(run.experiment): run.experiment.dataset for run, _ in saved}.values():
        feed = Feed(data.transform, torch.device("cpu"))
        for x in (feed.view(data.train_x), feed.view(data.test_x)):
            for start in range(0, len(x), _BATCH):
                part = x[start : start + _BATCH]
                ends += [part.min().item(), part.max().item()]
    return min(ends), max(ends)


def _output(out: str | None, overwrite: bool) -> Path:
    """The folder to write to.

    Raises:
        FileExistsError: it holds something, and `overwrite` is not given.
    """
    from gradmix_ext.continual.files import default_folder, require_free

    if out is None:
        return default_folder("robustness")
    folder = Path(out)
    require_free(folder, overwrite)
    return folder


def _attack(
    curves: Curves, saved: Sequence[tuple[SavedRun, str]], steps: int, samples: int | None
) -> None:
    """Attack every model, with a progress bar on a terminal and a line per model elsewhere."""
    import torch
    from rich.console import Console

    from gradmix_ext.cli._report import bars_of_runs
    from gradmix_ext.continual.feed import Feed
    from gradmix_ext.experiments.statistics import percent
    from gradmix_ext.robustness import evaluate

    console = Console()
    total = len(saved)
    with bars_of_runs(console) as bar:
        task = bar.add_task("", total=total)
        for done, (run, arm) in enumerate(saved, start=1):
            bar.update(task, description=f"{curves.attack} · {arm} seed {run.seed}")
            # By position in the data set: in a scenario samples stand in the seed's class order.
            data = run.experiment.dataset
            y = data.test_y
            kept = torch.randperm(len(y), generator=torch.Generator().manual_seed(0))[:samples]
            ready = Feed(data.transform, run.experiment.device).view(data.test_x)
            accuracy = evaluate(
                run.classifier(),
                ((ready[part], y[part]) for part in kept.split(_BATCH)),
                curves.attack,
                curves.eps,
                curves.bounds,
                steps=steps,
                generator=torch.Generator().manual_seed(run.seed),
            )
            curves.add(arm, run.seed, accuracy, run.arm.label)
            bar.advance(task)
            if not console.is_terminal:
                numbers = "  ".join(percent(value) for value in accuracy.values())
                print(f"[{done}/{total}] {arm} seed {run.seed}  {numbers}", flush=True)


def _print(curves: Curves) -> None:
    """Accuracy and calibration of every arm, eps by eps."""
    from gradmix_ext.cli._report import rich_table, table_console

    console = table_console()
    for table in curves.tables():
        console.print(rich_table(table), "")
    print(f"{curves.over}\n{curves.unit}")
