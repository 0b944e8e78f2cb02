"""A small workload, measured without touching a clock, and reports made of numbers."""

from __future__ import annotations

import pytest

from gradmix_ext.bench import CaseResult, Ceiling, Group, Report, Role, Target

MACHINE = {
    "device": "cpu",
    "cpu": "some CPU",
    "gpu": "",
    "threads": 2,
    "simd": "avx512",
    "torch": "2.14",
    "backend": "cpp",
    "python": "3.11",
    "memory_GiB": 24,
    "peers": {"timm": "1.0"},
}


@pytest.fixture
def make_group():
    """A group: ours, an alternative and a limit with these times."""

    def make(name="class_gram small", ours=1.0, other=4.0, limit=0.5, **values):
        cases = (
            CaseResult("gradmix_ext", Role.OURS, ours, ours, ours, 5, 1, 1_000_000, 1e-7),
            CaseResult("formula", Role.ALTERNATIVE, other, other, other, 5, 1, 9_000_000, 1e-7),
            CaseResult("opacus", Role.ALTERNATIVE, skipped="opacus is not installed"),
            CaseResult("limit: GEMM", Role.LIMIT, limit, limit, limit, 5, 1),
        )
        target = Target("formula", 3.0)
        return Group(
            "P1", "class_gram", name, cases, moved=8e9, flops=16e9, targets=(target,),
            ceilings=(Ceiling("copy of 1 MiB", "bytes", 2e10), Ceiling("product", "flops", 2e11)),
            date="2026-01-01", commit="abc", **values,
        )  # fmt: skip

    return make


@pytest.fixture
def make_report(make_group):
    """A report of some groups."""

    def make(*groups):
        return Report(dict(MACHINE), groups or (make_group(),))

    return make
