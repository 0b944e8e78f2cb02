"""timm's Mixup replaced: the same mixed batches as the real one from the same random numbers."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from gradmix_ext.integrations import timm as replacement
from gradmix_ext.integrations.timm import Mixup

MODES = ("batch", "pair", "elem")
KINDS = {
    "mixup": {"mixup_alpha": 0.7},
    "cutmix": {"mixup_alpha": 0.0, "cutmix_alpha": 1.3},
    "both": {"mixup_alpha": 0.7, "cutmix_alpha": 1.3},
    "minmax": {"mixup_alpha": 0.7, "cutmix_minmax": (0.2, 0.8)},
    "minmax-alone": {"mixup_alpha": 0.0, "cutmix_minmax": (0.3, 0.6)},
    "box-outside": {"mixup_alpha": 0.0, "cutmix_alpha": 1.3, "correct_lam": False},
}


def images(n: int, height: int = 9, width: int = 7, dtype=torch.float32) -> tuple[Tensor, Tensor]:
    g = torch.Generator().manual_seed(n)
    x = torch.rand(n, 3, height, width, generator=g).to(dtype)
    return x, torch.randint(5, (n,), generator=g)


class Recorded(Mixup):
    """Keeps the random numbers that a call drew, in their order."""

    def __init__(self, monkeypatch, **options) -> None:
        super().__init__(num_classes=5, **options)
        self.uniform: list[Tensor] = []
        self.lam: dict[float, Tensor] = {}
        plain = replacement.beta

        def beta(alpha, *args):
            self.lam[alpha] = plain(alpha, *args)
            return self.lam[alpha]

        monkeypatch.setattr(replacement, "beta", beta)

    def _uniform(self, count, device):
        self.uniform.append(super()._uniform(count, device))
        return self.uniform[-1]


class Replayed:
    """NumPy whose random numbers are those that a recorded call drew."""

    def __init__(self, recorded: Recorded) -> None:
        self.random = self
        mixed, switch, *box = (u.numpy() for u in recorded.uniform)
        self.kinds = (recorded.mixup_alpha > 0) + (recorded.cutmix_alpha > 0)
        self.coins = [switch, mixed] if recorded.mode != "batch" else [mixed, switch]
        self.lam = recorded.lam
        chosen = mixed < recorded.mix_prob
        if self.kinds == 2:
            chosen &= switch < recorded.switch_prob
        # The order in which timm asks: per box both sides, then both positions.
        order = (0, 2, 1, 3) if recorded.cutmix_minmax is not None else (0, 1)
        self.box = [box[k][i] for i in np.flatnonzero(chosen) for k in order] if box else []
        if self.kinds == 1:
            self.coins = [mixed]

    def __getattr__(self, name):
        return getattr(np, name)

    def rand(self, *size):
        coin = self.coins.pop(0)
        return coin if size else coin[0]

    def beta(self, alpha, _, size=None):
        lam = self.lam[alpha].double().numpy()
        return lam if size is not None else lam[0]

    def randint(self, low, high, size=None):
        return low + int(self.box.pop(0) * (high - low))


@pytest.mark.parametrize("prob", [1.0, 0.5])
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("mode", MODES)
def test_equals_timm_given_the_same_draws(mode, kind, prob, monkeypatch):
    real = pytest.importorskip("timm.data.mixup")
    options = KINDS[kind] | {"mode": mode, "prob": prob, "label_smoothing": 0.1}
    with monkeypatch.context() as patch:
        for seed in range(12):
            torch.manual_seed(seed)
            ours = Recorded(patch, **options)
            x, y = images(8)
            mixed, target = ours(x, y)
            theirs = real.Mixup(num_classes=5, **options)
            numbers = Replayed(ours)
            patch.setattr(real, "np", numbers)
            expected, expected_target = theirs(x.clone(), y)
            patch.undo()
            assert not numbers.box
            torch.testing.assert_close(mixed, expected)
            torch.testing.assert_close(target, expected_target.float())


@pytest.mark.parametrize("mode", MODES)
def test_the_law_of_lam_is_timms(mode):
    """Over many batches: the distribution of the own label's weight, drawn by each on its own."""
    real = pytest.importorskip("timm.data.mixup")
    stats = pytest.importorskip("scipy.stats")
    options = KINDS["both"] | {"mode": mode, "prob": 0.8, "switch_prob": 0.3}
    y = torch.arange(2)
    ours = Mixup(
        num_classes=2, label_smoothing=0.0, generator=torch.Generator().manual_seed(1), **options
    )
    theirs = real.Mixup(num_classes=2, label_smoothing=0.0, **options)
    state = np.random.get_state()
    np.random.seed(1)
    try:
        drawn = [
            [mixer(torch.rand(2, 1, 8, 8), y)[1][0, 0].item() for _ in range(1500)]
            for mixer in (ours, theirs)
        ]
    finally:
        np.random.set_state(state)
    # Rounded: equal weights of unmixed samples and of equal boxes must be ties on both sides.
    assert stats.ks_2samp(*np.round(drawn, 4)).pvalue > 1e-3


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("n", [0, 1, 2, 5, 7])
def test_any_number_of_samples_and_an_input_that_stays(mode, kind, n):
    x, y = images(n)
    before = x.clone()
    mixed, target = Mixup(mode=mode, num_classes=5, **KINDS[kind])(x, y)
    assert torch.equal(x, before)
    assert mixed.shape == x.shape
    assert target.shape == (n, 5)
    torch.testing.assert_close(target.sum(1), torch.ones(n))
    if n % 2:
        assert torch.equal(mixed[n // 2], x[n // 2])
        assert target[n // 2].argmax() == y[n // 2]


def test_timm_itself_refuses_odd_batches_and_changes_its_input():
    """What this replacement is for; when timm mends it, say so in the docs."""
    real = pytest.importorskip("timm.data.mixup")
    x, y = images(5)
    with pytest.raises(AssertionError, match="even"):
        real.Mixup(num_classes=5)(x, y)
    x, y = images(6)
    before = x.clone()
    real.Mixup(num_classes=5)(x, y)
    assert not torch.equal(x, before)


def test_the_two_label_loss_is_that_of_the_dense_target():
    x, y = images(9)
    logits = torch.randn(9, 5, generator=torch.Generator().manual_seed(2))
    options = {"mode": "elem", "num_classes": 5, "cutmix_alpha": 1.0}
    batch = Mixup(**options, generator=torch.Generator().manual_seed(3)).mix(x, y)
    mixed, target = Mixup(**options, generator=torch.Generator().manual_seed(3))(x, y)
    assert torch.equal(mixed, batch.x)
    torch.testing.assert_close(
        batch.loss(logits, label_smoothing=0.1), F.cross_entropy(logits, target)
    )


def test_its_generator_is_all_it_draws_from():
    x, y = images(6)
    numpy, plain = np.random.get_state()[1].copy(), torch.get_rng_state()
    first, again = (
        Mixup(mode="elem", num_classes=5, generator=torch.Generator().manual_seed(4))(x, y)
        for _ in range(2)
    )
    assert torch.equal(first[0], again[0])
    assert torch.equal(first[1], again[1])
    assert (np.random.get_state()[1] == numpy).all()
    assert torch.equal(torch.get_rng_state(), plain)


def test_it_can_be_switched_off():
    mixer = Mixup(num_classes=5, label_smoothing=0.0)
    mixer.mixup_enabled = False
    x, y = images(6)
    mixed, target = mixer(x, y)
    assert torch.equal(mixed, x)
    assert torch.equal(target, F.one_hot(y, 5).float())


@pytest.mark.parametrize("dtype", [torch.float64, torch.float16, torch.bfloat16])
def test_other_dtypes(dtype):
    x, y = images(4, dtype=dtype)
    mixed, target = Mixup(mode="elem", cutmix_alpha=1.0, num_classes=5)(x, y)
    assert mixed.dtype == dtype
    assert target.dtype == torch.float32


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"mode": "half"}, "mode must be one of batch, pair, elem, got 'half'"),
        ({"prob": 1.5}, "prob must be in"),
        ({"switch_prob": -0.1}, "switch_prob must be in"),
        ({"label_smoothing": 2.0}, "label_smoothing must be in"),
        ({"mixup_alpha": -1.0}, "mixup_alpha must be finite and not negative, got -1.0"),
        ({"mixup_alpha": 0.0}, "mixup_alpha or cutmix_alpha must be positive"),
        ({"cutmix_minmax": (0.5, 0.2)}, "cutmix_minmax must be two shares"),
        ({"num_classes": 0}, "num_classes must be positive, got 0"),
    ],
)
def test_bad_arguments(options, message):
    with pytest.raises(ValueError, match=message):
        Mixup(**options)


def test_bad_batches():
    mixer = Mixup(cutmix_alpha=1.0, num_classes=5)
    with pytest.raises(ValueError, match=r"images \[N, ch, H, W\], got shape \[4, 3\]"):
        mixer(torch.rand(4, 3), torch.arange(4))
    with pytest.raises(TypeError, match=r"target must be torch\.int64"):
        mixer(torch.rand(4, 3, 2, 2), torch.zeros(4))
    with pytest.raises(ValueError, match=r"target must have shape \[4\]"):
        mixer(torch.rand(4, 3, 2, 2), torch.zeros(3, dtype=torch.int64))
