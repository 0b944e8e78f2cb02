"""Compile one variant of the library into the cache, through torch.utils.cpp_extension.

The compilation runs in a process of its own: what PyTorch's build reads from the environment
(CUDA_HOME, MAX_JOBS, CXX) is set there and nowhere else, all output lands in one log, and the new
library is loaded there once before anybody is given it.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import platform
import re
import shlex
import shutil
import signal
import subprocess
import sys
import sysconfig
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gradmix_ext._version import __version__
from gradmix_ext.loader.cache import LIBRARY, Cache, Entry
from gradmix_ext.loader.recipe import PRECOMPILED_HEADER, Recipe, pybind11_folder
from gradmix_ext.loader.toolchain import (
    Nvcc,
    Tool,
    ToolchainError,
    build_jobs,
    find_cxx,
    find_ninja,
    find_nvcc,
    missing_header,
)

__all__ = ["BuildError", "Plan", "compile_library", "make_plan", "say"]

# The header is compiled while PyTorch is imported, which keeps one core busy. Where that fails, or
# with a compiler that does not look for it (clang), the sources read the header itself. A builder
# that is killed cannot end what works for it.
_WORKER = """
import json, os, signal, subprocess, sys, threading, time
job = json.load(sys.stdin)
builder = job.pop("builder")
def end_with_builder():
    while os.getppid() == builder:
        time.sleep(0.5)
    os.killpg(0, signal.SIGTERM)
