"""A data set of images for tests of whole trainings."""

from __future__ import annotations

import torch

from gradmix_ext.continual import ArrayDataset
from gradmix_ext.mixers import ImageTransform


def tiny_images() -> ArrayDataset:
    """Four classes of 3x6x6 images of uint8, 24 to train on and 8 to test each."""
    make = torch.Generator().manual_seed(0)
    y, test_y = torch.arange(4).repeat_interleave(24), torch.arange(4).repeat(8)
    x, test_x = (
        (60 * labels.view(-1, 1, 1, 1) + torch.randint(9, (len(labels), 3, 6, 6), generator=make))
        .to(torch.uint8)
        for labels in (y, test_y)
    )  # fmt: skip
    transform = ImageTransform((0.5,) * 3, (0.3,) * 3, padding=1, hflip=True)
    return ArrayDataset("tiny", x, y, test_x, test_y, tuple("abcd"), (3, 6, 6), transform)
