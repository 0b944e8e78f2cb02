"""The emulator itself: what it computes, and that it catches what it is there to catch."""

from __future__ import annotations

import ctypes
import subprocess
import sys
from pathlib import Path

import emulation
import numpy as np
import pytest
import torch

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


def in_lanes(lane: int) -> tuple[list, list, list]:
    """Where PTX puts the elements of mma.m16n8k16: of A, B and C, each as (row, column)."""
    group, t = lane >> 2, lane % 4
    a = [
        (group if i in (0, 1, 4, 5) else group + 8, 2 * t + (i & 1) + (0 if i < 4 else 8))
        for i in range(8)
    ]
    b = [(2 * t + (i & 1) + (0 if i < 2 else 8), group) for i in range(4)]
    c = [(group if i < 2 else group + 8, 2 * t + (i & 1)) for i in range(4)]
    return a, b, c


def bf16_bits(x: np.ndarray) -> np.ndarray:
    return torch.from_numpy(x).bfloat16().view(torch.int16).numpy().view(np.uint16)


def tensor_core(emulator, a: np.ndarray, b: np.ndarray, c: np.ndarray) -> np.ndarray:
    lanes = [in_lanes(lane) for lane in range(32)]
    a_words, b_words = (
        np.array([[bits[at] for at in lane[i]] for lane in lanes], dtype=np.uint16).view(np.uint32)
        for i, bits in ((0, bf16_bits(a)), (1, bf16_bits(b)))
    )
    total = np.array([[c[at] for at in lane[2]] for lane in lanes], dtype=np.float32)
    assert emulator.native.run_multiply(pointer(a_words), pointer(b_words), pointer(total)) == 0
    out = np.full((16, 8), np.nan, dtype=np.float32)
    for lane, elements in zip(lanes, total, strict=True):
        for at, element in zip(lane[2], elements, strict=True):
            out[at] = element
    return out


@pytest.mark.parametrize("schedule", ["forward", "reverse", "random"])
def test_tensor_core_products(emulator, schedule):
    emulator.schedule(schedule, 3)
    make = np.random.default_rng(1)
    # Small integers: every sum is exact, so a single element in a wrong place shows.
    a, b, c = (make.integers(-99, 100, shape) for shape in ((16, 16), (16, 8), (16, 8)))
    a, b, c = a.astype(np.float32), b.astype(np.float32), c.astype(np.float32)
    np.testing.assert_array_equal(tensor_core(emulator, a, b, c), a @ b + c)


def test_tensor_core_cuts_what_it_adds(emulator):
    a, b, c = (np.zeros(shape, dtype=np.float32) for shape in ((16, 16), (16, 8), (16, 8)))
    a[:, 3], b[3] = 1, 1.75  # almost a unit in the last place of 2^24, which is 2
    c[0], c[1] = 2**24, -(2**24)
    out = tensor_core(emulator, a, b, c)
    np.testing.assert_array_equal(out[:2], c[:2])
    np.testing.assert_array_equal(out[2:], 1.75)


def test_rounding_to_bf16(emulator):
    x = np.random.default_rng(2).normal(size=(THREADS, 2)).astype(np.float32)
    x[:4] = [[0, -0.0], [1 + 2**-8, 1 + 3 * 2**-8], [np.inf, -np.inf], [3.4e38, 1e-40]]
    out = np.zeros(THREADS, dtype=np.uint32)
    assert emulator.native.run_round_pairs(pointer(x), pointer(out)) == 0
    np.testing.assert_array_equal(out.view(np.uint16).reshape(-1, 2), bf16_bits(x))


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
