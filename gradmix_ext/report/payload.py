"""What the charts of the report are drawn from, as JSON that stays small.

Large arrays travel as deflated, base64-coded integers. Class-pair maps and confusion matrices grow
with seeds x epochs x classes²: beyond a fixed number of cells fewer epochs and fewer single seeds
are embedded. What is shown for all seeds together is always made of all of them.
"""

from __future__ import annotations

import base64
import zlib
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gradmix_ext.report.contenders import Contender
from gradmix_ext.report.figures import Curve, forgetting_by_task, running_accuracy
from gradmix_ext.report.load import Array, PairHistory, SeedRecord, read_pairs
from gradmix_ext.report.pair_rules import pair_rule

__all__ = ["MAX_CELLS", "payload"]

#: Most cells of all class-pair maps, of all confusion matrices, and of all accuracy matrices.
MAX_CELLS = 4_000_000

# Epochs of a task that thinning spares as long as there are single seeds to leave out instead.
_FEW_EPOCHS = 10
_LEVELS = 127


def payload(found: Sequence[Contender]) -> dict[str, Any]:
    """Everything that the charts show; accuracies and forgetting in percent."""
    sizes = [_Sizes(each) for each in found]
    accuracy = sum(2 * s.tasks**2 for s in sizes)
    pairs = sum(s.tasks * s.classes**2 for s in sizes if s.epochs)
    confusion = sum(s.tasks * s.classes**2 for s in sizes if s.confusion)
    arms = []
    for each, size in zip(found, sizes, strict=True):
        seeds = each.arm.seeds
        arms.append(
            {
                "name": each.name,
                "colour": each.colour,
                "marker": each.marker,
                "dash": each.dash,
                "sizes": seeds[0].task_sizes,
                "seeds": [seed.seed for seed in seeds],
                "orders": _class_orders(each),
                "accuracy": {
                    "class_il": _curve([100 * running_accuracy(s.class_il) for s in seeds]),
                    "task_il": _curve([100 * running_accuracy(s.task_il) for s in seeds]),
                },
                "forgetting": {
                    "class_il": _curve([100 * forgetting_by_task(s.class_il) for s in seeds]),
                    "task_il": _curve([100 * forgetting_by_task(s.task_il) for s in seeds]),
                },
                "loss": _loss(seeds),
                "matrices": _matrices(seeds, accuracy),
                "pairs": _pairs(seeds, size.epochs, pairs),
                "rule": pair_rule(each) if size.epochs else None,
                "confusion": _confusion(seeds, confusion) if size.confusion else None,
            }
        )
    return {"arms": arms}


class _Sizes:
    """How much an arm brings along; `epochs` is the most of a task, 0 without class-pair maps."""

    def __init__(self, contender: Contender) -> None:
        seeds = contender.arm.seeds
        self.tasks = len(seeds[0].task_classes)
        self.classes = len(seeds[0].class_order)
        self.confusion = all(seed.confusion is not None for seed in seeds)
        self.epochs = 0
        if self.tasks > 1 and all(seed.pairs is not None for seed in seeds):
            self.epochs = int(read_pairs(seeds[0]).epoch.max()) + 1


def _class_orders(contender: Contender) -> list[list[str]]:
    """Names of the classes in class order, seed by seed."""
    names = contender.run.config.get("class_names")
    return [
        [str(names[label]) if names else str(label) for label in seed.class_order]
        for seed in contender.arm.seeds
    ]


def _curve(values: Sequence[Array]) -> dict[str, Any]:
    curve = Curve.of(values)
    return {
        "mean": _rounded(curve.mean),
        "half": None if curve.half is None else _rounded(curve.half),
    }


def _rounded(values: Array) -> list[float]:
    return [float(f"{value:.5g}") for value in values]


def _loss(seeds: Sequence[SeedRecord]) -> dict[str, Any] | None:
    """Training loss by epoch, counted over all tasks; None unless every seed has logged it."""
    steps = [[(task, epoch) for task, epoch, _ in seed.losses] for seed in seeds]
    if not steps[0] or any(each != steps[0] for each in steps):
        return None
    curve = _curve([np.array([loss for *_, loss in seed.losses]) for seed in seeds])
    return {**curve, "task": [task for task, _ in steps[0]]}


def _matrices(seeds: Sequence[SeedRecord], total: int) -> dict[str, Any]:
    """Accuracy matrices in hundredths of a percent: first the mean, then single seeds."""
    chosen, _ = _thin(len(seeds), 1, total)
    kept = [seeds[i] for i in _spread(len(seeds), chosen)]
    content: dict[str, Any] = {"seeds": [seed.seed for seed in kept]}
    for name in ("class_il", "task_il"):
        mean = np.mean([getattr(seed, name) for seed in seeds], axis=0)
        views = np.stack([mean, *(getattr(seed, name) for seed in kept)])
        content[name] = _packed(np.round(10_000 * views).astype(np.uint16))
    return content


