"""What `benchmarks/gpu_check.sh` needs: PyTorch, NumPy, ninja and pytest, and nothing more."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from emulation import ROOT

MISSING = ("click", "rich", "matplotlib", "sklearn", "scipy", "joblib", "pybind11", "hypothesis")


def test_its_tests_need_no_more_than_it_says(tmp_path: Path) -> None:
    blocked = "".join(f"sys.modules['{name}'] = None\n" for name in MISSING)
    (tmp_path / "sitecustomize.py").write_text(f"import sys\n{blocked}")
    done = subprocess.run(
        [
            *(sys.executable, "-m", "pytest", "tests/cuda/test_on_gpu.py", "-q", "--collect-only"),
            *("-o", "addopts=-ra", "-p", "no:cacheprovider", "-p", "no:randomly"),
        ],
        cwd=ROOT,
        env={
            **os.environ,
            "PYTHONPATH": f"{tmp_path}{os.pathsep}{ROOT}",
            "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1",  # whose packages are missing too
        },
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "test_cuda_graph" in done.stdout


def test_without_a_gpu_it_says_so_in_one_line() -> None:
    done = subprocess.run(
        [str(ROOT / "benchmarks" / "gpu_check.sh")],
        env={**os.environ, "PYTHON": sys.executable, "CUDA_VISIBLE_DEVICES": ""},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 2, done.stdout + done.stderr
    version = torch.__version__
    assert done.stderr.startswith("gpu_check: ")
    assert version in done.stderr
    assert done.stderr.count("\n") == 1


@pytest.fixture
def check(monkeypatch: pytest.MonkeyPatch):
    """The script as it is on a machine with a GPU."""
    path = ROOT / "benchmarks" / "gpu_check.py"
    spec = importlib.util.spec_from_file_location("gpu_check", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    names = ("gpu", "date", "driver", "torch", "cuda", "python", "commit")
    monkeypatch.setattr(module, "why_not", lambda: "")
    monkeypatch.setattr(module, "machine", lambda: dict.fromkeys(names, "some"))
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda: (9, 0))
    return module


def test_a_step_that_breaks_stops_no_other(check, monkeypatch, tmp_path) -> None:
    """And what there is has been written before the next step begins."""
    seen = {}

    def step(name: str, result: str):
        def run(scratch: Path, out: Path):
            written = out / "gpu-some.json"
            seen[name] = list(json.loads(written.read_text())["steps"]) if written.exists() else []
            if result == "breaks":
                raise ValueError("half a table")
            return {"result": result, "cases": []}

        return run

    results = {"build": "passed", "tests": "breaks", "benchmarks": "breaks", "sanitizer": "passed"}
    for name, result in results.items():
        monkeypatch.setattr(check, name, step(name, result))
    monkeypatch.setattr(sys, "argv", ["gpu_check", "--out", str(tmp_path / "new" / "folder")])
    assert check.main() == 1
    names = list(results)
    assert seen == {name: names[:position] for position, name in enumerate(names)}
    report = json.loads((tmp_path / "new" / "folder" / "gpu-some.json").read_text())
    assert "half a table" in report["steps"]["tests"]["output"]
    assert report["steps"]["sanitizer"]["result"] == "passed"


def test_what_is_cut_off_leaves_its_output(check, tmp_path) -> None:
    code = "import subprocess, time; print('so far', flush=True); subprocess.run(['sleep', '60'])"
    started = time.monotonic()
    status, output = check.run([sys.executable, "-c", code], 2, tmp_path, tmp_path / "log")
    assert status == 124
    assert time.monotonic() - started < 30
    assert output.startswith("so far")
    assert "so far" in (tmp_path / "log").read_text()


def test_a_process_that_loses_the_device_is_followed_by_another(
    check, monkeypatch, tmp_path
) -> None:
    (tmp_path / "test_some.py").write_text(
        "import os, pytest\n"
        "def test_first(): pass\n"
        "@pytest.mark.parametrize('name', ['a b', 'c'])\n"
        "def test_ends(name): os._exit(9)\n"
        "def test_leaves(): pytest.exit('no device')\n"
        "def test_fails(): assert 1 == 2\n"
        "def test_last(): pass\n"
    )
    monkeypatch.setattr(check, "ROOT", tmp_path)
    monkeypatch.setattr(check, "GPU_TESTS", "test_some.py")
    result = check.tests(tmp_path, tmp_path)
    assert result["result"] == "failed"
    assert result["summary"] == "3 ended it, 1 failed, 2 passed; 4 processes"
    assert "assert 1 == 2" in result["output"]


SANITIZER = """#!/bin/sh
case "$*" in
--help) echo "  --kernel-name arg" ;;
*memcheck*--kernel-name*) echo "========= ERROR SUMMARY: 0 errors" ;;
*racecheck*) echo "========= RACECHECK SUMMARY: 2 hazards displayed"; exit 9 ;;
*synccheck*) echo "no GPU today"; exit 1 ;;
*initcheck*) echo "=========     at void at::native::fill()"
             echo "========= ERROR SUMMARY: 5 errors"; exit 9 ;;
esac
"""


def test_findings_of_the_sanitizers(check, monkeypatch, tmp_path) -> None:
    program = tmp_path / "compute-sanitizer"
    program.write_text(SANITIZER)
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
    result = check.sanitizer(tmp_path, tmp_path)
    assert result["result"] == "failed"
    assert result["summary"] == (
        "memcheck: 0 errors; racecheck: 2 hazards displayed; synccheck: exit status 1; "
        "initcheck: none in kernels of gradmix_ext (5 errors)"
    )
