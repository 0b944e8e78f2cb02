"""Run folders made by hand: what `gradmix compare` leaves, with random numbers in it."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np


def write_run(
    path: Path,
    arms: tuple[str, ...] = ("er", "gradmix", "joint"),
    seeds: tuple[int, ...] = (0, 1, 2),
    sizes: tuple[int, ...] = (2, 2, 2),
    epochs: int = 2,
    confusion: bool = True,
    command: str = "gradmix compare --seeds 3",
    dataset: str = "digits",
) -> Path:
    """Write a folder whose arm named gradmix has class-pair maps; gives `path` back."""
    path.mkdir(parents=True)
    config = {
        "command": command,
        "started": "2026-01-02T03:04:05+00:00",
        "settings": {"dataset": dataset, "buffer_size": 20, "epochs": epochs, "lr": 0.05},
        "arms": [arm(label) for label in arms],
        "seeds": list(seeds),
        "backend": "pure PyTorch",
        "threads": 1,
        "versions": {"gradmix_ext": "0", "torch": "2.10"},
        "platform": "Linux",
    }
    (path / "config.json").write_text(json.dumps(config))
    rng = np.random.default_rng(len(arms) + len(seeds))
    log = []
    for seed in seeds:
        order = np.random.default_rng(seed).permutation(sum(sizes))
        for label in arms:
            log += write_seed(path, label, seed, order, sizes, epochs, confusion, rng)
    (path / "metrics.jsonl").write_text("".join(json.dumps(entry) + "\n" for entry in log))
    return path


def arm(label: str) -> dict[str, str]:
    method = label if label in ("finetune", "joint") else "er"
    return {
        "label": label,
        "method": method,
        "augment": "none" if label in (method, "er") else label.partition("[")[0],
    }


def write_seed(path, label, seed, order, sizes, epochs, confusion, rng) -> list[dict]:
    tasks, classes = len(sizes), sum(sizes)
    ends = np.cumsum(sizes)
    values = {
        "accuracy_matrix": np.tril(rng.uniform(0, 1, (tasks, tasks))).tolist(),
        "task_il_matrix": rng.uniform(0.5, 1, (tasks, tasks)).tolist(),
        "task_il_baseline": [0.5] * tasks,
        "pooled_accuracy": [0.5] * tasks,
        "task_classes": [part.tolist() for part in np.split(order, ends[:-1])],
    }
    if confusion:
        counts = np.zeros((tasks, classes, classes), dtype=int)
        for t, end in enumerate(ends):
            seen = order[:end]
            counts[t][np.ix_(seen, seen)] = rng.integers(0, 30, (end, end))
        cells = np.argwhere(counts)
        values["confusion"] = np.column_stack([cells, counts[tuple(cells.T)]]).tolist()
    folder = path / "matrices" / label
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"seed-{seed}.json").write_text(json.dumps(values))
    if label.partition("[")[0] in ("gradmix", "random-mask", "shuffled-scores"):
        write_pairs(path, label, seed, order, tasks, epochs, rng)
    log = [
        {"event": "epoch", "task": t + 1, "epoch": e + 1, "loss": float(rng.uniform(0.1, 2))}
        for t in range(tasks)
        for e in range(epochs)
    ]
    log.append({"event": "run", "seconds": 1.5})
    return [{"arm": label, "seed": seed, **entry} for entry in log]


def write_pairs(path, label, seed, order, tasks, epochs, rng) -> None:
    classes = len(order)
    scores = rng.normal(size=(tasks * epochs, classes, classes)).astype(np.float32)
    scores = scores + scores.transpose(0, 2, 1)
    folder = path / "class_pairs"
    folder.mkdir(exist_ok=True)
    np.savez_compressed(
        folder / f"{label}-seed-{seed}.npz",
        class_order=order,
        task=np.repeat(np.arange(tasks), epochs),
        epoch=np.tile(np.arange(epochs), tasks),
        allowed=scores >= 0,
        scores=scores,
        seen=np.ones((tasks * epochs, classes), dtype=bool),
    )
