"""`gradmix build` and `gradmix info`."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from building import needs_compiler
from click.testing import CliRunner

from gradmix_ext.cli.build import build_command
from gradmix_ext.cli.info import info_command
from gradmix_ext.loader import toolchain
from gradmix_ext.loader.cache import Cache


@needs_compiler
def test_build_prints_path_and_seconds_and_cleans(built: Path) -> None:
    result = CliRunner().invoke(build_command, ["--cpu"])
    assert result.exit_code == 0
    assert result.output.startswith(f"{built} (cpp, cache, 0.")
    result = CliRunner().invoke(build_command, ["--clean"])
    assert result.output == f"removed 1 builds from {built.parents[1]}\n"
    assert not built.exists()


@needs_compiler
def test_info_of_a_ready_backend(built: Path, settings: pytest.MonkeyPatch) -> None:
    settings.setattr("gradmix_ext.loader.report._simd_level", lambda library: str(library.path))
    found = json.loads(CliRunner().invoke(info_command, ["--json"]).output)
    assert (found["active"], found["library"], found["origin"]) == ("cpp", str(built), "cache")
    assert found["simd_level"] == str(built)
    assert found["backends"]["cpp"] == "ready"
    assert "no CUDA kernels" in found["backends"]["cuda"]
    assert [entry["name"] for entry in found["cache"]["entries"]] == [built.parent.name]
    text = CliRunner().invoke(info_command).output
    for part in (str(built), "ninja", "nvcc", "requested: auto", built.parent.name):
        assert part in text


@needs_compiler
@pytest.mark.parametrize("launcher", ["--jobs", "torchrun"])
def test_processes_that_train_share_one_build(
    settings: pytest.MonkeyPatch, tmp_path: Path, launcher: str
) -> None:
    """Also where the cache cannot be written, and each process had to build for itself."""
    (tmp_path / "file").write_text("")
    settings.setenv("GRADMIX_EXT_CACHE", str(tmp_path / "file" / "cache"))
    settings.setenv("TMPDIR", str(tmp_path))
    settings.setenv("OMP_NUM_THREADS", "1")
    torchrun = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    arguments = ["-m", "gradmix_ext", "compare", "finetune", "--seeds", "2", "--tasks", "2"]
    arguments += ["--epochs", "1"]
    arguments = [*torchrun, *arguments] if launcher == "torchrun" else [*arguments, "--jobs", "2"]
    done = subprocess.run(
        [sys.executable, *arguments, "--out", tmp_path / "run"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stderr.count("compiling the C++ kernels") == 1


def test_info_says_why_a_backend_is_missing(no_compiler: pytest.MonkeyPatch) -> None:
    found = json.loads(CliRunner().invoke(info_command, ["--json"]).output)
    assert found["active"] == "torch"
    assert found["backends"]["cpp"].startswith("missing: no C++ compiler")
    assert found["cxx"].startswith("missing: no C++ compiler")
    no_compiler.setenv("GRADMIX_EXT_BACKEND", "cpp")
    found = json.loads(CliRunner().invoke(info_command, ["--json"]).output)
    assert found["active"].startswith("none: cpp is missing")


@needs_compiler
def test_info_says_that_python_has_no_headers(settings: pytest.MonkeyPatch, tmp_path: Path) -> None:
    settings.delenv("CPATH", raising=False)
    settings.delenv("CPLUS_INCLUDE_PATH", raising=False)
    settings.setattr(toolchain.sysconfig, "get_path", lambda name, scheme="": str(tmp_path))
    found = json.loads(CliRunner().invoke(info_command, ["--json"]).output)
    said = f"no Python.h in {tmp_path} (on Debian or Ubuntu: apt-get install python3-dev)"
    assert found["backends"]["cpp"] == f"missing: {said}"
    assert said in CliRunner().invoke(build_command, ["--cpu"]).output
    assert not (tmp_path / "cache").exists() or not Cache(tmp_path / "cache").keys()
    (tmp_path / "Python.h").write_text("")
    found = json.loads(CliRunner().invoke(info_command, ["--json"]).output)
    assert found["backends"]["cpp"].startswith("compiled on first use")


@pytest.mark.parametrize(
    ("command", "arguments", "environment", "message"),
    [
        (build_command, ["--cuda"], {}, "this version has no CUDA kernels"),
        (build_command, ["--cpu"], {"CXX": "none"}, "CXX='none' is not a program"),
        (build_command, ["--cpu"], {"GRADMIX_EXT_CSRC": "/none"}, "no C++ sources"),
        (build_command, ["--clean", "--force"], {}, "--clean goes with no other option"),
        (info_command, [], {"GRADMIX_EXT_BACKEND": "x"}, "'x' is not one of auto, cuda"),
    ],
)
def test_errors_are_one_line(
    settings: pytest.MonkeyPatch,
    command: object,
    arguments: list[str],
    environment: dict[str, str],
    message: str,
) -> None:
    result = CliRunner().invoke(command, arguments, env=environment)  # type: ignore[arg-type]
    assert result.exit_code == 2
    assert message in result.output
    assert len(result.output.strip().splitlines()[-1:]) == 1
    assert isinstance(result.exception, SystemExit)
