"""Run what only a GPU can show and write down what it showed; started by gpu_check.sh."""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import platform
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Callable
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
STEPS = ("tests", "benchmarks", "sanitizer")
# Seconds; together under 8 minutes, also where every step is cut off.
LIMITS = {
    "build": 90, "tests": 110, "benchmarks": 110,
    "memcheck": 50, "racecheck": 40, "synccheck": 30, "initcheck": 40,
}  # fmt: skip
SANITIZERS = ("memcheck", "racecheck", "synccheck", "initcheck")
GPU_TESTS = "tests/cuda/test_on_gpu.py"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=ROOT / "benchmarks" / "results")
    parser.add_argument("--skip", default="", help=f"steps to leave out, of {','.join(STEPS)}")
    options = parser.parse_args()
    skipped = [name for name in options.skip.split(",") if name]
    if unknown := sorted(set(skipped) - set(STEPS)):
        parser.error(f"--skip: no step {', '.join(unknown)}; there are {', '.join(STEPS)}")
    if reason := why_not():
        print(f"gpu_check: {reason}", file=sys.stderr)
        return 2

    report: dict[str, Any] = {"machine": machine(), "steps": {}}
    options.out.mkdir(parents=True, exist_ok=True)
    for name in ("build", *STEPS):  # of an earlier run
        (options.out / f"{name}.log").unlink(missing_ok=True)
    steps = {"build": build, "tests": tests, "benchmarks": benchmarks, "sanitizer": sanitizer}
    with tempfile.TemporaryDirectory() as folder:
        for name, step in steps.items():
            if name in skipped:
                continue
            run_step(report, name, step, Path(folder), options.out)
            path = write(report, options.out)  # what there is, should the next step be the last
            if report["steps"]["build"]["result"] != "passed":
                break
    print(path.with_suffix(".md").read_text())
    return 0 if all(s["result"] != "failed" for s in report["steps"].values()) else 1


def why_not() -> str:
    """Why this cannot run here, in one line; empty if it can."""
    try:
        import torch
    except ImportError as error:
        return f"no PyTorch in {sys.executable}: {error}"
    if torch.version.cuda is None:
        return f"PyTorch {torch.__version__} is a build without CUDA"
    if not torch.cuda.is_available():
        return (
            f"no GPU: PyTorch {torch.__version__} (CUDA {torch.version.cuda}) sees no CUDA device"
        )
    return ""


def output_of(*command: str) -> str:
    """The first line that a program prints, empty if it is missing or fails."""
    if shutil.which(command[0]) is None:
        return ""
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, check=False, cwd=ROOT, timeout=20
        )
    except subprocess.TimeoutExpired:
        return ""
    lines = done.stdout.strip().splitlines()
    return lines[0].strip() if done.returncode == 0 and lines else ""


def machine() -> dict[str, Any]:
    import torch

    device = torch.cuda.get_device_properties(0)
    changed = output_of("git", "status", "--porcelain", "--untracked-files=no")
    commit = output_of("git", "rev-parse", "HEAD") or "unknown (not a git checkout)"
    return {
        "gpu": device.name,
        "compute_capability": f"{device.major}.{device.minor}",
        "multiprocessors": device.multi_processor_count,
        "memory_GiB": round(device.total_memory / 2**30, 1),
        "driver": output_of("nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"),
        "torch": str(torch.__version__),
        "cuda": torch.version.cuda,
        "python": platform.python_version(),
        "commit": commit + (" with changes" if changed else ""),
        "date": datetime.now(timezone.utc).strftime("%Y-%m-%d %H:%M UTC"),
    }


def run_step(
    report: dict[str, Any],
    name: str,
    step: Callable[[Path, Path], dict[str, Any]],
    scratch: Path,
    out: Path,
) -> None:
    print(f"gpu_check: {name} ...", file=sys.stderr, flush=True)
    started = time.monotonic()
    try:
        result = step(scratch, out)
    except Exception:  # in a script that has not seen this machine: the other steps go on
        result = {"result": "failed", "summary": "", "output": traceback.format_exc()}
    result["seconds"] = round(time.monotonic() - started, 1)
    report["steps"][name] = result
    summary = f"{result['result']} in {result['seconds']} s: {result.get('summary', '')}"
    print(f"gpu_check: {name} {summary}", file=sys.stderr)
    if result["result"] == "failed":
        print(result.get("output", ""), file=sys.stderr, flush=True)


