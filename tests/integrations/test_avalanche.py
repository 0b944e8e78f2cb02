"""The plugin in the real Avalanche: what the criterion gets, what the loss is, what is refused."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import TensorDataset

import gradmix_ext as gx

pytest.importorskip("avalanche", reason="pip install 'gradmix_ext[integrations]'")

from avalanche.benchmarks import benchmark_from_datasets, nc_benchmark
from avalanche.benchmarks.scenarios.online import split_online_stream
from avalanche.benchmarks.utils import as_classification_dataset
from avalanche.core import SupervisedPlugin
from avalanche.evaluation.metrics import accuracy_metrics, loss_metrics
from avalanche.models import IncrementalClassifier, MTSimpleMLP
from avalanche.training import (
    AGEM,
    DER,
    ER_ACE,
    EWC,
    Cumulative,
    GDumb,
    GSS_greedy,
    JointTraining,
    LwF,
    Naive,
    Replay,
)
from avalanche.training.plugins import (
    EvaluationPlugin,
    EWCPlugin,
    LwFPlugin,
    MIRPlugin,
    ReplayPlugin,
    SynapticIntelligencePlugin,
)
from avalanche.training.storage_policy import ClassBalancedBuffer
from spy import Spy

from gradmix_ext.integrations.avalanche import MixerPlugin

pytestmark = [
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::UserWarning"),
]

C, PER_CLASS, LR = 6, 12, 0.5


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def samples() -> tuple[Tensor, Tensor]:
    y = torch.arange(C).repeat_interleave(PER_CLASS)
    return torch.eye(C)[y].repeat(1, 2) + 0.3 * torch.randn(len(y), 2 * C, generator=seeded()), y


def benchmark(task_labels: bool = False) -> Any:
    x, y = samples()
    data = TensorDataset(x, y)
    data.targets = y.tolist()
    return nc_benchmark(
        data, data, 3, task_labels=task_labels, fixed_class_order=[3, 1, 0, 5, 2, 4]
    )


def network(classes: int = C) -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(2 * C, 16), nn.ReLU(), nn.Linear(16, classes))


def strategy(
    kind: type = Naive, plugins: Sequence[Any] = (), model: nn.Module | None = None, **options: Any
) -> Any:
    model = model or network()
    settings: dict[str, Any] = {
        "criterion": nn.CrossEntropyLoss(),
        "train_mb_size": 8,
        "train_epochs": 3,
        "eval_mb_size": 64,
        "evaluator": EvaluationPlugin(loggers=[]),
    }
    optimizer = torch.optim.SGD(model.parameters(), lr=LR)
    return kind(model=model, optimizer=optimizer, plugins=list(plugins), **settings | options)


def train(agent: Any, experiences: Any = None) -> None:
    for experience in benchmark().train_stream if experiences is None else experiences:
        agent.train(experience)


@pytest.mark.parametrize("softmax", ["all", "seen"])
def test_what_the_criterion_gets(softmax):
    mixer = Spy(C)
    replay = ReplayPlugin(9, storage_policy=ClassBalancedBuffer(9))
    agent = strategy(plugins=[replay, MixerPlugin(mixer, softmax=softmax)])
    x, y = samples()
    classes = [{1, 3}, {0, 5}, {2, 4}]
    for task, experience in enumerate(benchmark().train_stream):
        held = [(x, int(y)) for x, y, _ in replay.storage_policy.buffer]
        mixer.calls.clear()
        agent.train(experience)
        assert [epoch for _, epoch, *_ in mixer.calls] == [0, 1, 2]
        for _, _, current, buffer, seen in mixer.calls:
            assert (seen is None) == (softmax == "all")
            if seen is not None:
                assert set(seen) == set.union(*classes[: task + 1])
            new = torch.isin(y, torch.tensor(sorted(classes[task])))
            assert torch.equal(current[1].sort().values, y[new].sort().values)
            for i in (0, 5, len(current[1]) - 1):
                assert (current[0][torch.tensor([i])] == x[y == current[1][i]]).all(1).any()
            assert (buffer is None) == (task == 0)
            if buffer is not None:
                assert torch.equal(buffer[0][:], torch.stack([x for x, _ in held]))
                assert buffer[1].tolist() == [y for _, y in held]


def test_one_step_is_the_mixed_loss(monkeypatch):
    """The weights after a step, against the step written out."""
    mixer = gx.BalancedMixup(C, balance=0.5, generator=seeded(3))
    agent = strategy(plugins=[MixerPlugin(mixer)], train_epochs=1, train_mb_size=2 * PER_CLASS)
    twin, other = network(), gx.BalancedMixup(C, balance=0.5, generator=seeded(3))
    batches = []
    plain = mixer.mix
    monkeypatch.setattr(mixer, "mix", lambda x, y: batches.append((x, y)) or plain(x, y))
    train(agent, benchmark().train_stream[:1])
    ((x, y),) = batches
    batch = other.mix(x, y)
    batch.loss(twin(batch.x)).backward()
    torch.optim.SGD(twin.parameters(), lr=LR).step()
    for ours, theirs in zip(agent.model.parameters(), twin.parameters(), strict=True):
        torch.testing.assert_close(ours, theirs)


def test_without_mixing_everything_is_as_without_the_plugin():
    models = []
    for plugins in ([], [MixerPlugin(gx.NoMix())]):
        agent = strategy(plugins=[ReplayPlugin(9), EWCPlugin(1.0), LwFPlugin(1.0, 2.0), *plugins])
        torch.manual_seed(1)
        train(agent)
        models.append(agent.model)
    for ours, theirs in zip(models[0].parameters(), models[1].parameters(), strict=True):
        torch.testing.assert_close(ours, theirs)


MIXERS = {
    "gradmix": lambda: gx.GradMix(C),
    "paper": lambda: gx.GradMix(C, preset="paper", update=2),
    "online": lambda: gx.GradMix(C, update="online"),
    "random-mask": lambda: gx.RandomMaskMixup(C),
    "balanced": lambda: gx.BalancedMixup(C),
    "mixup": lambda: gx.Mixup(stop_epoch=2),
    "manifold": lambda: gx.ManifoldMixup(),
}

OTHERS = {
    "replay": lambda: [],
    "ewc": lambda: [EWCPlugin(1.0)],
    "lwf": lambda: [LwFPlugin(1.0, 2.0)],
    "si": lambda: [SynapticIntelligencePlugin(0.1)],
    "mir": lambda: [MIRPlugin(batch_size_mem=4, mem_size=20, subsample=8)],
}


@pytest.mark.parametrize("others", OTHERS)
@pytest.mark.parametrize("name", MIXERS)
def test_mixers_and_plugins(name, others):
    mixer = MIXERS[name]()
    agent = strategy(plugins=[ReplayPlugin(12), *OTHERS[others](), MixerPlugin(mixer)])
    train(agent)
    x, y = samples()
    assert (agent.model(x).argmax(1) == y).float().mean() > 1 / C
    assert type(agent._criterion) is nn.CrossEntropyLoss
    if isinstance(mixer, gx.GradMix):
        assert mixer.scored.all()
        assert mixer.scores.isfinite().all()


STRATEGIES = {
    "Cumulative": (Cumulative, {}),
    "AGEM": (AGEM, {"patterns_per_exp": 8, "sample_size": 8}),
    "Replay": (Replay, {"mem_size": 12}),
    "GDumb": (GDumb, {"mem_size": 12}),
}


@pytest.mark.parametrize("name", STRATEGIES)
def test_the_memory_of_strategies(name):
    """In the last task the criterion protects samples of the four earlier classes, and no other."""
    kind, options = STRATEGIES[name]
    mixer = Spy(C)
    train(strategy(kind, [MixerPlugin(mixer)], **options))
    _, _, current, buffer, _ = mixer.calls[-1]
    assert set(current[1].tolist()) == {2, 4}
    assert set(buffer[1].tolist()) == {0, 1, 3, 5}
    x, y = samples()
    assert len(buffer[0][:]) == len(buffer[1])
    if name == "Cumulative":
        assert len(buffer[1]) == 4 * PER_CLASS
    for image, label in zip(buffer[0][:], buffer[1], strict=True):
        assert (image == x[y == label]).all(1).any()


@pytest.mark.parametrize(
    ("kind", "options"),
    [(EWC, {"ewc_lambda": 1.0}), (LwF, {"alpha": 1.0, "temperature": 2.0})],
)
def test_strategies_without_memory_take_mixers_without_a_criterion(kind, options):
    train(strategy(kind, [MixerPlugin(gx.Mixup())], **options))
    with pytest.raises(ValueError, match=f"GradMix protects .* and {kind.__name__} has none"):
        train(strategy(kind, [MixerPlugin(gx.GradMix(C))], **options))


def test_joint_training():
    agent = strategy(JointTraining, [MixerPlugin(gx.Mixup())])
    agent.train(benchmark().train_stream)


@pytest.mark.parametrize("given", ["plugin", "policy", "data set", "function"])
def test_a_buffer_of_ones_own(given):
    x, y = samples()
    policy = ClassBalancedBuffer(8)
    held = as_classification_dataset(_targets(TensorDataset(x[:30], y[:30]), y[:30]))
    replay = ReplayPlugin(8, storage_policy=policy)
    buffer = {
        "plugin": replay,
        "policy": policy,
        "data set": held,
        "function": lambda: held,
    }[given]
    mixer = Spy(C)
    plugins = [replay] if given in ("plugin", "policy") else []
    train(strategy(plugins=[*plugins, MixerPlugin(mixer, buffer=buffer)]))
    labels = mixer.calls[-1][3][1].tolist()
    assert labels
    assert set(labels) <= {0, 1, 3, 5}


def held(classes: Sequence[int]) -> Any:
    """A data set of Avalanche with the samples of these classes."""
    x, y = samples()
    kept = torch.isin(y, torch.tensor(classes))
    return as_classification_dataset(_targets(TensorDataset(x[kept], y[kept]), y[kept]))


@pytest.mark.parametrize("given", [True, False])
def test_samples_from_before_the_strategy(given):
    """A strategy that goes on where another one stopped protects what it was given."""
    replay = ReplayPlugin(9)
    train(strategy(plugins=[replay]), benchmark().train_stream[:1])
    mixer = Spy(C)
    plugins = [MixerPlugin(mixer, buffer=held([1, 3]))] if given else [replay, MixerPlugin(mixer)]
    train(strategy(plugins=plugins), benchmark().train_stream[1:2])
    assert all(set(buffer[1].tolist()) == {1, 3} for *_, buffer, _ in mixer.calls)
    assert len(mixer.calls) == 3


def of_data_sets() -> Any:
    return benchmark_from_datasets(train=[held([3, 1]), held([0, 5]), held([2, 4])]).train_stream


def online() -> Any:
    return split_online_stream(benchmark().train_stream, experience_size=PER_CLASS)


@pytest.mark.parametrize("stream", [of_data_sets, online])
def test_experiences_that_do_not_tell_their_classes(stream):
    mixer = Spy(C)
    train(strategy(plugins=[ReplayPlugin(9), MixerPlugin(mixer, softmax="seen")]), stream())
    _, _, current, buffer, seen = mixer.calls[-1]
    assert set(current[1].tolist()) == {2, 4}
    assert set(buffer[1].tolist()) == {0, 1, 3, 5}
    assert seen == set(range(C))


def _targets(data: Any, y: Tensor) -> Any:
    data.targets = y.tolist()
    return data


class Keep(SupervisedPlugin):
    """Keeps what later plugins see of a batch."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[Tensor] = []

    def after_training_iteration(self, strategy: Any, **kwargs: Any) -> None:
        self.seen.append(strategy.mb_x)


