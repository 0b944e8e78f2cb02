"""The emulator itself: what it computes, and that it catches what it is there to catch."""

from __future__ import annotations

import ctypes
import subprocess
import sys
from pathlib import Path

import emulation
import numpy as np
import pytest

THREADS = 64


@pytest.fixture(scope="module")
def emulator(build_folder: Path) -> emulation.Emulator:
    library = emulation.build([emulation.EMULATOR / "broken.cu"], build_folder)
    return emulation.Emulator(library)


def pointer(array: np.ndarray) -> ctypes.c_void_p:
    return ctypes.c_void_p(array.ctypes.data)


def reversed_rows(emulator, schedule: str, barrier: bool) -> tuple[np.ndarray, np.ndarray]:
    x = np.random.default_rng(0).normal(size=(3, THREADS)).astype(np.float32)
    out = np.zeros_like(x)
    emulator.schedule(schedule, 7)
    assert emulator.native.run_reverse(pointer(x), pointer(out), len(x), int(barrier)) == 0
    return out, x[:, ::-1]


@pytest.mark.parametrize("schedule", ["forward", "reverse", "random"])
def test_a_barrier_makes_every_schedule_right(emulator, schedule):
    out, want = reversed_rows(emulator, schedule, barrier=True)
    np.testing.assert_array_equal(out, want)


@pytest.mark.parametrize("schedule", ["forward", "reverse", "random"])
def test_a_missing_barrier_gives_a_wrong_result(emulator, schedule):
    out, want = reversed_rows(emulator, schedule, barrier=False)
    # Shared memory starts as NaN, so what was read too early shows.
    assert 0 < np.isnan(out).sum() < out.size
    np.testing.assert_array_equal(out[~np.isnan(out)], want[~np.isnan(out)])


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        (0, r"deadlock in block (0, 0, 0): thread (0, 0, 0) waits for its block at broken.cu:"),
        (1, r"divergent barrier in block (0, 0, 0): thread (0, 0, 0) waits for its block at"),
        (2, r"deadlock in block (0, 0, 0): thread (0, 0, 0) waits for its warp at broken.cu:"),
    ],
)
def test_a_barrier_that_not_all_reach_is_reported(emulator, kind, message):
    out = np.zeros(THREADS, dtype=np.float32)
    assert emulator.native.run_diverge(kind, pointer(out)) != 0
    assert emulator.report().startswith(message)
    other = {0: "thread (10, 0, 0) has", 1: "thread (10, 0, 0) waits", 2: "thread (5, 0, 0) has"}
    assert other[kind] in emulator.report()


def test_warp_primitives(emulator):
    out = np.zeros((6, THREADS), dtype=np.int32)
    assert emulator.native.run_warp(pointer(out)) == 0
    t = np.arange(THREADS)
    lane, first = t % 32, t // 32 * 32
    np.testing.assert_array_equal(out[0], first + 3)
    np.testing.assert_array_equal(out[1], np.where(lane >= 2, t - 2, t))
    np.testing.assert_array_equal(out[2], first + (lane ^ 5))
    np.testing.assert_array_equal(out[3].view(np.uint32), sum(1 << i for i in range(0, 32, 3)))
    np.testing.assert_array_equal(out[4][:5], [16, 16, 16, 16, 0])
    np.testing.assert_array_equal(out[5], 64_001)


def test_launch_limits(emulator):
    out = np.zeros(1, dtype=np.int32)
    assert emulator.native.run_too_large(pointer(out)) == 9  # cudaErrorInvalidConfiguration


OUT_OF_BOUNDS = """
import ctypes, sys
native = ctypes.CDLL(sys.argv[1])
memory = ctypes.create_string_buffer(4 * 100)
native.run_write_beyond(memory, ctypes.c_int64(100), 2, int(sys.argv[2]))
print("survived")
"""


@pytest.mark.parametrize("shared", [0, 1], ids=["global", "shared"])
def test_an_out_of_bounds_write_is_caught(build_folder, shared):
    library = emulation.build([emulation.EMULATOR / "broken.cu"], build_folder, *emulation.SANITISE)
    done = subprocess.run(
        [sys.executable, "-c", OUT_OF_BOUNDS, str(library), str(shared)],
        capture_output=True, text=True, check=False, env=emulation.sanitised_environment(),
    )  # fmt: skip
    assert done.returncode != 0
    assert "survived" not in done.stdout
    assert ("index 64 out of bounds" if shared else "heap-buffer-overflow") in done.stderr
    assert "broken.cu:" in done.stderr
