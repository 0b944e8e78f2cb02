"""Manifold mixup: the same mixing, at a hidden layer."""

from __future__ import annotations

import traceback
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from functools import partial
from itertools import takewhile
from typing import Any

import torch
from torch import Tensor, nn

from gradmix_ext import ops
from gradmix_ext.mixers.batch import Draw, MixedBatch
from gradmix_ext.mixers.head import bare, is_compiled
from gradmix_ext.mixers.images import ImageBatch
from gradmix_ext.mixers.mixup import Mixup

INPUT = "input"

# Keeps the draws of the layer apart from the mixer's other draws, which start from the same seed.
_STREAM = 0x6C61796572


class ManifoldMixup(Mixup):
    """Mixup of what enters a layer that is drawn anew for every batch (Verma et al. 2019).

    The mixing happens inside the model, so a batch goes through it by ``batch.forward(model)``;
    its ``x`` is not mixed. Where ``"input"`` is drawn this is plain mixup. A compiled model runs
    without its compiled code in the steps that mix at a hidden layer.

    Args:
        layers: Where to mix: module paths as in ``model.named_modules()``, each for what enters
            this module (by its first argument, the first time it is called), and ``"input"`` for
            the samples themselves. The index of a module in an ``nn.Sequential`` is its path. By
            default `parts` of the model and ``"input"``.
        alpha: λ ~ Beta(alpha, alpha).
        **options: As :class:`~gradmix_ext.Mixer`. The layer is drawn on the CPU, from a generator
            of its own that starts from the seed of ``generator``.

    Raises:
        ValueError: ``layers`` is empty. In ``check`` and ``batch.forward``: the model has no such
            module. In ``batch.forward``: it does not call it, or with something else than a tensor
            of N rows, or inside of an activation checkpoint (``torch.utils.checkpoint``).
    """

    pools_ranks = False  # what enters a layer of another rank's model is not at hand

    def __init__(
        self,
        layers: str | int | Sequence[str | int] | None = None,
        alpha: float = 1.0,
        **options: Any,
    ) -> None:
        super().__init__(alpha, **options)
        if isinstance(layers, str | int):
            layers = (layers,)
        self.layers: tuple[str, ...] | None = None if layers is None else tuple(map(str, layers))
        if self.layers == ():
            raise ValueError("layers must name at least one layer, got none")
        self._layer_generator: torch.Generator | None = None
        if self.generator is not None:
            seed = self.generator.initial_seed() ^ _STREAM
            self._layer_generator = torch.Generator("cpu").manual_seed(seed)

    def check(self, model: nn.Module, sample_shape: Sequence[int]) -> None:
        """The model must have the layers."""
        for layer in self.layers or ():
            if layer != INPUT:
                _find(model, layer)

    def combine(self, x: Tensor | ImageBatch, y: Tensor, draw: Draw) -> MixedBatch:
        """Decide how to mix; images still in their data set are augmented now."""
        # Never on the device, which to read from would be to wait for.
        drawn = torch.rand(1, generator=self._layer_generator, device="cpu").tolist()[0]
        batch = draw.batch(x.augmented() if isinstance(x, ImageBatch) else x, y)
        return replace(batch, forward_with=partial(self._forward, drawn))

    def _forward(self, drawn: float, batch: MixedBatch, model: nn.Module) -> Tensor:
        """The logits of a batch, mixed at the layer that a draw from [0, 1) names."""
        layers = (INPUT, *parts(model)) if self.layers is None else self.layers
        layer = layers[int(drawn * len(layers))]
        logits: Tensor
        if layer == INPUT:
            logits = model(_mixed(batch.x, batch))
            return logits
        with _mixing(model, layer, batch):
            logits = model(batch.x)
        return logits

    def state_dict(self) -> dict[str, Any]:
        """Everything that the next draws depend on."""
        state = super().state_dict()
        if self._layer_generator is not None:
            state["layer_generator"] = self._layer_generator.get_state()
        return state

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore what :meth:`state_dict` gave."""
        super().load_state_dict(state)
        if self._layer_generator is not None:
            if "layer_generator" not in state:
                raise ValueError("state has no 'layer_generator'")
            self._layer_generator.set_state(state["layer_generator"])


def parts(model: nn.Module) -> list[str]:
    """Paths of the parts that a model is made of, without the first, which gets the samples.

    These are its direct children with weights of two or more dimensions: the linear layers of an
    MLP, ``layer1`` to ``layer4`` and ``fc`` of a ResNet. What enters them are the activations that
    the part before has made. A model that only wraps another is looked into.
    """
    path, module = "", _inner(model)
    while True:
        weighty = [
            (path + name, child)
            for name, child in module.named_children()
            if any(parameter.dim() > 1 for parameter in child.parameters())
        ]
        if len(weighty) != 1:
            return [name for name, _ in weighty[1:]]
        path, module = f"{weighty[0][0]}.", weighty[0][1]


@contextmanager
def _mixing(model: nn.Module, layer: str, batch: MixedBatch) -> Iterator[None]:
    """While this lasts, the model mixes a batch where it enters a layer."""
    mixed = False

    def mix(module: nn.Module, args: tuple[Any, ...]) -> tuple[Any, ...] | None:
        nonlocal mixed
        if mixed:
            return None
        mixed = True
        if _in_checkpoint():
            raise ValueError(
                f"layers: {layer!r} is inside of an activation checkpoint, which would compute "
                "what follows once more without the mixing: name a layer outside of it"
            )
        hidden = args[0] if args else None
        if not isinstance(hidden, Tensor) or hidden.shape[:1] != batch.target.shape:
            found = list(hidden.shape) if isinstance(hidden, Tensor) else type(hidden).__name__
            raise ValueError(
                f"layers: what enters {layer!r} must be a tensor with {len(batch.target)} rows, "
                f"one per sample, got {found}"
            )
        return _mixed(hidden, batch), *args[1:]

    # Compiled code would not see the hook.
    eagerly = torch.compiler.set_stance("force_eager") if is_compiled(model) else nullcontext()
    handle = _find(model, layer).register_forward_pre_hook(mix)
    try:
        with eagerly:
            yield
    finally:
        handle.remove()
    if not mixed:
        raise ValueError(f"layers: the model has a module {layer!r} but does not call it")


def _in_checkpoint() -> bool:
    """Whether a module is called by an activation checkpoint that is inside of the model."""
    frames = (frame for frame, _ in traceback.walk_stack(None))
    of_model = takewhile(lambda f: f.f_code is not ManifoldMixup._forward.__code__, frames)
    return any(f.f_globals.get("__name__") == "torch.utils.checkpoint" for f in of_model)


def _find(model: nn.Module, layer: str) -> nn.Module:
    """The module with this path."""
    inner = _inner(model)
    try:
        return inner.get_submodule(layer)
    except AttributeError:
        names = ", ".join(name for name, _ in inner.named_modules() if name)
        raise ValueError(
            f"layers must name modules of the model ({names}) or be {INPUT!r}, got {layer!r}"
        ) from None


def _mixed(x: Tensor, batch: MixedBatch) -> Tensor:
    return ops.masked_mixup(x, batch.partner, batch.lam_x, batch.mask)


def _inner(model: nn.Module) -> nn.Module:
    """The model itself where ``torch.compile(model)`` or DDP has wrapped it."""
    return bare(getattr(bare(model), "_orig_mod", bare(model)))
