"""What mixing and its criterion add to an epoch of plain experience replay.

    python benchmarks/training_cost.py mlp
    python benchmarks/training_cost.py resnet18 --scale 64

``mlp`` is Split-Digits with an MLP 64-256-256-10. ``resnet18`` is the last task of Split-CIFAR-10
(2 new classes of 5,000 images, a buffer of 500, 10 classes seen) with a CIFAR stem, every number
of samples divided by ``--scale``; the images are noise, which costs the same. Every contender
trains in turn, round after round. Compared are lower quartiles of CPU time over the rounds, by
default on one thread: other users of a machine only ever make a round longer. An epoch of plain
replay is compared with the same epoch in PyTorch alone before anything is timed.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F

import gradmix_ext as gx
from gradmix_ext.continual import (
    ArrayDataset,
    Callback,
    EpochEnd,
    Scenario,
    TaskEnd,
    Trainer,
    class_incremental,
    load_dataset,
)
from gradmix_ext.continual.models import build_model
from gradmix_ext.continual.replay import shuffled
from gradmix_ext.continual.trainer import Stream, random_stream
from gradmix_ext.mixers import ImageTransform, by_name

CONTENDERS: dict[str, tuple[str, dict[str, Any]]] = {
    "er": ("none", {}),
    "mixup": ("mixup", {}),
    "balanced": ("balanced", {}),
    "gradmix": ("gradmix", {}),
    "gradmix, online": ("gradmix", {"update": "online"}),
    "gradmix, mixed": ("gradmix", {"criterion": "mixed"}),
    "paper": ("gradmix", {"preset": "paper"}),
    "paper, linear": ("gradmix", {"preset": "paper", "criterion": "linear"}),
    "paper, online": ("gradmix", {"preset": "paper", "update": "online"}),
}


class Clock(Callback):
    """CPU seconds of the epochs of all tasks but the first, whose buffer is empty."""

    def __init__(self) -> None:
        self.seconds: list[float] = []
        self.began = time.process_time()

    def on_epoch_end(self, event: EpochEnd) -> None:
        now = time.process_time()
        if event.task.index:
            self.seconds.append(now - self.began)
        self.began = now

    def on_task_end(self, event: TaskEnd) -> None:
        self.began = time.process_time()


def split_digits() -> tuple[Scenario, dict[str, Any], dict[str, Any]]:
    """The tasks, settings of the trainer, and settings of GradMix."""
    scenario = class_incremental("digits", tasks=5, class_order_seed=0)
    return scenario, {"buffer": 20, "epochs": 10, "batch_size": 64}, {}


def split_cifar10(scale: int) -> tuple[Scenario, dict[str, Any], dict[str, Any]]:
    """The same for images, of which only the last task has as many as it should."""
    buffer = max(500 // scale, 10)  # a sample of each class at least
    g = torch.Generator().manual_seed(0)
    count = torch.tensor([buffer] * 8 + [5000 // scale] * 2)
    y, test_y = torch.arange(10).repeat_interleave(count), torch.arange(10)
    x, test_x = (
        torch.randint(256, (len(v), 3, 32, 32), generator=g, dtype=torch.uint8) for v in (y, test_y)
    )
    transform = ImageTransform((0.49, 0.48, 0.45), (0.25, 0.24, 0.26), padding=4, hflip=True)
    names = tuple(map(str, range(10)))
    data = ArrayDataset("noise", x, y, test_x, test_y, names, (3, 32, 32), transform)
    scenario = class_incremental(data, increment=2, base=8, class_order_seed=None)
    gradmix = {"samples_per_class": max(16 // scale, 1), "samples_per_pair": max(16 // scale, 1)}
    return scenario, {"buffer": buffer, "epochs": 1, "batch_size": 32}, gradmix


def train(name: str, scenario: Scenario, model: str, settings: Any, options: Any) -> float:
    """Mean CPU seconds of an epoch."""
    mixer, own = CONTENDERS[name]
    g = torch.Generator().manual_seed(0)
    chosen = by_name(mixer, scenario.num_classes, generator=g, **(options | own))
    clock = Clock()
    Trainer(network(model), chosen, "er", callbacks=[clock], **settings).fit(scenario)
    return statistics.mean(clock.seconds)


def network(model: str) -> Callable[[Scenario], torch.nn.Module]:
    stem = "standard" if model == "mlp" else "cifar"
    return lambda s: build_model(model, s.input_shape, s.num_classes, stem=stem)


def verify() -> None:
    """An epoch of the trainer without mixing is the epoch that users write by hand."""
    data = load_dataset("digits")
    scenario = class_incremental(data, tasks=1, class_order_seed=None)
    torch.manual_seed(0)
    ours = build_model("mlp", scenario.input_shape, 10)
    theirs = build_model("mlp", scenario.input_shape, 10)
    theirs.load_state_dict(ours.state_dict())
    Trainer(ours, "none", "er", buffer=20, epochs=1).fit(scenario)
    optimizer = torch.optim.SGD(theirs.parameters(), lr=0.05, momentum=0.9, fused=True)
    x, y = scenario.tasks[0].train_x, scenario.tasks[0].train_y
    for index in shuffled(len(y), 64, random_stream(0, Stream.ORDER, "cpu")):
        loss = F.cross_entropy(theirs(x[index]), y[index])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    torch.testing.assert_close(dict(ours.named_parameters()), dict(theirs.named_parameters()))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("model", choices=("mlp", "resnet18"))
    parser.add_argument("--scale", type=int, default=64, help="divides the samples of the images")
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--only", nargs="+", choices=CONTENDERS, default=list(CONTENDERS))
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    print(f"backend {gx.loader.load().active}, torch {torch.__version__}, {args.threads} threads")
    verify()
    case = split_digits() if args.model == "mlp" else split_cifar10(args.scale)
    names = list(dict.fromkeys(["er", *args.only]))
    seconds: dict[str, list[float]] = {name: [] for name in names}
    for turn in range(args.rounds + 1):  # the first warms up
        for name in names if turn % 2 else names[::-1]:
            spent = train(name, case[0], args.model, *case[1:])
            if turn:
                seconds[name].append(spent)
    for name in names:
        own, plain = (statistics.quantiles(seconds[each])[0] for each in (name, "er"))
        print(f"{name:16s} {1e3 * own:9.2f} ms an epoch, {own / plain:.3f} x er")


if __name__ == "__main__":
    main()
