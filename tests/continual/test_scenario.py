"""Cutting a data set into tasks, and loading it."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from gradmix_ext.continual import (
    ArrayDataset,
    class_incremental,
    dataset_names,
    load_dataset,
    register_dataset,
)
from gradmix_ext.continual.loaders import _LOADERS

# One entry of 1, at a known position, among zeros; and the same with NaN.
SPIKE = np.zeros((20, 2))
SPIKE[3, 1] = 1
NOT_FINITE = np.where(SPIKE == 1, np.nan, 0)


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


def test_digits():
    digits = load_dataset("digits")
    assert digits.num_classes == 10
    assert len(digits.train_y) == 1437
    assert len(digits.test_y) == 360
    assert digits.train_x.shape[1:] == (64,)
    assert digits.image_shape == (1, 8, 8)
    assert digits.train_x.min() == 0
    assert digits.train_x.max() == 1
    share = torch.bincount(digits.test_y) / torch.bincount(digits.train_y)
    assert ((share - 0.25).abs() < 0.02).all()
    assert torch.equal(load_dataset("digits").train_x, digits.train_x)


def test_a_registered_data_set_is_found_by_name():
    register_dataset("three")(lambda data_dir: numbered(3))
    try:
        assert "three" in dataset_names()
        assert class_incremental("three", tasks=3).num_classes == 3
    finally:
        del _LOADERS["three"]


def test_unknown_names_and_folders(tmp_path):
    with pytest.raises(ValueError, match="unknown data set 'digit': known are digits"):
        load_dataset("digit")
    with pytest.raises(FileNotFoundError, match="data folder not found"):
        load_dataset("digits", tmp_path / "nothing")
    with pytest.raises(FileNotFoundError, match="data set not found"):
        load_dataset("x.npz", tmp_path)


def test_npz_with_its_own_split(tmp_path):
    x = np.arange(24, dtype=np.uint8).reshape(6, 2, 2) * 10
    y = np.array([0, 1, 2, 0, 1, 2], dtype=np.uint8)
    np.savez(tmp_path / "tiny.npz", x_train=x, y_train=y, x_test=x[:3], y_test=y[:3])
    dataset = load_dataset(str(tmp_path / "tiny.npz"))
    assert dataset.name == "tiny"
    assert dataset.num_classes == 3
    torch.testing.assert_close(dataset.train_x, torch.tensor(x).float() / 255)
    assert torch.equal(dataset.test_y, torch.tensor([0, 1, 2]))


def test_npz_that_is_split_here(tmp_path):
    x = np.random.default_rng(0).normal(size=(50, 3))
    np.savez(tmp_path / "flat.npz", x=x, y=np.repeat(np.arange(5), 10))
    dataset = load_dataset("flat.npz", tmp_path)
    assert torch.bincount(dataset.train_y).tolist() == [8] * 5
    assert torch.bincount(dataset.test_y).tolist() == [2] * 5


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"x": np.zeros((4, 2))}, "it holds x"),
        ({"x": np.zeros((4, 2)), "y": np.zeros(4)}, "integer labels of shape"),
        ({"x": np.zeros(4), "y": np.zeros(4, int)}, "x must hold numbers of shape"),
        ({"x": np.zeros((3, 2)), "y": np.zeros(4, int)}, "3 samples and y 4 labels"),
        ({"x": np.zeros((2, 2)), "y": np.array([0, 1])}, "no 80/20 split"),
        (
            {"x": np.zeros((20, 2)), "y": np.repeat([0, 7], 10)},
            r"label out of range: y\[10\] = 7, but there are 2 classes",
        ),
        ({"x": np.zeros((20, 2)), "y": np.repeat([-1, 0], 10)}, r"y\[0\] = -1"),
        (
            {"x": np.zeros((61, 2)), "y": np.append(np.repeat(np.arange(6), 10), 60)},
            r"label out of range: y\[60\] = 60",
        ),
        (
            {"x": np.zeros((61, 2)), "y": np.append(np.repeat(np.arange(6), 10), -1)},
            r"label out of range: y\[60\] = -1",
        ),
        ({"x": NOT_FINITE, "y": np.repeat([0, 1], 10)}, r"x\[3, 1\] = nan is not a finite"),
        ({"x": -1e39 * SPIKE, "y": np.repeat([0, 1], 10)}, r"x\[3, 1\] = -1e\+39 is not a finite"),
        (
            {
                "x_train": np.zeros((20, 2)),
                "y_train": np.repeat([0, 1], 10),
                "x_test": np.float32("inf") ** SPIKE,
                "y_test": np.repeat([0, 1], 10),
            },
            r"x_test\[3, 1\] = inf is not a finite",
        ),
        (
            {
                "x_train": np.zeros((2, 3)),
                "y_train": np.array([0, 1]),
                "x_test": np.zeros((1, 3)),
                "y_test": np.array([2]),
            },
            r"test_y\[0\] = 2",
        ),
        ({"x": np.array([{}, {}]), "y": np.array([0, 1])}, "cannot be read"),
    ],
)
def test_npz_files_that_do_not_hold_what_they_must(tmp_path, arrays, message):
    np.savez(tmp_path / "bad.npz", **arrays)
    with pytest.raises(ValueError, match=message):
        load_dataset("bad.npz", tmp_path)


@pytest.mark.parametrize("damage", [b"", b"not a zip file", "truncated"])
def test_a_damaged_npz(tmp_path, damage):
    path = tmp_path / "bad.npz"
    np.savez(path, x=np.zeros((40, 9)), y=np.repeat([0, 1], 20))
    path.write_bytes(path.read_bytes()[:300] if damage == "truncated" else damage)
    with pytest.raises(ValueError, match="cannot be read as an"):
        load_dataset(str(path))


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
    with pytest.raises(ValueError, match=r"test_x\[0, 1\] = inf is not finite"):
        ArrayDataset("d", x, y, x.index_fill(1, torch.tensor(1), math.inf), y, names)
    with pytest.raises(ValueError, match="class_names is empty"):
        ArrayDataset("d", x, y, x, y, ())
    with pytest.raises(ValueError, match=r"class 2 \('c'\) has no training samples"):
        class_incremental(ArrayDataset("d", x, y, x, y, ("a", "b", "c")), tasks=2)
