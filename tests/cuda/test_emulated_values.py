"""The CUDA sources, emulated on the CPU, against float64 brute force."""

from __future__ import annotations

import pytest
import torch
from checks import assert_close
from samples import DTYPES, samples

import gradmix_ext as gx

OPS = tuple(name for name in gx.ops.__all__ if name != "debug_checks")
SCHEDULES = (("forward", 0), ("reverse", 0), ("random", 1))


@pytest.mark.parametrize("schedule", SCHEDULES, ids=lambda s: s[0])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("op", OPS)
def test_values(op, dtype, schedule, emulated):
    emulated.schedule(*schedule)
    for sample in samples(op, dtype):
        assert_close(sample, getattr(emulated, op)(*sample.args, **sample.kwargs), dtype)
