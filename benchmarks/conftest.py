"""Options, the peers' common ground and the limits of the machine.

Run with ``make bench``. Every case is verified against the reference before it is timed. Times are
only comparable within one run; read the ratios in parentheses.
"""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch

import gradmix_ext as gx


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--device", default="cpu", help="device to measure on (cpu or cuda)")


@pytest.fixture(scope="session")
def device(request: pytest.FixtureRequest) -> torch.device:
    chosen = torch.device(request.config.getoption("--device"))
    if chosen.type == "cuda" and not torch.cuda.is_available():
        pytest.exit("--device cuda: PyTorch sees no GPU", returncode=2)
    return chosen


@pytest.fixture(scope="session", autouse=True)
def compiled_backend(device: torch.device) -> str:
    """Loads the compiled library; to time the fallback unknowingly would be no benchmark."""
    status = gx.loader.load()
    if status.active == "torch":
        pytest.exit(f"the compiled kernels are not there: {status.reason}", returncode=2)
    return status.active


@pytest.fixture
def measure(benchmark, device: torch.device, request: pytest.FixtureRequest):
    """Time a function after its warm-up, waiting for the device; record the backend's name."""

    def run(function: Callable[[], object], **extra: object) -> None:
        function()

        def waited() -> None:
            function()
            if device.type == "cuda":
                torch.cuda.synchronize()

        benchmark.extra_info.update(extra, threads=torch.get_num_threads(), torch=torch.__version__)
        benchmark(waited)

    return run
