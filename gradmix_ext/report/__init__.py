"""A report of one or several runs as one self-contained HTML file.

>>> import gradmix_ext as gx
>>> gx.report.write(["runs/demo"], "report.html")  # doctest: +SKIP
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from gradmix_ext.report.load import load_run
from gradmix_ext.report.render import render

__all__ = ["page", "write"]


def write(runs: Sequence[str | Path], out: str | Path) -> Path:
    """Write the report; it makes no network request when it is opened.

    Args:
        runs: Folders that `gradmix train` or `gradmix compare` left.
        out: The HTML file.

    Returns:
        `out`.

    Raises:
        ValueError: as :func:`page`.
        OSError: a file cannot be read or written.
    """
    out = Path(out)
    out.write_text(page(runs), encoding="utf-8")
    return out


def page(runs: Sequence[str | Path]) -> str:
    """The report as HTML.

    Args:
        runs: Folders that `gradmix train` or `gradmix compare` left.

    Raises:
        ValueError: no folder is given, one is given twice, one is no run folder or has no finished
            run, or a file in it is corrupt.
        OSError: a file cannot be read.
    """
    if not runs:
        raise ValueError("runs must name at least one run folder")
    folders = [Path(run) for run in runs]
    for index, folder in enumerate(folders):
        if folder.resolve() in [other.resolve() for other in folders[:index]]:
            raise ValueError(f"{folder} is given twice")
    return render([load_run(folder) for folder in folders])
