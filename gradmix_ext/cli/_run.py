"""What `gradmix train` and `gradmix compare` have in common once their flags are read."""

from __future__ import annotations

import shlex
import sys
import warnings
from collections.abc import Sequence
from typing import Any

import click
import torch

from gradmix_ext import loader
from gradmix_ext.cli._errors import InputError, RunError, wrong_input
from gradmix_ext.cli._options import experiment_config
from gradmix_ext.cli._report import RichProgress, print_files, print_tables
from gradmix_ext.continual.compare import Comparison, choose_baseline
from gradmix_ext.continual.experiment import Arm, Experiment
from gradmix_ext.continual.run_folder import RunFolder, default_folder
from gradmix_ext.continual.summary import describe
from gradmix_ext.continual.trainer import DivergedError

__all__ = ["run_comparison"]


def run_comparison(
    kind: str,
    arms: Sequence[str],
    seeds: Sequence[int],
    baseline: str | None = None,
    test: str = "t",
    **params: Any,
) -> None:
    """Check everything, train, and show what came out.

    Args:
        kind: Name of the command, for the default folder.
        arms: METHOD[+AUGMENT] each.
        seeds: The seeds.
        baseline: The arm that the others are tested against.
        test: The paired test.
        **params: The flags of :func:`experiment_options`.
    """
    torch.set_num_threads(params["threads"])
    with wrong_input():
        chosen = [Arm.parse(text) for text in arms]
        _require_distinct(chosen)
        against = choose_baseline(chosen, baseline)
        experiment = Experiment(experiment_config(params), chosen)
        backend = _load_backend()
        folder = RunFolder(params["out"] or default_folder(kind), params["overwrite"])
        folder.write_config(experiment.config, chosen, seeds, _command(), backend)
    comparison = Comparison(experiment, chosen, seeds, against, test)
    click.echo(describe(comparison))
    click.echo(f"{experiment.device} with {params['threads']} thread(s), {backend}")
    try:
        with RichProgress(comparison) as progress:
            comparison.execute(folder, progress)
    except KeyboardInterrupt:
        folder.finish(comparison)
        click.echo(
            f"gradmix: interrupted: {len(comparison.runs)} of {len(comparison.jobs)} runs "
            f"finished, kept in {folder.path}",
            err=True,
        )
        sys.exit(130)
    except DivergedError as error:
        raise RunError(f"{error}; what was finished is in {folder.path}") from error
    except OSError as error:
        raise RunError(f"cannot write {folder.path}: {error}") from error
    print_tables(comparison)
    print_files(folder.finish(comparison))


def _require_distinct(arms: Sequence[Arm]) -> None:
    """Refuse two arms that are the same run, however they are written ("mixup", "er+mixup").

    Raises:
        ValueError: naming both.
    """
    labels: dict[Arm, str] = {}
    for arm in arms:
        if arm in labels:
            raise ValueError(f"an arm is named twice: {labels[arm]} and {arm.label}")
        labels[arm] = arm.label


def _load_backend() -> str:
    """Load the compiled kernels before any progress is shown; says what runs.

    Raises:
        InputError: the backend that was asked for cannot be had.
    """
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", UserWarning)
        try:
            status = loader.load()
        except loader.BackendUnavailable as error:
            raise InputError(str(error)) from error
    for warning in caught:
        click.echo(f"gradmix: note: {warning.message}", err=True)
    names = {"cpp": "C++ kernels", "cuda": "C++ and CUDA kernels", "torch": "pure PyTorch"}
    origin = f" ({status.origin})" if status.origin else ""
    return f"{names[status.active]}{origin}"


def _command() -> str:
    """The command as it can be typed again."""
    return shlex.join(["gradmix", *sys.argv[1:]])
