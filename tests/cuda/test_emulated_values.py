"""The CUDA sources, emulated on the CPU, against float64 brute force."""

from __future__ import annotations

import blending
import precision
import pytest
import special_cases
import torch
from checks import assert_close, relative_error
from samples import DTYPES, samples
from special_cases import OPS

import gradmix_ext as gx

SCHEDULES = (("forward", 0), ("reverse", 0), ("random", 1))
BACKWARD = {
    "masked_mixup_backward": special_cases.adjoint,
    "mixup_cross_entropy_backward": special_cases.loss_gradient,
}


@pytest.mark.parametrize("schedule", SCHEDULES, ids=lambda s: s[0])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("op", OPS)
def test_values(op, dtype, schedule, emulated):
    emulated.schedule(*schedule)
    for sample in samples(op, dtype):
        assert_close(sample, getattr(emulated, op)(*sample.args, **sample.kwargs), dtype)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("op", OPS)
def test_wide_rows_and_several_tiles(op, dtype, emulated):
    for sample in special_cases.wide_samples(op, dtype):
        got = getattr(emulated, op)(*sample.args, **sample.kwargs)
        assert_close(sample, got, dtype, terms=256)


@pytest.mark.parametrize("features", precision.FEATURES)
@pytest.mark.parametrize("dtype", [t for t in DTYPES if t != torch.float64], ids=str)
def test_tensor_cores_are_as_exact_as_float32(dtype, features, emulated):
    precision.assert_as_exact_as_float32(
        emulated, precision.last_layer(70, 5, 1030, dtype, features)
    )


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_long_samples(dtype, emulated):
    for sample in special_cases.long_samples(dtype):
        assert_close(sample, emulated.masked_mixup(*sample.args), dtype)


@pytest.mark.parametrize("schedule", SCHEDULES, ids=lambda s: s[0])
def test_scores_enter_their_moving_averages(schedule, emulated):
    emulated.schedule(*schedule)
    blending.check(emulated.blend_scores)
    blending.check_observing(emulated.observe_scores)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("op", ["masked_mixup", "mixup_cross_entropy"])
def test_gradients(op, dtype, emulated):
    every = samples(op, dtype) + special_cases.wide_samples(op, dtype)
    if op == "masked_mixup":
        every += special_cases.long_samples(dtype)
    for sample in every:
        name, args, kwargs = special_cases.backward_samples(sample, dtype)
        got = getattr(emulated, name)(*args, **kwargs)
        want = BACKWARD[name](*args, **kwargs)
        accumulated = torch.float64 if dtype == torch.float64 else torch.float32
        tolerance = 64 * torch.finfo(accumulated).eps + torch.finfo(dtype).eps
        assert relative_error(got, want) <= tolerance, str(sample)
        assert got.stride() == getattr(gx.reference, name)(*args, **kwargs).stride(), str(sample)


@pytest.mark.parametrize("op", OPS)
def test_layout_is_that_of_the_reference(op, emulated):
    for sample in samples(op, torch.float32):
        got = getattr(emulated, op)(*sample.args, **sample.kwargs)
        want = getattr(gx.reference, op)(*sample.args, **sample.kwargs)
        got, want = (t if isinstance(t, tuple) else (t,) for t in (got, want))
        for a, b in zip(got, want, strict=True):
            assert (a.dtype, a.shape, a.stride()) == (b.dtype, b.shape, b.stride()), str(sample)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_unmixed_samples_are_copied_bit_for_bit(dtype, emulated):
    x = torch.randn(9, 31).to(dtype)
    x[3], x[4] = float("nan"), float("inf")
    mask = torch.zeros(9, dtype=torch.bool)
    out = emulated.masked_mixup(x, torch.arange(9).flip(0), torch.tensor(0.3), mask)
    assert torch.equal(out.view(torch.uint8), x.view(torch.uint8))


