"""What all mixers share: drawing λ, mixing a batch, saving their state."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from gradmix_ext import _checks as checks
from gradmix_ext import ops
from gradmix_ext.mixers.batch import Draw, MixedBatch
from gradmix_ext.mixers.images import ImageBatch, Inputs, TensorBatch
from gradmix_ext.mixers.lam import LamLaw, Schedule
from gradmix_ext.ranks import ONE, Ranks

#: Inputs and labels [N], as a criterion takes them.
Samples = tuple[Inputs, Tensor]


class Mixer(ABC):
    """Mixes each sample of a batch with a partner; subclasses choose the partner.

    Args:
        alpha: λ ~ Beta(alpha, alpha).
        per_sample_lam: Draw one λ per sample instead of one per batch.
        generator: Source of all randomness, on the device of the data; PyTorch's own by default.
        lam_coupling: How λ of the inputs and λ of the labels relate: ``"same"``,
            ``"independent"`` (two draws, folded to [0.5, 1]) or ``"fixed"``.
        fixed_lam: (λ_x, λ_y) for ``"fixed"``.
        stop_epoch: First epoch (from 0) without mixing; :meth:`set_epoch` tells the epoch.
        taper: ``"none"``, or ``"linear"``: mixing gets weaker evenly until ``stop_epoch``.
        balance: Weighs the loss of a mixed sample i ∝ (samples of y_i in the batch)^-balance: 0
            leaves them alike, 1 makes every class of the batch count as much as any other, ½ (the
            square root, as in Mahajan et al. 2018) is in between. Mixers that choose the partner
            balance one end of a pair; this balances the other.
    """

    #: Whether :meth:`update` does anything.
    needs_update = False

    #: Whose samples :meth:`update` is about.
    ranks: Ranks = ONE

    #: Whether positions in a data set, a
    #: :class:`~gradmix_ext.mixers.TensorBatch`, are mixed faster than the samples.
    takes_positions = False

    #: Whether a partner may be a sample of another rank, of which only the input is at hand.
    pools_ranks = True

    def __init__(
        self,
        alpha: float = 1.0,
        *,
        per_sample_lam: bool = False,
        generator: torch.Generator | None = None,
        lam_coupling: str = "same",
        fixed_lam: tuple[float, float] | None = None,
        stop_epoch: int | None = None,
        taper: str = "none",
        balance: float = 0.0,
    ) -> None:
        if not 0 <= balance <= 1:
            raise ValueError(f"balance must be in [0, 1], got {balance}")
        self.lam_law: LamLaw = LamLaw(float(alpha), lam_coupling, fixed_lam, per_sample_lam)
        self.schedule: Schedule = Schedule(stop_epoch, taper)
        self.generator = generator
        self.balance = balance
        self.epoch: int = 0

    @abstractmethod
    def draw_partners(self, y: Tensor) -> tuple[Tensor, Tensor]:
        """The partner [N] of each sample with labels ``y`` [N], and whether it is mixed [N]."""

    def mix(self, x: Tensor | TensorBatch | ImageBatch, y: Tensor) -> MixedBatch:
        """Mix a batch.

        Args:
            x: Samples [N, ...], floating point, or positions of samples or images in a data set.
            y: Labels [N], int64.

        Returns:
            The mixed batch; nothing waits for the device.
        """
        if isinstance(x, TensorBatch):
            checks.vector("mix", "x.index", x.index, x.index.numel(), torch.int64, x.data.device)
        if not isinstance(x, ImageBatch):
            checks.floating("mix", "x", x.data if isinstance(x, TensorBatch) else x)
        samples = 0 if isinstance(x, Tensor) and not x.dim() else len(x)
        checks.vector("mix", "y", y, samples, torch.int64, x.device)
        strength = self.schedule.strength(self.epoch)
        if strength == 0:
            return unmixed(x, y)
        return self._mix(x, y, strength)

    def _mix(self, x: Tensor | TensorBatch | ImageBatch, y: Tensor, strength: float) -> MixedBatch:
        """Mix a batch at this strength."""
        if isinstance(x, TensorBatch):
            x = x.gathered()
        partner, mask = self.draw_partners(y)
        lam = self.lam_law.draw(y.shape[0], y.device, self.generator)
        partner_target, lam_x, lam_y, weight = ops.mix_labels(
            y, partner, mask, *lam, strength=strength, balance=self.balance
        )
        draw = Draw(
            partner,
            mask,
            partner_target,
            lam_x,
            lam_y,
            weight if self.balance else None,
            self._observer(),
        )
        return self.combine(x, y, draw)

    def combine(self, x: Tensor | ImageBatch, y: Tensor, draw: Draw) -> MixedBatch:
        """Mix samples with the partners drawn for them."""
        if isinstance(x, ImageBatch):
            mixed = x.mixed(draw.partner, draw.lam_x, draw.mask)
        else:
            mixed = ops.masked_mixup(x, draw.partner, draw.lam_x, draw.mask)
        return draw.batch(mixed, y)

    def _observer(self) -> Callable[[MixedBatch, Tensor], None] | None:
        """How the mixer learns from a batch and its logits; most do not."""
        return None

    def check(  # noqa: B027 - most mixers take any
        self, model: nn.Module, sample_shape: Sequence[int]
    ) -> None:
        """Refuse, before any training, a model or samples that cannot be mixed.

        Args:
            model: The model that is going to be trained.
            sample_shape: Shape [...] of one sample.

        Raises:
            ValueError: this mixer can do nothing with them.
        """

    def set_epoch(self, epoch: int) -> None:
        """Tell the mixer which epoch (from 0, within a task) starts; only a schedule needs it."""
        self.epoch = epoch

    def update(  # noqa: B027 - most mixers have nothing to learn
        self,
        model: nn.Module,
        current: Samples,
        buffer: Samples | None = None,
        seen_classes: Tensor | Iterable[int] | None = None,
    ) -> None:
        """Learn from the model which pairs to mix; mixers without such a criterion do nothing."""

    def update_due(self, step: int) -> bool:
        """Whether :meth:`update` is to be called before this step of an epoch (from 0)."""
        return False

    def state_dict(self) -> dict[str, Any]:
        """Everything that the next draw depends on; tensors and plain values only."""
        state: dict[str, Any] = {"epoch": self.epoch}
        if self.generator is not None:
            state["generator"] = self.generator.get_state()
        return state

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore what :meth:`state_dict` gave, so that the next draws are the same."""
        for name in ("epoch",) if self.generator is None else ("epoch", "generator"):
            if name not in state:
                raise ValueError(f"state has no {name!r}")
        self.epoch = state["epoch"]
        if self.generator is not None:
            self.generator.set_state(state["generator"])


def unmixed(x: Tensor | TensorBatch | ImageBatch, y: Tensor) -> MixedBatch:
    """The batch as it is, every sample its own partner; a tensor is not copied."""
    if isinstance(x, TensorBatch):
        x = x.gathered()
    one = torch.ones(y.shape, dtype=torch.float32, device=y.device)
    return MixedBatch(
        x=x.augmented() if isinstance(x, ImageBatch) else x,
        target=y,
        partner_target=y,
        lam=one,
        mask=torch.zeros_like(y, dtype=torch.bool),
        partner=torch.arange(y.shape[0], device=y.device),
        lam_x=one,
    )
