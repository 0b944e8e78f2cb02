"""The loss, the gradient and the prediction of every method, against plain implementations."""

from __future__ import annotations

import copy
import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy import optimize, stats
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils._python_dispatch import TorchDispatchMode

from gradmix_ext import GradMix, Mixup, NoMix
from gradmix_ext.continual import (
    AGEM,
    ER,
    ERACE,
    METHODS,
    ArrayDataset,
    DERPlusPlus,
    Finetune,
    ICaRL,
    Method,
    ReplayBuffer,
    Scenario,
    Stage,
    Trainer,
    class_incremental,
    method_by_name,
)
from gradmix_ext.continual.feed import Feed
from gradmix_ext.continual.replay import split_replay
from gradmix_ext.mixers import MixedBatch

BATCH = 10


def problem() -> Scenario:
    """Six classes in the plane, in three tasks, in double precision."""
    g = torch.Generator().manual_seed(0)
    y = torch.arange(6).repeat_interleave(15)
    x = torch.randn(90, 2, generator=g).double() + y[:, None]
    data = ArrayDataset("plane", x, y, x[::3], y[::3], tuple("abcdef"))
    return class_incremental(data, tasks=3, class_order_seed=1)


def network() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(2, 7), nn.BatchNorm1d(7), nn.Tanh(), nn.Linear(7, 6)).double()


def stages(
    model: nn.Module, method: Method, until: int, policy: str = "class-balanced"
) -> tuple[Stage, ReplayBuffer]:
    """The stage of a task, with the buffer that the tasks before it have left."""
    scenario = problem()
    generator = torch.Generator().manual_seed(2)
    buffer = ReplayBuffer(17, policy, torch.Generator().manual_seed(3))
    for task in scenario:
        stage = Stage(
            model,
            task,
            scenario.tasks[: task.index],
            scenario.seen_mask(task.index),
            buffer,
            BATCH,
            generator,
            Feed(None, torch.device("cpu")),
        )
        method.begin_task(stage)
        if task.index == until:
            break
        method.end_task(stage)
        with torch.no_grad():  # the model moves on
            for parameter in model.parameters():
                parameter.add_(0.3 * torch.randn(parameter.shape, generator=generator))
    return stage, buffer


def first_batch(
    stage: Stage, method: Method, mixer: Mixup | None = None
) -> tuple[MixedBatch, Tensor]:
    x, y = next(iter(method.batches(stage)))
    generator = torch.Generator().manual_seed(5)
    mixer = mixer or Mixup(per_sample_lam=True, balance=0.5, generator=generator)
    batch = mixer.mix(x, y)
    logits = batch.forward(stage.model)
    logits.retain_grad()
    return batch, logits


def labels(batch: MixedBatch) -> list[tuple[int, int, float]]:
    columns = (batch.target, batch.partner_target, batch.lam)
    return list(zip(*(column.tolist() for column in columns), strict=True))


def cross_entropy(z: Tensor, label: int, classes: list[int]) -> Tensor:
    """-log softmax of one sample over some classes."""
    return torch.log(sum(torch.exp(z[k]) for k in classes)) - z[label]


def gradients(loss: Tensor, *of: Tensor) -> list[Tensor]:
    return list(torch.autograd.grad(loss, of, retain_graph=True))


def assert_same(found: Tensor, expected: Tensor, *of: Tensor, tolerance: float = 1e-6) -> None:
    """Values and gradients agree; λ is drawn in single precision."""
    torch.testing.assert_close(found, expected, atol=tolerance, rtol=tolerance)
    for a, b in zip(gradients(found, *of), gradients(expected, *of), strict=True):
        torch.testing.assert_close(a, b, atol=tolerance, rtol=tolerance)


# ER-ACE -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("until", [0, 1, 2])
def test_er_ace_gives_each_label_its_own_softmax(until):
    method = ERACE()
    stage, _ = stages(network(), method, until)
    batch, logits = first_batch(stage, method)
    own = list(stage.task.classes)
    seen = stage.seen_mask.nonzero().flatten().tolist()
    assert len(logits) == (2 * BATCH if until else BATCH)
    each = []
    for row, (a, b, lam) in enumerate(labels(batch)):
        z, partner = logits[row], int(batch.partner[row])
        first = cross_entropy(z, a, own if row < BATCH else seen)
        second = cross_entropy(z, b, own if partner < BATCH else seen)
        each.append(batch.weight[row] * (lam * first + (1 - lam) * second))
    assert_same(method.loss(stage, batch, logits), torch.stack(each).mean(), logits)


