"""The figures of ``gradmix diagnose`` computed once more, by plain autograd.

    python tests/experiments/plain_diagnosis.py benchmarks/results/selection/diagnosis-union

trains the models of a saved diagnosis again, measures each of its moments with draws of its own,
and prints its figures next to the saved ones. The package trains, as it is its models that are
looked at. Scores, measured changes and statistics are PyTorch's autograd in float64, with dense
soft labels, and SciPy: no mixer, no fused op and nothing of ``gradmix_ext.experiments.diagnosis``.
"""

from __future__ import annotations

import argparse
import copy
import itertools
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from scipy import stats
from torch import Tensor, nn

from gradmix_ext.continual import ER
from gradmix_ext.continual.methods import Stage
from gradmix_ext.experiments.experiment import Arm, Experiment, ExperimentConfig

STATISTICS = ("spearman", "partial", "sign", "auc")
SCORES = ("mixed", "linear", "gram", "network", "kind")


@dataclass(frozen=True)
class Moment:
    """A model in the middle of training; samples and labels of each kind, inputs in float64."""

    task: int
    epoch: int
    model: nn.Module
    seen: Tensor
    current: tuple[Tensor, Tensor]
    buffer: tuple[Tensor, Tensor]
    old: tuple[Tensor, Tensor]


class Recorder(ER):
    """Experience replay that keeps copies of what it sees before chosen epochs."""

    def __init__(self, replay: str, epochs: tuple[int, ...]) -> None:
        super().__init__(replay)
        self.moments: list[Moment] = []
        self.epochs = epochs

    def begin_task(self, stage: Stage) -> None:
        super().begin_task(stage)
        self.epoch = 0

    def batches(self, stage: Stage) -> Iterator[Any]:
        if stage.past and self.epoch in self.epochs:
            parts = (
                (stage.task.train_x, stage.task.train_y),
                stage.buffer.data,
                tuple(torch.cat([getattr(t, f"train_{n}") for t in stage.past]) for n in "xy"),
            )
            samples = ((x.double(), y.clone()) for x, y in parts)
            model = copy.deepcopy(stage.model).double().eval()
            seen = stage.seen_mask.clone()
            self.moments.append(Moment(stage.task.index, self.epoch, model, seen, *samples))
        self.epoch += 1
        return super().batches(stage)


def record(experiment: Experiment, epochs: tuple[int, ...], seed: int) -> list[Moment]:
    """The moments of one training with plain mixup."""
    trainer = experiment.trainer(Arm.parse("er+mixup"), seed)
    trainer.method = recorder = Recorder(experiment.config.replay, epochs)
    trainer.fit(experiment.scenario(seed))
    return recorder.moments


def figures(moment: Moment, measure: dict[str, Any], rng: np.random.Generator) -> np.ndarray:
    """Every statistic of every score, [statistics, scores].

    Args:
        moment: The moment.
        measure: ``step``, ``alpha``, ``samples_per_pair`` and ``step_samples``.
        rng: Source of λ and of which samples are mixed.
    """
    model, classes = moment.model, len(moment.seen)
    (_, head), everything = list(model.named_modules())[-1], list(model.parameters())
    assert isinstance(head, nn.Linear)
    of_head = list(head.parameters())
    pool_x = torch.cat([moment.current[0], moment.buffer[0]])
    pool_y = torch.cat([moment.current[1], moment.buffer[1]])
    members = {k: np.flatnonzero(pool_y == k) for k in pool_y.unique().tolist()}

    def loss(at: nn.Module, x: Tensor, q: Tensor) -> Tensor:
        return nn.functional.cross_entropy(at(x)[:, moment.seen], q[:, moment.seen])

    def hard(y: Tensor) -> Tensor:
        return nn.functional.one_hot(y, classes).double()

    def gradient(x: Tensor, q: Tensor, parameters: list[nn.Parameter]) -> Tensor:
        found = torch.autograd.grad(loss(model, x, q), parameters)
        return torch.cat([g.flatten() for g in found])

    def mixed(a: int, b: int, samples: int) -> tuple[Tensor, Tensor]:
        lam = torch.from_numpy(rng.beta(measure["alpha"], measure["alpha"], (samples, 1)))
        one, other = (pool_x[rng.choice(members[k], samples)] for k in (a, b))
        labels = (hard(torch.full((samples,), k)) for k in (a, b))
        first, second = labels
        return lam * one + (1 - lam) * other, lam * first + (1 - lam) * second

    def change(a: int, b: int) -> float:
        moved = copy.deepcopy(model)
        loss(moved, *mixed(a, b, measure["step_samples"])).backward()
        old = moment.old[0], hard(moment.old[1])
        with torch.no_grad():
            for parameter in moved.parameters():
                parameter -= measure["step"] * parameter.grad
            return float(loss(moved, *old) - loss(model, *old))

    buffer = moment.buffer[0], hard(moment.buffer[1])
    g_buf, g_buf_all = gradient(*buffer, of_head), gradient(*buffer, everything)
    own = {k: gradient(pool_x[i], hard(pool_y[i]), of_head) for k, i in members.items()}
    is_old = set(moment.old[1].tolist())

    rows, benefit = [], []
    for a, b in itertools.combinations_with_replacement(sorted(members), 2):
        some = mixed(a, b, measure["samples_per_pair"])
        rows.append(
            {
                "mixed": float(gradient(*some, of_head) @ g_buf),
                "linear": float(own[a] @ g_buf + own[b] @ g_buf) / 2,
                "gram": float(own[a] @ own[b]),
                "network": float(gradient(*some, everything) @ g_buf_all),
                "kind": (a in is_old) + (b in is_old) - 0.5,
            }
        )
        benefit.append(-change(a, b))
    table = np.array([[row[score] for row in rows] for score in SCORES])
    return np.array([_statistics(score, np.array(benefit), table[-1]) for score in table]).T


