"""What all tests share: the backend that this run is about."""

from __future__ import annotations

import os
import shutil

import pytest

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