def test_after_the_step_the_samples_are_as_they_were():
    keep = Keep()
    train(strategy(plugins=[keep, MixerPlugin(gx.Mixup())]))
    x, _ = samples()
    assert all((row == x).all(1).any() for batch in keep.seen for row in batch)


def test_metrics_and_evaluation_during_training():
    evaluator = EvaluationPlugin(
        accuracy_metrics(epoch=True, experience=True, stream=True),
        loss_metrics(epoch=True, experience=True),
        loggers=[],
    )
    agent = strategy(
        plugins=[ReplayPlugin(12), MixerPlugin(gx.GradMix(C))], evaluator=evaluator, eval_every=1
    )
    stream = benchmark()
    for experience in stream.train_stream:
        agent.train(experience, eval_streams=[stream.test_stream])
        results = agent.eval(stream.test_stream)
    x, y = samples()
    with torch.no_grad():
        logits = agent.model(x)
    accuracy = (logits.argmax(1) == y).float().mean().item()
    assert results["Top1_Acc_Stream/eval_phase/test_stream/Task000"] == pytest.approx(accuracy)
    own = torch.isin(y, torch.tensor([2, 4]))
    assert results["Loss_Exp/eval_phase/test_stream/Task000/Exp002"] == pytest.approx(
        F.cross_entropy(logits[own], y[own]).item(), rel=1e-5
    )


