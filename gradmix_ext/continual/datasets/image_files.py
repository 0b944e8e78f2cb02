"""Images that are read from files."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.console import Console
from rich.progress import track
from torch import Tensor
from torch.utils.data import Dataset

from gradmix_ext.continual.data import RawInputs
from gradmix_ext.continual.optional import optional

__all__ = ["IN_MEMORY_BYTES", "ImageFiles", "image_inputs", "of_bytes"]

#: Training and test images that take less than this together are decoded once, into memory.
IN_MEMORY_BYTES = 2 * 2**30


def of_bytes(image: Any) -> Any:
    """A PIL image with pixels of bytes; converting others, Pillow makes all from 255 on white.

    Raises:
        ValueError: it has pixels of 32 bits, of which nobody knows what white is.
    """
    if image.mode.startswith("I;16"):
        pil = optional("PIL.Image", "reading images", "gradmix_ext[vision]")
        return pil.fromarray((np.asarray(image) >> 8).astype(np.uint8))
    if image.mode in ("I", "F"):
        raise ValueError(f"its pixels have 32 bits (mode {image.mode}), not 8 or 16")
    return image


class ImageFiles(Dataset[Tensor]):
    """RGB images [3, size, size] (uint8) that are read when they are asked for.

    Args:
        paths: The files, in any format that Pillow reads.
        size: Side of the images: the shorter side is resized to it, then the centre is cut out.
    """

    def __init__(self, paths: Sequence[str | Path], size: int) -> None:
        needed_by, install = "reading images", "gradmix_ext[vision]"
        v2 = optional("torchvision.transforms.v2", needed_by, install)
        self._open = optional("PIL.Image", needed_by, install).open
        self._transform = v2.Compose([v2.Resize(size), v2.CenterCrop(size), v2.PILToTensor()])
        self.paths = paths
        self.size = size

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> Tensor:
        """Image `index`.

        Raises:
            ValueError: naming the file that cannot be read as an image.
        """
        path = self.paths[index]
        try:
            with self._open(path) as opened:
                image: Tensor = self._transform(of_bytes(opened).convert("RGB"))
        except Exception as error:  # Pillow's decoders raise errors of many types
            raise ValueError(f"{path} cannot be read as an image: {error}") from error
        return image


def image_inputs(
    train: Sequence[str | Path], test: Sequence[str | Path], size: int
) -> tuple[RawInputs, RawInputs]:
    """Training and test images: in memory if they fit into `IN_MEMORY_BYTES`, else read when used.

    Raises:
        ValueError: naming a file that cannot be read as an image; for images that are not held in
            memory it comes when the file is used.
    """
    files = ImageFiles(train, size), ImageFiles(test, size)
    if (len(train) + len(test)) * 3 * size * size > IN_MEMORY_BYTES:
        return files
    return _decode(files[0], "training images"), _decode(files[1], "test images")


def _decode(files: ImageFiles, what: str) -> Tensor:
    """All images, [N, 3, size, size], decoded by as many threads as there are cores."""
    images = torch.empty(len(files), 3, files.size, files.size, dtype=torch.uint8)
    pool = ThreadPoolExecutor()  # Pillow decodes outside the interpreter's lock
    console = Console(stderr=True)
    try:
        decoded = track(
            pool.map(files.__getitem__, range(len(files))),
            f"reading {what}",
            total=len(files),
            console=console,
            transient=True,
            disable=not console.is_terminal,
        )
        for index, image in enumerate(decoded):
            images[index] = image
    finally:
        pool.shutdown(cancel_futures=True)
    return images
