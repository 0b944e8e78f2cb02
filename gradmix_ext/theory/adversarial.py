"""The adversarial loss that the mixup loss bounds, for a binary logit f and g = sigmoid(f).

For logistic regression f(x) = θᵀx. For a network, θ is replaced sample by sample with ∇f(x_i); the
derivation then needs f(x) = ∇f(x)ᵀx, which holds for ReLU networks without biases. The statement
(Zhang et al., ICLR 2021, Theorem 3.1) also needs centred inputs (a mean of 0) and a θ in Θ, under
which every training point is classified correctly:

    L~_mix >= (1/n) Σ_i l~_adv(ε_i √d) >= (1/n) Σ_i l~_adv(ε_mix √d) = L~_adv(ε_mix)

where tildes mark second-order expansions and the argument of l~_adv is the radius of an l2 ball.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gradmix_ext.mixers.head import evaluation
from gradmix_ext.theory.moments import mixup_moments

__all__ = [
    "RobustRadius",
    "adversarial_loss_second_order",
    "checked_linear",
    "mixup_loss_second_order",
    "mixup_robust_radius",
]

# How far from 0 the mean of the inputs may be, and f(x) from ∇f(x)ᵀx, relative to their size.
_TOLERANCE = 1e-4


@dataclass(frozen=True, eq=False)
class RobustRadius:
    """The radius up to which minimising the mixup loss minimises an adversarial loss.

    The radii are in the unit of ``eps`` of :func:`adversarial_loss_second_order`: the l2 ball has
    radius eps·√d. They say something only where `defined` holds; otherwise `reasons` tells what of
    the theorem's conditions fails, and the numbers are those the formula would give.

    Attributes:
        eps_i: ``ε_i = |cos(∇f(x_i), x_i)| c_x E[1-λ]``, [n].
        eps_mix: min_i ε_i, 0-dim.
        in_theta: Whether every sample is classified correctly, (2y-1) f(x) >= 0.
        misclassified: How many are not.
        c_x: The largest c with ‖x_i‖ >= c √d for all i, 0-dim.
        centred: Whether the mean of the inputs is 0, within 1e-4 of their root mean square norm.
        homogeneous: Whether f(x_i) = ∇f(x_i)ᵀx_i, within 1e-4 of the largest ``|f|``; always so for
            logistic regression.
    """

    eps_i: Tensor
    eps_mix: Tensor
    in_theta: bool
    misclassified: int
    c_x: Tensor
    centred: bool
    homogeneous: bool

    @property
    def defined(self) -> bool:
        """Whether all conditions of the theorem hold."""
        return self.in_theta and self.centred and self.homogeneous

    @property
    def reasons(self) -> tuple[str, ...]:
        """The conditions that fail, in words."""
        found = []
        if not self.in_theta:
            found.append(f"θ is outside Θ: {self.misclassified} samples are misclassified")
        if not self.centred:
            found.append("the inputs are not centred: their mean is not 0")
        if not self.homogeneous:
            found.append("f(x) differs from ∇f(x)ᵀx: the model has biases or is not ReLU-like")
        return tuple(found)


def adversarial_loss_second_order(
    theta: Tensor | nn.Module, x: Tensor, y: Tensor, eps: float | Tensor
) -> Tensor:
    """The second-order expansion of the adversarial logistic loss in an l2 ball of radius eps·√d.

    ``L~_adv(ε) = L_std + ε√d (1/n) Σ |g_i - y_i| ‖θ‖ + (ε² d / 2) (1/n) Σ g_i (1-g_i) ‖θ‖²``

    (Zhang et al., ICLR 2021, Section 3.2.)

    Args:
        theta: Weights of logistic regression, [d]; or a module that maps [n, ...] to one logit per
            sample, whose ∇f(x_i) then takes the place of θ.
        x: Inputs, [n, d] for weights, [n, ...] for a module.
        y: Labels 0 or 1, [n], of any dtype.
        eps: ε, one for all samples or [n], not negative.

    Returns:
        The loss, 0-dim in the dtype of `x`; differentiable in weights `theta`.

    Raises:
        TypeError: an argument has the wrong type or dtype.
        ValueError: shapes disagree, a label is neither 0 nor 1, or `eps` is negative.
    """
    caller = "adversarial_loss_second_order"
    f, gradient = _logits_and_gradients(caller, theta, x)
    target = _labels(caller, y, f)
    radius = torch.as_tensor(eps, dtype=f.dtype, device=f.device)
    if radius.dim() > 1 or (radius.dim() == 1 and radius.shape != f.shape):
        raise ValueError(
            f"{caller}: eps must be a number or have shape {list(f.shape)}, got "
            f"{list(radius.shape)}"
        )
    if not bool((radius >= 0).all()):
        raise ValueError(f"{caller}: eps must not be negative, got {radius.min().item():g}")
    radius = radius * math.sqrt(_dimension(x))
    size = gradient.norm(dim=-1)
    g = torch.sigmoid(f)
    first = radius * (g - target).abs() * size
    second = radius.square() / 2 * g * (1 - g) * size.square()
    standard = F.binary_cross_entropy_with_logits(f, target)
    loss: Tensor = standard + (first + second).mean()
    return loss


def mixup_loss_second_order(
    theta: Tensor, x: Tensor, y: Tensor, alpha: float, beta: float
) -> Tensor:
    """L~_mix of logistic regression: the second-order expansion over all pairs, in closed form.

    The left side of the bound. The same as ``L_approx`` of :func:`mixup_taylor` for logits
    (0, θᵀx), in O(n d).

    Args:
        theta: Weights, [d].
        x: Inputs, [n, d]; they need not be centred.
        y: Labels 0 or 1, [n].
        alpha: First parameter of λ ~ Beta(alpha, beta).
        beta: Second parameter.

    Returns:
        The loss, 0-dim; differentiable in `theta`.

    Raises:
        TypeError: an argument has the wrong type or dtype.
        ValueError: shapes disagree, a label is neither 0 nor 1, or a parameter is not positive.
    """
    caller = "mixup_loss_second_order"
    moments = mixup_moments(alpha, beta)
    checked_linear(caller, theta, x)
    f = x @ theta
    target = _labels(caller, y, f)
    g = torch.sigmoid(f)
    # Over partners r, θᵀ(r - x_i) has mean m - f_i and mean square var + (m - f_i)².
    towards = f.mean() - f
    spread = (f - f.mean()).square().mean()
    standard = F.binary_cross_entropy_with_logits(f, target)
    first = moments.first * ((g - target) * towards).mean()
    second = moments.second / 2 * (g * (1 - g) * (spread + towards.square())).mean()
    return standard + first + second


def mixup_robust_radius(
    theta: Tensor | nn.Module, x: Tensor, y: Tensor, alpha: float, beta: float
) -> RobustRadius:
    """ε_i and ε_mix: how large an attack the mixup loss bounds (Zhang et al., Theorem 3.1).

    The theorem is about centred inputs. x is taken as it is, because a model without bias has
    another decision boundary on shifted inputs: centre the data before training, or read
    ``centred`` and ``reasons`` of what is returned.

    Args:
        theta: Weights of logistic regression, [d]; or a module that maps [n, ...] to one logit per
            sample, whose ∇f(x_i) then takes the place of θ.
        x: Training inputs, [n, d] for weights, [n, ...] for a module; n at least 1.
        y: Labels 0 or 1, [n], of any dtype.
        alpha: First parameter of λ ~ Beta(alpha, beta).
        beta: Second parameter.

    Raises:
        TypeError: an argument has the wrong type or dtype.
        ValueError: shapes disagree, there is no sample, a label is neither 0 nor 1, or a parameter
            is not positive.
    """
    caller = "mixup_robust_radius"
    moments = mixup_moments(alpha, beta)
    f, gradient = (value.detach() for value in _logits_and_gradients(caller, theta, x))
    target = _labels(caller, y, f)
    flat = x.detach().flatten(1)
    norm = flat.norm(dim=1)
    c_x = norm.min() / math.sqrt(_dimension(x))
    inner = (gradient * flat).sum(1)
    scale = gradient.norm(dim=-1) * norm
    # A sample or gradient of 0 has no direction: no radius.
    cosine = torch.where(scale > 0, inner.abs() / scale, 0.0).clamp(max=1)
    eps_i = cosine * c_x * moments.first
    wrong = int(((2 * target - 1) * f < 0).sum())
    return RobustRadius(
        eps_i=eps_i,
        eps_mix=eps_i.min(),
        in_theta=wrong == 0,
        misclassified=wrong,
        c_x=c_x,
        centred=bool(flat.mean(0).norm() <= _TOLERANCE * norm.square().mean().sqrt()),
        homogeneous=bool((f - inner).abs().max() <= _TOLERANCE * f.abs().max()),
    )


def checked_linear(caller: str, theta: Tensor, x: Tensor) -> None:
    """`theta` [d] and `x` [n, d] agree in shape and dtype, and there is a sample."""
    _checked_inputs(caller, x)
    if not isinstance(theta, Tensor):
        raise TypeError(f"{caller}: theta must be a tensor of weights, got {type(theta).__name__}")
    if x.dim() != 2 or theta.shape != x.shape[1:]:
        raise ValueError(
            f"{caller}: theta must have shape [d] and x [n, d], got {list(theta.shape)} and "
            f"{list(x.shape)}"
        )
    if theta.dtype != x.dtype:
        raise TypeError(f"{caller}: theta must have the dtype of x, {x.dtype}, got {theta.dtype}")


def _checked_inputs(caller: str, x: Tensor) -> None:
    if not isinstance(x, Tensor):
        raise TypeError(f"{caller}: x must be a tensor, got {type(x).__name__}")
    if not x.is_floating_point():
        raise TypeError(f"{caller}: x must be floating point, got {x.dtype}")
    if x.dim() < 2 or not x.numel():
        raise ValueError(
            f"{caller}: x must hold at least one sample, [n, d], got shape {list(x.shape)}"
        )


def _logits_and_gradients(
    caller: str, theta: Tensor | nn.Module, x: Tensor
) -> tuple[Tensor, Tensor]:
    """f(x_i), [n], and θ, [d], or ∇f(x_i), [n, d]."""
    if not isinstance(theta, nn.Module):
        checked_linear(caller, theta, x)
        return x @ theta, theta
    _checked_inputs(caller, x)
    with evaluation(theta), torch.enable_grad():
        inputs = x.detach().requires_grad_()
        f = theta(inputs)
        if f.shape not in ((len(x),), (len(x), 1)):
            raise ValueError(
                f"{caller}: theta must map x to one logit per sample, [{len(x)}] or "
                f"[{len(x)}, 1]; it gives {list(f.shape)}"
            )
        # Samples do not interact in evaluation mode, so the gradient of the sum is theirs, row by
        # row.
        (gradient,) = torch.autograd.grad(f.sum(), inputs)
    return f.detach().flatten(), gradient.flatten(1)


def _labels(caller: str, y: Tensor, f: Tensor) -> Tensor:
    """Labels [n] as 0.0 and 1.0 in the dtype of f."""
    if not isinstance(y, Tensor):
        raise TypeError(f"{caller}: y must be a tensor, got {type(y).__name__}")
    if y.shape != f.shape:
        raise ValueError(f"{caller}: y must have shape {list(f.shape)}, got {list(y.shape)}")
    bad = ((y != 0) & (y != 1)).nonzero().flatten()
    if len(bad):
        at = int(bad[0])
        raise ValueError(f"{caller}: y[{at}] = {y[at].item():g} must be 0 or 1")
    return y.to(f)


def _dimension(x: Tensor) -> int:
    return math.prod(x.shape[1:])
