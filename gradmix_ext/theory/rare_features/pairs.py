"""The mixup loss over all n² pairs, from the inner products of single samples.

A filter is linear, so on the mixed input λ x_i + (1-λ) x_j it sees λ a_i + (1-λ) a_j, with a_i and
a_j what it sees on x_i and x_j. With f counting filters and patches and s_f = ±1 the class of the
filter, everything follows from

    T_ij = Σ_f s_f σ(λ a_if + (1-λ) a_jf) = F_1 - F_0 of the mixed input.

Nothing with n² x filters entries is needed for it:

* σ(z) = z^q: by the binomial theorem T is a sum of q - 1 products of [n, f] with [f, n] matrices
  and two terms that depend on i or j alone;
* σ = relu: relu(z) = (z + |z|) / 2, and Σ_f |λ a_if - (λ-1) a_jf| is an l1 distance between rows,
  which `torch.cdist` and its backward fuse.

Profile (one thread of an AMD EPYC, PyTorch 2.15, float32, n = 150, P = 5, d = 800, 2 x 10 filters,
CPU time). With squares a step takes 0.70 ms: 0.45 ms for all 22,500 pairs, a dozen matrix products
and elementwise passes over [n, n] or [n, f], and 0.15 ms for the inner products the way
:mod:`.training` computes them (0.72 ms patch by patch). With cubes the pairs take 0.64 ms. With
relu they take 3.3 ms of a step of 3.5 ms, nearly all of it in the fused kernels of `cdist`; a
materialised n² x filters tensor takes 17 ms. So with the experiment's activation there is no
n² x filters work left for an op of its own to fuse, and with relu there is a fused one for CPU and
GPU already.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from math import comb

import torch
from torch import Tensor

from gradmix_ext.theory.rare_features.data import PatchData
from gradmix_ext.theory.rare_features.network import PatchNetwork, power

__all__ = ["mixed_logits", "mixup_loss", "pair_loss"]

# Entries of one block of pairs; 32 MB in float64.
_BLOCK = 1 << 22


def mixed_logits(network: PatchNetwork, data: PatchData, lam: float) -> Tensor:
    """Logits of all mixed inputs λ x_i + (1-λ) x_j, [n, n, 2] with i first.

    Args:
        network: The network.
        data: The samples.
        lam: λ, in [0, 1].
    """
    _check_lam("lam", lam)
    classes = []
    for filters in network.weight:
        a = _inner_products(filters, data)
        sums = _pair_sums(network.activation)
        classes.append(sums(a, a, torch.ones_like(a[0]), lam).values)
    return torch.stack(classes, dim=-1)


def mixup_loss(
    network: PatchNetwork, data: PatchData, lam_x: float, lam_y: float | None = None
) -> tuple[Tensor, Tensor]:
    """The mixup loss over all ordered pairs of samples, and its gradient in the weights.

        L = 1/n² Σ_ij CE(F(λ_x x_i + (1-λ_x) x_j), λ_y e_{y_i} + (1-λ_y) e_{y_j})

    Args:
        network: The network.
        data: The samples.
        lam_x: λ of the inputs, in [0, 1]. 1 is training without mixed inputs.
        lam_y: λ of the labels, in [0, 1]; `lam_x` if not given.

    Returns:
        The loss, 0-dim, and its gradient, [2, m, d].

    Raises:
        ValueError: a λ is outside [0, 1].
    """
    lam_y = lam_x if lam_y is None else lam_y
    _check_lam("lam_x", lam_x)
    _check_lam("lam_y", lam_y)
    flat = network.weight.flatten(0, 1)  # [2 m, d]
    a = _inner_products(flat, data)
    sign = class_signs(network, data)
    loss, grad = pair_loss(a, sign, data.y.to(a.dtype), lam_x, lam_y, network.activation)
    by_patch = grad.view(-1, len(flat))
    return loss, (by_patch.T @ data.x.flatten(0, 1)).view_as(network.weight)


def class_signs(network: PatchNetwork, data: PatchData) -> Tensor:
    """-1 for the filters of class 0 and +1 for those of class 1, patch by patch, [P 2 m]."""
    signs = network.weight.new_tensor([-1.0, 1.0]).repeat_interleave(network.weight.shape[1])
    return signs.repeat(data.index.shape[1])


def pair_loss(
    a: Tensor, sign: Tensor, y: Tensor, lam_x: float, lam_y: float, activation: str
) -> tuple[Tensor, Tensor]:
    """The mixup loss and its gradient, as a function of the inner products.

    Works through the pairs in blocks of rows, so that memory grows with n and not with n².

    Args:
        a: a_if, [n, f].
        sign: s_f, [f].
        y: Classes 0 and 1 as floating numbers, [n].
        lam_x: λ of the inputs.
        lam_y: λ of the labels.
        activation: Name of σ.

    Returns:
        The loss, 0-dim, and its gradient in a, [n, f].
    """
    n = len(a)
    if lam_x == 1:
        # The input is x_i whatever j; the loss is linear in the label, so that of j is averaged.
        target = lam_y * y + (1 - lam_y) * y.mean()
        return _single_loss(a, sign, target, activation)
    grad = torch.zeros_like(a)
    loss = a.new_zeros(())
    sums = _pair_sums(activation)
    rows = max(1, _BLOCK // n)
    for start in range(0, n, rows):
        block = slice(start, start + rows)
        pairs = sums(a[block], a, sign, lam_x)
        target = lam_y * y[block, None] + (1 - lam_y) * y
        loss += _cross_entropy(pairs.values, target).sum()
        delta = (pairs.values.sigmoid() - target) / n**2
        grad_rows, grad_columns = pairs.backward(delta)
        grad[block] += grad_rows
        grad += grad_columns
    return loss / n**2, grad


def _single_loss(a: Tensor, sign: Tensor, target: Tensor, activation: str) -> tuple[Tensor, Tensor]:
    """The loss without mixed inputs, and its gradient in a."""
    if activation == "relu":
        slope, value = (a > 0).to(a.dtype), a.relu()
    else:
        q = power(activation)
        lower = a ** (q - 1)
        slope, value = q * lower, lower * a
    margin = value @ sign
    delta = (margin.sigmoid() - target) / len(a)
    return _cross_entropy(margin, target).mean(), slope * sign * delta[:, None]


def _cross_entropy(margin: Tensor, target: Tensor) -> Tensor:
    """Softmax cross-entropy of two classes from F_1 - F_0 and the probability of class 1."""
    return torch.nn.functional.softplus(margin) - target * margin


class _PolynomialSums:
    """Σ_f s_f (λ a_if + (1-λ) b_jf)^q over all pairs, and its adjoint."""

    def __init__(self, a: Tensor, b: Tensor, sign: Tensor, lam: float, q: int) -> None:
        self.a, self.b, self.sign, self.lam, self.q = a, b, sign, lam, q
        mu = 1 - lam
        self.weights = [comb(q, k) * lam**k * mu ** (q - k) for k in range(1, q)]
        # Powers side by side, so that all products of powers are one matrix product.
        self.left = torch.cat([w * sign * a**k for k, w in enumerate(self.weights, 1)], dim=1)
        self.right = torch.cat([b ** (q - k) for k in range(1, q)], dim=1)
        self.values = self.left @ self.right.T
        self.values += (lam**q * (a**q @ sign))[:, None]
        self.values += mu**q * (b**q @ sign)

    def backward(self, delta: Tensor) -> tuple[Tensor, Tensor]:
        """Gradients in a and b of Σ_ij delta_ij values_ij."""
        a, b, sign, q = self.a, self.b, self.sign, self.q
        lower = q * sign
        grad_a = self.lam**q * delta.sum(dim=1)[:, None] * (lower * a ** (q - 1))
        grad_b = (1 - self.lam) ** q * delta.sum(dim=0)[:, None] * (lower * b ** (q - 1))
        from_right = (delta @ self.right).chunk(q - 1, dim=1)
        from_left = (delta.T @ self.left).chunk(q - 1, dim=1)
        for k, w in enumerate(self.weights, 1):
            grad_a += w * k * sign * a ** (k - 1) * from_right[k - 1]
            grad_b += (q - k) * b ** (q - k - 1) * from_left[k - 1]
        return grad_a, grad_b


class _ReluSums:
    """Σ_f s_f relu(λ a_if + (1-λ) b_jf) over all pairs, and its adjoint."""

    def __init__(self, a: Tensor, b: Tensor, sign: Tensor, lam: float) -> None:
        self.lam, self.sign = lam, sign
        self.values = ((lam / 2) * (a @ sign))[:, None] + ((1 - lam) / 2) * (b @ sign)
        self.parts = []
        for s in (-1.0, 1.0):
            chosen = (sign == s).nonzero().squeeze(1)
            if not len(chosen):
                continue
            left = a[:, chosen].mul(lam).requires_grad_()
            right = b[:, chosen].mul(lam - 1).requires_grad_()
            with torch.enable_grad():
                distance = torch.cdist(left, right, p=1)
            self.values += (s / 2) * distance.detach()
            self.parts.append((s, chosen, left, right, distance))

    def backward(self, delta: Tensor) -> tuple[Tensor, Tensor]:
        """Gradients in a and b of Σ_ij delta_ij values_ij."""
        lam, sign = self.lam, self.sign
        grad_a = (lam / 2) * delta.sum(dim=1)[:, None] * sign
        grad_b = ((1 - lam) / 2) * delta.sum(dim=0)[:, None] * sign
        for s, chosen, left, right, distance in self.parts:
            grad_left, grad_right = torch.autograd.grad(distance, (left, right), (s / 2) * delta)
            grad_a[:, chosen] += lam * grad_left
            grad_b[:, chosen] += (lam - 1) * grad_right
        return grad_a, grad_b


def _pair_sums(activation: str) -> Callable[..., _PolynomialSums | _ReluSums]:
    """What computes the sums over all pairs for an activation."""
    if activation == "relu":
        return _ReluSums
    return partial(_PolynomialSums, q=power(activation))


def _inner_products(filters: Tensor, data: PatchData) -> Tensor:
    """<w_r, x_p> of every sample, [n, P m], for filters [m, d]."""
    products = data.atoms @ filters.T
    return (data.scale[..., None] * products[data.index]).flatten(1)


def _check_lam(name: str, value: float) -> None:
    if not 0 <= value <= 1:
        raise ValueError(f"{name} must be in [0, 1], got {value}")
