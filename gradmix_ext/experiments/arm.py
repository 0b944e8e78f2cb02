"""Arms: what is compared with what."""

from __future__ import annotations

import re
from dataclasses import dataclass, field

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
        Values are numbers, true, false, none or words.

        Raises:
            ValueError: a part is unknown, or a setting is not KEY=VALUE or is given twice.
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
            _options(text, augment, option_names(augment), options),
            _options(text, method, method_option_names(method), own),
        )


def split_arms(text: str) -> list[str]:
    """The arms of a list by commas; a comma within brackets is a part of its arm."""
    return [part.strip() for part in _BETWEEN_ARMS.split(text)]


def _options(text: str, owner: str, known: list[str], inside: str | None) -> Options:
    """The settings between the brackets of an arm."""
    if inside is None:
        return ()
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
