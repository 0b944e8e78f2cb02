"""What the values of flags are read as."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

import click

__all__ = [
    "COUNT",
    "MAX_COUNT",
    "SEED",
    "THREADS",
    "read_fixed_lam",
    "read_increment",
    "read_jobs",
    "read_list",
    "read_seeds",
    "read_update",
    "whole_number",
]

# What is accepted ends far above what is of use, and below where arithmetic in 64 bits, or the
# runtime of the threads, breaks down.
MAX_COUNT = 10_000_000
_MAX_SEED = 2**53
_MAX_SEEDS = 10_000

Number = TypeVar("Number", int, float)

COUNT = click.IntRange(min=1, max=MAX_COUNT)
SEED = click.IntRange(min=-_MAX_SEED, max=_MAX_SEED)
THREADS = click.IntRange(min=1, max=1024)


def whole_number(text: str, most: int) -> int | None:
    """The number from 1 to `most` that the text is, None if it is none."""
    try:
        number = int(text) if text.isdecimal() else 0
    except ValueError:  # thousands of digits
        number = 0
    return number if 1 <= number <= most else None


def read_seeds(ctx: click.Context, param: click.Parameter, text: str) -> tuple[int, ...]:
    """``5`` is the seeds 0 to 4; ``0,3,7``, ``2-5`` and ``0-4,9`` are the seeds themselves."""
    try:
        if text.isdecimal():
            ranges = [range(int(text))]
        else:
            ranges = []
            for part in filter(None, text.split(",")):
                first, dash, last = part.partition("-")
                ranges.append(range(int(first), int(last if dash else first) + 1))
                if not ranges[-1]:
                    raise click.BadParameter(f"'{part}' ends before it starts")
    except ValueError:
        raise click.BadParameter(
            f"'{text}' is neither a count nor a list such as 0,1,2 or 0-9"
        ) from None
    # Before the seeds are listed: a slip of the keyboard must not fill the memory. The length of a
    # range is worked out by hand, since len() refuses what does not fit 64 bits.
    if sum(each.stop - each.start for each in ranges) > _MAX_SEEDS:
        raise click.BadParameter(f"'{text}' names more than {_MAX_SEEDS} seeds")
    seeds = [seed for each in ranges for seed in each]
    if not seeds:
        raise click.BadParameter(f"'{text}' names no seed")
    if max(seeds) > _MAX_SEED:
        raise click.BadParameter(f"seed {max(seeds)} is larger than {_MAX_SEED}")
    if len(set(seeds)) < len(seeds):
        raise click.BadParameter(f"'{text}' names a seed twice")
    return tuple(seeds)


def read_increment(
    ctx: click.Context, param: click.Parameter, text: str | None
) -> int | tuple[int, ...] | None:
    """``2`` classes per task, or ``4,3,3`` for tasks of unequal size."""
    if text is None:
        return None
    try:
        sizes = tuple(int(part) for part in text.split(","))
    except ValueError:
        raise click.BadParameter(f"'{text}' is neither a number nor a list such as 4,3,3") from None
    return sizes[0] if len(sizes) == 1 else sizes


def read_update(ctx: click.Context, param: click.Parameter, text: str) -> str | int:
    """``epoch``, ``online``, or a number of steps."""
    if text in ("epoch", "online"):
        return text
    steps = whole_number(text, MAX_COUNT)
    if steps is not None:
        return steps
    raise click.BadParameter(
        f"'{text}' is none of epoch, online and a number of steps from 1 to {MAX_COUNT}"
    )


def read_list(
    kind: type[Number],
) -> Callable[[click.Context, click.Parameter, str | None], tuple[Number, ...] | None]:
    """A callback for numbers separated by commas, each once; None if there are none given."""

    def read(
        ctx: click.Context, param: click.Parameter, text: str | None
    ) -> tuple[Number, ...] | None:
        if text is None:
            return None
        try:
            numbers = tuple(kind(part) for part in text.split(","))
        except ValueError:
            example = "0,1,5" if kind is int else "0,0.05,0.1"
            raise click.BadParameter(
                f"'{text}' is not a list of numbers such as {example}"
            ) from None
        if len(set(numbers)) < len(numbers):
            raise click.BadParameter(f"'{text}' names a value twice")
        return numbers

    return read


def read_fixed_lam(
    ctx: click.Context, param: click.Parameter, text: str | None
) -> tuple[float, float] | None:
    """``0.8,0.6``: λ of the inputs and λ of the labels."""
    if text is None:
        return None
    try:
        lam_x, lam_y = (float(part) for part in text.split(","))
    except ValueError:
        raise click.BadParameter(f"'{text}' is not a pair of numbers such as 0.8,0.6") from None
    return lam_x, lam_y


def read_jobs(ctx: click.Context, param: click.Parameter, text: str) -> int | None:
    """A number of processes; None for ``auto``."""
    if text == "auto":
        return None
    jobs = whole_number(text, 1024)
    if jobs is not None:
        return jobs
    raise click.BadParameter(f"'{text}' is neither auto nor a number from 1 to 1024")
