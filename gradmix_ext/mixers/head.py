"""Finding a model's last linear layer and capturing what enters it."""

from __future__ import annotations

import weakref
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torch.nn.parameter import UninitializedParameter


def find_head(model: nn.Module, head: nn.Linear | str | None = None) -> nn.Linear:
    """The last linear layer of a model.

    Args:
        model: Any module whose last layer is an ``nn.Linear``.
        head: The layer itself or its name in ``model.named_modules()``, where the last
            ``nn.Linear`` registered is not the one that gives the logits.

    Raises:
        ValueError: There is no such layer.
        TypeError: ``head`` is neither a linear layer nor a name.
    """
    if isinstance(head, nn.Linear):
        return head
    if isinstance(head, str):
        layers = {name: m for name, m in model.named_modules() if isinstance(m, nn.Linear)}
        if head not in layers:
            raise ValueError(
                f"head must name an nn.Linear of the model ({', '.join(layers) or 'it has none'}), "
                f"got {head!r}"
            )
        return layers[head]
    if head is not None:
        raise TypeError(f"head must be an nn.Linear or the name of one, got {head!r}")
    last = None
    for module in model.modules():
        if isinstance(module, nn.Linear):
            last = module
    if last is None:
        raise ValueError(f"the model has no nn.Linear to take as head: {type(model).__name__}")
    return last


def bare(model: nn.Module) -> nn.Module:
    """The model inside of DDP, whose forward pass averages gradients and copies buffers."""
    inner: nn.Module = model.module if isinstance(model, DistributedDataParallel) else model
    return inner


class HeadInput:
    """Remembers, for every output of a head that is still in use, the input it came from.

    Args:
        head: The head.
        advice: What to do about logits that are not its output, for the message.
        detached: Whether what is remembered is without the graph that it came from.
    """

    def __init__(self, head: nn.Linear, advice: str = "", *, detached: bool = True) -> None:
        self.head = head
        self._advice = advice
        self._detached = detached
        # By id, since tensors as keys would cost a step more; gone with the output.
        self._kept: dict[int, tuple[weakref.ref[Tensor], Tensor]] = {}
        self._handle = head.register_forward_hook(self._keep, with_kwargs=True)

    def _keep(
        self, module: nn.Module, args: tuple[Tensor, ...], kwargs: dict[str, Tensor], output: Tensor
    ) -> None:
        features = args[0] if args else kwargs["input"]
        key, kept = id(output), self._kept
        features = features.detach() if self._detached else features
        kept[key] = weakref.ref(output, lambda _: kept.pop(key, None)), features

    def of(self, logits: object) -> Tensor:
        """The features [N, d] that the head made ``logits`` of.

        Raises:
            ValueError: ``logits`` is not an output of the head, or the features are of another
                shape.
        """
        if not isinstance(logits, Tensor):
            raise ValueError(
                f"the model must return a tensor of logits, got {type(logits).__name__}"
            )
        kept = self._kept.get(id(logits))
        if kept is None or kept[0]() is not logits:
            raise ValueError(
                f"the logits {list(logits.shape)} are not the output of the head {self.head}: the "
                f"model must return it unchanged{self._advice}"
            )
        features = kept[1]
        if features.dim() != 2:
            raise ValueError(
                f"the head must be applied to features [N, d], got {list(features.shape)}"
            )
        return features

    def remove(self) -> None:
        """Take the hook off the head."""
        self._handle.remove()
        self._kept.clear()


def require_head(
    model: nn.Module, sample_shape: Sequence[int], head: nn.Linear, advice: str = ""
) -> None:
    """Refuse a model whose logits a head does not give, by one forward pass of two zeros.

    A lazy model that has not been called yet takes its shapes from its first samples, so it is left
    alone.

    Args:
        model: The model.
        sample_shape: Shape [...] of one sample.
        head: Its last linear layer.
        advice: What to do about it, for the message.

    Raises:
        ValueError: the logits are not the output of the head for features [N, d].
    """
    parameters = list(model.parameters())
    if any(isinstance(parameter, UninitializedParameter) for parameter in parameters):
        return
    like = next((p for p in parameters if p.is_floating_point()), head.weight)
    captured = HeadInput(head, advice)
    try:
        with evaluation(model):
            # Two, for layers that normalise over the batch; plain, where parameters are sharded.
            zeros = torch.zeros(2, *sample_shape, dtype=like.dtype, device=like.device)
            captured.of(model(zeros))
    finally:
        captured.remove()


def is_compiled(model: nn.Module) -> bool:
    """Whether calling the model runs what ``torch.compile`` made of it."""
    model = bare(model)
    return hasattr(model, "_orig_mod") or model._compiled_call_impl is not None


@contextmanager
def evaluation(model: nn.Module) -> Iterator[None]:
    """Evaluation mode without gradients; each module's own mode is restored afterwards.

    Otherwise looking at gradients would move the statistics of normalisation layers. A module whose
    own ``train`` does more than set the mode, such as merge weights, does so both ways. A compiled
    model runs eagerly meanwhile, since compiled code does not see hooks that were added later.
    """
    modes = [(module, module.training) for module in model.modules()]
    eagerly = torch.compiler.set_stance("force_eager") if is_compiled(model) else nullcontext()
    try:
        model.eval()
        with torch.no_grad(), eagerly:
            yield
    finally:
        for module, training in modes:
            if training and type(module).train is not nn.Module.train:
                module.train()
        for module, training in modes:
            if module.training is not training:
                module.training = training


def in_one_dtype(features: Tensor, logits: Tensor) -> tuple[Tensor, Tensor]:
    """Both in the wider dtype of the two; under autocast they may differ."""
    if features.dtype == logits.dtype:
        return features, logits
    dtype = torch.promote_types(features.dtype, logits.dtype)
    return features.to(dtype), logits.to(dtype)