def test_er_ace_leaves_the_old_logits_of_current_samples_alone():
    method = ERACE()
    stage, _ = stages(network(), method, 1)
    batch, logits = first_batch(stage, method, NoMix())
    (gradient,) = gradients(method.loss(stage, batch, logits), logits)
    old = stage.seen_mask & ~stage.current_mask
    assert gradient[:BATCH, old].abs().max() < 1e-12
    assert gradient[BATCH:, old].abs().min() > 1e-6
    # ER, in contrast, pushes them down.
    (plain,) = gradients(batch.loss(logits, class_mask=stage.seen_mask), logits)
    assert plain[:BATCH, old].min() > 1e-6


def test_er_ace_replays_every_class_alike():
    method = ERACE()
    stage, buffer = stages(network(), method, 2)
    assert torch.bincount(buffer.data[1], minlength=6).sort().values.tolist() == [0, 0, 4, 4, 4, 4]
    replayed, current = [], []
    for _ in range(200):
        for _, y in method.batches(stage):
            current.append(y[:-BATCH])
            replayed.append(y[-BATCH:])
    assert stage.current_mask[torch.cat(current)].all()
    count = torch.bincount(torch.cat(replayed), minlength=6)
    assert stats.chisquare(count.numpy()).pvalue > 1e-3


def test_er_ace_counts_a_class_that_comes_back_once():
    method = ERACE()
    stage, _ = stages(network(), method, 1)
    (first,) = stage.past
    again = replace(first, classes=(*first.classes, *stage.task.classes))
    stage = replace(stage, past=(again,))
    index = torch.cat([i[-BATCH:] for _ in range(200) for i in method.order(stage)])
    share = (index < len(stage.task.train_y)).double().mean()
    assert abs(share - 1 / 2) < 4.5 * (1 / 4 / len(index)) ** 0.5  # two of four classes are new


# DER++ --------------------------------------------------------------------------------------------


def test_derpp_stores_the_logits_of_the_end_of_a_task():
    model, method = network(), DERPlusPlus()
    stage, buffer = stages(model, method, 1)
    before = copy.deepcopy(model).eval()
    method.end_task(stage)
    x, y = buffer.data
    for row, label in enumerate(y.tolist()):
        is_new = label in stage.task.classes
        tasks = (*stage.past, stage.task) if is_new else stage.past
        known = sorted(k for task in tasks for k in task.classes)
        assert buffer.column("known")[row].nonzero().flatten().tolist() == known
        if is_new:
            torch.testing.assert_close(buffer.column("logits")[row], before(x[row : row + 1])[0])
        else:  # from before the model moved on
            assert not torch.allclose(buffer.column("logits")[row], before(x[row : row + 1])[0])
    assert len(set(y.tolist())) == 4
    assert model.training


@pytest.mark.parametrize(("alpha", "beta"), [(0.1, 0.5), (2.0, 0.0), (0.0, 1.5)])
def test_derpp_loss(alpha, beta):
    model, method = network().eval(), DERPlusPlus(alpha, beta)
    stage, buffer = stages(model, method, 2, "reservoir")
    state = buffer.generator.get_state()
    batch, logits = first_batch(stage, method)
    found = method.loss(stage, batch, logits)

    seen = stage.seen_mask.nonzero().flatten().tolist()
    each = [
        w * (lam * cross_entropy(z, a, seen) + (1 - lam) * cross_entropy(z, b, seen))
        for z, w, (a, b, lam) in zip(logits, batch.weight, labels(batch), strict=True)
    ]
    assert len(each) == 2 * BATCH
    assert stage.current_mask[batch.target[:BATCH]].all()
    assert not stage.current_mask[batch.target[BATCH:]].any()
    buffer.generator.set_state(state)
    buffer.draw(BATCH)  # the replayed part of the batch comes first
    total, count = torch.zeros(()), 0
    for row in buffer.draw(BATCH).tolist():
        z = model(buffer.column("x")[row : row + 1])[0]
        for k in range(6):
            if buffer.column("known")[row, k]:
                total = total + (z[k] - buffer.column("logits")[row, k]) ** 2
                count += 1
    expected = (
        torch.stack(each[:BATCH]).mean()
        + beta * torch.stack(each[BATCH:]).mean()
        + alpha * total / count
    )
    assert_same(found, expected, *model.parameters())


