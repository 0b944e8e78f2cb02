"""Mixed labels as one matrix, for losses that take probabilities."""

from __future__ import annotations

from torch import Tensor
from torch.nn.functional import one_hot

from gradmix_ext.mixers import MixedBatch

__all__ = ["soft_labels"]


def soft_labels(batch: MixedBatch, num_classes: int, label_smoothing: float = 0.0) -> Tensor:
    """The labels of a mixed batch as one matrix [N, C] for ``cross_entropy``, float32.

    ``cross_entropy(logits, soft_labels(batch, C))`` is ``batch.loss(logits)``, which needs no such
    matrix. Rows sum to the weight of their sample, 1 unless the mixer balances.

    Args:
        batch: A mixed batch.
        num_classes: Number of classes C.
        label_smoothing: ε in [0, 1]: the share of the weight that all classes get alike.
    """
    own, partner = (one_hot(y, num_classes).float() for y in (batch.target, batch.partner_target))
    lam = batch.lam.float()[:, None]
    soft = lam * own + (1 - lam) * partner
    soft = (1 - label_smoothing) * soft + label_smoothing / num_classes
    return soft if batch.weight is None else soft * batch.weight[:, None].float()
