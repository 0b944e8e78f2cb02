"""Who gets which samples: pure arithmetic, which needs no other process."""

from __future__ import annotations

import pytest
import torch
from torch.utils.data import TensorDataset

from gradmix_ext.continual.data import read
from gradmix_ext.continual.replay import shuffled
from gradmix_ext.continual.trainer import Stream, random_stream
from gradmix_ext.ranks import ONE, _Processes, ranks_of


class Alone(_Processes):
    """One of several ranks, without the others."""

    def __init__(self, rank: int, size: int) -> None:
        self.rank, self.size = rank, size


def everyone(size: int) -> list[Alone]:
    return [Alone(rank, size) for rank in range(size)]


def batches(samples: int, buffered: int, batch_size: int, ranks=ONE) -> list[torch.Tensor]:
    g = torch.Generator().manual_seed(samples * 7 + buffered)
    return shuffled(samples, batch_size, g, "cpu", buffered, ranks)


CASES = [(10, 0, 4), (97, 0, 16), (60, 21, 8), (8, 33, 8), (9, 8, 64), (65, 0, 32), (67, 0, 16)]


@pytest.mark.parametrize(
    ("samples", "buffered", "batch_size", "size"),
    [(*case, size) for case in CASES for size in (2, 3, 4) if case[2] >= 2 * size],
)
def test_an_epoch_has_every_sample_once(samples, buffered, batch_size, size):
    dealt = [batches(samples, buffered, batch_size, ranks) for ranks in everyone(size)]
    assert len({len(each) for each in dealt}) == 1
    for step in zip(*dealt, strict=True):
        sizes = [len(part) for part in step]
        assert min(sizes) >= 2
        assert max(sizes) - min(sizes) <= 1
        assert sum(sizes) < batch_size + 2 * size
    common, kept = [], []
    for rank, each in enumerate(dealt):
        own = torch.cat(each)
        common.append(own[own < samples])
        kept.append((own[own >= samples] - samples) * size + rank)  # its number in the whole
    assert sorted(torch.cat(common).tolist()) == list(range(samples))
    assert sorted(torch.cat(kept).tolist()) == list(range(buffered))


@pytest.mark.parametrize("size", [2, 3, 4])
def test_without_a_buffer_the_batches_are_those_of_one_process(size):
    whole = batches(101, 0, 16)  # 6 of 16, and 5
    if 2 * size > 5:  # what is left over joins the batch before it
        whole[-2:] = [torch.cat(whole[-2:])]
    dealt = [batches(101, 0, 16, ranks) for ranks in everyone(size)]
    for batch, *parts in zip(whole, *dealt, strict=True):
        assert sorted(torch.cat(parts).tolist()) == sorted(batch.tolist())


@pytest.mark.parametrize(("draws", "total"), [(64, 20), (64, 10), (16, 2000), (8, 8), (9, 11)])
@pytest.mark.parametrize("size", [2, 3, 4])
def test_draws_are_shared_out_by_what_is_held(draws, total, size):
    parts = [ranks.drawn(draws, total) for ranks in everyone(size)]
    assert [each for part in parts for each in part] == list(range(draws))
    for ranks, part in zip(everyone(size), parts, strict=True):
        held = len(ranks.share(torch.arange(total)))
        assert abs(len(part) - draws * held / total) < 1
        assert len(part) >= 1 or draws < 2 * size


@pytest.mark.parametrize("size", [2, 3, 4])
def test_every_share_gets_two_draws_where_there_are_as_many(size):
    for total in range(1, 30):
        for draws in range(40):
            parts = [ranks.drawn(draws, total) for ranks in everyone(size)]
            assert [each for part in parts for each in part] == list(range(draws))
            if total < size:  # some have nothing to draw from
                assert all(len(part) == 0 for part in parts[total:])
            else:
                assert min(map(len, parts)) >= min(2, draws // size)


def test_shares_of_tensors_and_of_data_sets():
    x = torch.arange(22.0).reshape(11, 2)
    for ranks in everyone(3):
        expected = x[ranks.rank :: 3]
        assert torch.equal(ranks.share(x), expected)
        stored = ranks.share(TensorDataset(x))
        assert torch.equal(read(stored, torch.arange(len(stored))), expected)


def test_streams_of_ranks_differ_and_that_of_the_first_is_the_one_of_one_process():
    draws = [
        torch.rand(4, generator=random_stream(3, Stream.MIXER, "cpu", rank)) for rank in range(4)
    ]
    assert torch.equal(draws[0], torch.rand(4, generator=random_stream(3, Stream.MIXER, "cpu")))
    assert len({tuple(each.tolist()) for each in draws}) == 4
    again = torch.rand(4, generator=random_stream(3, Stream.MIXER, "cpu", 2))
    assert torch.equal(again, draws[2])
    other = torch.rand(4, generator=random_stream(-3, Stream.MIXER, "cpu", 2))
    assert not torch.equal(other, draws[2])


def test_one_process_has_all_and_gives_back_what_it_gets():
    x, g = torch.rand(5), torch.Generator()
    assert ranks_of(None) is ONE
    for method in (ONE.sum, ONE.average, ONE.share, ONE.whole):
        assert method(x) is x
    assert ONE.mean(x, 3) is x
    assert ONE.weigh(x, 3) is x
    assert ONE.own(x, 2) is x
    assert ONE.common(g, x.device) is g
    assert ONE.gather(x)[0] is x
