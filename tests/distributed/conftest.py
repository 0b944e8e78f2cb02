"""Four processes, started once, that tests give work to."""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from processes import MOST, work

Run = Callable[..., list[Any]]


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
        processes.append(context.Process(target=work, args=(rank, path, theirs), daemon=True))
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
