"""What was measured, and the file that keeps it."""

from __future__ import annotations

import json
import statistics
from collections.abc import Collection, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from gradmix_ext.bench.workload import Role, Target
from gradmix_ext.continual.files import replaced

__all__ = ["FORMAT", "CaseResult", "Ceiling", "Group", "Report", "same_machine"]

FORMAT = "gradmix_ext bench 1"
# What two reports must share for their ratios to be comparable.
_MACHINE = ("device", "cpu", "gpu", "threads", "simd")


@dataclass(frozen=True)
class CaseResult:
    """One way to do the work, as measured.

    Attributes:
        name: of the case.
        role: why it is there.
        median, low, high: seconds of a call; the middle and the quartiles of the samples.
        rounds: samples.
        iterations: calls that a sample is the mean of.
        peak_bytes: memory that a call takes, its result included; None if that is unknown.
        error: against the reference in float64, relative to its largest element; None for limits.
        skipped: why it was not measured; empty if it was.
        samples: the seconds themselves; not kept in files.
    """

    name: str
    role: Role
    median: float = 0.0
    low: float = 0.0
    high: float = 0.0
    rounds: int = 0
    iterations: int = 0
    peak_bytes: int | None = None
    error: float | None = None
    skipped: str = ""
    samples: tuple[float, ...] = field(default=(), compare=False, repr=False)

    def timed(self, samples: Sequence[float], iterations: int) -> CaseResult:
        """The same with its times."""
        ordered = sorted(samples)
        quarter = len(ordered) // 4
        return replace(
            self,
            median=_rounded(statistics.median(ordered)),
            low=_rounded(ordered[quarter]),
            high=_rounded(ordered[-1 - quarter]),
            rounds=len(ordered),
            iterations=iterations,
            samples=tuple(samples),
        )


@dataclass(frozen=True)
class Ceiling:
    """What the machine reaches.

    Attributes:
        name: what was run.
        kind: ``"bytes"`` or ``"flops"``.
        rate: so many of them a second.
    """

    name: str
    kind: str
    rate: float


@dataclass(frozen=True)
class Group:
    """The cases of one workload at one setting, which were timed in turn.

    Attributes:
        workload: P1 to P7, or ``"scaling"``.
        op: what is measured.
        name: `op` and the setting.
        cases: in the order of the tables.
        moved: bytes that the work has to read and write at least; 0 where this says nothing.
        flops: floating-point operations that it needs at least.
        axis: what the setting is a point of, in a scaling curve.
        at: where on it.
        targets: goals that hold here.
        ceilings: what the machine reached, timed in turn with the cases.
        date: of the measurement.
        commit: of the source.
    """

    workload: str
    op: str
    name: str
    cases: tuple[CaseResult, ...]
    moved: float = 0.0
    flops: float = 0.0
    axis: str = ""
    at: float = 0.0
    targets: tuple[Target, ...] = ()
    ceilings: tuple[Ceiling, ...] = ()
    date: str = ""
    commit: str = ""

    def case(self, name: str) -> CaseResult | None:
        """The case of that name, if it was measured."""
        return next((c for c in self.cases if c.name == name and not c.skipped), None)

    @property
    def base(self) -> CaseResult | None:
        """The first of the project's own cases: ratios are formed with its time."""
        return next((c for c in self.cases if c.role is Role.OURS and not c.skipped), None)

    def ratio(self, case: CaseResult, base: CaseResult | None = None) -> float | None:
        """How many times as long as `base` a case takes."""
        base = base or self.base
        if base is None or case.skipped or not base.median:
            return None
        return case.median / base.median


