"""A mixed batch and its loss."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import NamedTuple

from torch import Tensor, nn

from gradmix_ext import ops


class Draw(NamedTuple):
    """What a mixer has drawn for a batch of N samples.

    Attributes:
        partner: Index [N] of each sample's partner.
        mask: Samples [N] (bool) that are mixed.
        partner_target: Label [N] of each sample's partner.
        lam_x: Weight [N] of the sample's own input; 1 where ``mask`` is False.
        lam_y: Weight [N] of the sample's own label; 1 where ``mask`` is False.
        weight: Weight [N] of each sample's loss; all alike by default.
        observe: How the mixer learns from the batch and its logits, if it does.
    """

    partner: Tensor
    mask: Tensor
    partner_target: Tensor
    lam_x: Tensor
    lam_y: Tensor
    weight: Tensor | None = None
    observe: Callable[[MixedBatch, Tensor], None] | None = None

    def batch(self, x: Tensor, y: Tensor) -> MixedBatch:
        """The mixed samples ``x`` [N, ...] of what had labels ``y`` [N]."""
        return MixedBatch(
            x=x,
            target=y,
            partner_target=self.partner_target,
            lam=self.lam_y,
            mask=self.mask,
            partner=self.partner,
            lam_x=self.lam_x,
            weight=self.weight,
            observe=self.observe,
        )


@dataclass(frozen=True)
class MixedBatch:
    """What a mixer makes of a batch of N samples.

    Attributes:
        x: Mixed samples [N, ...].
        target: Label [N] of each sample.
        partner_target: Label [N] of each sample's partner.
        lam: Weight [N] of the sample's own label; 1 where it stays unmixed.
        mask: Samples [N] (bool) that were mixed.
        partner: Index [N] of each sample's partner in the batch that was mixed.
        lam_x: Weight [N] of the sample's own input; ``lam`` unless λ is coupled otherwise.
        weight: Weight [N] of each sample's loss, with mean 1 over the batch that was mixed; all
            alike by default.
        forward_with: How the batch goes through a model, where mixing happens inside of it.
        observe: Called by :meth:`tell` with the batch and its logits; how a mixer learns from the
            training forwards (``GradMix(update="online")``).
    """

    x: Tensor
    target: Tensor
    partner_target: Tensor
    lam: Tensor
    mask: Tensor
    partner: Tensor
    lam_x: Tensor
    weight: Tensor | None = None
    forward_with: Callable[[MixedBatch, nn.Module], Tensor] | None = None
    observe: Callable[[MixedBatch, Tensor], None] | None = None

    def first(self, n: int) -> MixedBatch:
        """The first n samples of the batch; their partners may be any of it."""
        if n == len(self.target):
            return self
        return replace(
            self,
            x=self.x[:n],
            target=self.target[:n],
            partner_target=self.partner_target[:n],
            lam=self.lam[:n],
            mask=self.mask[:n],
            partner=self.partner[:n],
            lam_x=self.lam_x[:n],
            weight=None if self.weight is None else self.weight[:n],
        )

    def forward(self, model: nn.Module) -> Tensor:
        """The model's logits [N, C] of the batch: ``model(batch.x)`` unless mixed inside of it."""
        logits: Tensor = (
            model(self.x) if self.forward_with is None else self.forward_with(self, model)
        )
        return logits

    def tell(self, logits: Tensor) -> None:
        """Let the mixer learn from the logits, for a loss of your own; :meth:`loss` does it too."""
        if self.observe is not None:
            self.observe(self, logits)

    def loss(
        self,
        logits: Tensor,
        *,
        class_mask: Tensor | None = None,
        label_smoothing: float = 0.0,
        reduction: str = "mean",
    ) -> Tensor:
        """Cross-entropy of the model's logits [N, C] against the mixed labels.

        Args:
            logits: ``model(batch.x)``.
            class_mask: Classes [C] (bool) that take part in the softmax, all by default.
            label_smoothing: ε in [0, 1].
            reduction: ``"mean"``, ``"sum"`` or ``"none"``.

        Returns:
            The loss, a scalar or [N], in nats; each sample's times its :attr:`weight`.
        """
        self.tell(logits)
        return ops.mixup_cross_entropy(
            logits,
            self.target,
            self.partner_target,
            self.lam,
            class_mask=class_mask,
            label_smoothing=label_smoothing,
            reduction=reduction,
            sample_weight=self.weight,
        )

    def weighted(self, each: Tensor) -> Tensor:
        """Terms [N] of a loss, each times the :attr:`weight` of its sample."""
        return each if self.weight is None else each * self.weight.to(each)
