"""What a run measured."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from gradmix_ext import metrics

__all__ = ["METRICS", "Result"]

#: The numbers of a result, by the names of its properties.
METRICS = ("average_incremental_accuracy", "final_accuracy", "forgetting", "bwt", "fwt")


@dataclass(frozen=True, eq=False)
class Result:
    """What one run over T tasks and C classes measured; on the CPU, accuracies as fractions.

    Attributes:
        accuracy_matrix: [T, T], Class-IL: test accuracy on task j after training task t, argmax
            over all classes seen so far. 0 above the diagonal: an unseen class is never predicted.
        task_il_matrix: [T, T], Task-IL: argmax over the classes of task j alone.
        task_il_baseline: [T], Task-IL accuracy of the model before any training.
        pooled_accuracy: [T], Class-IL accuracy over the test samples of all tasks seen so far. It
            differs from the mean over tasks when tasks have unequal sizes.
        confusion: [T, C, C] int64, Class-IL predictions after task t for the test samples of the
            tasks seen so far: row = true class, column = predicted class.
        task_classes: The labels of each task.
    """

    accuracy_matrix: Tensor
    task_il_matrix: Tensor
    task_il_baseline: Tensor
    pooled_accuracy: Tensor
    confusion: Tensor
    task_classes: tuple[tuple[int, ...], ...]

    @property
    def average_incremental_accuracy(self) -> float:
        """AIA of the Class-IL matrix."""
        return metrics.average_incremental_accuracy(self.accuracy_matrix)

    @property
    def final_accuracy(self) -> float:
        """Mean Class-IL accuracy over all tasks after the last one."""
        return metrics.final_accuracy(self.accuracy_matrix)

    @property
    def forgetting(self) -> float:
        """Forgetting of the Class-IL matrix; NaN for one task."""
        return metrics.forgetting(self.accuracy_matrix)

    @property
    def bwt(self) -> float:
        """Backward transfer of the Class-IL matrix; NaN for one task."""
        return metrics.bwt(self.accuracy_matrix)

    @property
    def fwt(self) -> float:
        """Forward transfer of the Task-IL matrix over the untrained model; NaN for one task.

        Of the Class-IL matrix it would be 0 by definition.
        """
        return metrics.fwt(self.task_il_matrix, self.task_il_baseline)

    def summary(self) -> dict[str, float | None]:
        """The metrics by name; None stands for NaN, which JSON does not have."""
        values = {name: getattr(self, name) for name in METRICS}
        return {name: None if math.isnan(value) else value for name, value in values.items()}

    def save(self, path: str | Path) -> None:
        """Write all of it to a .json or .npz file; :meth:`load` gives the same numbers back.

        Raises:
            ValueError: the name ends in neither.
        """
        path = Path(path)
        kind = _kind(path)
        arrays = {name: getattr(self, name) for name in _TENSORS}
        # Of [T, C, C] counts most are 0: rows of (task, true class, predicted class, count).
        cells, num_classes = self.confusion.nonzero(), self.confusion.shape[-1]
        arrays["confusion"] = torch.cat([cells, self.confusion[tuple(cells.T)][:, None]], dim=1)
        if kind == ".json":
            values: dict[str, Any] = {name: array.tolist() for name, array in arrays.items()}
            values["task_classes"] = self.task_classes
            values["num_classes"] = num_classes
            values["metrics"] = self.summary()
            path.write_text(json.dumps(values, indent=1) + "\n")
        else:
            sizes = [len(classes) for classes in self.task_classes]
            np.savez(
                path,
                **{name: array.numpy() for name, array in arrays.items()},
                classes=np.array([k for classes in self.task_classes for k in classes]),
                task_sizes=np.array(sizes),
                num_classes=np.array(num_classes),
            )

    @classmethod
    def load(cls, path: str | Path) -> Result:
        """Read what :meth:`save` wrote; runs no code from the file.

        Raises:
            ValueError: the name ends in neither .json nor .npz, or the file holds something else.
            OSError: it cannot be read.
        """
        path = Path(path)
        kind, content = _kind(path), path.read_bytes()
        try:
            if kind == ".json":
                values = json.loads(content)
                classes = tuple(tuple(int(k) for k in task) for task in values["task_classes"])
            else:
                with np.load(BytesIO(content), allow_pickle=False) as archive:
                    values = {name: archive[name] for name in archive.files}
                ends = values["task_sizes"].cumsum()[:-1]
                classes = tuple(tuple(t.tolist()) for t in np.split(values["classes"], ends))
            tensors = {name: torch.tensor(values[name], dtype=torch.float64) for name in _TENSORS}
            counted = torch.tensor(values["confusion"], dtype=torch.int64).reshape(-1, 4)
            # Files of before this number was kept are of all classes.
            size = int(values.get("num_classes", sum(map(len, classes))))
            confusion = torch.zeros(len(classes), size, size, dtype=torch.int64)
            confusion[tuple(counted[:, :3].T)] = counted[:, 3]
        except Exception as error:  # a damaged archive fails in zipfile, zlib or NumPy's own parser
            raise ValueError(f"{path} is not a saved result: {error!r}") from error
        return cls(**tensors, confusion=confusion, task_classes=classes)


_TENSORS = ("accuracy_matrix", "task_il_matrix", "task_il_baseline", "pooled_accuracy")


def _kind(path: Path) -> str:
    if path.suffix not in (".json", ".npz"):
        raise ValueError(f"a result is saved as .json or .npz, got {path}")
    return path.suffix
