"""CutMix: a rectangle of each image is replaced by that of its partner."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from gradmix_ext.mixers.batch import Draw, MixedBatch
from gradmix_ext.mixers.images import ImageBatch
from gradmix_ext.mixers.mixup import Mixup


class CutMix(Mixup):
    """Pastes a box of the partner into each image (Yun et al. 2019).

    Partners are a random permutation of the batch. A box has the sides H·√(1-λ) and W·√(1-λ) for
    λ ~ Beta(alpha, alpha) and its centre anywhere in the image; what sticks out is cut off. The
    labels are weighted by the areas as pasted, pixel for pixel, unless ``lam_coupling`` sets the
    weight of the labels apart. All images of a batch share one box, or each has its own with
    ``per_sample_lam``.

    Its arguments are those of :class:`~gradmix_ext.Mixer`; samples are images [N, ch, H, W].
    """

    def check(self, model: nn.Module, sample_shape: Sequence[int]) -> None:
        """Samples must be images [ch, H, W]."""
        _require_images(sample_shape)

    def combine(self, x: Tensor | ImageBatch, y: Tensor, draw: Draw) -> MixedBatch:
        """Paste the partners' boxes; images still in their data set are augmented before."""
        images = x.augmented() if isinstance(x, ImageBatch) else x
        _require_images(images.shape[1:])
        side = (1 - (draw.lam_x if self.lam_law.per_sample else draw.lam_x[:1])).sqrt()
        height, width = images.shape[2:]
        rows, columns = self._lines(height, side), self._lines(width, side)
        box = rows[:, None, :, None] & columns[:, None, None, :]
        own = (1 - rows.sum(1) * columns.sum(1) / (height * width)).expand(len(y))
        lam_y = own if self.lam_law.coupling == "same" else draw.lam_y
        pasted = torch.where(box, images[draw.partner], images)
        return draw._replace(lam_x=own, lam_y=lam_y).batch(pasted, y)

    def _lines(self, size: int, side: Tensor) -> Tensor:
        """Which of `size` lines the boxes of a relative side [n] cover, [n, size] bool."""
        half = (side * size / 2).long()
        centre = torch.randint(size, half.shape, device=half.device, generator=self.generator)
        line = torch.arange(size, device=half.device)
        return (line >= (centre - half)[:, None]) & (line < (centre + half)[:, None])


def _require_images(sample_shape: Sequence[int]) -> None:
    if len(sample_shape) != 3:
        raise ValueError(
            f"CutMix cuts boxes out of images [ch, H, W], got samples of shape {list(sample_shape)}"
        )
