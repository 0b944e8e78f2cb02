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
REFUSED = """
import torch
import gradmix_ext as gx

x, lam, y = torch.randn(4096, 256), torch.rand(4096), torch.arange(4096)
pairs = torch.zeros(2, 2), *torch.zeros(2, 2, 2, dtype=torch.bool)
for _ in range(2):
    for op in (
        lambda: gx.ops.masked_mixup(x, y.flip(0), lam),
        lambda: gx.ops.mix_labels(y, y, lam > 0.5, lam, lam),
        lambda: gx.ops.blend_scores(*pairs, lam, y % 2, y % 2, momentum=0.9, threshold=0.0),
    ):
        try:
            op()
        except (ValueError, RuntimeError) as error:
            print(error)
try:
    gx.loader.native().simd_level()
except ValueError as error:
    print(error)
"""
LEVELS = ("default", "avx2", "avx512")


@pytest.mark.parametrize("level", LEVELS[:2])
def test_lower_levels(level, backend):
    if backend == "torch":
        pytest.skip("no compiled kernels")
    if LEVELS.index(gx.loader.native().simd_level()) <= LEVELS.index(level):
        pytest.skip("not below the level that the other tests run on")
    assert output_of(CHECK, level) == "checked\n"


@pytest.mark.parametrize("level", ["avx-2", "AVX2"])
def test_unknown_levels_are_refused_by_every_call(level, backend):
    if backend == "torch":
        pytest.skip("no compiled kernels")
    message = f"GRADMIX_EXT_SIMD='{level}' is not one of default, avx2, avx512"
    assert output_of(REFUSED, level).splitlines() == [message] * 7


def output_of(program, level):
    """What a program prints that is run on this level."""
    folder = str(Path(__file__).parent)
    path = os.pathsep.join([folder, *filter(None, [os.environ.get("PYTHONPATH")])])
    done = subprocess.run(
        [sys.executable, "-c", program, level],
        env=os.environ | {"GRADMIX_EXT_SIMD": level, "PYTHONPATH": path},
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done.stdout
