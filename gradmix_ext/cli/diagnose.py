"""`gradmix diagnose`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from gradmix_ext.cli._options import (
    SectionedCommand,
    experiment_config,
    experiment_options,
    section,
)
from gradmix_ext.cli._values import COUNT, read_list, read_seeds

if TYPE_CHECKING:
    from gradmix_ext.experiments.diagnosis import Diagnosis

__all__ = ["diagnose_command"]


_HELP = """\
How well do scores of class pairs predict what mixing a pair does to the old tasks?

Trains with replay and, at several moments of every task but the first, takes one step of gradient
descent on mixed samples of each class pair and measures how the loss over all training data of the
old tasks changes. That is compared with the scores of GradMix's criteria, with gradients of each
layer and of the whole network, and with what is known from the classes alone.

\b
Examples:
  gradmix diagnose --seeds 5
  gradmix diagnose --replay split --buffer-size 50 --augment gradmix
  gradmix diagnose --again runs/diagnosis          tables and plots of an earlier run
"""


@click.command("diagnose", cls=SectionedCommand, help=_HELP)
@section(
    "Measuring",
    click.option(
        "--seeds",
        callback=read_seeds,
        default="3",
        show_default=True,
        metavar="N|LIST",
        help="A count (5: seeds 0 to 4) or the seeds themselves (0,4,7 or 0-9; seed 7 alone: 7-7).",
    ),
    click.option(
        "--augment", default="mixup", show_default=True, help="The mixer that trains the model."
    ),
    click.option(
        "--at",
        callback=read_list(int),
        metavar="LIST",
        help="Epochs trained on a task when it is measured.  [default: 0, 1, half, all but one]",
    ),
    click.option("--step", type=float, help="Size of the measured step.  [default: --lr]"),
    click.option(
        "--step-samples",
        type=COUNT,
        default=128,
        show_default=True,
        help="Mixed samples per pair behind a measured step.",
    ),
    click.option(
        "--again", metavar="DIR", help="Train nothing: write the report of an earlier run again."
    ),
)
@experiment_options
def diagnose_command(seeds: tuple[int, ...], again: str | None, **params: Any) -> None:
    """Read the input, measure, write."""
    from gradmix_ext.cli._errors import writing, wrong_input
    from gradmix_ext.experiments.diagnosis import Diagnosis
    from gradmix_ext.experiments.diagnosis.report import markdown, write_report

    if again is not None:
        folder = Path(again)
        with wrong_input():
            diagnosis = Diagnosis.load(folder)
    else:
        diagnosis, folder = _measure(seeds, **params)
    with writing(folder):
        paths = write_report(diagnosis, folder)
    click.echo(markdown(diagnosis))
    click.echo("written to " + ", ".join(str(path) for path in paths))


def _measure(seeds: tuple[int, ...], **params: Any) -> tuple[Diagnosis, Path]:
    """Everything measured, and the folder that holds it.

    If that fails, or is interrupted, report the seeds that are finished, and exit.
    """
    import torch

    from gradmix_ext.cli._errors import RunError, writing, wrong_input
    from gradmix_ext.cli._run import sigterm_interrupts
    from gradmix_ext.continual.files import default_folder, require_free
    from gradmix_ext.continual.trainer import DivergedError
    from gradmix_ext.experiments.diagnosis import MeasureConfig, Study
    from gradmix_ext.experiments.diagnosis.report import write_report
    from gradmix_ext.experiments.experiment import Experiment
    from gradmix_ext.ranks import leave

    torch.set_num_threads(params["threads"])
    with wrong_input():
        config = experiment_config(params)
        experiment = Experiment(config, [])
        last = config.epochs - 1
        at = params["at"] or sorted({0, min(1, last), (last + 1) // 2, last})
        measured = MeasureConfig(
            step=config.lr if params["step"] is None else params["step"],
            alpha=config.alpha,
            samples_per_pair=config.samples_per_pair,
            step_samples=params["step_samples"],
        )
        study = Study(experiment, params["augment"], tuple(at), measured)
        folder = Path(params["out"] or default_folder("diagnose"))
        require_free(folder, params["overwrite"])
        folder.mkdir(parents=True, exist_ok=True)
    finished: list[Diagnosis] = []

    def keep(diagnosis: Diagnosis) -> None:
        diagnosis.save(folder)
        finished.append(diagnosis)
        click.echo(f"seed {diagnosis.seeds[-1]} done")

    with writing(folder):
        try:
            with sigterm_interrupts():
                return study.run(seeds, keep), folder
        except KeyboardInterrupt:
            if not finished:
                raise
            write_report(finished[-1], folder)
            click.echo(
                f"gradmix: interrupted: {len(finished)} of {len(seeds)} seeds finished, "
                f"kept in {folder}",
                err=True,
            )
            leave(130)
        except DivergedError as error:
            if not finished:
                raise RunError(str(error)) from error
            write_report(finished[-1], folder)
            raise RunError(f"{error}; what was finished is in {folder}") from error
