"""Several processes train one model: equal weights, one buffer, checkpoints for any number."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from interrupting import Interrupt, InterruptionError, Weights
from stored import Stored
from torch import nn

from gradmix_ext.continual import (
    METHODS,
    ArrayDataset,
    Callback,
    Checkpoint,
    CheckpointError,
    ReplayBuffer,
    Trainer,
    class_incremental,
    method_by_name,
)
from gradmix_ext.continual.trainer import Stream, random_stream
from gradmix_ext.mixers import Mixer
from gradmix_ext.ranks import FirstRankError, ranks_of

TASKS, EPOCHS = 3, 2


def scenario(dtype: torch.dtype = torch.float32, tasks: int = TASKS, base: int = 0):
    """Six classes; the last feature of a sample is its number, by which it is known again."""
    g = torch.Generator().manual_seed(0)
    y, test_y = torch.arange(6).repeat(17), torch.arange(6).repeat(7)
    x = torch.randn(len(y), 5, generator=g) + 2 * y[:, None]
    test_x = torch.randn(len(test_y), 5, generator=g) + 2 * test_y[:, None]
    x[:, 4], test_x[:, 4] = torch.arange(len(y)) / 100, 0
    data = ArrayDataset("blobs", x.to(dtype), y, test_x.to(dtype), test_y, tuple("abcdef"))
    return class_incremental(data, tasks, base=base)


def plain(scenario) -> nn.Module:
    return nn.Sequential(nn.Linear(5, 16), nn.Tanh(), nn.Linear(16, 6)).double()


def network(scenario) -> nn.Module:
    return nn.Sequential(
        nn.Linear(5, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Dropout(0.1), nn.Linear(16, 6)
    )


#: Nothing by chance but the order, and at least eight samples in every batch.
EXACT = {"mixer": "none", "model": plain, "dtype": torch.float64, "batch_size": 26}


def buffer_of(seed: int, policy: str = "class-balanced", capacity: int = 21) -> ReplayBuffer:
    return ReplayBuffer(capacity, policy, random_stream(seed, Stream.BUFFER, "cpu"), fill=True)


def run(group=None, path: Path | None = None, interrupt_after: int = 0, **settings):
    """Everything that a training leaves behind, on this rank."""
    given = {"mixer": "gradmix", "method": "er", "replay": "union", "policy": "class-balanced"}
    given |= settings
    weights, buffer = Weights(), buffer_of(3, given.pop("policy"))
    dtype = given.pop("dtype", torch.float32)
    trainer = Trainer(
        given.pop("model", network),
        given.pop("mixer"),
        method_by_name(given.pop("method"), given.pop("replay")),
        buffer,
        **{"epochs": EPOCHS, "batch_size": 16, "seed": 3} | given,
        callbacks=[weights, Interrupt(interrupt_after)],
        process_group=group,
    )
    checkpoint = None if path is None else Checkpoint(path, every_seconds=0)
    result = trainer.fit(scenario(dtype), checkpoint)
    return {
        "weights": weights.state,
        "accuracy": result.accuracy_matrix,
        "confusion": result.confusion,
        "buffer": buffer.data,
        "held": len(buffer),
        "whole": buffer.state_dict()["columns"],
    }


def interrupted(group, path, after, **settings):
    with pytest.raises(InterruptionError):
        run(group, path, after, **settings)


def equal(a, b) -> bool:
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(equal(a[key], b[key]) for key in a)
    return torch.equal(a, b)


@pytest.mark.parametrize("size", [2, 4])
@pytest.mark.parametrize("method", ["finetune", "joint"])
def test_without_mixing_and_replay_the_weights_are_those_of_one_process(on_ranks, method, size):
    everywhere = on_ranks(size, partial(run, method=method, **EXACT))
    one = run(method=method, **EXACT)
    for each in everywhere:
        assert equal(each["weights"], everywhere[0]["weights"])
        assert torch.equal(each["accuracy"], one["accuracy"])
        assert torch.equal(each["confusion"], one["confusion"])
        assert each["confusion"][-1].sum() == 42  # every test sample once
        for name, value in one["weights"].items():
            torch.testing.assert_close(each["weights"][name], value, rtol=1e-9, atol=1e-9)


def few_tests(group, tests: int):
    """Accuracies and confusion with so few test samples of each task, on disk."""
    whole = scenario(torch.float64)
    tasks = tuple(
        replace(task, test_x=Stored(task.test_x[:tests]), test_y=task.test_y[:tests])
        for task in whole
    )
    settings = {"epochs": 1, "batch_size": 26, "seed": 3}
    trainer = Trainer(plain, "none", "finetune", process_group=group, **settings)
    result = trainer.fit(replace(whole, tasks=tasks))
    return result.accuracy_matrix, result.confusion


@pytest.mark.parametrize("tests", [1, 3])
def test_ranks_without_test_samples_of_a_task(on_ranks, tests):
    expected = few_tests(None, tests)
    assert expected[1][-1].sum() == tests * TASKS
    for found in on_ranks(2, partial(few_tests, tests=tests)):
        assert torch.equal(found[0], expected[0])
        assert torch.equal(found[1], expected[1])


class NextByNumber(Mixer):
    """Mixes each sample of a batch with the next by number, whatever their order."""

    def draw_partners(self, y):
        return torch.arange(len(y)), torch.ones_like(y, dtype=torch.bool)

    def combine(self, x, y, draw):
        order = x[:, 4].argsort()
        draw.partner[order] = order.roll(-1)
        return super().combine(x, y, draw)


@pytest.mark.parametrize("size", [2, 4])
@pytest.mark.parametrize("method", ["finetune", "joint"])
def test_mixed_by_the_same_pairs_the_weights_are_those_of_one_process(on_ranks, method, size):
    mixer = NextByNumber(lam_coupling="fixed", fixed_lam=(0.7, 0.6), balance=1.0)
    settings = EXACT | {"mixer": mixer, "method": method}
    everywhere, one = on_ranks(size, partial(run, **settings)), run(**settings)
    for each in everywhere:
        assert equal(each["weights"], everywhere[0]["weights"])
        for name, value in one["weights"].items():
            torch.testing.assert_close(each["weights"][name], value, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("method", METHODS)
def test_every_method_trains_one_model_with_one_buffer(on_ranks, method):
    everywhere = on_ranks(4, partial(run, method=method))
    for other in everywhere[1:]:
        assert equal(other["weights"], everywhere[0]["weights"])  # batch norm's buffers, too
        assert torch.equal(other["accuracy"], everywhere[0]["accuracy"])
    if METHODS[method].uses_buffer:
        x = torch.cat([each["buffer"][0] for each in everywhere])
        sizes = [len(each["buffer"][1]) for each in everywhere]
        assert sum(sizes) == everywhere[0]["held"] == 21
        assert max(sizes) - min(sizes) <= 1
        assert len(x[:, 4].unique()) == 21  # no sample twice


@pytest.mark.parametrize("policy", ["class-balanced", "reservoir"])
def test_the_buffer_holds_what_that_of_one_process_holds(on_ranks, policy):
    everywhere = on_ranks(4, partial(run, method="er", policy=policy))
    one = run(policy=policy)
    for each in everywhere:
        assert equal(each["whole"], one["whole"])
    for rank, each in enumerate(everywhere):
        assert torch.equal(each["buffer"][1], one["buffer"][1][rank::4])


def test_herding_follows_the_class_means_of_all_samples(on_ranks):
    everywhere = on_ranks(2, partial(run, policy="herding", **EXACT))
    labels = everywhere[0]["whole"]["y"]
    assert labels.bincount().tolist() == [4, 4, 4, 3, 3, 3]
    assert all(equal(each["whole"], everywhere[0]["whole"]) for each in everywhere)
    # In the first task all weights are those of one process, and so are its exemplars.
    first = {k: everywhere[0]["whole"]["x"][labels == k, 4].tolist() for k in (0, 1)}
    one = run(policy="herding", **EXACT)["whole"]
    assert first == {k: one["x"][one["y"] == k, 4].tolist() for k in (0, 1)}


def at_its_smallest(group, method: str):
    """Two samples of a batch for each of four ranks; a buffer of eight holds five classes' one."""
    weights, buffer = (
        Weights(),
        ReplayBuffer(8, "class-balanced", random_stream(3, Stream.BUFFER, "cpu")),
    )
    settings = {"method": method, "buffer": buffer, "epochs": 1, "batch_size": 8}
    trainer = Trainer(network, callbacks=[weights], process_group=group, **settings)
    trainer.fit(scenario(tasks=2, base=5))
    return weights.state


