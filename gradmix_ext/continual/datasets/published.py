"""Published data sets that torchvision downloads, checks and reads."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from gradmix_ext.continual.data import ArrayDataset
from gradmix_ext.continual.datasets.registry import Source, register_dataset
from gradmix_ext.continual.optional import optional
from gradmix_ext.mixers.images import ImageTransform

__all__ = ["CIFAR10", "CIFAR100", "FASHION_MNIST", "KMNIST", "MNIST"]

# Mean and standard deviation of the training pixels, as they are used throughout the literature;
# the crops and flips are those of He et al. (2016) for CIFAR.
MNIST = ImageTransform((0.1307,), (0.3081,))
FASHION_MNIST = ImageTransform((0.2860,), (0.3530,))
KMNIST = ImageTransform((0.1904,), (0.3475,))
CIFAR10 = ImageTransform((0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616), padding=4, hflip=True)
CIFAR100 = ImageTransform((0.5071, 0.4865, 0.4409), (0.2673, 0.2564, 0.2762), padding=4, hflip=True)


def _load(name: str, class_name: str, transform: ImageTransform, source: Source) -> ArrayDataset:
    torchvision = optional("torchvision", f"data set '{name}'", "gradmix_ext[vision]")
    kind = getattr(torchvision.datasets, class_name)
    archives = _Archives(kind, source.folder)
    # torchvision unpacks in the step that downloads, and leaves whole archives as they are: with
    # all of them there that step needs no network.
    may_unpack = source.download or archives.whole()
    try:
        train, test = (kind(source.folder, part, download=may_unpack) for part in (True, False))
        # "3 - three" is what torchvision calls a digit.
        class_names = tuple(each.partition(" - ")[0] for each in train.classes)
        train_x, test_x = _channels_first(train.data), _channels_first(test.data)
        train_y, test_y = torch.as_tensor(train.targets), torch.as_tensor(test.targets)
    except Exception as error:  # a damaged file fails in gzip, tarfile, pickle, NumPy or PyTorch
        raise archives.explain(name, error, source.download) from error
    channels, height, width = train_x.shape[1:]
    shape = (channels, height, width)
    return ArrayDataset(name, train_x, train_y, test_x, test_y, class_names, shape, transform)


def _channels_first(images: Any) -> Tensor:
    """Images [N, H, W] or [N, H, W, ch], tensor or array, as a tensor [N, ch, H, W]."""
    x = torch.as_tensor(images)
    return x.unsqueeze(1) if x.ndim == 3 else x.permute(0, 3, 1, 2).contiguous()


class _Archives:
    """The files that a torchvision data set is made of, as they are downloaded."""

    def __init__(self, kind: Any, folder: Path) -> None:
        if hasattr(kind, "mirrors"):  # MNIST and its like: four files
            self.folder = folder / kind.__name__ / "raw"
            self.url = kind.mirrors[0]
            self.md5 = dict(kind.resources)
            self.unpacked = [self.folder / Path(name).stem for name in self.md5]
        else:
            self.folder = folder
            self.url = kind.url.removesuffix(kind.filename)
            self.md5 = {kind.filename: kind.tgz_md5}
            self.unpacked = [folder / kind.base_folder]

    def whole(self) -> bool:
        """Whether every file is there with the right MD5."""
        return not self._missing() and not self._damaged()

    def explain(self, name: str, error: Exception, download: bool) -> Exception:
        """What to tell the user about a data set that could not be loaded."""
        if damaged := self._damaged():
            return ValueError(
                f"{name}: {' and '.join(damaged)} in {self.folder} is damaged or incomplete (wrong "
                f"MD5): remove it, or replace it by the one from {self.url}"
            )
        if all(path.exists() for path in self.unpacked):
            return ValueError(
                f"{name}: what was unpacked to {self.unpacked[0].parent} is damaged "
                f"({_one_line(error)}): remove {' and '.join(p.name for p in self.unpacked)} there "
                "to have it unpacked or downloaded anew"
            )
        why = f"cannot be downloaded ({_one_line(error)})" if download else "may not be downloaded"
        return FileNotFoundError(
            f"{name} is not in {self.folder} and {why}: put "
            f"{', '.join(self._missing())} there, from {self.url}"
        )

    def _missing(self) -> list[str]:
        return [name for name in self.md5 if not (self.folder / name).is_file()]

    def _damaged(self) -> list[str]:
        utils = optional("torchvision.datasets.utils", "checking MD5 sums", "gradmix_ext[vision]")
        return [
            name
            for name, md5 in self.md5.items()
            if (self.folder / name).is_file() and not utils.check_integrity(self.folder / name, md5)
        ]


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split()) or type(error).__name__


for _name, _class_name, _transform in (
    ("mnist", "MNIST", MNIST),
    ("fashion-mnist", "FashionMNIST", FASHION_MNIST),
    ("kmnist", "KMNIST", KMNIST),
    ("cifar10", "CIFAR10", CIFAR10),
    ("cifar100", "CIFAR100", CIFAR100),
):
    register_dataset(_name)(partial(_load, _name, _class_name, _transform))
