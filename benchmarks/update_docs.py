"""Write the tables of a folder of results into docs/benchmarks.md: update_docs.py FOLDER."""

from __future__ import annotations

import sys
from pathlib import Path

from gradmix_ext.bench import Report
from gradmix_ext.bench.results import busy, describe
from gradmix_ext.bench.tables import goal_table, headline_table, loss_table

PAGE = Path(__file__).parents[1] / "docs" / "benchmarks.md"
BEGIN, END = "<!-- measured: begin -->", "<!-- measured: end -->"


def main(folder: Path) -> None:
    report = Report.load(folder / "bench.json")
    commits = ", ".join(dict.fromkeys(group.commit for group in report.groups))
    parts = [f"On {describe(report.machine)}; commit {commits}.\n", busy(report.machine)]
    tables = headline_table, goal_table, loss_table
    parts += [table.markdown() for make in tables if (table := make(report.groups)) is not None]
    before, _, rest = PAGE.read_text().partition(BEGIN)
    _, end, after = rest.partition(END)
    if not end:
        raise SystemExit(f"{PAGE} has no {BEGIN} ... {END}")
    PAGE.write_text(before + BEGIN + "\n\n" + "\n".join(parts) + "\n" + END + after)


if __name__ == "__main__":
    if len(sys.argv) != 2:
        raise SystemExit(__doc__)
    main(Path(sys.argv[1]))
