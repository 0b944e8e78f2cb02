"""Class-incremental training: plain experience replay here and in Avalanche, side by side.

Samples per second of training alone, without tests; and the final accuracies, which must agree.
``pip install avalanche-lib`` brings the other side.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import Dataset, TensorDataset

import gradmix_ext as gx
from gradmix_ext.continual import ER, ArrayDataset, ReplayBuffer, Trainer, load_dataset
from gradmix_ext.continual.data import concatenate
from gradmix_ext.continual.methods import Stage
from gradmix_ext.continual.models import mlp
from gradmix_ext.continual.replay import split_replay
from gradmix_ext.mixers import ImageTransform, MixedBatch

SEEDS = range(4)
BATCH = 64
MEMORY = 20


class Timed(ER):
    """Experience replay with a clock, over all classes of the head as in Avalanche.

    Args:
        replayed: Samples that are replayed in a step. Avalanche replays no sample twice in a step:
            asked for a batch of 64, it takes the 20 that a buffer of 20 has.
    """

    def __init__(self, replayed: int) -> None:
        super().__init__("split")
        self.replayed = replayed
        self.samples = 0
        self.seconds = 0.0

    def batches(self, stage: Stage) -> Iterator[Any]:
        started = time.perf_counter()
        buffer, current = self.buffer(stage), len(stage.task.train_y)
        held = () if buffer.data is None else (buffer.data,)
        x = concatenate([stage.task.train_x, *(x for x, _ in held)])
        y = torch.cat([stage.task.train_y, *(y for _, y in held)])
        order = split_replay(stage.order(current), current, buffer, self.replayed)
        for batch in stage.feed.batches(x, y, order):
            self.samples += len(batch[1])
            yield batch
        self.seconds += time.perf_counter() - started

    def loss(self, stage: Stage, batch: MixedBatch, logits: Tensor) -> Tensor:
        return batch.loss(logits)


def train_here(
    data: ArrayDataset, model: nn.Module, replayed: int, tasks: int, epochs: int, seed: int
) -> Any:
    """(samples, seconds, final accuracy, class order)."""
    scenario = gx.continual.class_incremental(data, tasks=tasks, class_order_seed=seed)
    method = Timed(replayed)
    buffer = ReplayBuffer(MEMORY, "class-balanced", torch.Generator().manual_seed(seed))
    result = Trainer(model, "none", method, buffer, epochs=epochs, batch_size=BATCH, seed=seed).fit(
        scenario
    )
    return method.samples, method.seconds, result.final_accuracy, scenario.class_order


def train_there(
    train: Any, data: ArrayDataset, order: Any, model: nn.Module, tasks: int, epochs: int, seed: int
) -> Any:
    """(samples, seconds, final accuracy) of Avalanche's Naive with its ReplayPlugin."""
    from avalanche.benchmarks import nc_benchmark
    from avalanche.core import SupervisedPlugin
    from avalanche.training.plugins import EvaluationPlugin, ReplayPlugin
    from avalanche.training.storage_policy import ClassBalancedBuffer
    from avalanche.training.supervised import Naive

    class Count(SupervisedPlugin):
        samples = 0

        def before_forward(self, strategy: Any, **kwargs: Any) -> None:
            self.samples += len(strategy.mb_y)

    test = TensorDataset(ready(data, data.test_x), data.test_y)
    test.targets = data.test_y.tolist()
    benchmark = nc_benchmark(
        train, test, n_experiences=tasks, task_labels=False, fixed_class_order=list(order)
    )
    count = Count()
    torch.manual_seed(seed)
    strategy = Naive(
        model=model,
        optimizer=torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9),
        criterion=nn.CrossEntropyLoss(),
        train_mb_size=BATCH,
        train_epochs=epochs,
        plugins=[ReplayPlugin(MEMORY, storage_policy=ClassBalancedBuffer(MEMORY)), count],
        evaluator=EvaluationPlugin(loggers=[]),
        device="cpu",
    )
    started = time.perf_counter()
    for experience in benchmark.train_stream:
        strategy.train(experience)
    seconds = time.perf_counter() - started
    model.eval()
    with torch.no_grad():
        hit = (model(test.tensors[0]).argmax(1) == data.test_y).float()
    accuracy = [
        hit[torch.isin(data.test_y, torch.tensor(list(e.classes_in_this_experience)))].mean().item()
        for e in benchmark.train_stream
    ]
    return count.samples, seconds, sum(accuracy) / tasks


