"""What `gradmix train` and `gradmix compare` have in common once their flags are read."""

from __future__ import annotations

import shlex
import signal
import sys
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import click
import torch

from gradmix_ext import loader
from gradmix_ext.cli._errors import InputError, RunError, writing, wrong_input
from gradmix_ext.cli._launch import experiment_of, follow, join_ranks, leading
from gradmix_ext.cli._plan import make_plan
from gradmix_ext.cli._report import RichProgress, print_files, print_tables
from gradmix_ext.continual.files import default_folder
from gradmix_ext.experiments.compare import Comparison
from gradmix_ext.experiments.jobs import Job, RunFailedError
from gradmix_ext.experiments.parallel import fitting_workers
from gradmix_ext.experiments.plan import Plan, provenance
from gradmix_ext.experiments.run_folder import RunFolder
from gradmix_ext.experiments.summary import describe
from gradmix_ext.ranks import ONE, RankLostError, Ranks, leave

__all__ = ["load_backend", "run_comparison", "sigterm_interrupts"]


def run_comparison(kind: str, arms: Sequence[str], seeds: Sequence[int], **params: Any) -> None:
    """Check everything, train, and show what came out.

    Of the processes that torchrun has started the first does this, and the others train with it.

    Args:
        kind: Name of the command, for the default folder.
        arms: METHOD[+AUGMENT] each.
        seeds: The seeds.
        **params: The other parameters of the command.
    """
    ranks = join_ranks(params["rank_timeout"])
    if not ranks.first:
        follow(ranks)
        return
    with leading(ranks) as tell:
        _lead(kind, arms, seeds, params, ranks, tell)


def _lead(
    kind: str,
    arms: Sequence[str],
    seeds: Sequence[int],
    params: dict[str, Any],
    ranks: Ranks,
    tell: Callable[[Plan, Sequence[Job]], None],
) -> None:
    """What the first process does; `tell` lets the others begin."""
    with wrong_input():
        plan = make_plan(arms, seeds, params)
        if ranks.size > 1 and (params["jobs"] or 1) > 1:
            raise ValueError(
                f"--jobs is {params['jobs']}, but under torchrun all processes train one run"
            )
        torch.set_num_threads(plan.threads)
        experiment = experiment_of(plan, ranks)
        if params["tensorboard"]:
            from gradmix_ext.continual.tensorboard import writer_class

            writer_class()
        backend = load_backend()
        origin = provenance(shlex.join(["gradmix", *sys.argv[1:]]), backend, ranks.size)
        origin["class_names"] = list(experiment.dataset.class_names)
        _note_changes(plan, origin)
        folder = RunFolder(
            params["out"] or default_folder(kind), params["overwrite"], params["resume"]
        )
    with folder, writing(folder.path):
        with wrong_input():
            plan.begun(origin).write(folder.path)
            comparison = Comparison(experiment, plan.arms, plan.seeds, plan.baseline, plan.test)
            comparison.collect(folder.path)
            folder.write_log(comparison.runs)
        left = comparison.left(folder.path, params["checkpoint_every"], params["tensorboard"])
        tell(plan, left)
        fitting = params["jobs"] or fitting_workers(experiment.device, plan.threads)
        workers = max(1, min(fitting, len(left))) if ranks.size == 1 else 1
        click.echo(describe(comparison))
        beside = f", {workers} runs side by side" if workers > 1 else ""
        if ranks.size > 1:
            beside = f", {ranks.size} processes"
        click.echo(f"{experiment.device} with {plan.threads} thread(s){beside}, {backend}")
        if comparison.runs:
            click.echo(f"{len(comparison.runs)} of {len(comparison.jobs)} runs are there already")
        _execute(comparison, folder, workers, params)
        print_tables(comparison)
        print_files(folder.finish(comparison))


def _execute(
    comparison: Comparison, folder: RunFolder, workers: int, params: dict[str, Any]
) -> None:
    """Do the runs. If that fails, or is interrupted, sum up what is finished, and exit."""
    ranks = comparison.experiment.ranks
    try:
        with sigterm_interrupts(ranks), RichProgress(comparison) as progress:
            comparison.execute(
                folder, progress, workers, params["checkpoint_every"], params["tensorboard"]
            )
    except KeyboardInterrupt:
        folder.finish(comparison)
        why = ", or another process has died" if ranks.size > 1 else ""
        click.echo(
            f"gradmix: interrupted{why}: {len(comparison.runs)} of {len(comparison.jobs)} runs "
            f"finished, kept in {folder.path}; --resume goes on from there",
            err=True,
        )
        leave(130)
    except RunFailedError as error:
        folder.finish(comparison)
        more = "; --resume goes on from there" if isinstance(error.__cause__, RankLostError) else ""
        raise RunError(f"{error}; what was finished is in {folder.path}{more}") from error


@contextmanager
def sigterm_interrupts(ranks: Ranks = ONE) -> Iterator[None]:
    """Let SIGTERM, which batch systems send, do what Ctrl-C does.

    When one process of several has ended, torchrun sends it to the others, and more than once; what
    is left to do then is short, and done.
    """
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        yield
    except BaseException:
        if ranks.size > 1:
            before = signal.SIG_IGN
        raise
    finally:
        signal.signal(signal.SIGTERM, before)


def _note_changes(plan: Plan, now: dict[str, Any]) -> None:
    """Say what is not as it was when the folder was begun, and may move the last bits."""
    if not plan.origin:
        return
    before = {"backend": plan.origin.get("backend", ""), **plan.origin.get("versions", {})}
    after = {"backend": now["backend"], **now["versions"]}
    for name, value in after.items():
        # Of the backend, how its library was found does not matter.
        old, new = (str(each).partition(" (")[0] for each in (before.get(name), value))
        if old != new:
            click.echo(
                f"gradmix: note: the folder was begun with {name} {old}, this is {new}: the last "
                "bits of results may differ",
                err=True,
            )
    processes = plan.origin.get("processes", 1)
    if processes != now["processes"]:
        click.echo(
            f"gradmix: note: the folder was begun with {processes} process(es), this is "
            f"{now['processes']}: other samples are mixed with each other, so results differ by "
            "chance",
            err=True,
        )


def load_backend() -> str:
    """Load the compiled kernels before any progress is shown; says what runs.

    Raises:
        InputError: the backend that was asked for cannot be had.
        ValueError: GRADMIX_EXT_BACKEND or GRADMIX_EXT_SIMD is not one of its words.
    """
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", UserWarning)
        try:
            status = loader.load()
            if module := loader.native():
                module.simd_level()  # refuses what GRADMIX_EXT_SIMD may not be
        except loader.BackendUnavailable as error:
            raise InputError(str(error)) from error
    for warning in caught:
        click.echo(f"gradmix: note: {warning.message}", err=True)
    names = {"cpp": "C++ kernels", "cuda": "C++ and CUDA kernels", "torch": "pure PyTorch"}
    origin = f" ({status.origin})" if status.origin else ""
    return f"{names[status.active]}{origin}"
