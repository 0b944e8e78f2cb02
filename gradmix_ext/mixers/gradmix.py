"""GradMix: partners by what the gradients of class pairs do for what was learned before."""

from __future__ import annotations

import math
import weakref
from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple

import torch
import torch.distributed as dist
from torch import Tensor, nn

from gradmix_ext import _checks as checks
from gradmix_ext import ops
from gradmix_ext._arguments import positive_integer, require_choice
from gradmix_ext.mixers.base import Samples
from gradmix_ext.mixers.batch import MixedBatch
from gradmix_ext.mixers.criteria import (
    CRITERIA,
    Direction,
    FewOfEach,
    Probe,
    few,
    gram_scores,
    linear_scores,
    mixed_scores,
)
from gradmix_ext.mixers.head import (
    HeadInput,
    bare,
    find_head,
    in_one_dtype,
    is_compiled,
    require_head,
)
from gradmix_ext.mixers.pairs import PairMixer, PairRule
from gradmix_ext.ranks import Ranks, ranks_of
from gradmix_ext.reference.mix_batch import POLICIES

FIRST_TASK = ("mixup", "none")

_ADVICE = ". Name the right layer by head="

_STATE = ("scores", "scored", "allowed", "preference")


class Preset(NamedTuple):
    """Settings that make up a rule for choosing pairs."""

    criterion: str
    policy: str
    per_sample_lam: bool
    balance: float


#: The rule that docs/gradmix.md found best, and the published one.
PRESETS = {
    "tuned": Preset("linear", "soft", per_sample_lam=True, balance=0.5),
    "paper": Preset("mixed", "redraw", per_sample_lam=False, balance=0.0),
}


