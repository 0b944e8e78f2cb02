"""Runs in processes of their own, side by side.

Each worker has a pipe of its own, so that a worker that dies blocks no other, and its run is known
(an executor of the standard library says that some process died, not with which job). Workers are
spawned, not forked: threads and CUDA do not survive a fork.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess

import torch

from gradmix_ext import loader
from gradmix_ext.experiments.experiment import Arm, Experiment, ExperimentConfig
from gradmix_ext.experiments.jobs import Job, RunFailedError, Tick
from gradmix_ext.loader.backend import handed_down

__all__ = ["begin_worker", "do_parallel", "fitting_workers", "interrupts_put_off"]


def fitting_workers(device: torch.device, threads: int) -> int:
    """How many runs go well side by side: as the CPU cores allow; on a GPU one.

    Args:
        device: Where runs are trained.
        threads: CPU threads of each.
    """
    from joblib import cpu_count

    # joblib counts the cores that this process may use, also inside containers.
    return 1 if device.type == "cuda" else max(1, cpu_count() // threads)


def do_parallel(
    experiment: Experiment,
    arms: Sequence[Arm],
    jobs: Sequence[Job],
    workers: int,
    tell: Callable[[Tick], None],
) -> Iterator[Job]:
    """Do jobs in worker processes; gives each as it is finished.

    Closing the iterator, or an exception, ends all workers at once.

    Args:
        experiment: Settings; every worker loads the data itself, once.
        arms: All arms of the jobs.
        jobs: What to do, in the order in which to begin.
        workers: How many processes.
        tell: Hears of every epoch of every job.

    Raises:
        RunFailedError: a run failed, or its worker died.
        BackendUnavailable: GRADMIX_EXT_BACKEND names a backend that cannot be had.
    """
    loader.load()  # so that the workers find it built
    waiting = iter(jobs)
    with _started(workers, experiment.config, arms, torch.get_num_threads()) as started:
        busy = {worker.pipe: worker for worker in started if worker.give(next(waiting, None))}
        while busy:
            for pipe in wait(list(busy)):
                assert isinstance(pipe, Connection)
                worker = busy[pipe]
                message = worker.hear()
                if isinstance(message, Tick):
                    tell(message)
                    continue
                yield message
                if not worker.give(next(waiting, None)):
                    del busy[pipe]


@dataclass
class _Worker:
    """The parent's end of a worker."""

    process: BaseProcess
    pipe: Connection
    job: Job | None = None

    def give(self, job: Job | None) -> bool:
        """Hand over the next job; without one the worker ends."""
        self.job = job
        with suppress(BrokenPipeError):  # it is dead, which hear() reports
            self.pipe.send(job)
        return job is not None

    def hear(self) -> Tick | Job:
        """The next tick, or the job that is finished."""
        assert self.job is not None
        try:
            message = self.pipe.recv()
        except (EOFError, ConnectionResetError):
            self.process.join()
            raise RunFailedError.of(self.job.arm, self.job.seed, self._end()) from None
        if isinstance(message, RunFailedError):
            raise message
        return self.job if message is None else message

    def _end(self) -> str:
        code = self.process.exitcode
        assert code is not None
        if code >= 0:
            return f"its process ended with exit code {code}"
        hint = ": out of memory?" if -code == signal.SIGKILL else ""
        return f"its process was ended by signal {-code} ({signal.strsignal(-code)}){hint}"


@contextmanager
def _started(
    count: int, config: ExperimentConfig, arms: Sequence[Arm], threads: int
) -> Iterator[list[_Worker]]:
    """Workers that wait for jobs. Whatever happens, none is left behind."""
    context = multiprocessing.get_context("spawn")
    workers: list[_Worker] = []
    try:
        with interrupts_put_off():
            for _ in range(count):
                ours, theirs = context.Pipe()
                process = context.Process(
                    target=_work, args=(theirs, config, tuple(arms), threads, handed_down())
                )
                process.start()
                theirs.close()
                workers.append(_Worker(process, ours))
        yield workers
    except BaseException:
        for worker in workers:
            worker.process.terminate()
        raise
    finally:
        for worker in workers:
            worker.process.join()
            worker.pipe.close()


@contextmanager
def interrupts_put_off() -> Iterator[None]:
    """While processes start, let no Ctrl-C or SIGTERM leave one half started.

    Ctrl-C in a terminal goes to the whole group of processes, but it is for the parent to act: what
    is blocked here stays so in the children. The parent has other threads, which a signal can reach
    all the same, so what it would do about one is put off.
    """
    held_back: list[int] = []
    in_main = threading.current_thread() is threading.main_thread()  # others handle no signals
    numbers = (signal.SIGINT, signal.SIGTERM) if in_main else ()

    def heed() -> None:
        if held_back:
            signal.raise_signal(held_back[0])

    with ExitStack() as after:  # does all of it, the last first, whatever is raised meanwhile
        after.callback(heed)
        for number in numbers:
            after.callback(signal.signal, number, signal.getsignal(number))
        mask = signal.pthread_sigmask(signal.SIG_BLOCK, ())
        after.callback(signal.pthread_sigmask, signal.SIG_SETMASK, mask)
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
        for number in numbers:
            signal.signal(number, lambda found, _: held_back.append(found))
        yield


def _work(
    pipe: Connection,
    config: ExperimentConfig,
    arms: Sequence[Arm],
    threads: int,
    environment: dict[str, str],
) -> None:
    """A worker: does jobs until it is given None."""
    begin_worker(threads, environment)
    experiment = Experiment(config, arms)
    with suppress(EOFError):  # the parent has changed its mind before the first job
        for job in iter(pipe.recv, None):
            pipe.send(_failure(job, experiment, pipe))


def _failure(job: Job, experiment: Experiment, pipe: Connection) -> RunFailedError | None:
    """Do a job; returns why it failed, if it did."""
    try:
        job.do(experiment, pipe.send)
    except RunFailedError as error:
        return RunFailedError(str(error))  # its cause need not travel
    return None


def begin_worker(threads: int, environment: dict[str, str]) -> None:
    """What a worker does before its first run.

    Args:
        threads: CPU threads of it.
        environment: What the parent has handed down, so that nothing is built again.
    """
    _end_with_parent()
    os.environ.update(environment)
    torch.set_num_threads(threads)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # what there is to say, the parent has said
        loader.load()


def _end_with_parent() -> None:
    """End this process when its parent is gone, even in the middle of a run.

    A parent that was killed cannot end its workers, and they must not write to a run folder that
    someone else continues.
    """
    parent = multiprocessing.parent_process()
    assert parent is not None

    def watch() -> None:
        parent.join()
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()
