"""Integers of any kind as arguments: Python's, NumPy's, tensors without dimensions."""

from __future__ import annotations

import operator
from typing import SupportsIndex

__all__ = ["integer", "positive_integer"]


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
