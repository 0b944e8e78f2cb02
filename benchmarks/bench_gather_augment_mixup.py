"""From a uint8 data set to a mixed batch, against pipelines that users write and call today."""

from __future__ import annotations

from itertools import cycle

import pytest
import torch
import torch.nn.functional as F

import gradmix_ext as gx

M, N, SIZE, PADDING = 50_000, 512, 32, 4
MEAN, STD = (0.49, 0.48, 0.45), (0.25, 0.24, 0.26)
BATCHES = 16  # different ones in turn, so that a batch is not in the caches already


@pytest.fixture(scope="module")
def pool(device):
    torch.manual_seed(0)
    return torch.randint(256, (M, 3, SIZE, SIZE), dtype=torch.uint8, device=device)


@pytest.fixture(scope="module")
def batches(device):
    """Index, partner, λ and noise."""
    return [
        (
            *torch.randint(M, (2, N), device=device),
            torch.rand(N, device=device),
            torch.rand(N, 2, 3, device=device),
        )
        for _ in range(BATCHES)
    ]


def ours(pool, index, partner, lam, noise, mean, std, **options):
    return gx.ops.gather_augment_mixup(
        pool, index, partner, lam, mean=mean, std=std, padding=PADDING, hflip=True, noise=noise,
        **options,
    )  # fmt: skip


def shifts(noise):
    return (noise[:, :2] * (2 * PADDING + 1)).long()


def crop_by_index(images, noise):
    """Every pixel of every crop looked up at once."""
    images = F.pad(images, (PADDING,) * 4)
    pixel = torch.arange(SIZE, device=images.device)
    rows, columns = (shift[:, None] + pixel for shift in shifts(noise).unbind(1))
    columns = torch.where(noise[:, 2:] < 0.5, columns.flip(1), columns)
    sample = torch.arange(len(images), device=images.device)[:, None, None]
    return images[sample, :, rows[:, :, None], columns[:, None]].permute(0, 3, 1, 2)


def crop_by_shift(images, noise):
    """For each shift the samples that have it, along y and then along x."""
    images = F.pad(images, (PADDING,) * 4)
    along_y = images.new_empty(len(images), 3, SIZE, SIZE + 2 * PADDING)
    crops = images.new_empty(len(images), 3, SIZE, SIZE)
    dy, dx = shifts(noise).unbind(1)
    for shift in range(2 * PADDING + 1):
        along_y[dy == shift] = images[dy == shift, :, shift : shift + SIZE]
    for shift in range(2 * PADDING + 1):
        crops[dx == shift] = along_y[dx == shift, :, :, shift : shift + SIZE]
    return torch.where(noise[:, 2, None, None, None] < 0.5, crops.flip(3), crops)


def eager(crop):
    def run(pool, index, partner, lam, noise, mean, std):
        def role(position, draw):
            images = crop(pool[position], draw)
            return (images / 255 - mean.view(3, 1, 1)) / std.view(3, 1, 1)

        weight = lam.view(-1, 1, 1, 1)
        return weight * role(index, noise[:, 0]) + (1 - weight) * role(partner, noise[:, 1])

    return run


CASES = {
    "gradmix_ext": ours,
    "gradmix_ext channels_last": lambda *b: ours(*b, memory_format=torch.channels_last),
    "gradmix_ext bfloat16": lambda *b: ours(*b, dtype=torch.bfloat16),
    "eager, crop by index": eager(crop_by_index),
    "eager, crop by shift": eager(crop_by_shift),
    "torch.compile": torch.compile(eager(crop_by_index)),
}
GROUP = f"gather_augment_mixup {N} of {M}x3x{SIZE}x{SIZE}"


@pytest.mark.parametrize("case", CASES)
def test_gather_augment_mixup(case, pool, batches, measure, benchmark):
    benchmark.group = GROUP
    constants = torch.tensor(MEAN, device=pool.device), torch.tensor(STD, device=pool.device)
    want = gx.reference.gather_augment_mixup(
        pool, *batches[0][:3], mean=MEAN, std=STD, padding=PADDING, hflip=True,
        noise=batches[0][3], dtype=torch.float64,
    )  # fmt: skip
    got = CASES[case](pool, *batches[0], *constants)
    tolerance = 1e-5 if got.dtype == torch.float32 else 0.02
    torch.testing.assert_close(got.double(), want, rtol=tolerance, atol=tolerance)
    turn = cycle(batches)
    measure(lambda: CASES[case](pool, *next(turn), *constants), bytes=N * 3 * SIZE**2 * 6)


def test_limit(device, measure, benchmark):
    """A copy of a batch of the result, which moves 4/3 of the bytes but from one place."""
    benchmark.group = GROUP
    batch = torch.randn(N, 3, SIZE, SIZE, device=device)
    out = torch.empty_like(batch)
    measure(lambda: out.copy_(batch))


class Augmented(torch.utils.data.Dataset):
    """One image after another through torchvision's transforms, as tutorials have it."""

    def __init__(self, images, transform):
        self.images, self.transform = images, transform

    def __len__(self):
        return len(self.images)

    def __getitem__(self, position):
        return self.transform(self.images[position]), int(position) % 10


def test_torchvision(pool, measure, benchmark):
    v2 = pytest.importorskip("torchvision.transforms.v2")
    benchmark.group = GROUP
    steps = [
        v2.RandomCrop(SIZE, padding=PADDING), v2.RandomHorizontalFlip(),
        v2.ToDtype(torch.float32, scale=True), v2.Normalize(MEAN, STD),
    ]  # fmt: skip
    images = pool.cpu()
    functional = v2.functional
    plain = functional.to_dtype(images[:64], torch.float32, scale=True)
    torch.testing.assert_close(
        functional.normalize(plain, MEAN, STD),
        gx.reference.gather_augment_mixup(images, torch.arange(64), mean=MEAN, std=STD),
    )
    loader = torch.utils.data.DataLoader(
        Augmented(images, v2.Compose(steps)), N, shuffle=True, num_workers=2, drop_last=True,
        persistent_workers=True, pin_memory=pool.is_cuda,
    )  # fmt: skip
    mixup = v2.MixUp(alpha=1.0, num_classes=10)
    turn = iter(loader)

    def step():
        nonlocal turn
        batch = next(turn, None)
        if batch is None:
            turn = iter(loader)
            batch = next(turn)
        x, y = (t.to(pool.device, non_blocking=True) for t in batch)
        return mixup(x, y)

    measure(step)