@pytest.mark.parametrize("method", ["der++", "a-gem"])
def test_draws_are_enough_for_batch_normalisation(on_ranks, method):
    everywhere = on_ranks(4, partial(at_its_smallest, method=method))
    assert all(equal(each, everywhere[0]) for each in everywhere)


def digits(group):
    method, data = method_by_name("er", "split"), class_incremental("digits", tasks=2)
    trainer = Trainer(mixer="gradmix", method=method, buffer=100, epochs=2, process_group=group)
    return trainer.fit(data).average_incremental_accuracy


def test_accuracy_is_that_of_one_process_within_noise(on_ranks):
    one = digits(None)
    assert one > 0.7
    assert on_ranks(2, digits) == pytest.approx([one, one], abs=0.06)


def lams(group):
    mixers = []

    class Keep(Callback):
        def on_epoch_end(self, event) -> None:
            mixers.append(event.mixer)

    settings = {"epochs": 1, "batch_size": 16, "seed": 3, "callbacks": [Keep()]}
    Trainer(network, "mixup", "finetune", process_group=group, **settings).fit(scenario())
    return mixers[-1].lam_law.draw(3, torch.device("cpu"), mixers[-1].generator)[0]


def test_each_rank_draws_its_own_lams_again_and_again_the_same(on_ranks):
    first, again = on_ranks(4, lams), on_ranks(4, lams)
    assert len({tuple(each.tolist()) for each in first}) == 4
    assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))


