"""All communication between the processes of one training, its ranks.

What runs on several processes is written once, against :class:`Ranks`. That class itself is one
process that has everything: its methods give back what they are given. :func:`ranks_of` gives the
same over a process group of ``torch.distributed``. There is no other collective in the package.

Samples are dealt out like cards: of N samples that are one whole, rank r of R has numbers r, r + R,
r + 2R, ...
"""

from __future__ import annotations

import inspect
import os
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any, NoReturn, TypeVar, cast

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torch.utils.data import Dataset, Subset

__all__ = ["ONE", "FirstRankError", "RankLostError", "Ranks", "leave", "ranks_of"]

T = TypeVar("T")
Samples = TypeVar("Samples", Tensor, Dataset[Tensor], Tensor | Dataset[Tensor])


class RankLostError(RuntimeError):
    """Another rank has died, or has not answered in time."""


class FirstRankError(RuntimeError):
    """The first rank could not do what it does for all; it has the error itself.

    Args:
        message: What the error says.
        exit_code: With which it ends a command.
    """

    def __init__(self, message: str, exit_code: int = 1) -> None:
        super().__init__(message)
        self.exit_code = exit_code


class Ranks:
    """One process, which needs nobody.

    Attributes:
        rank: The number of this process, from 0.
        size: How many there are, R.
        group: The process group, None for one process.
    """

    rank = 0
    size = 1
    group: dist.ProcessGroup | None = None

    @property
    def first(self) -> bool:
        """Whether this is the one that prints and writes."""
        return self.rank == 0

    # Sums and means ---------------------------------------------------------------------------

    def total(self, number: int) -> int:
        """The sum of a number of each rank."""
        return number

    def most(self, number: int) -> int:
        """The largest of a number of each rank."""
        return number

    def sum(self, values: Tensor) -> Tensor:
        """The sum of a tensor of each rank, the same bits on all."""
        return values

    def average(self, values: Tensor) -> Tensor:
        """The mean of a tensor of each rank, the same bits on all."""
        return values

    def mean(self, values: Tensor, count: int) -> Tensor:
        """The mean over the samples of all ranks, from each rank's over its `count` samples."""
        return values

    def weigh(self, mean: Tensor, count: int | Tensor) -> Tensor:
        """A mean over `count` samples, scaled so that its :meth:`average` is that over all samples.

        DDP averages gradients over the ranks, whose batches need not be of one size.
        """
        return mean

    # Samples that are one whole ---------------------------------------------------------------

    def share(self, whole: Samples) -> Samples:
        """The samples [N, ...] of a whole that are this rank's."""
        return whole

    def whole(self, share: Tensor) -> Tensor:
        """The whole [N, ...] from every rank's :meth:`share` of it."""
        return share

    def own(self, order: Tensor, common: int) -> Tensor:
        """This rank's positions out of an order [N] of all samples.

        Args:
            order: A permutation, the same on all ranks.
            common: The samples before this position are at hand on every rank, and are dealt out in
                their order. Those from it on are there as shares.

        Returns:
            Positions among the samples that this rank has, which are the common ones and then its
            share. Shares of all ranks differ in size by one at most.
        """
        return order

    def end(self, position: int) -> int:
        """How many of so many samples in an order are this rank's."""
        return position

    def drawn(self, draws: int, total: int) -> range:
        """Which of so many draws from a whole fall to this rank, by the size of its share.

        If there are two draws for each rank, none gets fewer: batch normalisation needs as many.
        """
        return range(draws)

    # Samples that each rank brings, as many as it likes ---------------------------------------

    def joined(self, own: Tensor) -> tuple[Tensor, int]:
        """The tensors [n, ...] of all ranks one after the other, and where this rank's begins."""
        return own, 0

    def pool(self, *own: Tensor) -> tuple[Tensor, ...]:
        """Tensors [n, ...] of one length on each rank, with the rows of the others after them."""
        return own

    def fetch(self, read: Callable[[Tensor], Tensor], index: Tensor, begin: int, n: int) -> Tensor:
        """Samples [N, ...] of all ranks, by positions [N] in what :meth:`joined` gives.

        Args:
            read: This rank's samples by their own positions.
            index: The positions, the same on all ranks.
            begin: Where this rank's samples begin.
            n: How many it has.
        """
        return read(index)

    def quota(self, limit: int, own: int) -> int:
        """How many of its `own` samples a rank may use if all together use at most `limit`.

        Where there are more, all together use as many as that.
        """
        return limit

    # Agreement --------------------------------------------------------------------------------

    def common(
        self, generator: torch.Generator | None, device: torch.device
    ) -> torch.Generator | None:
        """A generator that draws the same on all ranks, from one that each rank has."""
        return generator

    def require_same(self, values: Mapping[str, object]) -> None:
        """Check that all ranks have the same values, by name.

        Raises:
            ValueError: they have not.
        """

    def gather(self, value: T) -> list[T]:
        """A value of each rank, by rank."""
        return [value]

    def on_first(self, function: Callable[[], T]) -> T:
        """Call a function on the first rank alone; all get its result.

        Raises:
            FirstRankError: it failed there. The first rank itself gets the error as it is.
        """
        return function()

    def watched(self) -> AbstractContextManager[object]:
        """Context in which the loss of another rank is a :class:`RankLostError`."""
        return nullcontext()

    # Models -----------------------------------------------------------------------------------

    def replicated(self, model: nn.Module) -> nn.Module:
        """What to call in training so that gradients are averaged over the ranks."""
        return model

    def synchronise(self, model: nn.Module) -> None:
        """Give a model the same buffers on all ranks: the mean of what batches have left there.

        Raises:
            RuntimeError: its weights are not the same, as with optimizers that differ.
        """