def test_out_reuses_memory(emulated):
    x, partner, lam = torch.randn(6, 3, 4, 5), torch.randperm(6), torch.rand(6)
    for layout in (torch.contiguous_format, torch.channels_last):
        x = x.contiguous(memory_format=layout)
        out = torch.full_like(x, float("nan"))
        emulated.masked_mixup.out(x, partner, lam, out=out)
        assert torch.equal(out, emulated.masked_mixup(x, partner, lam))
        with pytest.raises(RuntimeError, match="out must not overlap x"):
            emulated.masked_mixup.out(x, partner, lam, out=x)


@pytest.mark.parametrize("name", ["float16", "bfloat16"])
def test_rounding_of_every_half(name, emulated):
    """Every 16-bit value converts exactly; midpoints and neighbours round as PyTorch rounds."""
    dtype = getattr(torch, name)
    every = torch.arange(-(2**15), 2**15, dtype=torch.int32).to(torch.int16).view(dtype)
    x = torch.stack([every, torch.zeros_like(every)])
    partner, lam = torch.tensor([0, 0]), torch.tensor([0.5, 0.3])
    out = emulated.masked_mixup(x, partner, lam)
    wide = x.float()
    want = torch.stack([0.5 * wide[0] + 0.5 * wide[0], 0.3 * wide[1] + (1 - lam[1]) * wide[0]])
    want = want.to(dtype)
    assert torch.equal(out.isnan(), want.isnan())
    exact = out.nan_to_num() == want.nan_to_num()
    assert exact[0].all()
    assert exact[1].all()


def test_losses_of_infinite_logits(emulated):
    z = torch.randn(4, 1500)
    z[0, 3] = float("-inf")
    z[1, 4] = float("nan")
    z[2] = float("-inf")
    z[3, :1400] = float("-inf")
    y = torch.tensor([1450, 1, 1, 1450])
    for logits in (z, z[:, 1300:].contiguous()):
        label = y.clamp(max=logits.shape[1] - 1)
        got = emulated.mixup_cross_entropy(
            logits, label, label, torch.tensor(0.4), reduction="none"
        )
        want = torch.nn.functional.cross_entropy(logits, label, reduction="none")
        torch.testing.assert_close(got, want, equal_nan=True)
        grad = emulated.mixup_cross_entropy_backward(
            torch.ones(4), logits, label, label, torch.tensor(0.4), reduction="none"
        )
        one_hot = torch.nn.functional.one_hot(label, logits.shape[1])
        torch.testing.assert_close(grad, logits.softmax(1) - one_hot, equal_nan=True)


