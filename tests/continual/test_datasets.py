"""Data sets by name, from .npz files and from PyTorch data sets."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils.data import Dataset, IterableDataset, TensorDataset

from gradmix_ext.continual import (
    ArrayDataset,
    class_incremental,
    dataset_names,
    from_torch,
    load_dataset,
    register_dataset,
)
from gradmix_ext.continual.data import read
from gradmix_ext.continual.datasets import Source, default_data_dir
from gradmix_ext.continual.datasets.registry import _LOADERS
from gradmix_ext.mixers.images import ImageTransform

# One entry of 1, at a known position, among zeros; and the same with NaN.
SPIKE = np.zeros((20, 2))
SPIKE[3, 1] = 1
NOT_FINITE = np.where(SPIKE == 1, np.nan, 0)


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
    x, y = torch.eye(3), torch.arange(3)
    numbered = ArrayDataset("three", x, y, x, y, ("a", "b", "c"))
    register_dataset("three")(lambda source: numbered)
    try:
        assert "three" in dataset_names()
        assert class_incremental("three", tasks=3).num_classes == 3
    finally:
        del _LOADERS["three"]


def test_unknown_names_and_folders(tmp_path):
    with pytest.raises(ValueError, match=r"unknown data set 'digit': known are .*digits"):
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
    assert torch.equal(dataset.train_x, torch.tensor(x).unsqueeze(1))
    assert dataset.image_shape == (1, 2, 2)
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
    with pytest.raises(ValueError, match="cannot be read as an") as raised:
        load_dataset(str(path))
    assert "pickle" not in str(raised.value)  # no advice to run what is in it


def test_samples_that_hold_nothing(tmp_path):
    np.savez(tmp_path / "flat.npz", x=np.zeros((20, 0, 4, 3), np.uint8), y=np.repeat([0, 1], 10))
    with pytest.raises(ValueError, match=r"samples of shape \[3, 0, 4\] hold nothing"):
        load_dataset("flat.npz", tmp_path)


@pytest.mark.parametrize(
    ("shape", "to_channels_first"),
    [
        ((20, 5, 4), (0, 1, 2)),
        ((20, 5, 4, 3), (0, 3, 1, 2)),
        ((20, 5, 4, 1), (0, 3, 1, 2)),
        ((20, 3, 5, 4), (0, 1, 2, 3)),
        ((20, 1, 5, 4), (0, 1, 2, 3)),
    ],
)
def test_images_of_an_npz_stay_uint8_with_channels_first(tmp_path, shape, to_channels_first):
    x = np.random.default_rng(0).integers(256, size=shape, dtype=np.uint8)
    y = np.repeat([0, 1], 10)
    np.savez(tmp_path / "images.npz", x_train=x, y_train=y, x_test=x, y_test=y)
    dataset = load_dataset("images.npz", tmp_path)
    expected = x.transpose(to_channels_first)
    assert np.array_equal(dataset.train_x.numpy().squeeze(), expected.squeeze())
    assert tuple(dataset.train_x.shape[1:]) == dataset.image_shape
    assert dataset.image_shape[1:] == (5, 4)
    channels = dataset.image_shape[0]
    assert dataset.transform == ImageTransform((0.0,) * channels, (1.0,) * channels)


@pytest.mark.parametrize("shape", [(20, 5, 4, 2), (20, 3, 5, 3)])
def test_images_of_an_npz_whose_channels_cannot_be_told(tmp_path, shape):
    np.savez(tmp_path / "x.npz", x=np.zeros(shape, np.uint8), y=np.repeat([0, 1], 10))
    with pytest.raises(ValueError, match=r"1 or 3 channels, got \[20, "):
        load_dataset("x.npz", tmp_path)


def test_flat_uint8_inputs_of_an_npz_are_scaled(tmp_path):
    x = np.arange(40, dtype=np.uint8).reshape(20, 2)
    y = np.repeat([0, 1], 10)
    np.savez(tmp_path / "flat.npz", x_train=x, y_train=y, x_test=x, y_test=y)
    dataset = load_dataset("flat.npz", tmp_path)
    torch.testing.assert_close(dataset.train_x, torch.tensor(x).float() / 255)
    assert dataset.transform is None


def test_a_class_with_one_sample_and_one_class_only(tmp_path):
    y = np.append(np.repeat([0, 1], 10), 2)
    np.savez(tmp_path / "single.npz", x=np.zeros((21, 2)), y=y)
    with pytest.raises(ValueError, match=r"class 2 \('2'\) has a single sample"):
        load_dataset("single.npz", tmp_path)
    np.savez(tmp_path / "one.npz", x=np.zeros((10, 2)), y=np.zeros(10, int))
    dataset = load_dataset("one.npz", tmp_path)
    assert len(class_incremental(dataset, tasks=1)) == 1
    with pytest.raises(ValueError, match="between 1 and the 1 classes"):
        class_incremental(dataset, tasks=2)


# Settings -----------------------------------------------------------------------------------------


def test_augmentation_can_be_set(tmp_path):
    x, y = np.zeros((20, 4, 4), np.uint8), np.repeat([0, 1], 10)
    np.savez(tmp_path / "x.npz", x=x, y=y)
    plain = load_dataset("x.npz", tmp_path).transform
    assert (plain.padding, plain.hflip) == (0, False)
    chosen = load_dataset("x.npz", tmp_path, crop_padding=2, hflip=True).transform
    assert chosen == ImageTransform((0.0,), (1.0,), padding=2, hflip=True)
    with pytest.raises(ValueError, match="padding must not be negative, got -1"):
        load_dataset("x.npz", tmp_path, crop_padding=-1)
    with pytest.raises(ValueError, match="digits holds other inputs"):
        load_dataset("digits", hflip=True)


def test_an_image_size_that_cannot_be_had(tmp_path):
    with pytest.raises(ValueError, match="image_size = 32 cannot be had: digits"):
        load_dataset("digits", image_size=32)
    with pytest.raises(ValueError, match="image_size must be at least 1, got 0"):
        load_dataset("imagefolder", tmp_path, image_size=0)


def test_the_default_folder(monkeypatch):
    monkeypatch.setenv("GRADMIX_EXT_DATA", "/somewhere")
    monkeypatch.setenv("XDG_CACHE_HOME", "/cache")
    assert default_data_dir() == Path("/somewhere")
    monkeypatch.delenv("GRADMIX_EXT_DATA")
    assert default_data_dir() == Path("/cache/gradmix_ext/data")
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", "/home/someone")
    assert default_data_dir() == Path("/home/someone/.cache/gradmix_ext/data")


def test_the_default_folder_is_made_for_this_user_alone(monkeypatch, tmp_path):
    """It holds the compiled kernels as well, which are refused where others may write."""
    monkeypatch.delenv("GRADMIX_EXT_DATA", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert Source(download=False).folder == tmp_path / "gradmix_ext" / "data"
    assert not (tmp_path / "gradmix_ext").exists()
    umask = os.umask(0o002)
    try:
        Source().folder.mkdir()
    finally:
        os.umask(umask)
    assert (tmp_path / "gradmix_ext").stat().st_mode & 0o777 == 0o700


def test_without_torchvision(monkeypatch):
    monkeypatch.setitem(sys.modules, "torchvision", None)
    with pytest.raises(ImportError, match=r"'mnist' needs torchvision: pip install 'gradmix_ext\["):
        load_dataset("mnist")


# PyTorch data sets --------------------------------------------------------------------------------


class Pairs(Dataset):
    """Samples with labels; counts how often it is read."""

    def __init__(self, samples, labels, **attributes):
        self.samples, self.labels, self.reads = samples, labels, 0
        self.__dict__.update(attributes)

    def __len__(self):
        return len(self.samples)

    def __getitem__(self, index):
        self.reads += 1
        return self.samples[index], self.labels[index]


class Stream(IterableDataset):
    def __iter__(self):
        return iter(())


def whole(x):
    return read(x, torch.arange(len(x)))


@pytest.mark.parametrize("in_memory", [True, False])
@pytest.mark.parametrize("mode", ["L", "RGB", "RGBA", "P"])
def test_pil_images(mode, in_memory):
    pixels = np.random.default_rng(1).integers(256, size=(6, 5, 4, 3), dtype=np.uint8)
    images = [Image.fromarray(each).convert(mode) for each in pixels]
    pairs = Pairs(images, [0, 1, 2] * 2, classes=["cat", "dog", "owl"])
    dataset = from_torch(pairs, pairs, "pets", in_memory=in_memory)
    decoded = [each if mode == "L" else each.convert("RGB") for each in images]
    expected = np.stack([np.atleast_3d(each).transpose(2, 0, 1) for each in decoded])
    assert np.array_equal(whole(dataset.train_x).numpy(), expected)
    assert isinstance(dataset.train_x, torch.Tensor) == in_memory
    assert dataset.train_y.tolist() == [0, 1, 2] * 2
    assert dataset.class_names == ("cat", "dog", "owl")
    channels = 1 if mode == "L" else 3
    assert dataset.image_shape == (channels, 5, 4)
    assert dataset.transform == ImageTransform((0.0,) * channels, (1.0,) * channels)


@pytest.mark.parametrize("in_memory", [True, False])
def test_pil_images_of_more_bits(in_memory):
    pixels = np.linspace(0, 65535, 20).astype(np.uint16).reshape(5, 4)
    pairs = Pairs([Image.fromarray(pixels)] * 4, [0, 1] * 2)
    images = whole(from_torch(pairs, pairs, in_memory=in_memory).train_x)
    expected = torch.from_numpy((pixels // 256).astype(np.uint8))
    assert torch.equal(images, expected.expand(4, 1, 5, 4))
    floats = Pairs([Image.fromarray(pixels.astype(np.float32))] * 4, [0, 1] * 2)
    with pytest.raises(TypeError, match=r"train\[0\] cannot be used: .* 32 bits \(mode F\)"):
        from_torch(floats, floats, in_memory=in_memory)


@pytest.mark.parametrize("in_memory", [True, False])
def test_tensors(in_memory):
    x, y = torch.randn(9, 2, 3), torch.arange(9) % 3
    floats = from_torch(TensorDataset(x, y), TensorDataset(x[:3], y[:3]), in_memory=in_memory)
    assert torch.equal(whole(floats.train_x), x)
    assert torch.equal(floats.test_y, y[:3])
    assert (floats.transform, floats.image_shape) == (None, None)
    assert floats.class_names == ("0", "1", "2")
    grey = torch.randint(256, (9, 4, 4), dtype=torch.uint8)
    transform = ImageTransform((0.5,), (0.2,), padding=1)
    pairs = TensorDataset(grey, y)
    images = from_torch(pairs, pairs, class_names="abc", transform=transform, in_memory=in_memory)
    assert torch.equal(whole(images.train_x), grey.unsqueeze(1))
    assert images.transform is transform
    assert images.class_names == ("a", "b", "c")


def test_labels_of_a_data_set_that_is_not_held_in_memory():
    x, y = torch.randn(8, 2), [0, 1] * 4
    known = Pairs(x, y, targets=torch.tensor(y))
    assert from_torch(known, known, in_memory=False).train_y.tolist() == y
    assert known.reads < 8  # a few samples are looked at, for their shape
    moved = Pairs(x, y, targets=[9] * 8, target_transform=lambda label: label)
    assert from_torch(moved, moved, in_memory=False).train_y.tolist() == y


@pytest.mark.parametrize("in_memory", [True, False])
@pytest.mark.parametrize(
    ("samples", "labels", "error", "message"),
    [
        ([], [], ValueError, "train is empty"),
        (
            [torch.zeros(2)] * 2,
            [0, 0.5],
            TypeError,
            r"label of train\[1\] must be an integer, got 0.5",
        ),
        ([torch.zeros(2)] * 2, [0, 7], ValueError, r"train_y\[1\] = 7, but there are 2 classes"),
        ([np.zeros(2)], [0], TypeError, r"train\[0\] must be a PIL image or a tensor, got ndarray"),
        ([torch.zeros(2, dtype=torch.int64)], [0], TypeError, r"got torch.int64 \[2\]"),
        ([torch.zeros(4, dtype=torch.uint8)], [0], TypeError, r"got torch.uint8 \[4\]"),
    ],
)
def test_data_sets_that_cannot_be_used(samples, labels, error, message, in_memory):
    pairs = Pairs(samples, labels)
    with pytest.raises(error, match=message):
        from_torch(pairs, pairs, in_memory=in_memory)


def test_samples_that_differ_and_items_that_are_no_pairs():
    uneven = Pairs([torch.zeros(2), torch.zeros(3)], [0, 0], targets=[0, 0])
    with pytest.raises(
        ValueError, match=r"alike: train\[1\] is torch.float32 \[3\], train\[0\] is"
    ):
        from_torch(uneven, uneven)
    streamed = from_torch(uneven, uneven, in_memory=False)
    with pytest.raises(ValueError, match="must be alike"):
        streamed.train_x[1]
    with pytest.raises(TypeError, match=r"train\[0\] must be a sample and a label, got Tensor"):
        from_torch(torch.zeros(3, 2), torch.zeros(3, 2))
    with pytest.raises(TypeError, match="map-style data set"):
        from_torch(Stream(), Stream())