def test_derpp_without_weights_is_finetuning():
    model, method = network(), DERPlusPlus(0.0, 0.0)
    stage, _ = stages(model, method, 1)
    batch, logits = first_batch(stage, method, NoMix())
    own = NoMix().mix(batch.x[:BATCH], batch.target[:BATCH])
    assert_same(
        method.loss(stage, batch, logits),
        Finetune().loss(stage, own, logits[:BATCH]),
        *model.parameters(),
    )


def test_derpp_before_there_is_a_buffer():
    method = DERPlusPlus()
    stage, _ = stages(network(), method, 0)
    batch, logits = first_batch(stage, method)
    assert torch.equal(method.loss(stage, batch, logits), ER().loss(stage, batch, logits))


# iCaRL --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("until", [0, 1, 2])
def test_icarl_loss(until):
    model, method = network(), ICaRL()
    stage, _ = stages(model, method, until, "herding")
    old = copy.deepcopy(model).eval()
    with torch.no_grad():  # training has begun
        model[0].weight.add_(0.2)
    batch, logits = first_batch(stage, method)
    total = torch.zeros(())
    for row, (a, b, lam) in enumerate(labels(batch)):
        before = old(batch.x[row : row + 1])[0].detach()
        for k in stage.seen_mask.nonzero().flatten().tolist():
            if k in stage.task.classes:
                target = lam * (a == k) + (1 - lam) * (b == k)
            else:
                target = 1 / (1 + math.exp(-before[k]))
            p = torch.sigmoid(logits[row, k])
            cross = -target * torch.log(p) - (1 - target) * torch.log(1 - p)
            total = total + batch.weight[row] * cross
    assert_same(method.loss(stage, batch, logits), total / len(batch.target), logits)


def test_icarl_predicts_by_the_nearest_mean_of_exemplars():
    model, method = network(), ICaRL()
    stage, buffer = stages(model, method, 1, "herding")
    model.eval()
    x = stage.task.test_x
    assert torch.equal(method.predict(model, x), model(x))  # no means within a task
    method.end_task(stage)

    def phi(x: Tensor) -> np.ndarray:
        features = model[:3](x[None])[0].detach().numpy()
        return features / np.linalg.norm(features)

    held, y = buffer.data
    means = {}
    for k in set(y.tolist()):
        mean = np.mean([phi(sample) for sample in held[y == k]], axis=0)
        means[k] = mean / np.linalg.norm(mean)
    scores = method.predict(model, x)
    logits = model(x)
    for row in range(len(x)):
        for k in range(6):
            if k in means:
                expected = -np.sum((phi(x[row]) - means[k]) ** 2)
                assert scores[row, k].item() == pytest.approx(expected, abs=1e-9)
        without = [k for k in range(6) if k not in means]
        assert len(without) == 2
        assert scores[row, without].max() < min(scores[row, k] for k in means)
        assert scores[row, without].argmax() == logits[row, without].argmax()


def test_icarls_classifier_is_its_prediction_with_a_gradient():
    model, method = network(), ICaRL()
    stage, _ = stages(model, method, 1, "herding")
    method.end_task(stage)
    model.eval()
    x = stage.task.test_x
    again = ICaRL()
    again.load_state_dict(method.state_dict())
    classifier = again.classifier(model).eval()
    assert torch.allclose(classifier(x), method.predict(model, x), atol=1e-12)
    # Of scores with and without exemplars, by differences.
    assert torch.autograd.gradcheck(classifier, x[:2].clone().requires_grad_())
    assert not model[-1]._forward_hooks  # the model is as it was


