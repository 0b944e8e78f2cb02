"""What all methods with a replay buffer share."""

from __future__ import annotations

from torch import Tensor

from gradmix_ext.continual.buffer import ReplayBuffer
from gradmix_ext.continual.methods.base import Method, Stage
from gradmix_ext.mixers.base import Samples
from gradmix_ext.mixers.criteria import Probe
from gradmix_ext.mixers.head import find_head
from gradmix_ext.mixers.images import Inputs

__all__ = ["Rehearsal"]


class Rehearsal(Method):
    """Base of the methods that keep a small buffer of earlier samples.

    The buffer is filled at the end of each task, so while a task is trained it holds earlier tasks
    alone, and in the first task nothing.
    """

    uses_buffer = True

    def memory(self, stage: Stage) -> Samples | None:
        """The buffer's samples, of several ranks each one's share."""
        held = self.buffer(stage).data
        return None if held is None else stage.view(*held)

    def end_task(self, stage: Stage) -> None:
        """Offer the task's samples to the buffer."""
        buffer, whole = self.buffer(stage), stage.ranks.whole
        features = self.features(stage, stage.current[0]) if buffer.needs_features else None
        buffer.add(
            stage.task.train_x,
            stage.task.train_y,
            None if features is None else whole(features),
            {name: whole(column) for name, column in self.extra(stage).items()},
        )

    def extra(self, stage: Stage) -> dict[str, Tensor]:
        """What the buffer shall keep of each of `stage.current`, besides input and label."""
        return {}

    def features(self, stage: Stage, x: Inputs) -> Tensor:
        """What enters the head, [N, d], in evaluation mode."""
        features, _ = Probe(stage.model, find_head(stage.model), class_mask=None).forward(x)
        return features

    def draw(self, stage: Stage, *columns: str) -> tuple[Tensor, ...]:
        """As many samples of the buffer as a batch has, uniformly with replacement.

        Of several ranks each gets those that fall into its share.

        Args:
            stage: The stage; its buffer is not empty.
            columns: Names of what is wanted of each sample besides the input.

        Returns:
            The inputs [n, ...], augmented, and the columns [n, ...], on the device.
        """
        return self.take(stage, self.buffer(stage).draw(stage.batch_size), *columns)

    def take(self, stage: Stage, index: Tensor, *columns: str) -> tuple[Tensor, ...]:
        """What :meth:`draw` gives, for positions [n] in the buffer that were drawn before."""
        buffer = self.buffer(stage)
        x, *rest = (buffer.column(name)[index] for name in ("x", *columns))
        device = stage.feed.device
        return stage.feed.augmented(x), *(each.to(device, non_blocking=True) for each in rest)

    def replayed(self, stage: Stage) -> int:
        """How many samples one draw from the buffer, as large as a batch, gives this rank."""
        return len(self.buffer(stage).drawn(stage.batch_size))

    def buffer(self, stage: Stage) -> ReplayBuffer:
        """The replay buffer."""
        assert stage.buffer is not None  # the trainer checks `uses_buffer` before it starts
        return stage.buffer
