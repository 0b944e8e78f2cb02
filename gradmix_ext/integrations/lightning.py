"""A callback for Lightning that renews a mixer's criterion and keeps its state.

The two lines that mix stay in ``training_step``, where the loss is::

    batch = self.mixer.mix(x, y)
    loss = batch.loss(batch.forward(self))
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from torch import Tensor, nn

from gradmix_ext.integrations._samples import Missing, Source, require_source, samples_of
from gradmix_ext.mixers import Mixer
from gradmix_ext.mixers.base import Samples
from gradmix_ext.mixers.head import find_head
from gradmix_ext.mixers.images import Inputs

try:
    import lightning.pytorch as pl
except ModuleNotFoundError as _error:
    raise ImportError(
        f"gradmix_ext.integrations.lightning needs lightning: pip install lightning ({_error})"
    ) from _error

__all__ = ["MixerCallback"]

Convert = Callable[[Tensor], Tensor]


class MixerCallback(pl.Callback):
    """Tells a mixer the epoch, renews its criterion when it is due, saves it with checkpoints.

    A resumed training draws and scores on where it stopped.

    Args:
        mixer: The mixer that ``training_step`` mixes with.
        current: Samples of the current task: ``(x, y)``, a map-style data set of such pairs, or a
            function that returns either. By default the data set of the training data loader.
        buffer: Samples of the earlier tasks, likewise; None in the first task. Needed by mixers
            with a criterion. A function is called at each renewal, so the buffer may change.
        seen_classes: Classes of the softmax, as in your loss: indices or a mask; all by default.
        model: Name of the submodule that maps samples to logits; by default the LightningModule.

    Raises:
        ValueError: ``buffer`` is not given although the mixer needs it. When the fit starts: the
            model has no such submodule or no ``nn.Linear`` as head.
    """

    def __init__(
        self,
        mixer: Mixer,
        *,
        current: Source = None,
        buffer: Any = Missing,
        seen_classes: Tensor | Iterable[int] | None = None,
        model: str | None = None,
    ) -> None:
        super().__init__()
        require_source(mixer, buffer)
        self.mixer = mixer
        self.current = current
        self.buffer: Source = None if buffer is Missing else buffer
        self.seen_classes: Tensor | list[int] | None = (
            seen_classes
            if seen_classes is None or isinstance(seen_classes, Tensor)
            else list(seen_classes)
        )
        self.model = model
        self._samples: Samples | None = None

    def on_fit_start(self, trainer: Any, pl_module: Any) -> None:
        """Refuse a model whose gradients cannot be seen."""
        self._samples = None
        if self.mixer.needs_update:
            find_head(self._find(pl_module), getattr(self.mixer, "head", None))

    def on_train_epoch_start(self, trainer: Any, pl_module: Any) -> None:
        """Tell the mixer the epoch."""
        self.mixer.set_epoch(trainer.current_epoch)

    def on_train_batch_start(
        self, trainer: Any, pl_module: Any, batch: Any, batch_idx: int
    ) -> None:
        """Renew the criterion if it is due."""
        if not (self.mixer.needs_update and self.mixer.update_due(batch_idx)):
            return
        # What Lightning does to a batch, for models that are not in single precision.
        convert: Convert = trainer.precision_plugin.convert_input
        if self._samples is None or callable(self.current):
            loader = trainer.train_dataloader
            source = getattr(loader, "dataset", loader) if self.current is None else self.current
            self._samples = _converted(samples_of(source, pl_module.device), convert)
        assert self._samples is not None
        self.mixer.update(
            self._find(pl_module),
            self._samples,
            _converted(samples_of(self.buffer, pl_module.device), convert),
            seen_classes=self.seen_classes,
        )

    def state_dict(self) -> dict[str, Any]:
        """The mixer's state, for checkpoints."""
        return {"mixer": self.mixer.state_dict()}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore the mixer from a checkpoint."""
        self.mixer.load_state_dict(state_dict["mixer"])

    def _find(self, pl_module: Any) -> nn.Module:
        try:
            found: nn.Module = (
                pl_module if self.model is None else pl_module.get_submodule(self.model)
            )
        except AttributeError as error:
            raise ValueError(f"model must name a submodule, got {self.model!r}: {error}") from None
        if type(found).forward in (pl.LightningModule.forward, nn.Module.forward):
            raise ValueError(
                f"{type(found).__name__} has no forward to score pairs with: define it, or name "
                "the submodule that gives the logits by model="
            )
        return found


class _Converted:
    """Inputs in the precision of the training, converted when indexed."""

    def __init__(self, x: Inputs, convert: Convert) -> None:
        self._x = x
        self._convert = convert

    def __len__(self) -> int:
        return len(self._x)

    def __getitem__(self, index: slice | Tensor) -> Tensor:
        return self._convert(self._x[index])


def _converted(samples: Samples | None, convert: Convert) -> Samples | None:
    if samples is None:
        return None
    x, y = samples
    return (convert(x) if isinstance(x, Tensor) else _Converted(x, convert)), y
