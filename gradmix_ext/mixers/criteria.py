"""Which class pairs help: scores [K, K] from last-layer gradients.

A mixed sample with gradient g~ changes the loss of the earlier tasks, to first order of one SGD
step of size η, by -η <g~, g_buf>, with g_buf the mean gradient of the replay buffer. The abstract
of GradMix (arXiv 2505.08528) states the criterion; which layer, how many samples and how often are
choices of this implementation.

Over several ranks, each with samples of its own, all of this is about the samples of all of them:
sums and counts are added up, and every rank ends with the same scores.
"""

from __future__ import annotations

import weakref
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from gradmix_ext import ops
from gradmix_ext._random import uniform
from gradmix_ext.mixers.base import Samples
from gradmix_ext.mixers.head import HeadInput, evaluation, in_one_dtype
from gradmix_ext.mixers.images import Inputs, copied
from gradmix_ext.mixers.lam import LamLaw
from gradmix_ext.ranks import ONE, Ranks
from gradmix_ext.reference.linear_scores import pairs_of_classes

# Samples per forward pass, so that scoring many pairs does not take more memory than training.
CHUNK = 1024

# Elements of the class gradients [K, C, d] that are added up over the ranks at a time.
_BLOCK = 2**22

CRITERIA = ("mixed", "linear", "gram")


@dataclass(frozen=True)
class Direction:
    """A gradient of the head, (weight [C, d], bias [C])."""

    weight: Tensor
    bias: Tensor


class Probe:
    """Looks at the last-layer gradients of a model, in evaluation mode and without autograd.

    Args:
        model: The model.
        head: Its last linear layer.
        class_mask: Classes [C] (bool) of the softmax; all by default.
        ranks: Who else has samples and looks at the same time.
        advice: What to do about logits that are not the head's, for the message.
    """

    def __init__(
        self,
        model: nn.Module,
        head: nn.Linear,
        class_mask: Tensor | None,
        ranks: Ranks = ONE,
        advice: str = "",
    ) -> None:
        self.model = model
        self.head = head
        self.class_mask = class_mask
        self.ranks = ranks
        self.advice = advice

    def forward(self, *parts: Inputs) -> tuple[Tensor, Tensor]:
        """Features [N, d] and logits [N, C] of sets of samples, one after the other."""
        total = sum(len(x) for x in parts)
        captured = HeadInput(self.head, self.advice)
        try:
            with evaluation(self.model):
                # As many on all ranks, since the forward pass of a sharded model needs every one of
                # them; what stands in for samples on ranks that have fewer comes last.
                starts = range(0, max(self.ranks.most(total), 1), CHUNK)
                chunks = [self.model(_rows(parts, start, start + CHUNK)) for start in starts]
            features = _joined([captured.of(chunk) for chunk in chunks])[:total]
        finally:
            captured.remove()
        # A model may turn gradients on for itself.
        return in_one_dtype(features, _joined(chunks)[:total].detach())

    def mean_gradient(self, features: Tensor, logits: Tensor, y: Tensor) -> Direction:
        """The mean gradient over all ranks' samples, such as g_buf over the replay buffer."""
        weight, bias, _ = ops.class_gradients(
            features,
            logits,
            y,
            groups=torch.zeros_like(y),
            num_groups=1,
            class_mask=self.class_mask,
        )
        weight, bias = (self.ranks.mean(part[0], len(y)) for part in (weight, bias))
        # A head without bias has no gradient there.
        return Direction(weight, bias if self.has_bias else bias * 0)

    @property
    def has_bias(self) -> bool:
        """Whether the head has one."""
        return self.head.bias is not None


def _rows(parts: Sequence[Inputs], start: int, end: int) -> Tensor:
    """Rows start to end of parts that follow each other; a sample of zeros where there are none.

    Not every model takes an empty batch.
    """
    found, before = [], 0
    for x in parts:
        first, last = max(start - before, 0), min(end - before, len(x))
        if first < last:
            found.append((x, first, last))
        before += len(x)
    if not found:
        none = parts[0][:0]
        return none.new_zeros(1, *none.shape[1:])
    if len(found) == 1:
        return copied(*found[0])
    return torch.cat([x[first:last] for x, first, last in found])


