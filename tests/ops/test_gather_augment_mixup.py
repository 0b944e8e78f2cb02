"""gather_augment_mixup beyond its values: randomness, edges, agreement with torchvision."""

from __future__ import annotations

import pytest
import torch

import gradmix_ext as gx

MODULES = pytest.mark.parametrize("module", [gx.ops, gx.reference], ids=["op", "reference"])
PLAIN = {"mean": [0.0] * 3, "std": [1 / 255] * 3}  # leaves the values of the pixels as they are


def data(count=50, channels=3, height=9, width=11):
    make = torch.Generator().manual_seed(0)
    return torch.randint(
        256, (count, channels, height, width), generator=make, dtype=torch.uint8
    )  # fmt: skip


@MODULES
def test_a_gather_alone_gives_the_pixels(module, backend):
    images, index = data(), torch.tensor([7, 7, 0, 49])
    out = module.gather_augment_mixup(images, index, **PLAIN)
    torch.testing.assert_close(out, images[index].float())


@MODULES
def test_crops_are_uniform_and_half_are_flipped(module, backend):
    """Each of the 25 shifts of a 2-pixel padding is as frequent as the others."""
    images = torch.zeros(1, 1, 5, 5, dtype=torch.uint8)
    images[0, 0, 2, 2] = 255
    images[0, 0, 2, 1] = 1  # tells which way round the image is
    draws = 5000
    out = module.gather_augment_mixup(
        images, torch.zeros(draws, dtype=torch.int64), mean=[0.0], std=[1 / 255], padding=2,
        hflip=True, generator=torch.Generator().manual_seed(0),
    ).round()  # fmt: skip
    peak = (out == 255).flatten(1).nonzero()[:, 1]
    assert len(peak) == draws
    seen = peak.bincount(minlength=25)
    assert len(seen) == 25
    assert ((seen - draws / 25) ** 2 / (draws / 25)).sum() < 52  # p < 0.001 at 24 degrees
    # the dim pixel is left of the peak, or right of it where flipped, unless it was cut off
    column, row = peak % 5, peak // 5
    every = torch.arange(draws)
    left = (column > 0) & (out[every, 0, row, (column - 1).clamp(min=0)] == 1)
    right = (column < 4) & (out[every, 0, row, (column + 1).clamp(max=4)] == 1)
    assert not (left & right).any()
    middle = (column > 0) & (column < 4)
    assert (left | right)[middle].all()
    assert abs(right[middle].float().mean() - 0.5) < 0.03


@MODULES
def test_sample_and_partner_are_augmented_independently(module, backend):
    """Both halves of an image mixed with itself meet in one of 25 draws."""
    images, draws = torch.zeros(1, 1, 5, 5, dtype=torch.uint8), 5000
    images[0, 0, 2, 2] = 255
    index = torch.zeros(draws, dtype=torch.int64)
    out = module.gather_augment_mixup(
        images, index, index, 0.5, mean=[0.0], std=[1.0], padding=2,
        generator=torch.Generator().manual_seed(0),
    )  # fmt: skip
    meet = (out == 1).flatten(1).any(1)
    assert ((out == 0.5).flatten(1).sum(1)[~meet] == 2).all()
    assert abs(meet.float().mean() - 1 / 25) < 0.01


@MODULES
def test_the_generator_decides(module, backend):
    images, index = data(), torch.arange(50)

    def draw(seed):
        generator = torch.Generator().manual_seed(seed)
        options = PLAIN | {"padding": 2, "hflip": True, "generator": generator}
        return module.gather_augment_mixup(images, index, index.flip(0), 0.3, **options)

    assert torch.equal(draw(1), draw(1))
    assert not torch.equal(draw(1), draw(2))


@MODULES
def test_nothing_is_drawn_without_need(module, backend):
    images, generator = data(), torch.Generator().manual_seed(3)
    before = generator.get_state()
    module.gather_augment_mixup(images, torch.arange(4), generator=generator, **PLAIN)
    assert torch.equal(generator.get_state(), before)


def test_the_op_itself_draws_what_is_missing(backend):
    images, index = data(), torch.arange(50)
    options = {"mean": torch.zeros(3), "std": torch.ones(3), "padding": 2}
    first, second = (
        torch.ops.gradmix_ext.gather_augment_mixup(images, index, **options) for _ in range(2)
    )
    assert not torch.equal(first, second)


@MODULES
@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -1.0, 1.0, 7.0])
def test_noise_out_of_range_stays_inside(module, bad, backend):
    images, index = data(), torch.tensor([3, 4])
    noise = torch.full((2, 1, 3), bad)
    edge = 0.999 if bad > 0 else 0.0
    options = PLAIN | {"padding": 2, "hflip": False}
    assert torch.equal(
        module.gather_augment_mixup(images, index, noise=noise, **options),
        module.gather_augment_mixup(images, index, noise=torch.full((2, 1, 3), edge), **options),
    )


@MODULES
def test_unmixed_samples_equal_those_without_partners(module, backend):
    """Whatever λ is there."""
    images, index = data(), torch.tensor([5, 6, 7])
    lam = torch.tensor([float("nan"), 0.5, float("inf")])
    mask = torch.tensor([False, True, False])
    alone = module.gather_augment_mixup(images, index, **PLAIN)
    mixed = module.gather_augment_mixup(images, index, index + 1, lam, mask, **PLAIN)
    assert torch.equal(mixed[::2], alone[::2])
    assert not torch.equal(mixed[1], alone[1])


