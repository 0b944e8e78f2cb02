"""Measuring the package against what users would take otherwise: what `gradmix bench` does.

The workloads with their alternatives are files of their own (``benchmarks/`` in a checkout); here
is how they are run, timed, compared and shown.
"""

from gradmix_ext.bench.results import CaseResult, Ceiling, Group, Report
from gradmix_ext.bench.workload import Case, Missing, Role, Setting, Target, Timed, Workload

__all__ = [
    "Case",
    "CaseResult",
    "Ceiling",
    "Group",
    "Missing",
    "Report",
    "Role",
    "Setting",
    "Target",
    "Timed",
    "Workload",
]