class GradMix(PairMixer):
    """Selective mixup by the gradients of class pairs (Kim, Hwang, Whang; arXiv 2505.08528).

    An independent implementation from the published abstract. The score of a class pair is the
    inner product of the mean last-layer gradient of its mixed samples with g_buf, the mean gradient
    of the replay buffer: what a step on the pair does for the earlier tasks. The published rule,
    ``preset="paper"``, mixes *helpful* pairs alone, those with a score of at least ``threshold``.

    The default goes beyond the paper, by the measurements of docs/gradmix.md: partners are drawn
    evenly over the classes of the batch with odds tilted by the scores (``policy="soft"``), the
    loss of the samples is weighted against the imbalance of their own classes (``balance``), and
    every sample has its own λ.

    Args:
        num_classes: Number of classes C of the head; labels are in [0, C).
        alpha: λ ~ Beta(alpha, alpha).
        criterion: How pairs are scored: ``"mixed"`` (a forward pass of mixed samples),
            ``"linear"`` (½(s_a + s_b) from the classes' own gradients) or ``"gram"`` (<g_a, g_b>).
        policy: ``"soft"`` draws partner j of i with probability
            ∝ exp(score / (temperature · standard deviation of the scores)) / (samples of y_j in the
            batch), see :func:`~gradmix_ext.ops.pair_preferences`; ``"redraw"`` draws it among the
            helpful ones of the batch; ``"skip"`` draws a random permutation and leaves detrimental
            pairs unmixed.
        threshold: Least score of a helpful pair; ``"soft"`` needs none.
        samples_per_pair: Mixed samples per class pair for ``"mixed"``.
        samples_per_class: Most samples of each class of the current task that ``"linear"`` and
            ``"gram"`` look at, drawn anew each time.
        buffer_samples: Most samples of the buffer that g_buf is the mean over, and that
            ``"linear"`` and ``"gram"`` look at: all of them where there are fewer, else a random
            draw in which every class keeps its share.
        update: When the criterion is renewed: ``"epoch"``, at the start of each; an int, then and
            after every so many steps; or ``"online"``: only g_buf is renewed each epoch, and the
            scores come from the mixed samples that training forwards anyway. Beyond the paper.
        per_sample_lam: Draw one λ per sample instead of one per batch.
        generator: Source of all randomness, on the device of the data; PyTorch's own by default.
        preset: What ``criterion``, ``policy``, ``per_sample_lam`` and ``balance`` are where they
            are not given. ``"tuned"``: ``"linear"``, ``"soft"``, True and ½; ``"paper"``:
            ``"mixed"``, ``"redraw"``, False and 0.
        temperature: How little ``"soft"`` trusts the scores; at ∞ its partners are drawn like those
            of :class:`BalancedMixup`.
        balance: Weighs the loss by the sizes of the classes, as :class:`Mixer`.
        first_task: ``"mixup"`` mixes every pair as long as there is no buffer, ``"none"`` none.
        head: The last layer or its name; the last ``nn.Linear`` of the model by default.
        score_momentum: Weight of the past in the moving average of online scores.
        exploration: Share of the samples to which online scoring gives any partner of the batch
            under a hard policy, so that the scores of excluded pairs stay known.
        process_group: Processes that train one model together, each on samples of its own, such as
            ``torch.distributed.group.WORLD``. The scores are then those of the samples of all, the
            same on every rank, and all ranks have to call :meth:`update` together. By default this
            process is on its own, whether a group is initialised or not.
        **options: ``lam_coupling``, ``fixed_lam``, ``stop_epoch`` and ``taper``, as :class:`Mixer`.

    Attributes:
        scores: Scores [C, C] of the class pairs, symmetric; 0 where not scored. Online scoring
            changes it, :attr:`scored` and :attr:`allowed` in place.
        allowed: Class pairs [C, C] (bool) that are helpful; True where not scored.
        preference: Logarithms [C, C] of what ``"soft"`` multiplies the odds of a pair with; the
            hard policies leave it alone.
        scored: Class pairs [C, C] (bool) that have been scored.
    """

    needs_update = True

    def __init__(
        self,
        num_classes: int,
        alpha: float = 1.0,
        criterion: str | None = None,
        policy: str | None = None,
        threshold: float = 0.0,
        samples_per_pair: int = 16,
        update: str | int = "epoch",
        per_sample_lam: bool | None = None,
        generator: torch.Generator | None = None,
        *,
        preset: str = "tuned",
        temperature: float = 4.0,
        balance: float | None = None,
        first_task: str = "mixup",
        head: nn.Linear | str | None = None,
        score_momentum: float = 0.9,
        exploration: float = 0.05,
        samples_per_class: int = 16,
        buffer_samples: int = 512,
        process_group: dist.ProcessGroup | None = None,
        **options: Any,
    ) -> None:
        require_choice("preset", preset, tuple(PRESETS))
        rule = PRESETS[preset]
        criterion = rule.criterion if criterion is None else criterion
        policy = rule.policy if policy is None else policy
        super().__init__(
            alpha,
            per_sample_lam=rule.per_sample_lam if per_sample_lam is None else per_sample_lam,
            generator=generator,
            balance=rule.balance if balance is None else balance,
            **options,
        )
        require_choice("criterion", criterion, CRITERIA)
        require_choice("policy", policy, POLICIES)
        require_choice("first_task", first_task, FIRST_TASK)
        if update not in ("epoch", "online") and not (type(update) is int and update > 0):
            raise ValueError(
                f"update must be 'epoch', 'online' or a positive number of steps, got {update!r}"
            )
        if not math.isfinite(threshold):
            raise ValueError(f"threshold must be finite, got {threshold}")
        if not temperature > 0:
            raise ValueError(f"temperature must be positive, got {temperature}")
        for name, share in (("score_momentum", score_momentum), ("exploration", exploration)):
            if not 0 <= share < 1:
                raise ValueError(f"{name} must be in [0, 1), got {share}")
        num_classes = positive_integer("num_classes", num_classes)
        self.num_classes = num_classes
        self.criterion = criterion
        self.policy = policy
        self.threshold = threshold
        self.temperature = temperature
        self.samples_per_pair: int = positive_integer("samples_per_pair", samples_per_pair)
        self.samples_per_class: int = positive_integer("samples_per_class", samples_per_class)
        self.buffer_samples: int = positive_integer("buffer_samples", buffer_samples)
        self.update_every = update
        self.first_task = first_task
        self.head = head
        self.score_momentum = score_momentum
        self.exploration = exploration
        self.ranks: Ranks = ranks_of(process_group)

        self.scores: Tensor = torch.zeros(num_classes, num_classes)
        self.scored: Tensor = torch.zeros(num_classes, num_classes, dtype=torch.bool)
        self.allowed: Tensor = torch.zeros_like(self.scored)
        self.preference: Tensor = torch.zeros_like(self.scores)
        self._begin()
        self._direction: Direction | None = None
        self._class_mask: Tensor | None = None
        self._head_input: HeadInput | None = None
        self._few: FewOfEach | None = None
        self._latest: Callable[[], MixedBatch | None] = _no_batch

    # Mixing ---------------------------------------------------------------------------------------

    def pair_rule(self, device: torch.device) -> PairRule:
        """Partners by the policy and what the scores say."""
        self.allowed = self.allowed.to(device)
        if self.policy == "soft":
            self.preference = self.preference.to(device)
            return PairRule("soft", self.preference)
        exploration = 0.0 if self._head_input is None else self.exploration
        return PairRule(self.policy, self.allowed, exploration)

    def _observer(self) -> Callable[[MixedBatch, Tensor], None] | None:
        return None if self._head_input is None else self._observe

    # The criterion --------------------------------------------------------------------------------

    def check(self, model: nn.Module, sample_shape: Sequence[int]) -> None:
        """The logits must be the output of a head with `num_classes` outputs."""
        model = bare(model)
        require_head(model, sample_shape, self._head_of(model), _ADVICE)

    def _head_of(self, model: nn.Module) -> nn.Linear:
        """The head of a model.

        Raises:
            ValueError: it has none, or one of another size, or cannot be looked into.
            TypeError: `head` is neither a linear layer nor a name.
        """
        head = find_head(model, self.head)
        if head.out_features != self.num_classes:
            raise ValueError(
                f"the head must have num_classes = {self.num_classes} outputs, "
                f"got {head.out_features}"
            )
        if self.update_every == "online" and is_compiled(model):
            raise ValueError(
                "update='online' cannot see into a compiled model: use update='epoch', or give "
                "the model itself and compile parts of it"
            )
        return head

    def update_due(self, step: int) -> bool:
        """Whether :meth:`update` is to be called before this step of an epoch (from 0)."""
        if self.schedule.strength(self.epoch) == 0:
            return False
        every = self.update_every
        return step % every == 0 if isinstance(every, int) else step == 0

    def update(
        self,
        model: nn.Module,
        current: Samples,
        buffer: Samples | None = None,
        seen_classes: Tensor | Iterable[int] | None = None,
    ) -> None:
        """Renew :attr:`scores` and :attr:`allowed`.

        Args:
            model: The model, with an ``nn.Linear`` as last layer. Its mode is left as it was.
            current: Samples and labels ``(x [N, ...], y [N])`` of the current task; ``x`` is a
                tensor, an :class:`~gradmix_ext.mixers.ImageBatch`, or whatever gives ready samples
                when indexed.
            buffer: Samples and labels of the replay buffer; None or empty in the first task.
            seen_classes: Classes of the softmax, as in the loss: indices or a mask [C] (bool);
                all by default.
        """
        if not self.ranks.total(0 if buffer is None else buffer[1].numel()):
            self._stop_watching()
            self._begin()
            return
        if buffer is None:  # others have one
            buffer = current[0][:0], current[1][:0]
        model = bare(model)
        head = self._head_of(model)
        device = buffer[1].device
        class_mask = as_class_mask(seen_classes, self.num_classes, device)
        probe = Probe(model, head, class_mask, self.ranks, _ADVICE)
        held = few(buffer, self.ranks.quota(self.buffer_samples, len(buffer[1])), self.generator)
        if self.update_every == "online":
            self._watch(head, probe.mean_gradient(*probe.forward(held[0]), held[1]), class_mask)
            return
        if self.criterion == "mixed":
            self.scores, self.scored = mixed_scores(
                probe,
                current,
                buffer,
                held,
                law=self.lam_law,
                samples_per_pair=self.samples_per_pair,
                generator=self.generator,
            )
        else:
            score = linear_scores if self.criterion == "linear" else gram_scores
            self.scores, self.scored = score(probe, self._few_of_each(current), held)
        self._decide()

    def _few_of_each(self, samples: Samples) -> Samples:
        """At most :attr:`samples_per_class` of each class."""
        limit = math.ceil(self.samples_per_class / self.ranks.size)
        if self._few is None or not self._few.fits(samples[1], limit):
            self._few = FewOfEach(samples[1], limit)
        return self._few.draw(samples, self.generator)

    def _begin(self) -> None:
        """Mix every pair or none, as long as there is no buffer."""
        mixing = self.first_task == "mixup"
        self.allowed = torch.full_like(self.allowed, mixing)
        self.preference = torch.full_like(self.preference, 0.0 if mixing else -torch.inf)

    def _decide(self) -> None:
        """What the scores mean for the draw of partners."""
        self.allowed = (self.scores >= self.threshold) | ~self.scored
        self._prefer()

    def _prefer(self) -> None:
        if self.policy == "soft":
            self.preference = ops.pair_preferences(self.scores, self.scored, self.temperature)

    # Online scores --------------------------------------------------------------------------------

    def _watch(self, head: nn.Linear, direction: Direction, class_mask: Tensor | None) -> None:
        """Score the training forwards from now on, against this direction."""
        self.scores = self.scores.to(direction.bias)
        self.scored = self.scored.to(self.scores.device)
        self._decide()
        if self._head_input is None or self._head_input.head is not head:
            self._stop_watching()
            self._head_input = HeadInput(head, _ADVICE)
            weakref.finalize(self, self._head_input.remove)
        self._direction, self._class_mask = direction, class_mask

    def _stop_watching(self) -> None:
        if self._head_input is not None:
            self._head_input.remove()
        self._head_input = self._direction = self._class_mask = None

    def _observe(self, batch: MixedBatch, logits: Tensor) -> None:
        """Take the scores of a batch into the moving average."""
        if self._head_input is None or self._direction is None or self._latest() is batch:
            return  # watching has ended, or this is the loss of the same batch once more
        self._latest = weakref.ref(batch)
        partner_target = batch.partner_target
        if self.policy == "skip":  # elsewhere what stays unmixed is its own partner
            partner_target = torch.where(batch.mask, partner_target, batch.target)
        features, logits = in_one_dtype(self._head_input.of(logits), logits.detach())
        labels = batch.target, partner_target
        of_head = self._direction.weight, self._direction.bias
        mixed = features, logits, *labels, batch.lam, *of_head
        averages = self.scores, self.scored, self.allowed
        blending: dict[str, Any] = {"momentum": self.score_momentum, "threshold": self.threshold}
        if self.ranks.size == 1:
            ops.observe_scores(*averages, *mixed, class_mask=self._class_mask, **blending)
        else:
            value = ops.sample_scores(*mixed, class_mask=self._class_mask).to(self.scores)
            each, *labels_of_each = (self.ranks.joined(part)[0] for part in (value, *labels))
            ops.blend_scores(*averages, each, *labels_of_each, **blending)
        self._decide_after_blending()

    def _decide_after_blending(self) -> None:
        """What the scores mean now; :attr:`allowed` has followed already."""
        self._prefer()

    def __getstate__(self) -> dict[str, Any]:
        # A copy watches no model until its own update: the head it would watch is the original's.
        own = {"_direction": None, "_class_mask": None, "_head_input": None, "_few": None}
        return self.__dict__ | own | {"_latest": _no_batch}

    # State ----------------------------------------------------------------------------------------

    def state_dict(self) -> dict[str, Any]:
        """The scores, what they allow, and the generator's state."""
        # Copies, since online scoring changes them in place.
        return super().state_dict() | {name: getattr(self, name).clone() for name in _STATE}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore what :meth:`state_dict` gave."""
        shape = (self.num_classes, self.num_classes)
        for name in _STATE:
            if name not in state:
                raise ValueError(f"state has no {name!r}")
            if state[name].shape != shape:
                raise ValueError(
                    f"state[{name!r}] must have shape {list(shape)}, got {list(state[name].shape)}"
                )
        super().load_state_dict(state)
        for name in _STATE:
            setattr(self, name, state[name].clone())


def _no_batch() -> None:
    """Stands for a batch that is gone."""


def as_class_mask(
    classes: Tensor | Iterable[int] | None, num_classes: int, device: torch.device
) -> Tensor | None:
    """Classes given as indices or as a mask, as a mask [C] (bool)."""
    if classes is None:
        return None
    if not isinstance(classes, Tensor):
        classes = torch.tensor([int(label) for label in classes], dtype=torch.int64)
    given = classes.to(device)
    if given.dtype == torch.bool:
        if given.shape != (num_classes,):
            raise ValueError(
                f"seen_classes must have shape [{num_classes}] as a mask, got {list(given.shape)}"
            )
        return given
    if given.dtype != torch.int64:
        raise TypeError(f"seen_classes must be indices (int64) or a mask (bool), got {given.dtype}")
    checks.in_range(
        "update", "seen_classes", given.flatten(), num_classes, f"{num_classes} classes"
    )
    mask = torch.zeros(num_classes, dtype=torch.bool, device=device)
    mask[given] = True
    return mask
