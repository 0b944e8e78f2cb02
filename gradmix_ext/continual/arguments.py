"""Arguments of the wrong kind, refused by name."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

__all__ = ["require_choice", "require_kind"]


def require_choice(name: str, value: object, choices: Sequence[str]) -> None:
    """Check that `value` is one of some words.

    Raises:
        ValueError: it is not.
    """
    if value not in choices:
        raise ValueError(f"{name} must be one of {', '.join(choices)}, got {_shown(value)}")


def require_kind(name: str, value: object, kinds: Any, words: str) -> None:
    """Check that `value` is an instance of `kinds`, a class or a union of classes.

    Raises:
        TypeError: it is not, but must be what `words` say.
    """
    if not isinstance(value, kinds):
        raise TypeError(f"{name} must be {words}, got {_shown(value)}")


def _shown(value: object) -> str:
    """A value in one short line."""
    text = repr(value)
    return text if len(text) <= 60 and "\n" not in text else f"an object of {type(value).__name__}"
