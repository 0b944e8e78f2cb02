"""Load the backend, once per process.

Light to import: what finds and builds libraries is imported by the first `load`.
"""

from __future__ import annotations

import os
import threading
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

__all__ = [
    "BACKENDS",
    "BackendUnavailable",
    "Status",
    "handed_down",
    "load",
    "native",
    "requested",
    "status",
]

BACKENDS = ("auto", "cuda", "cpp", "torch")


class BackendUnavailable(RuntimeError):  # noqa: N818 - a public name that reads as the message
    """A backend that was asked for by name cannot be had; the message says why.

    Attributes:
        log: the compiler's log, if it came to compiling.
    """

    def __init__(self, reason: str, log: Path | None = None) -> None:
        super().__init__(reason)
        self.log = log


@dataclass(frozen=True)
class Status:
    """What runs, and why not something faster.

    Attributes:
        requested: what GRADMIX_EXT_BACKEND asks for: ``"auto"``, ``"cuda"``, ``"cpp"`` or
            ``"torch"``.
        active: what runs: ``"cuda"`` (C++ and CUDA kernels), ``"cpp"`` (C++ kernels) or
            ``"torch"`` (pure PyTorch).
        library: the compiled library that is loaded, if any.
        origin: where it came from: ``"ahead of time"``, ``"cache"`` or ``"just built"``; ``""``
            without a library.
        reason: why a faster backend is missing, ``""`` if none is.
        log: the compiler's log of the library, or of the failed attempt.
    """

    requested: str
    active: str
    library: Path | None = None
    origin: str = ""
    reason: str = ""
    log: Path | None = None


class _Loaded:
    """The one choice of this process: a library cannot be unloaded."""

    lock = threading.Lock()
    status: Status | None = None
    refused: BackendUnavailable | None = None
    module: ModuleType | None = None


def requested() -> str:
    """Read GRADMIX_EXT_BACKEND.

    Raises:
        ValueError: its value is not one of `BACKENDS`.
    """
    value = os.environ.get("GRADMIX_EXT_BACKEND") or "auto"
    if value not in BACKENDS:
        raise ValueError(f"GRADMIX_EXT_BACKEND={value!r} is not one of {', '.join(BACKENDS)}")
    return value


def load() -> Status:
    """Load the compiled library, compiling it if this is the first use; later calls do nothing.

    Raises:
        BackendUnavailable: GRADMIX_EXT_BACKEND names a backend that cannot be had (every time).
        ValueError: GRADMIX_EXT_BACKEND names no backend.
    """
    if _Loaded.status is None:
        with _Loaded.lock:
            if _Loaded.status is None and _Loaded.refused is None:
                from gradmix_ext.loader.choose import choose

                try:
                    _Loaded.status, _Loaded.module = choose(requested())
                except BackendUnavailable as error:
                    _Loaded.refused = error
    if _Loaded.status is not None:
        return _Loaded.status
    # A new exception each time: one that is raised again collects the traces of all its raises.
    refused = _Loaded.refused
    raise BackendUnavailable(str(refused), refused.log if refused else None)


def status() -> Status:
    """Say what `load` has done so far; loads and compiles nothing."""
    if _Loaded.status is not None:
        return _Loaded.status
    if _Loaded.refused is not None:
        return Status(requested(), "torch", reason=str(_Loaded.refused), log=_Loaded.refused.log)
    return Status(requested(), "torch", reason="no op has been called yet")


def handed_down() -> dict[str, str]:
    """Environment variables by which other processes load what this one has, and build nothing.

    They matter where the cache cannot be written: each process would compile into a folder of its
    own, or try again what has failed here.
    """
    loaded = _Loaded.status
    if loaded is None or loaded.origin == "ahead of time":
        return {}
    if loaded.library is None:
        return {"GRADMIX_EXT_BACKEND": "torch"}
    return {"GRADMIX_EXT_CACHE": str(loaded.library.parents[1])}


def native() -> ModuleType | None:
    """The module of the compiled library, if one is loaded."""
    return _Loaded.module
