"""Verifying, timing in turn, memory: on calls whose time, memory and result are known."""

from __future__ import annotations

import platform
import sys
import time
from functools import partial
from itertools import pairwise
from types import SimpleNamespace

import pytest
import torch

from gradmix_ext.bench import Case, Missing, Role, Setting, Timed, Workload, clock, discover
from gradmix_ext.bench.clock import interleaved
from gradmix_ext.bench.machine import _cpu
from gradmix_ext.bench.measure import Options, WrongResult, measure
from gradmix_ext.bench.memory import peak_bytes
from gradmix_ext.bench.workload import plain

CPU = torch.device("cpu")
OPTIONS = Options(CPU, budget=0.02)
ROWS = Setting("100 rows", {"n": 100}, quick=True)


def double(x):
    return x + x


def workload(*cases, **values):
    return Workload(
        "P1", "doubling", (ROWS, Setting("10 rows", {"n": 10})), cases,
        lambda setting, device: (torch.randn(setting["n"], 3),),
        lambda setting, x: 2 * x.double(), **values,
    )  # fmt: skip


OURS = Case("ours", plain(double), Role.OURS)


def test_right_cases_are_timed_and_their_error_is_kept():
    half = Case("half precision", plain(lambda x: 2 * x.bfloat16()))
    limit = Case("limit: clone", plain(torch.clone), Role.LIMIT)
    found = measure(workload(OURS, half, limit, tolerance=lambda s: 0.01), ROWS, OPTIONS, "abc")
    assert found.name == "doubling 100 rows"
    assert found.commit == "abc"
    ours, rounded, clone = found.cases
    assert ours.error == 0
    assert 1e-4 < rounded.error < 0.01
    assert clone.error is None
    for case in found.cases:
        assert 0 < case.low <= case.median <= case.high
        assert len(case.samples) == case.rounds >= 3


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        (lambda x: 2.1 * x, "differs from the reference by"),
        (lambda x: 2 * x[:-1], r"shape \[99, 3\] instead of \[100, 3\]"),
        (lambda x: x * float("nan"), "differs from the reference by nan"),
    ],
)
def test_what_is_wrong_is_not_timed(wrong, says):
    with pytest.raises(WrongResult, match=says):
        measure(workload(Case("ours", plain(wrong), Role.OURS)), ROWS, OPTIONS)
    other = measure(workload(OURS, Case("other", plain(wrong))), ROWS, OPTIONS).cases[1]
    assert "WrongResult" in other.skipped
    assert other.rounds == 0


def test_what_is_missing_is_named():
    def refuses(setting, device):
        raise Missing("has no kernel here")

    def breaks(x):
        raise RuntimeError("no  compiler\nfound")

    cases = (
        OURS,
        Case("a", plain(double), needs="no-such-distribution"),
        Case("b", plain(double), memory=lambda setting: 1e18),
        Case("c", refuses),
        Case("d", plain(breaks)),
        Case("e", plain(double), slow=True),
    )
    found = measure(workload(*cases), ROWS, Options(CPU, quick=True, budget=0.01))
    reasons = [case.skipped for case in found.cases[1:]]
    assert "no-such-distribution is not installed: pip install gradmix_ext[bench]" in reasons[0]
    assert "takes 1000000000.0 GB" in reasons[1]
    assert reasons[2] == "has no kernel here"
    assert reasons[3] == "failed: RuntimeError: no compiler found"
    assert reasons[4] == "left out of a quick run"
    assert found.base.name == "ours"


def test_a_case_that_draws_for_itself_is_held_to_what_it_drew():
    def scaled(x):
        return x * 3

    def truth(inputs, result):
        return inputs[0].double() * (result / inputs[0]).mean().round()

    found = measure(workload(OURS, Case("drawn", plain(scaled), truth=truth)), ROWS, OPTIONS)
    assert found.cases[1].error < 1e-6


def test_inputs_are_those_of_before_where_a_call_overwrites_them():
    def truth(inputs, result):
        return inputs[0].double() * 2

    overwriting = Case("in place", plain(lambda x: x.mul_(2)), truth=truth)
    found = measure(workload(OURS, overwriting), ROWS, OPTIONS)
    assert not found.cases[1].skipped


