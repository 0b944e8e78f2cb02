"""One list of sample inputs: what every backend, gradient and compile test runs on."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

DTYPES = (torch.float64, torch.float32, torch.float16, torch.bfloat16)
# samples N, classes C, features d: empty, single, odd, prime, and beyond one vector register
SIZES = ((0, 3, 4), (1, 1, 1), (5, 3, 0), (7, 5, 3), (13, 11, 17), (67, 10, 37), (130, 33, 70))


@dataclass
class Sample:
    """Arguments of one call of an op."""

    op: str
    name: str
    args: tuple[Any, ...]
    kwargs: dict[str, Any] = field(default_factory=dict)

    def __str__(self) -> str:
        return f"{self.op}-{self.name}"

    def map(self, change: Callable[[Tensor], Tensor]) -> Sample:
        """The same call with every tensor changed."""

        def each(value: Any) -> Any:
            return change(value) if isinstance(value, Tensor) else value

        return Sample(
            self.op,
            self.name,
            tuple(map(each, self.args)),
            {name: each(value) for name, value in self.kwargs.items()},
        )

    def to(self, dtype: torch.dtype, of: torch.dtype) -> Sample:
        """The same call with the tensors of dtype ``of`` in ``dtype``; λ and noise are left."""
        return self.map(lambda t: t.to(dtype) if t.dtype == of else t)


def samples(op: str, dtype: torch.dtype, sizes=SIZES) -> list[Sample]:
    """Sample inputs of an op for data of ``dtype``."""
    make = torch.Generator().manual_seed(sum(map(ord, op)))
    builder = {
        "masked_mixup": _mixup,
        "mixup_cross_entropy": _loss,
        "class_gradients": _gradients,
        "class_gram": _gram,
        "pair_scores": _scores,
        "sample_scores": _sample_scores,
        "linear_scores": _linear_scores,
        "draw_partners": _partners,
        "draw_softly": _soft_partners,
        "mix_labels": _labels_to_mix,
        "mix_batch": _batch_to_mix,
        "pair_preferences": _preferences,
        "gather_augment_mixup": _gather,
    }[op]
    return [sample for size in sizes for sample in builder(*size, dtype, make)]


def _randn(make, dtype, *shape):
    return torch.randn(*shape, generator=make, dtype=torch.float64).to(dtype)


def _labels(make, n, classes: Tensor):
    return classes[torch.randint(len(classes), (n,), generator=make)]


def _lam(make, n):
    return torch.rand(n, generator=make)  # float32 whatever the dtype of the data


def _class_mask(make, c):
    mask = torch.rand(c, generator=make) < 0.7
    mask[torch.randint(c, (1,), generator=make)] = True
    return mask


def _mixup(n, c, d, dtype, make):
    partner = torch.randint(n, (n,), generator=make) if n else torch.empty(0, dtype=torch.int64)
    mask = torch.rand(n, generator=make) < 0.6
    flat = _randn(make, dtype, n, d)
    image = _randn(make, dtype, n, 3, c, d)
    size = f"{n}x{c}x{d}"
    yield Sample("masked_mixup", f"{size}-flat", (flat, partner, _lam(make, n), mask))
    yield Sample("masked_mixup", f"{size}-all", (flat, partner, torch.tensor(0.3)))
    yield Sample("masked_mixup", f"{size}-1d", (_randn(make, dtype, n), partner, _lam(make, n)))
    yield Sample("masked_mixup", f"{size}-image", (image, partner, _lam(make, n), mask))
    last = image.contiguous(memory_format=torch.channels_last)
    yield Sample("masked_mixup", f"{size}-last", (last, partner, _lam(make, n).double(), mask))
    strided = _randn(make, dtype, c, 2 * n, d)[:, ::2].transpose(0, 1)
    yield Sample("masked_mixup", f"{size}-strided", (strided, partner, _lam(make, n), mask))
    expanded = _randn(make, dtype, 1, d).expand(n, d)
    yield Sample("masked_mixup", f"{size}-expanded", (expanded, partner, _lam(make, n)))


def large_mixups(dtype: torch.dtype) -> list[Sample]:
    """Batches that the CPU kernel writes around the cache: odd samples, of one chunk and more."""
    make = torch.Generator().manual_seed(0)
    found = []
    for n, d in ((19, 120_011), (1103, 2_003), (9, 300_007)):
        x = _randn(make, dtype, n + 1, d)[1:]  # an odd number of elements into the memory
        partner = torch.randint(n, (n,), generator=make)
        mask = torch.rand(n, generator=make) < 0.6
        each = torch.randperm(n, generator=make)
        found += [
            Sample("masked_mixup", f"{n}x{d}-mask", (x, partner, _lam(make, n), mask)),
            Sample("masked_mixup", f"{n}x{d}-all", (x, each, _lam(make, n))),
        ]
    return found


def _head(n, c, d, dtype, make):
    return _randn(make, dtype, n, d), 3 * _randn(make, dtype, n, c)


def _loss(n, c, d, dtype, make):
    _, z = _head(n, c, d, dtype, make)
    every, mask = torch.arange(c), _class_mask(make, c)
    seen = every[mask]
    for reduction in ("mean", "sum", "none"):
        y, y2 = _labels(make, n, every), _labels(make, n, every)
        options = {"reduction": reduction}
        yield Sample(
            "mixup_cross_entropy", f"{n}x{c}-{reduction}", (z, y, y2, _lam(make, n)), options
        )
        y, y2 = _labels(make, n, seen), _labels(make, n, seen)
        options = options | {"class_mask": mask, "label_smoothing": 0.1}
        unseen = z.masked_fill(~mask, float("inf"))  # what the mask hides has no say
        yield Sample(
            "mixup_cross_entropy", f"{n}x{c}-{reduction}-masked",
            (unseen, y, y2, torch.tensor([0.6])), options,
        )  # fmt: skip
    y, y2 = _labels(make, n, seen), _labels(make, n, seen)
    weight = torch.rand(n, generator=make)
    for reduction in ("mean", "none"):
        yield Sample(
            "mixup_cross_entropy", f"{n}x{c}-{reduction}-weighted", (z, y, y2, _lam(make, n)),
            {"reduction": reduction, "sample_weight": weight, "label_smoothing": 0.1},
        )  # fmt: skip
    wide = _randn(make, dtype, c, n).T
    y, y2 = _labels(make, n, every), _labels(make, n, every)
    yield Sample("mixup_cross_entropy", f"{n}x{c}-strided", (wide, y, y2, _lam(make, n)))


def _gradients(n, c, d, dtype, make, op="class_gradients"):
    h, z = _head(n, c, d, dtype, make)
    every, mask = torch.arange(c), _class_mask(make, c)
    seen = every[mask]
    size = f"{n}x{c}x{d}"
    yield Sample(op, size, (h, z, _labels(make, n, every)))
    y, y2 = _labels(make, n, seen), _labels(make, n, seen)
    yield Sample(
        op, f"{size}-mixed", (h, z, y),
        {"partner_target": y2, "lam": _lam(make, n), "class_mask": mask, "reduction": "sum"},
    )  # fmt: skip
    groups = torch.randint(4, (n,), generator=make)
    yield Sample(op, f"{size}-groups", (h, z, y), {"groups": groups, "num_groups": 5})
    strided = _randn(make, dtype, d, n).T, _randn(make, dtype, n, 2 * c)[:, ::2]
    yield Sample(op, f"{size}-strided", (*strided, y))


def _gram(n, c, d, dtype, make):
    for sample in _gradients(n, c, d, dtype, make, "class_gram"):
        for algorithm in ("auto", "pairwise", "classwise"):
            kwargs = sample.kwargs | {"algorithm": algorithm}
            yield Sample("class_gram", f"{sample.name}-{algorithm}", sample.args, kwargs)


def _scores(n, c, d, dtype, make):
    h, z = _head(n, c, d, dtype, make)
    every, mask = torch.arange(c), _class_mask(make, c)
    direction = _randn(make, torch.float32, c, d), _randn(make, torch.float32, c)
    for name, classes, options in (
        ("all", every, {}),
        ("masked", every[mask], {"class_mask": mask}),
    ):
        y, y2 = _labels(make, n, classes), _labels(make, n, classes)
        yield Sample(
            "pair_scores", f"{n}x{c}x{d}-{name}", (h, z, y, y2, _lam(make, n), *direction),
            options | {"num_classes": c},
        )  # fmt: skip
        yield Sample(
            "pair_scores", f"{n}x{c}x{d}-{name}-direction",
            (h, z, y, y2, _lam(make, n), *(t.to(dtype) for t in direction)),
            options | {"num_classes": c},
        )  # fmt: skip
    yield Sample(
        "pair_scores", f"{n}x{c}x{d}-strided",
        (_randn(make, dtype, d, n).T, z, y, y2, torch.tensor(0.25), direction[0].T.contiguous().T,
         direction[1]),
        {"num_classes": c + 2},
    )  # fmt: skip


def _sample_scores(n, c, d, dtype, make):
    for sample in _scores(n, c, d, dtype, make):
        options = {k: v for k, v in sample.kwargs.items() if k != "num_classes"}
        yield Sample("sample_scores", sample.name, sample.args, options)


def _linear_scores(n, c, d, dtype, make):
    h, z = _head(n, c, d, dtype, make)
    every, mask = torch.arange(c), _class_mask(make, c)
    strided = _randn(make, dtype, d, n).T, _randn(make, dtype, n, 2 * c)[:, ::2]
    for name, head, classes, held, options in (
        ("all", (h, z), every, n, {}),
        ("some", (h, z), every, n // 3, {"bias": False}),
        ("none", (h, z), every, 0, {}),
        ("masked", (h, z), every[mask], n // 2, {"class_mask": mask}),
        ("one", (h, z), every[:1], n // 2, {}),
        ("strided", strided, every, (n + 1) // 2, {}),
    ):
        y = _labels(make, n, classes)
        yield Sample("linear_scores", f"{n}x{c}x{d}-{name}", (*head, y, held), options)


def _partners(n, c, d, dtype, make):
    for share in (0.0, 0.3, 1.0):
        allowed = torch.rand(c, c, generator=make) < share
        noise = torch.rand(n, generator=make, dtype=torch.float64)
        y = _labels(make, n, torch.arange(c))
        for policy in ("redraw", "skip"):
            yield Sample(
                "draw_partners", f"{n}x{c}-{share}-{policy}",
                (y, allowed | allowed.T), {"policy": policy, "noise": noise},
            )  # fmt: skip
            yield Sample(
                "draw_partners", f"{n}x{c}-{share}-{policy}-exploring",
                (y, allowed), {"policy": policy, "noise": noise, "exploration": 0.3},
            )  # fmt: skip


def _soft_partners(n, c, d, dtype, make):
    for name, scale, excluded in (("even", 0, 0.0), ("tilted", 2, 0.0), ("excluded", 9, 0.5)):
        preference = scale * _randn(make, dtype, c, c)
        preference[torch.rand(c, c, generator=make) < excluded] = -torch.inf
        noise = torch.rand(n, generator=make, dtype=torch.float64)
        y = _labels(make, n, torch.arange(c))
        yield Sample("draw_softly", f"{n}x{c}-{name}", (y, preference), {"noise": noise})
    noise = torch.rand(2 * n, generator=make, dtype=torch.float64)[::2]
    yield Sample("draw_softly", f"{n}x{c}-strided", (y, preference.T), {"noise": noise})
    if c > 2:
        unusable = preference.clone()
        unusable[0, 1], unusable[1, 2] = torch.nan, torch.inf
        yield Sample("draw_softly", f"{n}x{c}-unusable", (y, unusable), {"noise": noise})


def _labels_to_mix(n, c, d, dtype, make):
    partner = torch.randint(max(n, 1), (n,), generator=make)
    mask = torch.rand(n, generator=make) < 0.7
    y = _labels(make, n, torch.arange(c) - 2)
    lam, other = _lam(make, n).to(dtype), _lam(make, n)
    for name, lams, options in (
        ("plain", (other, other), {}),
        ("one", (other[:1].expand(n), torch.tensor(0.25)), {"balance": 1.0}),
        ("weak", (lam, other), {"strength": 0.3, "balance": 0.5}),
        ("off", (other, lam), {"strength": 0.0, "balance": 0.3}),
    ):
        yield Sample("mix_labels", f"{n}x{c}-{name}", (y, partner, mask, *lams), options)
    apart = tuple(t.repeat_interleave(2)[::2] for t in (y, partner, mask, lam, other))
    yield Sample("mix_labels", f"{n}x{c}-strided", apart, {"balance": 0.5})


def _batch_to_mix(n, c, d, dtype, make):
    y = _labels(make, n, torch.arange(c))
    odds = _randn(make, dtype, c, c)
    allowed = torch.rand(c, c, generator=make) < 0.6
    flat, image = _randn(make, dtype, n, d), _randn(make, dtype, n, 3, 2, d)
    stored = _randn(make, dtype, 2 * n + 1, 3, c, 2)
    index = torch.randint(len(stored), (n,), generator=make)
    lam, other = _lam(make, n), torch.tensor(0.25).to(dtype)
    noise = torch.rand(2 * n, generator=make, dtype=torch.float64)
    own = {"lam_x": lam, "lam_y": lam, "noise": noise[:n]}
    weak = {"lam_x": other, "lam_y": lam, "noise": noise[::2], "strength": 0.5, "balance": 0.5}
    last = stored.contiguous(memory_format=torch.channels_last)
    apart = stored.repeat_interleave(2, dim=0)[::2]
    for name, args, options in (
        ("soft", (flat, y, odds, "soft"), own),
        ("redraw", (image, y, allowed, "redraw"), own | {"exploration": 0.2, "balance": 1.0}),
        ("skip", (flat, y, allowed, "skip"), weak),
        ("uniform", (image.transpose(1, 2), y, odds, "soft"), {"noise": noise, "balance": 0.5}),
        ("stored", (stored, y, odds, "soft", index), {"noise": noise}),
        ("stored-flat", (stored.flatten(1), y, allowed, "redraw", index), weak),
        ("stored-last", (last, y, odds.T, "soft", index), own),
        ("stored-apart", (apart, y, allowed, "skip", index), {"noise": noise}),
    ):
        yield Sample("mix_batch", f"{n}x{c}x{d}-{name}", args, options)


def _preferences(n, c, d, dtype, make):
    dtype = torch.float64 if dtype == torch.float64 else torch.float32
    scores = _randn(make, dtype, c, c)
    scored = torch.rand(c, c, generator=make) < 0.7
    for name, changed, known in (
        ("all", scores, torch.ones_like(scored)),
        ("some", 1e-30 * scores + 1e-30, scored),
        ("none", scores, torch.zeros_like(scored)),
        ("alike", torch.full_like(scores, 1 / 3), scored),
        ("strided", scores.T, scored.T),
        ("unknown", scores.masked_fill(~scored, torch.nan), scored),
    ):
        yield Sample("pair_preferences", f"{c}-{name}", (changed, known, 3.0))
    yield Sample("pair_preferences", f"{c}-even", (scores, scored, float("inf")))


def _gather(n, h, w, dtype, make):
    """A few samples of images of h x w pixels, in every pair of layouts."""
    n, h = min(n, 20), min(h, 130)
    count = n + 3 if n else 0
    last = {"memory_format": torch.channels_last}

    def images(*shape):
        return torch.randint(256, (count, *shape), generator=make, dtype=torch.uint8)

    def index():
        return torch.randint(max(count, 1), (n,), generator=make)

    def options(channels, roles=2, **chosen):
        mean, std = torch.rand(2, channels, generator=make)
        noise = torch.rand(n, roles, 3, generator=make)
        return {"mean": mean, "std": std + 0.1, "noise": noise, "dtype": dtype, **chosen}

    mask = torch.rand(n, generator=make) < 0.7
    strided = images(w, 2 * h, 4).permute(0, 3, 2, 1)[:, :, ::2]
    one, two = {"padding": 2, "hflip": True}, {"padding": 2, "hflip": True, "layout": "hwc"}
    pair = (index(), index())
    for name, args, kwargs in (
        ("gather", (images(1, h, w), index()), options(1, noise=None)),
        ("alone", (images(h, w, 3), index()), options(3, 1, **two, **last)),
        ("chw", (images(3, h, w), *pair, _lam(make, n), mask), options(3, **one)),
        ("hwc", (images(h, w, 3), *pair, _lam(make, n)), options(3, **two)),
        ("last", (images(h, w, 3), *pair, _lam(make, n), mask), options(3, **two, **last)),
        ("chw-last", (images(5, h, w), *pair, _lam(make, n).double()), options(5, **one, **last)),
        ("black", (images(h, w, 2), *pair, torch.tensor([0.3])),
         options(2, layout="hwc", padding=h + w)),
        ("strided", (strided, *pair, torch.tensor(0.6)), options(4, hflip=True)),
        ("strided-last", (strided, *pair, torch.tensor(0.6)), options(4, padding=1, **last)),
    ):  # fmt: skip
        yield Sample("gather_augment_mixup", f"{n}x{h}x{w}-{name}", args, kwargs)
