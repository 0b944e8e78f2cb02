"""Images and data that is not on the device: what reaches the model, from wherever it is stored."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import Dataset

from gradmix_ext.continual import ArrayDataset, ReplayBuffer, Trainer, class_incremental
from gradmix_ext.continual.data import concatenate, read, subset
from gradmix_ext.continual.feed import Feed
from gradmix_ext.mixers import GradMix, ImageBatch, ImageTransform, Mixup, NoMix

TRANSFORM = ImageTransform(mean=(0.4, 0.5, 0.6), std=(0.2, 0.3, 0.25), padding=1, hflip=True)
PLAIN = ImageTransform(TRANSFORM.mean, TRANSFORM.std)
CPU = torch.device("cpu")


class Stored(Dataset[Tensor]):
    def __init__(self, x: Tensor) -> None:
        self.x = x

    def __len__(self) -> int:
        return len(self.x)

    def __getitem__(self, index: int) -> Tensor:
        return self.x[index]


def images(n: int, seed: int = 0) -> Tensor:
    g = torch.Generator().manual_seed(seed)
    return torch.randint(256, (n, 3, 5, 4), generator=g, dtype=torch.uint8)


def normalised(x: Tensor, transform: ImageTransform = TRANSFORM) -> Tensor:
    mean, std = (torch.tensor(v).view(3, 1, 1) for v in (transform.mean, transform.std))
    return (x.float() / 255 - mean) / std


def dataset(transform: ImageTransform, stored: bool = False) -> ArrayDataset:
    """Classes are told apart by brightness."""
    y, test_y = torch.arange(6).repeat_interleave(12), torch.arange(6).repeat(4)
    x, test_x = ((images(len(v), 1) // 8) + (v * 38)[:, None, None, None] for v in (y, test_y))
    inputs = [v.to(torch.uint8) for v in (x, test_x)]
    train, test = (Stored(v) for v in inputs) if stored else inputs
    return ArrayDataset("tiny", train, y, test, test_y, tuple("abcdef"), (3, 5, 4), transform)


def network(scenario) -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Flatten(), nn.Linear(48, 6)
    )


def test_an_image_batch_is_its_normalised_images():
    pool, index = images(20), torch.tensor([3, 3, 19, 0])
    batch = ImageBatch(pool, index, TRANSFORM)
    assert len(batch) == 4
    torch.testing.assert_close(batch[:], normalised(pool[index]))
    torch.testing.assert_close(batch[1:3], normalised(pool[index[1:3]]))
    torch.testing.assert_close(batch[torch.tensor([2])], normalised(pool[[19]]))
    assert batch[:0].shape == (0, 3, 5, 4)


def test_mixing_without_augmentation_is_mixup_of_the_normalised_images():
    pool, index, y = images(20), torch.arange(5, 13), torch.arange(8) % 3
    draws = [Mixup(generator=torch.Generator().manual_seed(3)) for _ in range(2)]
    lazy = draws[0].mix(ImageBatch(pool, index, PLAIN), y)
    eager = draws[1].mix(normalised(pool[index]), y)
    assert torch.equal(lazy.partner, eager.partner)
    torch.testing.assert_close(lazy.x, eager.x)
    unmixed = NoMix().mix(ImageBatch(pool, index, PLAIN), y).x
    torch.testing.assert_close(unmixed, normalised(pool[index]))


def test_augmented_images_are_shifts_and_flips_of_the_original():
    pool = images(1)
    batch = ImageBatch(pool, torch.zeros(400, dtype=torch.int64), TRANSFORM)
    found = NoMix().mix(batch, torch.zeros(400, dtype=torch.int64)).x
    padded = nn.functional.pad(pool, (1, 1, 1, 1))
    crops = [padded[0, :, dy : dy + 5, dx : dx + 4] for dy in range(3) for dx in range(3)]
    allowed = normalised(torch.stack([*crops, *(crop.flip(2) for crop in crops)]))
    near = (found[:, None] - allowed[None]).abs().amax((2, 3, 4)) < 1e-5
    assert near.any(1).all()
    assert near.any(0).all()  # each of the 18 occurs


def test_the_criterion_sees_images_as_it_sees_their_tensors():
    pool, y = images(30), torch.arange(30) % 6
    model = network(None)
    new, old = torch.arange(20), torch.arange(20, 30)
    scores = []
    for view in (lambda index: ImageBatch(pool, index, TRANSFORM), lambda i: normalised(pool[i])):
        mixer = GradMix(6, generator=torch.Generator().manual_seed(0))
        mixer.update(model, (view(new), y[new]), (view(old), y[old]))
        scores.append(mixer.scores)
    torch.testing.assert_close(scores[0], scores[1])


@pytest.mark.parametrize("mixer", ["none", "mixup", "gradmix"])
@pytest.mark.parametrize("method", ["er", "joint"])
def test_training_is_the_same_from_memory_host_and_disk(mixer, method):
    results = []
    for transform, stored, storage, workers in (
        (PLAIN, False, "device", 0),
        (PLAIN, True, "auto", 0),
        (PLAIN, True, "host", 2),
    ):
        if workers and (mixer, method) != ("gradmix", "er"):
            continue  # processes take their time to start
        scenario = class_incremental(dataset(transform, stored), tasks=2)
        buffer = ReplayBuffer(12, "class-balanced", torch.Generator().manual_seed(1))
        trainer = Trainer(
            network, mixer, method, buffer, epochs=2, batch_size=8, storage=storage, workers=workers
        )
        result = trainer.fit(scenario)
        results.append((result.accuracy_matrix, result.confusion, buffer.data))
    for accuracy, confusion, held in results[1:]:
        assert torch.equal(accuracy, results[0][0])
        assert torch.equal(confusion, results[0][1])
        if held is not None:
            assert all(torch.equal(a, b) for a, b in zip(held, results[0][2], strict=True))


@pytest.mark.parametrize("method", ["der++", "er-ace"])
def test_what_is_replayed_does_not_depend_on_how_far_workers_read_ahead(method):
    weights = []
    for stored, workers in ((False, 0), (True, 2)):
        torch.manual_seed(0)
        model, generator = network(None), torch.Generator().manual_seed(1)
        buffer = ReplayBuffer(12, "class-balanced", generator)
        settings = {"epochs": 1, "batch_size": 8, "workers": workers}
        Trainer(model, "none", method, buffer, **settings).fit(
            class_incremental(dataset(PLAIN, stored), tasks=2)
        )
        weights.append([parameter.detach() for parameter in model.parameters()])
    assert all(torch.equal(a, b) for a, b in zip(*weights, strict=True))


def test_images_are_learned_and_held_as_bytes():
    buffer = ReplayBuffer(12, "herding")
    trainer = Trainer(network, "none", buffer=buffer, epochs=20, batch_size=8)
    flipped = ImageTransform(TRANSFORM.mean, TRANSFORM.std, hflip=True)
    result = trainer.fit(class_incremental(dataset(flipped), tasks=2))
    assert buffer.data[0].dtype == torch.uint8
    assert result.accuracy_matrix[0, 0] > 0.8  # brightness is all that counts


def test_batches_from_disk_are_those_from_memory():
    x, y = images(10), torch.arange(10)
    order = [torch.tensor([4, 1, 1]), torch.tensor([9])]
    memory = list(Feed(PLAIN, CPU).batches(x, y, order))
    disk = list(Feed(PLAIN, CPU).batches(Stored(x), y, order))
    for (a, label), (b, other) in zip(memory, disk, strict=True):
        assert torch.equal(a[:], b[:])
        assert torch.equal(label, other)


def test_pieces_of_stored_data():
    x, more = images(6), images(3, 1)
    whole = concatenate([subset(Stored(x), torch.tensor([5, 2])), more])
    assert torch.equal(read(whole, torch.arange(5)), torch.cat([x[[5, 2]], more]))
    assert read(Stored(x), torch.arange(0)).shape == (0, 3, 5, 4)


def test_errors():
    x, y = images(4), torch.tensor([0, 1, 0, 1])
    data = {"train_y": y, "test_y": y, "class_names": ("a", "b")}
    with pytest.raises(ValueError, match="train_x holds uint8 images: give transform"):
        ArrayDataset("bad", x, test_x=x, **data)
    with pytest.raises(ValueError, match=r"train_x must be images \[N, 3, H, W\]"):
        ArrayDataset("bad", x[:, :1], test_x=x, transform=PLAIN, **data)
    with pytest.raises(ValueError, match=r"a transform is for uint8 images, got train_x"):
        ArrayDataset("bad", x.float(), test_x=x.float(), transform=PLAIN, **data)
    with pytest.raises(ValueError, match="std must be positive"):
        ImageTransform((0.5,), (0.0,))
    with pytest.raises(ValueError, match="storage must be one of"):
        Trainer(buffer=1, storage="tape")
    with pytest.raises(ValueError, match="amp must be one of"):
        Trainer(buffer=1, amp="fp8")
    with pytest.raises(ValueError, match="workers must not be negative"):
        Trainer(buffer=1, workers=-1)
    with pytest.raises(ValueError, match="clip_grad must be positive"):
        Trainer(buffer=1, clip_grad=0.0)
