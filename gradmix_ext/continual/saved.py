"""Models of finished runs, from the folder that `gradmix train` or `gradmix compare` left."""

from __future__ import annotations

import json
import pickle
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import torch
from torch import nn

from gradmix_ext.continual.experiment import Arm, Experiment, ExperimentConfig
from gradmix_ext.continual.scenario import Scenario

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
        path = _weights(self.folder, self.arm, self.seed)
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
    path = folder / "config.json"
    if not path.is_file():
        raise ValueError(f"{folder} is not a run folder: it has no config.json")
    try:
        content = json.loads(path.read_text())
        config = _config({**content["settings"], "device": device})
        arms = [Arm.parse(arm["label"]) for arm in content["arms"]]
        seeds = [int(seed) for seed in content["seeds"]]
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(f"{path} does not hold the settings of a run: {error}") from error
    saved = [(arm, seed) for arm in arms for seed in seeds if _weights(folder, arm, seed).is_file()]
    if not saved:
        raise ValueError(f"{folder} holds no models: run the training again to save them")
    experiment = Experiment(config, arms)
    return [SavedRun(folder, arm, seed, experiment) for arm, seed in saved]


def _weights(folder: Path, arm: Arm, seed: int) -> Path:
    return folder / "models" / arm.label / f"seed-{seed}.pt"


def _config(settings: dict[str, Any]) -> ExperimentConfig:
    """Settings from JSON, where tuples have become lists."""
    known = {field.name for field in fields(ExperimentConfig)}
    unknown = ", ".join(sorted(set(settings) - known))
    if unknown:
        raise ValueError(f"unknown settings {unknown}; they are of another version")
    values: dict[str, Any] = {
        name: tuple(value) if isinstance(value, list) else value for name, value in settings.items()
    }
    return ExperimentConfig(**values)
