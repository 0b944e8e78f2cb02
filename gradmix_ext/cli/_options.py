"""The flags that `gradmix train` and `gradmix compare` share, and what they turn into."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeVar

import click
from click.core import ParameterSource

from gradmix_ext.cli._values import (
    COUNT,
    MAX_COUNT,
    SEED,
    THREADS,
    read_fixed_lam,
    read_increment,
    read_jobs,
    read_update,
)

if TYPE_CHECKING:
    from gradmix_ext.experiments.experiment import ExperimentConfig

__all__ = [
    "SectionedCommand",
    "experiment_config",
    "experiment_options",
    "option",
    "run_options",
    "section",
    "typed_flags",
]

F = TypeVar("F", bound=Callable[..., Any])

_SECTION = "gradmix_section"


class SectionedCommand(click.Command):
    """Shows its options under headings, in the order in which they were declared."""

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the options, section by section."""
        sections: dict[str, list[tuple[str, str]]] = {}
        for param in self.get_params(ctx):
            record = param.get_help_record(ctx)
            if record is not None:
                sections.setdefault(getattr(param, _SECTION, "Other"), []).append(record)
        for title, records in sections.items():
            with formatter.section(title):
                formatter.write_dl(records)


def section(title: str, *options: Callable[[F], F]) -> Callable[[F], F]:
    """Decorator: add options (``click.option(...)``) under a heading."""

    def decorate(function: F) -> F:
        for each in reversed(options):
            function = each(function)
        for param in function.__click_params__[-len(options) :]:  # type: ignore[attr-defined]
            setattr(param, _SECTION, title)
        return function

    return decorate


def option(*names: str, **settings: Any) -> Callable[[F], F]:
    """``click.option``, which shows its default unless that is told in words."""
    return click.option(*names, show_default=settings.pop("show_default", True), **settings)


_DATA = section(
    "Data and tasks",
    option(
        "--dataset",
        default="digits",
        metavar="NAME",
        help="digits (8x8 images, held flat; nothing to download), and the streams made of them: "
        "digits-rotated, digits-permuted, digits-longtail, digits-corrupted-1 to -3; hierarchy "
        "(synthetic); mnist, fashion-mnist, kmnist, cifar10, "
        "cifar100, tiny-imagenet; imagefolder: --data-dir with one subfolder of images per class; "
        "or an .npz file with x and y, or with x_train, y_train, x_test and y_test.",
    ),
    option(
        "--data-dir",
        metavar="DIR",
        help="Folder in which data files are looked for, and to which they are downloaded.  "
        "[default: $GRADMIX_EXT_DATA, else ~/.cache/gradmix_ext/data]",
    ),
    option(
        "--download/--no-download",
        default=True,
        help="Whether data files that are not there may be downloaded.",
    ),
    option(
        "--image-size",
        type=click.IntRange(min=1, max=4096),
        metavar="PIXELS",
        help="Side to which the images of imagefolder and tiny-imagenet are resized and cut.  "
        "[default: 224 and 64]",
        show_default=False,
    ),
    option("--tasks", type=COUNT, help="Number of tasks.  [default: 5]", show_default=False),
    option(
        "--increment",
        callback=read_increment,
        metavar="N|LIST",
        help="Classes per task, instead of --tasks: 2, or 4,3,3 for unequal tasks.",
    ),
    option(
        "--base",
        type=click.IntRange(min=0, max=MAX_COUNT),
        default=0,
        help="Classes of the first task (B5-Inc1: --base 5 --increment 1); 0: like the others.",
    ),
    option(
        "--class-order-seed",
        type=SEED,
        help="Seed of the order of classes.  [default: the run's own seed]",
        show_default=False,
    ),
)

_REPLAY = section(
    "Replay buffer",
    option("--buffer-size", type=COUNT, default=20, help="Samples in total, over all classes."),
    option(
        "--buffer-policy",
        type=click.Choice(["reservoir", "class-balanced", "herding"]),
        help="Which samples are kept: a uniform draw of all, of each class, or iCaRL's exemplars.  "
        "[default: herding for icarl, else class-balanced]",
        show_default=False,
    ),
    option(
        "--fill-buffer",
        is_flag=True,
        help="Use also the slots that do not divide by the number of classes seen, instead of "
        "leaving them empty so that all classes have the same share.",
    ),
    option(
        "--replay",
        type=click.Choice(["union", "split"]),
        default="union",
        help="union: current data and buffer shuffled together. split: a batch of each per step; "
        "er-ace and der++ always have that.",
    ),
)

