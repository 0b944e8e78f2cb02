"""Decide which library to load: what GRADMIX_EXT_BACKEND means on this machine."""

from __future__ import annotations

import contextlib
import warnings
from types import ModuleType

from gradmix_ext.loader.backend import BackendUnavailable, Status
from gradmix_ext.loader.library import (
    Library,
    UnavailableError,
    build_library,
    discard,
    find_ahead_of_time,
    find_library,
    import_library,
    plan_library,
)
from gradmix_ext.loader.recipe import OLDEST_GPU

__all__ = ["choose", "gpu_visible"]


def choose(wanted: str) -> tuple[Status, ModuleType | None]:
    """Find or build the library that backend `wanted` needs, and load it.

    ``"auto"`` takes what was compiled ahead of time, else a library with CUDA kernels where a GPU
    is visible, else one with C++ kernels, else none after a warning. GPUs that are too old for the
    CUDA kernels run pure PyTorch, if they are known by then (see :func:`old_gpu`).

    Raises:
        BackendUnavailable: `wanted` is not ``"auto"`` and cannot be had.
    """
    if wanted == "torch":
        return Status(wanted, "torch", reason="GRADMIX_EXT_BACKEND=torch"), None
    installed, stale = find_ahead_of_time()
    if wanted != "auto":
        with_cuda = wanted == "cuda"
        try:
            fits = installed is not None and installed.cuda == with_cuda
            return _use(wanted, installed if installed and fits else _obtain(with_cuda))
        except UnavailableError as error:
            raise BackendUnavailable(
                f"GRADMIX_EXT_BACKEND={wanted}: {error} (GRADMIX_EXT_BACKEND=auto falls back to "
                "what there is)",
                error.log,
            ) from error

    reasons = [stale] if stale else []
    log = None
    too_old = old_gpu()
    if too_old:
        reasons.append(too_old)
        installed = None if installed is None or installed.cuda else installed
    for with_cuda in (True, False) if gpu_visible() and not too_old else (False,):
        try:
            library = installed or _obtain(with_cuda, or_cuda=not too_old)
            return _use(wanted, library, reason="; ".join(reasons))
        except UnavailableError as error:  # noqa: PERF203 - at most twice in a process
            reasons.append(f"{'CUDA' if with_cuda else 'C++'}: {error}")
            log = error.log or log
            installed = None
    reason = "; ".join(reasons)
    warnings.warn(
        f"gradmix_ext runs in pure PyTorch, without its compiled kernels. {reason}. "
        "`gradmix info` shows what is missing; GRADMIX_EXT_BACKEND=torch silences this warning",
        RuntimeWarning,
        stacklevel=3,
    )
    return Status(wanted, "torch", reason=reason, log=log), None


def _obtain(cuda: bool, or_cuda: bool = False) -> Library:
    """Find or build one variant.

    With `or_cuda`, rather than building the one without CUDA kernels take the one with them if it
    is there: it holds the C++ kernels as well.
    """
    plan = plan_library(cuda)
    found = find_library(plan)
    if found is None and or_cuda and not cuda:
        with contextlib.suppress(UnavailableError):  # no CUDA sources, no CUDA in this PyTorch
            found = find_library(plan_library(cuda=True))
    return found or build_library(plan)


def _use(wanted: str, library: Library, reason: str = "") -> tuple[Status, ModuleType]:
    try:
        module = import_library(library)
    except UnavailableError:
        if library.origin != "cache":
            raise
        # It is as it was built, and it loaded then, so something that it needs is another by now:
        # build it anew.
        discard(library)
        library = _obtain(library.cuda)
        module = import_library(library)
    active = "cuda" if library.cuda else "cpp"
    return Status(wanted, active, library.path, library.origin, reason, library.log), module


def gpu_visible() -> bool:
    """Whether a GPU is there for CUDA kernels to run on; creates no CUDA context."""
    import torch

    return torch.version.cuda is not None and torch.cuda.device_count() > 0


def old_gpu() -> str:
    """Why a GPU here cannot run the CUDA kernels; empty where all can.

    Asking would start CUDA, so only a process that has a tensor on a GPU is told.
    """
    import torch

    if gpu_visible() and torch.cuda.is_initialized():
        for index in range(torch.cuda.device_count()):
            major, minor = torch.cuda.get_device_capability(index)
            if major < OLDEST_GPU:
                return (
                    f"{torch.cuda.get_device_name(index)} has compute capability {major}.{minor}, "
                    f"and the CUDA kernels need {OLDEST_GPU}.0"
                )
    return ""