def run(
    command: list[str], limit: float, scratch: Path, log: Path, **more_settings: str
) -> tuple[int, str]:
    """Exit status (124 when cut off) and output of a program in the environment of the checks.

    The output also goes to the end of the file `log`, as it comes.
    """
    import torch

    major, minor = torch.cuda.get_device_capability()
    settings = {
        "PYTHONPATH": os.pathsep.join(filter(None, (str(ROOT), os.environ.get("PYTHONPATH")))),
        "PYTHONUNBUFFERED": "1",
        "GRADMIX_EXT_BACKEND": "cuda",
        "GRADMIX_EXT_CACHE": str(scratch / "libraries"),
        # this GPU alone: half the compilation
        "TORCH_CUDA_ARCH_LIST": f"{major}.{minor}",
        # without it cuBLAS refuses to run under torch.use_deterministic_algorithms(True)
        "CUBLAS_WORKSPACE_CONFIG": ":4096:8",
        **more_settings,
    }
    with log.open("ab") as file:
        file.write(f"$ {' '.join(command)}\n".encode())
        file.flush()
        start = file.tell()
        process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=file, stderr=subprocess.STDOUT, cwd=ROOT,
            env={**os.environ, **settings}, start_new_session=True,
        )  # fmt: skip
        try:
            status = process.wait(limit)
        except subprocess.TimeoutExpired:
            status = 124
            process.send_signal(signal.SIGINT)  # pytest says what it found so far
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(5)
        finally:
            with contextlib.suppress(ProcessLookupError):  # also what the program left running
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
    with log.open("rb") as file:
        file.seek(start)
        return status, file.read().decode(errors="replace")


def outcome(code: int, output: str, limit: int, summary: str) -> dict[str, Any]:
    if code == 124:
        summary = f"cut off after {limit} s; {summary}"
    passed = code == 0
    kept = {} if passed else {"output": output[-4000:]}
    return {"result": "passed" if passed else "failed", "summary": summary, **kept}


def last_line(output: str) -> str:
    return (output.strip().splitlines()[-1:] or [""])[0].strip("= ")


def build(scratch: Path, out: Path) -> dict[str, Any]:
    code = "from gradmix_ext import loader; b = loader.build(cuda=True); print(b.origin, b.seconds)"
    status, output = run(
        [sys.executable, "-c", code], LIMITS["build"], scratch, out / "build.log",
        GRADMIX_EXT_VERBOSE="1",
    )  # fmt: skip
    return outcome(status, output, LIMITS["build"], last_line(output))


def tests(scratch: Path, out: Path) -> dict[str, Any]:
    try:
        import pytest  # noqa: F401
    except ImportError:
        return {"result": "skipped", "summary": "pytest is not installed"}
    # The options in pyproject.toml need plugins that may be missing here.
    command = [
        sys.executable, "-m", "pytest", GPU_TESTS, "-v", "--tb=short", "--durations=10",
        "-o", "addopts=-ra", "-o", "console_output_style=classic", "-p", "no:cacheprovider",
        "-p", "no:randomly",
    ]  # fmt: skip
    # A line of `pytest -v`; the result is missing where the process ended within the test.
    line = re.compile(
        rf"^({re.escape(GPU_TESTS)}::.+?) *(?: (PASSED|FAILED|ERROR|SKIPPED).*)?$", re.MULTILINE
    )
    results: dict[str, str] = {}
    outputs: list[str] = []
    deadline = time.monotonic() + LIMITS["tests"]
    # A kernel that goes wrong can take the device from its process: another one does the rest.
    while True:
        done = [word for name in results for word in ("--deselect", name)]
        left = max(deadline - time.monotonic(), 1)
        status, output = run([*command, *done], left, scratch, out / "tests.log")
        outputs.append(output[-3000:])
        found = {name: result or "ENDED IT" for name, result in line.findall(output)}
        finished = status in (0, 1, 5, 124) or found.keys() <= results.keys()
        results |= found
        if finished:
            break
    counted = Counter(results.values())
    summary = ", ".join(f"{count} {kind.lower()}" for kind, count in sorted(counted.items()))
    if len(outputs) > 1:
        summary += f"; {len(outputs)} processes"
    if status != 124 and (len(outputs) > 1 or set(results.values()) - {"PASSED", "SKIPPED"}):
        status = 1
    return outcome(status, "\n".join(outputs[-3:]), LIMITS["tests"], summary)


