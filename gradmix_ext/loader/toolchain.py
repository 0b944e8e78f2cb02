"""Find the programs that build the library: C++ compiler, ninja, nvcc.

Only the standard library and no relative import: `setup.py` loads this file by its path.
"""

from __future__ import annotations

import importlib.util
import os
import re
import shutil
import subprocess
import sys
import sysconfig
from dataclasses import dataclass
from pathlib import Path

__all__ = [
    "Nvcc",
    "Tool",
    "ToolchainError",
    "build_jobs",
    "find_cxx",
    "find_ninja",
    "find_nvcc",
    "missing_header",
]

_GIB = 2**30


class ToolchainError(RuntimeError):
    """A program that the build needs is missing or does not run."""


@dataclass(frozen=True)
class Tool:
    """A program: its full path and the line that it prints about its version."""

    path: str
    version: str


@dataclass(frozen=True)
class Nvcc(Tool):
    """The CUDA compiler: major version, root of its toolkit, folder of libcudart_static.a."""

    major: int
    home: str
    cudart_folder: str


def find_cxx() -> Tool:
    """Find a C++ compiler that runs: `CXX`, else c++, g++ or clang++ on PATH.

    Raises:
        ToolchainError: there is none, or it does not run.
    """
    named = os.environ.get("CXX")
    for name in [named] if named else ["c++", "g++", "clang++"]:
        path = _which(name)
        if path is not None:
            return Tool(path, _run([path, "--version"]).splitlines()[0])
    if named:
        one = "; it must be one program without arguments" if " " in named else ""
        raise ToolchainError(f"CXX={named!r} is not a program on PATH{one}")
    raise ToolchainError(
        "no C++ compiler: none of c++, g++ and clang++ is on PATH and CXX is not set "
        "(on Debian or Ubuntu: apt-get install g++)"
    )


def find_ninja() -> Tool:
    """Find ninja: the one that was installed with this Python, else the one on PATH.

    A virtual environment that is used without being activated is not on PATH, so the folder of
    the scripts of this Python is searched as well.

    Raises:
        ToolchainError: there is none, or it does not run.
    """
    folders = [sysconfig.get_path("scripts"), str(Path(sys.executable).parent)]
    spec = importlib.util.find_spec("ninja")
    if spec is not None and spec.origin is not None:
        folders.append(str(Path(spec.origin).parent / "data" / "bin"))
    path = _which("ninja", os.pathsep.join(folders)) or _which("ninja")
    if path is None:
        raise ToolchainError("no ninja: pip install ninja")
    return Tool(path, _run([path, "--version"]).strip())


def find_nvcc() -> Nvcc:
    """Find nvcc and its toolkit, also where PyTorch itself knows of none.

    Looked for in `CUDA_HOME`, `CUDA_PATH`, PATH, /usr/local/cuda and the NVIDIA packages in
    site-packages.

    Raises:
        ToolchainError: there is none, it does not run, or its runtime library is missing.
    """
    homes = [os.environ.get("CUDA_HOME"), os.environ.get("CUDA_PATH")]
    candidates = [str(Path(home) / "bin" / "nvcc") for home in homes if home]
    candidates += [on_path] if (on_path := _which("nvcc")) else []
    candidates.append("/usr/local/cuda/bin/nvcc")
    nvidia = Path(sysconfig.get_path("purelib")) / "nvidia"
    candidates += map(str, sorted(nvidia.glob("cu*/bin/nvcc"), reverse=True))
    candidates += map(str, nvidia.glob("cuda_nvcc/bin/nvcc"))
    path = next((os.path.abspath(c) for c in candidates if os.access(c, os.X_OK)), None)
    if path is None:
        raise ToolchainError(
            "no nvcc: not in CUDA_HOME, on PATH, in /usr/local/cuda or among the NVIDIA packages "
            "of this Python"
        )
    said = _run([path, "--version"])
    release = re.search(r"^.*\brelease (\d+).*$", said, re.MULTILINE)
    if release is None:
        raise ToolchainError(f"{path} --version names no release: {said.strip()!r}")
    home = _toolkit_root(path)
    for folder in ("lib64", "lib", "targets/x86_64-linux/lib", "targets/sbsa-linux/lib"):
        if (home / folder / "libcudart_static.a").is_file():
            return Nvcc(path, release[0], int(release[1]), str(home), str(home / folder))
    raise ToolchainError(f"{path} has no libcudart_static.a below {home}")


def _which(name: str, path: str | None = None) -> str | None:
    """The full path of a program, since the build runs in another folder."""
    found = shutil.which(name, path=path)
    return os.path.abspath(found) if found is not None else None


def missing_header() -> str:
    """Say how to get Python's own headers; ``""`` if they are there."""
    # The scheme is PyTorch's: Debian's default one names a folder below /usr/local.
    own = sysconfig.get_path("include", scheme="posix_prefix")
    more = ":".join(os.environ.get(name, "") for name in ("CPATH", "CPLUS_INCLUDE_PATH"))
    if any(Path(folder, "Python.h").is_file() for folder in [own, *more.split(":")]):
        return ""
    return f"no Python.h in {own} (on Debian or Ubuntu: apt-get install python3-dev)"


def _toolkit_root(nvcc: str) -> Path:
    # The nvcc on PATH may be a link or a wrapper script; what it would run tells its real place.
    plan = subprocess.run(
        [nvcc, "-dryrun", "-E", "-x", "cu", os.devnull], capture_output=True, text=True, check=False
    ).stderr
    match = re.search(r"^#\$ TOP=(.*)$", plan, re.MULTILINE)
    return Path(match[1]).resolve() if match else Path(nvcc).resolve().parent.parent


def _run(command: list[str]) -> str:
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=60, check=False, errors="replace"
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise ToolchainError(f"{' '.join(command)} does not run: {error}") from error
    if done.returncode != 0 or not done.stdout.strip():
        said = (done.stderr or done.stdout).strip().splitlines()
        raise ToolchainError(
            f"{' '.join(command)} does not run: exit code {done.returncode}"
            + (f", {said[0]}" if said else "")
        )
    return done.stdout


def build_jobs(files: int, cuda: bool) -> int:
    """Choose how many files to compile at once: `MAX_JOBS`, else what cores and memory allow."""
    asked = os.environ.get("MAX_JOBS", "")
    if asked.isdigit() and int(asked) > 0:
        return int(asked)
    cores = len(os.sched_getaffinity(0))
    by_memory = _free_memory() / ((3 if cuda else 1) * _GIB)
    return max(1, int(min(files, cores, by_memory)))


def _free_memory() -> float:
    """Bytes of memory that this process may still use, by the machine's and the group's limit."""
    free = [float("inf")]
    try:
        match = re.search(r"^MemAvailable:\s+(\d+) kB", Path("/proc/meminfo").read_text(), re.M)
        free += [float(match[1]) * 1024] if match else []
    except OSError:
        pass  # no /proc: memory sets no limit
    group = Path("/sys/fs/cgroup")
    try:
        limit = (group / "memory.max").read_text().strip()
        if limit != "max":
            free.append(float(limit) - float((group / "memory.current").read_text()))
    except OSError:
        pass  # not in a control group
    return min(free)
