"""Stand-in for mammoth's ``models.utils.continual_model``."""

from __future__ import annotations

import inspect
from argparse import ArgumentParser, Namespace
from typing import Any

import torch
from torch import Tensor, nn


class ContinualModel(nn.Module):
    NAME: str
    COMPATIBILITY: list[str]

    @staticmethod
    def get_parser(parser: ArgumentParser) -> ArgumentParser:
        return parser

    def __init__(
        self, backbone: nn.Module, loss: Any, args: Namespace, transform: Any, dataset: Any = None
    ) -> None:
        super().__init__()
        self.net, self.loss, self.args, self.dataset = backbone, loss, args, dataset
        self.transform = transform
        if transform is not None:
            self.normalization_transform = dataset.get_normalization_transform()
        self.num_classes = dataset.N_CLASSES
        self.device = torch.device("cpu")
        self.opt = self.get_optimizer()
        self._current_task = 0

    # Counters, to be read only.
    @property
    def current_task(self) -> int:
        return self._current_task

    @property
    def epoch_iteration(self) -> int:
        return self._epoch_iteration

    @property
    def n_past_classes(self) -> int:
        return self._n_past_classes

    @property
    def n_seen_classes(self) -> int:
        return self._n_seen_classes

    def get_optimizer(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.net.parameters(), lr=self.args.lr)

    def forward(self, x: Tensor) -> Tensor:
        return self.net(x)

    def begin_task(self, dataset: Any) -> None:
        pass

    def end_task(self, dataset: Any) -> None:
        pass

    def meta_begin_task(self, dataset: Any) -> None:
        self._epoch_iteration, self._past_epoch = 0, 0
        self._n_past_classes, self._n_seen_classes = dataset.get_offsets(self._current_task)
        self.opt = self.get_optimizer()
        self.begin_task(dataset)

    def meta_end_task(self, dataset: Any) -> None:
        self.end_task(dataset)
        self._current_task += 1

    def meta_observe(self, *args: Any, **kwargs: Any) -> float:
        epoch = kwargs.get("epoch")
        if epoch is not None and epoch != self._past_epoch:
            self._past_epoch, self._epoch_iteration = epoch, 0
        # A model gets those of the further fields of a sample that its observe names.
        known = inspect.signature(self.observe).parameters
        loss = self.observe(*args, **{k: v for k, v in kwargs.items() if k in known})
        self._epoch_iteration += 1
        return loss
