"""The state of a training in progress."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field, fields, is_dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.optim.lr_scheduler import LRScheduler

from gradmix_ext.continual.checkpoint import CheckpointError, must_fit
from gradmix_ext.continual.evaluate import Evaluation, Evaluator
from gradmix_ext.continual.feed import Feed
from gradmix_ext.continual.methods import Method
from gradmix_ext.continual.result import Result
from gradmix_ext.continual.scenario import Scenario
from gradmix_ext.mixers import Mixer

if TYPE_CHECKING:
    from gradmix_ext.continual.trainer import Trainer

__all__ = ["TrainingState"]


@dataclass(eq=False)
class TrainingState:
    """Everything that one fit works with, and where it is: what a checkpoint holds.

    Over several ranks this is the state of one of them. What they share is saved once, and what is
    each one's own by rank, so that as many ranks go on bit for bit. If there are fewer, some of the
    streams of random numbers end; if there are more, the further ones begin theirs.
    """

    trainer: Trainer
    scenario: Scenario
    feed: Feed
    model: nn.Module
    replica: nn.Module
    mixer: Mixer
    order: torch.Generator
    scaler: torch.amp.GradScaler
    evaluator: Evaluator
    untrained: Evaluation
    evaluations: list[Evaluation] = field(default_factory=list)
    task: int = 0
    epoch: int = 0
    optimizer: torch.optim.Optimizer = field(init=False)
    schedule: LRScheduler = field(init=False)

    def __post_init__(self) -> None:
        # Now, before training changes what they remember.
        self._parts_as_given = {
            "method": _described(self.trainer.method),
            "mixer": _described(self.mixer),
        }

    def state_dict(self) -> dict[str, Any]:
        """The state at the end of an epoch or, with `epoch` 0, between two tasks."""
        begun = self.epoch > 0
        return {
            "settings": self.settings(),
            "task": self.task,
            "epoch": self.epoch,
            "untrained": asdict(self.untrained),
            "evaluations": [asdict(evaluation) for evaluation in self.evaluations],
            "parts": {name: part.state_dict() for name, part in self._parts(begun).items()},
            "buffer": None if self.trainer.buffer is None else self.trainer.buffer.state_dict(),
            "callbacks": [callback.state_dict() for callback in self.trainer.callbacks],
            "order": self.order.get_state(),
            "ranks": self.trainer.ranks.gather(self._own_state()),
        }

    @must_fit
    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from a state; with `epoch` > 0, once more after the task has begun anew.

        Raises:
            CheckpointError: it is of a training with other settings, or lacks something.
        """
        self.require_settings(state)
        begun = hasattr(self, "optimizer")
        self.task, self.epoch = state["task"], state["epoch"]
        self.untrained = Evaluation(**state["untrained"])
        self.evaluations = [Evaluation(**each) for each in state["evaluations"]]
        for name, part in self._parts(begun).items():
            part.load_state_dict(state["parts"][name])
        if self.trainer.buffer is not None:
            where = self.scenario[0].train_y.device
            self.trainer.buffer.load_state_dict(state["buffer"], where)
        for callback, saved in zip(self.trainer.callbacks, state["callbacks"], strict=True):
            callback.load_state_dict(saved)
        self.order.set_state(state["order"])
        self._load_own_state(state["ranks"])

    @must_fit
    def require_settings(self, state: dict[str, Any]) -> None:
        """Check that a state is of a training with these settings.

        Raises:
            CheckpointError: it is not.
        """
        for name, value in self.settings().items():
            if state["settings"].get(name) != value:
                raise CheckpointError(
                    f"the checkpoint is of a training with {name} = "
                    f"{state['settings'].get(name)}, this one has {value}"
                )

    def result(self) -> Result:
        """What was measured, once all tasks are trained."""
        done = self.evaluations
        return Result(
            accuracy_matrix=torch.stack([e.class_il for e in done]),
            task_il_matrix=torch.stack([e.task_il for e in done]),
            task_il_baseline=self.untrained.task_il,
            pooled_accuracy=torch.tensor([e.pooled for e in done], dtype=torch.float64),
            confusion=torch.stack([e.confusion for e in done]),
            task_classes=tuple(task.classes for task in self.scenario),
        )

    def _own_state(self) -> dict[str, Any]:
        """What ranks do not share: streams of random numbers, the mixer's among them."""
        mixer = self.mixer.state_dict().items()
        return {
            "mixer": {name: v.cpu() if isinstance(v, Tensor) else v for name, v in mixer},
            "generators": {name: g.get_state() for name, g in self._generators().items()},
            "torch": torch.get_rng_state(),
            "cuda": torch.cuda.get_rng_state(self.feed.device) if self._on_cuda else None,
        }

    def _load_own_state(self, by_rank: list[dict[str, Any]]) -> None:
        rank = self.trainer.ranks.rank
        if rank >= len(by_rank):  # a rank that was not there: it begins, with what was learned
            begun = self.mixer.state_dict()
            streams = {name: begun[name] for name in begun if name.endswith("generator")}
            self.mixer.load_state_dict(by_rank[0]["mixer"] | streams)
            return
        state = by_rank[rank]
        self.mixer.load_state_dict(state["mixer"])
        for name, generator in self._generators().items():
            generator.set_state(state["generators"][name])
        torch.set_rng_state(state["torch"])
        if self._on_cuda:
            torch.cuda.set_rng_state(state["cuda"], self.feed.device)

    @property
    def _on_cuda(self) -> bool:
        return self.feed.device.type == "cuda"

    def _parts(self, begun: bool) -> dict[str, Any]:
        parts: dict[str, Any] = {
            "model": self.model,
            "method": self.trainer.method,
            "scaler": self.scaler,
        }
        if begun:
            parts |= {"optimizer": self.optimizer, "schedule": self.schedule}
        return parts

    def _generators(self) -> dict[str, torch.Generator]:
        named = {
            "augmentation": self.feed.generator,
            "reading": self.feed.reading,
        }
        return {name: generator for name, generator in named.items() if generator is not None}

    def settings(self) -> dict[str, Any]:
        """What must be the same for a training to go on, and on all ranks.

        The optimizer is among it once there is one.
        """
        trainer = self.trainer
        settings = self._parts_as_given | {
            "seed": trainer.seed,
            "epochs": trainer.epochs,
            "batch_size": trainer.batch_size,
            "buffer": None if trainer.buffer is None else trainer.buffer.capacity,
            "tasks": [list(task.classes) for task in self.scenario],
            "amp": str(trainer.amp),
            "callbacks": len(trainer.callbacks),
            "samples": [len(task.train_y) for task in self.scenario],
            "clip_grad": trainer.clip_grad,
            "schedule": getattr(trainer.schedule, "__name__", type(trainer.schedule).__name__),
        }
        if hasattr(self, "optimizer"):
            kind, defaults = type(self.optimizer).__name__, self.optimizer.defaults
            settings["optimizer"] = _with_plain(kind, defaults)
        return settings


def _described(part: Method | Mixer) -> str:
    """The class of a part with its plain settings, such as ``Mixup(balance=0.5)``."""
    settings = {name: v for name, v in vars(part).items() if name[0] != "_" and name != "epoch"}
    return _with_plain(type(part).__name__, settings)


def _with_plain(kind: str, settings: dict[str, Any]) -> str:
    texts = {name: _plain(value) for name, value in sorted(settings.items())}
    return f"{kind}({', '.join(f'{name}={text}' for name, text in texts.items() if text)})"


def _plain(value: object) -> str | None:
    """A setting as text: numbers, words, and what is made up of them; None for anything else."""
    if is_dataclass(value) and not isinstance(value, type):
        settings = {each.name: getattr(value, each.name) for each in fields(value)}
        return _with_plain(type(value).__name__, settings)
    if isinstance(value, tuple):
        return f"({', '.join(str(_plain(each)) for each in value)})"
    return str(value) if isinstance(value, int | float | str) else None
