"""Fill and empty the cache ahead of need: what `gradmix build` does."""

from __future__ import annotations

import contextlib
import time
from dataclasses import dataclass
from pathlib import Path

from gradmix_ext.loader.backend import BackendUnavailable
from gradmix_ext.loader.cache import CacheError, cache_folder, open_cache
from gradmix_ext.loader.choose import gpu_visible
from gradmix_ext.loader.compile import Plan
from gradmix_ext.loader.library import UnavailableError, build_library, find_library, plan_library

__all__ = ["Built", "build", "clean"]


@dataclass(frozen=True)
class Built:
    """A library in the cache: the file, what is in it, and the time that it took to get it."""

    library: Path
    backend: str
    origin: str
    seconds: float
    log: Path | None


def build(cuda: bool | None = None, force: bool = False) -> Built:
    """Compile the library into the cache, unless it is there.

    Args:
        cuda: with CUDA kernels; by default when a GPU is visible and they can be built.
        force: compile also if it is there, or is known not to build.

    Raises:
        BackendUnavailable: with the reason.
    """
    import torch  # noqa: F401 - the time to import it is not the build's

    started = time.monotonic()
    try:
        plan = _plan() if cuda is None else plan_library(cuda)
        library = None if force else find_library(plan)
        if library is None:
            library = build_library(plan, force=force, persistent=True)
    except UnavailableError as error:
        raise BackendUnavailable(str(error), error.log) from error
    seconds = time.monotonic() - started
    backend = "cuda" if library.cuda else "cpp"
    return Built(library.path, backend, library.origin, seconds, library.log)


def clean() -> tuple[Path, int, int]:
    """Remove the builds in the cache.

    Returns:
        The cache folder, how many builds were removed, and how many other processes are busy with.

    Raises:
        BackendUnavailable: the cache folder cannot be used.
    """
    folder = cache_folder()
    if not folder.exists():
        return folder, 0, 0
    try:
        removed, busy = open_cache().clean()
    except (CacheError, OSError) as error:
        raise BackendUnavailable(str(error)) from error
    return folder, removed, busy


def _plan() -> Plan:
    """With CUDA kernels if there is a GPU for them and they can be built, else without."""
    if gpu_visible():
        with contextlib.suppress(UnavailableError):
            return plan_library(cuda=True)
    return plan_library(cuda=False)
