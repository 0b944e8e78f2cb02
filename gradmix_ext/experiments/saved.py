"""Models of finished runs, from the folder that `gradmix train` or `gradmix compare` left."""

from __future__ import annotations

import pickle
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from gradmix_ext.continual.methods import METHODS, method_by_name
from gradmix_ext.continual.scenario import Scenario
from gradmix_ext.experiments.experiment import Arm, Experiment
from gradmix_ext.experiments.finished import FinishedRun
from gradmix_ext.experiments.plan import Plan

__all__ = ["SavedRun", "load_runs"]


@dataclass(frozen=True, eq=False)
class SavedRun:
    """One arm with one seed, finished.

    Attributes:
        folder: The run folder.
        arm: Method and mixer.
        seed: The seed.
        experiment: Settings and data.
    """

    folder: Path
    arm: Arm
    seed: int
    experiment: Experiment

    def scenario(self) -> Scenario:
        """The tasks of this run, on the device of the experiment."""
        return self.experiment.scenario(self.seed).to(self.experiment.device)

    @property
    def predicts_by_logits(self) -> bool:
        """Whether the run's predictions are those of the model's logits."""
        return METHODS[self.arm.method].predicts_by_logits

    @property
    def has_classifier(self) -> bool:
        """Whether the folder holds all that the run predicts with; older ones may lack it."""
        return self.predicts_by_logits or self._finished.method_state.is_file()

    def model(self) -> nn.Module:
        """The model after the last task, in evaluation mode; loading runs no code from the file.

        Raises:
            ValueError: the file does not hold the weights of this run's model.
            OSError: it cannot be read.
        """
        model = self.experiment.model(self.experiment.scenario(self.seed))
        _load(self._finished.weights, model.load_state_dict, "the weights of this run's model")
        return model.to(self.experiment.device).eval()

    def classifier(self) -> nn.Module:
        """What the accuracies of the run are about: the model, or what its method makes of it.

        Raises:
            ValueError: a file does not hold what it should.
            OSError: it cannot be read, or is not there.
        """
        model = self.model()
        if self.predicts_by_logits:
            return model
        options: dict[str, Any] = dict(self.arm.method_options)
        method = method_by_name(self.arm.method, **options)
        _load(self._finished.method_state, method.load_state_dict, "the state of this run's method")
        return method.classifier(model).to(self.experiment.device).eval()

    @property
    def _finished(self) -> FinishedRun:
        return FinishedRun(self.folder, self.arm, self.seed)


def _load(path: Path, take: Callable[[Any], object], what: str) -> None:
    """Give what a file holds to who takes it; runs no code from the file."""
    try:
        take(torch.load(path, map_location="cpu", weights_only=True))
    except (
        RuntimeError,
        pickle.UnpicklingError,
        EOFError,
        LookupError,
        TypeError,
        AttributeError,
    ) as error:
        raise ValueError(f"{path} does not hold {what}") from error


def load_runs(folder: str | Path, device: str = "cpu") -> list[SavedRun]:
    """The finished runs of a folder whose models were saved, arm by arm, seed by seed.

    Args:
        folder: The run folder.
        device: Where models and data shall be, whatever device trained them.

    Raises:
        ValueError: the folder is not that of a run, holds no models, or its settings or data no
            longer fit.
        OSError: a file, or the data, cannot be read.
    """
    folder = Path(folder)
    plan = Plan.read(folder)
    saved = [
        (arm, seed)
        for arm in plan.arms
        for seed in plan.seeds
        if FinishedRun(folder, arm, seed).weights.is_file()
    ]
    if not saved:
        raise ValueError(f"{folder} holds no models: run the training again to save them")
    experiment = Experiment(replace(plan.config, device=device), plan.arms)
    return [SavedRun(folder, arm, seed, experiment) for arm, seed in saved]
