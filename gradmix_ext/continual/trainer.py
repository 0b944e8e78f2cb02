"""The training loop."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from functools import partial

import torch
from torch import Tensor, nn

from gradmix_ext.continual.buffer import ReplayBuffer
from gradmix_ext.continual.callbacks import Callback, EpochEnd, TaskEnd
from gradmix_ext.continual.evaluate import Evaluator
from gradmix_ext.continual.integers import integer
from gradmix_ext.continual.methods import Method, Stage, method_by_name
from gradmix_ext.continual.models import mlp, seeded
from gradmix_ext.continual.result import Result
from gradmix_ext.continual.scenario import Scenario
from gradmix_ext.mixers import Mixer, by_name

__all__ = ["DivergedError", "Trainer", "random_stream"]

ModelSource = nn.Module | Callable[[Scenario], nn.Module]
OptimizerFactory = Callable[[Iterable[nn.Parameter]], torch.optim.Optimizer]

SGD = partial(torch.optim.SGD, lr=0.05, momentum=0.9)


class DivergedError(FloatingPointError):
    """The training loss is no longer a finite number."""


class Trainer:
    """Trains a model on the tasks of a scenario, one after the other, and tests it after each.

    Everything stays on the device: data, buffer, batches, mixing. Nothing in a step waits for it;
    the loss is read once an epoch.

    Args:
        model: A module, trained in place, or a function that builds one for a scenario. The default
            builds an MLP with two hidden layers of 256.
        mixer: A mixer, or a name of ``gradmix_ext.mixers.MIXERS``.
        method: A method, or a name of ``gradmix_ext.continual.METHODS``.
        buffer: The replay buffer, or a capacity for a class-balanced one; needed by methods that
            replay.
        optimizer: Called with the parameters at the start of each task. The default is SGD with
            learning rate 0.05 and momentum 0.9.
        epochs: Epochs per task.
        batch_size: Samples per batch (of current samples, in split replay). An epoch's last batch
            has what is left; one sample alone joins the batch before it (see
            :func:`~gradmix_ext.continual.replay.shuffled_batches`).
        device: Where to train.
        seed: Seed of what the trainer builds or draws itself: initial weights, order of batches,
            and the mixer and the buffer unless they are given as objects.
        callbacks: Told about epochs and tasks.
    """

    def __init__(
        self,
        model: ModelSource | None = None,
        mixer: Mixer | str = "none",
        method: Method | str = "er",
        buffer: ReplayBuffer | int | None = None,
        optimizer: OptimizerFactory = SGD,
        epochs: int = 10,
        batch_size: int = 64,
        device: torch.device | str = "cpu",
        seed: int = 0,
        callbacks: Sequence[Callback] = (),
    ) -> None:
        epochs, batch_size = integer("epochs", epochs), integer("batch_size", batch_size)
        for name, value in (("epochs", epochs), ("batch_size", batch_size)):
            if value < 1:
                raise ValueError(f"{name} must be at least 1, got {value}")
        seed = integer("seed", seed)
        self.device = torch.device(device)
        self.method = method_by_name(method) if isinstance(method, str) else method
        if buffer is not None and not isinstance(buffer, ReplayBuffer):
            capacity = integer("buffer", buffer)
            buffer = ReplayBuffer(capacity, "class-balanced", random_stream(seed, 3, self.device))
        if self.method.uses_buffer and buffer is None:
            raise ValueError(f"{type(self.method).__name__} replays samples: give buffer")
        self.buffer = buffer
        self.model = model
        self.mixer = mixer
        self.optimizer = optimizer
        self.epochs = epochs
        self.batch_size = batch_size
        self.seed = seed
        self.callbacks = tuple(callbacks)

    def fit(self, scenario: Scenario) -> Result:
        """Train on every task in turn.

        Raises:
            ValueError: the buffer already holds samples, as after an earlier `fit`, or shares its
                capacity out over more classes than it has room for.
            DivergedError: the loss became infinite or NaN.
        """
        if self.buffer is not None and len(self.buffer):
            raise ValueError(
                f"the buffer already holds {len(self.buffer)} samples: a fit starts with an empty "
                "one, so make a new Trainer"
            )
        if self.method.uses_buffer and self.buffer is not None:
            self.buffer.require_room(scenario.num_classes)
        scenario = scenario.to(self.device)
        model = self._build_model(scenario)
        mixer = self._build_mixer(scenario)
        order = random_stream(self.seed, 1, self.device)
        evaluator = Evaluator(scenario)
        nothing_seen = torch.zeros(scenario.num_classes, dtype=torch.bool, device=self.device)
        untrained = evaluator(model, self.method.predict, nothing_seen, seen_tasks=0)
        evaluations = []
        for callback in self.callbacks:
            callback.on_fit_begin(scenario)
        for task in scenario:
            stage = Stage(
                model,
                task,
                scenario.tasks[: task.index],
                scenario.seen_mask(task.index, self.device),
                self.buffer,
                self.batch_size,
                order,
            )
            optimizer = self.optimizer(model.parameters())
            self.method.begin_task(stage)
            for epoch in range(self.epochs):
                mixer.set_epoch(epoch)
                loss = self._train_epoch(stage, mixer, optimizer).item()
                if not math.isfinite(loss):
                    raise DivergedError(
                        f"the training loss is {loss} in epoch {epoch + 1} of task "
                        f"{task.index + 1}: use a lower learning rate"
                    )
                for callback in self.callbacks:
                    callback.on_epoch_end(EpochEnd(task, epoch, loss, mixer, stage.seen_mask))
            self.method.end_task(stage)
            evaluation = evaluator(model, self.method.predict, stage.seen_mask, task.index + 1)
            evaluations.append(evaluation)
            for callback in self.callbacks:
                callback.on_task_end(TaskEnd(task, evaluation, model))
        return Result(
            accuracy_matrix=torch.stack([e.class_il for e in evaluations]),
            task_il_matrix=torch.stack([e.task_il for e in evaluations]),
            task_il_baseline=untrained.task_il,
            pooled_accuracy=torch.tensor([e.pooled for e in evaluations], dtype=torch.float64),
            task_classes=tuple(task.classes for task in scenario),
        )

    def _train_epoch(self, stage: Stage, mixer: Mixer, optimizer: torch.optim.Optimizer) -> Tensor:
        """One epoch; the mean loss per sample, still on the device."""
        stage.model.train()
        total = torch.zeros((), dtype=torch.float64, device=self.device)
        samples = 0
        for step, (x, y) in enumerate(self.method.batches(stage)):
            if mixer.update_due(step):
                memory = self.method.memory(stage)
                mixer.update(stage.model, stage.current, memory, seen_classes=stage.seen_mask)
            batch = mixer.mix(x, y)
            logits = stage.model(batch.x)
            loss = self.method.loss(stage, batch, logits)
            optimizer.zero_grad()
            loss.backward()
            self.method.after_backward(stage)
            optimizer.step()
            total += loss.detach() * len(y)
            samples += len(y)
        return total / samples

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

    Streams in use: 1 order of batches, 2 mixer, 3 buffer.
    """
    return torch.Generator(device).manual_seed(seed * 16 + stream)
