"""Reads a report back: its elements, tables and embedded data."""

from __future__ import annotations

import base64
import json
import re
import zlib
from html.parser import HTMLParser
from typing import Any

import numpy as np


class Page(HTMLParser):
    """A page in parts."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.text = text
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.tables: list[tuple[str, list[list[str]]]] = []
        self.scripts: list[str] = []
        self._inside = ""
        self.feed(text)
        self.data = json.loads(self.scripts[0])

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        if tag in ("td", "th", "caption", "script"):
            self._inside = tag
        if tag == "table":
            self.tables.append(("", []))
        elif tag == "tr":
            self.tables[-1][1].append([])
        elif tag in ("td", "th"):
            self.tables[-1][1][-1].append("")
        elif tag == "script":
            self.scripts.append("")

    def handle_endtag(self, tag: str) -> None:
        if tag == self._inside:
            self._inside = ""

    def handle_data(self, data: str) -> None:
        if self._inside == "script":
            self.scripts[-1] += data
        elif self._inside == "caption":
            caption, rows = self.tables[-1]
            self.tables[-1] = caption + data, rows
        elif self._inside:
            self.tables[-1][1][-1][-1] += data.replace("\xa0", " ")

    def rows(self, caption: str) -> dict[str, list[str]]:
        """The first table whose caption starts like this: cells by the name of the row."""
        rows = next(rows for found, rows in self.tables if found.startswith(caption))
        return {row[0].strip(): [cell.strip() for cell in row[1:]] for row in rows if row}

    @property
    def results(self) -> dict[str, list[str]]:
        """The table of results, without the column that is a drawing."""
        return {name: cells[1:] for name, cells in self.rows("In percent").items()}

    def section(self, name: str) -> str:
        """The HTML of a section."""
        found = re.search(rf'<section id="{name}".*?</section>', self.text, re.DOTALL)
        assert found
        return found[0]

    def arm(self, name: str) -> dict[str, Any]:
        """The embedded data of an arm."""
        return next(arm for arm in self.data["arms"] if arm["name"] == name)


def unpack(packed: dict[str, Any]) -> np.ndarray:
    """A packed array."""
    raw = zlib.decompress(base64.b64decode(packed["data"]))
    return np.frombuffer(raw, dtype=f"<{packed['type']}").reshape(packed["shape"])