def _joined(parts: list[Tensor]) -> Tensor:
    return parts[0] if len(parts) == 1 else torch.cat(parts)


def few(samples: Samples, limit: int, generator: torch.Generator | None) -> Samples:
    """At most ``limit`` of the samples, drawn so that every class keeps its share of them."""
    x, y = samples
    if len(y) <= limit:
        return samples
    noise = uniform(len(y) + 1, y.device, generator)
    order = (y + noise[1:]).argsort()  # by class, at random within one
    # Steps of equal length through them, from anywhere within the first.
    place = torch.arange(limit, device=y.device) + noise[0]
    chosen = order[(place * len(y) / max(limit, 1)).long().clamp(max=len(y) - 1)]
    return x[chosen], y[chosen]


class FewOfEach:
    """Draws at most ``limit`` samples of each class, anew each time.

    The samples of a class have a fixed random order, through which a draw takes steps of equal
    length from anywhere within the first. What stays the same is worked out once.

    Args:
        y: Labels [N] of the samples.
        limit: Most samples of each class.
    """

    def __init__(self, y: Tensor, limit: int) -> None:
        self._of: weakref.ref[Tensor] = weakref.ref(y)
        self._state: tuple[int, ...] = _state_of(y, limit)
        fixed = torch.Generator("cpu").manual_seed(0)
        shuffled = torch.randperm(len(y), generator=fixed, device="cpu").to(y.device)
        self._order: Tensor = shuffled[y[shuffled].argsort(stable=True)]
        count = y.unique(return_counts=True)[1]
        taken = count.clamp(max=limit)
        class_of = torch.arange(len(count), device=y.device).repeat_interleave(taken)
        number = torch.arange(len(class_of), device=y.device) - (taken.cumsum(0) - taken)[class_of]
        step = (count.double() / taken)[class_of]
        self._class_of: Tensor = class_of
        self._classes = len(count)
        self._first: Tensor = (count.cumsum(0) - count)[class_of] + number * step
        # A little less than a step, which rounding might lead into the next class.
        self._freedom: Tensor = torch.where(step > 1, step * (1 - 1e-9), 0.0)

    def fits(self, y: Tensor, limit: int) -> bool:
        """Whether it draws from samples with these labels, which have not changed since."""
        return self._of() is y and self._state == _state_of(y, limit)

    def draw(self, samples: Samples, generator: torch.Generator | None) -> Samples:
        """A draw from the samples; all of them where no class has more than the limit."""
        x, y = samples
        if len(self._class_of) == len(y):
            return samples
        noise = uniform(self._classes, y.device, generator).index_select(0, self._class_of)
        place = torch.addcmul(self._first, noise, self._freedom)
        chosen = self._order.index_select(0, place.long())
        return x[chosen], y.index_select(0, chosen)


def _state_of(y: Tensor, limit: int) -> tuple[int, ...]:
    """What is another where labels or the limit are; inference tensors do not count changes."""
    return limit, len(y), *(() if y.is_inference() else (y._version,))