threading.Thread(target=end_with_builder, daemon=True).start()
*command, result = job.pop("header")
header = subprocess.Popen([*command, result], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
from torch.utils import cpp_extension
if header.wait() and os.path.exists(result):
    os.remove(result)
cpp_extension.load(**job)
"""
# Failures that say nothing about the sources or the compiler: they are not remembered.
_PASSING_TROUBLE = (
    (re.compile(r"No space left on device|Disk quota exceeded"), "the disk is full"),
    (
        re.compile(r"Killed signal|: Killed|out of memory", re.IGNORECASE),
        "the compiler was killed, probably for want of memory (MAX_JOBS=1 needs the least)",
    ),
)
# The linker names the symbol in lines that do not say "error"; the compiler's driver then does.
_LINK_ERROR = re.compile(r"^.*\b(?:undefined reference|multiple definition)\b.*$", re.MULTILINE)
_FIRST_ERROR = re.compile(r"^.*\berror\b.*$|^\w*Error: .*$", re.MULTILINE | re.IGNORECASE)
# Seconds for one core, measured on a 2-core machine with g++ 12 and nvcc 13.0.
_SECONDS = {"start": 4.0, ".cpp": 1.7, ".cu": 4.0}


class BuildError(RuntimeError):
    """The library could not be built.

    Attributes:
        log: the whole output of the build, when it got that far.
    """

    def __init__(self, reason: str, log: Path | None = None) -> None:
        super().__init__(reason)
        self.log = log


@dataclass(frozen=True)
class Plan:
    """A recipe together with the programs to carry it out and the key of the result."""

    recipe: Recipe
    key: str
    record: dict[str, Any]
    cxx: Tool | None
    ninja: Tool | None
    nvcc: Nvcc | None
    missing: str

    def first_difference(self, other: dict[str, Any]) -> str:
        """Name what changed since the build of which `other` is the record."""
        changes = [
            f"{name} ({other[name]} -> {value})" if len(f"{value}") < 60 else name
            for name, value in self.record.items()
            if name in other and other[name] != value
        ]
        return ", ".join(changes)


def make_plan(recipe: Recipe) -> Plan:
    """Find the programs that `recipe` needs and name the result by all that decides it.

    What is missing is noted in `Plan.missing`; without a compiler the key is that of none.
    """
    import torch

    tools: dict[str, Any] = {"cxx": None, "ninja": None, "nvcc": None}
    finders = {"cxx": find_cxx, "ninja": find_ninja}
    if recipe.cuda:
        finders["nvcc"] = find_nvcc
    missing = ""
    for name, find in finders.items():
        try:
            tools[name] = find()
        except ToolchainError as error:  # noqa: PERF203 - three programs
            missing = missing or str(error)
    missing = missing or missing_header() or _unspeakable(recipe.csrc)
    content = {
        "package": __version__,
        "torch": str(torch.__version__),
        "python": f"{platform.python_implementation()} {sysconfig.get_config_var('SOABI')}",
        "flags": " ".join(recipe.flags),
        "archs": recipe.cuda_archs,
        "sources": recipe.sources_hash,
    }
    toolchain = {name: tools[name].version for name in ("cxx", "nvcc") if tools[name] is not None}
    key = f"{recipe.variant}-{_digest(content, 16)}-{_digest(toolchain, 8)}"
    return Plan(recipe, key, {**content, **toolchain}, **tools, missing=missing)


def _unspeakable(csrc: Path) -> str:
    """Why the build cannot be told of a folder; ``""`` if it can.

    PyTorch writes the names of sources, and in flags its own, into ninja's file without escaping
    what means something there. A quote ends the name in the line that includes the header.
    """
    import torch

    for folder, characters in ((csrc, '$:|"'), (Path(torch.__file__).parent, "$")):
        for character in characters:
            if character in str(folder):
                return f"ninja cannot build with {folder}: its name holds {character}"
    return ""


def _digest(fields: dict[str, str], length: int) -> str:
    return hashlib.sha256(json.dumps(fields, sort_keys=True).encode()).hexdigest()[:length]


def say(text: str) -> None:
    """Tell the user something on standard error."""
    if sys.stderr is not None:  # it is None in a process without a console
        print(f"[gradmix_ext] {text}", file=sys.stderr, flush=True)


def compile_library(plan: Plan, cache: Cache) -> Entry:
    """Build `plan` and publish the result in `cache`; the caller holds the lock of its key.

    Raises:
        BuildError: with the first error and the path of the whole log.
        OSError: the cache cannot be written.
    """
    jobs = build_jobs(len(plan.recipe.sources), plan.recipe.cuda)
    _announce(plan, cache, jobs)
    started = time.monotonic()
    folder = cache.new_folder(plan.key)
    try:
        code = _run_worker(plan, folder, jobs)
        seconds = round(time.monotonic() - started, 1)
        if code != 0 or not (folder / LIBRARY).is_file():
            raise _failure(plan, cache, folder, code)
        for path in folder.iterdir():
            if path.name not in (LIBRARY, "build.log"):
                path.unlink() if not path.is_dir() else shutil.rmtree(path)
        entry = cache.publish(folder, plan.key, {**plan.record, "seconds": seconds})
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    say(f"compiled in {seconds:.0f} s")
    return entry


def _announce(plan: Plan, cache: Cache, jobs: int) -> None:
    sources = plan.recipe.sources
    work = sum(_SECONDS[source.suffix] for source in sources)
    estimate = _SECONDS["start"] + work / jobs
    earlier = [e for e in cache.entries() if e.folder.name.startswith(plan.recipe.variant)]
    changed = plan.first_difference(earlier[0].record) if earlier else ""
    say(
        f"compiling the {'C++ and CUDA' if plan.recipe.cuda else 'C++'} kernels"
        + (f" again, for a change of {changed}" if changed else ", once for this installation")
        + f": {len(sources)} files, {jobs} at a time, about {estimate:.0f} s, into {cache.folder} "
        "(GRADMIX_EXT_BACKEND=torch does without; GRADMIX_EXT_VERBOSE=1 shows the compiler)"
    )


def _run_worker(plan: Plan, folder: Path, jobs: int) -> int:
    import torch

    if plan.cxx is None or plan.ninja is None or (plan.recipe.cuda and plan.nvcc is None):
        raise BuildError(plan.missing)
    torch_folder = Path(torch.__file__).parent
    torch_lib = torch_folder / "lib"
    cudart = plan.nvcc.cudart_folder if plan.nvcc else None
    recipe = plan.recipe
    # Found before the header that it stands for, since the search begins in this folder.
    header = folder / PRECOMPILED_HEADER
    header.parent.mkdir()
    header.write_text(f'#include "{recipe.csrc / PRECOMPILED_HEADER}"\n')
    job = {
        "builder": os.getpid(),
        "header": [
            plan.cxx.path,
            *recipe.cxx_flags(),
            f"-I{recipe.csrc}",
            "-isystem",
            str(torch_folder / "include"),
            *("-x", "c++-header", str(header), "-o", f"{header}.gch"),
        ],
        "name": "_C",
        "sources": [str(source) for source in recipe.sources],
        "extra_cflags": [shlex.quote(flag) for flag in recipe.cxx_flags()],
        "extra_cuda_cflags": [shlex.quote(flag) for flag in recipe.nvcc_flags()],
        "extra_ldflags": [shlex.quote(flag) for flag in recipe.link_flags(str(torch_lib), cudart)],
        "extra_include_paths": [str(folder), str(recipe.csrc), *pybind11_folder()],
        "build_directory": str(folder),
        "with_cuda": recipe.cuda,
        "is_python_module": False,
        "verbose": True,
    }
    environment = {
        **os.environ,
        "CXX": plan.cxx.path,
        "MAX_JOBS": str(jobs),
        "PATH": os.pathsep.join([str(Path(plan.ninja.path).parent), os.environ.get("PATH", "")]),
        "PYTHONPATH": os.pathsep.join(path for path in sys.path if path),
        "TMPDIR": str(folder),  # of the compiler: the system's may be full or read-only
    }
    if plan.nvcc is not None:
        environment["CUDA_HOME"] = plan.nvcc.home
        environment["PYTORCH_NVCC"] = plan.nvcc.path
    with open(folder / "build.log", "w", encoding="utf-8") as log:
        log.write("".join(f"{name}: {value}\n" for name, value in plan.record.items()) + "\n")
        log.flush()
        worker = subprocess.Popen(
            [sys.executable, "-c", _WORKER],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            cwd=folder,
            env=environment,
            start_new_session=True,  # so that it can be ended together with ninja and compilers
        )
        assert worker.stdin is not None
        assert worker.stdout is not None
        try:
            with contextlib.suppress(BrokenPipeError), worker.stdin:
                json.dump(job, worker.stdin)  # to one that died early: its output tells why
            with worker.stdout:
                for line in worker.stdout:
                    log.write(line)
                    if os.environ.get("GRADMIX_EXT_VERBOSE") == "1":
                        say(line.rstrip())
            return worker.wait()
        finally:
            if worker.poll() is None:
                # Not SIGKILL: ninja gives each compiler a group of its own, and has to pass it on.
                os.killpg(worker.pid, signal.SIGTERM)
                worker.wait()


def _failure(plan: Plan, cache: Cache, folder: Path, code: int) -> BuildError:
    text = (folder / "build.log").read_text(errors="replace")
    free = shutil.disk_usage(folder).free
    for pattern, reason in _PASSING_TROUBLE:
        if pattern.search(text) or ("disk" in reason and free < 2**20):
            return BuildError(f"the compilation failed: {reason}; cache folder {cache.folder}")
    first = _LINK_ERROR.search(text) or _FIRST_ERROR.search(text)
    reason = first[0].strip() if first else f"exit code {code}"
    for path in folder.iterdir():
        if path.name != "build.log":
            path.unlink() if not path.is_dir() else shutil.rmtree(path)
    entry = cache.publish_failure(folder, plan.key, {**plan.record, "failed": reason})
    return BuildError(f"the compilation failed: {reason} (whole log: {entry.log})", entry.log)
