"""The CUDA sources, emulated: each barrier is needed, and no access is out of bounds."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import emulation
from emulation import ROOT

HERE = Path(__file__).parent


def test_switching_off_any_barrier_is_noticed(build_folder):
    library = emulation.build(emulation.op_sources(), build_folder)
    done = subprocess.run(
        [sys.executable, HERE / "each_barrier.py", library],
        capture_output=True, text=True, check=False, cwd=ROOT, timeout=120,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)
    assert len(result["tried"]) >= 10
    assert result["unreached"] == []
    assert result["unmissed"] == []


def test_under_the_sanitisers(build_folder):
    library = emulation.build(emulation.op_sources(), build_folder, *emulation.SANITISE)
    done = subprocess.run(
        [sys.executable, HERE / "sanitised.py", library],
        capture_output=True, text=True, check=False, cwd=ROOT, timeout=300,
        env=emulation.sanitised_environment(),
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-4000:]
    assert "runtime error" not in done.stderr, done.stderr[-4000:]
    assert int(done.stdout) > 100
