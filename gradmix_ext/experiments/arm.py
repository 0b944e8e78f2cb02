"""Arms: what is compared with what."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from types import NoneType, UnionType
from typing import Any, Union, get_args, get_origin, get_type_hints

from gradmix_ext.continual.methods import METHODS, method_option_names
from gradmix_ext.mixers import MIXERS, option_names

__all__ = ["Arm", "split_arms"]

Value = bool | int | float | str | None
Options = tuple[tuple[str, Value], ...]

# NAME or NAME[OPTIONS], once or twice with a plus between; the first name may itself end in "+".
_OPTIONS = r"(?:\[([^\[\]]*)\])?"
_SPELLING = re.compile(rf"([^\[\]]+?){_OPTIONS}(?:\+([^\[\]+]+){_OPTIONS})?")
_BETWEEN_ARMS = re.compile(r",(?![^\[\]]*\])")  # a comma that no bracket closes after
_INTEGER = re.compile(r"[+-]?[0-9]{1,18}")
# How values of a type are written, for messages.
_SPELLINGS = {
    bool: ["true", "false"],
    int: ["an integer"],
    float: ["a number"],
    NoneType: ["none"],
}


@dataclass(frozen=True)
class Arm:
    """A method together with a mixer, and what tables call the two.

    Two arms are equal if they are the same run, however they are written.

    Attributes:
        label: As it was written.
        method: Name of the method.
        augment: Name of the mixer.
        options: Settings of the mixer that are this arm's own, by name, sorted.
        method_options: Settings of the method, likewise.
    """

    label: str = field(compare=False)
    method: str
    augment: str
    options: Options = ()
    method_options: Options = ()

    @classmethod
    def parse(cls, text: str) -> Arm:
        """Read METHOD, METHOD+AUGMENT, or AUGMENT alone, which means er+AUGMENT.

        Either may be followed by settings of its own in brackets, which override those that all
        arms share: ``gradmix[policy=skip,samples_per_pair=4]``, ``der++[replay_weight=1]+mixup``.
        Values are numbers, true, false and none (in upper or lower case), or words, as the type of
        the setting has it.

        Raises:
            ValueError: a part is unknown, or a setting is not KEY=VALUE, is given twice or has a
                value of another type than its own.
        """
        spelled = _SPELLING.fullmatch(text)
        method, own, augment, options = spelled.groups() if spelled else ("", None, None, None)
        if augment is None and method in MIXERS and method not in METHODS:
            method, own, augment, options = "er", None, method, own
        augment = augment or "none"
        if method not in METHODS or augment not in MIXERS:
            raise ValueError(
                f"unknown arm '{text}': write METHOD[+AUGMENT] with METHOD one of "
                f"{', '.join(METHODS)} and AUGMENT one of {', '.join(MIXERS)}; settings of its own "
                "follow either as [KEY=VALUE,...]"
            )
        return cls(
            text,
            method,
            augment,
            _options(text, augment, MIXERS[augment], option_names(augment), options),
            _options(text, method, METHODS[method], method_option_names(method), own),
        )

    @contextmanager
    def named_in_errors(self) -> Iterator[None]:
        """Context in which a refused setting, or model, says for which arm it was.

        Raises:
            ValueError: what was refused, with the arm before it.
        """
        try:
            yield
        except (TypeError, ValueError) as error:
            raise ValueError(f"arm '{self.label}': {error}") from error


def split_arms(text: str) -> list[str]:
    """The arms of a list by commas; a comma within brackets is a part of its arm."""
    return [part.strip() for part in _BETWEEN_ARMS.split(text)]


def _options(
    text: str, owner: str, kind: type[object], known: list[str], inside: str | None
) -> Options:
    """The settings between the brackets of an arm."""
    if inside is None:
        return ()
    types = _types(kind)
    options: dict[str, Value] = {}
    for part in inside.split(","):
        key, equals, value = (each.strip() for each in part.partition("="))
        if not (key and equals and value):
            raise ValueError(f"arm '{text}': '{part}' is not of the form KEY=VALUE")
        if key not in known:
            raise ValueError(
                f"arm '{text}': {owner} has no setting '{key}'; it has {', '.join(known) or 'none'}"
            )
        if key in options:
            raise ValueError(f"arm '{text}' sets {key} twice")
        options[key] = _value(f"arm '{text}': {key}", value, types.get(key, ()))
    return tuple(sorted(options.items()))


def _types(kind: type[object]) -> dict[str, tuple[Any, ...]]:
    """The types of the arguments of a class, those of its bases included, as far as it tells."""
    hints: dict[str, Any] = {}
    for cls in reversed(kind.__mro__):
        with suppress(NameError):  # an annotation for type checkers alone
            hints |= get_type_hints(vars(cls).get("__init__", object.__init__))
    return {
        name: get_args(hint) if get_origin(hint) in (Union, UnionType) else (hint,)
        for name, hint in hints.items()
    }


def _value(name: str, text: str, types: tuple[Any, ...]) -> Value:
    """What a text is as one of these types; `name` is that of the setting, for the error.

    Where none of the types can be written, it is what it looks like.
    """
    word = text.lower()
    types = tuple(kind for kind in types if kind in _SPELLINGS or kind is str)
    types = types or (*_SPELLINGS, str)
    number = int in types or float in types
    if NoneType in types and word == "none":
        return None
    if bool in types and word in ("true", "false", *(() if number else ("1", "0"))):
        return word in ("true", "1")
    if number and _INTEGER.fullmatch(text):
        return int(text)
    if number:
        with suppress(ValueError):
            value = float(text)
            if float in types:
                return value
            if value.is_integer():
                return int(value)
    if str in types:
        return text
    *others, last = (word for kind in _SPELLINGS if kind in types for word in _SPELLINGS[kind])
    allowed = f"{', '.join(others)} or {last}" if others else last
    raise ValueError(f"{name} must be {allowed}, got '{text}'")
