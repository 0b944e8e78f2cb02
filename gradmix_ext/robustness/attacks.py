"""White-box attacks in the input range of the model.

FGSM and PGD are written here. Of the libraries that were tried with PyTorch 2.15, Foolbox 3.3.4 and
the Adversarial Robustness Toolbox 1.20.1 give the same accuracies to the last sample, and neither
is worth depending on for what is forty lines: Foolbox has had no release since March 2024 and needs
GitPython, the Toolbox works on float32 NumPy arrays and wants an estimator object around the model.
torchattacks 3.5.1 (October 2023) accepts images in [0, 1] alone, pins an old `requests`, and its l2
attack fails on flat inputs. AutoAttack, which is not forty lines, is taken from the package
``pyautoattack`` (the `robustness` extra).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

__all__ = ["ATTACKS", "Attack"]

Logits = Callable[[Tensor], Tensor]

#: Names of attacks: the norm of the ball of each.
ATTACKS = {"fgsm": "linf", "pgd": "linf", "pgd_l2": "l2", "autoattack": "linf"}


@dataclass(frozen=True, eq=False)
class Attack:
    """An attack with its settings.

    Attributes:
        name: One of :data:`~gradmix_ext.robustness.ATTACKS`.
        low: Least value of an input, broadcastable to a batch.
        high: Greatest value.
        steps: Steps of PGD.
        step_size: Step of PGD; None is 2.5 eps / steps (Madry et al., ICLR 2018).
        random_start: Start PGD from a uniformly drawn point of the ball instead of the input.
        generator: Source of randomness, on the CPU; PyTorch's own by default.
    """

    name: str
    low: Tensor
    high: Tensor
    steps: int
    step_size: float | None
    random_start: bool
    generator: torch.Generator | None

    def __call__(self, logits: Logits, x: Tensor, y: Tensor, eps: float) -> Tensor:
        """Inputs within `eps` of `x` (in the norm of the attack) that `logits` takes for others.

        Args:
            logits: Maps inputs to logits [N, C]; must be differentiable.
            x: Inputs, [N, ...], within the bounds.
            y: Labels, [N].
            eps: Radius of the ball in the model's own input range, positive.

        Raises:
            ImportError: the attack needs a package that is not installed.
            ValueError: the attack does not work within these bounds.
        """
        if self.name == "autoattack":
            from gradmix_ext.robustness.autoattack import autoattack

            return autoattack(logits, x, y, eps, self.low, self.high, self.generator)
        if self.name == "fgsm":
            return self._clip(x + eps * _gradient(logits, x, y).sign())
        return self._pgd(logits, x, y, eps)

    def _pgd(self, logits: Logits, x: Tensor, y: Tensor, eps: float) -> Tensor:
        """Projected gradient ascent (Madry et al., ICLR 2018)."""
        euclidean = ATTACKS[self.name] == "l2"
        project = _into_l2_ball if euclidean else _into_linf_ball
        step = 2.5 * eps / self.steps if self.step_size is None else self.step_size
        found = x
        if self.random_start:
            found = self._clip(x + self._draw(x, eps, euclidean))
        for _ in range(self.steps):
            gradient = _gradient(logits, found, y)
            ascent = _unit(gradient) if euclidean else gradient.sign()
            # Clipping to the bounds moves towards x, which is within them, so it stays in the ball.
            found = self._clip(x + project(found + step * ascent - x, eps))
        return found

    def _draw(self, x: Tensor, eps: float, euclidean: bool) -> Tensor:
        """A point of the ball around 0 for each sample, uniformly."""
        if euclidean:
            direction = torch.randn(x.shape, dtype=x.dtype, generator=self.generator)
            level = torch.rand(len(x), dtype=x.dtype, generator=self.generator)
            radius = eps * level ** (1 / max(x[0].numel(), 1))
            return (_unit(direction) * _per_sample(radius, x)).to(x.device)
        uniform = torch.rand(x.shape, dtype=x.dtype, generator=self.generator)
        return ((2 * uniform - 1) * eps).to(x.device)

    def _clip(self, x: Tensor) -> Tensor:
        return x.clamp(self.low, self.high)


def _gradient(logits: Logits, x: Tensor, y: Tensor) -> Tensor:
    """Of the cross-entropy with respect to the inputs, up to a positive factor for each sample.

    With w the softmax of the other classes' logits alone, the gradient at the logits is (1 - p_y)
    (w - e_y). The factor does not change a direction, and is left out: it is 0 in floating point
    where the model is certain, and would take the gradient with it. Parameters collect none.
    """
    with torch.enable_grad():
        at = x.detach().requires_grad_()
        z = logits(at)
        own = F.one_hot(y, z.shape[1]).bool()
        others = z.detach().masked_fill(own, -torch.inf)
        towards = others.softmax(1) - own.to(z)
        # Where no other class takes part, the loss is 0 everywhere.
        towards = towards.where(others.isfinite().any(1, keepdim=True), 0.0)
        return torch.autograd.grad(z, at, towards)[0]


def _into_linf_ball(delta: Tensor, eps: float) -> Tensor:
    return delta.clamp(-eps, eps)


def _into_l2_ball(delta: Tensor, eps: float) -> Tensor:
    norm = delta.flatten(1).norm(dim=1).clamp_min(torch.finfo(delta.dtype).tiny)
    return delta * _per_sample((eps / norm).clamp(max=1), delta)


def _unit(x: Tensor) -> Tensor:
    """Each sample scaled to length 1; a sample of 0 stays 0."""
    norm = x.flatten(1).norm(dim=1).clamp_min(torch.finfo(x.dtype).tiny)
    return x / _per_sample(norm, x)


def _per_sample(values: Tensor, like: Tensor) -> Tensor:
    return values.reshape(-1, *[1] * (like.dim() - 1))
