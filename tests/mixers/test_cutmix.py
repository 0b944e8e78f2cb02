"""CutMix against pasting by loops."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy import stats
from torch import Tensor

import gradmix_ext as gx
from gradmix_ext.mixers import by_name


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def constant_images(n: int = 12, height: int = 9, width: int = 6) -> Tensor:
    """Image i is i everywhere, so that every pixel tells where it comes from."""
    return torch.arange(float(n))[:, None, None, None].expand(n, 2, height, width).contiguous()


@pytest.mark.parametrize("per_sample_lam", [False, True])
@pytest.mark.parametrize("alpha", [0.3, 1.0, 3.0])
def test_a_box_of_the_partner_and_the_label_weight_is_its_area(alpha, per_sample_lam):
    x, y = constant_images(), torch.arange(12)
    mixer = gx.CutMix(alpha, per_sample_lam=per_sample_lam, generator=seeded(3))
    boxes = set()
    for _ in range(30):
        batch = mixer.mix(x, y)
        assert torch.equal(batch.partner.sort().values, y)
        for i, partner in enumerate(batch.partner.tolist()):
            changed = batch.x[i] == partner
            if partner == i:
                continue
            assert ((batch.x[i] == i) | changed).all()
            assert torch.equal(changed[0], changed[1])
            rows, columns = changed[0].any(1), changed[0].any(0)
            assert torch.equal(changed[0], rows[:, None] & columns)
            for lines in (rows, columns):  # one run of lines
                assert (lines.diff(prepend=torch.tensor([False])) & lines).sum() <= 1
            pasted = int(changed[0].sum())
            assert batch.lam[i].item() == pytest.approx(1 - pasted / 54, abs=1e-6)
            boxes.add(tuple(changed[0].flatten().tolist()))
        assert torch.equal(batch.lam, batch.lam_x)
    assert len(boxes) > 30 * 3 if per_sample_lam else len(boxes) <= 30


def plain_lam(rng: np.random.Generator, alpha: float, height: int, width: int) -> float:
    """λ after one draw of the paper's box, pixel by pixel."""
    lam = rng.beta(alpha, alpha)
    cy, cx = rng.integers(height), rng.integers(width)
    half_h = math.floor(height * math.sqrt(1 - lam) / 2)
    half_w = math.floor(width * math.sqrt(1 - lam) / 2)
    pasted = sum(
        cy - half_h <= row < cy + half_h and cx - half_w <= column < cx + half_w
        for row in range(height)
        for column in range(width)
    )
    return 1 - pasted / (height * width)


@pytest.mark.parametrize("alpha", [0.5, 1.0])
def test_lam_has_the_law_of_clipped_boxes(alpha):
    rng = np.random.default_rng(0)
    expected = [plain_lam(rng, alpha, 8, 12) for _ in range(2000)]
    mixer = gx.CutMix(alpha, per_sample_lam=True, generator=seeded())
    y = torch.zeros(8000, dtype=torch.int64)
    drawn = mixer.mix(torch.zeros(8000, 1, 8, 12), y).lam.double().numpy()
    # λ takes the values k / 96: compared on this grid, float32 and float64 agree
    result = stats.ks_2samp(np.rint(drawn * 96), np.rint(np.array(expected) * 96))
    assert result.pvalue > 1e-3


def test_gradients_are_those_of_pasting():
    x = torch.randn(6, 3, 5, 5, dtype=torch.float64, requires_grad=True)
    mixer = gx.CutMix(per_sample_lam=True, generator=seeded())
    batch = mixer.mix(x, torch.zeros(6, dtype=torch.int64))
    weight = torch.randn_like(batch.x)
    (batch.x * weight).sum().backward()
    expected = torch.zeros_like(x)
    origin = batch.x.detach()
    for i, j in enumerate(batch.partner.tolist()):
        own = origin[i] == x.detach()[i]
        expected[i] += weight[i] * own
        expected[j] += weight[i] * ~own
    torch.testing.assert_close(x.grad, expected)


def test_schedule_and_coupling():
    x, y = constant_images(), torch.arange(12)
    mixer = gx.CutMix(stop_epoch=2, lam_coupling="fixed", fixed_lam=(0.0, 0.7), generator=seeded())
    assert (mixer.mix(x, y).lam == 0.7).all()
    mixer.set_epoch(2)
    assert torch.equal(mixer.mix(x, y).x, x)
    # λ = 0 everywhere: a box as large as the image, of which the centre keeps at least a quarter.
    mixer = gx.CutMix(
        lam_coupling="fixed",
        fixed_lam=(0.0, 0.7),
        stop_epoch=4,
        taper="linear",
        per_sample_lam=True,
        generator=seeded(),
    )
    images, labels = torch.zeros(4000, 1, 20, 20), torch.zeros(4000, dtype=torch.int64)
    largest = []
    for epoch in range(4):
        mixer.set_epoch(epoch)
        largest.append(1 - mixer.mix(images, labels).lam_x.min().item())
    # The box has the share 1, 3/4, 1/2, 1/4 of the image, to whole pixels of either half.
    sides = [2 * math.floor(10 * math.sqrt(share)) for share in (1, 0.75, 0.5, 0.25)]
    assert largest == pytest.approx([side**2 / 400 for side in sides], abs=1e-6)


@pytest.mark.parametrize("shape", [(4, 3), (4, 3, 5), (4, 1, 2, 5, 5)])
def test_only_images(shape):
    y = torch.zeros(4, dtype=torch.int64)
    with pytest.raises(ValueError, match=r"CutMix cuts boxes out of images \[ch, H, W\], got"):
        gx.CutMix().mix(torch.zeros(shape), y)


def test_training_on_flat_samples_is_refused_before_it_starts():
    scenario = gx.continual.class_incremental("digits", tasks=5)
    with pytest.raises(ValueError, match=r"got samples of shape \[64\]"):
        gx.continual.Trainer(mixer="cutmix", buffer=20).fit(scenario)


def test_by_name():
    assert type(by_name("cutmix", 3, alpha=0.5, criterion="mixed")) is gx.CutMix
