"""Integers of any kind as arguments: Python's, NumPy's, tensors without dimensions."""

from __future__ import annotations

import operator
from typing import SupportsIndex

__all__ = ["integer"]


def integer(name: str, value: SupportsIndex) -> int:
    """`value` as a Python int, which cannot overflow and which every file format knows.

    Raises:
        TypeError: it is not an integer.
    """
    try:
        return operator.index(value)
    except TypeError:
        raise TypeError(f"{name} must be an integer, got {value!r}") from None