def ready(data: ArrayDataset, x: Any) -> Tensor:
    return gx.continual.feed.Feed(data.transform, torch.device("cpu")).view(x)[:]


def compare(
    benchmark: Any,
    make_model: Any,
    data: ArrayDataset,
    train: Any,
    replayed: int,
    **settings: Any,
) -> Any:
    """Time both in turn, seed by seed; report rates, their ratio, and the accuracies."""
    gx.loader.load()
    train_here(data, make_model(), replayed, seed=0, **settings)  # what runs first runs slower
    here, there = [], []
    for seed in SEEDS:
        torch.manual_seed(seed)
        *mine, order = train_here(data, make_model(), replayed, seed=seed, **settings)
        torch.manual_seed(seed)
        here.append(mine)
        there.append(train_there(train, data, order, make_model(), seed=seed, **settings))
    rates = [sorted(n / s for n, s, _ in side)[len(side) // 2] for side in (here, there)]
    accuracy = [torch.tensor([a for *_, a in side]) for side in (here, there)]
    benchmark.extra_info.update(
        samples_per_second=round(rates[0]),
        avalanche_samples_per_second=round(rates[1]),
        ratio=round(rates[0] / rates[1], 2),
        accuracy=round(accuracy[0].mean().item(), 3),
        avalanche_accuracy=round(accuracy[1].mean().item(), 3),
    )
    print("\n", benchmark.extra_info)
    benchmark.pedantic(
        lambda: train_here(data, make_model(), replayed, seed=0, **settings),
        rounds=1,
        iterations=1,
    )
    return accuracy


@pytest.mark.parametrize("replayed", [MEMORY, BATCH])
def test_split_digits(benchmark, replayed):
    pytest.importorskip("avalanche")
    data = load_dataset("digits")
    train = TensorDataset(data.train_x, data.train_y)
    train.targets = data.train_y.tolist()
    here, there = compare(
        benchmark, lambda: mlp((64,), 10), data, train, replayed, tasks=5, epochs=10
    )
    if replayed == MEMORY:  # the same training on both sides
        spread = (here.var() / len(here) + there.var() / len(there)).sqrt()
        assert (here.mean() - there.mean()).abs() < 3 * spread + 0.03


class Pictures(Dataset[Any]):
    """uint8 images through torchvision's transforms, one by one, as its data sets do."""

    def __init__(self, data: ArrayDataset) -> None:
        from PIL import Image
        from torchvision import transforms

        images = data.train_x.permute(0, 2, 3, 1).numpy()
        self.images = [Image.fromarray(image) for image in images]
        self.targets = data.train_y.tolist()
        self.transform = transforms.Compose(
            [
                transforms.RandomCrop(32, padding=data.transform.padding),
                transforms.RandomHorizontalFlip(),
                transforms.ToTensor(),
                transforms.Normalize(data.transform.mean, data.transform.std),
            ]
        )

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> Any:
        return self.transform(self.images[index]), self.targets[index]


def pictures() -> ArrayDataset:
    """CIFAR-shaped images of ten noisy patterns."""
    g = torch.Generator().manual_seed(0)
    pattern = torch.rand(10, 3, 32, 32, generator=g)
    y, test_y = torch.arange(10).repeat_interleave(200), torch.arange(10).repeat_interleave(20)
    x, test_x = (
        ((pattern[v] + torch.rand(len(v), 3, 32, 32, generator=g)) * 127).to(torch.uint8)
        for v in (y, test_y)
    )
    transform = ImageTransform((0.49, 0.48, 0.45), (0.25, 0.24, 0.26), padding=4, hflip=True)
    names = tuple(str(k) for k in range(10))
    return ArrayDataset("patterns", x, y, test_x, test_y, names, (3, 32, 32), transform)


def test_images_with_crop_and_flip(benchmark):
    """A model small enough for the data pipeline to be what counts."""
    pytest.importorskip("avalanche")
    pytest.importorskip("torchvision")
    data = pictures()

    def model() -> nn.Module:
        return nn.Sequential(
            nn.Conv2d(3, 8, 4, stride=4), nn.ReLU(), nn.Flatten(), nn.Linear(8 * 64, 10)
        )

    compare(benchmark, model, data, Pictures(data), MEMORY, tasks=5, epochs=2)
