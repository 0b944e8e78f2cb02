"""Errors that the user can do something about."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import click

__all__ = ["InputError", "RunError", "writing", "wrong_input"]


class InputError(click.ClickException):
    """Ends the command with one line on stderr and exit code 2: wrong use or input."""

    exit_code = 2


class RunError(click.ClickException):
    """Ends the command with one line on stderr and exit code 1: it failed while running."""

    exit_code = 1


@contextmanager
def wrong_input() -> Iterator[None]:
    """Report what the package rejects (bad values, files that cannot be used) as one line.

    For the steps that check input, not for training: an error there is a bug, and its traceback is
    wanted.
    """
    try:
        yield
    except OSError as error:
        # A full disk names no file.
        reason = f"{error.filename}: {error.strerror}" if error.filename else str(error)
        raise InputError(reason) from error
    except (ValueError, TypeError, ImportError) as error:  # ImportError: an extra is missing
        raise InputError(str(error)) from error


@contextmanager
def writing(place: Path) -> Iterator[None]:
    """Report a disk that refuses results as one line."""
    try:
        yield
    except BrokenPipeError:  # the reader of what is shown has gone
        raise
    except OSError as error:
        raise RunError(f"cannot write {place}: {error}") from error
