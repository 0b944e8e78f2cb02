"""The trainer, its methods and its measurements, on problems small enough to check."""

from __future__ import annotations

import json
import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from interrupting import Interrupt, InterruptionError
from torch import Tensor, nn

from gradmix_ext import BalancedMixup, GradMix, metrics
from gradmix_ext.continual import (
    ER,
    ArrayDataset,
    Callback,
    DivergedError,
    Finetune,
    Joint,
    Method,
    PairMapRecorder,
    ReplayBuffer,
    Result,
    Scenario,
    Trainer,
    class_incremental,
    mlp,
)
from gradmix_ext.continual.evaluate import Evaluator
from gradmix_ext.continual.feed import Feed
from gradmix_ext.continual.replay import shuffled, split_replay


def blobs(classes: int = 6, per_class: int = 20, test: int = 7) -> ArrayDataset:
    """Well separated clusters in the plane, of unequal test sizes."""
    g = torch.Generator().manual_seed(0)
    angle = torch.arange(classes) * 2 * math.pi / classes
    centre = 4 * torch.stack([angle.cos(), angle.sin()], dim=1)
    y = torch.arange(classes).repeat_interleave(per_class)
    test_y = torch.cat([torch.full((test + k,), k) for k in range(classes)])
    return ArrayDataset(
        "blobs",
        centre[y] + torch.randn(len(y), 2, generator=g),
        y,
        centre[test_y] + torch.randn(len(test_y), 2, generator=g),
        test_y,
        tuple("abcdefghij"[:classes]),
    )


@pytest.fixture(scope="module")
def scenario() -> Scenario:
    return class_incremental(blobs(), tasks=3, class_order_seed=2)


def trainer(**settings) -> Trainer:
    settings = {"epochs": 3, "batch_size": 16, "buffer": 12} | settings
    return Trainer(**settings)


def same(a: Result, b: Result) -> bool:
    return all(
        torch.equal(getattr(a, name), getattr(b, name))
        for name in ("accuracy_matrix", "task_il_matrix", "task_il_baseline", "pooled_accuracy")
    )


@pytest.mark.parametrize(
    "mixer", ["none", "mixup", "balanced", "random-mask", "shuffled-scores", "gradmix"]
)
@pytest.mark.parametrize("method", [ER("union"), ER("split"), Finetune(), Joint()])
def test_every_method_with_every_mixer_is_deterministic(scenario, method, mixer):
    def run(seed: int) -> tuple[Result, list[Tensor]]:
        model = None

        def build(scenario: Scenario) -> nn.Module:
            nonlocal model
            model = mlp(scenario.input_shape, scenario.num_classes, hidden=(16,))
            return model

        # Draws from the default generator in between must not matter.
        torch.rand(seed + 1)
        result = trainer(model=build, method=method, mixer=mixer, seed=seed).fit(scenario)
        return result, [p.detach().clone() for p in model.parameters()]

    first, weights = run(3)
    torch.manual_seed(0)
    again, same_weights = run(3)
    assert same(first, again)
    assert all(torch.equal(a, b) for a, b in zip(weights, same_weights, strict=True))
    _, other_weights = run(4)
    assert not all(torch.equal(a, b) for a, b in zip(weights, other_weights, strict=True))


def test_building_a_model_leaves_the_default_generator_alone(scenario):
    torch.manual_seed(11)
    expected = torch.rand(4)
    torch.manual_seed(11)
    trainer(mixer="none").fit(scenario)
    assert torch.equal(torch.rand(4), expected)


def test_what_is_learned(scenario):
    joint = trainer(method="joint", epochs=10).fit(scenario)
    finetune = trainer(method="finetune", epochs=10).fit(scenario)
    replay = trainer(method="er", epochs=10, buffer=60).fit(scenario)
    assert joint.final_accuracy > 0.9
    assert finetune.final_accuracy < 0.4
    assert finetune.forgetting > 0.9
    assert replay.final_accuracy > finetune.final_accuracy + 0.3
    for result in (joint, finetune, replay):
        # A prediction that may only name the classes of its own task is never worse.
        assert (result.task_il_matrix >= result.accuracy_matrix).all()
        assert (result.accuracy_matrix.triu(1) == 0).all()
        assert result.accuracy_matrix.dtype == torch.float64


