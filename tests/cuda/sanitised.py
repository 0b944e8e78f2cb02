"""Run the samples of every op through an emulated library that was built with sanitisers.

A program of its own: the sanitisers have to be loaded before anything else. Any access out of
bounds ends it. Prints how many calls it made.
"""

from __future__ import annotations

import sys
from pathlib import Path

import torch

ROOT = Path(__file__).parents[2]
sys.path[:0] = [str(ROOT), str(ROOT / "tests" / "ops"), str(Path(__file__).parent)]

import blending  # noqa: E402
import special_cases  # noqa: E402
from emulation import EmulatedOps  # noqa: E402
from samples import Sample, samples  # noqa: E402

import gradmix_ext  # noqa: E402, F401 - defines the ops

SIZES = ((0, 3, 4), (5, 3, 0), (13, 11, 17), (67, 10, 37))
BAD = (-1, 10**12, -(10**12))


def out_of_range(sample):
    """The same call with labels and indices some of which are out of range."""

    def spoil(t):
        if t.dtype != torch.int64 or t.numel() < len(BAD):
            return t
        t = t.clone()
        t[: len(BAD)] = torch.tensor(BAD)
        return t

    return sample.map(spoil)


def main() -> None:
    ops = EmulatedOps(Path(sys.argv[1]))
    calls = 0
    for op in special_cases.OPS:
        for dtype in (torch.float32, torch.float64, torch.bfloat16):
            every = samples(op, dtype, SIZES if dtype == torch.float32 else SIZES[2:3])
            if dtype == torch.float32 and op not in ("class_gradients", "class_gram"):
                every += special_cases.wide_samples(op, dtype)
            if op == "masked_mixup" and dtype != torch.float64:
                every += special_cases.long_samples(dtype)
            every = [s for s in every if s.kwargs.get("algorithm") != "auto"]  # one of the others
            for sample in [*every, *map(out_of_range, every)]:
                getattr(ops, op)(*sample.args, **sample.kwargs)
                calls += 1
                backward = special_cases.backward_samples(sample, dtype)
                if backward is not None:
                    name, args, kwargs = backward
                    getattr(ops, name)(*args, **kwargs)
                    calls += 1
    for n, c in blending.SIZES:
        pairs, batch = blending.inputs(n, c, torch.float32)
        ops.blend_scores(*pairs, *batch, 0.9, 0.0)
        spoilt = out_of_range(Sample("blend_scores", "", batch)).args
        ops.blend_scores(*pairs, *spoilt, 0.9, 0.0)
        h, z, lam, direction, mask = blending.head(n, c, torch.float32)
        mixed = Sample("observe_scores", "", (h, z, *batch[1:], lam, *direction))
        for each in (mixed, out_of_range(mixed)):
            ops.observe_scores(*pairs, *each.args, 0.9, 0.0, mask)
        calls += 4
    print(calls)


if __name__ == "__main__":
    main()
