"""A Trainer for Hugging Face transformers that mixes its training batches.

In a loop of your own, with Accelerate or without, a mixer needs no help: docs/integrations.md has
one.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from gradmix_ext.integrations._samples import DatasetInputs, Missing, as_labels, require_source
from gradmix_ext.integrations.accelerate import bare_model
from gradmix_ext.mixers import Mixer
from gradmix_ext.mixers.base import Samples
from gradmix_ext.mixers.head import find_head

try:
    import transformers
except ModuleNotFoundError as _error:
    raise ImportError(
        "gradmix_ext.integrations.transformers needs transformers and accelerate: "
        f"pip install transformers accelerate ({_error})"
    ) from _error

__all__ = ["MixerTrainer"]

if TYPE_CHECKING:
    from gradmix_ext.integrations._untyped import Untyped as _Base
else:
    _Base = transformers.Trainer


class MixerTrainer(_Base):
    """A Trainer whose training batches are mixed; evaluation and prediction are as ever.

    The model gets one floating-point input, images as ``pixel_values`` by default, and returns
    ``logits`` [N, C]; token ids cannot be mixed.

    Args:
        *args: As ``transformers.Trainer``.
        mixer: Any mixer.
        buffer: Samples of the earlier tasks, a data set like ``train_dataset`` (which may hold them
            too), or a function that returns one; None in the first task. Needed by mixers with a
            criterion.
        input_name: Name of the input that is mixed.
        seen_classes: Classes of the softmax: indices or a mask; all by default.
        **kwargs: As ``transformers.Trainer``.

    Raises:
        ValueError: ``buffer`` is not given although the mixer needs it, or the model has no
            ``nn.Linear`` as head. In training: a batch has no such input or no labels.
    """

    # The loss is a mean over the batch: the Trainer divides it by the accumulation steps.
    loss_is_scaled_for_ga: bool | None = False

    def __init__(
        self,
        *args: Any,
        mixer: Mixer,
        buffer: Any = Missing,
        input_name: str = "pixel_values",
        seen_classes: Tensor | Iterable[int] | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(*args, **kwargs)
        require_source(mixer, buffer)
        self.model_accepts_loss_kwargs = False  # what older versions go by
        self.mixer = mixer
        self.buffer: Any = None if buffer is Missing else buffer
        self.input_name = input_name
        self.seen_classes: Tensor | list[int] | None = (
            seen_classes
            if seen_classes is None or isinstance(seen_classes, Tensor)
            else list(seen_classes)
        )
        if mixer.needs_update:
            find_head(self.model, getattr(mixer, "head", None))
        if mixer.needs_update:
            find_head(self.model, getattr(mixer, "head", None))
            if getattr(mixer, "update_every", None) == "online" and (
                self.args.fp16 or self.args.bf16
            ):
                raise ValueError(
                    "update='online' cannot see through mixed precision, which makes other logits "
                    "of the head's: use update='epoch'"
                )
        self._step = 0
        self._current: Samples | None = None
        self.add_callback(_Epochs(self))

    def compute_loss(
        self,
        model: nn.Module,
        inputs: dict[str, Any],
        return_outputs: bool = False,
        num_items_in_batch: Any = None,
    ) -> Any:
        """The loss of the mixed batch in training; what the Trainer does otherwise."""
        if not model.training:
            return super().compute_loss(  # type: ignore[misc]
                model, inputs, return_outputs, num_items_in_batch
            )
        for name in (self.input_name, "labels"):
            if name not in inputs:
                raise ValueError(f"a batch has no {name!r} to mix, it has {', '.join(inputs)}")
        if self.mixer.needs_update and self.mixer.update_due(self._step):
            self._renew()
        self._step += 1
        batch = self.mixer.mix(inputs[self.input_name], inputs["labels"])
        others = {key: value for key, value in inputs.items() if key != "labels"}
        logits_of = _Logits(model, self.input_name, others)
        loss = batch.loss(
            batch.forward(logits_of), label_smoothing=self.args.label_smoothing_factor
        )
        return (loss, logits_of.outputs) if return_outputs else loss

    def _renew(self) -> None:
        """Renew the mixer's criterion."""
        if self._current is None:
            self._current = self._samples(self.train_dataset)
        self.mixer.update(
            _Logits(bare_model(self.accelerator, self.model), self.input_name, {}),
            self._current,
            self._samples(self.buffer() if callable(self.buffer) else self.buffer),
            seen_classes=self.seen_classes,
        )

    def _samples(self, dataset: Any) -> Samples:
        """Samples of a data set, collated as in training and read when the criterion asks."""

        def read(positions: list[int]) -> Tensor:
            x: Tensor = self.data_collator([dataset[i] for i in positions])[self.input_name]
            return x

        device = self.args.device
        labels = _labels(dataset)
        return DatasetInputs(len(labels), read, device), labels.to(device)


class _Epochs(transformers.TrainerCallback):
    """Tells the mixer which epoch starts."""

    def __init__(self, trainer: MixerTrainer) -> None:
        self.trainer = trainer

    def on_epoch_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.trainer.mixer.set_epoch(int(state.epoch or 0))
        self.trainer._step = 0


class _Logits(nn.Module):
    """A model of named inputs as one of samples: gives its logits, keeps all of its outputs."""

    def __init__(self, model: nn.Module, input_name: str, others: dict[str, Any]) -> None:
        super().__init__()
        self.model = model
        self.input_name = input_name
        self.others = others
        self.outputs: Any = None

    def forward(self, x: Tensor) -> Tensor:
        self.outputs = self.model(**self.others | {self.input_name: x})
        logits: Tensor = self.outputs.logits
        return logits


def _labels(dataset: Any) -> Tensor:
    """Labels [N] (int64) of a data set of dictionaries; a column, where it has columns."""
    names = ("labels", "label", "label_ids")
    if dataset is None or not len(dataset):
        return torch.empty(0, dtype=torch.int64)
    first = dataset[0]
    name = next((name for name in names if name in first), None)
    if name is None:
        raise ValueError(
            f"samples must have one of {', '.join(names)}, got samples with {', '.join(first)}"
        )
    if name in (getattr(dataset, "column_names", None) or ()):
        return as_labels(dataset[name])
    return as_labels(dataset[i][name] for i in range(len(dataset)))
