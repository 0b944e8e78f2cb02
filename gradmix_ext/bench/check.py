"""Whether something has become slower: ratios of one report against those of another."""

from __future__ import annotations

import statistics
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from gradmix_ext.bench.results import CaseResult, Group, Report, describe, same_machine
from gradmix_ext.bench.workload import GOAL, Role

__all__ = ["TOLERANCE", "Change", "changes", "committed", "of_machine"]

#: The largest loss of a ratio that is let through.
TOLERANCE = 0.2


@dataclass(frozen=True)
class Change:
    """What became of one of the project's own cases.

    Attributes:
        group: the name of the group.
        case: the name of the case.
        factor: its new speed over its old one, as its yardsticks see it; None if it was measured
            then and is not any more.
        yardsticks: how many there were.
    """

    group: str
    case: str
    factor: float | None
    yardsticks: int

    def lost(self, tolerance: float = TOLERANCE) -> bool:
        """Whether more speed was lost than is let through."""
        return self.factor is None or self.factor < 1 - tolerance

    def __str__(self) -> str:
        if self.factor is None:
            return f"{self.group}: {self.case} is not measured any more"
        word = "slower" if self.factor < 1 else "faster"
        return (
            f"{self.group}: {self.case} {self.factor:.2f} times as fast as it was ({word}), "
            f"by {self.yardsticks} ratios"
        )


def changes(old: Report, new: Report) -> list[Change]:
    """How the project's own cases changed, in the groups that both reports have.

    Times of different runs cannot be compared, ratios can. Each case of the project's own is held
    against all alternatives of its group, and against all limits but a goal in seconds; the median
    over these yardsticks says how it changed, so that one of them that was measured badly, or
    became faster itself, raises no alarm. The kinder of the two medians counts: where the memory of
    a shared machine is slow for a while, a copy is slow as well, but not what is busy with page
    faults or arithmetic. The medians of the samples are compared and their lower quartiles, and the
    kinder counts again: a call that finds its memory at hand in some samples and not in others has
    no one median.
    """
    before = {(group.workload, group.name): group for group in old.groups}
    found = []
    for group in new.groups:
        was = before.get((group.workload, group.name))
        if was is not None:
            own = [c for c in was.cases if c.role is Role.OURS and not c.skipped]
            found += [change for case in own if (change := _change(was, group, case)) is not None]
    return found


def _change(was: Group, now: Group, case: CaseResult) -> Change | None:
    """What became of one case; None if nothing can be said."""
    again = now.case(case.name)
    if again is None:
        return Change(now.name, case.name, None, 0)
    yardsticks = [
        (yardstick, same)
        for yardstick in was.cases
        if yardstick.role is not Role.OURS
        and yardstick.name != GOAL
        and not yardstick.skipped
        and (same := now.case(yardstick.name)) is not None
    ]
    if not yardsticks:
        return None
    factors: dict[tuple[Role, str], list[float]] = {}
    for yardstick, same in yardsticks:
        for which in ("median", "low"):
            then, after = (getattr(c, which) for c in (yardstick, same))
            factor = (after / getattr(again, which)) / (then / getattr(case, which))
            factors.setdefault((yardstick.role, which), []).append(factor)
    kinder = max(map(statistics.median, factors.values()))
    return Change(now.name, case.name, kinder, len(yardsticks))


def committed(place: Path) -> dict[Path, Report]:
    """The reports that there are to compare with: a file, or all in a folder.

    Raises:
        OSError: one cannot be read.
        ValueError: there is none, or one is no report.
    """
    paths = [place] if not place.is_dir() else sorted(place.rglob("bench.json"))
    if not paths:
        raise ValueError(f"{place} has no bench.json to compare with: there are none below it")
    return {path: Report.load(path) for path in paths}


def of_machine(found: Mapping[Path, Report], like: Report) -> tuple[Path, Report]:
    """Of these reports the one that is of this machine.

    Raises:
        ValueError: all are of others.
    """
    for path, report in found.items():
        if same_machine(report, like):
            return path, report
    others = "; ".join(f"{path} is of {describe(report.machine)}" for path, report in found.items())
    raise ValueError(
        f"there are no results of {describe(like.machine)}, and ratios of other machines say "
        f"nothing about this one ({others}): measure the version to compare with here, by "
        "gradmix bench --out FOLDER"
    )