@dataclass(frozen=True)
class Report:
    """All that was measured on one machine.

    Attributes:
        machine: facts about it, and versions.
        groups: what was measured.
    """

    machine: dict[str, Any]
    groups: tuple[Group, ...] = ()

    @property
    def ceilings(self) -> tuple[Ceiling, ...]:
        """The best of each of the machine's limits over all groups."""
        best: dict[str, Ceiling] = {}
        for ceiling in (each for group in self.groups for each in group.ceilings):
            if ceiling.name not in best or best[ceiling.name].rate < ceiling.rate:
                best[ceiling.name] = ceiling
        return tuple(best.values())

    def merged(self, newer: Report, whole: Collection[str] = ()) -> Report:
        """Both, where a group that was measured again replaces the older one.

        Args:
            newer: what was measured now.
            whole: workloads of which all was measured, so that nothing older of them stays.

        Raises:
            ValueError: they are of different machines or versions.
        """
        for key in (*_MACHINE, "torch"):
            if self.machine.get(key) != newer.machine.get(key):
                raise ValueError(
                    f"{key} was {self.machine.get(key)!r} and is now {newer.machine.get(key)!r}: "
                    "write to another folder"
                )
        kept = (group for group in self.groups if group.workload not in whole)
        groups = {(group.workload, group.name): group for group in kept}
        groups.update({(group.workload, group.name): group for group in newer.groups})
        ordered = sorted(groups.values(), key=lambda group: group.workload)
        load = max(self.machine.get("load", 0.0), newer.machine.get("load", 0.0))
        return Report({**newer.machine, "load": load}, tuple(ordered))

    def save(self, path: Path) -> None:
        """Write it as JSON; :meth:`load` reads it.

        Raises:
            OSError: the file cannot be written.
        """
        values = {"format": FORMAT, **asdict(self)}
        for group in values["groups"]:
            for case in group["cases"]:
                del case["samples"]
        with replaced(path) as file:
            file.write_text(json.dumps(values, indent=1) + "\n")

    @classmethod
    def load(cls, path: Path) -> Report:
        """Read what :meth:`save` wrote.

        Raises:
            OSError: there is no such file.
            ValueError: it holds something else; the message names the file and what is wrong.
        """
        try:
            values = json.loads(path.read_text())
            if not isinstance(values, dict) or values.get("format") != FORMAT:
                raise ValueError(f"its format is not '{FORMAT}'")
            return cls(
                machine=dict(values["machine"]),
                groups=tuple(map(group_of, values["groups"])),
            )
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            reason = f"no {error}" if isinstance(error, KeyError) else str(error)
            raise ValueError(f"{path} is not a result of gradmix bench: {reason}") from error


def group_of(values: dict[str, Any]) -> Group:
    """A group from its JSON.

    Raises:
        KeyError: a part is missing.
        TypeError: a part is unknown or of another type.
        ValueError: a value makes no sense.
    """
    cases = []
    for each in values["cases"]:
        case = _made(CaseResult, {**each, "role": Role(each["role"])})
        numbers = (case.median, case.low, case.high)
        if any(not isinstance(number, (int, float)) or number < 0 for number in numbers):
            raise ValueError(f"times of '{case.name}' are {numbers}")
        if not case.skipped and not case.median:
            raise ValueError(f"'{case.name}' has neither a time nor a reason for having none")
        cases.append(case)
    targets = tuple(
        _made(Target, {**each, "settings": tuple(each["settings"])}) for each in values["targets"]
    )
    ceilings = tuple(_made(Ceiling, each) for each in values["ceilings"])
    parts = {"cases": tuple(cases), "targets": targets, "ceilings": ceilings}
    made: Group = _made(Group, {**values, **parts})
    return made


def same_machine(one: Report, other: Report) -> bool:
    """Whether ratios of two reports may be compared."""
    return all(one.machine.get(key) == other.machine.get(key) for key in _MACHINE)


def busy(machine: dict[str, Any]) -> str:
    """A sentence if others used the machine meanwhile, else nothing."""
    load, cores = machine.get("load", 0.0), machine.get("cores", 1)
    if load <= 1.5 * cores:
        return ""
    return (
        f"Others used the machine: {load:g} processes for {cores} cores. These are provisional "
        "numbers, of which even ratios may be off.\n"
    )


def describe(machine: dict[str, Any]) -> str:
    """One line on where something was measured."""
    where = machine.get("gpu") or f"{machine.get('cpu')}, {machine.get('simd')}"
    threads = machine.get("threads")
    return (
        f"{where}, {threads} thread{'' if threads == 1 else 's'}, PyTorch {machine.get('torch')}, "
        f"{machine.get('backend')} kernels"
    )


def _made(kind: Any, values: dict[str, Any]) -> Any:
    return kind(**values)


def _rounded(seconds: float) -> float:
    return float(f"{seconds:.4g}")
