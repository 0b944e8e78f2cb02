"""Four processes, started once, that tests give work to."""

from __future__ import annotations

import multiprocessing
import os
import traceback
from collections.abc import Callable, Iterator
from datetime import timedelta
from typing import Any

import pytest
import torch
import torch.distributed as dist

MOST = 4

Run = Callable[..., list[Any]]


def _work(rank: int, path: str, pipe: Any) -> None:
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


@pytest.fixture(scope="session")
def on_ranks(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Run]:
    """Call a function on so many processes with their group; gives what each of them returned.

    With ``errors=True`` it gives their errors instead.
    """
    context = multiprocessing.get_context("spawn")
    path = str(tmp_path_factory.mktemp("group") / "store")
    pipes, processes = [], []
    for rank in range(MOST):
        ours, theirs = context.Pipe()
        processes.append(context.Process(target=_work, args=(rank, path, theirs), daemon=True))
        processes[-1].start()
        pipes.append(ours)

    def run(size: int, function: Callable[..., Any], *args: Any, errors: bool = False) -> list[Any]:
        for pipe in pipes[:size]:
            pipe.send((size, function, args))
        answers = [pipe.recv() for pipe in pipes[:size]]
        failures = [trace for _, trace in answers if trace is not None]
        if errors:
            assert len(failures) == size, answers
        else:
            assert not failures, failures[0]
        return [value for value, _ in answers]

    yield run
    for pipe in pipes:
        pipe.send(None)
    for process in processes:
        process.join(20)
