"""`gradmix explain`."""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from gradmix_ext.cli._options import SectionedCommand, section
from gradmix_ext.cli._values import MAX_COUNT, SEED, THREADS, whole_number

if TYPE_CHECKING:
    from torch import Tensor

    from gradmix_ext.continual.data import RawInputs
    from gradmix_ext.continual.scenario import Scenario
    from gradmix_ext.experiments.saved import SavedRun
    from gradmix_ext.mixers.images import Inputs

__all__ = ["explain_command"]


def _read_pairs(ctx: click.Context, param: click.Parameter, text: str) -> str | int:
    """``all`` or a positive number."""
    if text == "all":
        return text
    pairs = whole_number(text, MAX_COUNT)
    if pairs is not None:
        return pairs
    raise click.BadParameter(f"'{text}' is neither all nor a positive number of pairs")


_HELP = """\
Show what mixup does to a trained model, as a page to open in a browser.

RUN is a folder that `gradmix train` or `gradmix compare` left. For its final model and a batch
of training samples: the terms by which mixing changes the loss, how far to trust them, which
class pairs help and which harm, and the robust radius where it is defined. Class pairs are
judged by the loss on the training samples of all tasks but the last. The terms are about the
cross-entropy of the model's logits, so iCaRL, which does not predict by them, is refused.

\b
Examples:
  gradmix explain runs/demo --arm gradmix
  gradmix explain runs/demo --arm mixup --seed 3 --samples 512 --alpha 0.2
"""


@click.command("explain", cls=SectionedCommand, help=_HELP)
@click.argument("run")
@section(
    "Model",
    click.option("--arm", help="The arm, if the run has several.", metavar="ARM"),
    click.option("--seed", type=int, help="The seed.  [default: the first of the run]"),
)
@section(
    "Batch",
    click.option(
        "--samples",
        type=click.IntRange(min=2, max=MAX_COUNT),
        default=256,
        show_default=True,
        help="Training samples, drawn from all tasks.",
    ),
    click.option("--alpha", type=float, help="λ ~ Beta(alpha, alpha).  [default: the arm's]"),
    click.option(
        "--pairs",
        callback=_read_pairs,
        default="all",
        show_default=True,
        metavar="all|K",
        help="Pairs of samples for the expansion: all, or so many at random.",
    ),
    click.option(
        "--draw-seed", type=SEED, default=0, show_default=True, help="Seed of batch and draws."
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
        "--out", metavar="FILE", help="The page.  [default: explain-ARM-seed-N.html in RUN]"
    ),
)
def explain_command(run: str, **params: Any) -> None:
    """Read the input, compute, write."""
    import torch

    from gradmix_ext.cli._errors import writing, wrong_input
    from gradmix_ext.theory.explain import explain
    from gradmix_ext.theory.page import render

    torch.set_num_threads(params["threads"])
    with wrong_input():
        saved = _choose(run, params["arm"], params["seed"])
        if not saved.predicts_by_logits:
            raise ValueError(
                f"{saved.arm.label} does not predict by the logits of its model, whose "
                "cross-entropy is what would be explained: choose another arm"
            )
        alpha = params["alpha"]
        if alpha is None:
            alpha = dict(saved.arm.options).get("alpha", saved.experiment.config.alpha)
        generator = torch.Generator().manual_seed(params["draw_seed"])
        scenario = saved.scenario()
        x, y = _batch(scenario, params["samples"], generator)
        earlier = max(len(scenario) - 1, 1)
        reference_x, reference_y = scenario.samples(tasks=earlier)
        found = explain(
            saved.model(),
            x,
            y,
            (_ready(scenario, reference_x)[:], reference_y),
            num_classes=scenario.num_classes,
            alpha=alpha,
            pairs=params["pairs"],
            generator=generator,
        )
    t = found.taylor
    name = f"{saved.arm.label}, seed {saved.seed}"
    facts = {
        "Run": str(saved.folder),
        "Data": f"{scenario.name}, {len(scenario)} tasks, {scenario.num_classes} classes",
        "Batch": f"{found.samples} training samples of all tasks",
        "Mixing": f"λ ~ Beta({alpha:g}, {alpha:g})",
        "Reference": f"training samples of tasks 1 to {earlier}",
    }
    page = render(found, f"What mixup does to {name}", facts, scenario.class_names)
    out = Path(params["out"] or saved.folder / f"explain-{saved.arm.label}-seed-{saved.seed}.html")
    with writing(out):
        out.write_text(page, encoding="utf-8")
    ranked = found.ranked_pairs()
    print(f"{name}: {found.samples} samples, {t.pairs} pairs, alpha {alpha:g}")
    print(f"L_std    {t.L_std:10.5f}   loss of unmixed samples")
    print(f"R1       {t.R1:+10.5f}   slope of the loss towards other samples")
    print(f"R2       {t.R2:+10.5f}   curvature of the loss")
    print(f"R3       {t.R3:+10.5f}   curvature of the model")
    print(f"R        {t.R1 + t.R2 + t.R3:+10.5f} {_error(t.R_stderr)}   their sum")
    print(f"L_approx {t.L_approx:10.5f} {_error(t.R_stderr)}   L_std + R")
    print(f"L_mix    {t.L_mix:10.5f} {_error(t.L_mix_stderr)}   loss of mixed samples")
    print("± is the standard error, of the draw of pairs and of λ")
    print(f"class pairs: {sum(s >= 0 for *_, s in ranked)} of {len(ranked)} help")
    print(f"\nwritten to {out}")


def _error(stderr: float) -> str:
    return "± unknown" if math.isnan(stderr) else f"± {stderr:.5f}"


def _choose(run: str, arm: str | None, seed: int | None) -> SavedRun:
    """The one saved run that is meant.

    Raises:
        ValueError: there is none, or the arm has to be named.
    """
    from gradmix_ext.experiments.saved import load_runs

    saved = load_runs(run)
    arms = list(dict.fromkeys(each.arm.label for each in saved))
    if arm is None and len(arms) > 1:
        raise ValueError(f"{run} has several arms: choose one by --arm ({', '.join(arms)})")
    if arm is not None and arm not in arms:
        raise ValueError(f"{run} has no arm '{arm}': there are {', '.join(arms)}")
    of_arm = [each for each in saved if arm in (None, each.arm.label)]
    for each in of_arm:
        if seed in (None, each.seed):
            return each
    seeds = ", ".join(str(each.seed) for each in of_arm)
    raise ValueError(f"{run} has no seed {seed}: there are {seeds}")


def _batch(scenario: Scenario, samples: int, generator: Any) -> tuple[Tensor, Tensor]:
    """Training samples of all tasks, drawn without replacement."""
    import torch

    x, y = scenario.samples()
    kept = torch.randperm(len(y), generator=generator)[:samples].to(y.device)
    return _ready(scenario, x)[kept], y[kept]


def _ready(scenario: Scenario, x: RawInputs) -> Inputs:
    """Samples ready for the model when indexed."""
    from gradmix_ext.continual.feed import Feed

    return Feed(scenario.transform, scenario[0].train_y.device).view(x)
