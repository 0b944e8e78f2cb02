"""A plugin for Avalanche (avalanche-lib 0.6) that mixes the batches of a strategy.

strategy = Naive(..., plugins=[ReplayPlugin(200), MixerPlugin(gx.GradMix(10))])
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.utils.data import Subset

from gradmix_ext.integrations._samples import DatasetInputs, as_labels
from gradmix_ext.mixers import MixedBatch, Mixer
from gradmix_ext.mixers.base import Samples
from gradmix_ext.mixers.head import find_head

try:
    from avalanche.benchmarks.utils import concat_datasets
    from avalanche.core import SupervisedPlugin
    from avalanche.models import MultiTaskModule
    from avalanche.training import Cumulative
    from avalanche.training.plugins import AGEMPlugin, GSS_greedyPlugin
    from avalanche.training.templates import SupervisedTemplate
except ModuleNotFoundError as _error:
    raise ImportError(
        "gradmix_ext.integrations.avalanche needs avalanche-lib: "
        f"pip install avalanche-lib ({_error})"
    ) from _error

__all__ = ["MixerPlugin"]

SOFTMAX = ("all", "seen")

if TYPE_CHECKING:
    from gradmix_ext.integrations._untyped import Untyped as _Base
else:
    _Base = SupervisedPlugin

#: What a strategy must leave as it is for its loss to be that of the mixed batch.
_STEP = ("training_epoch", "criterion")


class MixerPlugin(_Base):
    """Mixes every training batch of an Avalanche strategy and trains on the mixed loss.

    Put it last among the plugins: it mixes what the others have put into the batch. A mixer that
    has a criterion gets the samples of the current experience, untransformed by training
    augmentation, and the earlier samples that the strategy holds: the storage policy of its
    plugins (``ReplayPlugin``, ``MIRPlugin``, ...), the memory of ``AGEMPlugin``, or all earlier
    data in ``Cumulative``. Of these, samples of classes that the current experience brings too are
    left out, unless it brings all of them; in a strategy's first experience such samples are not
    earlier ones.

    Training metrics see the mixed batch, with the samples' own labels; tests are not touched.

    Args:
        mixer: Any mixer.
        buffer: The earlier samples where the strategy's own are not found: a plugin or storage
            policy with a ``buffer``, an ``AvalancheDataset``, or a function that returns one.
        softmax: Classes of the softmax, in the loss and in the criterion: ``"all"`` outputs of the
            head, as Avalanche trains and tests, or those ``"seen"`` so far.
        loss: Makes the scalar loss of a mixed batch and its logits, in the place of the strategy's
            cross-entropy.

    Raises:
        ValueError: ``softmax`` is unknown. When training begins: the strategy has no replay buffer
            and the mixer needs one, or no ``nn.Linear`` as head, or one of another size; it
            is multi-task; it has a criterion other than ``nn.CrossEntropyLoss`` (unless ``loss`` is
            given); it computes its loss in a way of its own.
        RuntimeError: another plugin changed the batch after it was mixed.
    """

    def __init__(
        self,
        mixer: Mixer,
        *,
        buffer: Any = None,
        softmax: str = "all",
        loss: Callable[[MixedBatch, Tensor], Tensor] | None = None,
    ) -> None:
        super().__init__()
        if softmax not in SOFTMAX:
            raise ValueError(f"softmax must be one of {', '.join(SOFTMAX)}, got {softmax!r}")
        self.mixer = mixer
        self.buffer = buffer
        self.softmax = softmax
        self.loss = loss
        self.seen_classes: set[int] = set()
        self._batch: MixedBatch | None = None
        self._plain: Tensor | None = None
        self._loss_taken = False

    # Around a training ----------------------------------------------------------------------------

    def before_training(self, strategy: Any, **kwargs: Any) -> None:
        """Check the strategy, and have its criterion take mixed batches."""
        self._check(strategy)
        if not isinstance(strategy._criterion, _MixedCriterion):
            strategy._criterion = _MixedCriterion(strategy._criterion, self)

    def after_training(self, strategy: Any, **kwargs: Any) -> None:
        """Give the strategy its criterion back."""
        if isinstance(strategy._criterion, _MixedCriterion):
            strategy._criterion = strategy._criterion.plain

    def before_training_exp(self, strategy: Any, **kwargs: Any) -> None:
        """Take note of the classes that the experience brings."""
        experience = strategy.experience
        labels = set(getattr(experience, "task_labels", ()))
        if labels - {0}:
            raise ValueError(
                f"task labels {sorted(labels)}: samples of tasks with different heads cannot be "
                "mixed. Make the benchmark with task_labels=False"
            )
        self.seen_classes |= _classes(experience)

    def before_training_epoch(self, strategy: Any, **kwargs: Any) -> None:
        """Tell the mixer the epoch."""
        self.mixer.set_epoch(strategy.clock.train_exp_epochs)

    # Within a step --------------------------------------------------------------------------------

    def before_forward(self, strategy: Any, **kwargs: Any) -> None:
        """Renew the criterion if it is due, and mix the batch."""
        if self.mixer.update_due(strategy.clock.train_epoch_iterations):
            self.mixer.update(
                strategy.model,
                self._current(strategy),
                self._memory(strategy),
                seen_classes=self.seen_classes if self.softmax == "seen" else None,
            )
        self._plain, self._loss_taken = strategy.mb_x, False
        batch = self._batch = self.mixer.mix(strategy.mb_x, strategy.mb_y)
        strategy.mbatch[0] = batch.x
        if batch.forward_with is not None:

            def forward() -> Tensor:
                del strategy.forward  # for this batch only, even if it fails
                return batch.forward(strategy.model)

            strategy.forward = forward

    def after_forward(self, strategy: Any, **kwargs: Any) -> None:
        """See that the batch is still the one that was mixed."""
        batch = self._batch
        if batch is None or strategy.mb_x is not batch.x or strategy.mb_y is not batch.target:
            raise RuntimeError(
                "a plugin changed the batch after it was mixed: put MixerPlugin last in plugins="
            )

    def before_backward(self, strategy: Any, **kwargs: Any) -> None:
        """See that the loss is that of the mixed batch."""
        if not self._loss_taken:
            raise RuntimeError(
                f"{type(strategy).__name__} took its loss without its criterion: the samples are "
                "mixed and the labels are not"
            )

    def after_backward(self, strategy: Any, **kwargs: Any) -> None:
        """Give the samples back as they were, for plugins that keep some."""
        strategy.mbatch[0] = self._plain
        self._batch = self._plain = None

    # What the mixer gets --------------------------------------------------------------------------

    def _current(self, strategy: Any) -> Samples:
        return _samples(strategy.experience.dataset, strategy.device)

    def _memory(self, strategy: Any) -> Samples | None:
        """Samples of earlier experiences, or None as long as there are none."""
        given = self.buffer is not None
        held = _stored(self.buffer) if given else _found(strategy)
        if held is None or not len(held):
            return None
        new = torch.tensor(sorted(_classes(strategy.experience)))
        old = ~torch.isin(as_labels(held.targets), new)
        if old.any():
            return _samples(held, strategy.device, old)
        if strategy.clock.train_exp_counter == 0 and not given:
            return None  # GDumb and Cumulative hold the current samples already
        return _samples(held, strategy.device)

    def _mixed_loss(self, criterion: Any, logits: Tensor) -> Tensor:
        batch = self._batch
        assert batch is not None
        self._loss_taken = True
        if self.loss is not None:
            batch.tell(logits)
            return self.loss(batch, logits)
        class_mask = None
        if self.softmax == "seen":
            class_mask = torch.zeros(logits.shape[1], dtype=torch.bool)
            class_mask[sorted(self.seen_classes)] = True
            class_mask = class_mask.to(logits.device)
        return batch.loss(
            logits,
            class_mask=class_mask,
            label_smoothing=criterion.label_smoothing,
            reduction=criterion.reduction,
        )

    # What cannot be mixed -------------------------------------------------------------------------

    def _check(self, strategy: Any) -> None:
        name, mixer = type(strategy).__name__, type(self.mixer).__name__
        for step in _STEP:
            if getattr(type(strategy), step) is not getattr(SupervisedTemplate, step):
                raise ValueError(
                    f"{name} has a {step} of its own, which would not see mixed labels"
                )
        if any(isinstance(module, MultiTaskModule) for module in strategy.model.modules()):
            raise ValueError(
                "the model has a head per task: samples of different heads cannot be mixed. Use a "
                "model with one head and a benchmark with task_labels=False"
            )
        if any(isinstance(plugin, GSS_greedyPlugin) for plugin in strategy.plugins):
            raise ValueError("GSS_greedyPlugin would keep mixed samples in its memory")
        criterion = getattr(strategy._criterion, "plain", strategy._criterion)
        plain = type(criterion) is nn.CrossEntropyLoss and criterion.weight is None
        if self.loss is None and not plain:
            raise ValueError(
                "the criterion must be nn.CrossEntropyLoss without class weights, got "
                f"{criterion}; for another give loss=, a function of the mixed batch and the logits"
            )
        if not self.mixer.needs_update:
            return
        if self.buffer is None and not _has_memory(strategy):
            raise ValueError(
                f"{mixer} protects what a replay buffer holds and {name} has none: add "
                "ReplayPlugin(...) to plugins=, or give MixerPlugin(..., buffer=...)"
            )
        head = find_head(strategy.model, getattr(self.mixer, "head", None))
        classes = getattr(self.mixer, "num_classes", head.out_features)
        if head.out_features != classes:
            raise ValueError(
                f"the head must have an output for each of the {classes} classes of {mixer} from "
                f"the start, got {head}; a head that grows cannot be scored"
            )


class _MixedCriterion:
    """A strategy's criterion: the mixed loss for the batch in training, the plain one otherwise.

    Plugins call the criterion for batches of their own (AGEM, MIR, EWC); the labels, the very
    tensor, tell whose batch it is. Attributes are those of the criterion.
    """

    plain: Any
    plugin: MixerPlugin

    def __init__(self, plain: Any, plugin: MixerPlugin) -> None:
        vars(self).update(plain=plain, plugin=plugin)

    def __call__(self, output: Tensor, target: Tensor) -> Tensor:
        batch = self.plugin._batch
        if batch is not None and target is batch.target:
            return self.plugin._mixed_loss(self.plain, output)
        loss: Tensor = self.plain(output, target)
        return loss

    def __getattr__(self, name: str) -> Any:
        if name in ("plain", "plugin"):  # not there yet: a copy is being made
            raise AttributeError(name)
        return getattr(self.plain, name)

    def __setattr__(self, name: str, value: Any) -> None:
        setattr(self.plain, name, value)


def _classes(experience: Any) -> set[int]:
    # Not every stream tells its experiences which classes they have.
    return set(as_labels(experience.dataset.targets).tolist())


def _has_memory(strategy: Any) -> bool:
    holders = [strategy, *strategy.plugins]
    return isinstance(strategy, Cumulative) or any(
        isinstance(holder, AGEMPlugin) or hasattr(holder, "storage_policy") for holder in holders
    )


def _found(strategy: Any) -> Any:
    """The earlier samples that a strategy or one of its plugins holds."""
    for holder in (strategy, *strategy.plugins):
        if hasattr(holder, "storage_policy"):
            return holder.storage_policy.buffer
        if isinstance(holder, AGEMPlugin) and holder.buffers:
            return concat_datasets(holder.buffers)
    return strategy.adapted_dataset if isinstance(strategy, Cumulative) else None


def _stored(buffer: Any) -> Any:
    """The data set behind what was given as ``buffer``."""
    if callable(buffer):
        return buffer()
    buffer = getattr(buffer, "storage_policy", buffer)
    return getattr(buffer, "buffer", buffer)


def _samples(dataset: Any, device: Any, mask: Tensor | None = None) -> Samples:
    """Samples of a data set, or those where ``mask`` is True, with their evaluation transform."""
    labels = as_labels(dataset.targets)
    plain: Any = dataset.eval()
    if mask is not None:
        plain = Subset(plain, mask.nonzero()[:, 0].tolist())
        labels = labels[mask]

    def read(positions: list[int]) -> Tensor:
        return torch.stack([torch.as_tensor(plain[i][0]) for i in positions])

    return DatasetInputs(len(labels), read, torch.device(device)), labels.to(device)
