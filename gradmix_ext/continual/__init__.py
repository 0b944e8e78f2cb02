"""Class-incremental training: scenario, replay buffer, methods, trainer, results.

>>> from gradmix_ext.continual import Trainer, class_incremental
>>> result = Trainer(mixer="gradmix", buffer=20).fit(class_incremental("digits", tasks=5))
>>> result.accuracy_matrix.shape
torch.Size([5, 5])
"""

from __future__ import annotations

from gradmix_ext.continual.buffer import ReplayBuffer
from gradmix_ext.continual.callbacks import Callback, EpochEnd, PairMapRecorder, PairMaps, TaskEnd
from gradmix_ext.continual.checkpoint import Checkpoint, CheckpointError
from gradmix_ext.continual.data import ArrayDataset
from gradmix_ext.continual.datasets import (
    Source,
    dataset_names,
    from_torch,
    load_dataset,
    register_dataset,
)
from gradmix_ext.continual.datasets.digit_streams import (
    digits_corrupted,
    digits_longtail,
    digits_permuted,
    digits_rotated,
)
from gradmix_ext.continual.datasets.hierarchy import hierarchy
from gradmix_ext.continual.evaluate import Evaluation, Evaluator
from gradmix_ext.continual.methods import (
    AGEM,
    ER,
    ERACE,
    METHODS,
    DERPlusPlus,
    Finetune,
    ICaRL,
    Joint,
    Method,
    Rehearsal,
    Stage,
    method_by_name,
)
from gradmix_ext.continual.models import build_model, mlp, model_names
from gradmix_ext.continual.result import Result
from gradmix_ext.continual.scenario import Scenario, Task, class_incremental
from gradmix_ext.continual.trainer import DivergedError, Trainer

__all__ = [
    "AGEM",
    "ER",
    "ERACE",
    "METHODS",
    "ArrayDataset",
    "Callback",
    "Checkpoint",
    "CheckpointError",
    "DERPlusPlus",
    "DivergedError",
    "EpochEnd",
    "Evaluation",
    "Evaluator",
    "Finetune",
    "ICaRL",
    "Joint",
    "Method",
    "PairMapRecorder",
    "PairMaps",
    "Rehearsal",
    "ReplayBuffer",
    "Result",
    "Scenario",
    "Source",
    "Stage",
    "Task",
    "TaskEnd",
    "Trainer",
    "build_model",
    "class_incremental",
    "dataset_names",
    "digits_corrupted",
    "digits_longtail",
    "digits_permuted",
    "digits_rotated",
    "from_torch",
    "hierarchy",
    "load_dataset",
    "method_by_name",
    "mlp",
    "model_names",
    "register_dataset",
]
