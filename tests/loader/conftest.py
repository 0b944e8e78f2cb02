"""The environment of a user who builds a small library into a cache of its own."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest
from building import ROOT, SOURCES, write_sources

from gradmix_ext.loader import build


@pytest.fixture(scope="session")
def tiny_csrc(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Sources of a library with one op, gradmix_tiny::twice."""
    return write_sources(tmp_path_factory.mktemp("csrc"), SOURCES)


def _user_environment(patch: pytest.MonkeyPatch, csrc: Path, cache: Path) -> None:
    for name in [*os.environ]:
        if name.startswith("GRADMIX_EXT_") or name in (
            "CC",
            "CXX",
            "MAX_JOBS",
            "TORCH_CUDA_ARCH_LIST",
        ):
            patch.delenv(name)
    patch.setenv("GRADMIX_EXT_CSRC", str(csrc))
    patch.setenv("GRADMIX_EXT_CACHE", str(cache))
    patch.setenv("PYTHONPATH", str(ROOT))  # of the programs that tests start


@pytest.fixture
def settings(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, tiny_csrc: Path
) -> pytest.MonkeyPatch:
    """The environment of a user who builds `tiny_csrc` into a new cache."""
    _user_environment(monkeypatch, tiny_csrc, tmp_path / "cache")
    return monkeypatch


@pytest.fixture
def no_compiler(settings: pytest.MonkeyPatch, tmp_path: Path) -> pytest.MonkeyPatch:
    """A PATH on which there is no C++ compiler, and nothing but what Python itself needs."""
    programs = tmp_path / "bin"
    programs.mkdir()
    for name in ("ninja", "sh", "uname"):
        if found := shutil.which(name):
            (programs / name).symlink_to(found)
    settings.setenv("PATH", str(programs))
    return settings


@pytest.fixture(scope="session")
def one_build(tiny_csrc: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A cache that holds the small library, compiled once for all tests."""
    folder = tmp_path_factory.mktemp("built") / "cache"
    with pytest.MonkeyPatch.context() as patch:
        _user_environment(patch, tiny_csrc, folder)
        build(cuda=False)
    return folder


@pytest.fixture
def built(settings: pytest.MonkeyPatch, one_build: Path, tmp_path: Path) -> Path:
    """The library in the cache of this test."""
    shutil.copytree(one_build, tmp_path / "cache")
    (tmp_path / "cache").chmod(0o700)
    return next((tmp_path / "cache").glob("*/_C.so"))