@pytest.mark.parametrize("settings", [{}, {"method": "der++"}, {"method": "icarl"}], ids=str)
def test_as_many_ranks_go_on_bit_for_bit(on_ranks, tmp_path, settings):
    whole = on_ranks(2, partial(run, **settings))
    for after in (1, 3, 4):
        path = tmp_path / f"{after}.pt"
        on_ranks(2, partial(interrupted, path=path, after=after, **settings))
        resumed = on_ranks(2, partial(run, path=path, **settings))
        for a, b in zip(resumed, whole, strict=True):
            for name in ("weights", "accuracy", "confusion", "whole"):
                assert equal(a[name], b[name]), (after, name)


@pytest.mark.parametrize(("before", "after"), [(4, 2), (2, 4), (2, 1), (1, 2)])
def test_another_number_of_ranks_goes_on(on_ranks, tmp_path, before, after):
    path = tmp_path / "state.pt"

    def go(size, function):
        return [function(None)] if size == 1 else on_ranks(size, function)

    go(before, partial(interrupted, path=path, after=4))  # in task 2, whose first epoch is saved
    saved = Checkpoint(path).load()
    assert (saved["task"], saved["epoch"], len(saved["ranks"])) == (1, 1, before)
    held = saved["buffer"]["columns"]["x"][:, 4].tolist()
    assert len(set(held)) == len(held) == 21

    everywhere = go(after, partial(run, path=path))
    first = everywhere[0]
    for other in everywhere[1:]:
        assert equal(other["weights"], first["weights"])
    assert torch.equal(first["accuracy"][0], saved["evaluations"][0]["class_il"])
    assert first["accuracy"][-1].mean() > 0.2
    # The buffer went on from what it held: its class-balanced choice is that of one training.
    assert equal(first["whole"], run()["whole"])
    assert sum(len(each["buffer"][1]) for each in everywhere) == 21