ONE = Ranks()


def ranks_of(group: dist.ProcessGroup | None) -> Ranks:
    """The ranks of a process group; one process if there is none, or nobody else in it.

    Raises:
        ValueError: this process is not in the group.
    """
    if group is not None and dist.get_rank(group) < 0:
        raise ValueError("process_group is one that this process is not in")
    return ONE if group is None or dist.get_world_size(group) == 1 else _Processes(group)


class _Processes(Ranks):
    """The processes of a group. Every method but the plain numbers has to be called on all."""

    def __init__(self, group: dist.ProcessGroup) -> None:
        self.group = group
        self.rank = dist.get_rank(group)
        self.size = dist.get_world_size(group)
        names = str(dist.get_backend(group))
        self._device = torch.device("cuda" if names == "nccl" else "cpu")

    def __deepcopy__(self, memo: dict[int, Any]) -> _Processes:
        return self  # a copy of a mixer or a buffer talks to the same processes

    def total(self, number: int) -> int:
        return self._reduced(number, dist.ReduceOp.SUM)

    def most(self, number: int) -> int:
        return self._reduced(number, dist.ReduceOp.MAX)

    def _reduced(self, number: int, by: dist.ReduceOp.RedOpType) -> int:
        value = torch.tensor(number, device=self._device)
        dist.all_reduce(value, by, self.group)
        return int(value)

    def sum(self, values: Tensor) -> Tensor:
        # In float64 the order of the ranks leaves no trace in a float32.
        exact = values.dtype if not values.is_floating_point() else torch.float64
        result = values.detach().to(exact, copy=True, memory_format=torch.contiguous_format)
        dist.all_reduce(result, group=self.group)
        return result.to(values.dtype)

    def average(self, values: Tensor) -> Tensor:
        return self.sum(values.detach().double() / self.size).to(values.dtype)

    def mean(self, values: Tensor, count: int) -> Tensor:
        if not count:  # whatever a mean over nothing is
            values = torch.zeros_like(values)
        return (self.sum(values.double() * count) / max(self.total(count), 1)).to(values.dtype)

    def weigh(self, mean: Tensor, count: int | Tensor) -> Tensor:
        one = torch.ones((), dtype=torch.float64, device=mean.device)
        own = one * count  # which waits for no device
        return mean * (own * self.size / self.sum(own)).to(mean.dtype)

    def share(self, whole: Samples) -> Samples:
        if isinstance(whole, Tensor):
            return whole[self.rank :: self.size].contiguous()
        length = len(cast("Any", whole))
        return Subset(whole, range(self.rank, length, self.size))

    def whole(self, share: Tensor) -> Tensor:
        parts = self._all(share)
        result = share.new_empty(sum(map(len, parts)), *share.shape[1:])
        for rank, part in enumerate(parts):
            result[rank :: self.size] = part
        return result

    def own(self, order: Tensor, common: int) -> Tensor:
        is_shared = order >= common
        # Owners are dealt on from the last of what is there as shares, to even the sizes out.
        dealt = (len(order) - common + (~is_shared).cumsum(0) - 1) % self.size
        owner = torch.where(is_shared, (order - common) % self.size, dealt)
        mine = order[owner == self.rank]
        return torch.where(mine < common, mine, common + (mine - common) // self.size)

    def end(self, position: int) -> int:
        return (position - self.rank + self.size - 1) // self.size

    def drawn(self, draws: int, total: int) -> range:
        share, larger = divmod(total, self.size)
        least = min(2, draws // self.size) if share else 0

        def edge(rank: int) -> int:
            even = draws * (rank * share + min(rank, larger)) // total
            return min(max(even, least * rank), draws - least * (self.size - rank))

        return range(edge(self.rank), edge(self.rank + 1))

    def joined(self, own: Tensor) -> tuple[Tensor, int]:
        parts = self._all(own)
        return torch.cat(parts), sum(map(len, parts[: self.rank]))

    def pool(self, *own: Tensor) -> tuple[Tensor, ...]:
        lengths = self._lengths(len(own[0]))
        pools = []
        for each in own:
            parts = self._parts(each, lengths)
            pools.append(torch.cat([parts.pop(self.rank), *parts]))
        return tuple(pools)

    def fetch(self, read: Callable[[Tensor], Tensor], index: Tensor, begin: int, n: int) -> Tensor:
        inside = (index >= begin) & (index < begin + n)
        mine = read(index[inside] - begin)
        result = mine.new_zeros(len(index), *mine.shape[1:])
        result[inside] = mine
        dist.all_reduce(result, group=self.group)  # one rank has it, the others add 0
        return result

    def quota(self, limit: int, own: int) -> int:
        lengths = self._lengths(own)
        total, before = sum(lengths), sum(lengths[: self.rank])
        if total <= limit:
            return limit
        return limit * (before + own) // total - limit * before // total

    def _all(self, own: Tensor) -> list[Tensor]:
        """The tensors [n, ...] of all ranks, whose lengths may differ."""
        return self._parts(own, self._lengths(len(own)))

    def _lengths(self, own: int) -> list[int]:
        """A length of each rank; with Gloo beside NCCL, no device is waited for."""
        count = torch.tensor([own], device=self._device)
        counts = [torch.empty_like(count) for _ in range(self.size)]
        dist.all_gather(counts, count, self.group)
        return [int(each) for each in counts]

    def _parts(self, own: Tensor, lengths: list[int]) -> list[Tensor]:
        """The tensors [n, ...] of all ranks, of these lengths."""
        where = self._device if self._device.type == "cuda" else own.device  # NCCL alone
        padded = own.new_zeros(max(lengths), *own.shape[1:], device=where)
        padded[: len(own)] = own
        parts = [torch.empty_like(padded) for _ in range(self.size)]
        dist.all_gather(parts, padded, self.group)
        return [part[:length].to(own.device) for part, length in zip(parts, lengths, strict=True)]

    def common(self, generator: torch.Generator | None, device: torch.device) -> torch.Generator:
        where = device if generator is None else generator.device
        seed = torch.randint(2**62, (1,), generator=generator, device=where).to(device)
        dist.broadcast(seed, group=self.group, group_src=0)
        return torch.Generator(where).manual_seed(int(seed))

    def require_same(self, values: Mapping[str, object]) -> None:
        everywhere = self.gather(dict(values))
        for name in values:
            for rank, theirs in enumerate(everywhere):
                if theirs[name] != everywhere[0][name]:
                    raise ValueError(
                        f"{name} must be the same on all ranks, got {everywhere[0][name]} on rank "
                        f"0 and {theirs[name]} on rank {rank}"
                    )

    def gather(self, value: T) -> list[T]:
        values: list[Any] = [None] * self.size
        dist.all_gather_object(values, value, group=self.group)
        return values

    def on_first(self, function: Callable[[], T]) -> T:
        outcome: list[Any] = [None, None]
        failure: Exception | None = None
        if self.first:
            try:
                outcome[0] = function()
            except Exception as error:
                failure = error
                outcome[1] = f"rank 0: {error}", getattr(error, "exit_code", 1)
        dist.broadcast_object_list(outcome, group=self.group, group_src=0)
        if failure is not None:
            raise failure
        if outcome[1] is not None:
            raise FirstRankError(*outcome[1])
        result: T = outcome[0]
        return result

    @contextmanager
    def watched(self) -> Iterator[None]:
        try:
            yield
        except RuntimeError as error:
            # NCCL's errors have a class of their own, Gloo's only say where they come from.
            if not isinstance(error, dist.DistError) and "gloo" not in str(error):
                raise
            reason = str(error).strip().splitlines()[0]
            raise RankLostError(
                f"rank {self.rank} of {self.size} lost another rank, which has died or does not "
                f"answer: {reason}"
            ) from error

    def replicated(self, model: nn.Module) -> nn.Module:
        # Buffers are averaged by `synchronise` instead, so that no rank's batches count alone.
        known = inspect.signature(DistributedDataParallel).parameters
        name = "forward_sync_buffers" if "forward_sync_buffers" in known else "broadcast_buffers"
        buffers: dict[str, Any] = {name: False}
        return DistributedDataParallel(model, process_group=self.group, **buffers)

    def synchronise(self, model: nn.Module) -> None:
        for buffer in model.buffers():
            if buffer.is_floating_point():
                buffer.copy_(self.average(buffer))
        with torch.no_grad():
            sums = [p.double().sum() for p in model.parameters()]
        if not sums:
            return
        own = torch.stack(sums)
        mean = self.average(own)
        apart = self.sum(((own - mean).abs() > 1e-3 * (1 + mean.abs())).any().long())
        if apart:
            raise RuntimeError(
                "the weights are not the same on all ranks: give every one the same optimizer"
            )


def leave(code: int) -> NoReturn:
    """Exit, also from a process that torchrun has started.

    Threads of Gloo can outlive the process group, and abort the interpreter while it shuts down.
    """
    if dist.is_initialized():
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
    sys.exit(code)
