"""Arms x seeds of the rare-feature experiment, and the sweep over when to stop mixup."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

import torch
from torch import Tensor

from gradmix_ext.experiments.experiment import usable_device
from gradmix_ext.theory.rare_features.data import DataModel, PatchData
from gradmix_ext.theory.rare_features.network import ACTIVATIONS, PatchNetwork
from gradmix_ext.theory.rare_features.training import History, Schedule, train

__all__ = [
    "AXES",
    "COLUMNS",
    "Experiment",
    "ExperimentConfig",
    "Run",
    "SweepRun",
    "default_arms",
    "default_stops",
]

#: Columns of the table: name in `History.accuracy`, heading, what it is.
COLUMNS = (
    ("train", "train", "accuracy on the training data"),
    ("common", "common", "accuracy on test data with common features"),
    ("rare", "rare", "accuracy on test data with rare features, feature noise of either class"),
    (
        "rare/opposed",
        "rare, opposed",
        "the same, only samples whose feature noise is that of the other class, as in training",
    ),
)

#: What the sweep can vary beside the stop: name of the setting, its default values.
AXES: dict[str, tuple[float, ...]] = {
    "rho": (0.02, 0.04, 0.06, 0.1, 0.2, 0.4),
    "sigma_p": (0.05, 0.1, 0.15, 0.2, 0.25, 0.3),
    "alpha": (0.0, 0.2, 0.3, 0.4, 0.6, 0.8),
    "lam": (0.5, 0.6, 0.7, 0.8, 0.9),
    "steps": (300, 600, 900, 1200, 1800, 2400),
}


def default_arms(steps: int) -> tuple[Schedule, ...]:
    """The table's trainings; of 2400 steps, mixup stops at 1000, 1600 and 2200."""
    stops = dict.fromkeys(max(1, round(steps * share / 12)) for share in (5, 8, 11))
    return (
        Schedule(),
        *(Schedule(lam, lam) for lam in (0.6, 0.5, 0.8)),
        *(Schedule(x, y) for x, y in ((0.8, 0.6), (0.6, 0.8), (0.6, 1.0))),
        *(Schedule(0.6, 0.6, stop) for stop in stops),
        Schedule(0.6, 0.6, steps, taper=True),
    )


def default_stops(intervals: int) -> tuple[float, ...]:
    """Evenly spaced shares of the steps, from 0 (never mix) to 1 (never stop)."""
    return tuple(k / intervals for k in range(intervals + 1))


