"""The folder that a comparison leaves behind.

| file | content |
| --- | --- |
| config.json | settings, arms, seeds, versions and the exact command |
| metrics.jsonl | one line per epoch, task and run, each with its arm and seed |
| metrics.csv | the same in long form, one number a row |
| events/ARM/seed-N.jsonl | the lines of one run; a run is finished when this file is there |
| matrices/ARM/seed-N.json | accuracy matrices and confusion of a run |
| models/ARM/seed-N.pt | weights of a run's model after the last task |
| models/ARM/seed-N-method.pt | what its method predicts with besides: iCaRL's class means |
| class_pairs/ARM-seed-N.npz | the class-pair map of every epoch, for mixers that judge pairs |
| matrices.npz | accuracy matrices, stacked over seeds: ``ARM/class_il`` [seeds, T, T], ... |
| summary.md, summary.tex | the tables |
| table.csv | the numbers of the tables, and all that they were rounded from |
| accuracy.png, class_pairs-ARM.png | the plots |
| tensorboard/ARM/seed-N/ | event files, if asked for |
| checkpoints/ARM-seed-N.pt | the state of a run that is not finished |
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from gradmix_ext.continual.files import LockedFolder, remove_parts, replaced, require_free
from gradmix_ext.experiments.finished import EVENTS, MATRICES, MODELS, PAIRS, FinishedRun
from gradmix_ext.experiments.jobs import CHECKPOINTS, TENSORBOARD
from gradmix_ext.experiments.plan import CONFIG

if TYPE_CHECKING:
    from gradmix_ext.experiments.compare import Comparison

__all__ = ["RunFolder"]

_LOG = "metrics.jsonl"
_TABLES = ("summary.md", "summary.tex", "table.csv")
_NUMBERS = (_LOG, "metrics.csv", "matrices.npz")
_CURVES = "accuracy.png"
_REPORT = "report.html"


class RunFolder(LockedFolder):
    """Writes a run folder. Until it is closed, or this process ends, no other may write there.

    Args:
        path: The folder; created if it is not there.
        overwrite: Replace an earlier run that the folder holds. Files that are not of a run stay.
        resume: Go on with an earlier run that the folder holds.

    Raises:
        FileExistsError: the folder has content, and neither `overwrite` nor `resume` is given or
            the content is not an earlier run.
        BlockingIOError: another process is writing there.
        OSError: the folder cannot be created or written.
    """

    def __init__(self, path: str | Path, overwrite: bool = False, resume: bool = False) -> None:
        self.path: Path = Path(path)
        require_free(self.path, overwrite or resume, lambda folder: (folder / CONFIG).is_file())
        self.path.mkdir(parents=True, exist_ok=True)
        super().__init__(self.path)
        if overwrite:
            self._remove_run()
        remove_parts(self.path)

    def log(self, run: FinishedRun) -> None:
        """Append the lines of a finished run to metrics.jsonl."""
        with (self.path / _LOG).open("a") as log:
            log.write(run.log.read_text())

    def write_log(self, runs: Sequence[FinishedRun]) -> None:
        """Make metrics.jsonl of the lines of these runs, in their order."""
        with replaced(self.path / _LOG) as path, path.open("w") as log:
            log.writelines(run.log.read_text() for run in runs)

    def finish(self, comparison: Comparison) -> list[Path]:
        """Write what is made from all runs; returns the files that people look at.

        Works as well on a comparison that was cut short.
        """
        from gradmix_ext.experiments.plots import plot_accuracy, plot_class_pairs
        from gradmix_ext.experiments.summary import (
            summary_latex,
            summary_markdown,
            write_metrics_csv,
            write_table_csv,
        )

        if not comparison.runs:
            return []
        self._remove_checkpoints(comparison.runs)
        self.write_log(comparison.runs)
        with (self.path / _LOG).open() as log:
            write_metrics_csv(map(json.loads, log), self.path / "metrics.csv")
        self._write_matrices(comparison)
        (self.path / "summary.md").write_text(summary_markdown(comparison), encoding="utf-8")
        (self.path / "summary.tex").write_text(summary_latex(comparison), encoding="utf-8")
        write_table_csv(comparison, self.path / "table.csv")
        plot_accuracy(comparison, self.path / _CURVES)
        written = [self.path / name for name in (*_TABLES, *_NUMBERS, _CURVES)]
        for arm in comparison.finished_arms():
            if arm.augment == "gradmix":
                picture = self.path / f"class_pairs-{arm.label}.png"
                if plot_class_pairs(comparison.of(arm), picture):
                    written.append(picture)
        return written

    def _write_matrices(self, comparison: Comparison) -> None:
        arrays: dict[str, Any] = {}
        for arm in comparison.finished_arms():
            runs = comparison.of(arm)
            for key, name in (
                ("class_il", "accuracy_matrix"),
                ("task_il", "task_il_matrix"),
                ("task_il_baseline", "task_il_baseline"),
                ("pooled", "pooled_accuracy"),
            ):
                values = torch.stack([getattr(run.result, name) for run in runs])
                arrays[f"{arm.label}/{key}"] = values.numpy()
            arrays[f"{arm.label}/seeds"] = np.array([run.seed for run in runs])
        np.savez(self.path / "matrices.npz", **arrays)

    def _remove_checkpoints(self, runs: Sequence[FinishedRun]) -> None:
        """Remove those of finished runs, which a process that was killed may have left behind."""
        folder = self.path / CHECKPOINTS
        for run in runs:
            (folder / f"{run.arm.label}-seed-{run.seed}.pt").unlink(missing_ok=True)
        if folder.is_dir() and not any(folder.iterdir()):
            folder.rmdir()

    def _remove_run(self) -> None:
        # The log of a run says that it is finished, so it goes first.
        for name in (EVENTS, MATRICES, PAIRS, MODELS, CHECKPOINTS, TENSORBOARD):
            if (self.path / name).is_dir():
                shutil.rmtree(self.path / name)
        pictures = self.path.glob("class_pairs-*.png")
        files = (*_NUMBERS, *_TABLES, _CURVES, _REPORT, CONFIG)
        for file in (*pictures, *(self.path / name for name in files)):
            file.unlink(missing_ok=True)
