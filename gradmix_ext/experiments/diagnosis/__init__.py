"""How well scores of class pairs predict what mixing a pair does to the old tasks.

:func:`measure` looks at a model at one moment of training: it takes one step of gradient descent on
mixed samples of each class pair and measures how the loss on the old tasks changes.
:class:`Study` does so all along the training of several seeds.
"""

from __future__ import annotations

from gradmix_ext.experiments.diagnosis.agreement import STATISTICS, agreement
from gradmix_ext.experiments.diagnosis.measure import MeasureConfig, Measurement, measure
from gradmix_ext.experiments.diagnosis.study import Diagnosis, Study

__all__ = [
    "STATISTICS",
    "Diagnosis",
    "MeasureConfig",
    "Measurement",
    "Study",
    "agreement",
    "measure",
]
