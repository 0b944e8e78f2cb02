"""Switch off the barriers of csrc/cuda one at a time and say which of them nobody would miss.

A program of its own, since a kernel without one of its barriers may also corrupt memory: each try
runs in a forked process. Prints one line of JSON: barriers tried, and those without which every
result was still right under every schedule.
"""

from __future__ import annotations

import json
import os
import re
import signal
import sys
from pathlib import Path

import torch

ROOT = Path(__file__).parents[2]
sys.path[:0] = [str(ROOT), str(ROOT / "tests" / "ops"), str(Path(__file__).parent)]

import special_cases  # noqa: E402
from checks import relative_error, truth  # noqa: E402
from emulation import CSRC, EmulatedOps  # noqa: E402
from samples import samples  # noqa: E402

import gradmix_ext  # noqa: E402, F401 - defines the ops

BARRIER = re.compile(r"__sync(threads|warp)\(\)")
SECONDS = 20


def barriers_in_sources() -> list[str]:
    """Every barrier in the sources, as ``file:line``."""
    return [
        f"{path.name}:{number}"
        for path in sorted((CSRC / "cuda").rglob("*"))
        if path.suffix in (".cu", ".h")
        for number, line in enumerate(path.read_text().splitlines(), 1)
        if BARRIER.search(line)
    ]


def cases() -> list:
    """Few samples, which between them reach every barrier and take several turns around loops."""
    sizes = ((130, 7, 37), (70, 3, 20))
    chosen = [
        *samples("class_gram", torch.float32, sizes),
        *samples("class_gradients", torch.float32, sizes[:1])[:2],
        *samples("draw_partners", torch.float32, ((140, 5, 1),))[-2:],
        *samples("mix_labels", torch.float32, ((600, 5, 1),))[:3],
        *samples("pair_preferences", torch.float32, ((1, 70, 1),))[:1],
        *special_cases.wide_samples("mixup_cross_entropy", torch.float32)[:4],
        *samples("mixup_cross_entropy", torch.float32, ((300, 3, 1),))[:2],
        *special_cases.wide_samples("pair_scores", torch.float32)[:1],
    ]
    return [(sample, truth(sample)) for sample in chosen]


def all_right(ops: EmulatedOps, every: list) -> bool:
    """Whether every result under every schedule is right."""
    for schedule in ("forward", "reverse", "random"):
        ops.schedule(schedule, 3)
        for sample, wants in every:
            try:
                got = getattr(ops, sample.op)(*sample.args, **sample.kwargs)
            except RuntimeError:  # the emulator reported a deadlock
                return False
            for out, want in zip(got if isinstance(got, tuple) else (got,), wants, strict=True):
                want = torch.as_tensor(want)
                if not want.is_floating_point():
                    if not torch.equal(out, want):
                        return False
                elif relative_error(out, want) > 1e-4:
                    return False
    return True


def right_in_a_fork(ops: EmulatedOps, every: list, barrier: str) -> bool:
    """The same without a barrier; a crash or an endless loop is not right either."""
    child = os.fork()
    if child == 0:
        signal.alarm(SECONDS)
        file, line = barrier.split(":")
        ops.skip_barrier(file, int(line))
        os.dup2(os.open(os.devnull, os.O_WRONLY), 2)  # the allocator's last words
        os._exit(0 if all_right(ops, every) else 1)
    return os.waitpid(child, 0)[1] == 0


def main() -> None:
    torch.set_num_threads(1)  # threads do not survive a fork
    ops = EmulatedOps(Path(sys.argv[1]))
    every = cases()
    if not all_right(ops, every):
        sys.exit("wrong with all barriers in place")
    barriers = barriers_in_sources()
    unreached = sorted(set(barriers) - ops.barriers())
    unmissed = [b for b in barriers if b not in unreached and right_in_a_fork(ops, every, b)]
    print(json.dumps({"tried": barriers, "unreached": unreached, "unmissed": unmissed}))


if __name__ == "__main__":
    main()
