"""Mixers in the manner of torchvision's ``v2.MixUp`` and ``v2.CutMix``."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_flatten, tree_unflatten
from torch.utils.data import get_worker_info

from gradmix_ext.integrations._soft_labels import soft_labels
from gradmix_ext.mixers import Mixer

try:
    from torchvision import tv_tensors
    from torchvision.transforms import v2
except ModuleNotFoundError as _error:
    raise ImportError(
        "gradmix_ext.integrations.torchvision needs torchvision: "
        f"pip install torchvision ({_error})"
    ) from _error

__all__ = ["Mix"]

if TYPE_CHECKING:
    from gradmix_ext.integrations._untyped import Untyped as _Base
else:
    _Base = v2.Transform


class Mix(_Base):
    """Any mixer as a transform of batches: ``images, labels = mix(images, labels)``.

    The labels [N] become soft labels [N, C], for ``cross_entropy``; with ``balance`` their rows sum
    to the weight of the sample, which is the mixed loss just the same. It goes where ``v2.MixUp``
    goes: after the data loader, or in its ``collate_fn``, for mixers without a criterion: those
    with one learn from the model, which the workers of a data loader do not see.

    Args:
        mixer: Any mixer but :class:`~gradmix_ext.ManifoldMixup`, which mixes inside the model.
        num_classes: Number of classes C.
        labels_getter: ``"default"``: the labels are the second of the inputs, or the entry of a
            dictionary whose name has "label" in it; otherwise a function of the inputs.

    Raises:
        ValueError: The inputs have no labels [N], or not one batch of images [N, ch, H, W]; the
            mixer mixes inside the model.
        RuntimeError: A mixer with a criterion is called by a worker of a data loader.
    """

    def __init__(
        self,
        mixer: Mixer,
        num_classes: int,
        labels_getter: str | Callable[[Any], Tensor] = "default",
    ) -> None:
        super().__init__()
        if num_classes < 1:
            raise ValueError(f"num_classes must be positive, got {num_classes}")
        if labels_getter != "default" and not callable(labels_getter):
            raise ValueError(f"labels_getter must be 'default' or a function, got {labels_getter}")
        self.mixer = mixer
        self.num_classes = num_classes
        self.labels_getter: Callable[[Any], Tensor] = (
            labels_getter if callable(labels_getter) else _labels
        )
        self._worker_seed: int | None = None

    def forward(self, *inputs: Any) -> Any:
        """The inputs, of whatever structure, with their images mixed and their labels soft."""
        self._in_worker()
        whole = inputs if len(inputs) > 1 else inputs[0]
        labels = self.labels_getter(whole)
        if not isinstance(labels, Tensor) or labels.dim() != 1:
            found = list(labels.shape) if isinstance(labels, Tensor) else type(labels).__name__
            raise ValueError(f"labels must be a tensor [N], got {found}")
        leaves, structure = tree_flatten(whole)
        at_labels = [i for i, leaf in enumerate(leaves) if leaf is labels]
        at_images = [i for i, leaf in enumerate(leaves) if _is_images(leaf)]
        if len(at_images) != 1 or len(at_labels) != 1:
            raise ValueError(
                "the inputs must hold one batch of images [N, ch, H, W] and its labels once, got "
                f"{len(at_images)} and {len(at_labels)}"
            )
        images = leaves[at_images[0]]
        batch = self.mixer.mix(images.as_subclass(Tensor), labels)
        if batch.forward_with is not None:
            raise ValueError(
                f"{type(self.mixer).__name__} mixes inside the model: use its mix and loss"
            )
        mixed = batch.x
        if isinstance(images, tv_tensors.TVTensor):
            mixed = tv_tensors.wrap(mixed, like=images)
        leaves[at_images[0]] = mixed
        leaves[at_labels[0]] = soft_labels(batch, self.num_classes)
        return tree_unflatten(leaves, structure)

    def _in_worker(self) -> None:
        """Give each worker of a data loader, in each epoch, draws of its own."""
        worker = get_worker_info()
        if worker is None or worker.seed == self._worker_seed:
            return
        if self.mixer.needs_update:
            raise RuntimeError(
                f"{type(self.mixer).__name__} learns from the model, which a worker of a data "
                "loader does not see: mix in the training loop instead of in collate_fn"
            )
        self._worker_seed = worker.seed
        generator = self.mixer.generator
        if generator is not None:  # otherwise a copy of the same in every worker
            # Drawn, since another transform may have seeded the same generator for this worker.
            drawn = torch.randint(2**62, (), generator=generator, device=generator.device)
            generator.manual_seed(int(drawn) ^ worker.seed)

    def extra_repr(self) -> str:
        """What the transform shows of itself."""
        return f"{type(self.mixer).__name__}, num_classes={self.num_classes}"


def _is_images(leaf: Any) -> bool:
    return isinstance(leaf, Tensor) and leaf.dim() == 4


def _labels(inputs: Any) -> Any:
    """The labels as ``v2.MixUp`` finds them."""
    if isinstance(inputs, tuple | list):
        inputs = inputs[1]
    if isinstance(inputs, dict):
        names = sorted(
            (name for name in inputs if "label" in name.lower()),
            key=lambda name: name.lower() != "labels",
        )
        return inputs[names[0]] if names else None
    return inputs
