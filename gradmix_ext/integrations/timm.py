"""timm's ``Mixup`` with its arguments, laws and pairs, and without what its users ask to be rid of.

timm itself is not needed.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from gradmix_ext import _checks as checks
from gradmix_ext import ops
from gradmix_ext.integrations._soft_labels import soft_labels
from gradmix_ext.mixers import MixedBatch
from gradmix_ext.mixers.lam import beta

__all__ = ["Mixup"]

MODES = ("batch", "pair", "elem")


class Mixup:
    """A drop-in replacement of ``timm.data.Mixup``.

    Sample i is paired with sample N-1-i, as there. Other than there, the input is not changed, any
    number of samples will do (the middle one of an odd number stays as it is), all randomness comes
    from a torch generator, and nothing waits for the device: one kernel mixes a batch however many
    λ it has. :meth:`mix` keeps the two labels and λ apart, for a loss without a dense target.

    Args:
        mixup_alpha: λ ~ Beta(mixup_alpha, mixup_alpha) for mixup; 0 turns it off.
        cutmix_alpha: Likewise for CutMix.
        cutmix_minmax: (least, largest) side of CutMix's box, as shares of the image's; replaces the
            law of λ, which becomes the area.
        prob: Probability that a batch (``"batch"``), pair or sample is mixed.
        switch_prob: Probability of CutMix where both are on.
        mode: What shares a draw: ``"batch"``, each ``"pair"``, or none (``"elem"``).
        correct_lam: Set CutMix's λ to what the box covers inside the image.
        label_smoothing: ε: this share of the labels' weight goes to all classes alike.
        num_classes: Number of classes C.
        generator: Source of randomness, on the device of the data; PyTorch's own by default.

    Attributes:
        mixup_enabled: Set it to False to stop mixing, as timm's training script does.

    Raises:
        ValueError: An argument is out of its range; both kinds of mixing are off. In a call: CutMix
            was given something else than images [N, ch, H, W].
    """

    def __init__(
        self,
        mixup_alpha: float = 1.0,
        cutmix_alpha: float = 0.0,
        cutmix_minmax: Sequence[float] | None = None,
        prob: float = 1.0,
        switch_prob: float = 0.5,
        mode: str = "batch",
        correct_lam: bool = True,
        label_smoothing: float = 0.1,
        num_classes: int = 1000,
        *,
        generator: torch.Generator | None = None,
    ) -> None:
        if cutmix_minmax is not None:
            if len(cutmix_minmax) != 2 or not 0 <= cutmix_minmax[0] <= cutmix_minmax[1] <= 1:
                raise ValueError(
                    f"cutmix_minmax must be two shares in ascending order, got {cutmix_minmax}"
                )
            cutmix_alpha = 1.0
        for name, alpha in (("mixup_alpha", mixup_alpha), ("cutmix_alpha", cutmix_alpha)):
            if not 0 <= alpha < float("inf"):
                raise ValueError(f"{name} must be finite and not negative, got {alpha}")
        if mixup_alpha == cutmix_alpha == 0:
            raise ValueError("mixup_alpha or cutmix_alpha must be positive, or cutmix_minmax given")
        for name, share in (
            ("prob", prob),
            ("switch_prob", switch_prob),
            ("label_smoothing", label_smoothing),
        ):
            if not 0 <= share <= 1:
                raise ValueError(f"{name} must be in [0, 1], got {share}")
        if mode not in MODES:
            raise ValueError(f"mode must be one of {', '.join(MODES)}, got {mode!r}")
        if num_classes < 1:
            raise ValueError(f"num_classes must be positive, got {num_classes}")
        self.mixup_alpha = mixup_alpha
        self.cutmix_alpha = cutmix_alpha
        self.cutmix_minmax = cutmix_minmax
        self.mix_prob = prob
        self.switch_prob = switch_prob
        self.mode = mode
        self.correct_lam = correct_lam
        self.label_smoothing = label_smoothing
        self.num_classes = num_classes
        self.generator = generator
        self.mixup_enabled = True

    def __call__(self, x: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
        """Mixed samples [N, ...] and their dense labels [N, C], float32.

        Args:
            x: Samples [N, ...], floating point; images [N, ch, H, W] for CutMix.
            target: Labels [N], int64.
        """
        batch = self.mix(x, target)
        return batch.x, soft_labels(batch, self.num_classes, self.label_smoothing)

    def mix(self, x: Tensor, target: Tensor) -> MixedBatch:
        """The same with both labels and λ apart; ``batch.loss(logits, label_smoothing=...)``."""
        checks.floating("mix", "x", x)
        samples = x.shape[0] if x.dim() else 0
        checks.vector("mix", "target", target, samples, torch.int64, x.device)
        if self.cutmix_alpha > 0 and x.dim() != 4:
            raise ValueError(
                f"CutMix cuts boxes out of images [N, ch, H, W], got shape {list(x.shape)}"
            )
        draws = {"batch": min(samples, 1), "pair": (samples + 1) // 2, "elem": samples}[self.mode]
        lam, mixed, cut = self._draw(draws, x.device)
        own = torch.arange(samples, device=x.device)
        partner = own.flip(0)
        box = None
        if self.cutmix_alpha > 0:
            rows, columns = self._box(lam, x.shape[2], x.shape[3])
            box = rows[:, None, :, None] & columns[:, None, None, :]
            if self.correct_lam or self.cutmix_minmax is not None:
                area = rows.sum(1) * columns.sum(1)
                lam = torch.where(cut, 1 - area / (x.shape[2] * x.shape[3]), lam)
        lam, mixed, cut = (self._each(values, samples) for values in (lam, mixed, cut))
        mixed = mixed & (partner != own)
        lam = torch.where(mixed, lam, 1.0)
        out = ops.masked_mixup(x, partner, lam, mixed & ~cut)
        if box is not None:
            pasted = self._each(box, samples) & (mixed & cut)[:, None, None, None]
            out = torch.where(pasted, x[partner], out)
        return MixedBatch(
            x=out,
            target=target,
            partner_target=target[partner],
            lam=lam,
            mask=mixed,
            partner=partner,
            lam_x=lam,
        )

    def _draw(self, count: int, device: torch.device) -> tuple[Tensor, Tensor, Tensor]:
        """λ, whether it is used at all, and whether by CutMix; [count] each."""
        mixed = self._uniform(count, device) < (self.mix_prob if self.mixup_enabled else 0.0)
        both = self.mixup_alpha > 0 and self.cutmix_alpha > 0
        switch = self.switch_prob if both else float(self.cutmix_alpha > 0)
        cut = self._uniform(count, device) < switch
        lam = torch.ones(count, device=device)
        if self.mixup_alpha > 0:
            lam = torch.where(cut, lam, beta(self.mixup_alpha, count, device, self.generator))
        if self.cutmix_alpha > 0:
            lam = torch.where(cut, beta(self.cutmix_alpha, count, device, self.generator), lam)
        return lam, mixed, cut

    def _box(self, lam: Tensor, height: int, width: int) -> tuple[Tensor, Tensor]:
        """Rows [count, H] and columns [count, W] (bool) of CutMix's boxes."""
        return self._lines(lam, height), self._lines(lam, width)

    def _lines(self, lam: Tensor, size: int) -> Tensor:
        device = lam.device
        line = torch.arange(size, device=device)
        if self.cutmix_minmax is not None:
            # A side of [least, largest) lines, anywhere inside the image.
            least, largest = (int(size * share) for share in self.cutmix_minmax)
            span = max(largest - least, 1)
            side = least + (self._uniform(lam.shape[0], device) * span).long()
            start = (self._uniform(lam.shape[0], device) * (size - side + 1)).long()
            return (line >= start[:, None]) & (line < (start + side)[:, None])
        side = ((1 - lam).sqrt() * size).long()
        centre = (self._uniform(lam.shape[0], device) * size).long()
        # Clipped by the image, which has no lines beyond.
        start, end = centre - side // 2, centre + (side + 1) // 2
        return (line >= start[:, None]) & (line < end[:, None])

    def _uniform(self, count: int, device: torch.device) -> Tensor:
        """Uniform numbers [count] in [0, 1), float64: their products with sizes stay below them."""
        return torch.rand(count, dtype=torch.float64, device=device, generator=self.generator)

    def _each(self, values: Tensor, samples: int) -> Tensor:
        """What was drawn per batch, pair or sample, per sample [N, ...]."""
        if self.mode == "batch":
            return values.expand(samples, *values.shape[1:])
        if self.mode == "pair":
            return torch.cat([values, values[: samples // 2].flip(0)])
        return values