def test_quick_and_match_choose_settings():
    both = workload(OURS)
    assert [s.name for s in both.chosen(quick=False)] == ["100 rows", "10 rows"]
    assert [s.name for s in both.chosen(quick=True)] == ["100 rows"]
    assert [s.name for s in both.chosen(quick=False, match="doubling 10 ")] == ["10 rows"]


def test_rounds_go_through_all_calls_in_turn(monkeypatch):
    order = []
    now = 0.0
    monkeypatch.setattr(clock, "time", SimpleNamespace(perf_counter=lambda: now))

    def call(name, seconds):
        def run(*inputs):
            nonlocal now
            order.append((name, inputs))
            now += seconds
            return Timed(seconds / 2)  # by a clock of its own, for a part of the work

        return run

    calls = {"a": call("a", 1 / 64), "b": call("b", 1 / 64), "slow": call("slow", 1 / 16)}
    found = interleaved(calls, [(1,), (2,)], CPU, budget=0.25)
    rounds = {name: len(samples) for name, (samples, _) in found.items()}
    assert rounds == {"a": 16, "b": 16, "slow": 4}
    assert [samples[0] for samples, _ in found.values()] == [0.0078125, 0.0078125, 0.03125]
    after = [name for name, _ in order[3:]]  # the first three set the number of rounds
    for name in "ab":
        positions = [i for i, each in enumerate(after) if each == name]
        assert max(b - a for a, b in pairwise(positions)) <= 5
    slow = [i for i, each in enumerate(after) if each == "slow"]
    assert min(b - a for a, b in pairwise(slow)) >= 4, "spread over the rounds"
    assert {inputs for name, inputs in order if name == "a"} == {(1,), (2,)}


def test_a_short_call_is_timed_many_times_at_once():
    began = time.perf_counter()
    (samples, iterations) = interleaved({"a": lambda: None}, [()], CPU, 0.05)["a"]
    assert iterations > 100
    assert max(samples) < 1e-4
    assert time.perf_counter() - began < 1


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_peak_memory_hides_no_error_of_the_call():
    def call() -> None:
        raise ValueError("no such size")

    with pytest.raises(ValueError, match="no such size"):
        peak_bytes(call, torch.device("cpu"))


def test_peak_memory_counts_what_is_freed_again_and_what_is_kept():
    def freed():
        torch.ones(20 << 20)  # 80 MiB

    def kept():
        return torch.ones(10 << 20)

    if peak_bytes(freed, CPU) is None:
        pytest.skip("the system does not tell")
    for _ in range(2):  # the second time the allocator may have it already
        assert abs(peak_bytes(freed, CPU) - (80 << 20)) < 4 << 20
    assert abs(peak_bytes(kept, CPU) - (40 << 20)) < 4 << 20
    assert peak_bytes(lambda: None, CPU) < 2 << 20


ANY = platform.processor() or platform.machine()


@pytest.mark.parametrize(
    ("facts", "name"),
    [
        ("model\t: 17\nmodel name\t: EPYC\ncpu family\t: 25\n", "EPYC (family 25, model 17)"),
        ("model\t: 2\nmodel name\t: EPYC\ncpu family\t: 26\n", "EPYC (family 26, model 2)"),
        ("processor\t: 0\nmodel name\t: One\n\nmodel name\t: other\n", "One"),
        ("processor\t: 0\n", ANY),
        (None, ANY),
    ],
)
def test_generations_of_a_processor_are_told_apart(facts, name, tmp_path):
    """Clouds give them one name, and their ratios differ."""
    path = tmp_path / "cpuinfo"
    if facts is not None:
        path.write_text(facts)
    assert _cpu(path) == name


def test_memory_that_is_there_before_the_call_does_not_count(backend):
    """Though it may be that of inputs which no call has had yet."""
    if backend == "torch":
        pytest.skip("the fallback takes memory for terms")
    (mixup,) = discover.load(discover.files(discover.benchmarks_folder())["P3"])
    setting = next(s for s in mixup.settings if s.name == "1024x3x32x32 float32")
    for case in mixup.cases:
        if case.name in ("gradmix_ext out=", "limit: copy of the same bytes"):
            call = case.prepare(setting, CPU)
            call(*mixup.inputs(setting, CPU))
            peak = peak_bytes(partial(call, *mixup.inputs(setting, CPU)), CPU)
            assert peak is None or peak < 2 << 20, case.name  # a batch has 12 MiB
