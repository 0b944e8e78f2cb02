"""Running as one of the processes that ``torchrun`` starts: the first leads, the others follow."""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from datetime import timedelta
from functools import partial
from typing import NoReturn

import torch
import torch.distributed as dist

from gradmix_ext import loader
from gradmix_ext.cli._errors import RunError, wrong_input
from gradmix_ext.experiments.experiment import Experiment
from gradmix_ext.experiments.jobs import Job, RunFailedError
from gradmix_ext.experiments.plan import Plan
from gradmix_ext.loader.backend import handed_down
from gradmix_ext.ranks import ONE, RankLostError, Ranks, leave, ranks_of

__all__ = ["experiment_of", "follow", "join_ranks", "leading"]


def join_ranks(timeout: float) -> Ranks:
    """The processes that torchrun has started; this one alone without torchrun.

    Args:
        timeout: Seconds after which a process that does not answer is given up.
    """
    if not dist.is_torchelastic_launched():
        return ONE
    backend = "cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo"
    dist.init_process_group(backend, timeout=timedelta(seconds=timeout))
    return ranks_of(dist.group.WORLD)


def experiment_of(plan: Plan, ranks: Ranks) -> Experiment:
    """The experiment of a plan, on the device of this rank.

    Raises:
        ValueError: there is no such device, or another reason of :class:`Experiment`.
    """
    if ranks.size == 1:
        return Experiment(plan.config, plan.arms)
    return Experiment(
        replace(plan.config, device=_own_device(plan.config.device)), plan.arms, ranks
    )


def _own_device(name: str) -> str:
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    if name != "cuda":
        if name.startswith("cuda:"):
            raise ValueError(f"device '{name}' is one for all processes: give cuda, auto or cpu")
        return name
    number, devices = int(os.environ["LOCAL_RANK"]), torch.cuda.device_count()
    if number >= devices:
        raise ValueError(f"process {number} of this machine needs a GPU, and there are {devices}")
    torch.cuda.set_device(number)
    return f"cuda:{number}"


@contextmanager
def leading(ranks: Ranks) -> Iterator[Callable[[Plan, Sequence[Job]], None]]:
    """Context of the first rank, with what tells the others the plan and the jobs to do.

    They wait for it, and end if an error comes before it.
    """
    told = False

    def tell(plan: Plan, jobs: Sequence[Job]) -> None:
        nonlocal told
        told = True
        ranks.on_first(lambda: (plan, jobs, handed_down()))

    try:
        yield tell
    except Exception as error:
        if not told:
            ranks.on_first(partial(_fail, error))
        raise


def _fail(error: Exception) -> NoReturn:
    raise error


def follow(ranks: Ranks) -> None:
    """Do the jobs together with the first rank, which alone prints and writes."""
    with ranks.watched():
        plan, jobs, environment = ranks.on_first(_told)
    if os.environ["GROUP_RANK"] == "0":  # on the machine of the first rank
        os.environ.update(environment)
    torch.set_num_threads(plan.threads)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # what there is to say, the first rank says
        loader.load()
    with wrong_input():
        experiment = experiment_of(plan, ranks)
    try:
        for job in jobs:
            job.do(experiment, lambda tick: None)
    except KeyboardInterrupt:
        leave(130)
    except RunFailedError as error:
        if isinstance(error.__cause__, OSError | RankLostError):
            raise RunError(f"rank {ranks.rank}: {error}") from error
        leave(1)  # the first rank has failed in the same way, and says so


def _told() -> tuple[Plan, Sequence[Job], dict[str, str]]:
    """What the others hear from the first rank."""
    raise AssertionError("the first rank tells")
