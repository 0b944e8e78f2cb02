"""Measuring one workload at one setting: verify every case, then time them in turn."""

from __future__ import annotations

import importlib.metadata
import math
import statistics
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime, timezone
from functools import partial
from typing import Any

import torch
from torch import Tensor

from gradmix_ext.bench.clock import interleaved
from gradmix_ext.bench.machine import ceiling_calls
from gradmix_ext.bench.memory import available_bytes, peak_bytes
from gradmix_ext.bench.results import CaseResult, Ceiling, Group
from gradmix_ext.bench.workload import Case, Inputs, Missing, Role, Setting, Timed, Workload

__all__ = ["Options", "WrongResult", "measure", "verify"]

# Inputs that together exceed the caches are used in turn; more than so many sets help nothing.
ROTATED_BYTES, MOST_SETS = 256 << 20, 16
_ERROR_LENGTH = 200
# Of the free memory, for a case: others use the machine too.
_SHARE = 0.8


class WrongResult(AssertionError):  # noqa: N818 - what it is
    """A case does not compute what the reference does."""


@dataclass(frozen=True)
class Options:
    """How to measure.

    Attributes:
        device: where.
        quick: whether slow cases are left out.
        budget: seconds of timing for each case.
        say: told what is being done.
    """

    device: torch.device
    quick: bool = False
    budget: float = 1.5
    say: Callable[[str], None] = lambda text: None


def measure(workload: Workload, setting: Setting, options: Options, commit: str = "") -> Group:
    """Verify, weigh and time every case of a workload at one setting.

    An alternative that cannot be had or fails here is part of the result, with the reason.

    Raises:
        WrongResult: one of the project's own cases is wrong.
    """
    name = workload.title(setting)
    inputs = _rotation(workload, setting, options.device)
    found: dict[str, CaseResult] = {}
    calls: dict[str, Callable[..., Any]] = {}
    for case in workload.cases:
        options.say(f"{name}: {case.name}")
        try:
            call = _prepared(case, setting, options)
            error = verify(workload, setting, case, call, inputs[0])
            # The second call: what is made only once is there by now.
            second = partial(call, *inputs[-1])
            peak = peak_bytes(second, options.device) if case.in_process else None
        except Missing as reason:
            found[case.name] = CaseResult(case.name, case.role, skipped=str(reason))
        except Exception as reason:
            if case.role is Role.OURS:
                raise
            text = " ".join(f"{type(reason).__name__}: {reason}".split())[:_ERROR_LENGTH]
            found[case.name] = CaseResult(case.name, case.role, skipped=f"failed: {text}")
        else:
            calls[case.name] = call
            found[case.name] = CaseResult(case.name, case.role, peak_bytes=peak, error=error)
    options.say(f"{name}: timing {len(calls)} cases in turn")
    moved, flops = workload.floor(setting)
    # Where rates are counted, what they are held against is timed in the same rounds.
    limits = ceiling_calls(options.device) if flops else {}
    for call, _, _ in limits.values():
        call()
    calls.update({limit: call for limit, (call, _, _) in limits.items()})
    times = interleaved(calls, inputs, options.device, options.budget)
    ceilings = []
    for key, (samples, iterations) in times.items():
        if key in limits:
            _, kind, work = limits[key]
            rate = work / statistics.median(samples)
            ceilings.append(Ceiling(key, kind, float(f"{rate:.4g}")))
        else:
            found[key] = found[key].timed(samples, iterations)
    return Group(
        workload=workload.id,
        op=workload.name,
        name=name,
        cases=tuple(found.values()),
        moved=moved,
        flops=flops,
        axis=setting.axis,
        at=setting.at,
        targets=tuple(
            t
            for t in workload.targets
            if t.device in ("", options.device.type)
            and (not t.settings or setting.name in t.settings)
        ),
        ceilings=tuple(ceilings),
        date=datetime.now(timezone.utc).strftime("%Y-%m-%d"),
        commit=commit,
    )


def verify(
    workload: Workload,
    setting: Setting,
    case: Case,
    call: Callable[..., Any],
    inputs: Inputs,
) -> float | None:
    """The error of a case's result, relative to the largest element of the truth.

    Returns:
        The error; None for limits, which compute something else.

    Raises:
        WrongResult: it is larger than the workload lets through.
    """
    if case.role is Role.LIMIT:
        call(*inputs)
        return None
    # Before the call: some calls change their inputs.
    want = None
    if case.truth is None and workload.truth is not None:
        want = workload.truth(setting, *inputs)
    kept = _copies(inputs) if case.truth is not None else inputs
    result = call(*inputs)
    result = result.value if isinstance(result, Timed) else result
    if case.truth is not None:
        want = case.truth(kept, result)
    if want is None:
        return None
    got = case.value(result)
    if got.shape != want.shape:
        raise WrongResult(
            f"{workload.name} {setting.name}, {case.name}: shape {list(got.shape)} instead of "
            f"{list(want.shape)}"
        )
    error = (got.double() - want).abs().max().item() if got.numel() else 0.0
    scale = want.abs().max().item() if want.numel() else 1.0
    relative = error / scale if scale else error
    if not relative <= workload.tolerance(setting):  # also where it is not a number
        raise WrongResult(
            f"{workload.name} {setting.name}, {case.name}: differs from the reference by "
            f"{relative:.1e} of its largest element"
        )
    return float(f"{relative:.2g}")


def _prepared(case: Case, setting: Setting, options: Options) -> Callable[..., Any]:
    if case.slow and options.quick:
        raise Missing("left out of a quick run")
    if case.needs:
        try:
            importlib.metadata.version(case.needs)
        except importlib.metadata.PackageNotFoundError:
            raise Missing(
                f"{case.needs} is not installed: pip install gradmix_ext[bench]"
            ) from None
    if case.memory is not None:
        wanted, there = case.memory(setting), available_bytes(options.device)
        if wanted > _SHARE * there:
            raise Missing(f"takes {wanted / 1e9:.1f} GB, and {there / 1e9:.1f} GB are free")
    return case.prepare(setting, options.device)


def _rotation(workload: Workload, setting: Setting, device: torch.device) -> Sequence[Inputs]:
    """Different inputs, as many as it takes for a set not to be in the caches when it is due."""
    torch.manual_seed(0)
    sets = [workload.inputs(setting, device)]
    size = sum(tensor.numel() * tensor.element_size() for tensor in _tensors(sets[0]))
    wanted = min(math.ceil(ROTATED_BYTES / size), MOST_SETS) if size else 1
    sets += [workload.inputs(setting, device) for _ in range(wanted - 1)]
    return sets


def _tensors(inputs: Inputs) -> Iterator[Tensor]:
    return (value for value in inputs if isinstance(value, Tensor))


def _copies(inputs: Inputs) -> Inputs:
    return tuple(v.clone() if isinstance(v, Tensor) else v for v in inputs)