def test_icarl_keeps_the_old_model_as_it_was():
    model, method = network(), ICaRL()
    stage, _ = stages(model, method, 1, "herding")
    saved = copy.deepcopy(model.state_dict())
    batch, logits = first_batch(stage, method)  # in training mode: statistics move
    method.loss(stage, batch, logits).backward()
    torch.optim.SGD(model.parameters(), lr=1.0).step()
    assert not torch.equal(model[1].running_mean, saved["1.running_mean"])
    state = method.state_dict()
    assert state["means"] is None
    for name, value in saved.items():
        assert torch.equal(state["old"][name], value), name


@pytest.mark.parametrize("name", METHODS)
def test_a_method_trains_anew_as_a_fresh_one_does(name):
    scenario, used = problem(), method_by_name(name)
    wider = class_incremental(
        ArrayDataset("wide", *_widened(scenario), tuple("abcdef")), tasks=3, class_order_seed=1
    )
    settings = {"mixer": "mixup", "epochs": 1, "batch_size": 16, "buffer": 12}
    Trainer(lambda scenario: nn.Linear(5, 6).double(), method=used, **settings).fit(wider)
    again, fresh = (
        Trainer(lambda scenario: network(), method=method, **settings).fit(scenario)
        for method in (used, method_by_name(name))
    )
    assert torch.equal(again.task_il_baseline, fresh.task_il_baseline)
    assert torch.equal(again.task_il_matrix, fresh.task_il_matrix)


def _widened(scenario: Scenario) -> tuple[Tensor, ...]:
    """Training and test samples with three features more."""
    parts = (scenario.samples("train"), scenario.samples("test"))
    return tuple(each for x, y in parts for each in (F.pad(x, (0, 3), value=1.0), y))


def test_icarl_asks_for_herding():
    trainer = Trainer(method="icarl", buffer=20)
    assert trainer.buffer.policy == "herding"
    assert Trainer(method="er", buffer=20).buffer.policy == "class-balanced"


def test_online_scores_follow_a_loss_that_is_not_the_batch_s_own():
    mixer = GradMix(6, update="online")
    Trainer(lambda scenario: network(), mixer, "icarl", buffer=12, epochs=1, batch_size=16).fit(
        problem()
    )
    assert mixer.scored.any()


# A-GEM --------------------------------------------------------------------------------------------


def flat(tensors) -> np.ndarray:
    return torch.cat([tensor.flatten() for tensor in tensors]).detach().numpy()


@pytest.mark.parametrize("sign", [1.0, -1.0])
def test_agem_solves_its_quadratic_program(sign):
    model, method = network(), AGEM()
    stage, buffer = stages(model, method, 1)
    model.eval()  # the batch's statistics would move between the two forwards
    state = buffer.generator.get_state()
    index = buffer.draw(BATCH)
    buffer.generator.set_state(state)
    x, y = (column[index] for column in buffer.data)
    logits = model(x).masked_fill(~stage.seen_mask, -torch.inf)
    reference = flat(torch.autograd.grad(F.cross_entropy(logits, y), list(model.parameters())))

    generator = torch.Generator().manual_seed(8)
    for parameter in model.parameters():
        parameter.grad = torch.randn(parameter.shape, generator=generator).double()
    if np.dot(flat(p.grad for p in model.parameters()), reference) * sign < 0:
        for parameter in model.parameters():
            parameter.grad.neg_()
    gradient = flat(p.grad for p in model.parameters())
    method.after_backward(stage)
    found = flat(p.grad for p in model.parameters())
    if sign > 0:
        assert np.array_equal(found, gradient)
        return
    solution = optimize.minimize(
        lambda g: 0.5 * np.sum((g - gradient) ** 2),
        gradient,
        jac=lambda g: g - gradient,
        constraints={"type": "ineq", "fun": lambda g: g @ reference, "jac": lambda g: reference},
        options={"ftol": 1e-14},
    )
    assert solution.success
    np.testing.assert_allclose(found, solution.x, atol=1e-6)
    assert abs(found @ reference) < 1e-10
    assert np.linalg.norm(found - gradient) > 1e-3


def test_agem_trains_on_current_samples_alone():
    method = AGEM()
    stage, _ = stages(network(), method, 2)
    drawn = [y for _, y in method.batches(stage)]
    assert sum(map(len, drawn)) == len(stage.task.train_y)
    assert stage.current_mask[torch.cat(drawn)].all()
    assert len(method.memory(stage)[1]) == 16


