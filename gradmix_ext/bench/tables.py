"""Ratios next to the limits of the machine, for the terminal and as Markdown."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from gradmix_ext.bench.results import CaseResult, Group, Report, busy, describe
from gradmix_ext.bench.workload import Role, Target
from gradmix_ext.experiments.tables import Table

__all__ = [
    "ceiling_table",
    "goal_table",
    "group_table",
    "headline_table",
    "loss_table",
    "markdown",
    "skipped_table",
]

_HEADINGS = ("", "time", "middle half", "times gradmix_ext", "memory", "GB/s", "GFLOP/s", "error")


def group_table(group: Group) -> Table:
    """The cases of a group: time, ratio to the project's own, memory, rates."""
    return Table(group.name, _HEADINGS, tuple(_row(group, case) for case in group.cases))


def _row(group: Group, case: CaseResult) -> tuple[str, ...]:
    if case.skipped:
        return (case.name, "not measured", *[""] * (len(_HEADINGS) - 2))
    ratio = group.ratio(case)
    comparable = case.role is not Role.LIMIT  # a limit does other work
    return (
        case.name,
        duration(case.median),
        f"{duration(case.low)} to {duration(case.high)}",
        "" if ratio is None else f"{ratio:.2f}",
        "" if case.peak_bytes is None else size(case.peak_bytes),
        f"{group.moved / case.median / 1e9:.1f}" if group.moved and comparable else "",
        f"{group.flops / case.median / 1e9:.1f}" if group.flops and comparable else "",
        "" if case.error is None else f"{case.error:.0e}",
    )


def headline_table(groups: Sequence[Group]) -> Table:
    """A line for each group: the project's own, the fastest alternative, the nearest limit."""
    rows = []
    for group in groups:
        base = group.base
        if base is None:
            continue
        others = [c for c in group.cases if c.role is Role.ALTERNATIVE and not c.skipped]
        limits = [c for c in group.cases if c.role is Role.LIMIT and not c.skipped]
        fastest = min(others, key=lambda case: case.median, default=None)
        leanest = min((c.peak_bytes for c in others if c.peak_bytes is not None), default=None)
        row = [group.name, duration(base.median)]
        row.append(_beside(group, fastest))
        row.append(_beside(group, limits[0] if limits else None))
        row.append("" if base.peak_bytes is None else size(base.peak_bytes))
        row.append("" if leanest is None else size(leanest))
        rows.append(tuple(row))
    headings = ("", "gradmix_ext", "fastest other", "limit", "memory", "leanest other")
    return Table("In brackets: how many times as long as gradmix_ext", headings, tuple(rows))


def _beside(group: Group, case: CaseResult | None) -> str:
    if case is None:
        return ""
    name = case.name.removeprefix("limit: ")
    return f"{name}: {duration(case.median)} ({group.ratio(case):.2f})"


def skipped_table(groups: Sequence[Group]) -> Table | None:
    """What was not measured, and why."""
    rows = [
        (f"{group.name}: {case.name}", case.skipped)
        for group in groups
        for case in group.cases
        if case.skipped
    ]
    return Table("Not measured", ("case", "why"), tuple(rows)) if rows else None


def ceiling_table(report: Report) -> Table:
    """The limits of the machine."""
    unit = {"bytes": "GB/s", "flops": "GFLOP/s"}
    rows = [(c.name, f"{c.rate / 1e9:.1f} {unit[c.kind]}") for c in report.ceilings]
    return Table("Limits of the machine, the best of all tables", ("", "rate"), tuple(rows))


def goals(groups: Sequence[Group]) -> Iterator[tuple[Group, Target, float]]:
    """Every goal that was measured, with what was reached."""
    for group in groups:
        for target in group.targets:
            case, base = group.case(target.case), group.case(target.base)
            if case is not None and base is not None:
                ratio = group.ratio(case, base)
                if ratio is not None:
                    yield group, target, ratio


def goal_table(groups: Sequence[Group]) -> Table:
    """The goals, and which of them are reached."""
    rows = [
        (
            f"{group.name}: {target.base}",
            target.case,
            f"{target.at_least:.2f}",
            f"{ratio:.2f}",
            "yes" if ratio >= target.at_least else "**no**",
        )
        for group, target, ratio in goals(groups)
    ]
    headings = ("case", "against", "goal", "ratio", "reached")
    return Table("Goals: time of the other over the case's own", headings, tuple(rows))


def loss_table(groups: Sequence[Group]) -> Table | None:
    """Where an alternative is faster, or takes less memory, than the project's own."""
    rows = []
    for group in groups:
        base = group.base
        if base is None:
            continue
        for case in group.cases:
            if case.role is not Role.ALTERNATIVE or case.skipped:
                continue
            ratio = group.ratio(case)
            faster = ratio is not None and ratio < 1
            # A difference within the resolution of a page count is none.
            smaller = (
                case.peak_bytes is not None
                and base.peak_bytes is not None
                and case.peak_bytes + (1 << 20) < base.peak_bytes
            )
            if faster or smaller:
                won = f"{duration(case.median)} against {duration(base.median)}" if faster else ""
                held = (
                    f"{size(case.peak_bytes or 0)} against {size(base.peak_bytes or 0)}"
                    if smaller
                    else ""
                )
                rows.append((group.name, case.name, won, held))
    if not rows:
        return None
    return Table("Where something else wins", ("what", "by", "time", "memory"), tuple(rows))


def markdown(report: Report) -> str:
    """Everything, as one document."""
    commits = ", ".join(dict.fromkeys(group.commit for group in report.groups))
    dates = sorted({group.date for group in report.groups})
    peers = ", ".join(f"{k} {v}" for k, v in report.machine.get("peers", {}).items() if v)
    parts = [
        f"# Speed on {describe(report.machine)}\n",
        f"Commit {commits}; {' to '.join(dict.fromkeys((dates[0], dates[-1]))) if dates else ''}; "
        f"Python {report.machine.get('python')}; {report.machine.get('memory_GiB')} GiB of memory; "
        f"{peers or 'none of the other projects installed'}.\n",
        busy(report.machine),
        "Times are medians of samples taken in turn; compare the ratios, not the times. Memory is "
        "the peak of a call above what was there before, the result included. GB/s and GFLOP/s "
        "count what the work needs at least, not what a case does. The error is relative to the "
        "largest element of the result in float64.\n",
    ]
    tables = [
        ceiling_table(report),
        goal_table(report.groups),
        loss_table(report.groups),
        *map(group_table, report.groups),
        skipped_table(report.groups),
    ]
    parts += [table.markdown() for table in tables if table is not None and table.rows]
    return "\n".join(parts)


def duration(seconds: float) -> str:
    """Three digits and a unit."""
    for unit, scale in (("s", 1.0), ("ms", 1e-3), ("µs", 1e-6)):
        if seconds >= scale:
            return f"{_digits(seconds / scale)} {unit}"
    return f"{_digits(seconds / 1e-9)} ns"


def size(count: int) -> str:
    """Three digits and a unit."""
    for unit, scale in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if count >= scale:
            return f"{_digits(count / scale)} {unit}"
    return f"{count} B"


def _digits(value: float) -> str:
    return f"{value:.0f}" if value >= 99.95 else f"{value:.3g}"
