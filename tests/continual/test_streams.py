"""The streams made from digits, and the synthetic hierarchy, against their definitions in NumPy."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from gradmix_ext.continual import ArrayDataset, class_incremental, load_dataset
from gradmix_ext.continual.datasets.digit_streams import (
    digits_corrupted,
    digits_longtail,
    digits_rotated,
)
from gradmix_ext.continual.datasets.hierarchy import class_means, hierarchy

NAMES = (
    "digits-rotated",
    "digits-permuted",
    "digits-corrupted-1",
    "digits-corrupted-2",
    "digits-corrupted-3",
    "digits-longtail",
    "hierarchy",
)
SPLITS = ("train", "test")


@pytest.fixture(scope="module")
def digits() -> ArrayDataset:
    return load_dataset("digits")


def part(dataset: ArrayDataset, split: str) -> tuple[np.ndarray, np.ndarray]:
    return getattr(dataset, f"{split}_x").numpy(), getattr(dataset, f"{split}_y").numpy()


@pytest.mark.parametrize("name", NAMES)
def test_a_name_always_gives_the_same_data(name: str) -> None:
    torch.manual_seed(1)
    first = load_dataset(name)
    torch.manual_seed(2)
    second = load_dataset(name)
    assert first.name == name
    for split in SPLITS:
        for a, b in zip(part(first, split), part(second, split), strict=True):
            np.testing.assert_array_equal(a, b)
    assert len(class_incremental(first, tasks=5, class_order_seed=0)) == 5


@pytest.mark.parametrize("split", SPLITS)
def test_rotated_classes_are_the_digits_turned(digits: ArrayDataset, split: str) -> None:
    x, y = part(digits, split)
    turned_x, turned_y = part(load_dataset("digits-rotated"), split)
    for i in range(3):
        expected = np.stack([np.rot90(image.reshape(8, 8), i).ravel() for image in x])
        own = turned_y // 10 == i
        np.testing.assert_array_equal(turned_x[own], expected)
        np.testing.assert_array_equal(turned_y[own] % 10, y)


def test_rotated_class_names_say_digit_and_angle() -> None:
    names = digits_rotated(quarters=(0, 3)).class_names
    assert names[0] == "0 0°"
    assert names[17] == "7 270°"


def test_permuted_classes_are_the_digits_in_one_pixel_order_each(digits: ArrayDataset) -> None:
    permuted = load_dataset("digits-permuted")
    original = np.concatenate([part(digits, split)[0] for split in SPLITS])
    for i in range(3):
        chosen = []
        for split in SPLITS:
            x, y = part(permuted, split)
            np.testing.assert_array_equal(y[y // 10 == i] % 10, part(digits, split)[1])
            chosen.append(x[y // 10 == i])
        changed = np.concatenate(chosen)
        # The columns of both splits together are the same columns in another order.
        assert sorted(map(bytes, changed.T.copy())) == sorted(map(bytes, original.T.copy()))
        assert np.array_equal(changed, original) == (i == 0)


@pytest.mark.parametrize("severity", [1, 2])
def test_corrupted_images_have_the_noise_and_the_square_of_their_severity(
    digits: ArrayDataset, severity: int
) -> None:
    corrupted = digits_corrupted(severity)
    x, y = part(digits, "train")
    noisy, labels = part(corrupted, "train")
    np.testing.assert_array_equal(labels, y)
    assert noisy.min() == 0
    assert noisy.max() <= 1
    # Pixels that nothing clipped: half grey and not under the square.
    middle = (x == 0.5) & (noisy > 0)
    spread = (noisy - x)[middle].std()
    kept = (noisy - x)[middle]
    assert abs(kept.mean()) < 0.02
    assert math.isclose(spread, severity / 10, rel_tol=0.12)
    # A square of zeros of this side fits each image somewhere.
    side = severity + 1
    windows = np.lib.stride_tricks.sliding_window_view(
        noisy.reshape(-1, 8, 8) == 0, (side, side), axis=(1, 2)
    )
    assert windows.all((3, 4)).any((1, 2)).all()


def test_each_longtail_class_keeps_its_share_of_the_digits_and_all_test_images(
    digits: ArrayDataset,
) -> None:
    longtail = load_dataset("digits-longtail")
    counts = longtail.train_y.bincount().tolist()
    most = int(digits.train_y.bincount().min())
    assert counts == [round(most * 20 ** (-k / 9)) for k in range(10)]
    assert counts[0] / counts[9] == pytest.approx(20, rel=0.05)
    for name in ("test_x", "test_y"):
        assert torch.equal(getattr(longtail, name), getattr(digits, name))
    known = {(image.tobytes(), int(y)) for image, y in zip(*part(digits, "train"), strict=True)}
    kept = [(image.tobytes(), int(y)) for image, y in zip(*part(longtail, "train"), strict=True)]
    assert set(kept) <= known


def test_no_test_image_has_a_version_of_itself_in_training() -> None:
    rotated = load_dataset("digits-rotated")
    (train, _), (test, _) = part(rotated, "train"), part(rotated, "test")
    # Sorted pixels know an image whichever way it is turned.
    known = {np.sort(image).tobytes() for image in train}
    assert not known & {np.sort(image).tobytes() for image in test}


@pytest.mark.parametrize("similarity", [0.0, 0.3, 1.0])
def test_the_cosine_of_class_means_is_the_similarity_within_and_zero_between(
    similarity: float,
) -> None:
    means = class_means(3, 2, similarity, dimension=12, seed=5).numpy()
    same = np.kron(np.eye(3), np.ones((2, 2)))
    expected = similarity * same + (1 - similarity) * np.eye(6)
    np.testing.assert_allclose(means @ means.T, expected, atol=1e-12)


def test_hierarchy_samples_lie_around_their_means_and_pairs_are_confused_as_said() -> None:
    data = hierarchy(
        superclasses=2, subclasses=2, similarity=0.5, noise=0.4, dimension=8, test_per_class=20_000
    )
    means = class_means(2, 2, 0.5, dimension=8, seed=0).numpy()
    x, y = part(data, "test")
    for k in range(4):
        np.testing.assert_allclose(x[y == k].mean(0), means[k], atol=0.015)
        np.testing.assert_allclose(x[y == k].std(0), 0.4, atol=0.01)
    wrong = (x[y == 0] @ (means[1] - means[0]) > 0).mean()
    expected = 0.5 * math.erfc(math.sqrt((1 - 0.5) / 2) / 0.4 / math.sqrt(2))
    assert wrong == pytest.approx(expected, abs=0.01)
    assert data.class_names == ("0.0", "0.1", "1.0", "1.1")
    assert data.train_x.shape == (400, 8)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: digits_corrupted(0), "severity must be from 1 to 7, got 0"),
        (lambda: digits_longtail(imbalance=1000), "imbalance must be from 1 to .*, got 1000"),
        (lambda: hierarchy(dimension=10), "dimension must be at least 25 .*, got 10"),
        (lambda: hierarchy(similarity=1.5), r"similarity must be in \[0, 1\], got 1.5"),
    ],
)
def test_what_cannot_be_made_is_refused(make, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()
