"""The mixers that look at no gradient, and what all mixers share."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch
from scipy import stats
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode

import gradmix_ext as gx
from gradmix_ext.mixers import MIXERS, by_name
from gradmix_ext.mixers.criteria import FewOfEach
from gradmix_ext.mixers.lam import LamLaw

C = 5
NAMES = tuple(MIXERS)
#: Those that make weighted sums of whole samples; the others have tests of their own.
BLENDING = tuple(name for name in NAMES if name not in ("cutmix", "manifold"))


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def batch(n=40):
    return torch.randn(n, 3, 4), torch.randint(C, (n,))


def images(n=40):
    return torch.randn(n, 3, 2, 2), torch.randint(C, (n,))


class TestEveryBlendingMixer:
    @pytest.mark.parametrize("name", BLENDING)
    @pytest.mark.parametrize("per_sample_lam", [False, True])
    def test_batch_holds_together(self, name, per_sample_lam):
        x, y = batch()
        mixed = by_name(name, C, per_sample_lam=per_sample_lam, generator=seeded()).mix(x, y)
        lam = mixed.lam.view(-1, 1, 1)
        torch.testing.assert_close(mixed.x, lam * x + (1 - lam) * x[mixed.partner])
        assert torch.equal(mixed.x[~mixed.mask], x[~mixed.mask])
        assert torch.equal(mixed.target, y)
        assert torch.equal(mixed.partner_target, y[mixed.partner])
        assert (mixed.lam[~mixed.mask] == 1).all()
        drawn = mixed.lam[mixed.mask].unique()
        assert len(drawn) == (0 if name == "none" else mixed.mask.sum() if per_sample_lam else 1)


@pytest.mark.parametrize("name", NAMES)
class TestEveryMixer:
    @pytest.mark.parametrize("per_sample_lam", [False, True])
    def test_samples_may_still_be_in_their_data_set(self, name, per_sample_lam):
        data, labels = images(90)
        index = torch.randint(90, (40,))
        options = {} if name == "none" else {"per_sample_lam": per_sample_lam}
        plain, stored = (by_name(name, C, generator=seeded(), **options) for _ in range(2))
        want = plain.mix(data[index], labels[index])
        samples = gx.mixers.TensorBatch(data, index)
        assert len(samples) == 40
        assert torch.equal(samples[3:5], data[index[3:5]])
        got = stored.mix(samples, labels[index])
        for field in ("x", "target", "partner", "partner_target", "mask", "lam", "lam_x"):
            assert torch.equal(getattr(got, field), getattr(want, field)), field

    def test_samples_of_a_data_set_are_checked_like_others(self, name):
        data, labels = images(9)
        mixer = by_name(name, C)
        with pytest.raises(TypeError, match=r"mix: x must be float32, .* got torch.uint8"):
            mixer.mix(gx.mixers.TensorBatch(data.byte(), torch.arange(9)), labels)
        with pytest.raises(ValueError, match=r"mix: y must have shape \[4\], got \[9\]"):
            mixer.mix(gx.mixers.TensorBatch(data, torch.arange(4)), labels)
        with pytest.raises(RuntimeError, match=r"index\[8\] = 9 is out of range for 9"):
            mixer.mix(gx.mixers.TensorBatch(data, torch.arange(9) + 1), labels)
        with pytest.raises(TypeError, match=r"mix: x.index must be torch.int64, got torch.int32"):
            mixer.mix(gx.mixers.TensorBatch(data, torch.arange(9).int()), labels)
        with pytest.raises(ValueError, match=r"mix: x.index must have shape \[9\], got \[3, 3\]"):
            mixer.mix(gx.mixers.TensorBatch(data, torch.arange(9).view(3, 3)), labels)
        with pytest.raises(TypeError, match="mix: x must be a tensor, got list"):
            mixer.mix([1.0, 2.0], labels)

    def test_loss_is_the_soft_target_cross_entropy(self, name):
        x, y = images()
        mixed = by_name(name, C, generator=seeded(), balance=0.0).mix(x, y)
        logits, eye = torch.randn(40, C), torch.eye(C)
        lam = mixed.lam[:, None]
        soft = lam * eye[y] + (1 - lam) * eye[mixed.partner_target]
        torch.testing.assert_close(
            mixed.loss(logits, label_smoothing=0.1),
            torch.nn.functional.cross_entropy(logits, soft, label_smoothing=0.1),
        )

    def test_same_generator_same_batch(self, name):
        x, y = images()
        first, second = (by_name(name, C, generator=seeded(3)).mix(x, y) for _ in range(2))
        assert torch.equal(first.x, second.x)

    def test_state_resumes_the_draws(self, name):
        x, y = images()
        mixer = by_name(name, C, generator=seeded())
        mixer.mix(x, y)
        state = mixer.state_dict()
        expected = mixer.mix(x, y)
        resumed = by_name(name, C, generator=seeded(99))
        resumed.load_state_dict(state)
        assert torch.equal(resumed.mix(x, y).x, expected.x)

    def test_inference_mode_leaves_nothing_behind(self, name):
        """Tensors made in it cannot be used in training, so a mixer must not keep any."""
        x, y = images()
        mixer = by_name(name, C)
        with torch.inference_mode():
            mixer.mix(x, y)
        logits = torch.randn(40, C, requires_grad=True)
        mixer.mix(x, y).loss(logits).backward()
        assert logits.grad is not None

    @pytest.mark.parametrize("n", [0, 1])
    def test_tiny_batches(self, name, n):
        x, y = images(n)
        assert by_name(name, C).mix(x, y).x.shape == x.shape

    def test_input_is_left_alone(self, name):
        x, y = images()
        before = x.clone()
        by_name(name, C).mix(x, y)
        assert torch.equal(x, before)

    def test_step_reads_nothing_back(self, name):
        """Mixing, loss and backward never turn a tensor into a Python number."""

        class NoScalars(TorchDispatchMode):
            def __torch_dispatch__(self, func, types, args=(), kwargs=None):
                assert func is not torch.ops.aten._local_scalar_dense.default
                return func(*args, **kwargs or {})

        x, y = images()
        weight = torch.randn(12, C, requires_grad=True)
        mixer = by_name(name, C)
        with NoScalars():
            mixed = mixer.mix(x, y)
            mixed.loss(mixed.x.flatten(1) @ weight).backward()

    def test_refuses_bad_input(self, name):
        mixer = by_name(name, C)
        x, y = images()
        with pytest.raises(ValueError, match=r"y must have shape \[40\], got \[39\]"):
            mixer.mix(x, y[:-1])
        with pytest.raises(TypeError, match=r"y must be torch\.int64, got torch\.float32"):
            mixer.mix(x, y.float())
        with pytest.raises(TypeError, match=r"x must be float32, .* got torch\.uint8"):
            mixer.mix(x.byte(), y)


@pytest.mark.parametrize("name", NAMES[1:])
class TestBalance:
    y = torch.tensor([0] * 9 + [1] * 4 + [3])

    @pytest.mark.parametrize(("balance", "weight"), [(1.0, (1, 9 / 4, 9)), (0.5, (1, 1.5, 3))])
    def test_weights(self, name, balance, weight):
        mixed = by_name(name, C, balance=balance).mix(torch.randn(14, 3, 4, 4), self.y)
        want = torch.tensor([weight[0]] * 9 + [weight[1]] * 4 + [weight[2]])
        torch.testing.assert_close(mixed.weight, want / want.mean())

    @pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
    def test_loss_is_weighted(self, name, dtype):
        mixed = by_name(name, C, balance=1.0).mix(torch.randn(14, 3, 4, 4), self.y)
        logits = torch.randn(14, C, dtype=dtype)
        plain = dataclasses.replace(mixed, weight=None).loss(logits, reduction="none")
        want = plain * mixed.weight.to(dtype)
        for reduction, value in (("none", want), ("sum", want.sum()), ("mean", want.mean())):
            torch.testing.assert_close(mixed.loss(logits, reduction=reduction), value)

    def test_nothing_is_weighted_where_nothing_is_mixed(self, name):
        assert by_name(name, C, balance=0.0).mix(torch.randn(14, 3, 4, 4), self.y).weight is None
        assert by_name(name, C, stop_epoch=0).mix(torch.randn(14, 3, 4, 4), self.y).weight is None

    @pytest.mark.parametrize("balance", [-0.1, 1.1, float("nan")])
    def test_range(self, name, balance):
        with pytest.raises(ValueError, match=r"balance must be in \[0, 1\], got"):
            by_name(name, C, balance=balance)


@pytest.mark.parametrize("alpha", [0.2, 1.0, 4.0])
def test_lam_is_beta_distributed(alpha):
    lam, _ = LamLaw(alpha, per_sample=True).draw(20_000, torch.device("cpu"), seeded())
    # on a grid inside (0, 1): near 1 the draws of α < 1 are closer than float32 can tell apart
    grid = torch.arange(0.02, 1.0, 0.02)
    empirical = (lam[:, None] < grid).double().mean(dim=0)
    expected = torch.from_numpy(stats.beta(alpha, alpha).cdf(grid.double().numpy()))
    # Dvoretzky-Kiefer-Wolfowitz: exceeded with probability 2·exp(-2·n·ε²) = 0.001
    assert (empirical - expected).abs().max() < 0.0138


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
@pytest.mark.parametrize(
    "options", [{}, {"alpha": 0.4}, {"fixed": (0.3, 0.6), "coupling": "fixed"}]
)
def test_lam_is_float32_whatever_the_default(options, dtype):
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        drawn = LamLaw(**options).draw(5, torch.device("cpu"), seeded())
        one = gx.NoMix().mix(torch.randn(5, 2), torch.arange(5)).lam
    finally:
        torch.set_default_dtype(before)
    assert {lam.dtype for lam in (*drawn, one)} == {torch.float32}


@pytest.mark.parametrize("name", ["gradmix", "manifold"])
def test_another_default_device(name):
    """Such as cuda: what is drawn on the CPU says so."""
    x, y = batch()
    mixer = by_name(name, C)
    with torch.device("meta"):
        mixed = mixer.mix(x, y)
        FewOfEach(y, 3)
    assert mixed.x.device.type == "cpu"


def test_a_tracer_leaves_nothing_behind():
    transform = gx.mixers.ImageTransform((0.5,), (0.25,))
    stored, index, y = torch.zeros(9, 1, 2, 2, dtype=torch.uint8), torch.arange(5), torch.arange(5)
    with FakeTensorMode() as mode:
        fake = gx.mixers.ImageBatch(mode.from_tensor(stored), mode.from_tensor(index), transform)
        assert gx.Mixup().mix(fake, mode.from_tensor(y)).x.shape == (5, 1, 2, 2)
    mixed = gx.Mixup().mix(gx.mixers.ImageBatch(stored, index, transform), y)
    assert torch.equal(mixed.x, torch.full((5, 1, 2, 2), -2.0))


@pytest.mark.parametrize("make", [list, torch.tensor, np.array], ids=["list", "tensor", "array"])
def test_the_constants_of_a_transform_can_be_of_any_kind(make):
    transform = gx.mixers.ImageTransform(make([0.25, 0.5]), make([0.5, 2.0]))
    assert transform == gx.mixers.ImageTransform((0.25, 0.5), (0.5, 2.0))
    images, index = torch.zeros(9, 2, 2, 2, dtype=torch.uint8), torch.arange(5)
    x = gx.NoMix().mix(gx.mixers.ImageBatch(images, index, transform), index).x
    assert x[:, :, 0, 0].tolist() == [[-0.5, -0.25]] * 5


@pytest.mark.parametrize("alpha", [0.0, -1.0, float("nan"), float("inf")])
def test_alpha_must_be_positive(alpha):
    with pytest.raises(ValueError, match="alpha must be positive and finite"):
        gx.Mixup(alpha)


@pytest.mark.parametrize("name", BLENDING[1:])
class TestAsymmetricLam:
    def mix(self, name, **options):
        x, y = batch()
        return x, by_name(name, C, generator=seeded(), **options).mix(x, y)

    def test_fixed(self, name):
        x, mixed = self.mix(name, lam_coupling="fixed", fixed_lam=(0.8, 0.6))
        assert mixed.mask.all()
        torch.testing.assert_close(mixed.x, 0.8 * x + 0.2 * x[mixed.partner])
        assert (mixed.lam == 0.6).all()

    def test_independent_draws_keep_the_dominant_label(self, name):
        x, mixed = self.mix(name, lam_coupling="independent", per_sample_lam=True)
        weight = mixed.lam_x.view(-1, 1, 1)
        torch.testing.assert_close(mixed.x, weight * x + (1 - weight) * x[mixed.partner])
        assert (mixed.lam >= 0.5).all()
        assert (mixed.lam_x >= 0.5).all()
        assert abs(torch.corrcoef(torch.stack([mixed.lam, mixed.lam_x]))[0, 1]) < 0.5
        assert not torch.equal(mixed.lam, mixed.lam_x)

    def test_stop_epoch(self, name):
        mixer = by_name(name, C, stop_epoch=2)
        x, y = batch()
        for epoch, mixed in enumerate([True, True, False, False]):
            mixer.set_epoch(epoch)
            assert bool(mixer.mix(x, y).mask.all()) == mixed
        assert torch.equal(mixer.mix(x, y).x, x)
        assert not mixer.update_due(0)

    def test_linear_taper(self, name):
        options = {"lam_coupling": "fixed", "fixed_lam": (0.6, 0.6)}
        mixer = by_name(name, C, stop_epoch=4, taper="linear", **options)
        x, y = batch()
        for epoch, lam in enumerate([0.6, 0.7, 0.8, 0.9, 1.0]):
            mixer.set_epoch(epoch)
            mixed = mixer.mix(x, y)
            torch.testing.assert_close(mixed.lam, torch.full((40,), lam))
            torch.testing.assert_close(mixed.x, lam * x + (1 - lam) * x[mixed.partner])


@pytest.mark.parametrize("hook", ["draw_partners", "combine"])
def test_a_hook_that_would_not_be_called_is_refused(hook):
    hooks = {hook: lambda self, *args: None}
    for bases, own in (((gx.GradMix,), hooks), ((type("Mixin", (), hooks), gx.BalancedMixup), {})):
        with pytest.raises(TypeError, match=f"Own must not override {hook}, .* override pair_rule"):
            type("Own", bases, own)


def test_odds_that_are_learned_elsewhere():
    class Learned(gx.mixers.PairMixer):
        odds = torch.nn.Parameter(torch.zeros(C, C))

        def pair_rule(self, device):
            return gx.mixers.PairRule("soft", self.odds)

    x, y = batch()
    for samples in (x, x.clone().requires_grad_()):
        mixed = Learned().mix(samples, y)
        assert mixed.x.requires_grad == samples.requires_grad
        assert not mixed.lam.requires_grad


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"lam_coupling": "both"}, "lam_coupling must be one of same, independent, fixed"),
        ({"lam_coupling": "fixed"}, "come together, got lam_coupling='fixed' and fixed_lam=None"),
        ({"fixed_lam": (0.5, 0.5)}, "come together, got lam_coupling='same'"),
        ({"lam_coupling": "fixed", "fixed_lam": (0.5,)}, r"two numbers, λ_x and λ_y, got \(0.5,\)"),
        ({"lam_coupling": "fixed", "fixed_lam": (0.5,) * 3}, "fixed_lam must be two numbers"),
        ({"lam_coupling": "fixed", "fixed_lam": (0.5, 1.5)}, r"in \[0, 1\], got λ_y = 1.5"),
        ({"taper": "cosine", "stop_epoch": 3}, "taper must be one of none, linear, got 'cosine'"),
        ({"taper": "linear"}, "taper='linear' needs stop_epoch"),
        ({"stop_epoch": -1}, "stop_epoch must not be negative, got -1"),
    ],
)
def test_bad_lam_options(options, message):
    with pytest.raises(ValueError, match=message):
        gx.Mixup(**options)


def test_mixup_permutes():
    x, y = batch()
    assert torch.equal(gx.Mixup().mix(x, y).partner.sort().values, torch.arange(40))


def test_balanced_partner_classes_are_uniform():
    y = torch.tensor([0] * 60 + [1] * 3 + [4])
    mixer = gx.BalancedMixup(C, generator=seeded())
    drawn = torch.cat([y[mixer.draw_partners(y)[0]] for _ in range(100)])
    count = drawn.bincount(minlength=C)
    assert count[2] == count[3] == 0
    assert stats.chisquare(count[[0, 1, 4]].numpy()).pvalue > 1e-3


@pytest.mark.parametrize(
    ("count", "error", "message"),
    [
        (0, ValueError, "num_classes must be positive, got 0"),
        (2.0, TypeError, "num_classes must be an integer, got 2.0"),
        (True, TypeError, "num_classes must be an integer, got True"),
    ],
)
def test_balanced_checks_the_number_of_classes(count, error, message):
    with pytest.raises(error, match=message):
        gx.BalancedMixup(count)


def test_balanced_names_a_label_out_of_range():
    with pytest.raises(RuntimeError, match=r"target\[1\] = 7 is out of range for 5 classes"):
        gx.BalancedMixup(C).mix(torch.randn(2, 3), torch.tensor([0, 7]))


def test_unknown_mixer():
    with pytest.raises(ValueError, match=r"^name must be one of none, mixup, .* got 'cutout'"):
        by_name("cutout", C)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("option", ["ballance", "self", "args", "kwargs", "options"])
def test_an_option_that_no_mixer_has_is_refused(name, option):
    with pytest.raises(TypeError, match=f"^no mixer has an option '{option}'"):
        by_name(name, C, **{option: 1.0}, balance=0.5)


def test_an_option_of_other_mixers_is_left_out():
    assert by_name("mixup", C, balance=0.5, temperature=2.0, layers=["input"]).balance == 0.5


def test_weights_reach_every_reduction_of_the_loss():
    g = torch.Generator().manual_seed(0)
    y = torch.tensor([0, 0, 0, 1])
    batch = gx.Mixup(generator=g, balance=1.0).mix(torch.randn(4, 3, generator=g), y)
    logits = torch.randn(4, 2, generator=g)
    plain = dataclasses.replace(batch, weight=None)
    each = plain.loss(logits, reduction="none") * torch.tensor([2 / 3, 2 / 3, 2 / 3, 2])
    torch.testing.assert_close(batch.loss(logits, reduction="none"), each)
    torch.testing.assert_close(batch.loss(logits, reduction="sum"), each.sum())
    torch.testing.assert_close(batch.loss(logits), each.mean())
    for each_batch in (batch, plain):
        with pytest.raises(ValueError, match="reduction"):
            each_batch.loss(logits, reduction="median")
