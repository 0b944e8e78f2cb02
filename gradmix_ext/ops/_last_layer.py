"""Gradients of the last-layer ops: how δ and h, and through them logits and features, enter."""

from __future__ import annotations

import torch
from torch import Tensor

from gradmix_ext.reference._terms import softmax, target_distribution
from gradmix_ext.reference.class_gradients import BLOCK_ELEMENTS


def softmax_backward(p: Tensor, grad: Tensor) -> Tensor:
    """Pull a gradient in p = softmax(z) back to the logits z."""
    return p * (grad - (p * grad).sum(dim=1, keepdim=True))


def outer_products_backward(
    grad_weight: Tensor,
    grad_bias: Tensor,
    features: Tensor,
    logits: Tensor,
    target: Tensor,
    partner_target: Tensor | None,
    lam: Tensor | None,
    groups: Tensor,
    class_mask: Tensor | None,
) -> tuple[Tensor, Tensor]:
    """Pull gradients in Σ_i δ_i h_iᵀ [K, C, d] and Σ_i δ_i [K, C] back to features and logits.

    Works through the samples in blocks, so that no [N, C, d] tensor exists.
    """
    p = softmax(logits, class_mask)
    residual = p - target_distribution(logits, target, partner_target, lam)
    h = features.to(p.dtype)
    # A group out of range took no part in the sums; its samples get no gradient.
    num_groups = grad_weight.shape[0]
    inside = ((groups >= 0) & (groups < num_groups)).to(p.dtype)[:, None]
    index = groups.clamp(min=0, max=max(num_groups - 1, 0))
    rows = max(1, BLOCK_ELEMENTS // max(logits.shape[1] * h.shape[1], 1))
    grad_h, grad_residual = [], []
    for block, h_i, residual_i in zip(
        index.split(rows), h.split(rows), residual.split(rows), strict=True
    ):
        weight = grad_weight.index_select(0, block)
        grad_residual.append((weight @ h_i[:, :, None])[:, :, 0] + grad_bias.index_select(0, block))
        grad_h.append((residual_i[:, None, :] @ weight)[:, 0, :])
    return (
        (inside * torch.cat(grad_h)).to(features.dtype),
        softmax_backward(p, inside * torch.cat(grad_residual)).to(logits.dtype),
    )
