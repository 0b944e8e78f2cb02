"""GradMix on streams and seeds by which nothing was decided.

    python benchmarks/held_back.py benchmarks/results/selection/held-back

compares the default with its references on streams that are not in the suite `selection`: other
corruptions, other cuts into tasks, another optimizer, tables instead of images, and synthetic
classes. All data come with scikit-learn. It goes on where it was interrupted, and writes its report
again when nothing is left to run.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from gradmix_ext.continual import ArrayDataset, load_dataset, register_dataset
from gradmix_ext.experiments.experiment import ExperimentConfig
from gradmix_ext.experiments.suite_report import SuiteFindings, write_report
from gradmix_ext.experiments.suite_runs import Ledger, run_suite
from gradmix_ext.experiments.suites import SUITES, Suite

Floats = NDArray[np.float64]
Labels = NDArray[np.int64]

SEED = 2024


@register_dataset("held-back-pepper")
def pepper(source: object) -> ArrayDataset:
    """Digits with a fifth of the pixels set to black or white."""
    generator = torch.Generator().manual_seed(SEED)

    def spoil(x: Tensor) -> Tensor:
        hit = torch.rand(x.shape, generator=generator) < 0.2
        return torch.where(hit, (torch.rand(x.shape, generator=generator) < 0.5).float(), x)

    return _digits("held-back-pepper", spoil)


@register_dataset("held-back-blurred")
def blurred(source: object) -> ArrayDataset:
    """Digits as means of 3x3 pixels, at half the contrast."""

    def blur(x: Tensor) -> Tensor:
        images = x.unflatten(1, (1, 8, 8))
        return 0.5 * torch.nn.functional.avg_pool2d(images, 3, 1, 1).flatten(1)

    return _digits("held-back-blurred", blur)


@register_dataset("held-back-tables")
def tables(source: object) -> ArrayDataset:
    """Wine, breast cancer and iris as one stream of 8 classes; 30 columns, what is missing is 0."""
    from sklearn import datasets

    parts: list[Floats] = []
    labels: list[Labels] = []
    classes = 0
    for load in (datasets.load_wine, datasets.load_breast_cancer, datasets.load_iris):
        x, y = load(return_X_y=True)
        x = (x - x.mean(0)) / x.std(0)
        parts.append(np.pad(x, ((0, 0), (0, 30 - x.shape[1]))))
        labels.append(y + classes)
        classes += len(np.unique(y))
    return _split("held-back-tables", np.concatenate(parts), np.concatenate(labels))


@register_dataset("held-back-clusters")
def clusters(source: object) -> ArrayDataset:
    """12 classes around corners of a cube in 12 dimensions, among 30 that are mixed and noisy."""
    return _split("held-back-clusters", *_clusters(None))


@register_dataset("held-back-rare")
def rare(source: object) -> ArrayDataset:
    """The same, with classes that get rarer, down to a tenth."""
    share = 10.0 ** -np.linspace(0, 1, 12)
    return _split("held-back-rare", *_clusters(share / share.sum()))


@register_dataset("held-back-shells")
def shells(source: object) -> ArrayDataset:
    """8 classes as shells of a Gaussian in 4 dimensions."""
    from sklearn.datasets import make_gaussian_quantiles

    x, y = make_gaussian_quantiles(n_samples=2000, n_features=4, n_classes=8, random_state=SEED)
    return _split("held-back-shells", x, y)


_DIGITS = ExperimentConfig(buffer_size=30)
_SPLIT = replace(_DIGITS, replay="split")
_CLUSTERS = replace(_DIGITS, dataset="held-back-clusters", tasks=6, buffer_size=36)

SUITE = Suite(
    name="held-back",
    question="Does the default keep its promises on streams that no decision looked at?",
    settings={
        "pepper": replace(_DIGITS, dataset="held-back-pepper"),
        "blurred split": replace(_SPLIT, dataset="held-back-blurred"),
        "uneven tasks": replace(_SPLIT, tasks=None, increment=(4, 1, 3, 2), epochs=6),
        "adam": replace(_DIGITS, optimizer="adamw", lr=0.001, buffer_size=50),
        "tables": replace(_DIGITS, dataset="held-back-tables", tasks=4, buffer_size=24),
        "clusters": _CLUSTERS,
        "rare split": replace(_CLUSTERS, dataset="held-back-rare", replay="split"),
        "shells": replace(_DIGITS, dataset="held-back-shells", tasks=4, buffer_size=40),
    },
    context=("er",),
    references=SUITES["selection"].references,
    contenders=("gradmix",),
    seeds=tuple(range(100, 120)),
    quick_settings=("pepper", "tables"),
)


def _digits(name: str, change: Callable[[Tensor], Tensor]) -> ArrayDataset:
    digits = load_dataset("digits")
    train, test = digits.train_x, digits.test_x
    assert isinstance(train, Tensor)
    assert isinstance(test, Tensor)
    return replace(digits, name=name, train_x=change(train), test_x=change(test))


def _clusters(weights: Floats | None) -> tuple[Floats, Labels]:
    from sklearn.datasets import make_classification

    x, y = make_classification(
        n_samples=2400, n_features=30, n_informative=12, n_classes=12, n_clusters_per_class=1,
        weights=weights, class_sep=1.5, flip_y=0.0, random_state=SEED,
    )  # fmt: skip
    return (x - x.mean(0)) / x.std(0), y


def _split(name: str, x: Floats, y: Labels) -> ArrayDataset:
    """A quarter of each class is for testing."""
    from sklearn.model_selection import train_test_split

    train, test = train_test_split(np.arange(len(y)), test_size=0.25, stratify=y, random_state=SEED)
    data, labels = torch.from_numpy(x).float(), torch.from_numpy(y).long()
    names = tuple(str(k) for k in range(int(y.max()) + 1))
    return ArrayDataset(name, data[train], labels[train], data[test], labels[test], names)


def main() -> None:
    """Do the runs that are missing and write the report."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--jobs", type=int, default=1)
    parser.add_argument("--quick", action="store_true", help="two streams, five seeds")
    arguments = parser.parse_args()
    suite = SUITE.quick() if arguments.quick else SUITE
    ledger = Ledger(arguments.folder, suite)
    for row in run_suite(suite, ledger, arguments.jobs):
        print(f"{row.setting}, {row.arm}, seed {row.seed}", flush=True)
    findings = SuiteFindings(suite, ledger.rows)
    write_report(findings, arguments.folder)
    print(findings.markdown())


if __name__ == "__main__":
    main()
