"""The workloads as tests of pytest-benchmark: a group each setting, a row each case.

Run with ``make bench``, or ``gradmix bench`` for ratios, memory and plots. Every case is verified
against the reference before it is timed. Times are only comparable within a group.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator
from itertools import accumulate

import pytest
import torch

import gradmix_ext as gx
from gradmix_ext.bench.measure import Options, measure
from gradmix_ext.bench.results import Group


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--device", default="cpu", help="device to measure on (cpu or cuda)")
    parser.addoption("--quick", action="store_true", help="main sizes, no slow alternatives")


@pytest.fixture(scope="session")
def device(request: pytest.FixtureRequest) -> torch.device:
    chosen = torch.device(request.config.getoption("--device"))
    if chosen.type == "cuda" and not torch.cuda.is_available():
        pytest.exit("--device cuda: PyTorch sees no GPU", returncode=2)
    return chosen


@pytest.fixture(scope="session", autouse=True)
def compiled_backend() -> str:
    """Loads the compiled library; to time the fallback unknowingly would be no benchmark."""
    if importlib.util.find_spec("pytest_benchmark") is None:
        pytest.exit("pytest-benchmark is not installed: pip install .[bench]", returncode=2)
    status = gx.loader.load()
    if status.active == "torch":
        pytest.exit(f"the compiled kernels are not there: {status.reason}", returncode=2)
    return status.active


class Clock:
    """Goes through times that were measured, two readings a sample."""

    def __init__(self) -> None:
        self.readings: Iterator[float] = iter(())

    def show(self, samples: tuple[float, ...]) -> None:
        """From now on, these."""
        self.readings = accumulate(step for sample in samples for step in (0.0, sample))

    def __call__(self) -> float:
        return next(self.readings)


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """A test for each case of each setting of the module's workloads."""
    if "replay" not in metafunc.fixturenames:
        return
    kind = torch.device(metafunc.config.getoption("--device")).type
    cases = []
    for workload in metafunc.module.WORKLOADS:
        if kind not in workload.devices:
            continue
        for setting in workload.chosen(metafunc.config.getoption("--quick")):
            group = workload.title(setting)
            for case in workload.cases:
                clock = Clock()
                marks = pytest.mark.benchmark(group=f"{workload.id} {group}", timer=clock)
                row = workload, setting, case.name, clock
                cases.append(pytest.param(row, id=f"{group}: {case.name}", marks=marks))
    metafunc.parametrize("replay", cases, indirect=True)


@pytest.fixture(scope="session")
def measured() -> dict[tuple[str, str], Group]:
    """The groups so far."""
    return {}


@pytest.fixture
def replay(request: pytest.FixtureRequest, benchmark, device: torch.device, measured):
    """Give pytest-benchmark the samples of a case.

    pytest-benchmark runs one case after the other, so that a machine that is busy for a minute
    makes one of them slow and not the others. The first case of a group therefore measures the
    whole group, case by case in turn; each case then runs pytest-benchmark's pedantic mode with a
    clock that shows what was measured.
    """
    workload, setting, name, clock = request.param
    key = workload.name, setting.name
    if key not in measured:
        quick = request.config.getoption("--quick")
        measured[key] = measure(workload, setting, Options(device, quick))
    group = measured[key]
    case = next(each for each in group.cases if each.name == name)

    def run() -> None:
        if case.skipped:
            pytest.skip(f"{name}: {case.skipped}")
        benchmark.extra_info.update(
            peak_bytes=case.peak_bytes, error=case.error, iterations=case.iterations,
            ratio=group.ratio(case), threads=torch.get_num_threads(), torch=torch.__version__,
        )  # fmt: skip
        clock.show(case.samples)
        benchmark.pedantic(lambda: None, rounds=case.rounds)

    return run
