"""Arguments of the wrong kind, refused by name. Integers may be Python's, NumPy's, or tensors."""

from __future__ import annotations

import operator
from collections.abc import Sequence
from typing import Any, SupportsIndex

__all__ = ["integer", "positive_integer", "require_choice", "require_kind"]


def integer(name: str, value: SupportsIndex) -> int:
    """`value` as a Python int, which cannot overflow and which every file format knows.

    Raises:
        TypeError: it is not an integer.
    """
    try:
        return operator.index(value)
    except TypeError:
        raise TypeError(f"{name} must be an integer, got {value!r}") from None


def positive_integer(name: str, value: SupportsIndex) -> int:
    """`value` as a Python int that is at least 1; True is none.

    Raises:
        TypeError: it is not an integer.
        ValueError: it is not positive.
    """
    if isinstance(value, bool):
        raise TypeError(f"{name} must be an integer, got {value!r}")
    number = integer(name, value)
    if number < 1:
        raise ValueError(f"{name} must be positive, got {number}")
    return number


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
