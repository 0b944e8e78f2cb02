"""Buffers against simulation, brute force and the definition of herding."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from stored import Stored

from gradmix_ext.continual.buffer import POLICIES, ReplayBuffer
from gradmix_ext.continual.selection import balanced_quota, herding_rank, rank_within_class


def generator(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def stream(labels: list[int], start: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    """Inputs that carry their own number, so that a held sample tells which one it is."""
    numbers = torch.arange(start, start + len(labels), dtype=torch.float32)
    return numbers[:, None], torch.tensor(labels, dtype=torch.int64)


@pytest.mark.parametrize("chunks", [[30], [3, 5, 22], [7, 0, 1, 11, 11], [1] * 30])
def test_reservoir_holds_every_sample_with_the_same_probability(chunks):
    capacity, total, trials = 7, 30, 1500
    source = generator(sum(chunks) * 31 + len(chunks))
    held = torch.zeros(total)
    for _ in range(trials):
        buffer = ReplayBuffer(capacity, generator=source)
        start = 0
        for size in chunks:
            x, y = stream([0] * size, start)
            buffer.add(x, y)
            start += size
        assert len(buffer) == capacity
        assert buffer.seen == total
        x, _ = buffer.data
        assert len(x.unique()) == capacity
        held[x[:, 0].long()] += 1
    expected = capacity / total
    error = (expected * (1 - expected) / trials) ** 0.5
    assert ((held / trials - expected).abs() < 4.5 * error).all()


def test_a_resumed_reservoir_keeps_its_past():
    # The probability that an old sample survives depends on the count of samples seen.
    trials, survived = 400, 0
    for seed in range(trials):
        first = ReplayBuffer(10, generator=generator(seed))
        first.add(*stream([0] * 100))
        second = ReplayBuffer(10, generator=generator(0))
        second.load_state_dict(first.state_dict())
        second.add(*stream([1] * 100, start=100))
        survived += int((second.data[1] == 0).sum())
    assert abs(survived / (10 * trials) - 0.5) < 4.5 * (0.25 / (10 * trials)) ** 0.5


@pytest.mark.parametrize("policy", POLICIES)
def test_state_dict_continues_exactly(policy):
    def add(buffer: ReplayBuffer, seed: int, classes: tuple[int, int]) -> None:
        g = generator(seed)
        x = torch.randn(40, 3, generator=g)
        y = torch.randint(*classes, (40,), generator=g)
        buffer.add(x, y, x if buffer.needs_features else None)

    one = ReplayBuffer(12, policy, generator(5))
    add(one, 1, (0, 3))
    two = ReplayBuffer(12, policy, generator(99))
    two.load_state_dict(one.state_dict())
    for buffer in (one, two):
        add(buffer, 2, (3, 6))
    assert one.seen == two.seen == 80
    for a, b in zip(one.data + one.sample(9), two.data + two.sample(9), strict=True):
        assert torch.equal(a, b)


def test_state_dict_is_safe_to_load(tmp_path):
    buffer = ReplayBuffer(5, "class-balanced", generator(0))
    buffer.add(*stream([0, 1, 2, 0, 1, 2]))
    torch.save(buffer.state_dict(), tmp_path / "buffer.pt")
    other = ReplayBuffer(5, "class-balanced", generator(1))
    other.load_state_dict(torch.load(tmp_path / "buffer.pt", weights_only=True))
    assert torch.equal(other.data[0], buffer.data[0])


@given(
    counts=st.lists(st.integers(1, 30), min_size=1, max_size=9),
    capacity=st.integers(0, 150),
)
@settings(deadline=None, max_examples=200)
def test_quota_is_the_water_level(counts, capacity):
    quota = balanced_quota(torch.tensor(counts), capacity, fill=True).tolist()
    assert sum(quota) == min(capacity, sum(counts))
    assert all(0 <= q <= c for q, c in zip(quota, counts, strict=True))
    # Even: a class that got less than it has is at most one slot below any other class.
    for q, c in zip(quota, counts, strict=True):
        if q < c:
            assert q >= max(quota) - 1
    # Without filling up, all classes that have more than their share have the same.
    equal = balanced_quota(torch.tensor(counts), capacity).tolist()
    assert all(e in (q, q - 1) for e, q in zip(equal, quota, strict=True))
    assert len({e for e, c in zip(equal, counts, strict=True) if e < c}) <= 1


@given(
    steps=st.lists(st.tuples(st.integers(0, 6), st.integers(1, 12)), min_size=1, max_size=12),
    capacity=st.integers(7, 40),
    fill=st.booleans(),
)
@settings(deadline=None, max_examples=200)
def test_quota_never_asks_for_a_dropped_sample(steps, capacity, fill):
    seen = np.zeros(7, dtype=int)
    held = np.zeros(7, dtype=int)
    for label, size in steps:
        seen[label] += size
        held[label] += size
        present = np.flatnonzero(seen)
        quota = balanced_quota(torch.tensor(seen[present]), capacity, fill).numpy()
        assert (held[present] >= quota).all()
        held[present] = quota


@pytest.mark.parametrize("policy", ["class-balanced", "herding"])
def test_balanced_policies_share_the_capacity(policy):
    buffer = ReplayBuffer(20, policy, generator(0), fill=True)
    rng = generator(1)
    expected = {2: [10, 10], 3: [7, 7, 6], 6: [4, 4, 3, 3, 3, 3]}
    for classes in ([7, 2], [5], [0, 1, 9]):
        y = torch.tensor(classes).repeat(50)
        x = torch.randn(len(y), 4, generator=rng)
        buffer.add(x, y, x if buffer.needs_features else None)
        held = torch.bincount(buffer.data[1])
        assert held[held > 0].tolist() == expected[int((held > 0).sum())]
        assert len(buffer) == 20


@pytest.mark.parametrize("policy", ["class-balanced", "herding"])
def test_equal_shares_leave_the_rest_empty(policy):
    buffer = ReplayBuffer(20, policy, generator(0))
    for label, share in enumerate([20, 10, 6, 5, 4, 3]):
        x = torch.randn(50, 4, generator=generator(label))
        buffer.add(x, torch.full((50,), label), x if buffer.needs_features else None)
        assert torch.bincount(buffer.data[1]).tolist() == [share] * (label + 1)


def test_a_rare_class_leaves_its_room_to_the_others():
    buffer = ReplayBuffer(20, "class-balanced", generator(0))
    buffer.add(*stream([0] * 2 + [1] * 50 + [2] * 50))
    assert torch.bincount(buffer.data[1]).tolist() == [2, 9, 9]


def test_class_balanced_draws_uniformly_from_all_of_a_class():
    # Class 0 comes in two parts, and its share shrinks on the way.
    trials = 2000
    held = torch.zeros(40)
    source = generator(3)
    for _ in range(trials):
        buffer = ReplayBuffer(8, "class-balanced", source)
        buffer.add(*stream([0] * 10))
        buffer.add(*stream([1] * 20, start=20))
        buffer.add(*stream([0] * 10, start=10))
        held[buffer.data[0][:, 0].long()] += 1
    error = (0.2 * 0.8 / trials) ** 0.5
    assert ((held / trials - 4 / 20).abs() < 4.5 * error).all()


def herding_by_definition(features: np.ndarray, picks: int) -> list[int]:
    """Algorithm 4 of iCaRL for one class, as written."""
    phi = features / np.linalg.norm(features, axis=1, keepdims=True)
    mean = phi.mean(0)
    chosen: list[int] = []
    for k in range(1, picks + 1):
        total = phi[chosen].sum(0)
        distance = [
            np.inf if i in chosen else np.linalg.norm(mean - (phi[i] + total) / k)
            for i in range(len(phi))
        ]
        chosen.append(int(np.argmin(distance)))
    return chosen


def test_herding_follows_the_algorithm():
    rng = np.random.default_rng(0)
    y = np.array([4] * 13 + [1] * 3 + [2] * 20)
    rng.shuffle(y)
    features = rng.normal(size=(len(y), 5)) + 1
    rank = herding_rank(torch.tensor(features), torch.tensor(y), picks=6).numpy()
    for label in (1, 2, 4):
        members = np.flatnonzero(y == label)
        picks = min(6, len(members))
        expected = herding_by_definition(features[members], picks)
        assert members[np.argsort(rank[members])][:picks].tolist() == members[expected].tolist()
        assert sorted(rank[members]) == list(range(len(members)))


def test_herding_drops_the_last_exemplars_first():
    buffer = ReplayBuffer(12, "herding")
    x = torch.randn(120, 3, generator=generator(0))
    y = torch.arange(4).repeat_interleave(30)
    rank = herding_rank(x, y, picks=12)
    for label in range(4):
        buffer.add(x[y == label], y[y == label], x[y == label])
        held_x, held_y = buffer.data
        for old in range(label + 1):
            expected = x[(y == old) & (rank < 12 // (label + 1))]
            assert torch.equal(held_x[held_y == old], expected)


def test_rank_within_class():
    group = torch.tensor([1, 0, 1, 1, 0])
    key = torch.tensor([3.0, 5.0, 1.0, 3.0, 2.0])
    assert rank_within_class(group, key).tolist() == [1, 1, 0, 2, 0]


def test_sample_is_uniform_with_replacement():
    buffer = ReplayBuffer(5, generator=generator(0))
    buffer.add(*stream([0, 1, 2, 3, 4]))
    x, y = buffer.sample(20_000)
    assert torch.equal(x[:, 0].long(), y)
    assert ((torch.bincount(y) / 20_000 - 0.2).abs() < 0.0127).all()  # 4.5 standard errors


@pytest.mark.parametrize("policy", POLICIES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.int32])
def test_labels_of_another_type_are_refused(policy, dtype):
    buffer = ReplayBuffer(5, policy)
    x, y = stream([0, 1])
    with pytest.raises(TypeError, match=f"y must be int64, got {dtype}"):
        buffer.add(x, y.to(dtype), x if buffer.needs_features else None)
    assert buffer.seen == len(buffer) == 0


@pytest.mark.parametrize("policy", POLICIES)
@pytest.mark.parametrize("stored", [False, True])
def test_inputs_of_another_type_than_those_held_are_refused(policy, stored):
    buffer, (x, y) = ReplayBuffer(4, policy, generator(0)), stream([0, 1])
    features = x if buffer.needs_features else None
    buffer.add(x, y, features)
    images = x.to(torch.uint8)
    with pytest.raises(TypeError, match=r"samples of torch.uint8, the buffer holds torch.float32"):
        buffer.add(Stored(images) if stored else images, y, features)
    assert torch.equal(buffer.data[0], x)


@pytest.mark.parametrize("policy", POLICIES)
@pytest.mark.parametrize("name", ["x", "y", "row", "key"])
def test_extra_columns_cannot_take_the_place_of_the_buffers_own(policy, name):
    buffer, (x, y) = ReplayBuffer(4, policy, generator(0)), stream([0, 1])
    features = x if buffer.needs_features else None
    for _ in range(2):
        with pytest.raises(ValueError, match=f"extra must not have the name '{name}', which"):
            buffer.add(x, y, features, {"mine": y, name: torch.zeros_like(y)})
    assert buffer.data is None
    buffer.add(x, y, features, {"mine": y + 5})
    assert torch.equal(buffer.data[1], y)
    assert torch.equal(buffer.column("mine"), y + 5)


@pytest.mark.parametrize("policy", ["reservoir", "class-balanced"])
def test_features_that_a_policy_has_no_use_for_are_refused(policy):
    buffer, (x, y) = ReplayBuffer(4, policy, generator(0)), stream([0, 1])
    with pytest.raises(ValueError, match=f"a {policy} buffer does not choose by features"):
        buffer.add(x, y, x)
    assert buffer.seen == len(buffer) == 0


def test_errors():
    with pytest.raises(ValueError, match="capacity = 0"):
        ReplayBuffer(0)
    with pytest.raises(ValueError, match="unknown policy 'ring': known are reservoir"):
        ReplayBuffer(5, "ring")
    buffer = ReplayBuffer(2, "class-balanced")
    with pytest.raises(ValueError, match="capacity 2 is smaller than the number of classes 3"):
        buffer.add(*stream([0, 1, 2]))
    assert buffer.data is None
    assert buffer.seen == 0
    with pytest.raises(ValueError, match="empty buffer"):
        buffer.sample(1)
    with pytest.raises(ValueError, match="give features"):
        ReplayBuffer(5, "herding").add(*stream([0, 1]))
    with pytest.raises(ValueError, match=r"\[3, 1\] and \[2\]"):
        buffer.add(torch.zeros(3, 1), torch.zeros(2, dtype=torch.int64))
    buffer.add(*stream([0, 1]))
    with pytest.raises(ValueError, match="samples of shape"):
        buffer.add(torch.zeros(1, 4), torch.zeros(1, dtype=torch.int64))
    with pytest.raises(ValueError, match="policy = class-balanced, this one reservoir"):
        ReplayBuffer(2).load_state_dict(buffer.state_dict())
    with pytest.raises(ValueError, match="both have a generator"):
        ReplayBuffer(2, "class-balanced", generator(0)).load_state_dict(buffer.state_dict())
