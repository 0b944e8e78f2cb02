"""P5: from a uint8 data set to a mixed batch, against pipelines that users write and call today."""

from __future__ import annotations

import time

import torch
import torch.nn.functional as F

import gradmix_ext as gx
from gradmix_ext.bench import Case, Role, Setting, Target, Timed, Workload
from gradmix_ext.bench.measure import WrongResult

M, SIZE, PADDING = 50_000, 32, 4
MEAN, STD = (0.49, 0.48, 0.45), (0.25, 0.24, 0.26)
SETTINGS = (Setting(f"512 of {M}x3x{SIZE}x{SIZE}", {"n": 512}, quick=True),)
# Batches of a DataLoader that are timed together.
IN_A_ROW = 8
_POOLS: dict[torch.device, torch.Tensor] = {}


def pool(device):
    """The data set, which all batches share."""
    if device not in _POOLS:
        _POOLS[device] = torch.randint(256, (M, 3, SIZE, SIZE), dtype=torch.uint8, device=device)
    return _POOLS[device]


def inputs(setting, device):
    """Index, partner, λ and noise: each batch reads other images."""
    n = setting["n"]
    index, partner = torch.randint(M, (2, n), device=device)
    return index, partner, torch.rand(n, device=device), torch.rand(n, 2, 3, device=device)


def truth(setting, index, partner, lam, noise):
    return gx.reference.gather_augment_mixup(
        pool(index.device), index, partner, lam,
        mean=MEAN, std=STD, padding=PADDING, hflip=True, noise=noise, dtype=torch.float64,
    )  # fmt: skip


def floor(setting):
    """Two bytes read and four written an element; normalised twice and mixed."""
    elements = setting["n"] * 3 * SIZE**2
    return 6 * elements, 7 * elements


def ours(**options):
    def prepare(setting, device):
        images = pool(device)
        return lambda index, partner, lam, noise: gx.ops.gather_augment_mixup(
            images, index, partner, lam,
            mean=MEAN, std=STD, padding=PADDING, hflip=True, noise=noise, **options,
        )  # fmt: skip

    return prepare


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


def eager(crop, compiled=False):
    def prepare(setting, device):
        images = pool(device)
        mean, std = (torch.tensor(v, device=device).view(3, 1, 1) for v in (MEAN, STD))

        def run(index, partner, lam, noise):
            def role(position, draw):
                return (crop(images[position], draw) / 255 - mean) / std

            weight = lam.view(-1, 1, 1, 1)
            return weight * role(index, noise[:, 0]) + (1 - weight) * role(partner, noise[:, 1])

        return torch.compile(run, dynamic=False) if compiled else run

    return prepare


class Augmented(torch.utils.data.Dataset):
    """One image after another through torchvision's transforms, as tutorials have it."""

    def __init__(self, images, transform):
        self.images, self.transform = images, transform

    def __len__(self):
        return len(self.images)

    def __getitem__(self, position):
        return self.transform(self.images[position]), position


def data_loader(workers):
    def prepare(setting, device):
        from torchvision.transforms import v2

        images = pool(device).cpu()
        steps = [
            v2.RandomCrop(SIZE, padding=PADDING), v2.RandomHorizontalFlip(),
            v2.ToDtype(torch.float32, scale=True), v2.Normalize(MEAN, STD),
        ]  # fmt: skip
        loader = torch.utils.data.DataLoader(
            Augmented(images, v2.Compose(steps)), setting["n"], shuffle=True, drop_last=True,
            num_workers=workers, persistent_workers=workers > 0, pin_memory=device.type == "cuda",
        )  # fmt: skip
        mixup = v2.MixUp(alpha=1.0, num_classes=10)
        turn = iter(loader)

        def step(*batch):
            nonlocal turn
            found = next(turn, None)
            if found is None:
                turn = iter(loader)
                found = next(turn)
            x, position = (t.to(device, non_blocking=True) for t in found)
            return *mixup(x, position % 10), x, position

        def clock():
            if device.type == "cuda":
                torch.cuda.synchronize(device)
            return time.perf_counter()

        def several(*batch):
            for _ in range(ready):
                step()
            began = clock()
            for _ in range(IN_A_ROW):
                result = step()
            seconds = (clock() - began) / IN_A_ROW
            time.sleep(1.5 * ready * seconds)  # while the workers make the next ones
            return Timed(seconds, result)

        # What workers have made while others were timed is no work of theirs in their own turn.
        ready = workers * (loader.prefetch_factor or 0)
        return several if workers else step

    return prepare


def same_pipeline(inputs, result):
    """The unmixed images are crops of their originals, and the mixed ones mixtures of them."""
    mixed, _, x, position = result
    images = pool(x.device)[position]
    padded = F.pad(images.double(), (PADDING,) * 4)
    mean, std = (torch.tensor(v, dtype=torch.float64).view(3, 1, 1).to(x) for v in (MEAN, STD))
    found = torch.zeros(len(x), dtype=torch.bool, device=x.device)
    raw = (x * std + mean) * 255
    for dy in range(2 * PADDING + 1):
        for dx in range(2 * PADDING + 1):
            crop = padded[:, :, dy : dy + SIZE, dx : dx + SIZE]
            for candidate in (crop, crop.flip(3)):
                found |= ((raw - candidate).abs() < 0.01).flatten(1).all(1)
    if not found.all():
        raise WrongResult(f"{(~found).sum().item()} images are no crops of their originals")
    wide, partner = x.double(), x.double().roll(1, 0)
    towards = wide - partner
    lam = ((mixed - partner) * towards).sum() / (towards**2).sum()
    return lam * wide + (1 - lam) * partner


CASES = (
    Case("gradmix_ext", ours(), Role.OURS),
    Case(
        "gradmix_ext channels_last", ours(memory_format=torch.channels_last), Role.OURS
    ),
    Case("eager, on the device, crop by index", eager(crop_by_index)),
    Case("eager, on the device, crop by shift", eager(crop_by_shift)),
    Case("eager, crop by index, torch.compile", eager(crop_by_index, compiled=True)),
    Case(
        "torchvision v2 + DataLoader, 2 workers, + MixUp", data_loader(2),
        needs="torchvision", truth=same_pipeline, value=lambda r: r[0], in_process=False, slow=True,
    ),
    Case(
        "torchvision v2 + DataLoader, no workers, + MixUp", data_loader(0),
        needs="torchvision", truth=same_pipeline, value=lambda r: r[0], slow=True,
    ),
    Case(
        "limit: copy of the result (4/3 of the bytes)",
        lambda setting, device: (
            lambda source, target: lambda *batch: target.copy_(source)
        )(*(torch.randn(setting["n"], 3, SIZE, SIZE, device=device) for _ in range(2))),
        Role.LIMIT,
    ),
)  # fmt: skip

WORKLOADS = (
    Workload(
        "P5", "gather_augment_mixup", SETTINGS, CASES, inputs, truth, floor,
        targets=(
            Target("torchvision v2 + DataLoader, 2 workers, + MixUp", 10.0),
            Target("eager, on the device, crop by index", 3.0),
            Target("eager, on the device, crop by shift", 3.0),
        ),
    ),
)  # fmt: skip


def test_gather_augment_mixup(replay):
    replay()