def test_label_smoothing_of_the_criterion_is_kept(monkeypatch):
    smoothing = []
    plain = gx.MixedBatch.loss

    def loss(self, logits, **options):
        smoothing.append(options["label_smoothing"])
        return plain(self, logits, **options)

    monkeypatch.setattr(gx.MixedBatch, "loss", loss)
    train(
        strategy(
            plugins=[MixerPlugin(gx.Mixup())], criterion=nn.CrossEntropyLoss(label_smoothing=0.2)
        )
    )
    assert set(smoothing) == {0.2}


def test_a_loss_of_ones_own():
    calls = []

    def loss(batch, logits):
        calls.append(batch)
        return batch.weighted(
            batch.lam * F.multi_margin_loss(logits, batch.target, reduction="none")
        ).mean()

    mixer = gx.GradMix(C, update="online")
    train(
        strategy(
            plugins=[ReplayPlugin(12), MixerPlugin(mixer, loss=loss)],
            criterion=nn.MultiMarginLoss(),
        )
    )
    assert calls
    assert mixer.scored.all()  # the scores of online mixing come from the training forwards


def test_softmax_over_the_seen_classes():
    """The outputs of classes that have not come yet get no gradient."""
    agent = strategy(plugins=[MixerPlugin(gx.Mixup(), softmax="seen")])
    start = agent.model[-1].weight.detach().clone()
    train(agent, benchmark().train_stream[:2])
    moved = (agent.model[-1].weight != start).any(1)
    assert moved.nonzero()[:, 0].tolist() == [0, 1, 3, 5]


