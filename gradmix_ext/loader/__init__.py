"""Find, compile, cache and load the compiled library.

`load` is called by the first op that reaches its pure-PyTorch implementation. The library
registers its kernels with PyTorch's dispatcher, which prefers them from then on.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from gradmix_ext.loader.backend import (
    BACKENDS,
    BackendUnavailable,
    Status,
    load,
    native,
    requested,
    status,
)

if TYPE_CHECKING:
    from gradmix_ext.loader.report import info
    from gradmix_ext.loader.warm import Built, build, clean

__all__ = [
    "BACKENDS",
    "BackendUnavailable",
    "Built",
    "Status",
    "build",
    "clean",
    "info",
    "load",
    "native",
    "requested",
    "status",
]

# Imported when first used: building needs more of the standard library than running.
_LAZY = {"Built": "warm", "build": "warm", "clean": "warm", "info": "report"}


def __getattr__(name: str) -> Any:
    if name in _LAZY:
        return getattr(importlib.import_module(f"{__name__}.{_LAZY[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
