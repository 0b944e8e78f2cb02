"""What pip installs: pure Python with the sources inside, or a library compiled ahead of time."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
from building import ROOT, SOURCES, finish, needs_compiler, start, write_sources

from gradmix_ext.loader import library as library_module

pytest.importorskip("setuptools", minversion="77")

WORKLOADS = [*(ROOT / "benchmarks").glob("bench_p*.py"), ROOT / "benchmarks" / "scaling.py"]


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A copy of the project without results and builds."""
    copy = tmp_path / "checkout"
    copy.mkdir()
    for name in ("gradmix_ext", "csrc", "benchmarks"):
        shutil.copytree(
            ROOT / name,
            copy / name,
            ignore=shutil.ignore_patterns("__pycache__", "*.so", ".*", "results"),
        )
    for name in ("pyproject.toml", "setup.py", "MANIFEST.in", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, copy)
    return copy


def make_wheel(checkout: Path, **environment: str) -> Path:
    done = subprocess.run(
        [sys.executable, "-c", "from setuptools import build_meta as b; b.build_wheel('dist')"],
        cwd=checkout,
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return next((checkout / "dist").glob("*.whl"))


def test_wheel_is_pure_and_carries_the_sources(
    settings: pytest.MonkeyPatch, checkout: Path
) -> None:
    (checkout / "csrc" / "cpu" / "notes.txt").write_text("not a source")
    earlier_build = checkout / "build" / "lib" / "gradmix_ext"
    write_sources(earlier_build, {"gone.py": "", "_csrc/cpu/gone.cpp": ""})
    wheel = make_wheel(checkout)
    assert wheel.name.endswith("-py3-none-any.whl")
    names = set(zipfile.ZipFile(wheel).namelist())
    sources = {
        p.relative_to(ROOT) for p in (ROOT / "csrc").rglob("*") if p.suffix in (".h", ".cpp")
    }
    assert {f"gradmix_ext/_{source.as_posix()}" for source in sources} <= names
    assert "gradmix_ext/py.typed" in names
    workloads = {name for name in names if name.startswith("gradmix_ext/_benchmarks/")}
    assert {f"gradmix_ext/_benchmarks/{path.name}" for path in WORKLOADS} == workloads
    assert not [name for name in names if name.endswith((".so", "notes.txt", ".pyc"))]
    assert not [name for name in names if "gone" in name]
    assert {name.split("/")[0].split("-")[0] for name in names} == {"gradmix_ext"}


@needs_compiler
def test_library_compiled_ahead_of_time_is_used(
    settings: pytest.MonkeyPatch, checkout: Path, tmp_path: Path
) -> None:
    shutil.rmtree(checkout / "csrc")
    write_sources(checkout / "csrc", SOURCES)
    wheel = make_wheel(checkout, GRADMIX_EXT_BUILD="cpp")
    assert not wheel.name.endswith("-any.whl")
    installed = tmp_path / "installed"
    zipfile.ZipFile(wheel).extractall(installed)
    settings.delenv("GRADMIX_EXT_CSRC")
    settings.setenv("PYTHONPATH", str(installed))
    settings.setenv("CXX", "no-such-compiler")
    out, _ = finish(start())
    active, origin, library = out.split("|")
    assert (active, origin) == ("cpp", "ahead of time")
    assert Path(library).parent == installed / "gradmix_ext"
    assert not (tmp_path / "cache").exists()

    settings.setattr(library_module, "PACKAGE", installed / "gradmix_ext")
    assert library_module.find_ahead_of_time()[0] is not None
    (installed / "gradmix_ext/_csrc/cpu/simd.h").write_text("// newer sources")
    found, reason = library_module.find_ahead_of_time()
    assert found is None
    assert "was compiled ahead of time from other sources" in reason


def test_bad_build_request_is_one_line(settings: pytest.MonkeyPatch) -> None:
    done = subprocess.run(
        [sys.executable, "setup.py", "--version"],
        cwd=ROOT,
        env={**os.environ, "GRADMIX_EXT_BUILD": "yes"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode != 0
    assert "GRADMIX_EXT_BUILD='yes' is not one of 1, cpp, cuda" in done.stderr
    assert "Traceback" not in done.stderr
