"""What the tests of the report share."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from page_reader import Page

from gradmix_ext.cli import main


@pytest.fixture
def report(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Callable[..., Page]:
    """`gradmix report` in this process, on folders; gives the page."""

    def run(*folders: Path) -> Page:
        out = tmp_path / "page.html"
        with pytest.raises(SystemExit) as exit_:
            main(["report", *map(str, folders), "--out", str(out)])
        assert (exit_.value.code, capsys.readouterr().err) == (0, "")
        return Page(out.read_text(encoding="utf-8"))

    return run