def test_the_plugin_can_be_copied():
    agent = strategy(plugins=[ReplayPlugin(12), MixerPlugin(gx.GradMix(C))])
    train(agent, benchmark().train_stream[:1])
    train(copy.deepcopy(agent), benchmark().train_stream[1:])


def test_a_step_that_fails_leaves_no_trace():
    class Interrupted(nn.Sequential):
        def forward(self, x: Tensor) -> Tensor:
            if self.training:
                raise MemoryError
            return super().forward(x)

    agent = strategy(
        plugins=[MixerPlugin(gx.ManifoldMixup())],
        model=Interrupted(*network()),
        evaluator=EvaluationPlugin(accuracy_metrics(stream=True), loggers=[]),
    )
    stream = benchmark()
    with pytest.raises(MemoryError):
        train(agent, stream.train_stream)
    results = agent.eval(stream.test_stream)
    x, y = samples()
    accuracy = (agent.model.eval()(x).argmax(1) == y).float().mean().item()
    assert results["Top1_Acc_Stream/eval_phase/test_stream/Task000"] == pytest.approx(accuracy)


class Intruder(SupervisedPlugin):
    def before_forward(self, strategy: Any, **kwargs: Any) -> None:
        strategy.mbatch[1] = strategy.mb_y.clone()


