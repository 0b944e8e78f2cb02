"""P3: in-batch mixup against what users write and call today, and against copies."""

from __future__ import annotations

import itertools
import math

import torch

import gradmix_ext as gx
from gradmix_ext.bench import Case, Role, Setting, Target, Workload
from gradmix_ext.bench.measure import MOST_SETS, ROTATED_BYTES
from gradmix_ext.bench.workload import plain

SHAPES = {"1024x3x32x32": (1024, 3, 32, 32), "256x3x224x224": (256, 3, 224, 224)}
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}
LAYOUTS = {"": torch.contiguous_format, " channels_last": torch.channels_last}
SMALL = Setting(
    "32x1x8x8 float32",
    {"shape": (32, 1, 8, 8), "dtype": torch.float32, "layout": torch.contiguous_format},
)
SETTINGS = (
    *(
        Setting(
            f"{name} {dtype}{layout}",
            {"shape": shape, "dtype": DTYPES[dtype], "layout": LAYOUTS[layout]},
            quick=dtype == "float32" and not layout,
        )
        for name, shape in SHAPES.items()
        for dtype in DTYPES
        for layout in LAYOUTS
    ),
    SMALL,
)
CLASSES = 10


def inputs(setting, device):
    """Batch, partner, λ, memory for a result, a batch that may be overwritten, labels."""
    x = torch.randn(setting["shape"], device=device).to(setting["dtype"])
    x = x.contiguous(memory_format=setting["layout"])
    n = len(x)
    return (
        x,
        torch.randperm(n, device=device),
        torch.rand(n, device=device),
        # Written once: memory that was never touched would count as taken by the call.
        x.clone(),
        x.clone(),
        torch.arange(n, device=device) % CLASSES,
    )


def truth(setting, x, partner, lam, *rest):
    return gx.reference.masked_mixup(x.double(), partner, lam.double())


def floor(setting):
    """Both batches read, one written; a multiplication and a fused multiply-add."""
    elements = torch.Size(setting["shape"]).numel()
    return 3 * elements * setting["dtype"].itemsize, 3 * elements


def tolerance(setting):
    return 1e-5 if setting["dtype"] == torch.float32 else 0.02


def eager(x, partner, lam):
    weight = lam.to(x.dtype).view(-1, 1, 1, 1)
    return weight * x + (1 - weight) * x[partner]


def lerp(x, partner, lam):
    return torch.lerp(x[partner], x, lam.to(x.dtype).view(-1, 1, 1, 1))


def of_three(function):
    return plain(lambda x, partner, lam, *rest: function(x, partner, lam))


def compiled(setting, device):
    fused = torch.compile(eager, dynamic=False)
    return lambda x, partner, lam, *rest: fused(x, partner, lam)


def drawn(x, out, partner):
    """The reference for a λ that the other side drew: the one of each sample that fits best."""
    x, out = x.double().flatten(1), out.double()
    towards = x - x[partner]
    length = (towards**2).sum(1)
    lam = ((out.flatten(1) - x[partner]) * towards).sum(1) / length
    lam = torch.where(length > 0, lam, 1.0)  # a sample may be its own partner
    assert ((lam > -0.01) & (lam < 1.01)).all(), "λ outside of [0, 1]"
    return gx.reference.masked_mixup(x, partner, lam).view(out.shape)


def torchvision(setting, device):
    from torchvision.transforms import v2

    mixup = v2.MixUp(alpha=1.0, num_classes=CLASSES)
    return lambda x, partner, lam, out, spare, y: mixup(x, y)[0]


def rolled(inputs, out):
    n = len(out)
    return drawn(inputs[0], out, torch.arange(-1, n - 1, device=out.device) % n)


def timm(mode):
    def prepare(setting, device):
        from timm.data.mixup import Mixup

        mixup = Mixup(mixup_alpha=1.0, num_classes=CLASSES, mode=mode)
        # It overwrites its input.
        return lambda x, partner, lam, out, spare, y: mixup(spare, y)[0]

    return prepare


def flipped(inputs, out):
    return drawn(inputs[4], out, torch.arange(len(out) - 1, -1, -1, device=out.device))


def kornia(setting, device):
    from kornia.augmentation import RandomMixUpV2

    mixup = RandomMixUpV2(p=1.0, data_keys=["input", "class"])
    number = torch.arange(setting["shape"][0], device=device)
    return lambda x, *rest: mixup(x, number)


def permuted(inputs, result):
    """It returns the labels of the partners: numbers, here."""
    out, labels = result
    return drawn(inputs[0], out, labels[:, 1].long())


def copy_of_same_bytes(setting, device):
    """1.5 batches, as little in the caches as the op's own: it reads two and writes one."""
    shape = (setting["shape"][0] * 3 // 2, *setting["shape"][1:])
    size = 2 * math.prod(shape) * setting["dtype"].itemsize
    pairs = []
    for _ in range(min(math.ceil(ROTATED_BYTES / size), MOST_SETS)):
        source = torch.randn(shape, device=device).to(setting["dtype"])
        pairs.append((source, source.clone()))
    turn = itertools.cycle(pairs)

    def copy(*batch):
        source, target = next(turn)
        return target.copy_(source)

    return copy


CASES = (
    Case(
        "gradmix_ext",
        of_three(lambda x, partner, lam: gx.ops.masked_mixup(x, partner, lam)),
        Role.OURS,
    ),
    Case(
        "gradmix_ext out=",
        plain(lambda x, p, lam, out, spare, y: gx.ops.masked_mixup(x, p, lam, out=out)),
        Role.OURS,
    ),
    Case("eager, two terms", of_three(eager)),
    Case("torch.lerp", of_three(lerp)),
    Case("torch.compile", compiled),
    Case("torchvision v2.MixUp", torchvision, needs="torchvision", truth=rolled),
    Case("timm batch", timm("batch"), needs="timm", truth=flipped),
    Case("timm elem", timm("elem"), needs="timm", truth=flipped, slow=True),
    Case("kornia", kornia, needs="kornia", truth=permuted, value=lambda r: r[0], slow=True),
    Case("limit: copy of the same bytes", copy_of_same_bytes, Role.LIMIT),
    Case("limit: clone (2/3 of the bytes)", plain(lambda x, *rest: x.clone()), Role.LIMIT),
)
GOALS = tuple(setting.name for setting in SETTINGS if setting is not SMALL)

WORKLOADS = (
    Workload(
        "P3", "masked_mixup", SETTINGS, CASES, inputs, truth, floor, tolerance,
        targets=(
            Target("limit: copy of the same bytes", 0.9, "gradmix_ext out=", settings=GOALS),
            Target("eager, two terms", 2.5, settings=GOALS),
            Target("timm elem", 4.0, settings=GOALS),
            Target("kornia", 4.0, settings=GOALS),
            Target("torch.compile", 1.0, settings=GOALS),
            Target("torch.compile", 1.7, "gradmix_ext out=", settings=GOALS),
        ),
    ),
)  # fmt: skip


def test_masked_mixup(replay):
    replay()
