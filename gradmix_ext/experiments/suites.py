"""Suites: declared studies of many settings, several arms and many seeds."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

from gradmix_ext.experiments.experiment import ExperimentConfig

__all__ = ["SUITES", "Suite"]


@dataclass(frozen=True)
class Suite:
    """A grid of settings and arms, and what is tested against what.

    Attributes:
        name: Name of the suite.
        question: What it is to answer, one sentence.
        settings: The settings by name.
        context: Arms that are shown, not tested.
        references: Arms that the contenders are tested against.
        contenders: Arms that are tested.
        seeds: The seeds.
        quick_settings: Names of the settings that a quick look runs.
        quick_seeds: How many seeds a quick look runs.
    """

    name: str
    question: str
    settings: Mapping[str, ExperimentConfig]
    context: tuple[str, ...]
    references: tuple[str, ...]
    contenders: tuple[str, ...]
    seeds: tuple[int, ...]
    quick_settings: tuple[str, ...]
    quick_seeds: int = 5

    @property
    def arms(self) -> tuple[str, ...]:
        """All arms, in the order of the tables."""
        return (*self.context, *self.references, *self.contenders)

    @property
    def runs(self) -> list[tuple[str, str, int]]:
        """Setting, arm and seed of all its runs."""
        return [
            (setting, arm, seed)
            for setting in self.settings
            for arm in self.arms
            for seed in self.seeds
        ]

    def quick(self) -> Suite:
        """A few settings and seeds of it, for minutes instead of hours."""
        return replace(
            self,
            settings={name: self.settings[name] for name in self.quick_settings},
            seeds=self.seeds[: self.quick_seeds],
        )


_DIGITS = ExperimentConfig()
_SPLIT = replace(_DIGITS, replay="split")
_MANY = replace(_DIGITS, buffer_size=60, epochs=3)
_HIERARCHY = replace(_DIGITS, dataset="hierarchy", buffer_size=60, epochs=5)

_SELECTION = Suite(
    name="selection",
    question="Which class pairs should be mixed, and does it pay to look at gradients?",
    settings={
        # Replay style, buffer size and length of training, on digits with an MLP.
        "union 20": _DIGITS,
        "union 100, long": replace(_DIGITS, buffer_size=100, epochs=20, lr=0.02),
        "split 20": _SPLIT,
        "split 50, short": replace(_SPLIT, buffer_size=50, epochs=5),
        # Tasks: half of the classes first, and one class at a time.
        "base 5": replace(_DIGITS, tasks=None, increment=1, base=5, buffer_size=40),
        "one by one": replace(_SPLIT, tasks=10, buffer_size=50, epochs=5),
        # A convolutional network.
        "cnn": replace(_SPLIT, model="cnn", buffer_size=50, epochs=5),
        # Other streams.
        "rotated split": replace(_MANY, dataset="digits-rotated", replay="split"),
        "permuted union": replace(_MANY, dataset="digits-permuted"),
        "corrupted split": replace(_SPLIT, dataset="digits-corrupted-2", buffer_size=50),
        "long tail": replace(_DIGITS, dataset="digits-longtail", buffer_size=30, epochs=20),
        "hierarchy union": _HIERARCHY,
        "hierarchy split": replace(_HIERARCHY, replay="split"),
    },
    context=("er",),
    # After plain mixup and the published rule's control, three that look at no gradient or do not
    # use what it says: the last is gradmix in all but its scores.
    references=(
        "mixup",
        "random-mask",
        "balanced",
        "balanced[balance=0.5,per_sample_lam=true]",
        "shuffled-scores",
    ),
    contenders=("gradmix", "gradmix[preset=paper]"),
    seeds=tuple(range(20)),
    quick_settings=("union 20", "split 50, short", "hierarchy split"),
)

#: The suites by the name of ``gradmix compare --suite``.
SUITES: Mapping[str, Suite] = {suite.name: suite for suite in (_SELECTION,)}
