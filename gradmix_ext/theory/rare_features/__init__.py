"""Does mixup learn the rare features of a class? The experiment, exact and small enough to look at.

After Zou, Cao, Li, Gu: "The Benefits of Mixup for Feature Learning" (ICML 2023, arXiv 2303.08433).

>>> from gradmix_ext.theory.rare_features import Experiment, ExperimentConfig, Schedule
>>> experiment = Experiment(ExperimentConfig(n=40, d=100, rho=0.2, steps=20))
>>> run = experiment.run(Schedule(0.6, 0.6), seed=0)
>>> run.history.step
[0, 20]

``gradmix rare-features`` runs the whole table.
"""

from __future__ import annotations

from gradmix_ext.theory.rare_features.data import DataModel, PatchData
from gradmix_ext.theory.rare_features.experiment import (
    Experiment,
    ExperimentConfig,
    Run,
    SweepRun,
    default_arms,
    default_stops,
)
from gradmix_ext.theory.rare_features.network import PatchNetwork
from gradmix_ext.theory.rare_features.pairs import mixed_logits, mixup_loss
from gradmix_ext.theory.rare_features.results import StopMap, Table
from gradmix_ext.theory.rare_features.training import History, Schedule, train

__all__ = [
    "DataModel",
    "Experiment",
    "ExperimentConfig",
    "History",
    "PatchData",
    "PatchNetwork",
    "Run",
    "Schedule",
    "StopMap",
    "SweepRun",
    "Table",
    "default_arms",
    "default_stops",
    "mixed_logits",
    "mixup_loss",
    "train",
]
