"""Measures the workloads of one file, in a process of its own: ``python -m gradmix_ext.bench``.

A line of JSON for everything that happens, so that whoever waits can show it, and so that what was
measured stays when the process is killed.
"""

from __future__ import annotations

import argparse
import json
import os
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from gradmix_ext import loader
from gradmix_ext.bench.discover import load
from gradmix_ext.bench.machine import commit_of, machine_facts
from gradmix_ext.bench.measure import Options, WrongResult, measure

QUICK_BUDGET, BUDGET = 0.4, 1.5


def main() -> int:
    """Measure and report; 0 done, 1 something is wrong."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("file", type=Path)
    parser.add_argument("events", type=Path)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--match", default="")
    parser.add_argument("--threads", type=int)
    given = parser.parse_args()

    parent = os.getppid()
    if given.threads:
        torch.set_num_threads(given.threads)
    with given.events.open("a") as file:

        def tell(event: str, **values: Any) -> None:
            if os.getppid() != parent:
                raise SystemExit("whoever waited for this has gone")
            file.write(json.dumps({"event": event, **values}) + "\n")
            file.flush()

        device = torch.device(given.device)
        status = loader.load()
        if status.active == "torch":
            # To time the fallback without saying so would be no benchmark.
            tell("failed", text=f"the compiled kernels are not there: {status.reason}")
            return 1
        budget = QUICK_BUDGET if given.quick else BUDGET
        options = Options(device, given.quick, budget, say=lambda text: tell("doing", text=text))
        workloads = [w for w in load(given.file) if device.type in w.devices]
        planned = [(w, s) for w in workloads for s in w.chosen(given.quick, given.match)]
        tell("planned", groups=len(planned))
        tell("machine", machine=machine_facts(device))
        commit = commit_of(given.file.parent)
        for workload, setting in planned:
            try:
                group = measure(workload, setting, options, commit)
            except WrongResult as error:
                tell("failed", text=str(error))
                return 1
            tell("group", group=asdict(group))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
