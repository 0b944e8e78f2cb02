"""The replay buffer: a small memory of earlier samples, kept on the training device."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from gradmix_ext.continual.integers import integer
from gradmix_ext.continual.selection import balanced_quota, herding_rank, rank_within_class

__all__ = ["POLICIES", "ReplayBuffer"]

POLICIES = ("reservoir", "class-balanced", "herding")


class ReplayBuffer:
    """Holds at most `capacity` samples of everything that was added.

    Policies:

    - ``"reservoir"``: every sample ever added is held with the same probability, capacity / seen
      (Vitter 1985). Never synchronises with the device.
    - ``"class-balanced"``: the capacity is spread evenly over the classes seen, and the samples of
      a class are a uniform draw from all of that class ("ring" in some libraries). What a rare
      class leaves free goes to the other classes.
    - ``"herding"``: the same shares, filled with iCaRL's exemplars (Rebuffi et al. 2017, algorithm
      4), the samples whose mean feature follows the class mean; a share that shrinks drops the
      last exemplars first. Needs features. A class that is added again has both selections
      interleaved by rank.

    Args:
        capacity: Number of samples in total, over all classes.
        policy: One of the above.
        generator: Source of every draw; None is PyTorch's default generator of the data's device.
        fill: What a balanced policy does with slots that do not divide by the number of classes:
            leave them empty, so that all classes have the same share (as iCaRL does), or, if True,
            give them to the first classes. With 20 slots and 8 classes that is the difference
            between 16 and 20 samples.

    Attributes:
        seen: How many samples were ever added. Part of the state: a reservoir that forgets it
            would give new samples too much room.
    """

    def __init__(
        self,
        capacity: int,
        policy: str = "reservoir",
        generator: torch.Generator | None = None,
        fill: bool = False,
    ) -> None:
        capacity = integer("capacity", capacity)
        if capacity < 1:
            raise ValueError(f"capacity = {capacity} must be at least 1")
        if policy not in POLICIES:
            raise ValueError(f"unknown policy '{policy}': known are {', '.join(POLICIES)}")
        self.capacity = capacity
        self.policy = policy
        self.generator = generator
        self.fill = fill
        self.seen = 0
        # Columns of equal length. "key" orders the samples of a class for the balanced policies.
        self._columns: dict[str, Tensor] = {}
        self._classes = torch.empty(0, dtype=torch.int64)
        self._class_seen = torch.empty(0, dtype=torch.int64)

    def __len__(self) -> int:
        return len(self._columns["y"]) if self._columns else 0

    @property
    def needs_features(self) -> bool:
        """Whether :meth:`add` wants the features of the samples."""
        return self.policy == "herding"

    @property
    def data(self) -> tuple[Tensor, Tensor] | None:
        """Inputs [n, ...] and labels [n] of all held samples, or None while there are none."""
        return (self._columns["x"], self._columns["y"]) if len(self) else None

    def require_room(self, num_classes: int) -> None:
        """Check that a balanced policy can keep a sample of each of so many classes.

        Raises:
            ValueError: it cannot. A reservoir, which knows no classes, always can.
        """
        if self.policy != "reservoir" and num_classes > self.capacity:
            raise ValueError(
                f"buffer capacity {self.capacity} is smaller than the number of classes "
                f"{num_classes}: each class needs room for one sample"
            )

    def add(self, x: Tensor, y: Tensor, features: Tensor | None = None) -> None:
        """Offer samples, in the order in which they were seen.

        Args:
            x: Inputs, [N, ...].
            y: Labels, [N], int64.
            features: [N, d], for herding alone.

        Raises:
            ValueError: shapes disagree, features are missing, or there are now more classes than
                the capacity has room for (balanced policies).
            TypeError: the labels are not int64.
        """
        if y.dtype != torch.int64:
            raise TypeError(f"y must be int64, got {y.dtype}")
        if y.ndim != 1 or len(x) != len(y):
            raise ValueError(
                f"x must be [N, ...] and y [N], got {list(x.shape)} and {list(y.shape)}"
            )
        if self._columns and x.shape[1:] != self._columns["x"].shape[1:]:
            raise ValueError(
                f"x has samples of shape {list(x.shape[1:])}, the buffer holds "
                f"{list(self._columns['x'].shape[1:])}"
            )
        if self.needs_features and (features is None or len(features) != len(x)):
            raise ValueError("herding chooses by features: give features [N, d]")
        if len(x) == 0:
            return
        if self.policy == "reservoir":
            self._add_reservoir(x.detach(), y)
        else:
            self._add_balanced(x.detach(), y, features)
        self.seen += len(x)

    def sample(self, n: int) -> tuple[Tensor, Tensor]:
        """Draw `n` held samples uniformly, with replacement.

        Raises:
            ValueError: the buffer is empty.
        """
        if not len(self):
            raise ValueError("cannot sample from an empty buffer")
        x, y = self._columns["x"], self._columns["y"]
        index = (self._uniform(n, y.device) * len(self)).long()
        return x[index], y[index]

    def state_dict(self) -> dict[str, Any]:
        """Everything that determines what the buffer does next, as tensors and plain values."""
        return {
            "capacity": self.capacity,
            "policy": self.policy,
            "fill": self.fill,
            "seen": self.seen,
            "columns": dict(self._columns),
            "classes": self._classes,
            "class_seen": self._class_seen,
            "generator": None if self.generator is None else self.generator.get_state(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from a :meth:`state_dict` of a buffer with the same settings.

        Raises:
            ValueError: a setting differs, or one of the two has no generator.
        """
        for name in ("capacity", "policy", "fill"):
            if state[name] != getattr(self, name):
                raise ValueError(
                    f"the saved buffer has {name} = {state[name]}, this one {getattr(self, name)}"
                )
        if (state["generator"] is None) != (self.generator is None):
            raise ValueError("the saved buffer and this one must both have a generator, or neither")
        self.seen = state["seen"]
        self._columns = {name: column.clone() for name, column in state["columns"].items()}
        self._classes = state["classes"].clone()
        self._class_seen = state["class_seen"].clone()
        if self.generator is not None:
            self.generator.set_state(state["generator"])

    def _uniform(self, n: int, device: torch.device) -> Tensor:
        """[n] float64 in [0, 1) on `device`; a generator draws where it lives."""
        where = device if self.generator is None else self.generator.device
        return torch.rand(n, dtype=torch.float64, device=where, generator=self.generator).to(device)

    def _add_reservoir(self, x: Tensor, y: Tensor) -> None:
        free = self.capacity - len(self)
        if not self._columns:
            self._columns = {"x": x[:free].clone(), "y": y[:free].clone()}
        elif free:
            self._columns["x"] = torch.cat([self._columns["x"], x[:free]])
            self._columns["y"] = torch.cat([self._columns["y"], y[:free]])
        x, y = x[free:], y[free:]
        if not len(x):
            return
        # Sample number n (from 0) takes slot floor(u (n + 1)), if there is such a slot. The others
        # go to one slot too many, so that no shape depends on the draw and nothing synchronises.
        arrival = torch.arange(len(x), device=x.device)
        numbers = self.seen + free + arrival + 1
        slot = (self._uniform(len(x), x.device) * numbers).long().clamp_(max=self.capacity)
        # Of several samples that hit one slot the last one stays, as if added one by one.
        winner = arrival.new_full((self.capacity + 1,), -1)
        winner = winner.scatter_reduce(0, slot, arrival, "amax")[: self.capacity]
        replaced = winner >= 0
        source = winner.clamp(min=0)
        kept_x, kept_y = self._columns["x"], self._columns["y"]
        fresh = replaced.view(-1, *[1] * (x.ndim - 1))
        self._columns = {
            "x": torch.where(fresh, x[source], kept_x),
            "y": torch.where(replaced, y[source], kept_y),
        }

    def _add_balanced(self, x: Tensor, y: Tensor, features: Tensor | None) -> None:
        classes, counts = self._count_classes(y)
        self.require_room(len(classes))
        quota = balanced_quota(counts, self.capacity, self.fill)
        if features is None:
            # A random priority per sample, drawn once: the first `quota` of a class are a uniform
            # draw from all of it, now and after the quota has shrunk.
            key = self._uniform(len(x), x.device)
        else:
            key = herding_rank(features, y, int(quota.max())).double()
        pool = {"x": x, "y": y, "key": key}
        if self._columns:
            pool = {name: torch.cat([column, pool[name]]) for name, column in self._columns.items()}
        group = torch.searchsorted(classes, pool["y"])
        keep = rank_within_class(group, pool["key"]) < quota[group]
        self._columns = {name: column[keep] for name, column in pool.items()}
        self._classes, self._class_seen = classes, counts

    def _count_classes(self, y: Tensor) -> tuple[Tensor, Tensor]:
        """Sorted labels [k] seen so far, the samples `y` included, and how many of each [k]."""
        fresh, fresh_counts = torch.unique(y, return_counts=True)
        labels = torch.cat([self._classes.to(y.device), fresh])
        classes, position = torch.unique(labels, return_inverse=True)
        counts = torch.zeros_like(classes)
        counts.index_add_(0, position, torch.cat([self._class_seen.to(y.device), fresh_counts]))
        return classes, counts
