"""The calls that gpu_check times (--json FILE) or runs once under compute-sanitizer (--calls)."""

from __future__ import annotations

import argparse
import json
import statistics
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F

import gradmix_ext as gx

Case = Callable[[], Any]
REPEATS = 40


def mixup(shape: tuple[int, ...], dtype: torch.dtype) -> tuple[dict[str, Case], int]:
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
    return cases, 3 * x.numel() * x.element_size()


def loss(n: int, c: int, dtype: torch.dtype) -> tuple[dict[str, Case], int]:
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
    return both, 3 * z.numel() * z.element_size()


def gram(n: int, c: int, d: int) -> tuple[dict[str, Case], int]:
    h, z = torch.randn(n, d, device="cuda"), torch.randn(n, c, device="cuda")
    y = torch.randint(c, (n,), device="cuda")
    flat = torch.randn(c, c * (d + 1), device="cuda")

    def factorised() -> torch.Tensor:
        delta = z.softmax(1) - F.one_hot(y, c)
        member = F.one_hot(y, c).to(h.dtype)
        mean = member / member.sum(0).clamp(min=1)
        return mean.T @ ((delta @ delta.T) * (h @ h.T + 1)) @ mean

    cases: dict[str, Case] = {
        "gradmix_ext": lambda: gx.ops.class_gram(h, z, y),
        "gradmix_ext pairwise": lambda: gx.ops.class_gram(h, z, y, algorithm="pairwise"),
        "gradmix_ext classwise": lambda: gx.ops.class_gram(h, z, y, algorithm="classwise"),
        "factorised": factorised,
        "limit: one GEMM [C, C(d+1)]": lambda: flat @ flat.T,
    }
    return cases, 0


def scores(n: int, c: int, d: int) -> tuple[dict[str, Case], int]:
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
    return cases, 0


def partners(n: int, c: int) -> tuple[dict[str, Case], int]:
    y = torch.randint(c, (n,), device="cuda")
    allowed = torch.rand(c, c, device="cuda") < 0.3
    noise = torch.rand(n, device="cuda", dtype=torch.float64)
    cases: dict[str, Case] = {
        "gradmix_ext": lambda: gx.ops.draw_partners(y, allowed, noise=noise),
        "pure PyTorch": lambda: gx.reference.draw_partners(y, allowed, noise=noise),
    }
    return cases, 0


def workloads() -> Iterator[tuple[str, dict[str, Case], int]]:
    for shape in ((1024, 3, 32, 32), (256, 3, 224, 224)):
        for dtype in (torch.float32, torch.bfloat16):
            name = f"masked_mixup {'x'.join(map(str, shape))} {str(dtype)[6:]}"
            yield name, *mixup(shape, dtype)
    for n in (1024, 8192):
        yield f"mixup_cross_entropy {n}x1000, forward and backward", *loss(n, 1000, torch.float32)
    for n in (2000, 8192):
        yield f"class_gram {n}x100x512", *gram(n, 100, 512)
    yield "pair_scores 4096x100x512", *scores(4096, 100, 512)
    yield "draw_partners 1024 of 100 classes", *partners(1024, 100)


def microseconds(case: Case, flush: torch.Tensor) -> list[float]:
    """20 %, 50 % and 80 % of the times of a call that finds the L2 cache full of something else."""
    for _ in range(3):
        case()
    events = [[torch.cuda.Event(enable_timing=True) for _ in range(2)] for _ in range(REPEATS)]
    for start, end in events:
        flush.zero_()
        start.record()
        case()
        end.record()
    torch.cuda.synchronize()
    times = sorted(1000 * start.elapsed_time(end) for start, end in events)
    chosen = (times[REPEATS // 5], statistics.median(times), times[-REPEATS // 5])
    return [round(t, 2) for t in chosen]


def measure(table: Path) -> None:
    """Time every case and write the table after each, so that a cut leaves what was measured."""
    torch.manual_seed(0)
    flush = torch.empty(256 << 20, dtype=torch.uint8, device="cuda")
    done: list[dict[str, Any]] = []
    for workload, cases, moved in workloads():
        for name, case in cases.items():
            entry: dict[str, Any] = {"workload": workload, "case": name}
            try:
                entry["us"] = microseconds(case, flush)
            except Exception as error:
                # torch.compile needs Triton and a C compiler; any other case has to run.
                if "torch.compile" not in name:
                    raise
                print(f"{workload}, {name}: not measured: {error}")
                continue
            if moved and name.startswith("gradmix_ext"):
                entry["GB_per_s"] = round(moved / entry["us"][1] / 1e3)
            done.append(entry)
            table.write_text(json.dumps(done))
            print(f"{workload} | {name} | {entry['us'][1]} µs", flush=True)


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
        gx.ops.class_gradients(h, z, y)
        for algorithm in ("pairwise", "classwise"):
            gx.ops.class_gram(h, z, y, algorithm=algorithm)
        direction = torch.randn(11, 37, device="cuda"), torch.randn(11, device="cuda")
        gx.ops.pair_scores(h, z, y, y2, lam, *direction, num_classes=11)
        for policy in ("redraw", "skip"):
            gx.ops.draw_partners(y, torch.rand(11, 11, device="cuda") < 0.5, policy=policy)
    torch.cuda.synchronize()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    chosen = parser.add_mutually_exclusive_group(required=True)
    chosen.add_argument("--json", type=Path)
    chosen.add_argument("--calls", action="store_true")
    options = parser.parse_args()
    call_each() if options.calls else measure(options.json)


if __name__ == "__main__":
    main()
