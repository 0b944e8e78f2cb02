"""ECE against a loop over bins."""

from __future__ import annotations

import pytest
import torch

from gradmix_ext.robustness import expected_calibration_error


def by_loop(logits, target, bins):
    confidence, prediction = logits.softmax(1).max(1)
    total = 0.0
    for b in range(bins):
        inside = (confidence > b / bins) & (confidence <= (b + 1) / bins)
        if inside.any():
            accuracy = (prediction == target)[inside].double().mean()
            gap = (accuracy - confidence[inside].mean()).abs()
            total += float(gap * inside.sum())
    return total / len(target)


@pytest.mark.parametrize("bins", [1, 7, 15])
def test_matches_a_loop_over_bins(bins):
    generator = torch.Generator().manual_seed(bins)
    logits = 3 * torch.randn(200, 5, generator=generator, dtype=torch.float64)
    target = torch.randint(5, (200,), generator=generator)
    expected = by_loop(logits, target, bins)
    assert expected_calibration_error(logits, target, bins) == pytest.approx(expected)


def test_certain_and_right_is_calibrated_certain_and_wrong_is_not():
    logits = torch.tensor([[60.0, 0.0], [0.0, 60.0]])
    assert expected_calibration_error(logits, torch.tensor([0, 1])) == pytest.approx(0)
    assert expected_calibration_error(logits, torch.tensor([1, 0])) == pytest.approx(1)


def test_a_class_mask_is_a_softmax_without_those_classes():
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(50, 4, generator=generator)
    target = torch.randint(2, (50,), generator=generator)
    mask = torch.tensor([True, True, False, False])
    assert expected_calibration_error(logits, target, class_mask=mask) == pytest.approx(
        expected_calibration_error(logits[:, :2], target)
    )


def test_errors_name_the_argument():
    with pytest.raises(ValueError, match="bins must be positive, got 0"):
        expected_calibration_error(torch.zeros(1, 2), torch.zeros(1, dtype=torch.int64), bins=0)
    with pytest.raises(ValueError, match="at least one sample"):
        expected_calibration_error(torch.zeros(0, 2), torch.zeros(0, dtype=torch.int64))
