"""What one step on mixed samples of each class pair does to the old tasks, and what was predicted.

The claim under test (abstract of GradMix, arXiv 2505.08528): to first order, a step of size η on
mixed samples with mean gradient g~ changes the loss of the old tasks by -η <g~, g_old>, so the sign
of <g~, g_buf>, with the buffer standing for the old tasks, says whether a class pair helps.

Everything that is the truth here is computed in float64 by autograd and by taking the step.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn import functional as F

from gradmix_ext.mixers import GradMix
from gradmix_ext.mixers.base import Samples
from gradmix_ext.mixers.criteria import CRITERIA
from gradmix_ext.mixers.head import evaluation, find_head
from gradmix_ext.mixers.lam import beta

__all__ = ["MeasureConfig", "Measurement", "measure"]

Gradient = dict[str, Tensor]


@dataclass(frozen=True)
class MeasureConfig:
    """How a moment is measured.

    Attributes:
        step: η, the size of the step of plain gradient descent.
        alpha: λ ~ Beta(alpha, alpha), one draw per mixed sample.
        samples_per_pair: Mixed samples behind each score.
        step_samples: Mixed samples behind each step; drawn apart from those of the scores.
        noise_samples: The criterion ``mixed`` is also scored with so many samples per pair; the
            largest number is the reference for its sign.
    """

    step: float = 0.05
    alpha: float = 1.0
    samples_per_pair: int = 16
    step_samples: int = 128
    noise_samples: tuple[int, ...] = (4, 8, 16, 32, 64, 128, 256)

    def __post_init__(self) -> None:
        for name in ("step", "alpha"):
            if not 0 < getattr(self, name) < float("inf"):
                raise ValueError(f"{name} must be positive and finite, got {getattr(self, name)}")
        for name in ("samples_per_pair", "step_samples"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")
        if not self.noise_samples or min(self.noise_samples) < 1:
            raise ValueError(f"noise_samples must be positive numbers, got {self.noise_samples}")


@dataclass(frozen=True, eq=False)
class Measurement:
    """One moment of training; P unordered class pairs, all on the CPU in float64.

    Attributes:
        pairs: [P, 2] int64, the classes a <= b.
        old: [P] int64, how many of the two are old: 0, 1 or 2.
        train_change: [P], change of the mean loss over the old tasks' training data by the step, in
            nats; below 0 the pair helps.
        test_change: [P], the same over their test data.
        scores: Predictions [P] by name; at least 0 where a pair is said to help.

            - ``mixed``, ``linear``, ``gram``: the criteria of :class:`GradMix`.
            - ``mixed, old data``: with all old training data in place of the buffer.
            - ``layer 1`` to ``layer L``: <g~, g_buf> over one layer's parameters, by autograd.
            - ``network``: over all parameters. ``network, old data``: against g_old.
            - ``kind``: number of old classes less ½; knows nothing but which classes are old.
            - ``always``: 0, every pair is said to help.
            - ``mixed@n``: ``mixed`` with n samples per pair.
        facts: Single numbers: ``buffer_loss``, ``old_loss`` (mean, in nats), the norms of g_buf and
            g_old of the head and of the network, and their cosines; NaN where a norm is 0.
    """

    pairs: Tensor
    old: Tensor
    train_change: Tensor
    test_change: Tensor
    scores: dict[str, Tensor]
    facts: dict[str, float]


def measure(
    model: nn.Module,
    current: Samples,
    buffer: Samples,
    old_train: Samples,
    old_test: Samples,
    seen_mask: Tensor,
    config: MeasureConfig,
    generator: torch.Generator,
) -> Measurement:
    """Measure every pair of the classes that current data and buffer hold.

    Nothing is changed: neither weights, statistics and mode of the model, nor any other generator.

    Args:
        model: Its last layer is an ``nn.Linear``; it is looked at in evaluation mode.
        current: Samples and labels of the current task.
        buffer: Samples and labels of the replay buffer.
        old_train: All training samples and labels of the tasks before.
        old_test: All their test samples and labels.
        seen_mask: [C] bool, the classes of the softmax.
        config: How.
        generator: Source of every draw, on the device of the data.
    """
    with evaluation(model):
        network = _Network(model, seen_mask)
        pool = _Pool(current, buffer, config.alpha, generator)
        g_buf, g_old = network.gradient_of(buffer), network.gradient_of(old_train)
        tests = _Losses(network, (old_train, old_test))
        before = tests(network.parameters)
        buffer_loss = _Losses(network, (buffer,))(network.parameters)
        changes, products = [], []
        for a, b in pool.pairs.tolist():
            moved = network.stepped(network.gradient(*pool.mix(a, b, config.step_samples)), config)
            changes.append(tests(moved) - before)
            drawn = network.gradient(*pool.mix(a, b, config.samples_per_pair))
            products.append(
                [_inner(drawn, g_buf, names) for names in network.layers]
                + [_inner(drawn, g_buf), _inner(drawn, g_old)]
            )
    train_change, test_change = torch.stack(changes).T.cpu()
    is_old = torch.isin(pool.pairs.cpu(), old_train[1].unique().cpu())
    old = is_old.sum(1)

    def criterion(name: str, samples: int, memory: Samples = buffer) -> Tensor:
        classes = find_head(model).out_features
        mixer = GradMix(
            classes,
            config.alpha,
            name,
            samples_per_pair=samples,
            samples_per_class=len(current[1]),  # all of them, and of the memory too
            buffer_samples=max(len(memory[1]), 1),
            generator=generator,
        )
        mixer.update(model, current, memory, seen_mask)
        return mixer.scores[pool.pairs[:, 0], pool.pairs[:, 1]].double().cpu()

    columns = torch.tensor(products, dtype=torch.float64).T
    layers = [f"layer {i}" for i in range(1, len(network.layers) + 1)]
    scores = {name: criterion(name, config.samples_per_pair) for name in CRITERIA}
    scores["mixed, old data"] = criterion("mixed", config.samples_per_pair, old_train)
    scores |= dict(zip([*layers, "network", "network, old data"], columns, strict=True))
    scores |= {"kind": old - 0.5, "always": torch.zeros(len(old))}
    scores |= {f"mixed@{n}": criterion("mixed", n) for n in config.noise_samples}
    facts = {"buffer_loss": float(buffer_loss), "old_loss": float(before[0])}
    for where, names in (("head", network.head), ("network", tuple(g_buf))):
        of_buffer, of_old = (_inner(g, g, names) ** 0.5 for g in (g_buf, g_old))
        facts[f"{where}_buffer_norm"], facts[f"{where}_old_norm"] = of_buffer, of_old
        product = of_buffer * of_old  # 0 once the model fits either to the last bit
        facts[f"{where}_cosine"] = _inner(g_buf, g_old, names) / product if product else math.nan
    return Measurement(pool.pairs.cpu(), old, train_change, test_change, scores, facts)


class _Network:
    """A model as a function of its parameters, in float64."""

    def __init__(self, model: nn.Module, seen_mask: Tensor) -> None:
        self._model = model
        self._seen = seen_mask
        self.parameters = {name: p.detach().double() for name, p in model.named_parameters()}
        self._buffers = {
            name: b.double() if b.is_floating_point() else b for name, b in model.named_buffers()
        }
        layers: dict[str, list[str]] = {}
        for name in self.parameters:
            layers.setdefault(name.rpartition(".")[0], []).append(name)
        #: Names of each layer's parameters, in the order of the model.
        self.layers = [tuple(names) for names in layers.values()]
        of_head = {id(p) for p in find_head(model).parameters()}
        #: Names of the head's parameters.
        self.head = tuple(name for name, p in model.named_parameters() if id(p) in of_head)

    def logits(self, parameters: Gradient, x: Tensor) -> Tensor:
        """Logits [N, C], -inf for classes that are not in the softmax."""
        logits: Tensor = functional_call(
            self._model, {**parameters, **self._buffers}, (x.double(),)
        )
        return logits.masked_fill(~self._seen, -torch.inf)

    def gradient(self, x: Tensor, y: Tensor, partner_y: Tensor, lam: Tensor) -> Gradient:
        """Gradient of the mean loss over mixed samples."""
        with torch.enable_grad():
            at = {name: p.clone().requires_grad_() for name, p in self.parameters.items()}
            logits = self.logits(at, x)
            own, other = (F.cross_entropy(logits, t, reduction="none") for t in (y, partner_y))
            loss = (lam * own + (1 - lam) * other).mean()
            return dict(zip(at, torch.autograd.grad(loss, list(at.values())), strict=True))

    def gradient_of(self, samples: Samples) -> Gradient:
        """Gradient of the mean loss over samples as they are."""
        x, y = samples
        return self.gradient(x[:], y, y, torch.ones_like(y, dtype=torch.float64))

    def stepped(self, gradient: Gradient, config: MeasureConfig) -> Gradient:
        """The parameters after one step."""
        return {name: p - config.step * gradient[name] for name, p in self.parameters.items()}


class _Losses:
    """Mean losses over several sets of samples, from one forward pass."""

    def __init__(self, network: _Network, sets: Sequence[Samples]) -> None:
        self._network = network
        self._x = torch.cat([x[:] for x, _ in sets])
        self._y = torch.cat([y for _, y in sets])
        self._sizes = [len(y) for _, y in sets]

    def __call__(self, parameters: Gradient) -> Tensor:
        """One loss per set, in nats, with these parameters."""
        losses = F.cross_entropy(
            self._network.logits(parameters, self._x), self._y, reduction="none"
        )
        return torch.stack([part.mean() for part in losses.split(self._sizes)])


class _Pool:
    """Current and buffered samples by class, and mixed samples of any two classes."""

    def __init__(
        self, current: Samples, buffer: Samples, alpha: float, generator: torch.Generator
    ) -> None:
        self._x = torch.cat([x[:] for x, _ in (current, buffer)])
        y = torch.cat([y for _, y in (current, buffer)])
        self._members = {k: (y == k).nonzero().flatten() for k in y.unique().tolist()}
        self._alpha = alpha
        self._generator = generator
        #: All pairs [P, 2] of classes a <= b that have samples.
        self.pairs = torch.combinations(y.unique(), with_replacement=True)

    def mix(self, a: int, b: int, samples: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """So many mixed samples of classes a and b: x~, label a, label b, λ."""
        device = self._x.device
        lam = beta(self._alpha, samples, device, self._generator).double()
        first, second = (self._draw(k, samples).double() for k in (a, b))
        weight = lam.reshape(-1, *[1] * (first.dim() - 1))
        labels = [torch.full((samples,), k, device=device) for k in (a, b)]
        return weight * first + (1 - weight) * second, labels[0], labels[1], lam

    def _draw(self, k: int, samples: int) -> Tensor:
        members = self._members[k]
        index = torch.randint(
            len(members), (samples,), device=members.device, generator=self._generator
        )
        return self._x[members[index]]


def _inner(one: Gradient, other: Gradient, names: Iterable[str] | None = None) -> float:
    """Inner product over the named parameters, all by default."""
    return float(sum((one[n] * other[n]).sum() for n in (one if names is None else names)))