def _pairs(seeds: Sequence[SeedRecord], epochs: int, total: int) -> dict[str, Any] | None:
    """Class-pair maps: first all seeds together, then single seeds.

    ``allowed`` [views, E, C, C] counts the seeds in which a pair is helpful or, of a control,
    chosen at random; ``scores`` of the same shape are in units of ``scale`` [views, E] / 127.
    """
    if not epochs:
        return None
    few_seeds, few_epochs = _thin(len(seeds), epochs, total)
    if not few_epochs:
        return {"too_large": True}
    singles = set(_spread(len(seeds), few_seeds))
    allowed, scores, task, epoch = [], [], [], []
    count: NDArray[np.uint16] | None = None
    mean: Array | None = None
    for index, seed in enumerate(seeds):
        history = _thinned(read_pairs(seed), few_epochs)
        if index == 0:
            task, epoch = history.task.tolist(), history.epoch.tolist()
            count = np.zeros(history.allowed.shape, dtype=np.uint16)
            mean = np.zeros(history.scores.shape)
        elif (history.task.tolist(), history.epoch.tolist()) != (task, epoch):
            raise ValueError(f"{seed.pairs} has other epochs than the other seeds of its arm")
        assert count is not None
        assert mean is not None
        count += history.allowed
        mean += history.scores / len(seeds)
        if index in singles:
            allowed.append(history.allowed.astype(np.uint16))
            scores.append(history.scores.astype(np.float64))
    assert count is not None
    assert mean is not None
    levels, scale = _quantised(np.stack([mean, *scores]))
    return {
        "seeds": [seeds[i].seed for i in sorted(singles)],
        "task": task,
        "epoch": epoch,
        "epochs": epochs,
        "allowed": _packed(_narrow(np.stack([count, *allowed]))),
        "scores": _packed(levels),
        "scale": [_rounded(row) for row in scale],
    }


def _thinned(history: PairHistory, epochs: int) -> PairHistory:
    """At most so many epochs of every task but the first, which has no earlier classes."""
    kept = [
        np.flatnonzero(history.task == t)[_spread(int((history.task == t).sum()), epochs)]
        for t in np.unique(history.task[history.task > 0])
    ]
    at = np.concatenate(kept)
    return PairHistory(history.task[at], history.epoch[at], history.allowed[at], history.scores[at])


def _confusion(seeds: Sequence[SeedRecord], total: int) -> dict[str, Any]:
    """Counts [views, T, C, C] in class order: first of all seeds together, then single seeds."""
    few, fits = _thin(len(seeds), 1, total)
    if not fits:
        return {"too_large": True}
    kept = _spread(len(seeds), few)
    tasks, classes = len(seeds[0].task_classes), len(seeds[0].class_order)
    views = np.zeros((1 + len(kept), tasks, classes, classes), dtype=np.int64)
    for index, seed in enumerate(seeds):
        assert seed.confusion is not None
        task, true, predicted, count = seed.confusion.T
        position = np.argsort(seed.class_order)
        cells = task, position[true], position[predicted]
        np.add.at(views[0], cells, count)
        if index in kept:
            np.add.at(views[1 + kept.index(index)], cells, count)
    return {"seeds": [seeds[i].seed for i in kept], "counts": _packed(_narrow(views))}


def _thin(seeds: int, epochs: int, cells: int) -> tuple[int, int]:
    """How many single seeds and epochs of a task to keep; (0, 0) if not even one of each fits.

    Args:
        seeds: How many there are.
        epochs: How many there are in a task.
        cells: Cells that one seed (or all together) and one epoch of every task take.
    """
    while (seeds + 1) * epochs * cells > MAX_CELLS:
        if epochs > _FEW_EPOCHS:
            epochs = max(_FEW_EPOCHS, epochs // 2)
        elif seeds > 1:
            seeds //= 2
        elif epochs > 1:
            epochs //= 2
        else:
            return 0, 0
    return seeds, epochs


def _spread(count: int, most: int) -> list[int]:
    """At most `most` of the indices below `count`, evenly spread, the last one among them."""
    kept = min(count, most)
    return [count - 1 - (i * count) // kept for i in reversed(range(kept))]


def _quantised(scores: Array) -> tuple[NDArray[np.int8], Array]:
    """[V, E, C, C] as whole multiples of the largest of each map over 127, and that largest."""
    scale = np.abs(scores).max(axis=(2, 3))
    unit = np.where(scale > 0, scale, 1.0)[:, :, None, None]
    levels: NDArray[np.int8] = np.round(_LEVELS * scores / unit).astype(np.int8)
    return levels, scale


def _narrow(counts: NDArray[Any]) -> NDArray[Any]:
    """Non-negative integers in the smallest type that holds them."""
    return counts.astype(np.min_scalar_type(int(counts.max(initial=0))))


def _packed(array: NDArray[Any]) -> dict[str, Any]:
    """Little-endian integers, deflated, in base64."""
    raw = array.astype(array.dtype.newbyteorder("<")).tobytes()
    return {
        "type": f"{array.dtype.kind}{array.dtype.itemsize}",
        "shape": array.shape,
        "data": base64.b64encode(zlib.compress(raw)).decode(),
    }