class TestOutOfRange:
    """What is out of range takes no part, and nothing is read or written out of bounds."""

    bad = (-1, 10**12, -(10**12), 5)

    @pytest.mark.parametrize("bad", bad)
    def test_partner(self, bad, emulated):
        x, partner, lam = torch.randn(5, 7), torch.tensor([1, bad, 0, 4, 3]), torch.rand(5)
        mask = torch.tensor([True, False, True, True, True])
        fixed = torch.where(partner == bad, 0, partner)
        assert torch.equal(
            emulated.masked_mixup(x, partner, lam), emulated.masked_mixup(x, fixed, lam, mask)
        )
        assert torch.equal(
            emulated.masked_mixup_backward(x, partner, lam),
            emulated.masked_mixup_backward(x, fixed, lam, mask),
        )
        y = torch.arange(5)
        got = emulated.mix_labels(y, partner, mask | True, lam, lam, balance=0.5)
        own = torch.where(mask, fixed, y)
        want = gx.reference.mix_labels(y, own, mask, lam, lam, balance=0.5)
        assert all(torch.equal(a, b) for a, b in zip(got, want, strict=True))

    @pytest.mark.parametrize("bad", bad)
    def test_labels(self, bad, emulated):
        z, y = torch.randn(4, 5).double(), torch.tensor([0, bad, 2, 4])
        y2, lam = torch.tensor([1, 2, bad, 4]), torch.tensor(0.25)
        got = emulated.mixup_cross_entropy(z, y, y2, lam, reduction="none")
        log_p = z.log_softmax(1)
        assert torch.allclose(got[1], -0.75 * log_p[1, 2])
        assert torch.allclose(got[2], -0.25 * log_p[2, 2])

    @pytest.mark.parametrize("bad", bad)
    def test_groups(self, bad, emulated):
        h, z, y = torch.randn(6, 3).double(), torch.randn(6, 5).double(), torch.arange(6) % 5
        groups = torch.tensor([0, bad, 1, 2, bad, 1])
        keep = groups != bad
        options = {"num_groups": 3}
        got = emulated.class_gradients(h, z, y, groups=groups, **options)
        want = gx.reference.class_gradients(
            h[keep], z[keep], y[keep], groups=groups[keep], **options
        )
        torch.testing.assert_close(got, want)
        for algorithm in ("pairwise", "classwise"):
            torch.testing.assert_close(
                emulated.class_gram(h, z, y, groups=groups, algorithm=algorithm, **options),
                gx.reference.class_gram(h[keep], z[keep], y[keep], groups=groups[keep], **options),
            )

    @pytest.mark.parametrize("bad", bad)
    def test_pairs(self, bad, emulated):
        h, z = torch.randn(4, 3).double(), torch.randn(4, 5).double()
        y, y2 = torch.tensor([0, bad, 2, 4]), torch.tensor([1, 2, bad, 4])
        keep = torch.tensor([True, False, False, True])
        rest = torch.tensor(0.5), torch.randn(5, 3).double(), torch.randn(5).double()
        got = emulated.pair_scores(h, z, y, y2, *rest, num_classes=5)
        want = gx.reference.pair_scores(h[keep], z[keep], y[keep], y2[keep], *rest, num_classes=5)
        torch.testing.assert_close(got, want)

    @pytest.mark.parametrize("bad", bad)
    @pytest.mark.parametrize("policy", ["redraw", "skip"])
    def test_draw(self, bad, policy, emulated):
        y, allowed = torch.tensor([0, bad, 1, 2, 0]), torch.ones(3, 3, dtype=torch.bool)
        for noise in (torch.rand(5).double(), torch.full((5,), float("nan")).double()):
            partner, mask = emulated.draw_partners(y, allowed, policy=policy, noise=noise)
            assert ((partner >= 0) & (partner < 5)).all()
            assert not mask[1]
            assert not (mask & (partner == 1)).any()

    @pytest.mark.parametrize("bad", bad)
    def test_soft_draw(self, bad, emulated):
        y = torch.tensor([0, bad, 1, 2, 0])
        for noise in (torch.rand(5).double(), torch.full((5,), float("nan")).double()):
            partner, mask = emulated.draw_softly(y, torch.randn(3, 3), noise)
            assert ((partner >= 0) & (partner < 5)).all()
            assert not mask[1]
            assert not (mask & (partner == 1)).any()

    @pytest.mark.parametrize("bad", bad)
    def test_blending(self, bad, emulated):
        """Such a sample is left out."""
        (pairs, (value, y, y2)), others = blending.inputs(5, 3, torch.float32), torch.arange(5) != 1
        want = [t.clone() for t in pairs]
        emulated.blend_scores(*want, value[others], y[others], y2[others], 0.9, 0.0)
        for label in (y, y2):
            spoilt = label.clone()
            spoilt[1] = bad
            got = [t.clone() for t in pairs]
            labels = (spoilt, y2) if label is y else (y, spoilt)
            emulated.blend_scores(*got, value, *labels, 0.9, 0.0)
            assert all(map(torch.equal, got, want))

    @pytest.mark.parametrize("bad", bad)
    def test_observing(self, bad, emulated):
        """Such a sample is left out."""
        (pairs, (_, y, y2)), others = blending.inputs(5, 3, torch.float32), torch.arange(5) != 1
        h, z, lam, direction, _ = blending.head(5, 3, torch.float32)
        want = [t.clone() for t in pairs]
        kept = (t[others] for t in (h, z, y, y2, lam))
        emulated.observe_scores(*want, *kept, *direction, 0.9, 0.0)
        assert not torch.equal(want[0], pairs[0])
        for label in (y, y2):
            spoilt = label.clone()
            spoilt[1] = bad
            got = [t.clone() for t in pairs]
            labels = (spoilt, y2) if label is y else (y, spoilt)
            emulated.observe_scores(*got, h, z, *labels, lam, *direction, 0.9, 0.0)
            assert all(map(torch.equal, got, want))

    @pytest.mark.parametrize("bad", bad)
    def test_linear_scores(self, bad, emulated):
        """A sample with such a label belongs to no class."""
        h, z, others = torch.randn(6, 3).double(), torch.randn(6, 4).double(), torch.arange(6) != 1
        y = torch.tensor([0, bad, 3, 1, 3, 0])
        got = emulated.linear_scores(h, z, y, 3)
        want = gx.reference.linear_scores(h[others], z[others], y[others], 3)
        torch.testing.assert_close(got, want)

    @pytest.mark.parametrize("bad", bad)
    def test_images(self, bad, emulated):
        """An image that does not exist is black as a sample and leaves alone as a partner."""
        images = torch.randint(256, (5, 3, 4, 6), dtype=torch.uint8)
        index, partner = torch.tensor([1, bad, 0, bad]), torch.tensor([2, 3, bad, bad])
        with_black = torch.cat([images, torch.zeros_like(images[:1])])
        options = {
            "mean": torch.rand(3), "std": torch.rand(3) + 0.1, "padding": 1, "hflip": True,
            "noise": torch.rand(4, 2, 3),
        }  # fmt: skip
        lam, mask = torch.rand(4), torch.tensor([True, True, False, False])
        got = emulated.gather_augment_mixup(images, index, partner, lam, **options)
        index, partner = (torch.where(t == bad, 5, t) for t in (index, partner))
        want = gx.reference.gather_augment_mixup(with_black, index, partner, lam, mask, **options)
        torch.testing.assert_close(got, want)
        nothing = emulated.gather_augment_mixup(images[:0], index, partner, lam, **options)
        black = (-options["mean"] / options["std"]).view(3, 1, 1)
        torch.testing.assert_close(nothing, black.expand(4, 3, 4, 6))