def test_results_agree_with_a_plain_evaluation(scenario):
    class Keep(Callback):
        def __init__(self) -> None:
            self.expected: list[list[float]] = []
            self.pooled: list[float] = []

        def on_task_end(self, event) -> None:
            seen = scenario.seen_classes(event.task.index)
            row, hits, total = [], 0, 0
            for task in scenario:
                good = 0
                for x, y in zip(task.test_x, task.test_y, strict=True):
                    with torch.no_grad():
                        logits = model(x[None])[0]
                    good += max(seen, key=lambda k: logits[k].item()) == int(y)
                row.append(good / len(task.test_y))
                if task.index <= event.task.index:
                    hits, total = hits + good, total + len(task.test_y)
            self.expected.append(row)
            self.pooled.append(hits / total)

    model = mlp((2,), 6, (8,))
    keep = Keep()
    result = trainer(model=model, callbacks=[keep]).fit(scenario)
    expected = torch.tensor(keep.expected, dtype=torch.float64)
    torch.testing.assert_close(result.accuracy_matrix, expected)
    torch.testing.assert_close(result.pooled_accuracy, torch.tensor(keep.pooled).double())
    # Tasks have unequal test sets: the pooled accuracy is another number than the mean over tasks.
    assert result.pooled_accuracy[-1] != pytest.approx(metrics.final_accuracy(expected))