class Pool:
    """Current and buffered samples addressed as one set, without copying either.

    Attributes:
        parts: This rank's samples: current, buffered, or both.
        own_y: Their labels [n].
        y: The labels [N] of all ranks' samples, to which positions of the pool refer.
        classes: The labels that occur, in order.
    """

    def __init__(self, current: Samples, buffer: Samples, ranks: Ranks = ONE) -> None:
        self.ranks: Ranks = ranks
        self.parts: list[Samples] = [
            part for part in (current, buffer) if ranks.total(part[1].numel())
        ]
        self.own_y: Tensor = torch.cat([y for _, y in self.parts])
        self.y: Tensor
        self.y, self._begin = ranks.joined(self.own_y)

        self.classes: Tensor
        self.classes, count = self.y.unique(return_counts=True)
        # The samples by class, and how many each class has and where it starts.
        self._runs: tuple[Tensor, Tensor, Tensor] = (
            self.y.argsort(stable=True),
            count,
            count.cumsum(0) - count,
        )

    def draw(self, index: Tensor, generator: torch.Generator | None) -> Tensor:
        """One uniformly drawn sample of the class ``classes[index]``, for each index."""
        noise = uniform(len(index), index.device, generator)
        order, count, start = self._runs
        place = start.index_select(0, index) + (noise * count.index_select(0, index)).long()
        return order.index_select(0, place)

    def take(self, index: Tensor) -> Tensor:
        """The samples at these positions of the pool."""
        return self.ranks.fetch(self._read, index, self._begin, len(self.own_y))

    def _read(self, index: Tensor) -> Tensor:
        """This rank's samples, by their positions among them."""
        first, *rest = [x for x, _ in self.parts if len(x)] or [self.parts[0][0]]
        result = first[index.clamp(max=len(first) - 1)]
        if rest:
            offset = index - len(first)
            inside = (offset >= 0).reshape(-1, *[1] * (result.dim() - 1))
            result = torch.where(inside, rest[0][offset.clamp(min=0)], result)
        return result


def linear_scores(probe: Probe, current: Samples, held: Samples) -> tuple[Tensor, Tensor]:
    """Score the classes of both by their own gradients: ½(s_a + s_b), s_k the mean of <g, g_buf>.

    Args:
        probe: Gives the gradients.
        current: Samples of the current task.
        held: Samples of the replay buffer, whose mean gradient is g_buf.

    Returns:
        ``(scores, scored)``, [C, C] each and symmetric: the scores, 0 where not scored, and
        whether both classes had samples (bool).
    """
    features, logits = probe.forward(current[0], held[0])
    y = torch.cat([current[1], held[1]])
    if probe.ranks.size == 1:
        return ops.linear_scores(
            features, logits, y, len(held[1]), bias=probe.has_bias, class_mask=probe.class_mask
        )
    first = len(current[1])
    direction = probe.mean_gradient(features[first:], logits[first:], held[1])
    # A sample paired with itself is one of the pair (k, k): the diagonal holds Σ <g, g_buf>.
    total, count = _pair_scores(probe, features, logits, y, y, 1.0, direction)
    total, count = (probe.ranks.sum(part.diagonal()) for part in (total, count))
    return pairs_of_classes(total, count)


def gram_scores(probe: Probe, current: Samples, held: Samples) -> tuple[Tensor, Tensor]:
    """Score pairs by <g_a, g_b>, the products of the classes' own mean gradients.

    Takes and gives what :func:`linear_scores` does.
    """
    features, logits = probe.forward(current[0], held[0])
    y = torch.cat([current[1], held[1]])
    gram = (_gram if probe.ranks.size == 1 else _gram_of_all)(probe, features, logits, y)
    present = torch.zeros(probe.head.out_features, dtype=torch.bool, device=y.device)
    present.index_fill_(0, probe.ranks.joined(y)[0], True)
    return gram, present[:, None] & present


def _gram(probe: Probe, features: Tensor, logits: Tensor, y: Tensor) -> Tensor:
    """Gram matrix [C, C] of the classes' mean gradients over the samples of this process."""
    gram = ops.class_gram(features, logits, y, class_mask=probe.class_mask)
    if probe.head.bias is None:
        _, bias, _ = ops.class_gradients(features[:, :0], logits, y, class_mask=probe.class_mask)
        wide = bias.double()  # never in TF32
        gram = gram - (wide @ wide.T).to(gram.dtype)
    return gram


