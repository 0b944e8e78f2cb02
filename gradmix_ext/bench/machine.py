"""Facts about the machine and the versions, and what it reaches at its best."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from gradmix_ext import loader
from gradmix_ext._version import __version__
from gradmix_ext.bench.clock import interleaved
from gradmix_ext.bench.results import Ceiling

__all__ = ["PEERS", "ceilings", "commit_of", "machine_facts"]

#: Distributions that alternatives come from.
PEERS = (
    "torchvision",
    "timm",
    "kornia",
    "opacus",
    "backpack-for-pytorch",
    "avalanche-lib",
)
_COPY_ELEMENTS, _CACHED_ELEMENTS, _GEMM = 64 << 20, 128 << 10, 2048


def machine_facts(device: torch.device) -> dict[str, Any]:
    """What a reader has to know to read the times, and what decides whether ratios compare."""
    native = loader.native()
    cuda = device.type == "cuda"
    return {
        "device": device.type,
        "cpu": _cpu(),
        "cores": len(os.sched_getaffinity(0)),
        "threads": torch.get_num_threads(),
        "memory_GiB": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30, 1),
        "simd": native.simd_level() if native else "",
        "gpu": torch.cuda.get_device_name(device) if cuda else "",
        "cuda": (torch.version.cuda or "") if cuda else "",
        "python": platform.python_version(),
        "torch": str(torch.__version__),
        "gradmix_ext": __version__,
        "backend": loader.load().active,
        "peers": {name: _version(name) for name in PEERS},
    }


def commit_of(folder: Path) -> str:
    """The commit of a checkout, and whether its files were changed; or that it is none."""
    commit = _git(folder, "rev-parse", "--short=12", "HEAD")
    if not commit:
        return "not a git checkout"
    changed = _git(folder, "status", "--porcelain", "--untracked-files=no")
    return commit + (" with changes" if changed else "")


def ceilings(device: torch.device, budget: float = 1.0) -> list[Ceiling]:
    """Bytes a second of copies, and operations a second of products of matrices, in turn."""
    torch.manual_seed(0)
    large = torch.randn(_COPY_ELEMENTS, device=device)
    large_out = torch.empty_like(large)
    small = torch.randn(_CACHED_ELEMENTS, device=device)
    small_out = torch.empty_like(small)
    square = torch.randn(_GEMM, _GEMM, device=device)
    square_out = torch.empty_like(square)
    half = square.bfloat16()
    half_out = torch.empty_like(half)
    memory, cached = f"copy of {large.nbytes >> 20} MiB", f"copy of {small.nbytes >> 10} KiB"
    gemm = f"float32 product of {_GEMM} x {_GEMM}"
    half_gemm = f"bfloat16 product of {_GEMM} x {_GEMM}"
    calls: dict[str, Callable[[], Any]] = {
        memory: lambda: large_out.copy_(large),
        cached: lambda: small_out.copy_(small),
        gemm: lambda: torch.mm(square, square, out=square_out),
        half_gemm: lambda: torch.mm(half, half, out=half_out),
    }
    work = {memory: 2 * large.nbytes, cached: 2 * small.nbytes, gemm: 2 * _GEMM**3}
    for call in calls.values():
        call()
    found = []
    for name, (samples, _) in interleaved(calls, [()], device, budget).items():
        kind = "flops" if "product" in name else "bytes"
        rate = work.get(name, 2 * _GEMM**3) / sorted(samples)[len(samples) // 2]
        found.append(Ceiling(name, kind, float(f"{rate:.4g}")))
    return found


def _cpu() -> str:
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return " ".join(line.partition(":")[2].split())
    except OSError:
        pass
    return platform.processor() or platform.machine()


def _version(name: str) -> str:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return ""


def _git(folder: Path, *arguments: str) -> str:
    command = ["git", "-C", str(folder), *arguments]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    except OSError:
        return ""
    return done.stdout.strip() if done.returncode == 0 else ""
