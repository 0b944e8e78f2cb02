"""Every instruction set that this machine has gives right results, not only its best one."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

import gradmix_ext as gx

CHECK = """
import sys
import torch
from samples import DTYPES, samples
from test_values import OPS, assert_close, check_large_mixups
import gradmix_ext as gx

gx.loader.load()
assert gx.loader.native().simd_level() == sys.argv[1]
for op in OPS:
    for dtype in DTYPES:
        for sample in samples(op, dtype, ((13, 11, 17), (130, 33, 70))):
            assert_close(sample, getattr(gx.ops, op)(*sample.args, **sample.kwargs), dtype)
for dtype in DTYPES:
    check_large_mixups(dtype)
print("checked")
"""
LEVELS = ("default", "avx2", "avx512")


@pytest.mark.parametrize("level", LEVELS[:2])
def test_lower_levels(level, backend):
    if backend == "torch":
        pytest.skip("no compiled kernels")
    if LEVELS.index(gx.loader.native().simd_level()) <= LEVELS.index(level):
        pytest.skip("not below the level that the other tests run on")
    folder = str(Path(__file__).parent)
    path = os.pathsep.join([folder, *filter(None, [os.environ.get("PYTHONPATH")])])
    done = subprocess.run(
        [sys.executable, "-c", CHECK, level],
        env=os.environ | {"GRADMIX_EXT_SIMD": level, "PYTHONPATH": path},
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert done.stdout == "checked\n"
