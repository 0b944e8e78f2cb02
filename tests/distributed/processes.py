"""What each of the processes does that tests give work to."""

from __future__ import annotations

import os
import traceback
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist

MOST = 4


def work(rank: int, path: str, pipe: Any) -> None:
    torch.set_num_threads(1)
    dist.init_process_group(
        "gloo", f"file://{path}", timedelta(seconds=60), world_size=MOST, rank=rank
    )
    groups = {MOST: dist.group.WORLD, 2: dist.new_group([0, 1])}
    for size, function, args in iter(pipe.recv, None):
        pipe.send(_outcome(function, groups[size], *args))
    os._exit(0)  # Gloo's threads may abort an interpreter that shuts down


def _outcome(function: Callable[..., Any], *args: Any) -> tuple[Any, str | None]:
    """What a function returns or, with its trace, raises."""
    try:
        return function(*args), None
    except Exception as error:
        return error, traceback.format_exc()
