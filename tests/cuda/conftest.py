"""The emulated CUDA build, compiled once and kept in pytest's cache until a source changes."""

from __future__ import annotations

from pathlib import Path

import pytest
from emulation import EmulatedOps, build, op_sources

import gradmix_ext  # noqa: F401 - defines the ops
from gradmix_ext.loader.toolchain import ToolchainError, find_cxx


@pytest.fixture(scope="session")
def build_folder(request: pytest.FixtureRequest) -> Path:
    """Where emulated libraries are kept."""
    try:
        find_cxx()
    except ToolchainError as error:
        pytest.skip(str(error))
    return Path(request.config.cache.mkdir("emulated_cuda"))


@pytest.fixture(scope="session")
def emulated_session(build_folder: Path) -> EmulatedOps:
    return EmulatedOps(build(op_sources(), build_folder))


@pytest.fixture
def emulated(emulated_session: EmulatedOps):
    """The ops, run by the CUDA sources on the CPU, with the controls of the emulator."""
    yield emulated_session
    emulated_session.schedule("forward")
    emulated_session.skip_barrier()
