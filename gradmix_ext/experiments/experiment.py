"""One run of an experiment: an arm, a seed, and settings that are the same for all."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from gradmix_ext.continual.buffer import ReplayBuffer
from gradmix_ext.continual.callbacks import (
    Callback,
    EpochEnd,
    PairMapRecorder,
    PairMaps,
    TaskEnd,
    helpful_fraction,
)
from gradmix_ext.continual.checkpoint import Checkpoint
from gradmix_ext.continual.data import ArrayDataset
from gradmix_ext.continual.datasets import load_dataset
from gradmix_ext.continual.methods import Method, method_by_name
from gradmix_ext.continual.models import build_model, seeded
from gradmix_ext.continual.optimization import optimizer_by_name
from gradmix_ext.continual.result import Result
from gradmix_ext.continual.scenario import Scenario, class_incremental
from gradmix_ext.continual.trainer import Stream, Trainer, random_stream
from gradmix_ext.experiments.arm import Arm
from gradmix_ext.mixers import Mixer, by_name
from gradmix_ext.ranks import ONE, Ranks

__all__ = ["DEFAULT_ARMS", "Arm", "Experiment", "ExperimentConfig", "Run"]

DEFAULT_ARMS = (
    "finetune",
    "er",
    "mixup",
    "balanced",
    "random-mask",
    "gradmix[preset=paper]",
    "shuffled-scores",
    "gradmix",
    "joint",
)

# Settings that go to the mixer; each mixer takes those that it knows, and keeps its own default
# where one is None.
_MIXING = (
    "alpha",
    "criterion",
    "policy",
    "preset",
    "threshold",
    "temperature",
    "samples_per_pair",
    "samples_per_class",
    "update",
    "per_sample_lam",
    "balance",
    "lam_coupling",
    "fixed_lam",
    "stop_epoch",
    "taper",
)


@dataclass(frozen=True)
class ExperimentConfig:
    """Settings shared by all arms and seeds; the names are those of the command line.

    `tasks` and `increment` are as in :func:`class_incremental`; a `class_order_seed` of None takes
    each run's own seed, so that seeds differ in class order too. A `buffer_policy` of None is that
    of the method: herding for iCaRL, class-balanced for the others. `fill_buffer` is the `fill` of
    :class:`ReplayBuffer`; without it classes have equal shares and the rest stays empty.
    `download` to `hflip` are as in :func:`load_dataset`, `model`, `stem` and `hidden` as in
    :func:`build_model`, and what is left as in :class:`Trainer`.
    """

    dataset: str = "digits"
    data_dir: str | None = None
    download: bool = True
    image_size: int | None = None
    tasks: int | None = 5
    increment: int | tuple[int, ...] | None = None
    base: int = 0
    class_order_seed: int | None = None
    replay: str = "union"
    buffer_size: int = 20
    buffer_policy: str | None = None
    fill_buffer: bool = False
    epochs: int = 10
    batch_size: int = 64
    optimizer: str = "sgd"
    lr: float = 0.05
    momentum: float = 0.9
    weight_decay: float = 0.0
    schedule: str = "constant"
    clip_grad: float | None = None
    model: str = "mlp"
    stem: str = "standard"
    hidden: tuple[int, ...] = (256, 256)
    crop_padding: int | None = None
    hflip: bool | None = None
    alpha: float = 1.0
    preset: str | None = None
    criterion: str | None = None
    policy: str | None = None
    threshold: float = 0.0
    temperature: float = 4.0
    samples_per_pair: int = 16
    samples_per_class: int = 16
    update: str | int = "epoch"
    per_sample_lam: bool | None = None
    balance: float | None = None
    lam_coupling: str = "same"
    fixed_lam: tuple[float, float] | None = None
    stop_epoch: int | None = None
    taper: str = "none"
    device: str = "cpu"
    amp: str = "none"
    compile: bool = False
    storage: str = "auto"
    workers: int = 0
    sync_batch_norm: bool = False


@dataclass(frozen=True, eq=False)
class Run:
    """What one run left behind.

    Attributes:
        arm: Method and mixer.
        seed: The seed.
        result: Accuracies.
        events: One plain dict per epoch and task, in order, for the log.
        pair_maps: The class-pair map of every epoch, for mixers that judge pairs.
        class_order: The order in which the classes came.
        weights: ``state_dict`` of the model after the last task, on the CPU.
        method_state: That of the method, if it takes more than the model to predict as it does.
        seconds: Wall-clock time.
    """

    arm: Arm
    seed: int
    result: Result
    events: tuple[dict[str, Any], ...]
    pair_maps: PairMaps | None
    class_order: tuple[int, ...]
    weights: dict[str, Tensor]
    method_state: dict[str, Any] | None
    seconds: float


class Experiment:
    """Settings with the data loaded and everything checked that can be checked before training.

    Args:
        config: The settings.
        arms: What will be run, for the checks.
        ranks: The processes that train each run together.

    Raises:
        ValueError: a setting is wrong, the data set or the model is unknown or does not fit, the
            device is not there, or the buffer has no room for a sample of each class.
        ImportError: the data set or the model needs a package that is not installed.
        OSError: the data cannot be read.
    """

    def __init__(self, config: ExperimentConfig, arms: Sequence[Arm], ranks: Ranks = ONE) -> None:
        self.config = config
        self.ranks: Ranks = ranks
        self.device: torch.device = usable_device(config.device)
        for name in ("lr", "momentum", "weight_decay"):
            value = getattr(config, name)
            if not 0 <= value < float("inf"):
                raise ValueError(f"{name} must be at least 0 and finite, got {value}")
        self.dataset: ArrayDataset = self._load()
        scenario = self.scenario(seed=0)
        with seeded(0):
            self.model(scenario)
        for arm in arms:
            trainer = self.trainer(arm, seed=0)
            trainer.require_shares(scenario)
            mixer = self.mixer(arm, seed=0)
            with arm.named_in_errors():
                mixer.check(self.model(scenario), scenario.input_shape)
            if trainer.buffer is not None:
                trainer.buffer.require_room(scenario.num_classes)

    def scenario(self, seed: int) -> Scenario:
        """The tasks of a run with this seed; the same for every arm."""
        config = self.config
        order = seed if config.class_order_seed is None else config.class_order_seed
        return class_incremental(
            self.dataset, config.tasks, config.increment, config.base, class_order_seed=order
        )

    def model(self, scenario: Scenario) -> nn.Module:
        """An untrained model for the data of a scenario; images that are held flat get shape."""
        config = self.config
        shape, image = scenario.input_shape, self.dataset.image_shape
        if config.model == "mlp" or len(shape) > 1:
            image = None
        model = build_model(
            config.model,
            image or shape,
            scenario.num_classes,
            hidden=config.hidden,
            stem=config.stem,
        )
        return nn.Sequential(nn.Unflatten(1, image), model) if image else model

    def mixer(self, arm: Arm, seed: int) -> Mixer:
        """The mixer of one run."""
        with arm.named_in_errors():
            return by_name(
                arm.augment,
                self.dataset.num_classes,
                generator=random_stream(seed, Stream.MIXER, self.device, self.ranks.rank),
                **self._mixing(arm),
            )

    def trainer(self, arm: Arm, seed: int, callbacks: Sequence[Callback] = ()) -> Trainer:
        """A trainer for one run. Arms of a seed share initial weights and order of batches."""
        config = self.config
        options: dict[str, Any] = {"replay": config.replay} | dict(arm.method_options)
        with arm.named_in_errors():
            method: Method = method_by_name(arm.method, **options)
        buffer = None
        if method.uses_buffer:
            generator = random_stream(seed, Stream.BUFFER, self.device)
            buffer = ReplayBuffer(
                config.buffer_size,
                config.buffer_policy or method.buffer_policy,
                generator,
                config.fill_buffer,
            )
        return Trainer(
            model=self.model,
            mixer=self.mixer(arm, seed),
            method=method,
            buffer=buffer,
            optimizer=optimizer_by_name(
                config.optimizer, config.lr, config.momentum, config.weight_decay
            ),
            schedule=config.schedule,
            epochs=config.epochs,
            batch_size=config.batch_size,
            device=self.device,
            seed=seed,
            callbacks=callbacks,
            amp=config.amp,
            clip_grad=config.clip_grad,
            compile=config.compile,
            storage=config.storage,
            workers=config.workers,
            process_group=self.ranks.group,
            sync_batch_norm=config.sync_batch_norm,
        )

    def run(
        self,
        arm: Arm,
        seed: int,
        callbacks: Sequence[Callback] = (),
        checkpoint: Checkpoint | None = None,
    ) -> Run:
        """Train and test one arm with one seed.

        Args:
            arm: Method and mixer.
            seed: The seed.
            callbacks: Told about epochs and tasks.
            checkpoint: Where the state is kept; a run goes on from it if the file is there.

        Raises:
            CheckpointError: the file is damaged, or of another run.
            DivergedError: the training loss became infinite or NaN.
        """
        started = time.perf_counter()
        log, maps, weights = _EventLog(), PairMapRecorder(), _LatestWeights()
        scenario = self.scenario(seed)
        trainer = self.trainer(arm, seed, (log, maps, weights, *callbacks))
        result = trainer.fit(scenario, checkpoint)
        method = trainer.method
        seconds = time.perf_counter() - started
        return Run(
            arm,
            seed,
            result,
            tuple(log.events),
            maps.maps(),
            scenario.class_order,
            weights.state,
            None if method.predicts_by_logits else method.state_dict(),
            seconds,
        )

    def _load(self) -> ArrayDataset:
        config = self.config
        return load_dataset(
            config.dataset,
            config.data_dir,
            download=config.download,
            image_size=config.image_size,
            crop_padding=config.crop_padding,
            hflip=config.hflip,
        )

    def _mixing(self, arm: Arm) -> dict[str, Any]:
        """The shared settings of mixing, and the arm's own in their place."""
        shared = {name: getattr(self.config, name) for name in _MIXING}
        given = {name: value for name, value in shared.items() if value is not None}
        return given | dict(arm.options)


