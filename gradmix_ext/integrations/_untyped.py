"""For type checkers: a base class of frameworks that have no types, or need not be installed."""

from __future__ import annotations

from typing import Any


class Untyped:
    """Has every attribute, like a class of which nothing is known."""

    def __init__(self, *args: Any, **kwargs: Any) -> None: ...

    def __getattr__(self, name: str) -> Any: ...
