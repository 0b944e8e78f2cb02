"""The calls that gpu_check times (--json FILE) or runs once under compute-sanitizer (--calls)."""

from __future__ import annotations

import argparse
import json
import signal
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F

import gradmix_ext as gx

Case = Callable[[], Any]
REPEATS = 40


@dataclass(frozen=True)
class Workload:
    """Calls that compute the same, and what they are measured by.

    Attributes:
        moved: the bytes that the op has to read and write; 0 where they do not bound it.
        flops: the multiplications and additions of a case, each product of elements counted as
            one whatever it is made of.
        truth: the float64 result of the cases that `flops` names, but for limits.
    """

    name: str
    cases: dict[str, Case]
    moved: int = 0
    flops: dict[str, float] = field(default_factory=dict)
    truth: torch.Tensor | None = None


def mixup(shape: tuple[int, ...], dtype: torch.dtype) -> Workload:
    x = torch.randn(shape, device="cuda").to(dtype)
    out, n = torch.empty_like(x), len(x)
    partner, lam = torch.randperm(n, device="cuda"), torch.rand(n, device="cuda")
    weight = lam.to(dtype).view(-1, 1, 1, 1)

    def eager() -> torch.Tensor:
        return weight * x + (1 - weight) * x[partner]

    cases: dict[str, Case] = {
        "gradmix_ext": lambda: gx.ops.masked_mixup(x, partner, lam),
        "gradmix_ext out=": lambda: gx.ops.masked_mixup(x, partner, lam, out=out),
        "eager": eager,
        "lerp": lambda: torch.lerp(x[partner], x, weight),
        "torch.compile": torch.compile(eager),
        "limit: copy (2/3 of the bytes)": lambda: out.copy_(x),
    }
    name = f"masked_mixup {'x'.join(map(str, shape))} {str(dtype)[6:]}"
    return Workload(name, cases, moved=3 * x.numel() * x.element_size())


def loss(n: int, c: int, dtype: torch.dtype) -> Workload:
    z = torch.randn(n, c, device="cuda").to(dtype).requires_grad_()
    y, y2 = torch.randint(c, (2, n), device="cuda")
    lam = torch.rand(n, device="cuda")

    def soft() -> torch.Tensor:
        q = torch.zeros_like(z).scatter_(1, y[:, None], lam.to(dtype)[:, None])
        return F.cross_entropy(z, q.scatter_add_(1, y2[:, None], (1 - lam).to(dtype)[:, None]))

    def two() -> torch.Tensor:
        first, second = (F.cross_entropy(z, label, reduction="none") for label in (y, y2))
        return (lam * first + (1 - lam) * second).mean()

    forward: dict[str, Case] = {
        "gradmix_ext": lambda: gx.ops.mixup_cross_entropy(z, y, y2, lam),
        "soft targets": soft,
        "two hard labels": two,
        "two hard labels, torch.compile": torch.compile(two),
        "limit: one hard label": lambda: F.cross_entropy(z, y),
    }
    both = {name: (lambda f=f: torch.autograd.grad(f(), z)) for name, f in forward.items()}
    name = f"mixup_cross_entropy {n}x{c}, forward and backward"
    return Workload(name, both, moved=3 * z.numel() * z.element_size())


