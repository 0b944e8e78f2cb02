"""Partners and class sizes come from the batch of all ranks."""

from __future__ import annotations

from functools import partial
from types import SimpleNamespace

import pytest
import torch
from torch import Tensor

from gradmix_ext.continual.methods import ER, ERACE
from gradmix_ext.mixers import MIXERS, ImageBatch, ImageTransform, by_name, mix_shares
from gradmix_ext.mixers.base import Mixer
from gradmix_ext.ranks import Ranks, ranks_of

# Rank 0 has the first five samples, rank 1 the others and class 2; those of class 0 are replayed.
Y = torch.tensor([1, 1, 1, 0, 0, 2, 2, 1, 0])
PARTNER = torch.tensor([5, 1, 8, 6, 4, 0, 7, 6, 3])
REPLAYED = torch.tensor([3, 4, 8])
FIELDS = ("x", "target", "partner_target", "lam", "mask", "lam_x", "weight")


class Given(Mixer):
    """Mixes by PARTNER. Samples come in any order, of which `numbers` tells."""

    def __init__(self, numbers: Tensor) -> None:
        super().__init__(lam_coupling="fixed", fixed_lam=(0.7, 0.6), balance=1.0)
        self.numbers = numbers

    def draw_partners(self, y: Tensor) -> tuple[Tensor, Tensor]:
        assert torch.equal(y, Y[self.numbers])
        partner = PARTNER[self.numbers]
        return self.numbers.argsort()[partner], partner != self.numbers


def samples(kind: str, rows: Tensor) -> Tensor | ImageBatch:
    g = torch.Generator().manual_seed(0)
    images = torch.randint(256, (12, 1, 3, 3), dtype=torch.uint8, generator=g)
    if kind == "tensor":
        return images[rows].float() / 255
    return ImageBatch(images, rows + 3, ImageTransform((0.4,), (0.3,)))


def mixed(group=None, kind: str = "tensor") -> dict[str, Tensor]:
    """A rank's part of the mixed batch; its loss and ER-ACE's are those of all."""
    ranks = ranks_of(group)
    rows = torch.arange(9).tensor_split([5])[ranks.rank] if group else torch.arange(9)
    (numbers,) = ranks.pool(rows)
    batch = mix_shares(Given(numbers), samples(kind, rows), Y[rows], ranks)
    assert torch.equal(numbers[batch.partner], PARTNER[rows])

    g = torch.Generator().manual_seed(1)
    logits = batch.x.flatten(1) @ torch.randn(9, 3, generator=g)
    replayed = range(int(torch.isin(rows, REPLAYED).sum()))
    stage = SimpleNamespace(
        ranks=ranks,
        buffer=Buffer(replayed),
        batch_size=len(REPLAYED),
        seen_mask=torch.ones(3, dtype=torch.bool),
        current_mask=torch.tensor([False, True, True]),
    )
    losses = {
        "loss": ranks.average(ER().loss(stage, batch, logits)),
        "er-ace": ranks.average(ERACE().loss(stage, batch, logits)),
    }
    return {name: getattr(batch, name) for name in FIELDS} | losses


class Buffer:
    """As much of a buffer as ER-ACE's loss looks at."""

    def __init__(self, drawn: range) -> None:
        self.drawn = lambda draws: drawn

    def __len__(self) -> int:
        return len(REPLAYED)


def er_ace(one: dict[str, Tensor]) -> Tensor:
    """ER-ACE's loss of the whole batch by its formula, each hard label over its own classes."""
    g = torch.Generator().manual_seed(1)
    z = one["x"].flatten(1).double() @ torch.randn(9, 3, generator=g).double()
    is_current = ~torch.isin(torch.arange(9), REPLAYED)

    def entropy(row: int, source: int) -> Tensor:
        classes = torch.tensor([not is_current[source], True, True])
        return z[row].masked_fill(~classes, -torch.inf).logsumexp(0) - z[row, Y[source]]

    each = [
        lam * entropy(i, i) + (1 - lam) * entropy(i, int(PARTNER[i]))
        for i, lam in enumerate(one["lam"].double())
    ]
    return (torch.stack(each) * one["weight"]).mean()


@pytest.mark.parametrize("kind", ["tensor", "images"])
def test_shares_are_mixed_as_the_whole_batch_is(on_ranks, kind):
    everywhere, one = on_ranks(2, partial(mixed, kind=kind)), mixed(kind=kind)
    assert [len(each["x"]) for each in everywhere] == [5, 4]
    for name in FIELDS:
        assert torch.equal(torch.cat([each[name] for each in everywhere]), one[name]), name
    torch.testing.assert_close(one["weight"].mean(), torch.tensor(1.0))
    for each in everywhere:
        torch.testing.assert_close(each["loss"], one["loss"])
        torch.testing.assert_close(each["er-ace"], er_ace(one).float())


def test_one_process_mixes_its_batch_as_it_is():
    x, every = torch.rand(4, 3), torch.arange(9)
    batch = mix_shares(Given(every), samples("tensor", every), Y, Ranks())
    assert batch.first(9) is batch
    y = torch.tensor([0, 1, 0, 1])
    one, plain = (by_name("mixup", 2, generator=torch.Generator().manual_seed(0)) for _ in range(2))
    assert torch.equal(mix_shares(one, x, y, Ranks()).x, plain.mix(x, y).x)


def partners_drawn(group, name: str) -> set[tuple[int, int]]:
    """Pairs of labels that are mixed where each rank has a class of its own."""
    ranks, pairs = ranks_of(group), set()
    generator = torch.Generator().manual_seed(ranks.rank)
    mixer = by_name(name, 2, generator=generator)
    y = torch.full((4 + ranks.rank,), ranks.rank)
    for _ in range(20):
        batch = mix_shares(mixer, torch.rand(len(y), 1, 4, 4), y, ranks)
        assert len(batch.x) == len(y)
        pairs |= set(zip(batch.target.tolist(), batch.partner_target.tolist(), strict=True))
    return pairs


@pytest.mark.parametrize("name", MIXERS)
def test_partners_are_of_all_ranks_but_where_a_mixer_cannot(on_ranks, name):
    for rank, pairs in enumerate(on_ranks(2, partners_drawn, name)):
        alone = name in ("none", "manifold")
        assert pairs == ({(rank, rank)} if alone else {(rank, 0), (rank, 1)})


class Silent(Ranks):
    """Two ranks that must not talk."""

    size = 2

    def pool(self, *own: Tensor) -> tuple[Tensor, ...]:
        raise AssertionError("a batch was sent")


def test_nothing_is_sent_where_nothing_mixes():
    x, y = torch.rand(4, 3), torch.tensor([0, 1, 0, 1])
    mixer = by_name("mixup", 2, stop_epoch=1)
    with pytest.raises(AssertionError, match="sent"):
        mix_shares(mixer, x, y, Silent())
    mixer.set_epoch(1)
    assert mix_shares(mixer, x, y, Silent()).x is x
    for name in ("none", "manifold"):
        mix_shares(by_name(name, 2), x, y, Silent())
