"""Models of finished runs, from the folder that `gradmix train` or `gradmix compare` left."""

from __future__ import annotations

import pickle
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import nn

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

    def model(self) -> nn.Module:
        """The model after the last task, in evaluation mode; loading runs no code from the file.

        Raises:
            ValueError: the file does not hold the weights of this run's model.
            OSError: it cannot be read.
        """
        path = FinishedRun(self.folder, self.arm, self.seed).weights
        model = self.experiment.model(self.experiment.scenario(self.seed))
        try:
            state = torch.load(path, map_location="cpu", weights_only=True)
            model.load_state_dict(state)
        except (RuntimeError, pickle.UnpicklingError, EOFError, TypeError, AttributeError) as error:
            raise ValueError(f"{path} does not hold the weights of this run's model") from error
        return model.to(self.experiment.device).eval()


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
