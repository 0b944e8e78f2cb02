"""The runs of a suite, and the table of numbers that they leave."""

from __future__ import annotations

import csv
import json
from collections.abc import Generator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import asdict, astuple, dataclass, fields
from functools import lru_cache
from multiprocessing import active_children, get_context
from pathlib import Path
from typing import Any

import torch

from gradmix_ext import loader
from gradmix_ext.continual.files import LockedFolder, occupied, remove_parts, replaced
from gradmix_ext.experiments.experiment import Arm, Experiment, ExperimentConfig
from gradmix_ext.experiments.parallel import begin_worker, interrupts_put_off
from gradmix_ext.experiments.suites import Suite
from gradmix_ext.loader.backend import handed_down

__all__ = ["Ledger", "Row", "run_suite"]

_ROWS = "runs.csv"
_SETTINGS = "settings.json"
_DIGITS = 6


@dataclass(frozen=True)
class Row:
    """What one run gave.

    Attributes:
        setting: Name of the setting.
        arm: The arm, as the suite writes it.
        seed: The seed.
        average_incremental_accuracy: A fraction, as the next two.
        final_accuracy: After the last task.
        forgetting: NaN for a single task.
        seconds: Wall-clock time.
    """

    setting: str
    arm: str
    seed: int
    average_incremental_accuracy: float
    final_accuracy: float
    forgetting: float
    seconds: float

    @property
    def key(self) -> tuple[str, str, int]:
        """Which run it is."""
        return self.setting, self.arm, self.seed


class Ledger(LockedFolder):
    """``runs.csv``, one row per finished run, and ``settings.json``, all of each setting.

    Rows are appended as they come, so that a study goes on where it was interrupted. Until it is
    closed, or this process ends, no other may write there.

    Args:
        folder: Where the files are, or shall be.
        suite: The suite they are of.

    Raises:
        FileExistsError: the folder holds something else.
        BlockingIOError: another process is writing there.
        ValueError: a file is damaged, or holds runs of a setting that has changed since.
    """

    def __init__(self, folder: Path, suite: Suite) -> None:
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / _ROWS
        if not path.exists() and occupied(folder):
            raise FileExistsError(f"{folder} holds no study ({_ROWS} is missing)")
        super().__init__(folder)
        try:
            remove_parts(folder)
            if not path.exists():
                _write(path, ",".join(field.name for field in fields(Row)) + "\n")
            self.rows: dict[tuple[str, str, int], Row] = {row.key: row for row in _read(path)}
            self._require_same_settings(suite)
        except BaseException:
            self.close()
            raise

    def add(self, rows: Sequence[Row]) -> None:
        """Append rows to the file."""
        with (self.folder / _ROWS).open("a", newline="") as file:
            csv.writer(file, lineterminator="\n").writerows(map(astuple, rows))
        self.rows |= {row.key: row for row in rows}

    def _require_same_settings(self, suite: Suite) -> None:
        path = self.folder / _SETTINGS
        saved = json.loads(path.read_text()) if path.is_file() else {}
        now = {name: _plain(config) for name, config in suite.settings.items()}
        # Ledgers from before hold no more than what a setting changed of the defaults.
        defaults = _plain(ExperimentConfig())
        for name in {row.setting for row in self.rows.values()} & now.keys():
            if name not in saved or defaults | saved[name] != now[name]:
                raise ValueError(f"{self.folder} holds runs of another setting named '{name}'")
        _write(path, json.dumps(saved | now, indent=1) + "\n")


def _plain(config: ExperimentConfig) -> dict[str, Any]:
    """A setting as JSON gives it back."""
    result: dict[str, Any] = json.loads(json.dumps(asdict(config)))
    return result


def run_suite(suite: Suite, ledger: Ledger, jobs: int = 1) -> Generator[Row, None, None]:
    """Do the runs that are missing, and write each to the ledger as it is finished.

    Seed by seed, so that a study cut short holds all settings. Closing the generator, or an
    exception, ends all processes at once.

    Args:
        suite: The study.
        ledger: Where finished runs are.
        jobs: Processes that train, each on one thread; 1 trains in this one.

    Yields:
        Each run, once it is in the ledger.

    Raises:
        DivergedError: the training loss became infinite or NaN.
        BrokenProcessPool: a process died.
        OSError: the ledger can no longer be written.
        BackendUnavailable: GRADMIX_EXT_BACKEND names a backend that cannot be had.
    """
    missing = [
        (name, config, suite.arms, arm, seed)
        for seed in suite.seeds
        for name, config in suite.settings.items()
        for arm in suite.arms
        if (name, arm, seed) not in ledger.rows
    ]
    if jobs == 1:
        for job in missing:
            row = _run(*job)
            ledger.add([row])
            yield row
        return
    loader.load()  # so that the workers find it built
    others = active_children()
    spawned = get_context("spawn")
    with ProcessPoolExecutor(jobs, spawned, begin_worker, (1, handed_down())) as pool:
        try:
            with interrupts_put_off():
                futures = [pool.submit(_run, *job) for job in missing]
            for future in as_completed(futures):
                row = future.result()
                ledger.add([row])
                yield row
        except BaseException:
            for worker in active_children():  # what they are at is not waited for
                if worker not in others:
                    worker.terminate()
            raise
        finally:
            pool.shutdown(cancel_futures=True)


def _run(name: str, config: ExperimentConfig, arms: tuple[str, ...], arm: str, seed: int) -> Row:
    """One of the arms of a setting with one seed."""
    torch.set_num_threads(1)
    run = _experiment(config, arms).run(Arm.parse(arm), seed)
    found = run.result
    numbers = (
        found.average_incremental_accuracy,
        found.final_accuracy,
        found.forgetting,
        run.seconds,
    )
    return Row(name, arm, seed, *(round(number, _DIGITS) for number in numbers))


@lru_cache(maxsize=1)  # the arms of a setting come one after the other
def _experiment(config: ExperimentConfig, arms: tuple[str, ...]) -> Experiment:
    """A setting with its data loaded and its arms checked."""
    return Experiment(config, [Arm.parse(arm) for arm in arms])


def _write(path: Path, text: str) -> None:
    """Make this the content of the file, all of it or nothing."""
    with replaced(path) as part:
        part.write_text(text)


def _read(path: Path) -> list[Row]:
    """The complete rows of the file; one that was being written when the power failed is cut off.

    Raises:
        ValueError: the file holds something else.
    """
    text = path.read_text()
    complete = text[: text.rfind("\n") + 1]
    if complete != text:
        _write(path, complete)
    try:
        return [
            Row(
                setting=row["setting"],
                arm=row["arm"],
                seed=int(row["seed"]),
                average_incremental_accuracy=float(row["average_incremental_accuracy"]),
                final_accuracy=float(row["final_accuracy"]),
                forgetting=float(row["forgetting"]),
                seconds=float(row["seconds"]),
            )
            for row in csv.DictReader(complete.splitlines())
        ]
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(f"{path} does not hold the runs of a study: {error!r}") from error