def factorised_gram(h: torch.Tensor, z: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    member = F.one_hot(y, z.shape[1]).to(h.dtype)
    mean = member / member.sum(0).clamp(min=1)
    delta = z.softmax(1) - member
    return mean.T @ ((delta @ delta.T) * (h @ h.T + 1)) @ mean


def gram(n: int, c: int, d: int, dtype: torch.dtype) -> Workload:
    h, z = torch.randn(n, d, device="cuda").to(dtype), torch.randn(n, c, device="cuda").to(dtype)
    y = torch.randint(c, (n,), device="cuda")
    flat = torch.randn(c, c * (d + 1), device="cuda")
    square = torch.randn(4096, 4096, device="cuda", dtype=torch.bfloat16)
    wide_h, wide_z = h.float(), z.float()

    cases: dict[str, Case] = {
        "gradmix_ext": lambda: gx.ops.class_gram(h, z, y),
        "gradmix_ext pairwise": lambda: gx.ops.class_gram(h, z, y, algorithm="pairwise"),
        "gradmix_ext classwise": lambda: gx.ops.class_gram(h, z, y, algorithm="classwise"),
        "factorised": lambda: factorised_gram(wide_h, wide_z, y),
        "limit: one float32 GEMM [C, C(d+1)]": lambda: flat @ flat.T,
        "limit: one bfloat16 GEMM [4096, 4096]": lambda: square @ square,
    }
    flops = {
        "gradmix_ext pairwise": n * (n + 1) * (c + d),
        "gradmix_ext classwise": 2 * n * c * d + c * (c + 1) * c * (d + 1),
        "factorised": 2 * n * n * (c + d),
        "limit: one float32 GEMM [C, C(d+1)]": 2 * c * c * c * (d + 1),
        "limit: one bfloat16 GEMM [4096, 4096]": 2 * 4096**3,
    }
    truth = factorised_gram(h.double(), z.double(), y)
    name = f"class_gram {n}x{c}x{d} {str(dtype)[6:]}"
    return Workload(name, cases, flops=flops, truth=truth)


def scores(n: int, c: int, d: int) -> Workload:
    h, z = torch.randn(n, d, device="cuda"), torch.randn(n, c, device="cuda")
    y, y2 = torch.randint(c, (2, n), device="cuda")
    lam = torch.rand(n, device="cuda")
    weight, bias = torch.randn(c, d, device="cuda"), torch.randn(c, device="cuda")

    def einsum() -> torch.Tensor:
        q = lam[:, None] * F.one_hot(y, c) + (1 - lam[:, None]) * F.one_hot(y2, c)
        value = torch.einsum("nc,nd,cd->n", z.softmax(1) - q, h, weight)
        total = value.new_zeros(c * c)
        return total.index_add(0, y * c + y2, value + (z.softmax(1) - q) @ bias)

    cases: dict[str, Case] = {
        "gradmix_ext": lambda: gx.ops.pair_scores(h, z, y, y2, lam, weight, bias, num_classes=c),
        "einsum": einsum,
        "limit: one GEMM [N, d] x [d, C]": lambda: h @ weight.T,
    }
    return Workload(f"pair_scores {n}x{c}x{d}", cases)


def partners(n: int, c: int) -> Workload:
    y = torch.randint(c, (n,), device="cuda")
    allowed = torch.rand(c, c, device="cuda") < 0.3
    noise = torch.rand(n, device="cuda", dtype=torch.float64)
    cases: dict[str, Case] = {
        "gradmix_ext": lambda: gx.ops.draw_partners(y, allowed, noise=noise),
        "pure PyTorch": lambda: gx.reference.draw_partners(y, allowed, noise=noise),
    }
    return Workload(f"draw_partners {n} of {c} classes", cases)


def batches(n: int, dtype: torch.dtype) -> Workload:
    pool = torch.randint(256, (50_000, 3, 32, 32), device="cuda", dtype=torch.uint8)
    index, partner = torch.randint(len(pool), (2, n), device="cuda")
    lam, noise = torch.rand(n, device="cuda"), torch.rand(n, 2, 3, device="cuda")
    mean, std = torch.rand(3, device="cuda"), torch.rand(3, device="cuda") + 0.1
    options = {"mean": mean, "std": std, "padding": 4, "hflip": True, "noise": noise}
    args = pool, index, partner, lam
    last = {"memory_format": torch.channels_last}
    weight = lam.view(-1, 1, 1, 1)
    pixel = torch.arange(32, device="cuda")

    def role(position: torch.Tensor, draw: torch.Tensor) -> torch.Tensor:
        shift = (draw[:, :2] * 9).long()
        rows, columns = (shift[:, k, None] + pixel for k in range(2))
        columns = torch.where(draw[:, 2:] < 0.5, columns.flip(1), columns)
        images = F.pad(pool[position], (4, 4, 4, 4))
        at = torch.arange(n, device="cuda")[:, None, None]
        crop = images[at, :, rows[:, :, None], columns[:, None]].permute(0, 3, 1, 2)
        return ((crop / 255 - mean.view(3, 1, 1)) / std.view(3, 1, 1)).to(dtype)

    def eager() -> torch.Tensor:
        mixed = weight * role(index, noise[:, 0]) + (1 - weight) * role(partner, noise[:, 1])
        return mixed.to(dtype)

    ours = gx.ops.gather_augment_mixup
    cases: dict[str, Case] = {
        "gradmix_ext": lambda: ours(*args, **options, dtype=dtype),
        "gradmix_ext channels_last": lambda: ours(*args, **options, **last, dtype=dtype),
        "eager": eager,
        "torch.compile": torch.compile(eager),
    }
    name = f"gather_augment_mixup {n}x3x32x32 {str(dtype)[6:]}"
    return Workload(name, cases, moved=n * 3072 * (2 + dtype.itemsize))


def workloads() -> Iterator[Callable[[], Workload]]:
    """What is measured, each made when it is its turn."""
    for n, c, dtype in (
        (2000, 100, torch.float32),
        (8192, 100, torch.float32),
        (8192, 100, torch.bfloat16),
        (2000, 1000, torch.float32),
    ):
        yield partial(gram, n, c, 512, dtype)
    yield partial(scores, 4096, 100, 512)
    for shape in ((1024, 3, 32, 32), (256, 3, 224, 224)):
        for dtype in (torch.float32, torch.bfloat16):
            yield partial(mixup, shape, dtype)
    for n in (1024, 8192):
        yield partial(loss, n, 1000, torch.float32)
    yield partial(partners, 1024, 100)
    for dtype in (torch.float32, torch.bfloat16):
        yield partial(batches, 512, dtype)


def microseconds(case: Case, flush: torch.Tensor) -> dict[str, Any]:
    """Times of a call that finds the L2 cache full of something else.

    Returns:
        20 %, 50 % and 80 % of the GPU's times, and the median time until the call returns. Filling
        the cache takes the GPU longer than the CPU needs for most calls, so the GPU does not wait.
    """
    for _ in range(3):
        case()
    events = [[torch.cuda.Event(enable_timing=True) for _ in range(2)] for _ in range(REPEATS)]
    host = []
    for start, end in events:
        flush.zero_()
        start.record()
        called = time.perf_counter()
        case()
        host.append(time.perf_counter() - called)
        end.record()
    torch.cuda.synchronize()
    times = sorted(1000 * start.elapsed_time(end) for start, end in events)
    chosen = (times[REPEATS // 5], statistics.median(times), times[-REPEATS // 5])
    return {
        "us": [round(t, 2) for t in chosen],
        "host_us": round(1e6 * statistics.median(host), 1),
    }


@contextmanager
def at_most(seconds: int) -> Iterator[None]:
    """Raise `TimeoutError` in a block that takes longer, as a compiler may."""

    def stop(*_: object) -> None:
        raise TimeoutError(f"took more than {seconds} s")

    before = signal.signal(signal.SIGALRM, stop)
    signal.alarm(seconds)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


def measured(workload: Workload, name: str, case: Case, flush: torch.Tensor) -> dict[str, Any]:
    """The entry of a case in the table."""
    entry: dict[str, Any] = {"workload": workload.name, "case": name, **microseconds(case, flush)}
    if workload.moved and name.startswith("gradmix_ext"):
        entry["GB_per_s"] = round(workload.moved / entry["us"][1] / 1e3)
    if name in workload.flops:
        entry["TFLOP_per_s"] = round(workload.flops[name] / entry["us"][1] / 1e6, 2)
        if workload.truth is not None and not name.startswith("limit"):
            off = (case() - workload.truth).abs().max() / workload.truth.abs().max()
            entry["error"] = float(f"{off.item():.2g}")
    return entry


def measure(table: Path) -> bool:
    """Time every case and write the table after each, so that a cut leaves what was measured.

    What has to be compiled by torch.compile comes last, since it takes longest.

    Returns:
        Whether every case ran that needs no compiler.
    """
    torch.manual_seed(0)
    free = torch.cuda.mem_get_info()[0]
    flush = torch.empty(min(1 << 30, free // 8), dtype=torch.uint8, device="cuda")
    done: list[dict[str, Any]] = []
    complete = True
    for compiled in (False, True):
        for make in workloads():
            workload = make()
            for name, case in workload.cases.items():
                if ("torch.compile" in name) != compiled:
                    continue
                try:
                    with at_most(40 if compiled else 20):
                        done.append(measured(workload, name, case, flush))
                except Exception as error:
                    # torch.compile needs Triton and a C compiler; any other case has to run.
                    complete &= compiled
                    print(f"{workload.name} | {name} | not measured: {error!r}", flush=True)
                    torch.cuda.synchronize()  # raises where nothing runs any more
                    continue
                partial_table = table.with_suffix(".partial")
                partial_table.write_text(json.dumps(done))
                partial_table.replace(table)
                us, host = done[-1]["us"][1], done[-1]["host_us"]
                print(f"{workload.name} | {name} | {us} µs, {host} µs to call", flush=True)
    return complete


def call_each() -> None:
    """A few small calls of every op, forward and backward, in a float and a half."""
    torch.manual_seed(0)
    for dtype in (torch.float32, torch.bfloat16):
        h, z = torch.randn(150, 37).to(dtype).cuda(), torch.randn(150, 11).to(dtype).cuda()
        wide = torch.randn(6, 1031).to(dtype).cuda().requires_grad_()
        y, y2 = torch.randint(11, (2, 150), device="cuda")
        lam, partner = torch.rand(150, device="cuda"), torch.randint(150, (150,), device="cuda")
        x = h.detach().requires_grad_()
        gx.ops.masked_mixup(x, partner, lam).sum().backward()
        for logits in (z.detach().requires_grad_(), wide):
            label = y[: len(logits)]
            gx.ops.mixup_cross_entropy(logits, label, label, 0.3, label_smoothing=0.1).backward()
        images = torch.randint(256, (40, 3, 12, 17), device="cuda", dtype=torch.uint8)
        for layout in (torch.contiguous_format, torch.channels_last):
            gx.ops.gather_augment_mixup(
                images, y, y2, lam, mean=lam[:3], std=lam[:3] + 1, padding=2, hflip=True,
                dtype=dtype, memory_format=layout,
            )  # fmt: skip
        gx.ops.class_gradients(h, z, y)
        for algorithm in ("pairwise", "classwise"):
            gx.ops.class_gram(h, z, y, algorithm=algorithm)
        direction = torch.randn(11, 37, device="cuda"), torch.randn(11, device="cuda")
        gx.ops.pair_scores(h, z, y, y2, lam, *direction, num_classes=11)
        for policy in ("redraw", "skip"):
            gx.ops.draw_partners(y, torch.rand(11, 11, device="cuda") < 0.5, policy=policy)
        value = gx.ops.sample_scores(h, z, y, y2, lam, *direction)
        scores = torch.randn(11, 11, device="cuda", dtype=value.dtype)
        pairs = scores, scores > 0, scores > 1
        gx.ops.blend_scores(*pairs, value, y, y2, momentum=0.9, threshold=0.0)
        mixed = h, z, y, y2, lam, *direction
        gx.ops.observe_scores(*pairs, *mixed, momentum=0.9, threshold=0.0)
        gx.ops.linear_scores(h, z, y, 20)
        gx.ops.draw_softly(y, scores)
        gx.ops.pair_preferences(scores, scores > 0, 4.0)
        gx.ops.mix_labels(y, partner, y > 3, lam, lam, balance=0.5)
        gx.ops.mix_batch(h, y, scores, "soft", partner, balance=0.5)
    torch.cuda.synchronize()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    chosen = parser.add_mutually_exclusive_group(required=True)
    chosen.add_argument("--json", type=Path)
    chosen.add_argument("--calls", action="store_true")
    options = parser.parse_args()
    if options.calls:
        call_each()
    elif not measure(options.json):
        sys.exit("some cases were not measured")


if __name__ == "__main__":
    main()
