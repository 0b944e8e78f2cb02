"""How much memory a call takes beyond what was there before."""

from __future__ import annotations

import ctypes
import ctypes.util
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

__all__ = ["available_bytes", "peak_bytes"]

_STATUS = Path("/proc/self/status")
_CLEAR = Path("/proc/self/clear_refs")


def peak_bytes(call: Callable[[], Any], device: torch.device) -> int | None:
    """Peak memory of a call above the memory before it, its result included.

    On a GPU what PyTorch's allocator has handed out. On the CPU the pages that the process holds:
    kernels, compiled code and other libraries allocate without PyTorch's knowing, but nobody
    allocates without pages. Linux is told to forget the highest mark so far, and the C library to
    give back what it keeps for later, which would otherwise be taken again unseen. Counts in pages,
    and Linux adds up the pages of several threads late: good to about 1 MB.

    Returns:
        Bytes; None where the system does not tell.
    """
    if device.type == "cuda":
        torch.cuda.synchronize(device)
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
        call()
        torch.cuda.synchronize(device)
        return torch.cuda.max_memory_allocated(device) - before
    try:
        _give_back()
        _CLEAR.write_text("5")
        resident = _kilobytes("VmRSS")
    except (OSError, AttributeError, ValueError):
        resident = None
    call()
    return None if resident is None else max(_kilobytes("VmHWM") - resident, 0) * 1024


def available_bytes(device: torch.device) -> float:
    """Memory that can be had without swapping; infinite where the system does not tell."""
    if device.type == "cuda":
        return float(torch.cuda.mem_get_info(device)[0])
    try:
        for line in Path("/proc/meminfo").read_text().splitlines():
            if line.startswith("MemAvailable:"):
                return float(line.split()[1]) * 1024
    except OSError:
        pass
    return float("inf")


def _give_back() -> None:
    ctypes.CDLL(ctypes.util.find_library("c")).malloc_trim(0)


def _kilobytes(name: str) -> int:
    for line in _STATUS.read_text().splitlines():
        if line.startswith(f"{name}:"):
            return int(line.split()[1])
    raise ValueError(f"no {name} in {_STATUS}")
