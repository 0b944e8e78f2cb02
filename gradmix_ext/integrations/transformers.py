"""A Trainer for Hugging Face transformers that mixes its training batches.

In a loop of your own, with Accelerate or without, a mixer needs no help: docs/integrations.md has
one.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from gradmix_ext.integrations._samples import DatasetInputs, Missing, as_labels, require_source
from gradmix_ext.integrations.accelerate import bare_model
from gradmix_ext.mixers import Mixer
from gradmix_ext.mixers.base import Samples
from gradmix_ext.mixers.gradmix import as_class_mask
from gradmix_ext.mixers.head import find_head, is_compiled

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
    ``logits`` [N, C]; token ids cannot be mixed. Checkpoints keep the mixer's state, so that a
    resumed training draws and scores on where it stopped.

    Args:
        *args: As ``transformers.Trainer``.
        mixer: Any mixer.
        buffer: Samples of the earlier tasks, a data set like ``train_dataset`` (which may hold them
            too), or a function that returns one; None in the first task. Needed by mixers with a
            criterion.
        input_name: Name of the input that is mixed.
        seen_classes: Classes of the softmax, of the loss and of the criterion: indices or a mask;
            all by default.
        **kwargs: As ``transformers.Trainer``.

    Raises:
        ValueError: ``buffer`` is not given although the mixer needs it, the model has no
            ``nn.Linear`` as head, ``compute_loss_func`` is given, or a mixer that scores pairs
            online cannot see the logits. In training: a batch has no such input or no labels.
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
        if self.compute_loss_func is not None:
            raise ValueError(
                "compute_loss_func would not see the mixed labels: leave it out, or derive from "
                "MixerTrainer and override compute_loss"
            )
        if mixer.needs_update:
            find_head(self.model, getattr(mixer, "head", None))
            if getattr(mixer, "update_every", None) == "online":
                if self.args.fp16 or self.args.bf16:
                    raise ValueError(
                        "update='online' cannot see through mixed precision, which makes other "
                        "logits of the head's: use update='epoch'"
                    )
                if self.args.torch_compile:
                    raise ValueError(
                        "update='online' cannot see into a compiled model: use update='epoch'"
                    )
        self._step = 0
        self._current: Samples | None = None
        self._softmax: Tensor | None = None
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
        if batch.forward_with is None:
            outputs = model(**others | {self.input_name: batch.x})
            logits = outputs.logits
        else:
            with _of_samples(model, self.input_name, others) as given:
                logits = batch.forward(model)
            outputs = given[0]
        if self._softmax is None:  # kept, since to make a mask of indices waits for the device
            self._softmax = as_class_mask(self.seen_classes, logits.shape[1], logits.device)
        smoothing = self.args.label_smoothing_factor
        loss = batch.loss(logits, class_mask=self._softmax, label_smoothing=smoothing)
        return (loss, outputs) if return_outputs else loss

    def _renew(self) -> None:
        """Renew the mixer's criterion."""
        if self._current is None:
            self._current = self._samples(self.train_dataset)
        model = bare_model(self.accelerator, self.model)
        with _of_samples(model, self.input_name, {}):
            self.mixer.update(
                model,
                self._current,
                self._samples(self.buffer() if callable(self.buffer) else self.buffer),
                seen_classes=self.seen_classes,
            )

    def _samples(self, dataset: Any) -> Samples:
        """Samples of a data set, collated as in training and read when the criterion asks."""
        collate = self._get_collator_with_removed_columns(self.data_collator)

        def read(positions: list[int]) -> Tensor:
            x: Tensor = collate([dataset[i] for i in positions])[self.input_name]
            return x

        device = self.args.device
        labels = _labels(dataset)
        return DatasetInputs(len(labels), read, device), labels.to(device)

    # In checkpoints, beside the states of the other generators.

    def _save_rng_state(self, output_dir: str) -> None:
        super()._save_rng_state(output_dir)  # type: ignore[misc]
        state = {"mixer": self.mixer.state_dict(), "step": self._step}
        torch.save(state, self._mixer_file(output_dir))

    def _load_rng_state(self, checkpoint: str | None) -> None:
        super()._load_rng_state(checkpoint)  # type: ignore[misc]
        if checkpoint is None or not self._mixer_file(checkpoint).exists():
            return
        state = torch.load(self._mixer_file(checkpoint), map_location="cpu", weights_only=True)
        epoch = self.mixer.epoch
        self.mixer.load_state_dict(state["mixer"])
        if self.mixer.epoch == epoch:  # otherwise a new one begins
            self._step = state["step"]
        self.mixer.set_epoch(epoch)

    def _mixer_file(self, folder: str) -> Path:
        return Path(folder) / f"mixer_{self.args.process_index}.pth"


class _Epochs(transformers.TrainerCallback):
    """Tells the mixer which epoch starts."""

    def __init__(self, trainer: MixerTrainer) -> None:
        self.trainer = trainer

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        # train_dataset and seen_classes may be another task's by now
        self.trainer._current = self.trainer._softmax = None

    def on_epoch_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.trainer.mixer.set_epoch(int(state.epoch or 0))
        self.trainer._step = 0


@contextmanager
def _of_samples(model: nn.Module, input_name: str, others: dict[str, Any]) -> Iterator[list[Any]]:
    """While this lasts, a model of named inputs takes samples and gives logits.

    By hooks, so that mixers look into the model itself. Yields a list of all of its outputs.
    """
    outputs: list[Any] = []

    def name(module: nn.Module, args: Any, kwargs: Any) -> tuple[Any, dict[str, Any]]:
        return (), others | {input_name: args[0]}

    def logits(module: nn.Module, args: Any, output: Any) -> Tensor:
        outputs.append(output)
        found: Tensor = output.logits
        return found

    handles = (
        model.register_forward_pre_hook(name, with_kwargs=True),
        model.register_forward_hook(logits),
    )
    # Compiled code would keep the hooks of the batch that it was compiled with.
    eagerly = torch.compiler.set_stance("force_eager") if is_compiled(model) else nullcontext()
    try:
        with eagerly:
            yield outputs
    finally:
        for handle in handles:
            handle.remove()


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