def sanitizer(scratch: Path, out: Path) -> dict[str, Any]:
    program = shutil.which("compute-sanitizer")
    if program is None:
        return {"result": "skipped", "summary": "compute-sanitizer is not on PATH"}
    calls = [sys.executable, str(ROOT / "benchmarks" / "gpu_cases.py"), "--calls"]
    known = subprocess.run([program, "--help"], capture_output=True, text=True, check=False).stdout
    found: list[str] = []
    result: dict[str, Any] = {"result": "passed"}
    for tool in SANITIZERS:
        # What other kernels write has to be seen by initcheck; the rest is not ours to check.
        chosen = ["--kernel-name", "kns=gradmix"] if "--kernel-name" in known else []
        chosen = [] if tool == "initcheck" else chosen
        status, output = run(
            [program, "--tool", tool, "--error-exitcode", "9", *chosen, *calls],
            LIMITS[tool], scratch, out / "sanitizer.log",
            # Each tensor an allocation of its own: within a pool no access is out of bounds, and
            # memory that was used before is no longer uninitialised.
            PYTORCH_NO_CUDA_MEMORY_CACHING="1",
        )  # fmt: skip
        last = re.findall(r"(?:ERROR|RACECHECK) SUMMARY: (.*)", output)
        if "Device not supported" in output:
            found.append(f"{tool}: refused by this machine (device not supported)")
            continue
        if status == 9 and tool == "initcheck" and not re.search(r"=+ +at .*gradmix", output):
            status = 0
            last.append(f"none in kernels of gradmix_ext ({last[-1] if last else 'no summary'})")
        one = outcome(status, output, LIMITS[tool], last[-1] if last else f"exit status {status}")
        found.append(f"{tool}: {one['summary']}")
        if one["result"] == "failed":
            result = {"result": "failed", "output": result.get("output", "") + one["output"]}
    return {**result, "summary": "; ".join(found)}


def benchmarks(scratch: Path, out: Path) -> dict[str, Any]:
    table = scratch / "benchmarks.json"
    command = [sys.executable, str(ROOT / "benchmarks" / "gpu_cases.py"), "--json", str(table)]
    status, output = run(command, LIMITS["benchmarks"], scratch, out / "benchmarks.log")
    # What was measured before it was cut off counts: the file grows case by case.
    measured = json.loads(table.read_text()) if table.exists() else []
    result = outcome(status, output, LIMITS["benchmarks"], f"{len(measured)} cases")
    return {**result, "cases": measured}


def write(report: dict[str, Any], folder: Path) -> Path:
    facts = report["machine"]
    name = re.sub(r"[^a-z0-9]+", "-", facts["gpu"].lower()).strip("-")
    path = folder / f"gpu-{name}.json"
    path.write_text(json.dumps(report, indent=2) + "\n")
    lines = [f"# {facts['gpu']}, {facts['date']}", ""]
    lines += [
        f"Driver {facts['driver']}, torch {facts['torch']}, CUDA {facts['cuda']}, Python "
        f"{facts['python']}, commit {facts['commit']}.",
        "", "| step | result | seconds | |", "| --- | --- | ---: | --- |",
    ]  # fmt: skip
    for step, result in report["steps"].items():
        row = (step, result["result"], result["seconds"], result.get("summary", ""))
        lines.append(f"| {' | '.join(map(str, row))} |")
    cases = report["steps"].get("benchmarks", {}).get("cases", [])
    if cases:
        lines += [
            "",
            "Microseconds of the GPU, median (20 % to 80 %), caches flushed before each call; "
            "ratio to gradmix_ext; microseconds until the call returns; error against float64, "
            "relative to the largest element.", "",
            "| workload | case | µs | ratio | to call it | GB/s | TFLOP/s | error |",
            "| --- | --- | ---: | ---: | ---: | ---: | ---: | ---: |",
        ]  # fmt: skip
        own = {c["workload"]: c["us"][1] for c in cases if c["case"] == "gradmix_ext"}
        for case in cases:
            low, middle, high = case["us"]
            base = own.get(case["workload"])
            lines.append(
                f"| {case['workload']} | {case['case']} | {middle:.1f} ({low:.1f}-{high:.1f}) | "
                f"{f'{middle / base:.2f}' if base else ''} | {case['host_us']:.0f} | "
                f"{case.get('GB_per_s', '')} | "
                f"{case.get('TFLOP_per_s', '')} | {case.get('error', '')} |"
            )
    path.with_suffix(".md").write_text("\n".join(lines) + "\n")
    return path


if __name__ == "__main__":
    sys.exit(main())