def _gram_of_all(probe: Probe, features: Tensor, logits: Tensor, y: Tensor) -> Tensor:
    """The same over the samples of all ranks, from the sums of the class gradients.

    A Gram matrix of one rank's samples knows nothing of their products with another's. The sums are
    taken for some features at a time, so that [C, C, d] never has to fit into memory.
    """
    classes = logits.shape[1]
    gram = torch.zeros(classes, classes, dtype=torch.float64, device=y.device)
    blocks = features.split(max(_BLOCK // classes**2, 1), dim=1)
    for number, block in enumerate(blocks):
        weight, bias, count = ops.class_gradients(
            block, logits, y, class_mask=probe.class_mask, reduction="sum"
        )
        total = weight.flatten(1)
        if number == 0 and probe.head.bias is not None:
            total = torch.cat([total, bias], dim=1)
        count = probe.ranks.sum(count).clamp(min=1)
        mean = probe.ranks.sum(total).double() / count[:, None]
        gram += mean @ mean.T
    return gram.to(total.dtype)


def mixed_scores(
    probe: Probe,
    current: Samples,
    buffer: Samples,
    held: Samples,
    *,
    law: LamLaw,
    samples_per_pair: int,
    generator: torch.Generator | None,
) -> tuple[Tensor, Tensor]:
    """Score pairs by the mean of <g~, g_buf> over mixed samples of their classes.

    All ranks draw the same samples from those of all, and each rank forwards its share of them: the
    scores are those that one process with all samples would have.

    Args:
        probe: Gives the gradients.
        current: Samples of the current task.
        buffer: Samples of the replay buffer.
        held: Those of them whose mean gradient is g_buf.
        law: The law of λ; every sample has its own draw here.
        samples_per_pair: Mixed samples per pair.
        generator: Source of randomness.

    Returns:
        ``(scores, scored)`` as of :func:`linear_scores`.
    """
    ranks = probe.ranks
    pool = Pool(current, buffer, ranks)
    device = pool.y.device
    generator = ranks.common(generator, device)
    law = replace(law, per_sample=True)
    pairs = torch.combinations(
        torch.arange(pool.classes.shape[0], device=device), with_replacement=True
    )
    pairs = pairs[:, None].repeat(1, samples_per_pair, 1)
    if not law.is_symmetric:  # either class comes first in half of the samples, as in training
        pairs[:, 1::2] = pairs[:, 1::2].flip(2)
    direction = probe.mean_gradient(*probe.forward(held[0]), held[1])
    classes = probe.head.out_features
    total = direction.bias.new_zeros(classes, classes)
    count = torch.zeros_like(total, dtype=torch.int64)
    for a, b in ((part[:, 0], part[:, 1]) for part in pairs.flatten(0, 1).split(CHUNK)):
        lam_x, lam_y = law.draw(a.shape[0], device, generator)
        first = pool.take(pool.draw(a, generator))
        second = pool.take(pool.draw(b, generator))
        weight = lam_x.to(first.dtype).reshape(-1, *[1] * (first.dim() - 1))
        mixed = torch.lerp(second, first, weight)
        x, y, partner_y, lam = map(ranks.share, (mixed, pool.classes[a], pool.classes[b], lam_y))
        features, logits = probe.forward(x)
        part_total, part_count = _pair_scores(probe, features, logits, y, partner_y, lam, direction)
        total, count = total + part_total, count + part_count
    total, count = ranks.sum(total), ranks.sum(count)
    return total / count.clamp(min=1), count > 0


def _pair_scores(
    probe: Probe,
    features: Tensor,
    logits: Tensor,
    y: Tensor,
    partner_y: Tensor,
    lam: Tensor | float,
    direction: Direction,
) -> tuple[Tensor, Tensor]:
    """Sums [C, C] of <g, direction> over samples of class pairs, and how many they are."""
    return ops.pair_scores(
        features,
        logits,
        y,
        partner_y,
        lam,
        direction.weight,
        direction.bias,
        num_classes=probe.head.out_features,
        class_mask=probe.class_mask,
    )
