"""Stand-in for mammoth's ``utils.args``."""

from __future__ import annotations

from argparse import ArgumentParser


def add_rehearsal_args(parser: ArgumentParser) -> None:
    group = parser.add_argument_group("Rehearsal arguments")
    group.add_argument("--buffer_size", type=int, required=True)
    group.add_argument("--minibatch_size", type=int)
