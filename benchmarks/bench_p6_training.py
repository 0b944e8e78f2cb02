"""P6: epochs of GradMix against epochs of plain replay, and plain replay against Avalanche's.

Times are those of training alone, without tests: by clocks that the runs themselves hold.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import Dataset, TensorDataset

import gradmix_ext as gx
from gradmix_ext.bench import Case, Role, Setting, Target, Timed, Workload
from gradmix_ext.bench.measure import WrongResult
from gradmix_ext.continual import ER, ArrayDataset, ReplayBuffer, Trainer, load_dataset
from gradmix_ext.continual.callbacks import Callback
from gradmix_ext.continual.data import concatenate
from gradmix_ext.continual.methods import Stage
from gradmix_ext.continual.models.by_name import build_model
from gradmix_ext.continual.optimization import optimizer_by_name
from gradmix_ext.continual.replay import split_replay
from gradmix_ext.mixers import ImageTransform, MixedBatch

BATCH, MEMORY = 64, 20


def patterns(per_class: dict[int, int], size: int) -> ArrayDataset:
    """Noisy images of large patches of colour, which survive crops, so many of each class."""
    g = torch.Generator().manual_seed(0)
    classes = len(per_class)
    pattern = torch.rand(classes, 3, 2, 2, generator=g).repeat_interleave(size // 2, 2)
    pattern = pattern.repeat_interleave(size // 2, 3)
    counts = torch.tensor([per_class[k] for k in range(classes)])
    y, test_y = torch.arange(classes).repeat_interleave(counts), torch.arange(classes).repeat(20)
    x, test_x = (
        ((pattern[v] + torch.rand(len(v), 3, size, size, generator=g)) * 127).to(torch.uint8)
        for v in (y, test_y)
    )
    transform = ImageTransform((0.49, 0.48, 0.45), (0.25, 0.24, 0.26), padding=4, hflip=True)
    names = tuple(str(k) for k in range(classes))
    return ArrayDataset("patterns", x, y, test_x, test_y, names, (3, size, size), transform)


# Epochs of GradMix --------------------------------------------------------------------------------


class LastEpoch(Callback):
    """Seconds of the last epoch, with what begins it: scores of the class pairs."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.seconds, self.began = 0.0, time.perf_counter()

    def clock(self) -> float:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        return time.perf_counter()

    def on_epoch_end(self, event: Any) -> None:
        now = self.clock()
        self.seconds, self.began = now - self.began, now

    def on_task_end(self, event: Any) -> None:
        self.began = self.clock()


def epoch_of(**options):
    """One fit; the seconds of its last epoch. `options` are those of GradMix, if any."""

    def prepare(setting, device):
        data = setting["data"]()
        scenario = gx.continual.class_incremental(
            data, base=setting["base"], increment=setting["increment"], class_order_seed=None
        )

        def call():
            clock = LastEpoch(device)
            g = torch.Generator(device).manual_seed(0)
            classes = len(data.class_names)
            mixer = gx.GradMix(classes, generator=g, **options) if options else "none"
            trainer = Trainer(
                lambda s: setting["model"](s.input_shape, s.num_classes), mixer, "er",
                setting["buffer"], epochs=setting["epochs"], batch_size=BATCH, device=device,
                callbacks=[clock],
            )  # fmt: skip
            result = trainer.fit(scenario)
            learned = result.accuracy_matrix[-1, -1].item()
            if not learned > 1.5 / classes:
                raise WrongResult(f"learned nothing: accuracy {learned:.2f} on the last task")
            return Timed(clock.seconds, learned)

        return call

    return prepare


def by_digits():
    return load_dataset("digits")


def last_task_of_split_cifar10():
    """Its numbers of samples and classes: 500 of 8 classes, all in the buffer, then 10,000 of 2.

    Images have a sixteenth of the pixels, so that an epoch takes seconds, whatever it does.
    """
    return patterns(dict.fromkeys(range(8), 63) | {8: 5000, 9: 5000}, 8)


EPOCHS = (
    Setting(
        "Split-Digits, MLP 64-256-256-10",
        {
            "data": by_digits,
            "base": 5,
            "increment": 5,
            "model": lambda shape, classes: build_model("mlp", shape, classes),
            "buffer": MEMORY,
            "epochs": 6,
        },
        quick=True,
    ),
    Setting(
        "10000 images 3x8x8 and 504 in the buffer, ResNet-18 with CIFAR stem",
        {
            "data": last_task_of_split_cifar10,
            "base": 8,
            "increment": 2,
            "model": lambda shape, classes: build_model("resnet18", shape, classes, stem="cifar"),
            "buffer": 504,
            "epochs": 1,
        },
    ),
)
LINEAR = "gradmix_ext GradMix, criterion linear"
ONLINE = "gradmix_ext GradMix, update online"
MIXED = "gradmix_ext GradMix, criterion mixed"
PLAIN = "limit: ER, without a criterion"

EPOCH = Workload(
    "P6", "epoch", EPOCHS,
    (
        Case(LINEAR, epoch_of(criterion="linear"), Role.OURS),
        Case(ONLINE, epoch_of(update="online", policy="redraw"), Role.OURS),
        Case(MIXED, epoch_of(criterion="mixed"), Role.OURS),
        Case(PLAIN, epoch_of(), Role.LIMIT),
    ),
    targets=(
        Target(PLAIN, 1 / 1.05, LINEAR),
        Target(PLAIN, 1 / 1.05, ONLINE),
        Target(PLAIN, 1 / 1.15, MIXED),
    ),
)  # fmt: skip


# Plain replay here and in Avalanche ---------------------------------------------------------------


