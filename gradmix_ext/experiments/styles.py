"""How arms are told apart, in pictures and in the HTML report: colour, marker and dash."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

__all__ = ["COLOURS", "MARKERS", "Style", "arm_styles", "nth_style"]

# Okabe and Ito's palette: told apart with every common colour blindness.
COLOURS = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#D55E00", "#56B4E9", "#8C6D00")
_SHAPES = {
    "circle": "o",
    "square": "s",
    "diamond": "D",
    "triangle": "^",
    "cross": "X",
    "down": "v",
    "plus": "P",
}
_NAMES = tuple(_SHAPES)
MARKERS = tuple(_SHAPES.values())
_DASHES = ((), (7, 3), (2, 3), (8, 3, 2, 3))
# The bounds are no contestants: grey and black, dashed. What they are called, and their dash.
_BOUNDS: dict[str, tuple[str, tuple[int, ...]]] = {
    "finetune": ("lower", (2, 3)),
    "joint": ("upper", (7, 4)),
}
_INKS = {"lower": "#888888", "upper": "#000000"}
_INKS |= {f"c{place}": colour for place, colour in enumerate(COLOURS, start=1)}


@dataclass(frozen=True)
class Style:
    """How an arm is drawn.

    Attributes:
        colour: ``"c1"`` to ``"c7"``, ``"lower"`` or ``"upper"``: the name of a colour, which pages
            give for a light and a dark ground each.
        marker: Name of a shape, or nothing for none.
        dash: Lengths of strokes and gaps of a line of width 2; empty if it is solid.
    """

    colour: str
    marker: str
    dash: tuple[int, ...]

    @property
    def line(self) -> dict[str, Any]:
        """The keywords of Matplotlib for a line."""
        # Matplotlib counts in widths of the line.
        dash = (0, tuple(length / 2 for length in self.dash)) if self.dash else "-"
        return {**self.points, "linestyle": dash}

    @property
    def points(self) -> dict[str, Any]:
        """The keywords of Matplotlib for colour and marker alone."""
        return {"color": _INKS[self.colour], "marker": _SHAPES.get(self.marker, "")}


def nth_style(position: int) -> Style:
    """How the contestant at a position, from 0, is drawn: like none of 195 others.

    Once the colours are used up they come again, each with the next marker and another dash.
    """
    turn, place = divmod(position, len(COLOURS))
    marker = _NAMES[(place + turn) % len(_NAMES)]
    return Style(f"c{place + 1}", marker, _DASHES[turn % len(_DASHES)])


def arm_styles(labels: Sequence[str]) -> list[Style]:
    """How arms of these labels are drawn; a bound that comes again, of another run, gets a marker.

    Contestants keep their style whether the bounds are there or not.
    """
    found: list[Style] = []
    contestants = 0
    bounds: Counter[str] = Counter()
    for label in labels:
        if label in _BOUNDS:
            colour, dash = _BOUNDS[label]
            again = bounds[label]
            found.append(Style(colour, _NAMES[again % len(_NAMES)] if again else "", dash))
            bounds[label] += 1
        else:
            found.append(nth_style(contestants))
            contestants += 1
    return found
