"""The training loop."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn

from gradmix_ext.continual.buffer import ReplayBuffer
from gradmix_ext.continual.callbacks import Callback, EpochEnd, TaskEnd
from gradmix_ext.continual.checkpoint import Checkpoint
from gradmix_ext.continual.evaluate import Evaluator
from gradmix_ext.continual.feed import STORAGE, Feed, fits
from gradmix_ext.continual.integers import integer
from gradmix_ext.continual.methods import Method, Stage, method_by_name
from gradmix_ext.continual.models import mlp, seeded
from gradmix_ext.continual.optimization import (
    AMP,
    SCHEDULES,
    OptimizerFactory,
    ScheduleFactory,
    optimizer_by_name,
)
from gradmix_ext.continual.result import Result
from gradmix_ext.continual.scenario import Scenario, Task
from gradmix_ext.continual.training_state import TrainingState
from gradmix_ext.mixers import Mixer, by_name

__all__ = ["DivergedError", "Trainer", "random_stream"]

ModelSource = nn.Module | Callable[[Scenario], nn.Module]


class DivergedError(FloatingPointError):
    """The training loss is no longer a finite number."""


class Trainer:
    """Trains a model on the tasks of a scenario, one after the other, and tests it after each.

    Nothing in a step waits for the device; the loss is read once an epoch.

    Args:
        model: A module, trained in place, or a function that builds one for a scenario. The default
            builds an MLP with two hidden layers of 256.
        mixer: A mixer, or a name of ``gradmix_ext.mixers.MIXERS``.
        method: A method, or a name of ``gradmix_ext.continual.METHODS``.
        buffer: The replay buffer, or a capacity for one with the method's own policy
            (class-balanced, for iCaRL herding); needed by methods that replay.
        optimizer: Called with the parameters at the start of each task. The default is SGD with
            learning rate 0.05 and momentum 0.9.
        schedule: Course of the learning rate over the epochs of each task:
            ``"constant"``, ``"cosine"`` or ``"step"``, or a function of the optimizer and the
            number of epochs.
        epochs: Epochs per task.
        batch_size: Samples per batch (of current samples, in split replay). An epoch's last batch
            has what is left; one sample alone joins the batch before it, since batch
            normalisation cannot train on it.
        device: Where to train.
        seed: Seed of everything random: initial weights, order of batches, augmentation, dropout,
            and the mixer and the buffer unless they are given as objects.
        callbacks: Told about epochs and tasks.
        amp: Mixed precision of the training step: ``"none"``, ``"bf16"`` or ``"fp16"`` (with a
            scaled loss). Tests and GradMix's criterion keep the precision of the weights.
        clip_grad: Largest norm of the gradient; larger ones are scaled down to it.
        compile: Whether to ``torch.compile`` the model, in place.
        storage: Where the data lives: on the ``"device"``, in ``"host"`` memory (or wherever a map-
            style data set reads it from), or ``"auto"``: on the device if it takes at most half of
            its free memory.
        workers: Processes that read data which is not on the device.
    """

    def __init__(
        self,
        model: ModelSource | None = None,
        mixer: Mixer | str = "none",
        method: Method | str = "er",
        buffer: ReplayBuffer | int | None = None,
        optimizer: OptimizerFactory | None = None,
        schedule: ScheduleFactory | str = "constant",
        epochs: int = 10,
        batch_size: int = 64,
        device: torch.device | str = "cpu",
        seed: int = 0,
        callbacks: Sequence[Callback] = (),
        *,
        amp: str = "none",
        clip_grad: float | None = None,
        compile: bool = False,
        storage: str = "auto",
        workers: int = 0,
    ) -> None:
        epochs, batch_size = integer("epochs", epochs), integer("batch_size", batch_size)
        for name, value in (("epochs", epochs), ("batch_size", batch_size)):
            if value < 1:
                raise ValueError(f"{name} must be at least 1, got {value}")
        workers, seed = integer("workers", workers), integer("seed", seed)
        if workers < 0:
            raise ValueError(f"workers must not be negative, got {workers}")
        if clip_grad is not None and not clip_grad > 0:
            raise ValueError(f"clip_grad must be positive, got {clip_grad}")
        for name, chosen, choices in (
            ("amp", amp, tuple(AMP)),
            ("storage", storage, STORAGE),
            ("schedule", schedule, tuple(SCHEDULES)),
        ):
            if isinstance(chosen, str) and chosen not in choices:
                raise ValueError(f"{name} must be one of {', '.join(choices)}, got '{chosen}'")
        self.device: torch.device = torch.empty(0, device=device).device  # with its index
        self.method: Method = method_by_name(method) if isinstance(method, str) else method
        if self.method.uses_buffer and buffer is None:
            raise ValueError(f"{type(self.method).__name__} replays samples: give buffer")
        if buffer is not None and not isinstance(buffer, ReplayBuffer):
            capacity = integer("buffer", buffer)
            generator = random_stream(seed, 3, self.device)
            buffer = ReplayBuffer(capacity, self.method.buffer_policy, generator)
        self.buffer = buffer
        self.model = model
        self.mixer = mixer
        self.optimizer: OptimizerFactory = optimizer or optimizer_by_name("sgd", lr=0.05)
        self.schedule: ScheduleFactory = (
            SCHEDULES[schedule] if isinstance(schedule, str) else schedule
        )
        self.epochs = epochs
        self.batch_size = batch_size
        self.seed = seed
        self.callbacks: tuple[Callback, ...] = tuple(callbacks)
        self.amp: torch.dtype | None = AMP[amp]
        self.clip_grad = clip_grad
        self.compile = compile
        self.storage = storage
        self.workers = workers

    def fit(self, scenario: Scenario, checkpoint: Checkpoint | None = None) -> Result:
        """Train on every task in turn.

        Args:
            scenario: The tasks.
            checkpoint: Where the state is kept at ends of epochs. If the file is there, training
                goes on from it, and on the CPU ends bit for bit as if never interrupted.

        Raises:
            ValueError: the buffer already holds samples, as after an earlier `fit`, or shares its
                capacity out over more classes than it has room for; or the mixer can do nothing
                with the model or the samples.
            CheckpointError: the file is damaged, or is of a training with other settings.
            DivergedError: the loss became infinite or NaN.
            OSError: the checkpoint cannot be written.
        """
        if self.buffer is not None and len(self.buffer):
            raise ValueError(
                f"the buffer already holds {len(self.buffer)} samples: a fit starts with an empty "
                "one, so make a new Trainer"
            )
        if self.method.uses_buffer and self.buffer is not None:
            self.buffer.require_room(scenario.num_classes)
        with _own_randomness(self.seed, self.device):
            run = self._prepare(scenario)
            run.mixer.check(run.model, scenario.input_shape)
            saved = None if checkpoint is None else checkpoint.load()
            if saved is not None:
                run.load_state_dict(saved)
            for callback in self.callbacks:
                callback.on_fit_begin(run.scenario)
            for task in run.scenario.tasks[run.task :]:
                self._train_task(run, task, saved, checkpoint)
                saved = None
        return run.result()

    def _train_task(
        self,
        run: TrainingState,
        task: Task,
        saved: dict[str, Any] | None,
        checkpoint: Checkpoint | None,
    ) -> None:
        stage = self._stage(run, task)
        run.optimizer = self.optimizer(run.model.parameters())
        run.schedule = self.schedule(run.optimizer, self.epochs)
        self.method.begin_task(stage)
        if saved is not None and run.epoch:  # this task had begun
            run.load_state_dict(saved)
        for epoch in range(run.epoch, self.epochs):
            run.mixer.set_epoch(epoch)
            loss = self._train_epoch(run, stage).item()
            if not math.isfinite(loss):
                raise DivergedError(
                    f"the training loss is {loss} in epoch {epoch + 1} of task "
                    f"{task.index + 1}: use a lower learning rate"
                )
            run.schedule.step()
            run.epoch = epoch + 1
            for callback in self.callbacks:
                callback.on_epoch_end(EpochEnd(task, epoch, loss, run.mixer, stage.seen_mask))
            if checkpoint is not None and checkpoint.due():
                checkpoint.save(run.state_dict())
        self.method.end_task(stage)
        evaluation = run.evaluator(run.model, self.method.predict, stage.seen_mask, task.index + 1)
        run.evaluations.append(evaluation)
        run.task, run.epoch = task.index + 1, 0
        for callback in self.callbacks:
            callback.on_task_end(TaskEnd(task, evaluation, run.model))
        if checkpoint is not None and checkpoint.due():
            checkpoint.save(run.state_dict())

    def _train_epoch(self, run: TrainingState, stage: Stage) -> Tensor:
        """One epoch; the mean loss per sample, still on the device."""
        model, mixer, optimizer, scaler = run.model, run.mixer, run.optimizer, run.scaler
        model.train()
        losses, sizes = [], []
        for step, (x, y) in enumerate(self.method.batches(stage)):
            if mixer.update_due(step):
                memory = self.method.memory(stage)
                mixer.update(model, stage.current, memory, seen_classes=stage.seen_mask)
            batch = mixer.mix(x, y)
            with self._precision():
                logits = batch.forward(model)
                loss = self.method.loss(stage, batch, logits)
            optimizer.zero_grad()
            scaler.scale(loss).backward()
            scaler.unscale_(optimizer)
            self.method.after_backward(stage)
            if self.clip_grad is not None:
                nn.utils.clip_grad_norm_(model.parameters(), self.clip_grad)
            scaler.step(optimizer)
            scaler.update()
            losses.append(loss.detach())
            sizes.append(len(y))
        share = torch.tensor(sizes, dtype=torch.float64, device=self.device)
        return torch.stack(losses).double() @ share / share.sum()

    def _precision(self) -> AbstractContextManager[object]:
        return nullcontext() if self.amp is None else torch.autocast(self.device.type, self.amp)

    def _prepare(self, scenario: Scenario) -> TrainingState:
        """Model, mixer and data of a fit, and the accuracy before any training."""
        inputs = [x for task in scenario for x in (task.train_x, task.test_x)]
        stored = self.storage
        if stored == "auto":
            stored = "device" if fits(inputs, self.device) else "host"
        scenario = scenario.to(self.device if stored == "device" else "cpu")
        feed = Feed(
            scenario.transform,
            self.device,
            random_stream(self.seed, 4, self.device),
            self.workers,
            random_stream(self.seed, 6, "cpu"),
        )
        model = self._build_model(scenario)
        if self.compile:
            model.compile()
        evaluator = Evaluator(scenario, feed)
        nothing_seen = torch.zeros(scenario.num_classes, dtype=torch.bool, device=self.device)
        return TrainingState(
            trainer=self,
            scenario=scenario,
            feed=feed,
            model=model,
            mixer=self._build_mixer(scenario),
            order=random_stream(self.seed, 1, self.device),
            scaler=torch.amp.GradScaler(self.device.type, enabled=self.amp == torch.float16),
            evaluator=evaluator,
            untrained=evaluator(model, self.method.predict, nothing_seen, seen_tasks=0),
        )

    def _stage(self, run: TrainingState, task: Task) -> Stage:
        return Stage(
            run.model,
            task,
            run.scenario.tasks[: task.index],
            run.scenario.seen_mask(task.index, self.device),
            self.buffer,
            self.batch_size,
            run.order,
            run.feed,
        )

    def _build_model(self, scenario: Scenario) -> nn.Module:
        if isinstance(self.model, nn.Module):
            return self.model.to(self.device)
        with seeded(self.seed):
            if self.model is None:
                model: nn.Module = mlp(scenario.input_shape, scenario.num_classes)
            else:
                model = self.model(scenario)
        return model.to(self.device)

    def _build_mixer(self, scenario: Scenario) -> Mixer:
        if isinstance(self.mixer, Mixer):
            return self.mixer
        generator = random_stream(self.seed, 2, self.device)
        return by_name(self.mixer, scenario.num_classes, generator=generator)


def random_stream(seed: int, stream: int, device: torch.device | str) -> torch.Generator:
    """A generator for one purpose of one seed, so that no purpose moves the draws of another.

    Streams in use: 1 order of batches, 2 mixer, 3 buffer, 4 augmentation, 5 PyTorch's own,
    6 workers that read data.
    """
    return torch.Generator(device).manual_seed(seed * 16 + stream)


@contextmanager
def _own_randomness(seed: int, device: torch.device) -> Iterator[None]:
    """PyTorch's own generators (dropout) start from the seed, and are put back afterwards."""
    with torch.random.fork_rng([device] if device.type == "cuda" else []):
        torch.manual_seed(seed * 16 + 5)
        yield