class InPlace(nn.Module):
    """Changes the samples that it is given, as ``nn.ReLU(inplace=True)`` does at its start."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = mlp((2,), 6, hidden=(8,))

    def forward(self, x: Tensor) -> Tensor:
        return self.layers(x.sub_(1))


@pytest.mark.parametrize(
    ("method", "policy", "update"),
    [("er", "class-balanced", "epoch"), ("der++", "herding", "online"), ("a-gem", "herding", 2)],
)
def test_a_model_that_works_in_place_leaves_the_data_alone(method, policy, update):
    dataset = blobs()
    buffer = ReplayBuffer(12, policy, torch.Generator().manual_seed(0))
    settings = {"method": method, "buffer": buffer, "mixer": GradMix(6, update=update)}
    scenario = class_incremental(dataset, tasks=3)
    kept = [(task.train_x.clone(), task.test_x.clone()) for task in scenario]
    trainer(model=InPlace(), **settings).fit(scenario)
    for task, (train_x, test_x) in zip(scenario, kept, strict=True):
        assert torch.equal(task.train_x, train_x)
        assert torch.equal(task.test_x, test_x)
    samples = dataset.train_x.tolist()
    assert all(row in samples for row in buffer.data[0].tolist())


def test_metrics_of_a_result(scenario):
    result = trainer(epochs=1).fit(scenario)
    R = result.accuracy_matrix.tolist()
    assert result.final_accuracy == metrics.final_accuracy(R)
    assert result.average_incremental_accuracy == metrics.average_incremental_accuracy(R)
    assert result.forgetting == metrics.forgetting(R)
    assert result.bwt == metrics.bwt(R)
    assert result.fwt == metrics.fwt(result.task_il_matrix, result.task_il_baseline)


def test_one_task():
    result = trainer().fit(class_incremental(blobs(), tasks=1))
    assert result.accuracy_matrix.shape == (1, 1)
    assert math.isnan(result.forgetting)
    assert result.summary()["forgetting"] is None


def test_one_class_per_task_and_a_class_with_one_sample():
    dataset = blobs(3, per_class=5)
    keep = torch.tensor([0, *range(5, 15)])
    dataset = ArrayDataset(
        "one",
        dataset.train_x[keep],
        dataset.train_y[keep],
        dataset.test_x,
        dataset.test_y,
        dataset.class_names,
    )
    for mixer in ("mixup", "gradmix"):
        result = trainer(mixer=mixer).fit(class_incremental(dataset, increment=1))
        assert result.accuracy_matrix.shape == (3, 3)


def test_masked_classes_have_no_say(scenario):
    class Huge(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            logits = torch.zeros(len(x), 6)
            logits[:, scenario.class_order[-1]] = 1e9
            logits[:, scenario[0].classes[0]] = 1.0
            return logits

    feed = Feed(None, torch.device("cpu"))
    evaluation = Evaluator(scenario, feed)(Huge(), lambda m, x: m(x), scenario.seen_mask(0), 1)
    in_first = (scenario[0].test_y == scenario[0].classes[0]).double().mean().item()
    assert evaluation.class_il.tolist() == [in_first, 0.0, 0.0]
    assert evaluation.pooled == in_first


class Spy(Method):
    """Notes what the trainer hands to a method, and when."""

    def __init__(self) -> None:
        self.calls: list[str] = []

    def begin_task(self, stage) -> None:
        self.calls.append(f"begin {stage.task.index} past {len(stage.past)}")

    def batches(self, stage):
        self.calls.append("epoch")
        yield stage.current

    def after_backward(self, stage) -> None:
        assert all(p.grad is not None for p in stage.model.parameters())
        self.calls.append("backward")

    def end_task(self, stage) -> None:
        assert sorted(stage.seen_mask.nonzero().flatten().tolist()) == sorted(
            k for t in (*stage.past, stage.task) for k in t.classes
        )
        self.calls.append("end")


def test_hooks_come_in_order(scenario):
    spy = Spy()
    trainer(method=spy, epochs=2).fit(scenario)
    task = ["epoch", "backward"] * 2 + ["end"]
    assert spy.calls == [c for t in range(3) for c in [f"begin {t} past {t}", *task]]


def test_the_mixer_is_updated_when_it_is_due(scenario):
    class Watch(GradMix):
        def update(self, model, current, buffer=None, seen_classes=None):
            calls.append((len(current[1]), None if buffer is None else len(buffer[1])))
            assert seen_classes.dtype == torch.bool
            super().update(model, current, buffer, seen_classes)

    # 40 samples a task: 3 steps of 16 alone, 4 with the 12 buffered ones in the pool.
    calls: list[tuple[int, int | None]] = []
    trainer(mixer=Watch(6)).fit(scenario)
    assert calls == [(40, None)] * 3 + [(40, 12)] * 6
    calls = []
    trainer(mixer=Watch(6, update=2), epochs=1).fit(scenario)
    assert calls == [(40, None)] * 2 + [(40, 12)] * 4


def test_joint_protects_the_past_and_finetune_has_none(scenario):
    class Watch(GradMix):
        def update(self, model, current, buffer=None, seen_classes=None):
            sizes.append(0 if buffer is None else len(buffer[1]))

    for method, expected in (("joint", [0, 40, 80]), ("finetune", [0, 0, 0])):
        sizes: list[int] = []
        trainer(mixer=Watch(6), method=method, epochs=1).fit(scenario)
        assert sizes == expected


def test_pair_maps_are_recorded(scenario):
    recorder = PairMapRecorder()
    trainer(mixer="gradmix", callbacks=[recorder]).fit(scenario)
    maps = recorder.maps()
    assert maps.task.tolist() == [0, 0, 0, 1, 1, 1, 2, 2, 2]
    assert maps.epoch.tolist() == [0, 1, 2] * 3
    assert maps.allowed.shape == (9, 6, 6)
    assert maps.allowed[:3].all()
    assert not maps.allowed[3:].all()
    assert maps.seen.sum(1).tolist() == [2] * 3 + [4] * 3 + [6] * 3
    assert torch.equal(maps.scores, maps.scores.transpose(1, 2))
    recorder = PairMapRecorder()
    trainer(mixer="mixup", callbacks=[recorder]).fit(scenario)
    assert recorder.maps() is None


def test_herding_buffer_in_training(scenario):
    buffer = ReplayBuffer(12, "herding")
    trainer(buffer=buffer).fit(scenario)
    assert torch.bincount(buffer.data[1]).tolist() == [2] * 6
    assert buffer.seen == 120


def test_split_replay_joins_a_batch_of_the_buffer_to_each_of_the_current_task():
    g = torch.Generator().manual_seed(0)
    buffer = ReplayBuffer(4, generator=torch.Generator().manual_seed(0))
    order = shuffled(10, 4, g)
    assert [len(index) for index in split_replay(order, 10, buffer, 4)] == [4, 4, 2]
    buffer.add(torch.arange(10.0, 14.0)[:, None], torch.arange(10, 14))
    split = list(split_replay(order, 10, buffer, 4))
    assert [len(index) for index in split] == [8, 8, 6]
    assert sorted(torch.cat([index[:-4] for index in split]).tolist()) == list(range(10))
    replayed = torch.cat([index[-4:] for index in split])
    assert ((replayed >= 10) & (replayed < 14)).all()
    assert torch.cat(shuffled(10, 4, g)).tolist() != torch.cat(order).tolist()


@pytest.mark.parametrize(
    ("samples", "batch_size", "sizes"),
    [
        (9, 4, [4, 5]),
        (10, 4, [4, 4, 2]),
        (8, 4, [4, 4]),
        (5, 4, [5]),
        (3, 2, [3]),
        (1, 4, [1]),
        (3, 1, [1, 1, 1]),
        (0, 4, [0]),
    ],
)
def test_a_single_sample_left_over_joins_the_batch_before(samples, batch_size, sizes):
    batches = shuffled(samples, batch_size, torch.Generator().manual_seed(0))
    assert [len(index) for index in batches] == sizes
    order = torch.randperm(samples, generator=torch.Generator().manual_seed(0))
    assert torch.equal(torch.cat(batches), order)


@pytest.mark.parametrize("method", ["finetune", "er", "joint"])
def test_batch_norm_trains_when_one_sample_is_left_over(scenario, method):
    model = nn.Sequential(nn.Linear(2, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 6))
    assert len(scenario[0].train_y) % 13 == 1
    trainer(model=model, method=method, batch_size=13, epochs=1).fit(scenario)


def test_a_diverging_run_says_so(scenario):
    with pytest.raises(DivergedError, match=r"in epoch \d+ of task \d"):
        trainer(optimizer=lambda p: torch.optim.SGD(p, lr=1e20)).fit(scenario)


def test_errors():
    with pytest.raises(ValueError, match="ER replays samples: give buffer"):
        Trainer()
    with pytest.raises(ValueError, match="epochs must be at least 1, got 0"):
        Trainer(buffer=10, epochs=0)
    with pytest.raises(ValueError, match="unknown method 'derpp': known are finetune, er, er-ace"):
        Trainer(method="derpp")
    with pytest.raises(ValueError, match="unknown replay 'both'"):
        ER("both")
    for name in ("buffer", "epochs", "batch_size", "seed"):
        with pytest.raises(TypeError, match=f"{name} must be an integer, got 12.0"):
            Trainer(**{"buffer": 12} | {name: 12.0})


def test_integers_of_any_kind(scenario):
    numbers = {"buffer": 12, "epochs": 1, "batch_size": 16, "seed": 3}
    plain = Trainer(**numbers).fit(scenario)
    for kind in (np.int64, np.uint8, torch.tensor):
        again = Trainer(**{name: kind(value) for name, value in numbers.items()})
        assert same(again.fit(scenario), plain)
        assert type(again.buffer.state_dict()["capacity"]) is int


@pytest.mark.parametrize("name", ["r.json", "r.npz"])
def test_a_result_is_saved_and_loaded(tmp_path, scenario, name):
    result = trainer(mixer=BalancedMixup(6), epochs=1).fit(scenario)
    result.save(tmp_path / name)
    loaded = Result.load(tmp_path / name)
    assert same(result, loaded)
    assert loaded.task_classes == result.task_classes
    assert loaded.summary() == result.summary()


@pytest.mark.parametrize("name", ["r.json", "r.npz"])
def test_a_result_of_some_of_the_tasks_is_saved_and_loaded(tmp_path, name):
    whole = class_incremental(blobs(), tasks=3, class_order_seed=1)
    some = replace(whole, tasks=whole.tasks[:2])
    assert max(some.seen_classes(1)) >= len(some.seen_classes(1))  # labels beyond their number
    result = trainer(epochs=1).fit(some)
    result.save(tmp_path / name)
    loaded = Result.load(tmp_path / name)
    assert same(result, loaded)
    assert torch.equal(loaded.confusion, result.confusion)


@pytest.mark.parametrize("name", ["r.json", "r.npz"])
def test_a_result_saved_without_the_number_of_classes_is_loaded(tmp_path, scenario, name):
    result = trainer(epochs=1).fit(scenario)
    path = tmp_path / name
    result.save(path)
    if path.suffix == ".json":
        content = json.loads(path.read_text())
        del content["num_classes"]
        path.write_text(json.dumps(content))
    else:
        with np.load(path) as archive:
            np.savez(path, **{key: archive[key] for key in archive.files if key != "num_classes"})
    assert torch.equal(Result.load(path).confusion, result.confusion)


def test_files_that_hold_no_result(tmp_path):
    (tmp_path / "a.json").write_text("[1, 2")
    (tmp_path / "b.json").write_text("{}")
    (tmp_path / "c.npz").write_bytes(b"PK")
    (tmp_path / "d.npz").touch()
    result = trainer(epochs=1).fit(class_incremental(blobs(), tasks=3))
    result.save(tmp_path / "e.npz")
    (tmp_path / "e.npz").write_bytes((tmp_path / "e.npz").read_bytes()[:-10])
    result.save(tmp_path / "f.json")
    content = json.loads((tmp_path / "f.json").read_text()) | {"confusion": [1, 2, 3]}
    (tmp_path / "f.json").write_text(json.dumps(content))
    for name in ("a.json", "b.json", "c.npz", "d.npz", "e.npz", "f.json"):
        with pytest.raises(ValueError, match="is not a saved result"):
            Result.load(tmp_path / name)
    with pytest.raises(ValueError, match=r"saved as .json or .npz"):
        Result.load(tmp_path / "r.pt")


def test_a_fit_starts_with_an_empty_buffer(scenario):
    once = trainer()
    once.fit(scenario)
    with pytest.raises(ValueError, match="already holds 12 samples"):
        once.fit(scenario)


@pytest.mark.parametrize("policy", ["class-balanced", "herding"])
def test_a_buffer_without_room_for_every_class_is_refused_before_training(scenario, policy):
    epochs: list[int] = []

    class Watch(Callback):
        def on_epoch_end(self, event):
            epochs.append(event.epoch)

    with pytest.raises(ValueError, match="capacity 5 is smaller than the number of classes 6"):
        trainer(buffer=ReplayBuffer(5, policy), callbacks=[Watch()]).fit(scenario)
    assert not epochs
    # Neither a reservoir nor a buffer that the method leaves alone needs the room.
    trainer(buffer=ReplayBuffer(5), epochs=1).fit(scenario)
    trainer(buffer=ReplayBuffer(5, policy), method="finetune", epochs=1).fit(scenario)


class TwoHeads(nn.Module):
    """The logits come from the first linear layer, not from the last."""

    def __init__(self) -> None:
        super().__init__()
        self.logits = nn.Linear(2, 6)
        self.auxiliary = nn.Linear(2, 6)

    def forward(self, x: Tensor) -> Tensor:
        return self.logits(x)


@pytest.mark.parametrize(
    ("output", "found"),
    [
        (lambda z: z[:, :5], r"\[\d+, 5\]"),
        (lambda z: torch.cat([z, z], dim=1), r"\[\d+, 12\]"),
        (lambda z: z.sum(1), r"\[\d+\]"),
        (lambda z: (z, z), "tuple"),
        (lambda z: {"logits": z}, "dict"),
    ],
    ids=["fewer", "more", "vector", "tuple", "dict"],
)
def test_logits_of_another_shape_are_refused_before_training(scenario, output, found):
    class Model(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.head = nn.Linear(2, 6)

        def forward(self, x: Tensor) -> object:
            return output(self.head(x))

    with pytest.raises(ValueError, match=rf"must give \[N, 6\] logits, one .* got {found} for"):
        trainer(model=Model(), callbacks=[NoEpoch()]).fit(scenario)


class NoEpoch(Callback):
    def on_epoch_end(self, event) -> None:
        raise AssertionError("training has begun")


@pytest.mark.parametrize(
    ("model", "head", "message"),
    [
        (nn.Sequential(nn.Unflatten(1, (1, 2)), nn.Conv1d(1, 6, 2), nn.Flatten()), None, "no nn.L"),
        (
            nn.Sequential(
                nn.Linear(2, 3), nn.Unflatten(1, (1, 3)), nn.Conv1d(1, 6, 3), nn.Flatten()
            ),
            None,
            "num_classes = 6 outputs, got 3",
        ),
        (nn.Sequential(nn.Linear(2, 6), nn.Softmax(1)), None, "not the output of the head.*head="),
        (TwoHeads(), None, "not the output of the head.*head="),
        (TwoHeads(), "fc", r"\(logits, auxiliary\), got 'fc'"),
    ],
    ids=["none", "size", "softmax", "order", "name"],
)
def test_a_model_that_gradmix_cannot_score_is_refused_before_training(
    scenario, model, head, message
):
    mixer = GradMix(6, head=head)
    with pytest.raises(ValueError, match=message):
        trainer(model=model, mixer=mixer, callbacks=[NoEpoch()]).fit(scenario)
    trainer(model=TwoHeads(), mixer=GradMix(6, head="logits"), epochs=1).fit(scenario)


def test_a_model_that_herding_cannot_look_into_is_refused_before_training(scenario):
    for settings in ({"buffer": ReplayBuffer(12, "herding")}, {"method": "icarl"}):
        with pytest.raises(ValueError, match="are not the output of the head") as raised:
            trainer(model=TwoHeads(), callbacks=[NoEpoch()], **settings).fit(scenario)
        assert "head=" not in str(raised.value)  # there is nothing to name it by
    trainer(model=TwoHeads(), epochs=1).fit(scenario)


class NewLayer(Callback):
    """Puts a layer before the model once the training begins, as adapters do."""

    def __init__(self, model: nn.Sequential) -> None:
        self.model = model
        self.layer = nn.Linear(2, 2)

    def on_fit_begin(self, scenario) -> None:
        self.model.insert(0, self.layer)


def test_callbacks_hear_of_the_end_whatever_it_is(scenario):
    class Ended(Callback):
        ended = 0

        def on_fit_end(self) -> None:
            self.ended += 1

    ended = Ended()
    trainer(epochs=1, callbacks=[ended]).fit(scenario)
    with pytest.raises(InterruptionError):
        trainer(epochs=1, callbacks=[Interrupt(2), ended]).fit(scenario)
    assert ended.ended == 2


def test_a_layer_that_comes_as_the_training_begins_is_trained(scenario):
    model = nn.Sequential(nn.Linear(2, 8), nn.ReLU(), nn.Linear(8, 6))
    added = NewLayer(model)
    before = added.layer.weight.detach().clone()
    trainer(model=model, mixer="mixup", epochs=1, callbacks=[added]).fit(scenario)
    assert not torch.equal(added.layer.weight, before)


def test_layers_that_normalise_over_any_batch_can_be_scored(scenario):
    norm = nn.BatchNorm1d(8, track_running_stats=False)
    model = nn.Sequential(nn.Linear(2, 8), norm, nn.ReLU(), nn.Linear(8, 6))
    buffer = ReplayBuffer(12, "herding")
    trainer(model=model, mixer="gradmix", epochs=1, buffer=buffer).fit(scenario)


class WithoutHead(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(2, 6))

    def forward(self, x: Tensor) -> Tensor:
        return x @ self.weight


def test_where_nothing_is_scored_no_head_is_needed(scenario):
    trainer(model=WithoutHead(), mixer="gradmix", method="finetune", epochs=1).fit(scenario)
    whole = class_incremental(blobs(), tasks=1)
    trainer(model=WithoutHead(), mixer="gradmix", epochs=1).fit(whole)
    for method in ("er", "a-gem", "joint"):
        none_trained = trainer(
            model=WithoutHead(), mixer="gradmix", method=method, callbacks=[Interrupt(1)]
        )
        with pytest.raises(ValueError, match=r"no nn\.Linear"):
            none_trained.fit(scenario)


def test_models_that_take_shape_when_they_are_called(scenario):
    lazy = nn.Sequential(nn.LazyLinear(8), nn.ReLU(), nn.LazyLinear(6))
    GradMix(6).check(lazy, scenario.input_shape)
    assert lazy[0].in_features == 0  # it was not called
    buffer = ReplayBuffer(12, "herding")
    trainer(model=lazy, mixer=GradMix(6), buffer=buffer, epochs=1).fit(scenario)


def test_mixing_stops_in_each_task(scenario):
    """The trainer tells the mixer the epoch, counted anew in every task."""
    mixed: list[tuple[int, bool]] = []

    class Recorder(BalancedMixup):
        def mix(self, x: Tensor, y: Tensor):
            batch = super().mix(x, y)
            mixed.append((self.epoch, bool(batch.mask.any())))
            return batch

    trainer(mixer=Recorder(6, stop_epoch=2)).fit(scenario)
    assert {epoch for epoch, _ in mixed} == {0, 1, 2}
    assert all(was == (epoch < 2) for epoch, was in mixed)
