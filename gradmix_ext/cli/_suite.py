"""`gradmix compare --suite`."""

from __future__ import annotations

import time
from concurrent.futures.process import BrokenProcessPool
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import click
import torch
import torch.distributed as dist

from gradmix_ext.cli._errors import RunError, writing, wrong_input
from gradmix_ext.cli._plan import require_distinct
from gradmix_ext.cli._run import load_backend, sigterm_interrupts
from gradmix_ext.continual.trainer import DivergedError
from gradmix_ext.experiments.experiment import Arm, Experiment
from gradmix_ext.experiments.parallel import fitting_workers
from gradmix_ext.experiments.suite_report import SuiteFindings, write_report
from gradmix_ext.experiments.suite_runs import Ledger, run_suite
from gradmix_ext.experiments.suites import SUITES

__all__ = ["compare_suite"]


def compare_suite(
    name: str,
    *,
    quick: bool,
    contenders: tuple[str, ...],
    seeds: tuple[int, ...] | None,
    test: str,
    out: str | None,
    jobs: int | None,
) -> None:
    """Do the runs of a suite that are missing, and write tables and plots.

    Args:
        name: A name of :data:`SUITES`.
        quick: Only a few settings and seeds of it.
        contenders: Arms to be tested in place of the suite's own.
        seeds: Seeds in place of the suite's own.
        test: The paired test.
        out: The folder; runs that it holds are not done again.
        jobs: Processes that train, each on one thread; None is as many as go well.
    """
    with wrong_input():
        if dist.is_torchelastic_launched():
            raise ValueError("a --suite trains on one thread each: start it without torchrun")
        if name not in SUITES:
            raise ValueError(f"unknown suite '{name}': known are {', '.join(SUITES)}")
        suite = SUITES[name].quick() if quick else SUITES[name]
        suite = replace(
            suite, contenders=contenders or suite.contenders, seeds=seeds or suite.seeds
        )
        arms = [Arm.parse(text) for text in suite.arms]
        require_distinct(arms)
        for config in suite.settings.values():
            Experiment(config, arms)
        load_backend()
        folder = Path(out or Path("runs") / (f"{name}-quick" if quick else name))
        ledger = Ledger(folder, suite)
    wanted = len(suite.runs)
    click.echo(f"{suite.question}\n{wanted} runs, kept in {folder}")
    started = time.perf_counter()
    workers = jobs or fitting_workers(torch.device("cpu"), 1)
    with ledger, writing(folder), sigterm_interrupts():
        try:
            with closing(run_suite(suite, ledger, workers)) as found:
                for row in found:
                    done = sum(run in ledger.rows for run in suite.runs)
                    name = f"{row.setting}, {row.arm}, seed {row.seed}"
                    elapsed = time.perf_counter() - started
                    click.echo(f"[{done}/{wanted}] {name} ({elapsed:.0f} s)")
        except (DivergedError, BrokenProcessPool) as error:
            raise RunError(f"{error}; what was finished is in {folder}") from error
        findings = SuiteFindings(suite, ledger.rows, test)
        paths = write_report(findings, folder)
    click.echo(findings.markdown())
    click.echo("written to " + ", ".join(str(path) for path in paths))
