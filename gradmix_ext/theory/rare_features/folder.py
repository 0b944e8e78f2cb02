"""The folder that the experiment leaves behind.

| file | content |
| --- | --- |
| config.json | settings, trainings, what is swept, seeds, versions and the exact command |
| runs.jsonl | one line per finished run, with final accuracies and curves, or with all stops |
| summary.md | the table |
| curves.png or stop-map.png | the plot |
"""

from __future__ import annotations

import json
import platform
from dataclasses import asdict
from datetime import datetime
from pathlib import Path

import torch

from gradmix_ext._version import __version__
from gradmix_ext.continual.files import require_free
from gradmix_ext.theory.rare_features.experiment import Run, SweepRun
from gradmix_ext.theory.rare_features.plots import plot_curves, plot_stop_map
from gradmix_ext.theory.rare_features.results import StopMap, Table

__all__ = ["ResultFolder"]

_CONFIG = "config.json"
_RUNS = "runs.jsonl"
_KIND = "rare-features"
_PICTURES = ("curves.png", "stop-map.png")


class ResultFolder:
    """Writes a result folder.

    Args:
        path: The folder; created if it is not there.
        overwrite: Replace the results of an earlier run of this experiment.

    Raises:
        FileExistsError: the folder has content, and `overwrite` is not given or the content is not
            a run of this experiment.
        OSError: the folder cannot be created or written.
    """

    def __init__(self, path: str | Path, overwrite: bool = False) -> None:
        self.path: Path = Path(path)
        require_free(self.path, overwrite, _is_earlier_run, f"run of {_KIND}")
        self.path.mkdir(parents=True, exist_ok=True)
        for name in (_CONFIG, _RUNS, "summary.md", *_PICTURES):
            (self.path / name).unlink(missing_ok=True)
        (self.path / _RUNS).touch()

    def write_config(self, results: Table | StopMap, command: str) -> None:
        """Write config.json, before the first run."""
        sweep = {}
        if isinstance(results, StopMap):
            names = ("axis", "values", "stops")
            sweep = {"sweep": {name: getattr(results, name) for name in names}}
        content = {
            "experiment": _KIND,
            "command": command,
            "started": datetime.now().astimezone().isoformat(timespec="seconds"),
            "settings": asdict(results.config),
            "trainings": results.trainings,
            **sweep,
            "seeds": list(results.seeds),
            "threads": torch.get_num_threads(),
            "versions": {
                "gradmix_ext": __version__,
                "torch": torch.__version__,
                "python": platform.python_version(),
            },
            "platform": platform.platform(),
        }
        (self.path / _CONFIG).write_text(json.dumps(content, indent=2) + "\n")

    def write_run(self, run: Run) -> None:
        """Append a finished run."""
        self._append(
            {
                "training": run.arm.label,
                "seed": run.seed,
                "final": run.final(),
                "seconds": round(run.seconds, 3),
                "curves": run.history.curves(),
            }
        )

    def write_sweep_run(self, axis: str, run: SweepRun) -> None:
        """Append all stops of a value with one seed."""
        self._append(
            {
                axis: run.value,
                "seed": run.seed,
                "stops": run.final,
                "seconds": round(run.seconds, 3),
            }
        )

    def finish(self, results: Table | StopMap) -> list[Path]:
        """Write the summary and the picture; returns the files that people look at.

        Works as well on results that were cut short; writes nothing if nothing is finished.
        """
        if not results.runs:
            return []
        summary = self.path / "summary.md"
        summary.write_text(results.markdown(), encoding="utf-8")
        if isinstance(results, Table):
            picture = self.path / _PICTURES[0]
            plot_curves(results, picture)
        else:
            picture = self.path / _PICTURES[1]
            plot_stop_map(results, picture)
        return [summary, self.path / _RUNS, self.path / _CONFIG, picture]

    def _append(self, content: dict[str, object]) -> None:
        with (self.path / _RUNS).open("a") as file:
            file.write(json.dumps(content) + "\n")


def _is_earlier_run(folder: Path) -> bool:
    try:
        content = json.loads((folder / _CONFIG).read_text())
    except (FileNotFoundError, json.JSONDecodeError):
        return False
    return isinstance(content, dict) and content.get("experiment") == _KIND
