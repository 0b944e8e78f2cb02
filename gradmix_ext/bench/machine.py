"""Facts about the machine and the versions, and what it reaches at its best."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import subprocess
from collections.abc import Callable
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from gradmix_ext import loader
from gradmix_ext._version import __version__

__all__ = ["PEERS", "ceiling_calls", "commit_of", "machine_facts"]

#: Distributions that alternatives come from.
PEERS = (
    "torchvision",
    "timm",
    "kornia",
    "opacus",
    "backpack-for-pytorch",
    "avalanche-lib",
)
_COPY_ELEMENTS, _CACHED_ELEMENTS, _GEMM = 64 << 20, 128 << 10, 1024


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
        "load": round(os.getloadavg()[0], 1),  # processes that wanted a core in the last minute
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


@lru_cache(maxsize=1)
def ceiling_calls(device: torch.device) -> dict[str, tuple[Callable[..., Any], str, float]]:
    """Copies and products of matrices, as (call, ``"bytes"`` or ``"flops"``, how many of them).

    The calls take, and leave alone, whatever inputs they are timed with.
    """
    found: dict[str, tuple[Callable[..., Any], str, float]] = {}
    for count in (_COPY_ELEMENTS, _CACHED_ELEMENTS):
        source = torch.randn(count, device=device)
        name = f"copy of {_binary(source.nbytes)}"
        found[name] = partial(_copy, torch.empty_like(source), source), "bytes", 2.0 * source.nbytes
    for dtype in (torch.float32, torch.bfloat16):
        square = torch.randn(_GEMM, _GEMM, device=device).to(dtype)
        name = f"{str(dtype)[6:]} product of {_GEMM} x {_GEMM}"
        found[name] = partial(_product, torch.empty_like(square), square), "flops", 2.0 * _GEMM**3
    return found


def _copy(out: Tensor, source: Tensor, *inputs: Any) -> None:
    out.copy_(source)


def _product(out: Tensor, square: Tensor, *inputs: Any) -> None:
    torch.mm(square, square, out=out)


def _binary(count: int) -> str:
    return f"{count >> 20} MiB" if count >= 1 << 20 else f"{count >> 10} KiB"


def _cpu(facts: Path = Path("/proc/cpuinfo")) -> str:
    """The processor's name, and its family and model: a cloud's name is that of all generations."""
    try:
        lines = facts.read_text().partition("\n\n")[0].splitlines()
    except OSError:
        lines = []
    pairs = (line.partition(":") for line in lines)
    said = {name.strip(): value.strip() for name, _, value in pairs}
    name = said.get("model name") or platform.processor() or platform.machine()
    if "cpu family" not in said:
        return name
    return f"{name} (family {said['cpu family']}, model {said.get('model')})"


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