def test_agem_with_nothing_to_protect():
    # The softmax over one class has the gradient 0.
    model, method = network(), AGEM()
    stage, buffer = stages(model, method, 1)
    one = buffer.data[1] == buffer.data[1][0]
    alone = ReplayBuffer(17)
    alone.add(buffer.data[0][one], buffer.data[1][one])
    mask = torch.zeros(6, dtype=torch.bool)
    mask[buffer.data[1][0]] = True
    stage = Stage(model, stage.task, stage.past, mask, alone, BATCH, None, stage.feed)
    for parameter in model.parameters():
        parameter.grad = torch.ones_like(parameter)
    model[0].bias.grad = None  # a frozen parameter has none
    method.after_backward(stage)
    assert model[0].bias.grad is None
    assert all((p.grad == 1).all() for p in model.parameters() if p.grad is not None)


# All of them --------------------------------------------------------------------------------------


class NothingIsReadBack(TorchDispatchMode):
    """Fails where a GPU would have to be waited for."""

    WAITING = (
        torch.ops.aten._local_scalar_dense.default,
        torch.ops.aten.nonzero.default,
        torch.ops.aten.masked_select.default,
        torch.ops.aten._unique2.default,
    )

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        assert func not in self.WAITING, func
        if func is torch.ops.aten.index.Tensor:
            assert not any(i is not None and i.dtype == torch.bool for i in args[1])
        return func(*args, **kwargs or {})


@pytest.mark.parametrize("name", METHODS)
def test_a_step_reads_nothing_back(name, monkeypatch):
    # Labels are checked on the CPU alone, where that costs nothing.
    monkeypatch.setattr("gradmix_ext._checks.values_checked", lambda device: False)
    model, method = network(), method_by_name(name)
    stage, _ = stages(model, method, 1)
    mixer = GradMix(6, update="online")
    memory = method.memory(stage)
    mixer.update(model, stage.current, memory, seen_classes=stage.seen_mask)
    batches = iter(method.batches(stage))
    x, y = next(batches)
    assert stage.current_mask is not None  # made once a task
    with NothingIsReadBack():
        batch = mixer.mix(x, y)
        method.loss(stage, batch, batch.forward(model)).backward()
        method.after_backward(stage)
        next(batches)


def test_by_name():
    assert [type(method_by_name(name)) for name in METHODS] == list(METHODS.values())
    assert method_by_name("icarl", "split").replay == "split"
    method = method_by_name("der++", distill_weight=0.3, replay_weight=0.7)
    assert (method.distill_weight, method.replay_weight) == (0.3, 0.7)
    assert type(method_by_name("er", "split", distill_weight=0.3)) is ER
    with pytest.raises(ValueError, match=r"unknown method 'lwf': known are finetune, er, er-ace, "):
        method_by_name("lwf")
    with pytest.raises(TypeError, match="no method has an option 'distil_weight'"):
        method_by_name("der++", distil_weight=0.3)
    with pytest.raises(ValueError, match="unknown replay 'both'"):
        method_by_name("icarl", "both")


@pytest.mark.parametrize("option", ["distill_weight", "replay_weight"])
@pytest.mark.parametrize("value", [-0.1, math.nan, math.inf])
def test_weights_that_make_no_sense(option, value):
    with pytest.raises(ValueError, match=f"{option} must be at least 0 and finite, got {value}"):
        DERPlusPlus(**{option: value})


def test_what_replays_needs_a_buffer():
    for name in ("er-ace", "der++", "icarl", "a-gem"):
        with pytest.raises(ValueError, match="replays samples: give buffer"):
            Trainer(method=name)


class BatchesOfItsOwn(DERPlusPlus):
    def batches(self, stage):
        current = len(stage.task.train_y)
        index = split_replay(stage.order(current), current, self.buffer(stage), stage.batch_size)
        return stage.feed.batches(*self.pool(stage), index)


def test_derpp_with_other_batches_draws_the_second_one_when_it_is_needed():
    buffer = ReplayBuffer(12, generator=torch.Generator().manual_seed(0))
    trainer = Trainer(
        network(), method=BatchesOfItsOwn(), buffer=buffer, epochs=2, batch_size=BATCH
    )
    assert trainer.fit(problem()).accuracy_matrix[-1, -1] > 0.5
