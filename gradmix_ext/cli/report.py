"""`gradmix report`."""

from __future__ import annotations

from pathlib import Path

import click

__all__ = ["report_command"]


_HELP = """\
Write one HTML file that shows one or several runs, and opens without a network.

RUN is a folder that `gradmix train` or `gradmix compare` left. The page has the table of results,
accuracy and forgetting over tasks, accuracy matrices, the class-pair maps epoch by epoch,
confusion, losses, settings, environment and the command.

\b
Examples:
  gradmix report runs/demo
  gradmix report runs/er runs/gradmix --out both.html
"""


@click.command("report", help=_HELP)
@click.argument("runs", nargs=-1, required=True, metavar="RUN...")
@click.option(
    "--out",
    metavar="FILE",
    help="The page.  [default: report.html in RUN, or here for several runs]",
)
def report_command(runs: tuple[str, ...], out: str | None) -> None:
    """Read the folders, write the page."""
    from gradmix_ext import report
    from gradmix_ext.cli._errors import writing, wrong_input

    written = Path(out or (Path(runs[0]) / "report.html" if len(runs) == 1 else "report.html"))
    with wrong_input():
        page = report.page(runs)
        written.parent.resolve(strict=True)  # a folder that is not there is a slip
    with writing(written):
        written.write_text(page, encoding="utf-8")
    print(f"written to {written} ({written.stat().st_size / 1e6:.1f} MB)")
