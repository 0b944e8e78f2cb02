"""Cutting a data set into tasks."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from stored import Stored

from gradmix_ext.continual import ArrayDataset, class_incremental


def numbered(classes: int, per_class: int = 4) -> ArrayDataset:
    """Inputs that carry their class, in shuffled order."""
    y = torch.arange(classes).repeat(per_class)
    x = torch.stack([y, torch.arange(len(y))], dim=1).float()
    return ArrayDataset("numbered", x, y, x[:classes], y[:classes], tuple(map(str, range(classes))))


@pytest.mark.parametrize(
    ("classes", "how", "sizes"),
    [
        (10, {"tasks": 5}, [2, 2, 2, 2, 2]),
        (10, {"tasks": 4}, [3, 3, 2, 2]),
        (10, {"tasks": 1}, [10]),
        (10, {"tasks": 6, "base": 5}, [5, 1, 1, 1, 1, 1]),
        (10, {"tasks": 3, "base": 3}, [3, 4, 3]),
        (10, {"increment": 2}, [2, 2, 2, 2, 2]),
        (10, {"increment": 3}, [3, 3, 3, 1]),
        (10, {"increment": 2, "base": 5}, [5, 2, 2, 1]),
        (10, {"increment": 10}, [10]),
        (10, {"increment": (4, 3, 3)}, [4, 3, 3]),
        (10, {"increment": (2, 3), "base": 5}, [5, 2, 3]),
        (10, {"increment": 1, "base": 10}, [10]),
        (10, {"tasks": 1, "base": 10}, [10]),
        (1, {"tasks": 1}, [1]),
        (10, {"tasks": np.int64(5)}, [2, 2, 2, 2, 2]),
        (10, {"increment": np.int64(2), "base": np.uint8(5)}, [5, 2, 2, 1]),
        (10, {"increment": np.array([4, 3, 3])}, [4, 3, 3]),
        (10, {"increment": torch.tensor(5)}, [5, 5]),
    ],
)
def test_task_sizes(classes, how, sizes):
    scenario = class_incremental(numbered(classes, per_class=2), **how)
    assert [len(task.classes) for task in scenario] == sizes
    assert scenario.seen_classes(len(sizes) - 1) == tuple(range(classes))


@pytest.mark.parametrize(
    ("how", "message"),
    [
        ({}, "either tasks or increment"),
        ({"tasks": 2, "increment": 2}, "either tasks or increment"),
        ({"tasks": 0}, "tasks = 0"),
        ({"tasks": 11}, "tasks = 11 must be between 1 and the 10 classes"),
        ({"tasks": 1, "base": 5}, "do not make 1 tasks with base = 5"),
        ({"tasks": 7, "base": 5}, "do not make 7 tasks"),
        ({"increment": 0}, "increment = 0"),
        ({"increment": 11}, "increment = 11"),
        ({"increment": 6, "base": 5}, "the 5 classes that base = 5 leaves"),
        ({"increment": (4, 4)}, "sum to the 10 classes"),
        ({"increment": (10, 0)}, "positive numbers"),
        ({"tasks": 2, "base": 11}, "base = 11"),
    ],
)
def test_sizes_that_do_not_fit(how, message):
    with pytest.raises(ValueError, match=message):
        class_incremental(numbered(10), **how)


@pytest.mark.parametrize(
    ("how", "message"),
    [
        ({"tasks": 2.0}, "tasks must be an integer, got 2.0"),
        ({"increment": 2.5}, "increment must be an integer, got 2.5"),
        ({"increment": "43"}, "increment must be an integer, got '43'"),
        ({"increment": [5, 5.0]}, "increment must be an integer, got 5.0"),
        ({"tasks": 2, "base": "1"}, "base must be an integer, got '1'"),
        ({"tasks": 2, "class_order_seed": 0.5}, "class_order_seed must be an integer, got 0.5"),
    ],
)
def test_sizes_that_are_no_integers(how, message):
    with pytest.raises(TypeError, match=message):
        class_incremental(numbered(10), **how)


def test_tasks_hold_their_classes_with_the_original_labels():
    dataset = numbered(7)
    scenario = class_incremental(dataset, increment=3, class_order_seed=1993)
    assert sorted(scenario.class_order) == list(range(7))
    assert sum(len(task.train_y) for task in scenario) == len(dataset.train_y)
    start = 0
    for task in scenario:
        assert task.classes == scenario.class_order[start : start + len(task.classes)]
        start += len(task.classes)
        for x, y in ((task.train_x, task.train_y), (task.test_x, task.test_y)):
            assert set(y.tolist()) == set(task.classes)
            assert torch.equal(x[:, 0].long(), y)
    assert scenario.seen_mask(0).nonzero().flatten().tolist() == sorted(scenario[0].classes)
    assert scenario.seen_mask(2).all()


def test_class_order_follows_its_seed():
    orders = [
        class_incremental(numbered(10), tasks=5, class_order_seed=seed).class_order
        for seed in (0, 0, 1, None)
    ]
    assert orders[0] == orders[1] != orders[2]
    assert orders[3] == tuple(range(10))


def test_tasks_are_numbered_by_their_position():
    scenario = class_incremental(numbered(6), tasks=3)
    assert len(replace(scenario, tasks=scenario.tasks[:2])) == 2
    with pytest.raises(ValueError, match=r"tasks\[0\].index must be 0, got 1"):
        replace(scenario, tasks=scenario.tasks[1:])


def test_a_data_set_is_checked():
    x, y, names = torch.zeros(4, 2), torch.tensor([0, 1, 0, 1]), ("a", "b")
    with pytest.raises(TypeError, match="train_x must be floating point"):
        ArrayDataset("d", x.long(), y, x, y, names)
    with pytest.raises(TypeError, match="test_y must be int64"):
        ArrayDataset("d", x, y, x, y.int(), names)
    with pytest.raises(ValueError, match=r"\[4, 2\] and \[3\]"):
        ArrayDataset("d", x, y[:3], x, y, names)
    with pytest.raises(ValueError, match=r"test_y\[3\] = 2, but there are 2 classes"):
        ArrayDataset("d", x, y, x, torch.tensor([0, 1, 0, 2]), names)
    with pytest.raises(ValueError, match=r"\[2\], test samples \[3\]"):
        ArrayDataset("d", x, y, torch.zeros(4, 3), y, names)
    for test_x in (x.double(), Stored(x.double())):
        with pytest.raises(ValueError, match=r"dtype torch.float32, test samples torch.float64"):
            ArrayDataset("d", x, y, test_x, y, names)
    with pytest.raises(ValueError, match=r"test_x\[0, 1\] = inf is not finite"):
        ArrayDataset("d", x, y, x.index_fill(1, torch.tensor(1), math.inf), y, names)
    with pytest.raises(ValueError, match="class_names is empty"):
        ArrayDataset("d", x, y, x, y, ())
    with pytest.raises(ValueError, match=r"class 2 \('c'\) has no training samples"):
        class_incremental(ArrayDataset("d", x, y, x, y, ("a", "b", "c")), tasks=2)