@dataclass(frozen=True)
class ExperimentConfig(DataModel):
    """All settings: those of the data, and these.

    Attributes:
        filters: Filters of each class, m.
        init_std: Standard deviation of the initial weights.
        activation: ``"square"``, ``"cube"`` or ``"relu"``.
        lr: Learning rate.
        steps: Steps of every training that mixes.
        standard_steps: Steps of standard training, which learns nothing more of rare features
            however long it takes.
        test_samples: Samples of either test set.
        record_every: Steps between records.
        device: Where to train; data and initial weights are the same for all.
    """

    filters: int = 10
    init_std: float = 0.01
    activation: str = "square"
    lr: float = 0.1
    steps: int = 2400
    standard_steps: int = 6000
    test_samples: int = 500
    record_every: int = 50
    device: str = "cpu"

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("filters", "steps", "standard_steps", "record_every"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")
        if self.test_samples < 4:
            raise ValueError(f"test_samples must be at least 4, got {self.test_samples}")
        for name in ("init_std", "lr"):
            if not 0 < getattr(self, name) < float("inf"):
                raise ValueError(f"{name} must be positive and finite, got {getattr(self, name)}")
        if self.activation not in ACTIVATIONS:
            raise ValueError(f"activation must be one of {ACTIVATIONS}, got {self.activation!r}")

    @property
    def data_model(self) -> DataModel:
        """The settings of the data alone."""
        return DataModel(**{item.name: getattr(self, item.name) for item in fields(DataModel)})


@dataclass(frozen=True, eq=False)
class Run:
    """One training with one seed.

    Attributes:
        arm: The training.
        seed: The seed.
        history: What it recorded.
        seconds: Wall-clock time.
    """

    arm: Schedule
    seed: int
    history: History
    seconds: float

    def final(self) -> dict[str, float]:
        """Every accuracy after the last step."""
        return {name: values[-1] for name, values in self.history.accuracy.items()}


@dataclass(frozen=True, eq=False)
class SweepRun:
    """All stops of one value of the swept setting, with one seed.

    Attributes:
        value: Value of the swept setting.
        seed: The seed.
        final: For each stop, as a share of the steps, every accuracy after the last step.
        seconds: Wall-clock time.
    """

    value: float
    seed: int
    final: dict[float, dict[str, float]]
    seconds: float


@dataclass(frozen=True, eq=False)
class _Setup:
    features: Tensor
    data: PatchData
    tests: dict[str, PatchData]
    network: PatchNetwork


class Experiment:
    """Runs trainings. All of a seed share features, data, test data and initial weights.

    Args:
        config: The settings.

    Raises:
        ValueError: the device is not there.
    """

    def __init__(self, config: ExperimentConfig) -> None:
        self.config = config
        self.device: torch.device = usable_device(config.device)

    def steps(self, arm: Schedule) -> int:
        """How long an arm is trained."""
        return self.config.standard_steps if arm == Schedule() else self.config.steps

    def check(self, arms: Sequence[Schedule]) -> None:
        """Refuse what could not be what was meant.

        Raises:
            ValueError: an arm is named twice, or stops after its last step.
        """
        labels = [arm.label for arm in arms]
        for arm, label in zip(arms, labels, strict=True):
            if labels.count(label) > 1:
                raise ValueError(f"training {label} is named twice")
            if arm.stop is not None and arm.stop > self.steps(arm):
                raise ValueError(
                    f"training {label} stops mixup after {arm.stop} of {self.steps(arm)} steps"
                )

    def run(self, arm: Schedule, seed: int, on_record: Callable[[int], None] | None = None) -> Run:
        """Train one arm with one seed.

        Raises:
            DivergedError: the loss is no longer finite.
        """
        started = time.perf_counter()
        history = self._train(self._setup(seed), arm, self.steps(arm), on_record=on_record)
        return Run(arm, seed, history, time.perf_counter() - started)

    def sweep(
        self,
        arm: Schedule,
        axis: str,
        value: float,
        stops: Sequence[float],
        seed: int,
        on_record: Callable[[int], None] | None = None,
    ) -> SweepRun:
        """Stop mixup at several steps and go on without; every one sees `steps` steps in all.

        The mixup steps are taken once, and every stop continues from there.

        Args:
            arm: The training whose mixup is stopped.
            axis: The setting to change, a key of `AXES`; ``"lam"`` is both of the arm's.
            value: Its value.
            stops: When to stop, as shares of the steps, in [0, 1].
            seed: The seed.
            on_record: Called with the steps done within each continuation.

        Raises:
            ValueError: the setting is unknown, or does not take the value.
            DivergedError: the loss is no longer finite.
        """
        started = time.perf_counter()
        experiment, arm = self.at(axis, value, arm)
        steps = experiment.config.steps
        setup = experiment._setup(seed)
        after = {stop: round(stop * steps) for stop in stops}
        mixed = experiment._train(setup, arm, steps, list(after.values()), on_record)
        final = {}
        for stop, step in after.items():
            history = mixed
            if step < steps:
                start = replace(setup, network=mixed.snapshots[step])
                history = experiment._train(start, Schedule(), steps - step, (), on_record)
            final[stop] = {name: values[-1] for name, values in history.accuracy.items()}
        return SweepRun(value, seed, final, time.perf_counter() - started)

    def at(self, axis: str, value: float, arm: Schedule) -> tuple[Experiment, Schedule]:
        """The experiment and the arm with one setting changed.

        Raises:
            ValueError: the setting is unknown, or does not take the value.
        """
        if axis not in AXES:
            raise ValueError(f"sweep must be one of {', '.join(AXES)}, got {axis!r}")
        if axis == "lam":
            if arm.lam_x != arm.lam_y:
                raise ValueError(
                    f"a sweep of lam sets one λ for inputs and labels: it cannot be that of "
                    f"{arm.label}, which has two"
                )
            return self, replace(arm, lam_x=value, lam_y=value)
        if axis == "steps" and value != int(value):
            raise ValueError(f"steps must be a whole number, got {value:g}")
        changes: dict[str, Any] = {axis: int(value) if axis == "steps" else value}
        return Experiment(replace(self.config, **changes)), arm

    def _setup(self, seed: int) -> _Setup:
        config = self.config
        model = config.data_model
        generator = torch.Generator().manual_seed(seed)
        features = model.features(generator)
        data = model.sample(features, generator)
        network = PatchNetwork.initial(
            config.filters, config.d, config.init_std, generator, config.activation
        )
        target, dtype = self.device, torch.float32
        tests = {
            kind: model.test_set(kind, config.test_samples, features, generator).to(target, dtype)
            for kind in ("common", "rare")
        }
        network = replace(network, weight=network.weight.to(target, dtype))
        return _Setup(features.to(target, dtype), data.to(target, dtype), tests, network)

    def _train(
        self,
        setup: _Setup,
        arm: Schedule,
        steps: int,
        snapshots: Sequence[int] = (),
        on_record: Callable[[int], None] | None = None,
    ) -> History:
        return train(
            setup.network,
            setup.data,
            arm,
            steps=steps,
            lr=self.config.lr,
            features=setup.features,
            tests=setup.tests,
            record_every=self.config.record_every,
            snapshots=snapshots,
            on_record=on_record,
        )
