"""Timing several calls in turn."""

from __future__ import annotations

import gc
import math
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch

from gradmix_ext.bench.workload import Inputs, Timed

__all__ = ["interleaved", "seconds_of"]

# A sample of the time lasts at least this long: a clock and a call of it cost about 0.1 µs.
SAMPLE_SECONDS = 0.004
MOST_ITERATIONS = 500
SHORT_CALLS = 10
# Of a call that takes a minute one sample has to do, of most calls a few that agree.
LEAST_ROUNDS, LONG_SECONDS = 3, 1.0


def interleaved(
    calls: Mapping[str, Callable[..., Any]],
    inputs: Sequence[Inputs],
    device: torch.device,
    budget: float,
    most_rounds: int = 25,
) -> dict[str, tuple[list[float], int]]:
    """Samples of the seconds that each call takes, and how many calls a sample is the mean of.

    A machine that others use, or that gets warm, is slower in one minute than in the next. Timed
    one after the other, two calls would be compared across minutes; so here every round times each
    call once, and begins with another one each time. What slows the machine down then slows all of
    them, and the ratio of their medians stays. Calls that are too slow for their budget take part
    in some rounds only, spread over all of them.

    Args:
        calls: by name; each takes one of the inputs.
        inputs: taken in turn, so that no call finds its own inputs in a cache.
        device: waited for.
        budget: seconds for each of the calls.
        most_rounds: samples of a call at the most.
    """
    samples: dict[str, list[float]] = {name: [] for name in calls}
    iterations, rounds = {}, {}
    for name, call in calls.items():
        began = time.perf_counter()
        once = seconds_of(call, inputs, 0, 1, device)
        passed = max(time.perf_counter() - began, once)  # more, where a call holds the clock itself
        if passed < SAMPLE_SECONDS:  # a short call is slower the first time than ever after
            passed = min(passed, seconds_of(call, inputs, 1, SHORT_CALLS, device))
        iterations[name] = min(max(math.ceil(SAMPLE_SECONDS / passed), 1), MOST_ITERATIONS)
        affordable = int(budget / (passed * iterations[name]))
        least = LEAST_ROUNDS if passed < 15 * LONG_SECONDS else 1
        rounds[name] = min(max(affordable, least), most_rounds)
        if passed >= LONG_SECONDS:  # too dear to be thrown away
            samples[name].append(once)
    total = max(rounds.values(), default=0)
    names = list(calls)
    for turn in range(total):
        start = turn % len(names)
        for name in names[start:] + names[:start]:
            # Its k-th sample belongs to the round in which k / rounds is passed.
            if turn * rounds[name] // total == len(samples[name]):
                first = len(samples[name]) * iterations[name]
                sample = seconds_of(calls[name], inputs, first, iterations[name], device)
                samples[name].append(sample)
    return {name: (samples[name], iterations[name]) for name in calls}


def seconds_of(
    call: Callable[..., Any],
    inputs: Sequence[Inputs],
    first: int,
    iterations: int,
    device: torch.device,
) -> float:
    """Mean seconds of a call, over so many calls in a row, without collecting garbage between.

    A call that returns `Timed` has held the clock itself.
    """
    count = len(inputs)
    collecting = gc.isenabled()
    gc.disable()
    try:
        if device.type == "cuda":
            start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
            torch.cuda.synchronize(device)
            start.record()
            result = None
            for i in range(first, first + iterations):
                result = call(*inputs[i % count])
            end.record()
            torch.cuda.synchronize(device)
            seconds = start.elapsed_time(end) / 1000
        else:
            result = None
            began = time.perf_counter()
            for i in range(first, first + iterations):
                result = call(*inputs[i % count])
            seconds = time.perf_counter() - began
    finally:
        if collecting:
            gc.enable()
    return result.seconds if isinstance(result, Timed) else max(seconds / iterations, 1e-9)
