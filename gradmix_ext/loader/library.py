"""From a variant to a loaded library: ahead of time, from the cache, or just built."""

from __future__ import annotations

import errno
import importlib.machinery
import importlib.util
import sys
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

from gradmix_ext.loader.cache import (
    Cache,
    CacheError,
    Entry,
    UnsafeCacheError,
    open_cache,
    private_cache,
)
from gradmix_ext.loader.compile import BuildError, Plan, compile_library, make_plan, say
from gradmix_ext.loader.recipe import (
    NoCudaSourcesError,
    csrc_folder,
    hash_sources,
    make_recipe,
    read_mark,
)

__all__ = [
    "Library",
    "UnavailableError",
    "build_library",
    "discard",
    "find_ahead_of_time",
    "find_failure",
    "find_library",
    "import_library",
    "plan_library",
]

PACKAGE = Path(__file__).parent.parent
MODULE = "gradmix_ext._C"


class UnavailableError(RuntimeError):
    """A variant of the library cannot be had, with the reason and, if there is one, the log."""

    def __init__(self, reason: str, log: Path | None = None) -> None:
        super().__init__(reason)
        self.log = log


@dataclass(frozen=True)
class Library:
    """A compiled library on disk.

    Attributes:
        path: the file.
        cuda: whether it holds CUDA kernels.
        origin: ``"ahead of time"``, ``"cache"`` or ``"just built"``.
        log: the compiler's log, if it was compiled on the fly.
    """

    path: Path
    cuda: bool
    origin: str
    log: Path | None = None


def find_ahead_of_time() -> tuple[Library | None, str]:
    """Look for a library that was compiled when the package was installed.

    Returns:
        The library and ``""``, or None and why the one that is there is not used (``""`` when
        there is none).
    """
    for suffix in importlib.machinery.EXTENSION_SUFFIXES:
        path = PACKAGE / f"_C{suffix}"
        if not path.is_file():
            continue
        mark = read_mark(path)
        if mark is None:
            return None, f"{path} is not a library of this package"
        sources_hash, cuda = mark
        try:
            expected_hash = hash_sources(csrc_folder(PACKAGE), cuda)
        except FileNotFoundError as error:
            return None, f"{path} cannot be compared with its sources: {error}"
        if sources_hash != expected_hash:
            return None, f"{path} was compiled ahead of time from other sources; install again"
        return Library(path, cuda, "ahead of time"), ""
    return None, ""


def plan_library(cuda: bool) -> Plan:
    """Fix sources, flags and toolchain of one variant.

    Raises:
        UnavailableError: there are no sources for it, or this PyTorch cannot run it.
    """
    import torch

    try:
        recipe = make_recipe(csrc_folder(PACKAGE), cuda)
    except (NoCudaSourcesError, FileNotFoundError, ValueError) as error:
        raise UnavailableError(str(error)) from error
    if cuda and torch.version.cuda is None:
        raise UnavailableError(f"PyTorch {torch.__version__} is a build without CUDA")
    plan = make_plan(recipe)
    if plan.nvcc is not None and plan.nvcc.major > int(str(torch.version.cuda).split(".")[0]):
        raise UnavailableError(
            f"{plan.nvcc.path} is of CUDA {plan.nvcc.major}, newer than PyTorch's "
            f"{torch.version.cuda}: the driver may not run its code; put an older nvcc first in "
            "CUDA_HOME or PATH"
        )
    return plan


def find_library(plan: Plan) -> Library | None:
    """Look for a finished build of `plan` in the cache, passing over a damaged one.

    Without a compiler, one that any compiler made of the same sources will do.

    Raises:
        UnavailableError: the cache folder cannot be trusted.
    """
    cache, _ = _usable_cache()
    entry = cache.find_any_toolchain(plan.key) if plan.missing else cache.find(plan.key)
    return _from_cache(plan, entry) if entry is not None else None


def find_failure(plan: Plan) -> str:
    """Say why `plan` failed to build before, ``""`` if it did not.

    Raises:
        UnavailableError: the cache folder cannot be trusted.
    """
    cache, _ = _usable_cache()
    failure = cache.find_failure(plan.key)
    return _story(failure) if failure is not None else ""


def build_library(plan: Plan, *, force: bool = False, persistent: bool = False) -> Library:
    """Compile `plan` unless another process did or the same build is known to fail.

    Args:
        plan: what to build.
        force: compile in any case.
        persistent: refuse to build into a folder that goes away with this process.

    Raises:
        UnavailableError: with the reason, and the log if the compiler ran.
    """
    if plan.missing:
        raise UnavailableError(plan.missing)
    cache, note = _usable_cache(for_writing=True)
    if note:
        if persistent:
            raise UnavailableError(note)
        say(f"{note}; compiling into {cache.folder}, which is removed when this process ends")
    try:
        with cache.lock(plan.key, on_wait=_announce_wait):
            if force:
                cache.forget(plan.key)
            entry = cache.find(plan.key)
            if entry is not None:  # another process was faster
                return _from_cache(plan, entry)
            failure = cache.find_failure(plan.key)
            if failure is not None:
                raise UnavailableError(_story(failure), failure.log)
            entry = compile_library(plan, cache)
    except BuildError as error:
        raise UnavailableError(str(error), error.log) from error
    except OSError as error:
        full = error.errno in (errno.ENOSPC, errno.EDQUOT)
        why = "the disk is full" if full else str(error)
        raise UnavailableError(f"cannot build in {cache.folder}: {why}") from error
    return Library(entry.library, plan.recipe.cuda, "just built", entry.log)


def import_library(library: Library) -> ModuleType:
    """Load a library: its kernels register with PyTorch's dispatcher, its module is returned.

    Raises:
        UnavailableError: the dynamic linker refuses it.
    """
    loader = importlib.machinery.ExtensionFileLoader(MODULE, str(library.path))
    spec = importlib.util.spec_from_file_location(MODULE, library.path, loader=loader)
    if spec is None:
        raise UnavailableError(f"{library.path} is not an extension module", library.log)
    try:
        module = importlib.util.module_from_spec(spec)
        loader.exec_module(module)
    except ImportError as error:
        raise UnavailableError(f"{library.path} cannot be loaded: {error}", library.log) from error
    sys.modules[MODULE] = module
    return module


def discard(library: Library) -> None:
    """Remove a cached library that does not load."""
    Cache(library.path.parent.parent).forget(library.path.parent.name)


def _usable_cache(for_writing: bool = False) -> tuple[Cache, str]:
    """The cache folder, or a private one with the reason why."""
    try:
        cache = open_cache()
    except UnsafeCacheError as error:
        raise UnavailableError(str(error)) from error
    except CacheError as error:
        note = str(error)
    else:
        if cache.writable or not for_writing:
            return cache, ""
        note = f"cannot write to the cache folder {cache.folder}"
    try:
        return private_cache(), note
    except CacheError as error:
        raise UnavailableError(f"{note}; {error}") from error


def _story(failure: Entry) -> str:
    return (
        f"the compilation failed before: {failure.record.get('failed', 'no record')} "
        f"(whole log: {failure.log}; `gradmix build --force` tries again)"
    )


def _from_cache(plan: Plan, entry: Entry) -> Library:
    return Library(entry.library, plan.recipe.cuda, "cache", entry.log)


def _announce_wait(holder: str) -> None:
    say(f"waiting for process {holder or '(unknown)'}, which is compiling the same library")
