"""Arms: what is compared with what."""

from __future__ import annotations

import re
from dataclasses import dataclass, field

from gradmix_ext.continual.methods import METHODS
from gradmix_ext.mixers import MIXERS, option_names

__all__ = ["Arm"]

Value = bool | int | float | str | None

_SPELLING = re.compile(r"(?P<name>[^\[\]]+)(\[(?P<options>[^\[\]]*)\])?")
_INTEGER = re.compile(r"[+-]?[0-9]{1,18}")
_WORDS: dict[str, Value] = {"none": None, "true": True, "false": False}


@dataclass(frozen=True)
class Arm:
    """A method together with a mixer, and what tables call the two.

    Two arms are equal if they are the same run, however they are written.

    Attributes:
        label: As it was written.
        method: Name of the method.
        augment: Name of the mixer.
        options: Settings of the mixer that are this arm's own, by name, sorted.
    """

    label: str = field(compare=False)
    method: str
    augment: str
    options: tuple[tuple[str, Value], ...] = ()

    @classmethod
    def parse(cls, text: str) -> Arm:
        """Read METHOD, METHOD+AUGMENT, or AUGMENT alone, which means er+AUGMENT.

        AUGMENT may be followed by settings of its own in brackets, which override those that all
        arms share: ``gradmix[policy=skip,samples_per_pair=4]``. Values are numbers, true, false,
        none or words.

        Raises:
            ValueError: a part is unknown, or a setting is not KEY=VALUE or is given twice.
        """
        spelled = _SPELLING.fullmatch(text)
        name, inside = (spelled["name"], spelled["options"]) if spelled else (text, None)
        method, plus, augment = name.partition("+")
        if not plus and method not in METHODS and method in MIXERS:
            method, augment = "er", method
        elif not plus:
            augment = "none"
        if spelled is None or method not in METHODS or augment not in MIXERS:
            raise ValueError(
                f"unknown arm '{text}': write METHOD[+AUGMENT] with METHOD one of "
                f"{', '.join(METHODS)} and AUGMENT one of {', '.join(MIXERS)}; settings of its own "
                "follow AUGMENT as [KEY=VALUE,...]"
            )
        return cls(text, method, augment, _options(text, augment, inside))


def _options(text: str, augment: str, inside: str | None) -> tuple[tuple[str, Value], ...]:
    """The settings between the brackets of an arm."""
    if inside is None:
        return ()
    known = option_names(augment)
    options: dict[str, Value] = {}
    for part in inside.split(","):
        key, equals, value = (each.strip() for each in part.partition("="))
        if not (key and equals and value):
            raise ValueError(f"arm '{text}': '{part}' is not of the form KEY=VALUE")
        if key not in known:
            raise ValueError(
                f"arm '{text}': {augment} has no setting '{key}'; it has "
                f"{', '.join(known) or 'none'}"
            )
        if key in options:
            raise ValueError(f"arm '{text}' sets {key} twice")
        options[key] = _value(value)
    return tuple(sorted(options.items()))


def _value(text: str) -> Value:
    """A number, a word for one of Python's constants, or the word itself."""
    if text in _WORDS:
        return _WORDS[text]
    try:
        return int(text) if _INTEGER.fullmatch(text) else float(text)
    except ValueError:
        return text
