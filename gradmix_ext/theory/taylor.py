"""The mixup loss of a model, and its second-order expansion around the training samples."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from gradmix_ext import _checks as checks
from gradmix_ext.mixers.head import evaluation
from gradmix_ext.theory.moments import MixupMoments, mixup_moments, sample_lam

__all__ = ["ClassPairTerms", "MixupTaylor", "mixup_class_pairs", "mixup_taylor"]

Logits = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class MixupTaylor:
    """The mixup loss beside its second-order expansion (Zhang et al., ICLR 2021, Lemma 3.1).

    Attributes:
        L_std: Mean cross-entropy of the unmixed samples.
        R1: E[1-λ] · mean (p-y)ᵀu, with u = J_f(x_i)(x_j - x_i).
        R2: ½ E[(1-λ)²] · mean uᵀ(diag p - ppᵀ)u; never negative.
        R3: ½ E[(1-λ)²] · mean (p-y)ᵀq, with q_k = (x_j - x_i)ᵀ∇²f_k(x_i)(x_j - x_i); 0 almost
            everywhere for piecewise linear networks.
        R_stderr: Standard error of R1 + R2 + R3 from the draw of pairs; 0 over all pairs, NaN
            (unknown) for a single drawn one.
        L_mix: The mixup loss itself, by Monte Carlo.
        L_mix_stderr: Its standard error.
        pairs: How many pairs the means of R1, R2 and R3 are over.
    """

    L_std: float
    R1: float
    R2: float
    R3: float
    R_stderr: float
    L_mix: float
    L_mix_stderr: float
    pairs: int

    @property
    def L_approx(self) -> float:  # noqa: N802 - the paper's name
        """The expansion, L_std + R1 + R2 + R3."""
        return self.L_std + self.R1 + self.R2 + self.R3

    @property
    def error(self) -> float:
        """What the expansion misses, L_approx - L_mix; `error_stderr` is its standard error."""
        return self.L_approx - self.L_mix

    @property
    def error_stderr(self) -> float:
        """Standard error of `error`: pairs and draws are independent. NaN where R_stderr is."""
        return math.hypot(self.R_stderr, self.L_mix_stderr)


@dataclass(frozen=True, eq=False)
class ClassPairTerms:
    """The terms of the expansion by the classes of the two samples.

    Row a, column b: the mean over pairs with x_i of class a and x_j of class b; 0 without any.

    Attributes:
        R1: First-order term, [C, C] float64 on the CPU.
        R2: Term of the curvature of the loss, [C, C].
        R3: Term of the curvature of the model, [C, C].
        count: Pairs, [C, C] int64.
    """

    R1: Tensor
    R2: Tensor
    R3: Tensor
    count: Tensor

    @property
    def total(self) -> Tensor:
        """R1 + R2 + R3, [C, C]."""
        return self.R1 + self.R2 + self.R3


def mixup_taylor(
    model: nn.Module,
    x: Tensor,
    y: Tensor,
    alpha: float,
    beta: float,
    pairs: str | int = "all",
    generator: torch.Generator | None = None,
    *,
    draws: int = 64,
    class_mask: Tensor | None = None,
    chunk_size: int = 1024,
) -> MixupTaylor:
    """What mixup adds to the loss of a model, split into the terms of its expansion.

    All derivatives are along x_j - x_i: R1 and R2 by forward mode (``torch.func.jvp``), R3 by
    reverse mode twice. Neither a Jacobian nor a Hessian is held, and memory does not grow with the
    number of pairs. The model runs in evaluation mode: dropout is off and normalisation layers use
    their running statistics.

    Args:
        model: Maps [n, ...] to logits [n, C]; all of it must have a forward-mode and a second
            derivative.
        x: Training inputs, [n, ...], float32 or float64, on the device of the model.
        y: Labels, [n], int64.
        alpha: First parameter of λ ~ Beta(alpha, beta).
        beta: Second parameter.
        pairs: ``"all"``: all n² ordered pairs, i = j included, exact. A number k: k pairs drawn
            uniformly with replacement, unbiased.
        generator: Source of randomness, on the CPU; PyTorch's own by default.
        draws: Monte Carlo draws of (partner, λ) per sample for L_mix, at least 2.
        class_mask: Classes of the softmax, [C] bool; all by default.
        chunk_size: Pairs per forward pass.

    Raises:
        TypeError: an argument has the wrong type or dtype.
        ValueError: shapes disagree, there is no sample, a number is out of range, or the model does
            not return [n, C].
        RuntimeError: a label is not a class of the softmax.
    """
    caller = "mixup_taylor"
    moments = mixup_moments(alpha, beta)
    n = _checked_samples(caller, x, y, chunk_size)
    count = _checked_pairs(caller, pairs, n)
    if draws < 2:
        raise ValueError(f"{caller}: draws must be at least 2, got {draws}")
    sums = torch.zeros(3, dtype=torch.float64)
    drawn = []
    with _differentiable(model):
        f, target = _with_mask(caller, model, x, y, class_mask)
        logits = torch.cat([f(part) for part in x.split(chunk_size)])
        standard = F.cross_entropy(logits.double(), target).item()
        for index, partner in _pairs(n, pairs, generator, chunk_size):
            terms = _pair_terms(f, x, target, logits, index, partner, moments)
            sums += terms.sum(1).cpu()
            if pairs != "all":
                drawn.append(terms.sum(0).cpu())
        mixed, mixed_stderr = _monte_carlo(f, x, target, alpha, beta, draws, generator, chunk_size)
    R1, R2, R3 = (sums / count).tolist()
    return MixupTaylor(
        L_std=standard,
        R1=R1,
        R2=R2,
        R3=R3,
        R_stderr=_standard_error(torch.cat(drawn)) if drawn else 0.0,
        L_mix=mixed,
        L_mix_stderr=mixed_stderr,
        pairs=count,
    )


def mixup_class_pairs(
    model: nn.Module,
    x: Tensor,
    y: Tensor,
    alpha: float,
    beta: float,
    pairs: str | int = "all",
    generator: torch.Generator | None = None,
    *,
    num_classes: int,
    class_mask: Tensor | None = None,
    chunk_size: int = 1024,
) -> ClassPairTerms:
    """The terms of :func:`mixup_taylor` for every ordered pair of classes.

    Args:
        model: As in :func:`mixup_taylor`, as are all arguments but one.
        x: Training inputs, [n, ...].
        y: Labels, [n], int64.
        alpha: First parameter of λ ~ Beta(alpha, beta).
        beta: Second parameter.
        pairs: ``"all"`` or a number of random pairs.
        generator: Source of randomness, on the CPU.
        num_classes: C of the result.
        class_mask: Classes of the softmax, [C] bool; all by default.
        chunk_size: Pairs per forward pass.

    Raises:
        TypeError: an argument has the wrong type or dtype.
        ValueError: shapes disagree, there is no sample, a number is out of range, or the model does
            not return [n, C].
        RuntimeError: a label is not a class of the softmax.
    """
    caller = "mixup_class_pairs"
    moments = mixup_moments(alpha, beta)
    n = _checked_samples(caller, x, y, chunk_size)
    _checked_pairs(caller, pairs, n)
    checks.in_range(caller, "y", y, num_classes, f"{num_classes} classes")
    sums = torch.zeros(3, num_classes**2, dtype=torch.float64)
    count = torch.zeros(num_classes**2, dtype=torch.int64)
    with _differentiable(model):
        f, target = _with_mask(caller, model, x, y, class_mask)
        logits = torch.cat([f(part) for part in x.split(chunk_size)])
        for index, partner in _pairs(n, pairs, generator, chunk_size):
            terms = _pair_terms(f, x, target, logits, index, partner, moments).cpu()
            cell = (y[index.to(y.device)] * num_classes + y[partner.to(y.device)]).cpu()
            sums.index_add_(1, cell, terms)
            count += torch.bincount(cell, minlength=num_classes**2)
    R1, R2, R3 = (sums / count.clamp(min=1)).reshape(3, num_classes, num_classes)
    return ClassPairTerms(R1, R2, R3, count.reshape(num_classes, num_classes))


def _pair_terms(
    f: Logits,
    x: Tensor,
    target: Tensor,
    logits: Tensor,
    index: Tensor,
    partner: Tensor,
    moments: MixupMoments,
) -> Tensor:
    """The terms R1, R2 and R3 of the pairs (index, partner), [3, P] float64."""
    index, partner = index.to(x.device), partner.to(x.device)
    start = x[index]
    direction = x[partner] - start

    # In float64 from here on: the terms are small differences of large ones.
    u = torch.func.jvp(f, (start,), (direction,))[1].double()
    p = logits[index].double().softmax(1)
    residual = p - F.one_hot(target[index], p.shape[1])
    first = moments.first * (residual * u).sum(1)
    # uᵀ(diag p - ppᵀ)u is the variance of u under p; written so, it cannot come out negative.
    variance = (p * (u - (p * u).sum(1, keepdim=True)).square()).sum(1)
    second = moments.second / 2 * variance
    third = moments.second / 2 * _curvature(f, start, direction, residual.to(x.dtype)).double()
    return torch.stack([first, second, third])


def _curvature(f: Logits, start: Tensor, direction: Tensor, weight: Tensor) -> Tensor:
    """Dᵀ ∇²(wᵀf)(x) D of each pair, [P], by reverse mode twice.

    Not by jvp of jvp: PyTorch (2.15) has no second forward derivative of SiLU and Mish, and a wrong
    one, without a warning, of layer_norm and instance_norm.
    """
    with torch.enable_grad():
        at = start.detach().requires_grad_()
        (slope,) = torch.autograd.grad((weight * f(at)).sum(), at, create_graph=True)
        if not slope.requires_grad:  # a piecewise linear model
            return torch.zeros(len(start), dtype=start.dtype, device=start.device)
        (product,) = torch.autograd.grad(
            (slope * direction).sum(), at, allow_unused=True, materialize_grads=True
        )
    return (product * direction).flatten(1).sum(1)


@contextmanager
def _differentiable(model: nn.Module) -> Iterator[None]:
    """Evaluation mode, with attention by kernels that have all derivatives."""
    fast = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        with evaluation(model), sdpa_kernel(SDPBackend.MATH), warnings.catch_warnings():
            # The first jvp of a process makes PyTorch script its own formulas, which it warns of.
            warnings.filterwarnings("ignore", "`torch.jit.script` is deprecated", FutureWarning)
            yield
    finally:
        torch.backends.mha.set_fastpath_enabled(fast)


def _monte_carlo(
    f: Logits,
    x: Tensor,
    target: Tensor,
    alpha: float,
    beta: float,
    draws: int,
    generator: torch.Generator | None,
    chunk_size: int,
) -> tuple[float, float]:
    """L_mix = (1/n) Σ_i E_{λ~D~, r} loss(λ x_i + (1-λ) r, y_i) with its standard error.

    Every sample gets as many draws, so that samples with different losses do not add to the error.
    """
    n = len(x)
    losses = []
    for index in torch.arange(n).repeat_interleave(draws).split(chunk_size):
        lam = sample_lam(len(index), alpha, beta, generator).to(x)
        partner = torch.randint(n, index.shape, generator=generator)
        start, end = x[index.to(x.device)], x[partner.to(x.device)]
        mixed = end + lam.reshape(-1, *[1] * (x.dim() - 1)) * (start - end)
        label = target[index.to(x.device)]
        losses.append(F.cross_entropy(f(mixed).double(), label, reduction="none").cpu())
    loss = torch.cat(losses).reshape(n, draws)
    return loss.mean().item(), math.sqrt(loss.var(1).sum().item() / draws) / n


def _pairs(
    n: int, pairs: str | int, generator: torch.Generator | None, chunk_size: int
) -> Iterator[tuple[Tensor, Tensor]]:
    """The pairs (i, j), a chunk at a time, on the CPU."""
    count = n * n if isinstance(pairs, str) else pairs
    for start in range(0, count, chunk_size):
        size = min(chunk_size, count - start)
        if isinstance(pairs, str):
            position = torch.arange(start, start + size)
            yield position // n, position % n
        else:
            index, partner = torch.randint(n, (2, size), generator=generator)
            yield index, partner


def _with_mask(
    caller: str, model: nn.Module, x: Tensor, y: Tensor, class_mask: Tensor | None
) -> tuple[Logits, Tensor]:
    """Logits of the classes of the softmax alone, and the labels counted among those."""
    logits = model(x[:1])
    if not isinstance(logits, Tensor) or logits.dim() != 2 or len(logits) != 1:
        shape = list(logits.shape) if isinstance(logits, Tensor) else type(logits).__name__
        raise ValueError(f"{caller}: model must map [n, ...] to logits [n, C]; one sample: {shape}")
    checks.class_mask(caller, class_mask, logits.shape[1], x.device)
    checks.labels(caller, "y", y, logits.shape[1], class_mask)
    # Without a graph to the parameters, piecewise linear models are known by their constant slope.
    weights = {name: parameter.detach() for name, parameter in model.named_parameters()}

    def whole(at: Tensor) -> Tensor:
        return cast(Tensor, torch.func.functional_call(model, weights, (at,)))

    if class_mask is None:
        return whole, y
    classes = class_mask.nonzero().flatten()

    def masked(at: Tensor) -> Tensor:
        return whole(at).index_select(1, classes)

    return masked, class_mask.long().cumsum(0)[y] - 1


def _checked_samples(caller: str, x: Tensor, y: Tensor, chunk_size: int) -> int:
    """The number of samples, of valid x and y."""
    checks.tensor(caller, "x", x)
    if x.dtype not in (torch.float32, torch.float64):
        raise TypeError(f"{caller}: x must be float32 or float64, got {x.dtype}")
    if x.dim() < 2 or not x.numel():
        raise ValueError(
            f"{caller}: x must hold at least one sample, [n, ...], got shape {list(x.shape)}"
        )
    checks.vector(caller, "y", y, len(x), torch.int64, x.device)
    if chunk_size < 1:
        raise ValueError(f"{caller}: chunk_size must be positive, got {chunk_size}")
    return len(x)


def _checked_pairs(caller: str, pairs: str | int, n: int) -> int:
    """How many pairs `pairs` stands for."""
    if isinstance(pairs, str) and pairs == "all":
        return n * n
    if type(pairs) is int and pairs > 0:
        return pairs
    raise ValueError(f"{caller}: pairs must be 'all' or a positive number, got {pairs!r}")


def _standard_error(values: Tensor) -> float:
    """Of the mean of independent values; NaN for a single one."""
    if len(values) < 2:
        return math.nan
    return values.std().item() / math.sqrt(len(values))
