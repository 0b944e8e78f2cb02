"""`gradmix train`."""

from __future__ import annotations

from typing import Any

import click

from gradmix_ext.cli._options import SectionedCommand, experiment_options, run_options, section
from gradmix_ext.cli._values import read_seeds

__all__ = ["train_command"]


_HELP = """\
Train one method with one mixer on a stream of tasks, and test it after each.

The classes of a data set arrive task by task. While task t is trained, earlier classes are
there only as a few samples in a replay buffer; the test asks for all classes seen so far.

\b
Examples:
  gradmix train                                    GradMix on Split-Digits
  gradmix train --augment none --seeds 5           plain experience replay, five seeds
  gradmix train --replay split --buffer-size 50    replay in a batch of its own
  gradmix train --increment 1 --base 5             B5-Inc1: 5 classes, then one at a time
  gradmix train --criterion linear --update 10     score class pairs anew every 10 steps
"""


@click.command("train", cls=SectionedCommand, help=_HELP)
@section(
    "What to train",
    click.option(
        "--method",
        type=click.Choice(["finetune", "er", "er-ace", "der++", "icarl", "a-gem", "joint"]),
        default="er",
        show_default=True,
        help="finetune: the current task alone (lower bound). er: with replay from a small buffer. "
        "er-ace: er, but new samples leave the logits of old classes alone. der++: replay of "
        "samples and of the logits that they once had. icarl: exemplars, distillation, nearest "
        "mean of exemplars. a-gem: gradients that do not raise the buffer's loss. "
        "joint: all data of all tasks so far (upper bound).",
    ),
    click.option(
        "--augment",
        type=click.Choice(
            [
                *("none", "mixup", "cutmix", "manifold"),
                *("balanced", "random-mask", "shuffled-scores", "gradmix"),
            ]
        ),
        default="gradmix",
        show_default=True,
        help="none, mixup (random partners), cutmix (a box of the partner; images alone), manifold "
        "(mixup at a hidden layer), balanced (partners drawn evenly over classes), "
        "gradmix (class pairs by what their gradients do for earlier tasks), and its controls: "
        "random-mask (as many pairs as gradmix --preset paper allows, chosen at random) and "
        "shuffled-scores (scores dealt out to other pairs).",
    ),
    click.option(
        "--seeds",
        callback=read_seeds,
        default="1",
        show_default=True,
        metavar="N|LIST",
        help="A count (3: seeds 0, 1, 2) or the seeds themselves (0,4,7 or 0-9; seed 7: 7-7).",
    ),
)
@run_options
@experiment_options
def train_command(method: str, augment: str, seeds: tuple[int, ...], **params: Any) -> None:
    """Train one arm."""
    from gradmix_ext.cli._run import run_comparison

    arm = method if augment == "none" else f"{method}+{augment}"
    run_comparison("train", [arm], seeds, **params)
