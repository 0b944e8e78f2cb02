"""The replay buffer: a small memory of earlier samples, kept on the training device."""

from __future__ import annotations

import zlib
from collections.abc import Mapping
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from gradmix_ext._arguments import integer
from gradmix_ext.continual.data import RawInputs, input_count, read
from gradmix_ext.continual.selection import balanced_quota, herding_rank, rank_within_class
from gradmix_ext.ranks import Ranks, ranks_of

__all__ = ["POLICIES", "ReplayBuffer"]

POLICIES = ("reservoir", "class-balanced", "herding")

# Columns that the buffer keeps itself, or needs while it chooses.
_OWN = ("x", "y", "row", "key")


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

    Over several processes this is one buffer, of which each holds a share. All of them offer the
    same samples, with generators in the same state, and so choose the same ones; of those rank r of
    R keeps numbers r, r + R, r + 2R, ... No sample is held twice.

    Args:
        capacity: Number of samples in total, over all classes and processes.
        policy: One of the above.
        generator: Source of every draw; None is PyTorch's default generator of the data's device.
        fill: What a balanced policy does with slots that do not divide by the number of classes:
            leave them empty, so that all classes have the same share (as iCaRL does), or, if True,
            give them to the first classes. With 20 slots and 8 classes that is the difference
            between 16 and 20 samples.
        process_group: The processes that share the buffer; by default it is this one's alone. They
            have to call :meth:`add`, :meth:`draw`, :meth:`state_dict` and :meth:`load_state_dict`
            together.

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
        process_group: dist.ProcessGroup | None = None,
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
        self.seen: int = 0
        self.ranks: Ranks = ranks_of(process_group)
        # Samples held by all ranks, and this one's share of them.
        self._held = 0
        # Columns of equal length. "key" orders the samples of a class for the balanced policies.
        self._columns: dict[str, Tensor] = {}
        self._classes = torch.empty(0, dtype=torch.int64)
        self._class_seen = torch.empty(0, dtype=torch.int64)

    def __len__(self) -> int:
        """Number of samples held, in all shares together."""
        return self._held

    @property
    def needs_features(self) -> bool:
        """Whether :meth:`add` wants the features of the samples."""
        return self.policy == "herding"

    @property
    def data(self) -> tuple[Tensor, Tensor] | None:
        """Inputs [n, ...] and labels [n] of what is held here, or None while nothing is."""
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

    def require_same(self, offered: int = 0) -> None:
        """Check that all processes choose the same samples, so that theirs are shares of one whole.

        Args:
            offered: How many samples are to be added.

        Raises:
            ValueError: a setting, the state of the generator or the number of samples differs.
        """
        generator = self.generator
        state = None if generator is None else zlib.crc32(generator.get_state().numpy().tobytes())
        self.ranks.require_same(
            {
                "the buffer's capacity": self.capacity,
                "the buffer's policy": self.policy,
                "the buffer's fill": self.fill,
                "the checksum of the state of the buffer's generator": state,
                "the number of samples offered to the buffer": offered,
            }
        )

    def column(self, name: str) -> Tensor:
        """What was stored of every sample held here under this name, [n, ...].

        Raises:
            KeyError: nothing was.
        """
        return self._columns[name]

    def add(
        self,
        x: RawInputs,
        y: Tensor,
        features: Tensor | None = None,
        extra: Mapping[str, Tensor] | None = None,
    ) -> None:
        """Offer samples, in the order in which they were seen. Only what is kept is copied or read.

        Args:
            x: Inputs, [N, ...], or a map-style data set of N inputs.
            y: Labels, [N], int64.
            features: [N, d], for herding alone.
            extra: What else to keep of each sample, [N, ...] by name, the same names every time;
                see :meth:`column`. The buffer's own are called ``"x"``, ``"y"``, ``"row"`` and
                ``"key"``.

        Raises:
            ValueError: shapes or names disagree, a name is the buffer's own, features are missing
                or of no use, there are now more classes than the capacity has room for (balanced
                policies), or processes that share the buffer differ in it.
            TypeError: the labels are not int64, or the inputs are of another dtype than those held.
        """
        self.require_same(y.numel())
        if y.dtype != torch.int64:
            raise TypeError(f"y must be int64, got {y.dtype}")
        if y.ndim != 1 or input_count(x) != len(y):
            found = list(x.shape) if isinstance(x, Tensor) else input_count(x)
            raise ValueError(f"x must be [N, ...] and y [N], got {found} and {list(y.shape)}")
        if self.needs_features and (features is None or len(features) != len(y)):
            raise ValueError("herding chooses by features: give features [N, d]")
        if features is not None and not self.needs_features:
            raise ValueError(f"a {self.policy} buffer does not choose by features: give none")
        if len(y) == 0:
            return
        like = read(x, torch.tensor([0]))
        held = self._held
        if held and like.shape[1:] != self._columns["x"].shape[1:]:
            raise ValueError(
                f"x has samples of shape {list(like.shape[1:])}, the buffer holds "
                f"{list(self._columns['x'].shape[1:])}"
            )
        if held and like.dtype != self._columns["x"].dtype:
            raise TypeError(
                f"x has samples of {like.dtype}, the buffer holds {self._columns['x'].dtype}"
            )
        extra = extra or {}
        for name in _OWN:
            if name in extra:
                raise ValueError(f"extra must not have the name {name!r}, which the buffer uses")
        known = self._columns.keys() - set(_OWN) if held else extra.keys()
        if extra.keys() != known or any(len(column) != len(y) for column in extra.values()):
            raise ValueError(
                f"extra must have one value per sample and the names {sorted(known)}, got "
                f"{ {name: list(column.shape) for name, column in extra.items()} }"
            )
        whole = {name: self.ranks.whole(column) for name, column in self._columns.items()}
        old = {name: column for name, column in whole.items() if name != "x"}
        rows = torch.arange(held + len(y), device=y.device)
        new = {"y": y, "row": rows[held:], **extra}
        if held:
            old["row"] = rows[:held]
        if self.policy == "reservoir":
            kept = self._reservoir(old, new)
        else:
            kept = self._balanced(old, new, features)
        self._held = len(kept["y"])
        own = {name: self.ranks.share(column) for name, column in kept.items()}
        held_x = whole["x"] if held else None
        self._columns = {"x": _inputs(x, own.pop("row"), held_x), **own}
        self.seen += len(y)

    def draw(self, n: int) -> Tensor:
        """Positions [n] of samples held here, drawn uniformly, with replacement.

        Of `n` draws from all shares those are returned that fall into this one; see :meth:`drawn`.

        Raises:
            ValueError: the buffer is empty.
        """
        if not len(self):
            raise ValueError("cannot sample from an empty buffer")
        y = self._columns["y"]
        drawn = self.drawn(n)
        return (self._uniform(n, y.device)[drawn.start : drawn.stop] * len(y)).long()

    def drawn(self, n: int) -> range:
        """Which of `n` draws fall into this share: as many as it is large, to the nearest one."""
        return self.ranks.drawn(n, len(self))

    def sample(self, n: int) -> tuple[Tensor, Tensor]:
        """Inputs [n, ...] and labels [n] of samples drawn as by :meth:`draw`."""
        index = self.draw(n)
        return self._columns["x"][index], self._columns["y"][index]

    def state_dict(self) -> dict[str, Any]:
        """Everything that determines what the buffer does next, as tensors and plain values.

        All shares together are in it, so any number of processes can go on from it.
        """
        return {
            "capacity": self.capacity,
            "policy": self.policy,
            "fill": self.fill,
            "seen": self.seen,
            "columns": {name: self.ranks.whole(column) for name, column in self._columns.items()},
            "classes": self._classes,
            "class_seen": self._class_seen,
            "generator": None if self.generator is None else self.generator.get_state(),
        }

    def load_state_dict(
        self, state: dict[str, Any], device: torch.device | str | None = None
    ) -> None:
        """Continue from a :meth:`state_dict` of a buffer with the same settings.

        Args:
            state: The state.
            device: Where the samples shall be; where those of the state are, by default.

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
        columns = state["columns"]
        self._held = len(columns["y"]) if columns else 0
        self._columns = {
            name: self.ranks.share(column).to(device, copy=True) for name, column in columns.items()
        }
        self._classes = state["classes"].clone()
        self._class_seen = state["class_seen"].clone()
        if self.generator is not None:
            self.generator.set_state(state["generator"])

    def _uniform(self, n: int, device: torch.device) -> Tensor:
        """[n] float64 in [0, 1) on `device`; a generator draws where it lives."""
        where = device if self.generator is None else self.generator.device
        return torch.rand(n, dtype=torch.float64, device=where, generator=self.generator).to(device)

    def _reservoir(self, old: dict[str, Tensor], new: dict[str, Tensor]) -> dict[str, Tensor]:
        free = self.capacity - self._held
        if free:
            head = {name: column[:free] for name, column in new.items()}
            old = {name: torch.cat([old[name], c]) if old else c for name, c in head.items()}
            new = {name: column[free:] for name, column in new.items()}
        y = new["y"]
        if not len(y):
            return old
        # Sample number n (from 0) takes slot floor(u (n + 1)), if there is such a slot. The others
        # go to one slot too many, so that no shape depends on the draw and nothing synchronises.
        arrival = torch.arange(len(y), device=y.device)
        numbers = self.seen + free + arrival + 1
        slot = (self._uniform(len(y), y.device) * numbers).long().clamp_(max=self.capacity)
        # Of several samples that hit one slot the last one stays, as if added one by one.
        winner = arrival.new_full((self.capacity + 1,), -1)
        winner = winner.scatter_reduce(0, slot, arrival, "amax")[: self.capacity]
        source = winner.clamp(min=0)
        return {
            name: torch.where(
                (winner >= 0).view(-1, *[1] * (column.ndim - 1)), column[source], old[name]
            )
            for name, column in new.items()
        }

    def _balanced(
        self, old: dict[str, Tensor], new: dict[str, Tensor], features: Tensor | None
    ) -> dict[str, Tensor]:
        y = new["y"]
        classes, counts = self._count_classes(y)
        self.require_room(len(classes))
        quota = balanced_quota(counts, self.capacity, self.fill)
        if features is None:
            # A random priority per sample, drawn once: the first `quota` of a class are a uniform
            # draw from all of it, now and after the quota has shrunk.
            key = self._uniform(len(y), y.device)
        else:
            key = herding_rank(features.to(y.device), y, int(quota.max())).double()
        pool = new | {"key": key}
        if old:
            pool = {name: torch.cat([column, pool[name]]) for name, column in old.items()}
        group = torch.searchsorted(classes, pool["y"])
        keep = rank_within_class(group, pool["key"]) < quota[group]
        self._classes, self._class_seen = classes, counts
        return {name: column[keep] for name, column in pool.items()}

    def _count_classes(self, y: Tensor) -> tuple[Tensor, Tensor]:
        """Sorted labels [k] seen so far, the samples `y` included, and how many of each [k]."""
        fresh, fresh_counts = torch.unique(y, return_counts=True)
        labels = torch.cat([self._classes.to(y.device), fresh])
        classes, position = torch.unique(labels, return_inverse=True)
        counts = torch.zeros_like(classes)
        counts.index_add_(0, position, torch.cat([self._class_seen.to(y.device), fresh_counts]))
        return classes, counts


def _inputs(x: RawInputs, row: Tensor, old: Tensor | None) -> Tensor:
    """The inputs in these rows of what was held, if anything was, and then what is offered."""
    held = 0 if old is None else len(old)
    if isinstance(x, Tensor):
        fresh = x.detach()[(row - held).clamp(min=0)]
        if old is None:
            return fresh
        is_fresh = (row >= held).view(-1, *[1] * (x.ndim - 1))
        return torch.where(is_fresh, fresh, old[row.clamp(max=held - 1)])
    is_fresh = row >= held
    fresh = read(x, row[is_fresh] - held).to(row.device)
    inputs = fresh.new_empty(len(row), *fresh.shape[1:])
    inputs[is_fresh] = fresh
    if old is not None:
        inputs[~is_fresh] = old[row[~is_fresh]]
    return inputs
