"""What tests share: the backend that this run is about, and a way to run a command."""

from __future__ import annotations

import multiprocessing
import os
import shutil
import signal
from collections.abc import Callable
from multiprocessing.process import BaseProcess

import pytest
import torch

from gradmix_ext import loader


def _expected_backend() -> str:
    requested = os.environ.get("GRADMIX_EXT_BACKEND", "auto")
    if requested != "auto":
        return requested
    compiler = shutil.which(os.environ.get("CXX") or "c++") or shutil.which("g++")
    return "cpp" if compiler else "torch"


@pytest.fixture(scope="session")
def backend() -> str:
    """The backend that ops run on; a test that takes it fails when another one is active."""
    active = loader.load().active
    assert active == _expected_backend(), loader.status().reason
    return active


def pytest_report_header() -> str:
    return f"gradmix_ext: expecting the {_expected_backend()} backend"


@pytest.fixture
def quiet(monkeypatch, tmp_path):
    """Threads as before, the default folder below a temporary one, and no terminal."""
    loader.load()  # whose message about compiling is not what is tested here
    threads = torch.get_num_threads()
    monkeypatch.chdir(tmp_path)
    yield
    torch.set_num_threads(threads)


@pytest.fixture
def gradmix(capsys):
    """Run a command in this process; gives exit code, stdout and stderr."""
    from gradmix_ext.cli import main  # where only the ops are tested its packages may be missing

    def run(*args: object) -> tuple[int, str, str]:
        with pytest.raises(SystemExit) as exit_:
            main([str(arg) for arg in args])
        out, err = capsys.readouterr()
        return exit_.value.code, out, err

    return run


@pytest.fixture
def ctrl_c():
    """Let Ctrl-C interrupt: what a shell starts in the background, such as tests, ignores it."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.fixture
def new_children() -> Callable[[], list[BaseProcess]]:
    """What child processes live that the test has started, apart from those of the session."""
    before = set(multiprocessing.active_children())
    return lambda: [one for one in multiprocessing.active_children() if one not in before]


@pytest.fixture
def one_thread():
    """For models so small that a second thread would only get in the way."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)
