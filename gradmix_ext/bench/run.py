"""Running the files of the workloads, each in a process of its own."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from gradmix_ext.bench.results import Report, group_of

__all__ = ["BenchFailed", "BenchInterrupted", "run_file"]

_POLL_SECONDS = 0.2
_TAIL = 15


class BenchFailed(RuntimeError):  # noqa: N818 - what it is
    """A file of workloads could not be measured to its end.

    Attributes:
        report: what had been measured.
    """

    def __init__(self, message: str, report: Report) -> None:
        super().__init__(message)
        self.report = report


class BenchInterrupted(BenchFailed):
    """The user has had enough."""


def run_file(
    path: Path, arguments: Sequence[str], progress: Callable[[str, dict[str, Any]], None]
) -> Report:
    """Measure one file in a process of its own.

    What one workload leaves behind (memory, threads, compiled code) cannot disturb the next then,
    and one that is killed for want of memory takes nothing with it.

    Args:
        path: the file.
        arguments: options of ``python -m gradmix_ext.bench``.
        progress: called with the name and the content of each event.

    Raises:
        BenchFailed: it did not come to its end; `BenchInterrupted` if the user ended it.
    """
    report = Report({})
    failure = ""
    with tempfile.TemporaryDirectory() as scratch:
        events, log = Path(scratch, "events.jsonl"), Path(scratch, "log.txt")
        events.touch()
        command = [sys.executable, "-m", "gradmix_ext.bench", str(path), str(events), *arguments]
        with (
            log.open("w") as output,
            subprocess.Popen(command, stdout=output, stderr=subprocess.STDOUT) as process,
        ):
            try:
                for event in _followed(events, process):
                    kind = event.pop("event")
                    if kind == "machine":
                        report = Report(event["machine"], report.groups)
                    elif kind == "group":
                        event["group"] = group = group_of(event["group"])
                        report = Report(report.machine, (*report.groups, group))
                    elif kind == "failed":
                        failure = event["text"]
                    progress(kind, event)
            except BaseException as error:
                process.kill()  # not to go on measuring when nobody waits
                if isinstance(error, KeyboardInterrupt):
                    raise BenchInterrupted("interrupted", report) from None
                raise
        if process.returncode:
            last = "\n".join(log.read_text(errors="replace").splitlines()[-_TAIL:])
            reason = failure or f"ended with status {process.returncode}: {last}"
            raise BenchFailed(f"{path.name}: {reason}", report)
    return report


def _followed(events: Path, process: subprocess.Popen[Any]) -> Iterator[dict[str, Any]]:
    """The events as they come, until the process has ended and all are read."""
    with events.open() as file:
        part = ""
        while True:
            ended = process.poll() is not None
            for line in file:
                part += line
                if part.endswith("\n"):
                    yield json.loads(part)
                    part = ""
            if ended:
                return
            time.sleep(_POLL_SECONDS)
