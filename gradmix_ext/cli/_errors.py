"""Errors that the user can do something about."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import click

__all__ = ["CommandError", "wrong_input"]


class CommandError(click.ClickException):
    """Ends the command with one line on stderr.

    Args:
        message: What went wrong.
        exit_code: 2 for wrong use or input, 1 for a failure while running.
    """

    def __init__(self, message: str, exit_code: int = 2) -> None:
        super().__init__(message)
        self.exit_code = exit_code


@contextmanager
def wrong_input(exit_code: int = 2) -> Iterator[None]:
    """Report what the package rejects (bad values, files that cannot be used) as one line.

    For the steps that check input, not for training: an error there is a bug, and its traceback is
    wanted.
    """
    try:
        yield
    except OSError as error:
        reason = f"{error.filename}: {error.strerror}" if error.strerror else str(error)
        raise CommandError(reason, exit_code) from error
    except (ValueError, TypeError) as error:
        raise CommandError(str(error), exit_code) from error
