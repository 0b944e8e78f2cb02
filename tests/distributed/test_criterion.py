"""The criterion of several ranks is that of one process with the samples of all."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn
from torch.nn.parallel import DistributedDataParallel

import gradmix_ext as gx

CLASSES = 5


def network(bias: bool = True) -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, CLASSES, bias=bias))


def data():
    g = torch.Generator().manual_seed(1)
    y = torch.tensor([2, 3, 4, 3, 2, 2, 4, 3, 2, 3, 4, 4, 2])
    old = torch.tensor([0, 1, 1, 0, 1, 0, 1])
    return (torch.randn(13, 6, generator=g) + y[:, None], y), (
        torch.randn(7, 6, generator=g) - old[:, None],
        old,
    )


# Rank 2 has a single class, and rank 1 no sample of the buffer.
CURRENT = {
    2: [slice(0, 9), slice(9, 13)],
    4: [slice(0, 6), slice(6, 6), slice(12, 13), slice(6, 12)],
}
BUFFER = {2: [slice(0, 7), None], 4: [slice(0, 2), None, slice(2, 3), slice(3, 7)]}


def mixer(seed: int, group=None, kind=gx.GradMix, **options):
    generator = torch.Generator().manual_seed(seed)
    return kind(CLASSES, generator=generator, process_group=group, **options)


def part(samples, rows):
    return None if rows is None else (samples[0][rows], samples[1][rows])


def scored(group, kind, options, bias=True):
    rank, size = torch.distributed.get_rank(group), torch.distributed.get_world_size(group)
    current, buffer = data()
    own = mixer(10 + rank, group, kind, **options)
    model = DistributedDataParallel(network(bias), process_group=group)
    seen = torch.tensor([True] * 5)
    own.update(model, part(current, CURRENT[size][rank]), part(buffer, BUFFER[size][rank]), seen)
    assert model.training
    return own.scores, own.allowed, own.preference, own.scored


def alone(seed: int, size: int, kind, options, bias=True):
    """One process with the samples of all, rank by rank."""
    current, buffer = data()
    rows = torch.cat([torch.arange(13)[rows] for rows in CURRENT[size]])
    one = mixer(seed, None, kind, **options)
    one.update(network(bias), (current[0][rows], current[1][rows]), buffer)
    return one.scores, one.allowed, one.preference, one.scored


@pytest.mark.parametrize("bias", [True, False], ids=["bias", "no-bias"])
@pytest.mark.parametrize("criterion", ["mixed", "linear", "gram"])
@pytest.mark.parametrize("size", [2, 4])
def test_scores_are_those_of_one_process_on_the_union(on_ranks, size, criterion, bias):
    options = {"criterion": criterion, "samples_per_pair": 150}  # more than one chunk
    everywhere = on_ranks(size, scored, gx.GradMix, options, bias)
    for other in everywhere[1:]:
        assert all(torch.equal(a, b) for a, b in zip(everywhere[0], other, strict=True))
    # Where all ranks draw the same, they do so from a seed that the first one draws.
    seed = int(torch.randint(2**62, (1,), generator=torch.Generator().manual_seed(10)))
    scores, allowed, preference, known = alone(seed, size, gx.GradMix, options, bias)
    torch.testing.assert_close(everywhere[0][0], scores, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(everywhere[0][2], preference, rtol=1e-4, atol=1e-5)
    assert torch.equal(everywhere[0][1], allowed)
    assert 0 < allowed.sum() < CLASSES**2
    assert known.all()
    assert torch.equal(everywhere[0][3], known)


def counted(group, options):
    """The samples that the model was given, without zeros in the place of any, and the scores."""
    rank, size = torch.distributed.get_rank(group), torch.distributed.get_world_size(group)
    current, buffer = data()
    own, model, seen = mixer(10 + rank, group, **options), network(), []
    model.register_forward_hook(lambda module, args, output: seen.append(int(args[0].any(1).sum())))
    own.update(model, part(current, CURRENT[size][rank]), part(buffer, BUFFER[size][rank]))
    return sum(seen), own.scores, own.scored


@pytest.mark.parametrize("criterion", ["linear", "gram"])
@pytest.mark.parametrize("size", [2, 4])
def test_the_limits_are_those_of_all_ranks(on_ranks, size, criterion):
    options = {"criterion": criterion, "samples_per_class": 2, "buffer_samples": 4}
    everywhere = on_ranks(size, counted, options)
    for other in everywhere[1:]:
        assert all(torch.equal(a, b) for a, b in zip(everywhere[0][1:], other[1:], strict=True))
    # One or two of each class on each rank, and of the buffer as many as all may use.
    each = 2 // size or 1
    current = data()[0][1]
    held = sum(
        min(int(count), each) for rows in CURRENT[size] for count in current[rows].bincount()
    )
    total = sum(one[0] for one in everywhere)
    assert total == held + 4
    assert everywhere[0][2][2:, 2:].all()


@pytest.mark.parametrize("limit", [1, 3])
def test_fewer_samples_of_the_buffer_than_ranks_still_have_a_gradient(on_ranks, limit):
    options = {"criterion": "linear", "buffer_samples": limit}
    for scores in (each[0] for each in on_ranks(4, scored, gx.GradMix, options)):
        assert scores[2:, 2:].all()


class Reshaping(nn.Sequential):
    """A model that cannot take an empty batch, whose rows have no length to be found out."""

    def forward(self, x):
        return super().forward(x.view(x.size(0), -1))


def scored_by_reshaping(group, options):
    rank, size = torch.distributed.get_rank(group), torch.distributed.get_world_size(group)
    current, buffer = data()
    own, model = mixer(10 + rank, group, **options), Reshaping(*network())
    own.update(model, part(current, CURRENT[size][rank]), part(buffer, BUFFER[size][rank]))
    return own.scores


@pytest.mark.parametrize("criterion", ["mixed", "linear", "gram"])
def test_no_rank_gives_the_model_an_empty_batch(on_ranks, criterion):
    options = {"criterion": criterion, "samples_per_pair": 1}
    expected = on_ranks(4, scored, gx.GradMix, options)
    for own, other in zip(on_ranks(4, scored_by_reshaping, options), expected, strict=True):
        torch.testing.assert_close(own, other[0])


@pytest.mark.parametrize("policy", ["redraw", "soft"])
def test_the_shuffled_control_is_the_same_on_all_ranks(on_ranks, policy):
    options = {"criterion": "linear", "policy": policy}
    everywhere = on_ranks(4, scored, gx.ShuffledScoresMixup, options)
    for other in everywhere[1:]:
        assert all(torch.equal(a, b) for a, b in zip(everywhere[0], other, strict=True))
    count = alone(0, 4, gx.GradMix, options)[1].sum()
    assert everywhere[0][1].sum() == count


def watched(group, steps):
    """Two steps of online scoring; what was mixed, and the scores after each."""
    rank, size = torch.distributed.get_rank(group), torch.distributed.get_world_size(group)
    current, buffer = data()
    own = mixer(10 + rank, group, update="online", policy="redraw")
    model = DistributedDataParallel(network(), process_group=group)
    own.update(model, part(current, CURRENT[size][rank]), part(buffer, BUFFER[size][rank]))
    seen = []
    for step in range(steps):
        rows = slice(step + rank, step + rank + 4 + rank)
        batch = own.mix(current[0][rows], current[1][rows])
        batch.loss(batch.forward(model))
        second = torch.where(batch.mask, batch.partner_target, batch.target)
        scores, allowed = own.scores.clone(), own.allowed.clone()
        seen.append((batch.x, batch.target, second, batch.lam, scores, allowed))
    return seen


def test_online_scores_are_those_of_the_batches_of_all(on_ranks):
    everywhere = on_ranks(2, watched, 3)
    model, (_, buffer) = network().double(), data()
    x, y = buffer[0].double(), buffer[1]

    def forward(x):
        features = model[1](model[0](x.double()))
        return features.detach(), model[2](features).detach()

    weight, bias, _ = gx.reference.class_gradients(
        *forward(x), y, groups=torch.zeros_like(y), num_groups=1
    )
    scores, known = torch.zeros(CLASSES, CLASSES).double(), torch.zeros(CLASSES, CLASSES).bool()
    for step in zip(*everywhere, strict=True):
        x, first, second, lam = (torch.cat([own[i] for own in step]) for i in range(4))
        total, count = gx.reference.pair_scores(
            *forward(x), first, second, lam.double(), weight[0], bias[0], num_classes=CLASSES
        )
        mean = total / count.clamp(min=1)
        scores = torch.where(count > 0, torch.where(known, 0.9 * scores + 0.1 * mean, mean), scores)
        known |= count > 0
        assert torch.equal(step[0][4], step[1][4])
        assert torch.equal(step[0][5], step[1][5])
        torch.testing.assert_close(step[0][4].double(), scores, rtol=1e-5, atol=1e-6)
    assert known.any()


def watched_through_copies(group):
    """DDP that looks for unused parameters hands out copies of the logits."""
    model = DistributedDataParallel(network(), process_group=group, find_unused_parameters=True)
    own, (current, buffer) = mixer(0, group, update="online"), data()
    own.update(model, current, buffer)
    batch = own.mix(*current)
    batch.loss(batch.forward(model))


def test_online_scoring_refuses_copies_of_the_logits(on_ranks):
    for error in on_ranks(2, watched_through_copies, errors=True):
        assert "are not the output of the head" in str(error)


def without_buffer(group):
    own = mixer(0, group)
    own.update(network(), data()[0], None)
    return own.allowed.all().item(), own.scored.any().item()


def test_where_no_rank_has_a_buffer_all_pairs_are_mixed(on_ranks):
    assert on_ranks(2, without_buffer) == [(True, False)] * 2


def unasked(group):
    """A process group that is there and was not asked for; only one rank calls."""
    if torch.distributed.get_rank(group) == 0:
        return copy.deepcopy(scored_alone())
    return None


def scored_alone():
    own = mixer(3, criterion="linear")
    own.update(network(), *data())
    return own.scores


def test_a_group_that_is_only_initialised_changes_nothing(on_ranks):
    assert torch.equal(on_ranks(2, unasked)[0], scored_alone())


def copied(group):
    own = mixer(0, group, criterion="linear")
    twin = copy.deepcopy(own)
    for each in (own, twin):
        each.update(network(), *data())
    return torch.equal(own.scores, twin.scores) and own.ranks is twin.ranks


def test_a_copy_talks_to_the_same_ranks(on_ranks):
    assert on_ranks(2, copied) == [True, True]
