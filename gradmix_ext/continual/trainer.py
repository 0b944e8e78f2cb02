"""The training loop."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from enum import IntEnum
from numbers import Real
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor, nn

from gradmix_ext._arguments import integer, require_choice, require_kind
from gradmix_ext.continual.buffer import ReplayBuffer
from gradmix_ext.continual.callbacks import Callback, EpochEnd, TaskEnd
from gradmix_ext.continual.checkpoint import Checkpoint
from gradmix_ext.continual.evaluate import Evaluator
from gradmix_ext.continual.feed import STORAGE, Feed, fits
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
from gradmix_ext.mixers import MIXERS, Mixer, by_name, mix_shares
from gradmix_ext.mixers.head import find_head, require_head
from gradmix_ext.ranks import Ranks, ranks_of

__all__ = ["DivergedError", "Stream", "Trainer", "random_stream"]

ModelSource = nn.Module | Callable[[Scenario], nn.Module]


class DivergedError(FloatingPointError):
    """The training loss is no longer a finite number."""


class Trainer:
    """Trains a model on the tasks of a scenario, one after the other, and tests it after each.

    Nothing in a step waits for the device; the loss is read once an epoch.

    With a ``process_group`` each of its processes makes a trainer with the same settings, and they
    train one model together by DDP: docs/distributed.md.

    Args:
        model: A module, trained in place, or a function that builds one for a scenario. The default
            builds an MLP with two hidden layers of 256.
        mixer: A mixer, or a name of ``gradmix_ext.mixers.MIXERS``.
        method: A method, or a name of ``gradmix_ext.continual.METHODS``.
        buffer: The replay buffer, or a capacity for one with the method's own policy
            (class-balanced, for iCaRL herding); needed by methods that replay.
        optimizer: Called with the parameters at the start of each task. The default is SGD with
            learning rate 0.05 and momentum 0.9. Parameters that it leaves out stay as they are, as
            if they required no gradient.
        schedule: Course of the learning rate over the epochs of each task:
            ``"constant"``, ``"cosine"`` or ``"step"``, or a function of the optimizer and the
            number of epochs.
        epochs: Epochs per task.
        batch_size: Samples per batch (of current samples, in split replay), over all processes. An
            epoch's last batch has what is left; one sample alone joins the batch before it, since
            batch normalisation cannot train on it.
        device: Where to train.
        seed: Seed of everything random: initial weights, order of batches, augmentation, dropout,
            and the mixer and the buffer unless they are given as objects. Processes have streams of
            their own for augmentation, dropout and the mixer.
        callbacks: Told about epochs and tasks.
        amp: Mixed precision of the training step: ``"none"``, ``"bf16"`` or ``"fp16"`` (with a
            scaled loss). Tests and GradMix's criterion keep the precision of the weights.
        clip_grad: Largest norm of the gradient of what the optimizer trains; larger ones are scaled
            down to it.
        compile: Whether to ``torch.compile`` the model, in place.
        storage: Where the data lives: on the ``"device"``, in ``"host"`` memory (or wherever a map-
            style data set reads it from), or ``"auto"``: on the device if it takes at most half of
            its free memory.
        workers: Processes that read data which is not on the device.
        process_group: The processes that train together, such as
            ``torch.distributed.group.WORLD``; by default this one trains alone. The mixer and the
            buffer become part of it.
        sync_batch_norm: Whether batch normalisation takes its statistics over the batches of all
            processes (on GPUs alone); otherwise each normalises by its own part of a batch.

    Raises:
        TypeError: an argument is of the wrong kind.
        ValueError: an argument has a value that it cannot have.
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
        process_group: dist.ProcessGroup | None = None,
        sync_batch_norm: bool = False,
    ) -> None:
        epochs, batch_size = integer("epochs", epochs), integer("batch_size", batch_size)
        for name, value in (("epochs", epochs), ("batch_size", batch_size)):
            if value < 1:
                raise ValueError(f"{name} must be at least 1, got {value}")
        workers, seed = integer("workers", workers), integer("seed", seed)
        if workers < 0:
            raise ValueError(f"workers must not be negative, got {workers}")
        if not -(2**59) <= seed < 2**60:
            raise ValueError(f"seed must be at least -2**59 and less than 2**60, got {seed}")
        for name, given, kinds, words in (
            ("model", model, Callable | None, "an nn.Module or a function that builds one"),
            ("mixer", mixer, Mixer | str, "a mixer or the name of one"),
            ("method", method, Method | str, "a method or the name of one"),
            ("optimizer", optimizer, Callable | None, "a function such as optimizer_by_name gives"),
            ("clip_grad", clip_grad, Real | Tensor | None, "a number or None"),
        ):
            require_kind(name, given, kinds, words)
        if clip_grad is not None and not clip_grad > 0:
            raise ValueError(f"clip_grad must be positive, got {clip_grad}")
        require_choice("amp", amp, tuple(AMP))
        require_choice("storage", storage, STORAGE)
        if isinstance(mixer, str):
            require_choice("mixer", mixer, tuple(MIXERS))
        if not callable(schedule):
            require_choice("schedule", schedule, tuple(SCHEDULES))
        self.ranks: Ranks = ranks_of(process_group)
        self.device: torch.device = torch.empty(0, device=device).device  # with its index
        if sync_batch_norm and self.ranks.size > 1 and self.device.type == "cpu":
            raise ValueError("sync_batch_norm needs GPUs: PyTorch has none for the CPU")
        self.method: Method = method_by_name(method) if isinstance(method, str) else method
        if self.method.uses_buffer and buffer is None:
            raise ValueError(f"{type(self.method).__name__} replays samples: give buffer")
        if buffer is not None and not isinstance(buffer, ReplayBuffer):
            capacity = integer("buffer", buffer)
            generator = random_stream(seed, Stream.BUFFER, self.device)
            buffer = ReplayBuffer(capacity, self.method.buffer_policy, generator)
        if buffer is not None and self.ranks.size > 1:
            buffer.ranks = self.ranks
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
        self.sync_batch_norm = sync_batch_norm

    def fit(self, scenario: Scenario, checkpoint: Checkpoint | None = None) -> Result:
        """Train on every task in turn.

        Args:
            scenario: The tasks.
            checkpoint: Where the state is kept at ends of epochs. If the file is there, training
                goes on from it, and on the CPU ends bit for bit as if never interrupted (unless
                a data set draws by NumPy or Python's ``random``, whose states are not kept, in this
                process).

        Raises:
            ValueError: the buffer already holds samples, as after an earlier `fit`, or shares its
                capacity out over more classes than it has room for; or the mixer, or a buffer that
                herds, can do nothing with the model or the samples; or several processes have
                different settings, or too little to share.
            CheckpointError: the file is damaged, or is of a training with other settings.
            DivergedError: the loss became infinite or NaN.
            OSError: the checkpoint cannot be written.
            TypeError: what is to be saved, such as a callback's state, holds more than tensors and
                plain values.
            FirstRankError: process 0 could not read or write it.
            RankLostError: another process has died, or does not answer.
        """
        require_kind("scenario", scenario, Scenario, "what class_incremental gives")
        require_kind("checkpoint", checkpoint, Checkpoint | None, "a Checkpoint(path)")
        if self.buffer is not None and len(self.buffer):
            raise ValueError(
                f"the buffer already holds {len(self.buffer)} samples: a fit starts with an empty "
                "one, so make a new Trainer"
            )
        if self.method.uses_buffer and self.buffer is not None:
            self.buffer.require_room(scenario.num_classes)
        self.require_shares(scenario)
        with self.ranks.watched(), _own_randomness(self.seed, self.device, self.ranks.rank):
            run = self._prepare(scenario)
            self.ranks.require_same(run.settings())
            if self.buffer is not None:
                self.buffer.require_same()
            remembers = type(self.method).memory is not Method.memory  # something to protect
            if not run.mixer.needs_update or (remembers and len(scenario) > 1):
                run.mixer.check(run.model, scenario.input_shape)
            if self.method.uses_buffer and self.buffer is not None and self.buffer.needs_features:
                require_head(run.model, scenario.input_shape, find_head(run.model))
            saved = None if checkpoint is None else self.ranks.on_first(checkpoint.load)
            if saved is not None:
                run.load_state_dict(saved)
            try:
                for callback in self.callbacks:
                    callback.on_fit_begin(run.scenario)
                for task in run.scenario.tasks[run.task :]:
                    self._train_task(run, task, saved, checkpoint)
                    saved = None
            finally:
                for callback in self.callbacks:
                    callback.on_fit_end()
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
        self.ranks.require_same(run.settings())  # the optimizer's among them from now on
        self.method.begin_task(stage)
        if saved is not None and run.epoch:  # this task had begun
            run.load_state_dict(saved)
        elif saved is not None:
            run.require_settings(saved)
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
            self.ranks.synchronise(run.model)
            for callback in self.callbacks:
                callback.on_epoch_end(EpochEnd(task, epoch, loss, run.mixer, stage.seen_mask))
            self._save(run, checkpoint)
        self.method.end_task(stage)
        evaluation = run.evaluator(run.model, self.method.predict, stage.seen_mask, task.index + 1)
        run.evaluations.append(evaluation)
        run.task, run.epoch = task.index + 1, 0
        for callback in self.callbacks:
            callback.on_task_end(TaskEnd(task, evaluation, run.model))
        self._save(run, checkpoint)

    def _train_epoch(self, run: TrainingState, stage: Stage) -> Tensor:
        """One epoch; the mean loss per sample, still on the device."""
        model, mixer, optimizer, scaler = run.model, run.mixer, run.optimizer, run.scaler
        trained = [p for group in optimizer.param_groups for p in group["params"]]
        left_alone = _others(model.parameters(), trained)
        model.train()
        losses, sizes = [], []
        for step, (x, y) in enumerate(self.method.batches(stage)):
            if mixer.update_due(step):
                memory = self.method.memory(stage)
                mixer.update(model, stage.current, memory, seen_classes=stage.seen_mask)
            batch = mix_shares(mixer, x, y, self.ranks)
            with self._precision():
                logits = batch.forward(run.replica)
                loss = self.method.loss(stage, batch, logits)
            optimizer.zero_grad()
            scaler.scale(loss).backward()
            for parameter in left_alone:  # nothing else would ever unscale or clear it
                parameter.grad = None
            scaler.unscale_(optimizer)
            self.method.after_backward(stage)
            if self.clip_grad is not None:
                nn.utils.clip_grad_norm_(trained, self.clip_grad)
            scaler.step(optimizer)
            scaler.update()
            losses.append(loss.detach())
            sizes.append(len(y))
        share = self.ranks.sum(torch.tensor(sizes, dtype=torch.float64, device=self.device))
        return self.ranks.average(torch.stack(losses).double()) @ share / share.sum()

    def _save(self, run: TrainingState, checkpoint: Checkpoint | None) -> None:
        """Keep the state if it is time; all ranks give theirs, and the first one writes."""
        if checkpoint is not None and self.ranks.on_first(checkpoint.due):
            state = run.state_dict()
            self.ranks.on_first(lambda: checkpoint.save(state))

    def require_shares(self, scenario: Scenario) -> None:
        """Check that, of several processes, each gets enough of everything.

        Raises:
            ValueError: one would have less than two samples of a batch, a task or the buffer.
        """
        if self.ranks.size == 1:
            return
        buffer = None if self.buffer is None else self.buffer.capacity
        sizes = {"batch_size": self.batch_size, "the buffer's capacity": buffer}
        for task in scenario:
            sizes[f"the number of training samples of task {task.index + 1}"] = len(task.train_y)
        for name, size in sizes.items():
            if size is not None and size < 2 * self.ranks.size:
                raise ValueError(
                    f"{name} is {size}, but {self.ranks.size} processes need 2 samples each"
                )
        if self.buffer is not None and self.buffer.generator is None:
            raise ValueError(
                "a buffer that processes share needs a generator of the same seed on each"
            )

    def _precision(self) -> AbstractContextManager[object]:
        return nullcontext() if self.amp is None else torch.autocast(self.device.type, self.amp)

    def _prepare(self, scenario: Scenario) -> TrainingState:
        """Model, mixer and data of a fit, and the accuracy before any training."""
        self.method.begin_fit()
        inputs = [x for task in scenario for x in (task.train_x, task.test_x)]
        stored = self.storage
        if stored == "auto":
            stored = "device" if fits(inputs, self.device) else "host"
        scenario = scenario.to(self.device if stored == "device" else "cpu")
        mixer = self._build_mixer(scenario)
        feed = Feed(
            scenario.transform,
            self.device,
            random_stream(self.seed, Stream.AUGMENTATION, self.device, self.ranks.rank),
            self.workers,
            random_stream(self.seed, Stream.WORKERS, "cpu", self.ranks.rank),
            mixer.takes_positions,
        )
        model = self._build_model(scenario)
        if self.sync_batch_norm and self.ranks.size > 1:
            model = nn.SyncBatchNorm.convert_sync_batchnorm(model, self.ranks.group)
        if self.compile:
            model.compile()
        replica = self.ranks.replicated(model)
        evaluator = Evaluator(scenario, feed, self.ranks)
        nothing_seen = torch.zeros(scenario.num_classes, dtype=torch.bool, device=self.device)
        return TrainingState(
            trainer=self,
            scenario=scenario,
            feed=feed,
            model=model,
            replica=replica,
            mixer=mixer,
            order=random_stream(self.seed, Stream.ORDER, self.device),
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
            self.ranks,
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
            mixer = self.mixer
        else:
            generator = random_stream(self.seed, Stream.MIXER, self.device, self.ranks.rank)
            mixer = by_name(self.mixer, scenario.num_classes, generator=generator)
        if self.ranks.size > 1:
            mixer.ranks = self.ranks
        return mixer


def _others(parameters: Iterable[nn.Parameter], trained: list[nn.Parameter]) -> list[nn.Parameter]:
    """The parameters that are not among those trained."""
    known = set(map(id, trained))
    return [parameter for parameter in parameters if id(parameter) not in known]


class Stream(IntEnum):
    """What is random. All ranks share the order and the buffer; of the others each has its own."""

    ORDER = 1
    MIXER = 2
    BUFFER = 3
    AUGMENTATION = 4
    PYTORCH = 5
    WORKERS = 6
    DIAGNOSIS = 8


def random_stream(
    seed: int, stream: Stream, device: torch.device | str, rank: int = 0
) -> torch.Generator:
    """A generator for one purpose of one seed, so that no purpose moves the draws of another."""
    return torch.Generator(device).manual_seed(_stream_seed(seed, stream, rank))


def _stream_seed(seed: int, stream: Stream, rank: int) -> int:
    own = seed * 16 + stream
    # Hashed, since the generator of the CPU looks at 32 bits only.
    return (
        own if rank == 0 else int(np.random.SeedSequence([own % 2**64, rank]).generate_state(1)[0])
    )


@contextmanager
def _own_randomness(seed: int, device: torch.device, rank: int) -> Iterator[None]:
    """PyTorch's own generators (dropout) start from the seed, and are put back afterwards."""
    with torch.random.fork_rng([device] if device.type == "cuda" else []):
        torch.manual_seed(_stream_seed(seed, Stream.PYTORCH, rank))
        yield
