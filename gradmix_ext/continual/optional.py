"""Packages that some features need and most do not."""

from __future__ import annotations

from importlib import import_module
from types import ModuleType

__all__ = ["optional"]


def optional(module: str, needed_by: str, install: str) -> ModuleType:
    """Import a module that may not be installed.

    Args:
        module: Its full name.
        needed_by: What needs it, for the message.
        install: What to give to ``pip install``.

    Raises:
        ImportError: it is not installed; the message says how to install it.
    """
    try:
        return import_module(module)
    except ModuleNotFoundError as error:
        package = module.partition(".")[0]
        raise ImportError(f"{needed_by} needs {package}: pip install '{install}'") from error
