"""`gradmix bench`."""

from __future__ import annotations

import signal
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from gradmix_ext.cli._options import SectionedCommand, section, typed_flags
from gradmix_ext.cli._values import THREADS

if TYPE_CHECKING:
    from gradmix_ext.bench.results import Report

__all__ = ["bench_command"]

_HELP = """\
Measure the fused ops and the training step against what users would take otherwise.

\b
WORKLOADS:
  P1  class_gram            P5  gather_augment_mixup
  P2  pair_scores           P6  epochs of training, also against Avalanche
  P3  masked_mixup          P7  import, build, loading, cost of a call
  P4  mixup_cross_entropy   scaling  time and memory over N, C, d and classes

All but scaling by default. Every case is compared with the reference before it is timed; cases are
timed in turn, so that their ratios hold on a machine that others use too. pip install
"gradmix_ext[bench]" brings the other projects; what is not installed is left out, with a word.

\b
Examples:
  gradmix bench --quick                      the main sizes, without the slow alternatives
  gradmix bench P1 P3 --device cuda
  gradmix bench scaling --out runs/scaling
  gradmix bench --quick --check benchmarks/results     exit code 1 if a ratio got worse
  gradmix bench --again benchmarks/results/cpu         tables and plots of an earlier run
"""


@click.command("bench", cls=SectionedCommand, help=_HELP)
@click.argument("workloads", nargs=-1, metavar="[WORKLOAD]...")
@section(
    "Measuring",
    click.option(
        "--device",
        type=click.Choice(["cpu", "cuda"]),
        default="cpu",
        show_default=True,
        help="Where to measure.",
    ),
    click.option("--quick", is_flag=True, help="Main sizes only, no slow alternatives."),
    click.option("--match", default="", metavar="TEXT", help="Only settings with TEXT in them."),
    click.option("--threads", type=THREADS, help="CPU threads.  [default: PyTorch's]"),
    click.option(
        "--check",
        metavar="PATH",
        help="Compare the ratios with a bench.json, or with the one of this machine in a folder.",
    ),
)
@section(
    "Output",
    click.option(
        "--out",
        metavar="DIR",
        help="Folder for JSON, Markdown and plots; a workload that is there already is replaced, "
        "others stay.  [default: runs/TIME-bench]",
    ),
    click.option(
        "--again", metavar="DIR", help="Measure nothing: tables and plots of an earlier run."
    ),
)
def bench_command(workloads: tuple[str, ...], **params: Any) -> None:
    """Read the input, measure, show, write, compare."""
    from gradmix_ext.bench import discover
    from gradmix_ext.cli import _bench
    from gradmix_ext.cli._errors import RunError, writing, wrong_input

    with wrong_input():
        if params["again"] is not None:
            others = typed_flags().keys() - {"again", "check"}
            if others:
                raise ValueError("--again measures nothing: it goes with --check alone")
            folder = Path(params["again"])
            reports = measured = _bench.read(folder)
            chosen, failure = {}, ""
        else:
            chosen = _bench.choose(workloads, discover.files(discover.benchmarks_folder()))
            _bench.require_device(params["device"])
        # Before the results are written: they may be put where those are that they are held to.
        old = None if params["check"] is None else _bench.comparable(params["check"], chosen)
        if params["again"] is None:
            folder = _bench.prepare_folder(params["out"])
            earlier = _bench.earlier(folder)
    if params["again"] is None:
        measured, failure = _measure(chosen, params)
        part = failure or params["quick"] or params["match"]
        whole = [] if part else list(chosen)
        with wrong_input():
            if not failure and not any(report.groups for report in measured.values()):
                raise ValueError(f"nothing was measured: no setting has '{params['match']}' in it")
            reports = {
                kind: earlier[kind].merged(report, whole) if kind in earlier else report
                for kind, report in measured.items()
            }
    with writing(folder):
        paths = _bench.write(reports, folder)
    _bench.show(reports)
    if paths:
        click.echo("\nwritten to " + ", ".join(str(path) for path in paths))
    if failure == "interrupted":
        raise click.Abort
    if failure:
        raise RunError(failure)
    if old is not None:
        _check(measured, old)


def _measure(chosen: dict[str, Path], params: dict[str, Any]) -> tuple[dict[str, Report], str]:
    """The reports by kind, and what failed."""
    from gradmix_ext.bench.run import BenchFailed, run_file
    from gradmix_ext.cli import _bench

    arguments = ["--device", params["device"], "--match", params["match"]]
    arguments += ["--quick"] if params["quick"] else []
    arguments += ["--threads", str(params["threads"])] if params["threads"] else []
    reports: dict[str, Report] = {}
    failure = ""
    # Stopped from outside it keeps what was measured, as after Ctrl-C.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    with _bench.BenchProgress(list(chosen)) as progress:
        for name, path in chosen.items():
            progress.begin(name)
            try:
                report = run_file(path, arguments, progress)
            except BenchFailed as error:
                report, failure = error.report, str(error)
            kind = _bench.kind_of(name)
            if report.machine:
                reports[kind] = reports[kind].merged(report) if kind in reports else report
            if failure:
                break  # what was measured so far is shown and written
    return reports, failure


def _check(reports: dict[str, Report], earlier: dict[Path, Report]) -> None:
    """Compare with an earlier report, and end the command if something has become slower."""
    from gradmix_ext.bench.check import TOLERANCE, changes, of_machine
    from gradmix_ext.cli._errors import RunError, wrong_input

    with wrong_input():
        if "bench" not in reports:
            raise ValueError("--check compares P1 to P7, and none of them was measured")
        path, old = of_machine(earlier, reports["bench"])
        found = changes(old, reports["bench"])
        if not found:
            raise ValueError(f"{path} has none of the cases that were measured")
    lost = [change for change in found if change.lost()]
    click.echo(
        f"\ncompared with {path}: {len(found)} cases, {len(lost)} lost more than {TOLERANCE:.0%}"
    )
    for change in sorted(found, key=lambda each: each.factor or 0.0):
        click.echo(f"  {'LOST' if change.lost() else 'ok  '} {change}")
    if lost:
        raise RunError("slower than before: " + "; ".join(map(str, lost)))
