"""Class-incremental scenarios: a data set cut into tasks of new classes."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import cast

import numpy as np
import torch
from torch import Tensor

from gradmix_ext._arguments import integer, require_kind
from gradmix_ext.continual.data import ArrayDataset, RawInputs, concatenate, read, subset
from gradmix_ext.continual.datasets import load_dataset
from gradmix_ext.mixers.images import ImageTransform

__all__ = ["Scenario", "Task", "class_incremental"]


@dataclass(frozen=True, eq=False)
class Task:
    """One step of a scenario: the data of classes that were not there before.

    Attributes:
        index: Position in the scenario, from 0.
        classes: The labels that this task brings, in class order.
        train_x: Training inputs, [N, ...], as stored: see :class:`ArrayDataset`.
        train_y: Training labels, [N], int64, in the labels of the data set.
        test_x: Test inputs, [M, ...].
        test_y: Test labels, [M], int64.
    """

    index: int
    classes: tuple[int, ...]
    train_x: RawInputs
    train_y: Tensor
    test_x: RawInputs
    test_y: Tensor

    def to(self, device: torch.device | str) -> Task:
        """This task with its tensors on `device`."""
        train, test = self.train_x, self.test_x
        return replace(
            self,
            train_x=train.to(device) if isinstance(train, Tensor) else train,
            train_y=self.train_y.to(device),
            test_x=test.to(device) if isinstance(test, Tensor) else test,
            test_y=self.test_y.to(device),
        )


@dataclass(frozen=True, eq=False)
class Scenario:
    """Tasks in the order in which they are learned.

    Labels keep the values they have in the data set, whatever the class order: row k of the head,
    of a confusion matrix or of GradMix's class-pair map always means class k, and runs with
    different class orders can be laid side by side. Which logits take part is said by a mask
    (:meth:`seen_mask`), which the fused loss takes as it is.

    Attributes:
        name: Name of the data set.
        tasks: The tasks.
        class_order: All labels in the order in which they come.
        class_names: Name of each class, by label.
        transform: How uint8 images are made ready for the model.

    Raises:
        ValueError: a task's index is not its position.
    """

    name: str
    tasks: tuple[Task, ...]
    class_order: tuple[int, ...]
    class_names: tuple[str, ...]
    transform: ImageTransform | None = None

    def __post_init__(self) -> None:
        for position, task in enumerate(self.tasks):
            if task.index != position:
                raise ValueError(
                    f"tasks[{position}].index must be {position}, got {task.index}: give each task "
                    "its position by dataclasses.replace(task, index=...)"
                )

    def __len__(self) -> int:
        return len(self.tasks)

    def __iter__(self) -> Iterator[Task]:
        return iter(self.tasks)

    def __getitem__(self, index: int) -> Task:
        return self.tasks[index]

    @property
    def num_classes(self) -> int:
        """Number of classes over all tasks, C."""
        return len(self.class_names)

    @property
    def input_shape(self) -> tuple[int, ...]:
        """Shape of one sample."""
        return tuple(read(self.tasks[0].train_x, torch.tensor([0])).shape[1:])

    def seen_classes(self, task: int) -> tuple[int, ...]:
        """Classes of tasks 0 to `task`, in class order."""
        return tuple(k for t in self.tasks[: task + 1] for k in t.classes)

    def seen_mask(self, task: int, device: torch.device | str | None = None) -> Tensor:
        """[C] bool, True for the classes of tasks 0 to `task`."""
        mask = torch.zeros(self.num_classes, dtype=torch.bool)
        mask[list(self.seen_classes(task))] = True
        return mask.to(device)

    def samples(self, split: str = "train", tasks: int | None = None) -> tuple[RawInputs, Tensor]:
        """Inputs, as stored, and labels of the first so many tasks, or of all, in one piece.

        Args:
            split: ``"train"`` or ``"test"``.
            tasks: How many tasks.
        """
        chosen = self.tasks[:tasks]
        x = concatenate([getattr(task, f"{split}_x") for task in chosen])
        return x, torch.cat([getattr(task, f"{split}_y") for task in chosen])

    def to(self, device: torch.device | str) -> Scenario:
        """This scenario with its tensors on `device`."""
        return replace(self, tasks=tuple(task.to(device) for task in self.tasks))


def class_incremental(
    dataset: ArrayDataset | str | Path,
    tasks: int | None = None,
    increment: int | Sequence[int] | None = None,
    base: int = 0,
    class_order_seed: int | None = None,
) -> Scenario:
    """Cut a data set into tasks that each bring new classes.

    Give `tasks` or `increment`. With C classes:

    - ``tasks=T``: T tasks, as even as possible; the first ones take what does not divide.
    - ``increment=N``: tasks of N classes ("B0-IncN"); the last one takes what is left.
    - ``increment=[N1, N2, ...]``: exactly these.
    - ``base=M`` with either: the first task has M classes and the rest is cut as said above
      ("BM-IncN"). With `tasks`, the base task counts as one of the T.

    Args:
        dataset: The data, or a name for :func:`load_dataset`.
        tasks: Number of tasks.
        increment: Classes per task.
        base: Classes of the first task; 0 means that it is like the others.
        class_order_seed: Shuffles the classes before cutting; None keeps the order of the labels.

    Raises:
        ValueError: the sizes do not fit the classes, or a task would have no samples.
        TypeError: a number is not an integer, or the data is none.
    """
    if not isinstance(dataset, ArrayDataset):
        require_kind("dataset", dataset, str | Path, "an ArrayDataset, or a name or path of one")
        dataset = load_dataset(dataset)
    sizes = _task_sizes(dataset.num_classes, tasks, increment, base)
    order = _class_order(dataset.num_classes, class_order_seed)
    _require_samples(dataset)
    cut = []
    start = 0
    for index, size in enumerate(sizes):
        classes = order[start : start + size]
        start += size
        chosen = torch.tensor(classes)
        train = torch.isin(dataset.train_y, chosen).nonzero().flatten()
        test = torch.isin(dataset.test_y, chosen).nonzero().flatten()
        cut.append(
            Task(
                index,
                classes,
                subset(dataset.train_x, train),
                dataset.train_y[train],
                subset(dataset.test_x, test),
                dataset.test_y[test],
            )
        )
    return Scenario(dataset.name, tuple(cut), order, dataset.class_names, dataset.transform)


def _task_sizes(
    classes: int, tasks: int | None, increment: int | Sequence[int] | None, base: int
) -> list[int]:
    if (tasks is None) == (increment is None):
        raise ValueError("give either tasks or increment")
    base = integer("base", base)
    if not 0 <= base <= classes:
        raise ValueError(f"base = {base} must be between 0 and the {classes} classes")
    first = [base] if base else []
    rest = classes - base
    if tasks is not None:
        tasks = integer("tasks", tasks)
        if tasks < 1 or tasks > classes:
            raise ValueError(f"tasks = {tasks} must be between 1 and the {classes} classes")
        parts = tasks - len(first)
        if parts > rest or (parts == 0 and rest):
            raise ValueError(f"{classes} classes do not make {tasks} tasks with base = {base}")
        small, larger = divmod(rest, parts) if parts else (0, 0)
        return first + [small + 1] * larger + [small] * (parts - larger)
    assert increment is not None
    if np.ndim(increment) == 0:
        increment = integer("increment", cast("int", increment))
        if increment < 1 or increment > max(rest, 1):
            raise ValueError(
                f"increment = {increment} must be between 1 and the {rest} classes that "
                f"base = {base} leaves"
            )
        whole, left = divmod(rest, increment)
        return first + [increment] * whole + ([left] if left else [])
    listed = [integer("increment", size) for size in cast("Sequence[int]", increment)]
    sizes = first + listed
    if any(size < 1 for size in sizes) or sum(sizes) != classes:
        raise ValueError(
            f"increment = {listed} with base = {base} must be positive numbers that sum "
            f"to the {classes} classes"
        )
    return sizes


def _class_order(classes: int, seed: int | None) -> tuple[int, ...]:
    if seed is None:
        return tuple(range(classes))
    generator = torch.Generator().manual_seed(integer("class_order_seed", seed))
    return tuple(torch.randperm(classes, generator=generator).tolist())


def _require_samples(dataset: ArrayDataset) -> None:
    for split, labels in (("training", dataset.train_y), ("test", dataset.test_y)):
        counts = torch.bincount(labels, minlength=dataset.num_classes)
        empty = (counts == 0).nonzero().flatten().tolist()
        if empty:
            name = dataset.class_names[empty[0]]
            raise ValueError(f"{dataset.name}: class {empty[0]} ('{name}') has no {split} samples")