def _statistics(score: np.ndarray, benefit: np.ndarray, kind: np.ndarray) -> list[float]:
    """In the order of `STATISTICS`."""
    design = (kind[:, None] == np.unique(kind)).astype(float)
    ranks = [stats.rankdata(values) for values in (score, benefit)]
    rest = [r - design @ np.linalg.lstsq(design, r, rcond=None)[0] for r in ranks]
    helps = benefit >= 0
    auc = np.nan
    if 0 < helps.sum() < len(helps):
        above = stats.mannwhitneyu(score[helps], score[~helps]).statistic
        auc = above / (helps.sum() * (~helps).sum())
    known = np.abs(rest[0]).max() > 1e-6  # `kind` says nothing once the kind is known
    return [
        stats.spearmanr(score, benefit).statistic,
        np.corrcoef(*rest)[0, 1] if known else np.nan,
        np.mean((score >= 0) == helps),
        auc,
    ]


def diagnose(
    config: ExperimentConfig,
    epochs: tuple[int, ...],
    seeds: tuple[int, ...],
    measure: dict[str, Any],
) -> np.ndarray:
    """All figures, [seeds, moments, statistics, scores]."""
    experiment = Experiment(config, [])
    rng = np.random.default_rng(12345)
    return np.array(
        [[figures(m, measure, rng) for m in record(experiment, epochs, seed)] for seed in seeds]
    )


def main() -> None:
    """Compare with a saved diagnosis."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path, help="a folder that gradmix diagnose wrote")
    parser.add_argument("--seeds", type=int, help="only its first so many seeds")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    with np.load(arguments.folder / "diagnosis.npz", allow_pickle=False) as saved:
        setting = json.loads(str(saved["setting"]))
        seeds = tuple(saved["seeds"].tolist())[: arguments.seeds]
        epochs = tuple(sorted(set(saved["moments"][:, 1].tolist())))
        at = np.ix_(
            [saved["statistics"].tolist().index(name) for name in STATISTICS],
            [saved["scores"].tolist().index(name) for name in SCORES],
        )
        theirs = saved["agreement"][: len(seeds), :, at[0], at[1]]
    names = ExperimentConfig.__dataclass_fields__
    config = {k: tuple(v) if isinstance(v, list) else v for k, v in setting.items() if k in names}
    ours = diagnose(ExperimentConfig(**config), epochs, seeds, setting)
    print(f"{len(seeds)} seeds, {ours.shape[1]} moments; here / saved")
    print("| score | " + " | ".join(STATISTICS) + " |")
    print("| --- |" + " ---: |" * len(STATISTICS))
    for i, score in enumerate(SCORES):
        cells = (" / ".join(_mean(f[:, :, j, i]) for f in (ours, theirs)) for j in range(4))
        print(f"| {score} | " + " | ".join(cells) + " |")


def _mean(values: np.ndarray) -> str:
    known = values[~np.isnan(values)]
    return f"{known.mean():.3f}" if len(known) else "-"


if __name__ == "__main__":
    main()
