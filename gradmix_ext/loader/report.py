"""What `gradmix info` prints: versions, backends and why one is missing, the cache."""

from __future__ import annotations

import platform
from collections.abc import Callable
from typing import Any

from gradmix_ext._version import __version__
from gradmix_ext.loader.backend import requested
from gradmix_ext.loader.cache import Cache, CacheError, Entry, cache_folder, open_cache
from gradmix_ext.loader.choose import gpu_visible
from gradmix_ext.loader.library import (
    Library,
    UnavailableError,
    find_ahead_of_time,
    find_failure,
    find_library,
    import_library,
    plan_library,
)
from gradmix_ext.loader.toolchain import Tool, ToolchainError, find_cxx, find_ninja, find_nvcc

__all__ = ["info"]

READY = "ready"
ON_FIRST_USE = "compiled on first use (or now, by `gradmix build`)"


def info() -> dict[str, Any]:
    """Describe this installation; compiles nothing, and loads only a library that is there.

    Returns:
        A dictionary that can be written as JSON: versions, tools, backends, the cache.

    Raises:
        ValueError: GRADMIX_EXT_BACKEND or the list of CUDA architectures is malformed.
    """
    import torch

    wanted = requested()
    installed, stale = find_ahead_of_time()
    states = {"cuda": _state(True, installed), "cpp": _state(False, installed)}
    libraries = {name: library for name, (_, library) in states.items()}
    active, library = _active(wanted, states, installed)
    backends = {name: text for name, (text, _) in states.items()}
    return {
        "gradmix_ext": __version__,
        "python": platform.python_version(),
        "torch": str(torch.__version__),
        "torch_cuda": torch.version.cuda or "none (a CPU build)",
        "gpus": torch.cuda.device_count() if torch.version.cuda else 0,
        "cxx": _tool(find_cxx),
        "ninja": _tool(find_ninja),
        "nvcc": _tool(find_nvcc),
        "requested": wanted,
        "active": active,
        "library": str(library.path) if library else "",
        "origin": library.origin if library else "",
        "simd_level": _simd_level(library or libraries["cpp"]),
        "backends": {**backends, "torch": READY},
        "ahead_of_time": stale or (str(installed.path) if installed else "none"),
        "cache": _cache(),
    }


def _tool(find: Callable[[], Tool]) -> str:
    try:
        tool = find()
    except ToolchainError as error:
        return f"missing: {error}"
    return f"{tool.version} ({tool.path})"


def _state(cuda: bool, installed: Library | None) -> tuple[str, Library | None]:
    """Whether a variant is ready, can be built, or why not; and its library if it is ready."""
    if installed is not None and installed.cuda == cuda:
        return READY, installed
    try:
        plan = plan_library(cuda)
        library = find_library(plan)
        if library is not None:
            return READY, library
        if plan.missing:
            return f"missing: {plan.missing}", None
        failure = find_failure(plan)
    except UnavailableError as error:
        return f"missing: {error}", None
    return (f"missing: {failure}" if failure else ON_FIRST_USE), None


def _active(
    wanted: str, states: dict[str, tuple[str, Library | None]], installed: Library | None
) -> tuple[str, Library | None]:
    """The backend that the next program gets, and its library if it is ready."""
    if wanted == "torch":
        return "torch", None
    if wanted == "auto" and installed is not None:
        return ("cuda" if installed.cuda else "cpp"), installed
    candidates = ["cuda", "cpp"] if gpu_visible() else ["cpp"]
    if candidates == ["cpp"] and states["cpp"][1] is None and states["cuda"][1] is not None:
        candidates = ["cuda"]  # it holds the C++ kernels as well, and is there
    for name in candidates if wanted == "auto" else [wanted]:
        text, library = states[name]
        if not text.startswith("missing"):
            return name, library
    return ("torch" if wanted == "auto" else f"none: {wanted} is {states[wanted][0]}"), None


def _simd_level(library: Library | None) -> str:
    if library is None:
        return "unknown until the C++ kernels are compiled"
    try:
        return str(import_library(library).simd_level())
    except UnavailableError as error:
        return f"unknown: {error}"


def _cache() -> dict[str, Any]:
    try:
        folder = cache_folder()
        cache = open_cache() if folder.exists() else Cache(folder)
    except CacheError as error:
        return {"problem": str(error), "entries": [], "failures": []}
    return {
        "folder": str(cache.folder),
        "entries": [_describe(entry) for entry in cache.entries()],
        "failures": [_describe(entry) for entry in cache.failures()],
    }


def _describe(entry: Entry) -> dict[str, Any]:
    size = entry.library.stat().st_size if entry.library.is_file() else 0
    return {"name": entry.folder.name, "bytes": size, "log": str(entry.log), **entry.record}