_TRAINING = section(
    "Training",
    option("--epochs", type=COUNT, default=10, help="Epochs per task."),
    option("--batch-size", type=COUNT, default=64, help="Samples per batch, over all processes."),
    option("--optimizer", type=click.Choice(["sgd", "adamw"]), default="sgd"),
    option("--lr", type=float, default=0.05, help="Learning rate."),
    option("--momentum", type=float, default=0.9, help="Momentum of SGD."),
    option("--weight-decay", type=float, default=0.0, help="Weight decay."),
    option(
        "--schedule",
        type=click.Choice(["constant", "cosine", "step"]),
        default="constant",
        help="Learning rate over the epochs of a task; step: a tenth after 1/2 and after 3/4.",
    ),
    option(
        "--clip-grad",
        type=click.FloatRange(min=0, min_open=True),
        metavar="NORM",
        help="Scale larger gradients down to this norm.  [default: never]",
        show_default=False,
    ),
    option(
        "--model",
        default="mlp",
        metavar="NAME",
        help="mlp (two hidden layers of 256), cnn (a small one), resnet32 (that of CIFAR), a "
        "torchvision model such as resnet18, or timm:NAME.",
    ),
    option(
        "--stem",
        type=click.Choice(["standard", "cifar"]),
        default="standard",
        help="cifar: a ResNet or DenseNet of torchvision starts with a 3x3 convolution and without "
        "pooling, as small images need it.",
    ),
    option(
        "--crop-padding",
        type=click.IntRange(min=0, max=1024),
        metavar="PIXELS",
        help="Random crops of images, with so many black pixels around them.  [default: that of "
        "the data set]",
        show_default=False,
    ),
    option(
        "--hflip/--no-hflip",
        default=None,
        help="Flip half of the images left to right.  [default: that of the data set]",
        show_default=False,
    ),
    option(
        "--device",
        default="auto",
        metavar="DEVICE",
        help="cpu, cuda, cuda:1, ...; auto: a CUDA GPU if there is one.",
    ),
    option(
        "--amp",
        type=click.Choice(["none", "bf16", "fp16"]),
        default="none",
        help="Mixed precision of the training step.",
    ),
    option("--compile", is_flag=True, help="Compile the model by torch.compile."),
    option(
        "--storage",
        type=click.Choice(["auto", "device", "host"]),
        default="auto",
        help="Where the data lives; auto: on the device if it takes at most half of its free "
        "memory.",
    ),
    option(
        "--workers",
        type=click.IntRange(min=0, max=1024),
        default=0,
        help="Processes that read data which is not on the device.",
    ),
    option(
        "--sync-batch-norm",
        is_flag=True,
        help="Under torchrun, on GPUs: normalise by the batches of all processes together.",
    ),
    option(
        "--threads",
        type=THREADS,
        default=1,
        help="CPU threads of PyTorch. Models as small as the default one gain nothing from more.",
    ),
)

