"""The criterion of a model whose weights are sharded by FSDP2 (``fully_shard``)."""

from __future__ import annotations

import pytest
import torch
from test_criterion import BUFFER, CURRENT, alone, data, mixer, network, part
from torch import nn
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor

import gradmix_ext as gx

SIZE = 2


def sharded(group) -> nn.Module:
    model = network()
    mesh = DeviceMesh.from_group(group, "cpu")
    for layer in (model[0], model[2]):
        fully_shard(layer, mesh=mesh)
    return fully_shard(model, mesh=mesh)


def scored(group, options):
    rank = torch.distributed.get_rank(group)
    current, buffer = data()
    model = sharded(group)
    assert isinstance(model[2].weight, DTensor)
    own = mixer(10 + rank, group, **options)
    own.check(model, current[0].shape[1:])
    own.update(model, part(current, CURRENT[SIZE][rank]), part(buffer, BUFFER[SIZE][rank]))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    for _ in range(2):  # the model trains on after it was looked at
        batch = own.mix(*part(current, CURRENT[SIZE][rank]))
        batch.loss(batch.forward(model)).backward()
        optimizer.step()
        optimizer.zero_grad()
    return own.scores, own.allowed, model[2].weight.full_tensor().detach()


@pytest.mark.parametrize("criterion", ["mixed", "linear", "gram"])
def test_scores_are_those_of_a_model_in_one_piece(on_ranks, criterion):
    first, other = on_ranks(SIZE, scored, {"criterion": criterion})
    assert all(torch.equal(a, b) for a, b in zip(first, other, strict=True))
    seed = int(torch.randint(2**62, (1,), generator=torch.Generator().manual_seed(10)))
    scores, allowed, *_ = alone(seed, SIZE, gx.GradMix, {"criterion": criterion})
    torch.testing.assert_close(first[0], scores, rtol=1e-5, atol=1e-6)
    assert torch.equal(first[1], allowed)
    assert not torch.equal(first[2], network()[2].weight)


def test_online_scores_come_from_the_training_of_a_sharded_model(on_ranks):
    first, other = on_ranks(SIZE, scored, {"update": "online"})
    assert torch.equal(first[0], other[0])
    assert first[0].any()