class OwnLoss(SupervisedPlugin):
    """Takes the criterion away, as CoPEPlugin does."""

    def before_training_exp(self, strategy: Any, **kwargs: Any) -> None:
        strategy._criterion = nn.CrossEntropyLoss()


def test_a_plugin_that_changes_the_batch_must_come_before():
    train(strategy(plugins=[Intruder(), MixerPlugin(gx.Mixup())]))
    with pytest.raises(RuntimeError, match="put MixerPlugin last in plugins="):
        train(strategy(plugins=[MixerPlugin(gx.Mixup()), Intruder()]))


def test_a_loss_that_is_not_the_mixed_one_is_noticed():
    with pytest.raises(RuntimeError, match="Naive took its loss without its criterion"):
        train(strategy(plugins=[MixerPlugin(gx.Mixup()), OwnLoss()]))


class GrowingModel(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.head = IncrementalClassifier(2 * C, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(x)


BAD = {
    "no replay buffer": (
        lambda: strategy(plugins=[MixerPlugin(gx.GradMix(C))]),
        r"GradMix protects what a replay buffer holds and Naive has none: add ReplayPlugin\(",
    ),
    "no head": (
        lambda: strategy(
            plugins=[ReplayPlugin(9), MixerPlugin(gx.GradMix(C))],
            model=nn.Sequential(nn.Unflatten(1, (1, -1)), nn.Conv1d(1, C, 2 * C), nn.Flatten()),
        ),
        r"no nn\.Linear to take as head",
    ),
    "a head that is named wrongly": (
        lambda: strategy(plugins=[ReplayPlugin(9), MixerPlugin(gx.GradMix(C, head="fc"))]),
        "head must name an nn.Linear of the model .*, got 'fc'",
    ),
    "a head of another size": (
        lambda: strategy(plugins=[ReplayPlugin(9), MixerPlugin(gx.GradMix(C))], model=network(9)),
        "an output for each of the 6 classes of GradMix",
    ),
    "a head that grows": (
        lambda: strategy(
            plugins=[ReplayPlugin(9), MixerPlugin(gx.GradMix(C))], model=GrowingModel()
        ),
        "a head that grows cannot be scored",
    ),
    "a head per task": (
        lambda: strategy(plugins=[MixerPlugin(gx.Mixup())], model=MTSimpleMLP()),
        "the model has a head per task",
    ),
    "class weights": (
        lambda: strategy(
            plugins=[MixerPlugin(gx.Mixup())], criterion=nn.CrossEntropyLoss(torch.ones(C))
        ),
        r"the criterion must be nn\.CrossEntropyLoss without class weights",
    ),
    "another criterion": (
        lambda: strategy(plugins=[MixerPlugin(gx.Mixup())], criterion=nn.MultiMarginLoss()),
        r"got MultiMarginLoss\(\); for another give loss=",
    ),
    "a training epoch of its own": (
        lambda: strategy(ER_ACE, [MixerPlugin(gx.Mixup())], mem_size=12),
        "ER_ACE has a training_epoch of its own",
    ),
    "another": (
        lambda: strategy(DER, [MixerPlugin(gx.Mixup())], mem_size=12),
        "DER has a training_epoch of its own",
    ),
    "memory of mixed samples": (
        lambda: strategy(
            GSS_greedy, [MixerPlugin(gx.Mixup())], mem_size=12, input_size=[2 * C], mem_strength=1
        ),
        "GSS_greedyPlugin would keep mixed samples",
    ),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_use(case):
    make, message = BAD[case]
    with pytest.raises(ValueError, match=message):
        train(make())


def test_task_labels():
    agent = strategy(plugins=[ReplayPlugin(9), MixerPlugin(gx.GradMix(C))])
    with pytest.raises(ValueError, match=r"task labels \[1\]: .* with task_labels=False"):
        train(agent, benchmark(task_labels=True).train_stream)


def test_softmax_is_known():
    with pytest.raises(ValueError, match="softmax must be one of all, seen, got 'new'"):
        MixerPlugin(gx.Mixup(), softmax="new")
