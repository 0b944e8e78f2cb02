"""The folder that a comparison leaves behind.

| file | content |
| --- | --- |
| config.json | settings, arms, seeds, versions and the exact command |
| metrics.jsonl | one line per epoch, task and run, each with its arm and seed |
| matrices/ARM/seed-N.json | accuracy matrices of a run, written when it is finished |
| models/ARM/seed-N.pt | weights of a run's model after the last task |
| matrices.npz | the same, stacked over seeds: ``ARM/class_il`` [seeds, T, T], ... |
| class_pairs/ARM-seed-N.npz | the class-pair map of every epoch, for mixers that judge pairs |
| summary.md, summary.tex | the tables |
| table.csv | the numbers of the tables, and all that they were rounded from |
| metrics.csv | metrics.jsonl in long form, one number a row |
| accuracy.png, class_pairs-ARM.png | the plots |
"""

from __future__ import annotations

import json
import platform
import shutil
from collections.abc import Sequence
from dataclasses import asdict
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from gradmix_ext._version import __version__
from gradmix_ext.continual.experiment import Arm, ExperimentConfig, Run

if TYPE_CHECKING:
    from gradmix_ext.continual.compare import Comparison

__all__ = ["RunFolder", "default_folder"]

_CONFIG = "config.json"
_LOG = "metrics.jsonl"
_MATRICES = "matrices"
_PAIRS = "class_pairs"
_MODELS = "models"
_TABLES = ("summary.md", "summary.tex", "table.csv")


def default_folder(kind: str) -> Path:
    """A folder name under runs/ that is not taken: time, then what was done."""
    stem = Path("runs") / f"{datetime.now():%Y%m%d-%H%M%S}-{kind}"
    folder, tries = stem, 1
    while folder.exists():
        tries += 1
        folder = stem.with_name(f"{stem.name}-{tries}")
    return folder


class RunFolder:
    """Writes a run folder.

    Args:
        path: The folder; created if it is not there.
        overwrite: Replace an earlier run that the folder holds. Files that are not of a run stay.

    Raises:
        FileExistsError: the folder has content, and `overwrite` is not given or the content is not
            an earlier run.
        OSError: the folder cannot be created or written.
    """

    def __init__(self, path: str | Path, overwrite: bool = False) -> None:
        self.path = Path(path)
        self.path.mkdir(parents=True, exist_ok=True)
        if any(self.path.iterdir()):
            if not overwrite:
                raise FileExistsError(f"{self.path} is not empty: choose another, or --overwrite")
            if not (self.path / _CONFIG).is_file():
                raise FileExistsError(
                    f"{self.path} holds no earlier run ({_CONFIG} is missing): choose another"
                )
            self._remove_run()
        (self.path / _LOG).touch()

    def write_config(
        self,
        config: ExperimentConfig,
        arms: Sequence[Arm],
        seeds: Sequence[int],
        command: str,
        backend: str,
    ) -> None:
        """Write config.json."""
        content = {
            "command": command,
            "started": datetime.now().astimezone().isoformat(timespec="seconds"),
            "settings": asdict(config),
            "arms": [asdict(arm) for arm in arms],
            "seeds": list(seeds),
            "backend": backend,
            "threads": torch.get_num_threads(),
            "versions": {
                "gradmix_ext": __version__,
                "torch": torch.__version__,
                "numpy": np.__version__,
                "python": platform.python_version(),
            },
            "platform": platform.platform(),
        }
        (self.path / _CONFIG).write_text(json.dumps(content, indent=2) + "\n")

    def write_run(self, run: Run) -> None:
        """Write all of a finished run: its log lines, matrices and class-pair maps."""
        label, seed = run.arm.label, run.seed
        summary = {"event": "run", **run.result.summary(), "seconds": round(run.seconds, 3)}
        with (self.path / _LOG).open("a") as log:
            for event in (*run.events, summary):
                log.write(json.dumps({"arm": label, "seed": seed, **event}) + "\n")
        matrices = self.path / _MATRICES / label
        matrices.mkdir(parents=True, exist_ok=True)
        run.result.save(matrices / f"seed-{seed}.json")
        weights = self.path / _MODELS / label
        weights.mkdir(parents=True, exist_ok=True)
        torch.save(run.weights, weights / f"seed-{seed}.pt")
        if run.pair_maps is not None:
            pairs = self.path / _PAIRS
            pairs.mkdir(exist_ok=True)
            arrays = {name: value.numpy() for name, value in vars(run.pair_maps).items()}
            np.savez_compressed(
                pairs / f"{label}-seed-{seed}.npz", class_order=run.class_order, **arrays
            )

    def finish(self, comparison: Comparison) -> list[Path]:
        """Write what is made from all runs; returns the files that people look at.

        Works as well on a comparison that was cut short.
        """
        from gradmix_ext.continual.plots import plot_accuracy, plot_class_pairs
        from gradmix_ext.continual.summary import (
            summary_latex,
            summary_markdown,
            write_metrics_csv,
            write_table_csv,
        )

        if not comparison.runs:
            return []
        self._write_matrices(comparison)
        (self.path / "summary.md").write_text(summary_markdown(comparison))
        (self.path / "summary.tex").write_text(summary_latex(comparison))
        write_table_csv(comparison, self.path / "table.csv")
        with (self.path / _LOG).open() as log:
            write_metrics_csv(map(json.loads, log), self.path / "metrics.csv")
        plot_accuracy(comparison, self.path / "accuracy.png")
        names = (*_TABLES, _LOG, "metrics.csv", "matrices.npz", "accuracy.png")
        written = [self.path / name for name in names]
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

    def _remove_run(self) -> None:
        for name in (_MATRICES, _PAIRS, _MODELS):
            shutil.rmtree(self.path / name, ignore_errors=True)
        pictures = self.path.glob("class_pairs-*.png")
        files = (_CONFIG, _LOG, "metrics.csv", "matrices.npz", *_TABLES, "accuracy.png")
        for file in (*pictures, *(self.path / name for name in files)):
            file.unlink(missing_ok=True)
