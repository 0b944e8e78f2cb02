"""A table of text, for people, in the formats in which they take it away."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

__all__ = ["Table"]

# Characters that mean something to LaTeX, or that its default fonts do not have.
_LATEX = str.maketrans(
    {
        "\\": r"\textbackslash{}",
        "~": r"\textasciitilde{}",
        "^": r"\textasciicircum{}",
        **{character: f"\\{character}" for character in "&%$#_{}"},
        "±": r"$\pm$",
        "Δ": r"$\Delta$",
        "<": "$<$",
        ">": "$>$",
        "*": "$^*$",
    }
)
_SIGNED = re.compile(r"(?<!\S)([+-])(?=\d)")


@dataclass(frozen=True)
class Table:
    """Rows of text; the first column holds names, the others numbers.

    Attributes:
        title: One line.
        headings: One per column.
        rows: As many cells each as there are headings.
    """

    title: str
    headings: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]

    def markdown(self) -> str:
        """The title as a paragraph, and a Markdown table."""
        lines = [_markdown_row(self.headings), "| --- |" + " ---: |" * (len(self.headings) - 1)]
        lines += [_markdown_row(row) for row in self.rows]
        return f"{self.title}\n\n" + "\n".join(lines) + "\n"

    def latex(self) -> str:
        r"""A ``table`` environment with the rules of the booktabs package."""
        lines = [
            r"\begin{table}",
            r"  \centering",
            rf"  \caption{{{_escaped(self.title)}}}",
            rf"  \begin{{tabular}}{{l{'r' * (len(self.headings) - 1)}}}",
            r"    \toprule",
            _latex_row(self.headings),
            r"    \midrule",
            *(_latex_row(row) for row in self.rows),
            r"    \bottomrule",
            r"  \end{tabular}",
            r"\end{table}",
        ]
        return "\n".join(lines) + "\n"


def _markdown_row(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cell.replace("|", r"\|") for cell in cells) + " |"


def _latex_row(cells: Sequence[str]) -> str:
    return "    " + " & ".join(_escaped(cell) for cell in cells) + r" \\"


def _escaped(text: str) -> str:
    """Text that LaTeX sets as it is, with true minus signs before numbers."""
    return _SIGNED.sub(r"$\1$", text.translate(_LATEX))
