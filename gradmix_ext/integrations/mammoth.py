"""Experience replay with a mixer for mammoth (https://github.com/aimagelab/mammoth).

Mammoth is a code base to run from, not a package: a model is a file in its ``models/`` folder.
``gradmix_ext/integrations/_mammoth_model.py`` is that file; it derives its model from
:class:`MixedReplay`, which needs nothing of mammoth but the interface of its ``ContinualModel``.
"""

from __future__ import annotations

from argparse import ArgumentParser
from typing import Any

import torch
from torch import Tensor, nn

from gradmix_ext.integrations._samples import DatasetInputs, as_labels
from gradmix_ext.mixers import MIXERS, Mixer, by_name
from gradmix_ext.mixers.base import Samples
from gradmix_ext.mixers.head import find_head

__all__ = ["MixedReplay", "add_mixer_args"]

#: Settings with labels [0, C) of one head that grow task by task.
SETTINGS = ("class-il", "task-il")


def add_mixer_args(parser: ArgumentParser) -> None:
    """The flags of :class:`MixedReplay`, for a model's ``get_parser``."""
    group = parser.add_argument_group("Mixing", "How samples are mixed.")
    group.add_argument("--mixer", choices=sorted(MIXERS), default="gradmix", help="The mixer.")
    group.add_argument("--mixer_alpha", type=float, default=1.0, help="λ ~ Beta(alpha, alpha).")
    group.add_argument(
        "--mixer_preset",
        choices=("tuned", "paper"),
        help="GradMix's rule: what docs/gradmix.md found best, or the published one.  "
        "[default: the mixer's own]",
    )


class MixedReplay:
    """Experience replay whose batches are mixed; comes before ``ContinualModel`` among the bases.

    Every step replays ``args.minibatch_size`` samples of ``self.buffer``, as mammoth's ``er``, and
    mixes them with the current ones. GradMix's criterion gets the samples of the current task and
    those of the buffer that are of earlier tasks, both normalised and not augmented. The softmax
    runs over all classes of the head, as mammoth trains and tests.

    The class it is combined with makes ``self.buffer``, a mammoth ``Buffer`` of images and labels.

    Attributes:
        mixer: The mixer that ``args.mixer`` names, or one that was assigned before the first task.
        mixed_softmax: ``"all"`` classes of the head, or those ``"seen"`` so far.
    """

    mixer: Mixer | None = None
    mixed_softmax = "all"

    # What ContinualModel brings; its other attributes are mammoth's own affair.
    args: Any
    net: nn.Module
    opt: Any
    device: Any
    transform: Any
    num_classes: int
    n_past_classes: int
    n_seen_classes: int
    epoch_iteration: int
    buffer: Any

    def begin_task(self, dataset: Any) -> None:
        """Check, before the first task, that batches can be mixed; keep the task's samples."""
        super().begin_task(dataset)  # type: ignore[misc]  # ContinualModel's
        if not hasattr(self, "buffer"):
            raise ValueError(
                f"{type(self).__name__} replays samples: make self.buffer = "
                "Buffer(args.buffer_size) in its __init__"
            )
        if dataset.SETTING not in SETTINGS:
            raise ValueError(
                f"the setting of {dataset.NAME} must be one of {', '.join(SETTINGS)}, got "
                f"{dataset.SETTING!r}"
            )
        if self.mixer is None:
            options: dict[str, Any] = {"alpha": self.args.mixer_alpha}
            if self.args.mixer_preset is not None:
                options["preset"] = self.args.mixer_preset
            self.mixer = by_name(self.args.mixer, self.num_classes, **options)
        if self.mixer.needs_update:
            head = find_head(self.net, getattr(self.mixer, "head", None))
            if head.out_features != self.num_classes:
                raise ValueError(
                    f"the head must have an output for each of the {self.num_classes} classes from "
                    f"the start, got {head}"
                )
        self._current = self._samples_of(dataset.train_loader.dataset)

    def observe(
        self, inputs: Tensor, labels: Tensor, not_aug_inputs: Tensor, epoch: int | None = None
    ) -> float:
        """One step on current and replayed samples, mixed; its loss."""
        mixer = self.mixer
        assert mixer is not None
        mixer.set_epoch(epoch or 0)
        if mixer.update_due(self.epoch_iteration):
            mixer.update(self.net, self._current, self._memory(), seen_classes=self._softmax())
        x, y = inputs, labels
        if not self.buffer.is_empty():
            replayed = self.buffer.get_data(
                self.args.minibatch_size, transform=self.transform, device=self.device
            )
            x, y = torch.cat([x, replayed[0]]), torch.cat([y, replayed[1]])
        self.opt.zero_grad()
        batch = mixer.mix(x, y)
        loss = batch.loss(batch.forward(self.net), class_mask=self._softmax())
        loss.backward()
        self.opt.step()
        self.buffer.add_data(examples=not_aug_inputs, labels=labels)
        return loss.item()

    def _softmax(self) -> Tensor | None:
        """Classes [C] (bool) of the softmax; None for all."""
        if self.mixed_softmax == "all":
            return None
        return torch.arange(self.num_classes, device=self.device) < self.n_seen_classes

    def _memory(self) -> Samples | None:
        """What the buffer holds of earlier tasks; mammoth numbers classes in their order."""
        if self.buffer.is_empty():
            return None
        x, y, *_ = self.buffer.get_all_data(device=self.device)
        old = y < self.n_past_classes
        if not old.any():
            return None
        return self._normalised(x[old]), y[old]

    def _samples_of(self, dataset: Any) -> Samples:
        """The current task's samples, without augmentation; read when the criterion asks."""

        def read(positions: list[int]) -> Tensor:
            # Mammoth's samples are (augmented image, label, image as it is, ...).
            raw = torch.stack([torch.as_tensor(dataset[i][2]) for i in positions])
            return self._normalised(raw.to(self.device))

        labels = as_labels(dataset.targets)
        inputs = DatasetInputs(len(labels), read, torch.device(self.device))
        return inputs, labels.to(self.device)

    def _normalised(self, x: Tensor) -> Tensor:
        """Images [N, ch, H, W] by the data set's normalisation, if it has one."""
        transform = getattr(self, "normalization_transform", None)
        if transform is None:
            return x
        if isinstance(transform, nn.Module):  # kornia takes a batch, torchvision one image
            normalised: Tensor = transform(x)
            return normalised
        return torch.stack([transform(image) for image in x.cpu()]).to(x.device)
