"""config.json of a run folder: what is run in it, so that it can be continued and used."""

from __future__ import annotations

import json
import platform
from dataclasses import asdict, dataclass, field, fields, replace
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
import torch

from gradmix_ext._version import __version__
from gradmix_ext.continual.files import replaced
from gradmix_ext.experiments.experiment import Arm, ExperimentConfig

__all__ = ["CONFIG", "Plan", "provenance"]

CONFIG = "config.json"
_OWN = ("settings", "arms", "seeds", "baseline", "test", "threads")


def provenance(command: str, backend: str, processes: int = 1) -> dict[str, Any]:
    """How results come about: command, time, kernels, versions.

    Args:
        command: As it can be typed again.
        backend: The kernels that run.
        processes: How many train each run together.
    """
    return {
        "command": command,
        "started": datetime.now().astimezone().isoformat(timespec="seconds"),
        "backend": backend,
        "processes": processes,
        "versions": {
            "gradmix_ext": __version__,
            "torch": torch.__version__,
            "numpy": np.__version__,
            "python": platform.python_version(),
        },
        "platform": platform.platform(),
    }


@dataclass(frozen=True)
class Plan:
    """What a run folder is for.

    Attributes:
        config: The settings that all runs share.
        arms: What is compared.
        seeds: The seeds.
        baseline: The arm that the others are tested against, if one was named.
        test: The paired test.
        threads: CPU threads of a run; their number changes the last bits of sums.
        origin: What :func:`provenance` gave when the first run began, and under "resumed" what it
            gave at each continuation.
    """

    config: ExperimentConfig
    arms: tuple[Arm, ...]
    seeds: tuple[int, ...]
    baseline: Arm | None = None
    test: str = "t"
    threads: int = 1
    origin: dict[str, Any] = field(default_factory=dict)

    def begun(self, origin: dict[str, Any]) -> Plan:
        """The plan as it is carried out now: begun or, if it has an origin already, resumed."""
        if self.origin:
            resumed = [*self.origin.get("resumed", []), origin]
            return replace(self, origin={**self.origin, "resumed": resumed})
        return replace(self, origin=origin)

    def write(self, folder: Path) -> None:
        """Write config.json.

        Raises:
            OSError: it cannot be written.
        """
        content = {
            **self.origin,
            "settings": asdict(self.config),
            "arms": [asdict(arm) for arm in self.arms],
            "seeds": self.seeds,
            "baseline": None if self.baseline is None else self.baseline.label,
            "test": self.test,
            "threads": self.threads,
        }
        with replaced(folder / CONFIG) as path:
            path.write_text(json.dumps(content, indent=2) + "\n")

    @classmethod
    def read(cls, folder: Path) -> Plan:
        """Read config.json.

        Raises:
            ValueError: there is none, or it holds something else.
            OSError: it cannot be read.
        """
        path = folder / CONFIG
        if not path.is_file():
            raise ValueError(f"{folder} is not a run folder: it has no {CONFIG}")
        try:
            content = json.loads(path.read_text())
            baseline = content.get("baseline")
            return cls(
                config=_config(content["settings"]),
                arms=tuple(Arm.parse(arm["label"]) for arm in content["arms"]),
                seeds=tuple(int(seed) for seed in content["seeds"]),
                baseline=None if baseline is None else Arm.parse(baseline),
                test=str(content.get("test", cls.test)),
                threads=int(content["threads"]),
                origin={key: value for key, value in content.items() if key not in _OWN},
            )
        except (KeyError, TypeError, ValueError) as error:
            raise ValueError(f"{path} does not hold the settings of a run: {error!r}") from error


def _config(settings: dict[str, Any]) -> ExperimentConfig:
    """Settings from JSON, where tuples have become lists."""
    known = {field.name for field in fields(ExperimentConfig)}
    unknown = ", ".join(sorted(set(settings) - known))
    if unknown:
        raise ValueError(f"unknown settings {unknown}; they are of another version")
    values: dict[str, Any] = {
        name: tuple(value) if isinstance(value, list) else value for name, value in settings.items()
    }
    return ExperimentConfig(**values)