@MODULES
def test_one_step_equals_torchvision(module, backend):
    """The same crops and flips by torchvision, then mixed by hand."""
    functional = pytest.importorskip("torchvision.transforms.v2.functional")
    images, n = data(), 6
    index, partner, lam = torch.arange(n), torch.arange(n) + 20, torch.rand(n)
    noise = torch.rand(n, 2, 3)
    mean, std = [0.5, 0.4, 0.3], [0.2, 0.3, 0.4]

    def role(position, draw):
        image = functional.pad(images[position], [3, 3])
        top, left = (int(r * 7) for r in draw[:2])
        image = functional.crop(image, top, left, 9, 11)
        image = functional.hflip(image) if draw[2] < 0.5 else image
        return functional.normalize(
            functional.to_dtype(image, torch.float32, scale=True), mean, std
        )

    want = torch.stack([
        lam[i] * role(index[i], noise[i, 0]) + (1 - lam[i]) * role(partner[i], noise[i, 1])
        for i in range(n)
    ])  # fmt: skip
    got = module.gather_augment_mixup(
        images, index, partner, lam, mean=mean, std=std, padding=3, hflip=True, noise=noise
    )
    torch.testing.assert_close(got, want)


@pytest.mark.parametrize("layout", ["chw", "hwc"])
@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("channels", [1, 2, 3, 4, 7, 16, 19])
def test_every_width_and_channel_count(channels, memory_format, layout, backend):
    """Lines shorter and longer than a block of the kernel, and the pool's last byte."""
    for width in (1, 2, 5, 15, 16, 17, 31, 33, 50):
        images = data(4, channels, 3, width)
        if layout == "hwc":
            images = images.permute(0, 2, 3, 1).contiguous()
        index, partner = torch.tensor([3, 0, 3]), torch.tensor([3, 3, 1])
        options = {
            "mean": torch.rand(channels), "std": torch.rand(channels) + 0.1, "padding": 4,
            "hflip": True, "noise": torch.rand(3, 2, 3), "layout": layout,
            "memory_format": memory_format,
        }  # fmt: skip
        args = images, index, partner, torch.rand(3)
        got = gx.ops.gather_augment_mixup(*args, **options)
        want = gx.reference.gather_augment_mixup(*args, **options, dtype=torch.float64)
        torch.testing.assert_close(got.double(), want, rtol=1e-5, atol=1e-5)
        assert got.stride() == want.stride()


@MODULES
def test_no_images_and_no_samples(module, backend):
    empty = torch.empty(0, dtype=torch.int64)
    for images in (data(), data(0)):
        out = module.gather_augment_mixup(images, empty, empty, 0.5, padding=1, **PLAIN)
        assert out.shape == (0, 3, 9, 11)
    with pytest.raises(RuntimeError, match=r"index\[0\] = 0 is out of range for 0 images"):
        module.gather_augment_mixup(data(0), torch.tensor([0]), **PLAIN)


def test_reference_without_value_checks(monkeypatch):
    """As on a GPU without kernels: what does not exist is black, and as a partner left out."""
    images, black = data(4), torch.zeros(1, 3, 9, 11, dtype=torch.uint8)
    index, partner = torch.tensor([1, -1, 0, 4]), torch.tensor([2, 3, 9, 9])
    options = {**PLAIN, "padding": 1, "noise": torch.rand(4, 2, 3)}
    mask = torch.tensor([True, True, False, False])
    want = gx.reference.gather_augment_mixup(
        torch.cat([images, black]), index % 5, partner.clamp(max=4), 0.25, mask, **options
    )
    monkeypatch.setattr("gradmix_ext._checks.values_checked", lambda device: False)
    got = gx.reference.gather_augment_mixup(images, index, partner, 0.25, **options)
    assert torch.equal(got, want)
    nothing = gx.reference.gather_augment_mixup(images[:0], index, partner, 0.25, **options)
    assert (nothing == 0).all()


class Gather(torch.nn.Module):
    def forward(self, images, index):
        mean, std = torch.zeros(3), torch.ones(3)
        return gx.ops.gather_augment_mixup(images, index, mean=mean, std=std, padding=2, hflip=True)


def test_its_own_noise_compiles_for_every_size(backend):
    gather, images = Gather(), data()
    compiled = torch.compile(gather, fullgraph=True, dynamic=True, backend="aot_eager")
    exported = torch.export.export(
        gather,
        (images, torch.arange(4)),
        dynamic_shapes={"images": None, "index": {0: torch.export.Dim("n", min=2)}},
    ).module()
    for n in (5, 8):
        results = []
        for form in (gather, compiled, exported):
            torch.manual_seed(n)
            results.append(form(images, torch.arange(n)))
        assert torch.equal(results[0], results[1])
        assert torch.equal(results[0], results[2])


def test_compiles_without_a_graph_break(backend):
    images, mean, std = data(), torch.rand(3), torch.rand(3) + 0.1

    def step(index, partner, lam, noise):
        x = gx.ops.gather_augment_mixup(
            images, index, partner, lam, mean=mean, std=std, padding=2, hflip=True, noise=noise,
            memory_format=torch.channels_last,
        )  # fmt: skip
        return x * 2

    compiled = torch.compile(step, fullgraph=True, dynamic=True, backend="aot_eager")
    for n in (5, 8):
        args = torch.arange(n), torch.arange(n).flip(0), torch.rand(n), torch.rand(n, 2, 3)
        got, want = compiled(*args), step(*args)
        torch.testing.assert_close(got, want)
        assert got.stride() == want.stride()