def usable_device(name: str) -> torch.device:
    """The device of this name; ``"auto"`` is a CUDA GPU if there is one, and the CPU otherwise.

    Raises:
        ValueError: there is no such device, or PyTorch cannot use it.
    """
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        device = torch.device(name)
        torch.zeros(1, device=device).item()
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        reason = str(error).strip().splitlines()[0]
        raise ValueError(f"device '{name}' cannot be used: {reason}") from error
    return device


class _LatestWeights(Callback):
    """The weights after the latest finished task."""

    def __init__(self) -> None:
        self.state: dict[str, Tensor] = {}

    def on_task_end(self, event: TaskEnd) -> None:
        state = event.model.state_dict()
        self.state = {name: value.to("cpu", copy=True) for name, value in state.items()}

    def state_dict(self) -> dict[str, Any]:
        return {"weights": self.state}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.state = state["weights"]


class _EventLog(Callback):
    """Epochs and tasks as plain dicts, tasks and epochs counted from 1."""

    def __init__(self) -> None:
        self.events: list[dict[str, Any]] = []

    def state_dict(self) -> dict[str, Any]:
        return {"events": list(self.events)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.events = list(state["events"])

    def on_epoch_end(self, event: EpochEnd) -> None:
        entry: dict[str, Any] = {
            "event": "epoch",
            "task": event.task.index + 1,
            "epoch": event.epoch + 1,
            "loss": event.loss,
        }
        helpful = helpful_fraction(event)
        if helpful is not None:
            entry["helpful_fraction"] = helpful
        self.events.append(entry)

    def on_task_end(self, event: TaskEnd) -> None:
        done = event.task.index + 1
        class_il, task_il = event.evaluation.class_il[:done], event.evaluation.task_il[:done]
        self.events.append(
            {
                "event": "task",
                "task": done,
                "classes": list(event.task.classes),
                "class_il": class_il.tolist(),
                "task_il": task_il.tolist(),
                "average_accuracy": class_il.mean().item(),
                "pooled_accuracy": event.evaluation.pooled,
            }
        )