def test_a_checkpoint_that_cannot_be_read_is_an_error_on_every_rank(on_ranks, tmp_path):
    path = tmp_path / "state.pt"
    path.write_bytes(b"not a checkpoint")
    first, other = on_ranks(2, partial(run, path=path), errors=True)
    assert isinstance(first, CheckpointError)
    assert isinstance(other, FirstRankError)
    assert "state.pt is not a training checkpoint" in str(other)


def differing(group):
    run(group, seed=dist.get_rank(group))


@pytest.mark.parametrize(
    ("job", "message"),
    [
        (differing, "seed must be the same on all ranks, got 0 on rank 0 and 1 on rank 1"),
        (partial(run, batch_size=7), "batch_size is 7, but 4 processes need 2 samples each"),
        (partial(run, sync_batch_norm=True), "sync_batch_norm needs GPUs"),
    ],
    ids=["seed", "batch", "norm"],
)
def test_what_cannot_be_is_an_error_on_every_rank(on_ranks, job, message):
    for error in on_ranks(4, job, errors=True):
        assert message in str(error)


class Drifting(torch.optim.SGD):
    """Steps that are larger on every further rank, as with a learning rate of its own."""

    def step(self, closure=None):
        for group in self.param_groups:
            group["lr"] = 0.05 * (1 + dist.get_rank())
        return super().step(closure)


def drifting(group):
    run(group, optimizer=partial(Drifting, lr=0.1))


def test_weights_that_drift_apart_are_an_error(on_ranks):
    for error in on_ranks(2, drifting, errors=True):
        assert "the weights are not the same on all ranks" in str(error)


def unseeded(group):
    buffer = ReplayBuffer(20)
    Trainer(network, buffer=buffer, process_group=group).fit(scenario())


def small(group):
    Trainer(network, buffer=7, process_group=group).fit(scenario())


def trained_with(group, other: dict[str, Any]):
    own = other if dist.get_rank(group) else {}
    buffer = buffer_of(**{"seed": 3} | own)
    Trainer(network, buffer=buffer, process_group=group).fit(scenario())


def offered(group, samples: list[int]):
    buffer = ReplayBuffer(4, generator=torch.Generator().manual_seed(0), process_group=group)
    y = torch.zeros(samples[dist.get_rank(group)], dtype=torch.int64)
    buffer.add(torch.rand(len(y), 2), y)


@pytest.mark.parametrize(
    ("job", "what"),
    [
        (partial(trained_with, other={"seed": 4}), "the checksum of the state of the buffer"),
        (partial(trained_with, other={"policy": "reservoir"}), "the buffer's policy"),
        (partial(offered, samples=[5, 0]), "the number of samples offered to the buffer"),
    ],
    ids=["seed", "policy", "samples"],
)
def test_buffers_that_differ_are_an_error_on_every_rank(on_ranks, job, what):
    for error in on_ranks(2, job, errors=True):
        assert str(error).startswith(what)
        assert "must be the same on all ranks" in str(error)


def outside(group):
    ranks_of(dist.GroupMember.NON_GROUP_MEMBER)


def test_a_process_outside_of_the_group_is_told_so(on_ranks):
    for error in on_ranks(2, outside, errors=True):
        assert "process_group is one that this process is not in" in str(error)


def test_a_buffer_that_cannot_be_shared_is_an_error(on_ranks):
    assert "needs a generator" in str(on_ranks(2, unseeded, errors=True)[1])
    assert "the buffer's capacity is 7" in str(on_ranks(4, small, errors=True)[1])
