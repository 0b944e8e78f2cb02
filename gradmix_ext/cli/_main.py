"""The root command: finds subcommands when they are called, and turns errors into one line."""

from __future__ import annotations

import importlib
import io
import os
import sys
from collections.abc import Sequence
from typing import NoReturn

import click

from gradmix_ext._version import __version__
from gradmix_ext.ranks import FirstRankError, RankLostError, leave

__all__ = ["cli", "main"]

# Name: (module in this package, function, what it does). Modules load when their command is called.
_COMMANDS = {
    "train": ("train", "train_command", "Train one method with one mixer on a stream of tasks."),
    "compare": ("compare", "compare_command", "Compare methods and mixers over several seeds."),
    "diagnose": (
        "diagnose",
        "diagnose_command",
        "Measure how well scores of class pairs predict what mixing does.",
    ),
    "report": ("report", "report_command", "Show runs as one HTML page."),
    "robustness": (
        "robustness",
        "robustness_command",
        "Attack trained models, and plot the result.",
    ),
    "explain": ("explain", "explain_command", "Show what mixup does to a trained model."),
    "rare-features": (
        "rare_features",
        "rare_features_command",
        "Which trainings learn rare features, and when mixup may stop.",
    ),
    "bench": ("bench", "bench_command", "Measure speed and memory against the alternatives."),
    "build": ("build", "build_command", "Compile the kernels now, instead of at first use."),
    "info": ("info", "info_command", "Say what is installed and which backend runs."),
}


class LazyGroup(click.Group):
    """A group that imports a subcommand's module when it is asked for."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """The names of all subcommands."""
        return list(_COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Import and return a subcommand, None if there is none of that name."""
        if cmd_name not in _COMMANDS:
            return None
        module, function, _ = _COMMANDS[cmd_name]
        command = getattr(importlib.import_module(f"gradmix_ext.cli.{module}"), function)
        assert isinstance(command, click.Command)
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """List the subcommands without importing them."""
        with formatter.section("Commands"):
            formatter.write_dl([(name, text) for name, (_, _, text) in _COMMANDS.items()])


_HELP = """\
Gradient-aware data mixing (GradMix) for class-incremental learning.

\b
gradmix compare                      bounds, replay and mixers on Split-Digits, a minute or two
gradmix train --augment gradmix      one run, with its progress
gradmix COMMAND --help               what can be set, and what it means
"""


@click.group(
    cls=LazyGroup,
    help=_HELP,
    invoke_without_command=True,
    context_settings={"help_option_names": ["-h", "--help"]},
)
@click.version_option(__version__, prog_name="gradmix")
@click.pass_context
def cli(ctx: click.Context) -> None:
    """Find the subcommand; without one, say which there are."""
    if ctx.invoked_subcommand is None:
        click.echo(ctx.get_help())


def main(args: Sequence[str] | None = None) -> NoReturn:
    """Run the command line and exit.

    Exit codes: 0 done, 1 failed while running, 2 wrong use or input, 130 interrupted. Every error
    that the user can do something about is one line on stderr.
    """
    if isinstance(sys.stdout, io.TextIOWrapper) and sys.stdout.errors == "strict":
        sys.stdout.reconfigure(errors="replace")  # ? for what a terminal without λ cannot show
    try:
        code = cli.main(args=args, prog_name="gradmix", standalone_mode=False)
    except click.ClickException as error:
        fail(error.format_message(), error.exit_code)
    except FirstRankError as error:  # of which the first rank has told
        leave(error.exit_code)
    except RankLostError as error:
        fail(str(error), 1)
    except (click.Abort, KeyboardInterrupt):
        fail("interrupted", 130)
    except BrokenPipeError:
        # The reader (head, less) has gone; keep the interpreter from complaining about it at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)
    leave(code if isinstance(code, int) else 0)


def fail(message: str, code: int) -> NoReturn:
    """One line on stderr, and exit."""
    prefix = "" if code == 130 else "error: "
    click.echo(f"gradmix: {prefix}{' '.join(message.split())}", err=True)
    leave(code)
