"""Where the workloads are, and reading them."""

from __future__ import annotations

import importlib
import re
import sys
from pathlib import Path

from gradmix_ext.bench.workload import Workload

__all__ = ["SCALING", "benchmarks_folder", "files", "load"]

SCALING = "scaling"
_FILE = re.compile(r"bench_(p\d+)_\w+\.py")


def benchmarks_folder() -> Path:
    """Where the files of the workloads are.

    They are no part of the package: they import other projects. A wheel carries them as
    ``gradmix_ext/_benchmarks``, a checkout has them beside the package.

    Raises:
        FileNotFoundError: they are in neither place.
    """
    package = Path(__file__).resolve().parents[1]
    for folder in (package / "_benchmarks", package.parent / "benchmarks"):
        if any(folder.glob("bench_p*_*.py")):
            return folder
    raise FileNotFoundError(
        f"no benchmarks in {package / '_benchmarks'} nor {package.parent / 'benchmarks'}: install "
        "gradmix_ext from a wheel, or run from a checkout (pip install -e .)"
    )


def files(folder: Path) -> dict[str, Path]:
    """The file of each workload, P1 to P7 and ``"scaling"``."""
    found = {}
    for path in sorted(folder.glob("bench_p*_*.py")):
        match = _FILE.fullmatch(path.name)
        if match:
            found[match[1].upper()] = path
    if (folder / f"{SCALING}.py").exists():
        found[SCALING] = folder / f"{SCALING}.py"
    return found


def load(path: Path) -> tuple[Workload, ...]:
    """The workloads of a file.

    Raises:
        TypeError: the file has none.
    """
    folder = str(path.parent)
    if folder not in sys.path:  # its files import one another
        sys.path.insert(0, folder)
    found = getattr(importlib.import_module(path.stem), "WORKLOADS", None)
    if not isinstance(found, tuple) or not all(isinstance(each, Workload) for each in found):
        raise TypeError(f"{path} has no tuple WORKLOADS")
    return found
