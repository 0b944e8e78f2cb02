"""Mixers as transforms, beside torchvision's own."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset, default_collate

import gradmix_ext as gx

pytest.importorskip("torchvision", reason="pip install 'gradmix_ext[vision]'")

from torchvision import tv_tensors
from torchvision.transforms import v2

from gradmix_ext.integrations.torchvision import Mix

C = 5


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def images(n: int = 12) -> tuple[Tensor, Tensor]:
    return torch.rand(n, 3, 6, 8, generator=seeded(n)), torch.randint(C, (n,), generator=seeded(n))


MIXERS = {
    "mixup": lambda: gx.Mixup(0.4, generator=seeded()),
    "per sample": lambda: gx.Mixup(per_sample_lam=True, generator=seeded()),
    "cutmix": lambda: gx.CutMix(generator=seeded()),
    "balanced": lambda: gx.BalancedMixup(C, balance=0.5, generator=seeded()),
    "gradmix": lambda: gx.GradMix(C, generator=seeded()),
    "uncoupled": lambda: gx.Mixup(lam_coupling="independent", generator=seeded()),
}


@pytest.mark.parametrize("name", MIXERS)
def test_cross_entropy_of_the_soft_labels_is_the_mixed_loss(name):
    x, y = images()
    logits = torch.randn(12, C, generator=seeded(1))
    batch = MIXERS[name]().mix(x, y)
    mixed, soft = Mix(MIXERS[name](), C)(x, y)
    assert torch.equal(mixed, batch.x)
    torch.testing.assert_close(F.cross_entropy(logits, soft), batch.loss(logits))


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        (lambda: gx.Mixup(), v2.MixUp(num_classes=C)),
        (lambda: gx.CutMix(), v2.CutMix(num_classes=C)),
    ],
    ids=["mixup", "cutmix"],
)
def test_takes_and_gives_what_torchvisions_own_do(ours, theirs):
    x, y = images()
    for inputs in (
        (x, y),
        (tv_tensors.Image(x), y),
        ({"images": x, "LABEL": y, "name": "a"},),
        ([x, {"labels": y}],),
    ):
        mine, other = Mix(ours(), C)(*inputs), theirs(*inputs)
        flat, expected = (torch.utils._pytree.tree_flatten(each) for each in (mine, other))
        assert flat[1] == expected[1]
        for a, b in zip(flat[0], expected[0], strict=True):
            assert type(a) is type(b)
            if isinstance(a, Tensor):
                assert (a.shape, a.dtype) == (b.shape, b.dtype)


def test_the_soft_labels_tell_the_mixing_like_torchvisions():
    """From constant images the weight of each class can be read off pixels, in both libraries."""
    x = torch.eye(C)[:, :, None, None].expand(C, C, 8, 8).contiguous()
    for transform in (Mix(gx.Mixup(), C), v2.MixUp(num_classes=C)):
        mixed, soft = transform(x, torch.arange(C))
        torch.testing.assert_close(mixed.mean((2, 3)), soft)


def test_goes_where_torchvision_transforms_go():
    x, y = images()
    choice = v2.RandomChoice([Mix(gx.Mixup(), C), Mix(gx.CutMix(), C), v2.MixUp(num_classes=C)])
    for _ in range(6):
        _, soft = choice(x, y)
        torch.testing.assert_close(soft.sum(1), torch.ones(12))
    _, soft = v2.Compose([v2.RandomHorizontalFlip(), Mix(gx.Mixup(), C)])(x, y)
    assert soft.shape == (12, C)
    assert "Mixup, num_classes=5" in repr(Mix(gx.Mixup(), C))


@pytest.mark.parametrize("n", [0, 1])
def test_small_batches(n):
    mixed, soft = Mix(gx.Mixup(), C)(*images(n))
    assert mixed.shape == (n, 3, 6, 8)
    assert soft.shape == (n, C)


def test_a_labels_getter():
    x, y = images()
    mix = Mix(gx.Mixup(generator=seeded()), C, labels_getter=lambda inputs: inputs["y"])
    assert mix({"x": x, "y": y})["y"].shape == (12, C)


class Collate:
    """A collate function that can be sent to a worker."""

    def __init__(self, mix: Mix) -> None:
        self.mix = mix

    def __call__(self, samples: list) -> tuple[Tensor, Tensor]:
        return self.mix(*default_collate(samples))


def collated(mixer: gx.Mixer, workers: int, seed: int = 0) -> Tensor:
    data = TensorDataset(
        torch.eye(C)[:, :, None, None].repeat(4, 1, 2, 2), torch.arange(C).repeat(4)
    )
    loader = DataLoader(
        data,
        batch_size=5,
        num_workers=workers,
        collate_fn=Collate(Mix(mixer, C)),
        generator=seeded(seed),
        multiprocessing_context="fork" if workers else None,
    )
    return torch.stack([soft for _, soft in loader])


@pytest.mark.parametrize("generator", [None, 0])
def test_workers_draw_apart_and_reproducibly(generator):
    def run(seed: int) -> Tensor:
        mixer = gx.Mixup(generator=None if generator is None else seeded(generator))
        return collated(mixer, workers=2, seed=seed)

    soft = run(seed=0)
    assert len({tuple(batch.flatten().tolist()) for batch in soft}) == len(soft)
    assert torch.equal(soft, run(seed=0))
    assert not torch.equal(soft, run(seed=1))


def test_workers_draw_apart_from_one_generator_of_several_transforms():
    generator = seeded()
    first, second = (Mix(gx.Mixup(generator=generator), C) for _ in range(2))

    def collate(samples: list) -> tuple[Tensor, Tensor]:
        x, y = default_collate(samples)
        return first(x, y)[1], second(x, y)[1]

    data = TensorDataset(torch.rand(C * 4, 3, 2, 2), torch.arange(C).repeat(4))
    loader = DataLoader(
        data, batch_size=5, num_workers=2, collate_fn=collate, multiprocessing_context="fork"
    )
    soft = [tuple(part.flatten().tolist()) for pair in loader for part in pair]
    assert len(set(soft)) == len(soft)


def test_collating_in_the_process_itself_leaves_the_generator_alone():
    soft = collated(gx.Mixup(generator=seeded()), workers=0)
    mixer = gx.Mixup(generator=seeded())
    x = torch.eye(C)[:, :, None, None].repeat(1, 1, 2, 2)
    for batch in soft:
        torch.testing.assert_close(Mix(mixer, C)(x, torch.arange(C))[1], batch)


def test_a_mixer_with_a_criterion_is_refused_in_a_worker():
    with pytest.raises(RuntimeError, match="GradMix learns from the model"):
        collated(gx.GradMix(C), workers=1)


def test_gradmix_in_a_loop_of_soft_labels():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Flatten(), nn.Linear(3 * 48, C))
    x, y = images(40)
    mixer = gx.GradMix(C)
    mixer.update(model, (x[y > 1], y[y > 1]), (x[y <= 1], y[y <= 1]))
    mixed, soft = Mix(mixer, C)(x, y)
    F.cross_entropy(model(mixed), soft).backward()
    assert mixer.scored.all()


@pytest.mark.parametrize(
    ("inputs", "message"),
    [
        (
            (torch.rand(4, 3, 2, 2), torch.rand(4, C)),
            r"labels must be a tensor \[N\], got \[4, 5\]",
        ),
        ((torch.rand(4, 3, 2, 2), [1, 2, 3, 4]), r"labels must be a tensor \[N\], got list"),
        ((torch.rand(3, 2, 2), torch.arange(3)), r"one batch of images .* got 0 and 1"),
        ((torch.rand(4, 3, 2, 2), torch.arange(3)), r"y must have shape \[4\], got \[3\]"),
        (({"image": torch.rand(4, 3, 2, 2)},), r"labels must be a tensor \[N\], got NoneType"),
    ],
)
def test_bad_inputs(inputs, message):
    with pytest.raises(ValueError, match=message):
        Mix(gx.Mixup(), C)(*inputs)


def test_images_that_are_still_integers():
    with pytest.raises(TypeError, match="x must be float32"):
        Mix(gx.Mixup(), C)(torch.zeros(4, 3, 2, 2, dtype=torch.uint8), torch.arange(4))


def test_mixing_inside_the_model_is_refused():
    with pytest.raises(ValueError, match="ManifoldMixup mixes inside the model"):
        Mix(gx.ManifoldMixup(), C)(*images())


def test_bad_arguments():
    with pytest.raises(ValueError, match="num_classes must be positive, got 0"):
        Mix(gx.Mixup(), 0)
    with pytest.raises(ValueError, match="labels_getter must be 'default' or a function"):
        Mix(gx.Mixup(), C, labels_getter="labels")
