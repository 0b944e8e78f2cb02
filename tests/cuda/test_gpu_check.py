"""What `benchmarks/gpu_check.sh` needs: PyTorch, NumPy, ninja and pytest, and nothing more."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

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
