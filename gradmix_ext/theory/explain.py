"""What mixup does to one model on one batch, in numbers."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from gradmix_ext.mixers import GradMix
from gradmix_ext.mixers.base import Samples
from gradmix_ext.theory.adversarial import mixup_robust_radius
from gradmix_ext.theory.taylor import ClassPairTerms, MixupTaylor, mixup_class_pairs, mixup_taylor

__all__ = ["Explanation", "PairRadius", "explain"]


@dataclass(frozen=True)
class PairRadius:
    """The robust radius of telling two classes apart, by the difference of their logits.

    Attributes:
        classes: The two classes.
        radius: min_i ε_i √d, the radius of the l2 ball that the bound speaks of.
        reasons: The conditions of the theorem that fail; empty where the radius is defined.
        in_theta: Whether every sample of the two classes is on the right side.
    """

    classes: tuple[int, int]
    radius: float
    reasons: tuple[str, ...]
    in_theta: bool


@dataclass(frozen=True, eq=False)
class Explanation:
    """What :func:`explain` finds.

    Attributes:
        alpha: λ ~ Beta(alpha, alpha).
        samples: Samples of the batch.
        taylor: The mixup loss and the terms of its expansion.
        terms: The terms by ordered class pair.
        scores: GradMix's score of every class pair, [C, C] symmetric; above 0 a step on mixed
            samples of the pair lowers the loss on the reference, to first order.
        scored: Pairs that have samples of both classes, [C, C] bool.
        radii: The robust radius of every pair of classes in the batch.
    """

    alpha: float
    samples: int
    taylor: MixupTaylor
    terms: ClassPairTerms
    scores: Tensor
    scored: Tensor
    radii: tuple[PairRadius, ...]

    def ranked_pairs(self) -> list[tuple[int, int, float]]:
        """Pairs (a, b) with a <= b and their scores, the most helpful first."""
        classes = range(len(self.scores))
        pairs = [
            (a, b, self.scores[a, b].item())
            for a, b in itertools.combinations_with_replacement(classes, 2)
            if self.scored[a, b]
        ]
        return sorted(pairs, key=lambda pair: -pair[2])


def explain(
    model: nn.Module,
    x: Tensor,
    y: Tensor,
    reference: Samples,
    *,
    num_classes: int,
    alpha: float = 1.0,
    pairs: str | int = "all",
    draws: int = 400,
    samples_per_pair: int = 64,
    generator: torch.Generator | None = None,
) -> Explanation:
    """Everything that this package can say about mixup on a model and a batch.

    Args:
        model: Maps [n, ...] to logits [n, C]; its last layer is an ``nn.Linear``.
        x: Inputs, [n, ...], float32 or float64.
        y: Labels, [n], int64.
        reference: Samples (x, y) whose loss must not rise: class pairs are judged by them.
        num_classes: C.
        alpha: λ ~ Beta(alpha, alpha).
        pairs: ``"all"`` or a number of random pairs for the expansion.
        draws: Monte Carlo draws per sample for the mixup loss.
        samples_per_pair: Mixed samples per class pair for the scores.
        generator: Source of randomness, on the CPU.

    Raises:
        TypeError: an argument has the wrong type or dtype.
        ValueError: an argument is out of range, or shapes disagree.
        RuntimeError: a label is not a class.
    """
    seed = int(torch.randint(2**31, (), generator=generator))
    again = torch.Generator().manual_seed  # both expansions are of the same pairs
    taylor = mixup_taylor(model, x, y, alpha, alpha, pairs, again(seed), draws=draws)
    terms = mixup_class_pairs(
        model, x, y, alpha, alpha, pairs, again(seed), num_classes=num_classes
    )
    mixer = GradMix(
        num_classes,
        alpha=alpha,
        criterion="mixed",
        samples_per_pair=samples_per_pair,
        buffer_samples=max(len(reference[1]), 1),  # all of them
        generator=torch.Generator(x.device).manual_seed(seed),
    )
    mixer.update(model, (x, y), reference, seen_classes=list(range(num_classes)))
    present = y.unique().tolist()
    return Explanation(
        alpha=alpha,
        samples=len(x),
        taylor=taylor,
        terms=terms,
        scores=mixer.scores.cpu(),
        scored=mixer.scored.cpu(),
        radii=tuple(_radii(model, x, y, present, alpha)),
    )


class _Difference(nn.Module):
    """f = z_b - z_a: the logit of class b against class a."""

    def __init__(self, model: nn.Module, a: int, b: int) -> None:
        super().__init__()
        self.model, self.a, self.b = model, a, b

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.model(x)
        return logits[:, self.b] - logits[:, self.a]


def _radii(
    model: nn.Module, x: Tensor, y: Tensor, classes: Sequence[int], alpha: float
) -> list[PairRadius]:
    found = []
    for a, b in itertools.combinations(classes, 2):
        chosen = (y == a) | (y == b)
        radius = mixup_robust_radius(
            _Difference(model, a, b), x[chosen], (y[chosen] == b).long(), alpha, alpha
        )
        reach = radius.eps_mix.item() * math.sqrt(x[0].numel())
        found.append(PairRadius((a, b), reach, radius.reasons, radius.in_theta))
    return found
