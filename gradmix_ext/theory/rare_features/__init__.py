"""Does mixup learn the rare features of a class? The experiment, exact and small enough to look at.

After Zou, Cao, Li, Gu: "The Benefits of Mixup for Feature Learning" (ICML 2023, arXiv 2303.08433).
"""

from __future__ import annotations

from .data import DataModel, PatchData
from .network import PatchNetwork
from .pairs import mixed_logits, mixup_loss
from .training import History, Schedule, train

__all__ = [
    "DataModel",
    "History",
    "PatchData",
    "PatchNetwork",
    "Schedule",
    "mixed_logits",
    "mixup_loss",
    "train",
]