def test_noise_is_drawn_where_none_is_given(emulated):
    y, allowed = torch.zeros(200, dtype=torch.int64), torch.ones(1, 1, dtype=torch.bool)
    torch.manual_seed(1)
    first, mask = emulated.draw_partners(y, allowed)
    second, _ = emulated.draw_partners(y, allowed)
    assert mask.all()
    assert not torch.equal(first, second)
    assert len(first.unique()) > 100
    images = torch.randint(256, (4, 3, 20, 20), dtype=torch.uint8)
    options = {"mean": torch.zeros(3), "std": torch.ones(3), "padding": 9}
    first, second = (
        emulated.gather_augment_mixup(images, torch.arange(4), **options) for _ in range(2)
    )
    assert not torch.equal(first, second)


def test_bad_arguments_are_refused(emulated):
    x, partner = torch.randn(4, 3), torch.arange(4)
    with pytest.raises(RuntimeError, match="masked_mixup: partner must have 4 elements, got 3"):
        emulated.masked_mixup(x, partner[:3], torch.tensor(0.5))
    with pytest.raises(RuntimeError, match="masked_mixup: partner must be int64"):
        emulated.masked_mixup(x, partner.int(), torch.tensor(0.5))
    with pytest.raises(RuntimeError, match="masked_mixup: lam must be a scalar or have 4"):
        emulated.masked_mixup(x, partner, torch.rand(3))
    with pytest.raises(RuntimeError, match="class_gram: algorithm must be auto, pairwise"):
        emulated.class_gram(x, x, partner.clamp(max=2), algorithm="none")
    images, one = torch.zeros(4, 3, 2, 2, dtype=torch.uint8), torch.ones(3)
    with pytest.raises(
        RuntimeError, match="gather_augment_mixup: mean must have 3 elements, got 2"
    ):
        emulated.gather_augment_mixup(images, partner, mean=one[:2], std=one)
    with pytest.raises(RuntimeError, match="gather_augment_mixup: layout must be chw or hwc"):
        emulated.gather_augment_mixup(images, partner, mean=one, std=one, layout="nchw")
    with pytest.raises(RuntimeError, match="gather_augment_mixup: partner_index and lam come"):
        emulated.gather_augment_mixup(images, partner, partner, mean=one, std=one)
