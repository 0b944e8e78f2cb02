"""Does a model know how often it is right?"""

from __future__ import annotations

import torch
from torch import Tensor

from gradmix_ext import _checks as checks

__all__ = ["expected_calibration_error"]


def expected_calibration_error(
    logits: Tensor, target: Tensor, bins: int = 15, class_mask: Tensor | None = None
) -> float:
    """ECE: the mean gap between confidence and accuracy, over bins of equal width.

    ``ECE = Σ_b (n_b / N) |accuracy_b - confidence_b|``, with the confidence of a sample its largest
    softmax probability and bin b of ((b-1)/bins, b/bins] (Guo et al., ICML 2017, eq. 3).

    Args:
        logits: Logits, [N, C].
        target: Labels, [N], int64.
        bins: Number of bins.
        class_mask: Classes of the softmax, [C] bool; all by default.

    Returns:
        A fraction in [0, 1]; 0 is best.

    Raises:
        TypeError: an argument has the wrong type or dtype.
        ValueError: shapes disagree, there is no sample, or `bins` is not positive.
    """
    caller = "expected_calibration_error"
    checks.matrix(caller, "logits", logits)
    checks.vector(caller, "target", target, len(logits), torch.int64, logits.device)
    checks.class_mask(caller, class_mask, logits.shape[1], logits.device)
    if not len(logits):
        raise ValueError(f"{caller}: logits must hold at least one sample, got none")
    if bins < 1:
        raise ValueError(f"{caller}: bins must be positive, got {bins}")
    if class_mask is not None:
        logits = logits.masked_fill(~class_mask, -torch.inf)
    confidence, prediction = logits.double().softmax(1).max(1)
    index = ((confidence * bins).ceil().long() - 1).clamp(0, bins - 1)
    gap = torch.zeros(bins, dtype=torch.float64, device=logits.device)
    # n_b (accuracy_b - confidence_b) is a plain sum over the samples of the bin.
    gap.index_add_(0, index, (prediction == target).double() - confidence)
    return gap.abs().sum().item() / len(logits)
