"""`gradmix compare`."""

from __future__ import annotations

from typing import Any

import click

from gradmix_ext.cli._options import (
    SectionedCommand,
    experiment_options,
    run_options,
    section,
    typed_flags,
)
from gradmix_ext.cli._values import read_seeds

__all__ = ["compare_command"]


_HELP = """\
Compare methods and mixers over several seeds, with mean and 95 % confidence interval.

An ARM is METHOD, METHOD+AUGMENT, or AUGMENT alone, which means er+AUGMENT.

\b
METHOD    finetune         the current task alone (lower bound)
          er               the current task and a small replay buffer
          er-ace           er, but new samples leave the logits of old classes alone
          der++            replay of samples and of the logits that they once had
          icarl            exemplars, distillation, nearest mean of exemplars
          a-gem            the current task, by gradients that do not raise the buffer's loss
          joint            all data of all tasks so far (upper bound)
AUGMENT   none             no mixing
          mixup            random partners
          cutmix           a box of a random partner; images alone
          manifold         random partners, mixed at a hidden layer
          balanced         partners drawn evenly over classes
          random-mask      as many class pairs as gradmix[preset=paper], chosen at random
          shuffled-scores  gradmix, with its scores dealt out to other class pairs
          gradmix          class pairs by what their gradients do for earlier tasks

Both may have settings of their own: gradmix[policy=skip,samples_per_pair=4],
der++[replay_weight=1]+mixup.

Without arms: finetune er mixup balanced random-mask gradmix[preset=paper]
shuffled-scores gradmix joint.

\b
Examples:
  gradmix compare                                        bounds, replay and its mixers
  gradmix compare er gradmix --seeds 20                  two arms, twenty seeds
  gradmix compare gradmix joint+gradmix --epochs 20      mixing with all data at hand
  gradmix compare er der++ der+++mixup --replay split    a method whose name ends in ++
  gradmix compare --buffer-size 100 --epochs 20 --lr 0.02 --out runs/large-buffer
  gradmix compare --suite selection --quick              which pairs to mix? a first look

A suite is a declared study of many settings and arms; an ARM then is tested in place of the suite's
own contenders. Settings are the suite's, and so are the defaults of --seeds and --out. The same
command goes on where it was interrupted.
"""


@click.command("compare", cls=SectionedCommand, help=_HELP)
@click.argument("arms", nargs=-1, metavar="[ARM]...")
@section(
    "Suites",
    click.option("--suite", metavar="NAME", help="Run a whole study instead: selection."),
    click.option("--quick", is_flag=True, help="A few settings and seeds of the suite."),
)
@section(
    "Seeds",
    click.option(
        "--seeds",
        callback=read_seeds,
        default="10",
        show_default=True,
        metavar="N|LIST",
        help="A count (5: seeds 0 to 4) or the seeds themselves (0,4,7 or 0-9; seed 7 alone: 7-7). "
        "All arms of a seed share class order, initial weights and data.",
    ),
)
@section(
    "Statistics",
    click.option(
        "--baseline",
        metavar="ARM",
        help="The arm that the others are tested against, seed by seed.  [default: er, or else the "
        "first]",
    ),
    click.option(
        "--test",
        type=click.Choice(["t", "wilcoxon"]),
        default="t",
        show_default=True,
        help="Paired t test, or Wilcoxon's signed-rank test, which does not presume normal "
        "differences and cannot get below p = 0.05 with fewer than 6 seeds. Both are corrected by "
        "Holm's method for the number of arms and metrics.",
    ),
)
@run_options
@experiment_options
def compare_command(arms: tuple[str, ...], seeds: tuple[int, ...], **params: Any) -> None:
    """Compare arms, or run a suite."""
    suite, quick = params.pop("suite"), params.pop("quick")
    if suite is not None:
        from gradmix_ext.cli._suite import compare_suite

        typed = typed_flags()
        known = {"arms", "seeds", "suite", "quick", "jobs", "test", "out"}
        _refuse_settings(sorted(flag for name, flag in typed.items() if name not in known))
        compare_suite(
            suite,
            quick=quick,
            contenders=arms,
            seeds=seeds if "seeds" in typed else None,
            test=params["test"],
            out=params["out"],
            jobs=params["jobs"],
        )
        return
    if quick:
        raise click.UsageError("--quick is for a --suite")
    from gradmix_ext.cli._run import run_comparison
    from gradmix_ext.experiments.experiment import DEFAULT_ARMS

    run_comparison("compare", arms or DEFAULT_ARMS, seeds, **params)


def _refuse_settings(flags: list[str]) -> None:
    """A suite sets everything else by itself.

    Raises:
        click.UsageError: something else was given.
    """
    if flags:
        raise click.UsageError(f"a --suite sets its own settings: leave out {', '.join(flags)}")