class Clocked(ER):
    """Experience replay with a clock, over all classes of the head as in Avalanche.

    Avalanche replays no sample twice in a step: asked for a batch of 64, it takes the 20 that a
    buffer of 20 has. So do we here, which is less than `ER` would.
    """

    def __init__(self) -> None:
        super().__init__("split")
        self.samples = 0
        self.seconds = 0.0

    def batches(self, stage: Stage) -> Iterator[Any]:
        began = time.perf_counter()
        buffer, current = self.buffer(stage), len(stage.task.train_y)
        held = () if buffer.data is None else (buffer.data,)
        x = concatenate([stage.task.train_x, *(x for x, _ in held)])
        y = torch.cat([stage.task.train_y, *(y for _, y in held)])
        order = split_replay(stage.order(current), current, buffer, MEMORY)
        for batch in stage.feed.batches(x, y, order):
            self.samples += len(batch[1])
            yield batch
        self.seconds += time.perf_counter() - began

    def loss(self, stage: Stage, batch: MixedBatch, logits: Tensor) -> Tensor:
        return batch.loss(logits)


def here(setting, device, seed=0):
    data = setting["data"]()

    def call():
        scenario = gx.continual.class_incremental(data, tasks=5, class_order_seed=None)
        method = Clocked()
        buffer = ReplayBuffer(MEMORY, "class-balanced", torch.Generator().manual_seed(seed))
        torch.manual_seed(seed)
        result = Trainer(
            setting["model"](), "none", method, buffer, epochs=setting["epochs"],
            batch_size=BATCH, seed=seed, optimizer=optimizer_by_name("sgd", lr=setting["lr"]),
        ).fit(scenario)  # fmt: skip
        return Timed(method.seconds / method.samples, torch.tensor(result.final_accuracy))

    return call


def usual_accuracy(setting):
    """What plain replay reaches here with other seeds: the other side must train as well."""
    found = [here(setting, None, seed)().value for seed in (1, 2, 3)]
    return torch.stack(found).double().mean()


def avalanche(setting, device):
    """Avalanche's Naive strategy with its ReplayPlugin."""
    from avalanche.benchmarks import nc_benchmark
    from avalanche.core import SupervisedPlugin
    from avalanche.training.plugins import EvaluationPlugin, ReplayPlugin
    from avalanche.training.storage_policy import ClassBalancedBuffer
    from avalanche.training.supervised import Naive

    class Count(SupervisedPlugin):
        samples = 0

        def before_forward(self, strategy: Any, **kwargs: Any) -> None:
            self.samples += len(strategy.mb_y)

    data = setting["data"]()
    train, test = setting["train"](data), TensorDataset(ready(data, data.test_x), data.test_y)
    test.targets = data.test_y.tolist()

    def call():
        stream = nc_benchmark(
            train, test, n_experiences=5, task_labels=False, fixed_class_order=list(range(10))
        )
        model, count = setting["model"](), Count()
        strategy = Naive(
            model=model,
            optimizer=torch.optim.SGD(model.parameters(), lr=setting["lr"], momentum=0.9),
            criterion=nn.CrossEntropyLoss(),
            train_mb_size=BATCH,
            train_epochs=setting["epochs"],
            plugins=[ReplayPlugin(MEMORY, storage_policy=ClassBalancedBuffer(MEMORY)), count],
            evaluator=EvaluationPlugin(loggers=[]),
            device="cpu",
        )
        began = time.perf_counter()
        for experience in stream.train_stream:
            strategy.train(experience)
        seconds = time.perf_counter() - began
        model.eval()
        with torch.no_grad():
            hit = (model(test.tensors[0]).argmax(1) == data.test_y).double()
        tasks = [torch.isin(data.test_y, torch.tensor([2 * t, 2 * t + 1])) for t in range(5)]
        return Timed(
            seconds / count.samples, torch.stack([hit[own].mean() for own in tasks]).mean()
        )

    return call


def ready(data: ArrayDataset, x: Any) -> Tensor:
    return gx.continual.feed.Feed(data.transform, torch.device("cpu")).view(x)[:]


def as_tensors(data: ArrayDataset) -> Dataset[Any]:
    train = TensorDataset(data.train_x, data.train_y)
    train.targets = data.train_y.tolist()
    return train


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


def tiny_network() -> nn.Module:
    """Small enough for the data pipeline to be what counts."""
    return nn.Sequential(
        nn.Conv2d(3, 8, 4, stride=4), nn.ReLU(), nn.Flatten(), nn.Linear(8 * 64, 10)
    )


STREAMS = (
    Setting(
        "Split-Digits, MLP 64-256-256-10",
        {
            "data": by_digits,
            "model": lambda: build_model("mlp", (64,), 10),
            "train": as_tensors,
            "epochs": 10,
            "lr": 0.05,
            "spread": 0.35,
        },
        quick=True,
    ),
    Setting(
        "2000 images 3x32x32 with crop and flip, one convolution",
        {
            "data": lambda: patterns(dict.fromkeys(range(10), 200), 32),
            "model": tiny_network,
            "train": Pictures,
            "epochs": 5,
            "lr": 0.02,
            "spread": 0.6,
        },
    ),
)
AVALANCHE = "avalanche Naive + ReplayPlugin"

STREAM = Workload(
    "P6", "a sample in training", STREAMS,
    (
        Case("gradmix_ext ER", here, Role.OURS),
        Case(AVALANCHE, avalanche, needs="avalanche-lib"),
    ),
    truth=usual_accuracy,
    tolerance=lambda setting: setting["spread"],  # of single seeds
    targets=(Target(AVALANCHE, 5.0, "gradmix_ext ER", settings=(STREAMS[1].name,)),),
    devices=("cpu",),
)  # fmt: skip

WORKLOADS = (EPOCH, STREAM)


def test_training(replay):
    replay()