_MIXING = section(
    "Mixing",
    option("--alpha", type=float, default=1.0, help="λ ~ Beta(alpha, alpha)."),
    option(
        "--per-sample-lam/--per-batch-lam",
        default=None,
        show_default=False,
        help="One λ per sample, or per batch.  [default: per batch; gradmix and its controls: the "
        "preset's]",
    ),
    option(
        "--balance",
        type=click.FloatRange(0, 1),
        show_default=False,
        help="Weighs the loss of a mixed sample by (samples of its class in the batch)^-balance.  "
        "[default: 0; gradmix and its controls: the preset's]",
    ),
    option(
        "--lam-coupling",
        type=click.Choice(["same", "independent", "fixed"]),
        default="same",
        help="λ of the inputs and λ of the labels: one draw, two draws (folded to [0.5, 1]), or "
        "--fixed-lam.",
    ),
    option(
        "--fixed-lam",
        callback=read_fixed_lam,
        metavar="X,Y",
        help="λ of the inputs and λ of the labels, for --lam-coupling fixed.",
    ),
    option(
        "--stop-epoch",
        type=click.IntRange(min=0, max=MAX_COUNT),
        help="Mix in this many epochs of each task, then train plainly.  [default: never stop]",
        show_default=False,
    ),
    option(
        "--taper",
        type=click.Choice(["none", "linear"]),
        default="none",
        help="linear: mix more and more weakly until --stop-epoch.",
    ),
    option(
        "--preset",
        type=click.Choice(["tuned", "paper"]),
        show_default=False,
        help="tuned: the rule of gradmix that was measured best. paper: the published one. What "
        "the flags say goes before either.  [default: tuned; random-mask: paper]",
    ),
    option(
        "--criterion",
        type=click.Choice(["mixed", "linear", "gram"]),
        show_default=False,
        help="How gradmix scores a class pair: from real mixed samples, from the mean gradients of "
        "its two classes, or by their inner product.  [default: the preset's]",
    ),
    option(
        "--policy",
        type=click.Choice(["redraw", "skip", "soft"]),
        show_default=False,
        help="soft: scores tilt a class-balanced draw of the partner. Else a detrimental pair gets "
        "another partner (redraw) or stays unmixed (skip).  [default: the preset's]",
    ),
    option(
        "--threshold",
        type=float,
        default=0.0,
        help="Least score of a helpful pair; --policy soft mixes all pairs.",
    ),
    option(
        "--temperature",
        type=click.FloatRange(min=0, min_open=True),
        default=4.0,
        help="How little --policy soft trusts the scores, in standard deviations of them.",
    ),
    option(
        "--samples-per-pair",
        type=COUNT,
        default=16,
        help="Mixed samples per scored pair, for --criterion mixed.",
    ),
    option(
        "--samples-per-class",
        type=COUNT,
        default=16,
        help="Most samples of each class of the current task that linear and gram look at.",
    ),
    option(
        "--update",
        callback=read_update,
        metavar="WHEN",
        default="epoch",
        help="When pairs are scored anew: epoch, every so many steps (a number), or online, from "
        "the samples that training mixes anyway.",
    ),
)

_OUTPUT = section(
    "Output",
    option(
        "--out",
        metavar="DIR",
        help="Folder for the results.  [default: a new one under runs/]",
        show_default=False,
    ),
    option("--overwrite", is_flag=True, help="Replace the results of an earlier run in --out."),
)


def experiment_options(function: F) -> F:
    """Decorator: every flag that describes an experiment, apart from arms and seeds."""
    for add in (_OUTPUT, _MIXING, _TRAINING, _REPLAY, _DATA):
        function = add(function)
    return function


_RUNNING = section(
    "Running",
    option(
        "--jobs",
        callback=read_jobs,
        default="auto",
        metavar="N|auto",
        help="Runs side by side, each in a process of its own with --threads threads; auto: as the "
        "CPU cores allow, and one at a time on a GPU. Results do not depend on it.",
    ),
    option(
        "--resume",
        is_flag=True,
        help="Go on in --out with what was interrupted, under its settings; more seeds and arms "
        "may be named.",
    ),
    option(
        "--checkpoint-every",
        type=click.FloatRange(min=0),
        default=30.0,
        metavar="SECONDS",
        help="Least time between two checkpoints of a run, from which --resume goes on.",
    ),
    option(
        "--rank-timeout",
        type=click.FloatRange(min=1),
        default=600.0,
        metavar="SECONDS",
        help="Under torchrun: how long to wait for a process that does not answer.",
    ),
    option("--tensorboard", is_flag=True, help="Write event files for TensorBoard to --out."),
)


def run_options(function: F) -> F:
    """Decorator: the flags that say how runs are carried out."""
    return _RUNNING(function)


def typed_flags() -> dict[str, str]:
    """Parameters of the running command that were typed, not defaulted, with their flags."""
    context = click.get_current_context()
    return {
        param.name: param.opts[0]
        for param in context.command.params
        if param.name is not None
        and context.get_parameter_source(param.name) is ParameterSource.COMMANDLINE
    }


def experiment_config(params: dict[str, Any]) -> ExperimentConfig:
    """The settings of a command's parameters.

    Raises:
        click.UsageError: --tasks and --increment were both given.
    """
    from dataclasses import fields

    from gradmix_ext.experiments.experiment import ExperimentConfig

    if params["tasks"] is not None and params["increment"] is not None:
        raise click.UsageError("give either --tasks or --increment, not both")
    names = {field.name for field in fields(ExperimentConfig)}
    settings = {name: value for name, value in params.items() if name in names}
    if params["tasks"] is None and params["increment"] is None:
        settings["tasks"] = ExperimentConfig.tasks
    return ExperimentConfig(**settings)
