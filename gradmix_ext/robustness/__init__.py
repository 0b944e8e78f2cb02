"""Accuracy under attack, and calibration, of any classifier.

>>> from gradmix_ext import robustness  # doctest: +SKIP
>>> robustness.evaluate(model, loader, "pgd", eps=[0, 4 / 255, 8 / 255])  # doctest: +SKIP
{0.0: 0.953, 0.0157: 0.402, 0.0314: 0.061}
"""

from __future__ import annotations

from gradmix_ext.robustness.attacks import ATTACKS, Attack
from gradmix_ext.robustness.calibration import expected_calibration_error
from gradmix_ext.robustness.evaluate import RobustAccuracy, evaluate

__all__ = ["ATTACKS", "Attack", "RobustAccuracy", "evaluate", "expected_calibration_error"]
