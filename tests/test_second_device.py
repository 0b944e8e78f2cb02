"""What a GPU would refuse, found without one: nothing is left on another device than the data.

Each computation runs on the CPU and on a second device made of it (:mod:`second_device`), and the
numbers have to be the same.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from interrupting import Interrupt, InterruptionError
from second_device import DEVICE, SecondDevice
from tiny_images import tiny_images
from torch import nn

import gradmix_ext as gx
from gradmix_ext.cli import cli
from gradmix_ext.continual import (
    Checkpoint,
    ReplayBuffer,
    Result,
    Scenario,
    Trainer,
    class_incremental,
)
from gradmix_ext.experiments.diagnosis import MeasureConfig, Study
from gradmix_ext.experiments.experiment import Arm, Experiment, ExperimentConfig, Run
from gradmix_ext.mixers import by_name

CPU = torch.device("cpu")


def on_both(compute: Callable[[torch.device], Any]) -> list[Any]:
    """What is computed on the CPU, and on the second device."""
    gx.loader.load()
    torch.manual_seed(0)
    found = [compute(CPU)]
    torch.manual_seed(0)
    with SecondDevice():
        return [*found, compute(DEVICE)]


def test_the_second_device_refuses_what_a_gpu_refuses():
    with SecondDevice():
        there, here = torch.arange(3.0, device=DEVICE), torch.arange(3.0)
        assert (there.device, here.device) == (DEVICE, CPU)
        assert (2 * there + torch.tensor(1.0)).tolist() == [1.0, 3.0, 5.0]
        assert torch.equal(there.to(CPU), here)
        assert there[torch.tensor([2])].item() == there[[2]].item() == 2
        for mixed in (
            lambda: there + here,
            lambda: here[there > 0],
            lambda: torch.stack([there, here]),
            lambda: torch.rand(3, device=DEVICE, generator=torch.Generator()),
            lambda: torch.rand(3, generator=torch.Generator(DEVICE)),
        ):
            with pytest.raises(RuntimeError, match="device"):
                mixed()
        with pytest.raises(ValueError, match="partner must be on meta, got cpu"):
            gx.ops.masked_mixup(there, torch.tensor([1, 2, 0]), 0.5)


@pytest.mark.parametrize(
    "arm",
    [
        "er",
        "er[replay=split]+gradmix[stop_epoch=1]",
        "er-ace+gradmix",
        "der+++gradmix",
        "icarl+gradmix",
        "a-gem+gradmix",
        "joint+gradmix",
        "finetune+gradmix",
        "gradmix[preset=paper]",
        "gradmix[update=online]",
        "gradmix[criterion=gram,policy=skip,update=2]",
        "shuffled-scores",
        "random-mask",
        "balanced",
        "mixup[per_sample_lam=true]",
        "manifold",
    ],
)
def test_runs_of_experiments(arm):
    def run(device: torch.device) -> Run:
        arms = [Arm.parse(arm)]
        config = ExperimentConfig(
            tasks=3, epochs=2, hidden=(16,), samples_per_pair=2, device=device.type
        )
        return Experiment(config, arms).run(arms[0], seed=1)

    here, there = on_both(run)
    assert torch.equal(here.result.confusion, there.result.confusion)
    torch.testing.assert_close(here.weights, there.weights)
    assert (here.pair_maps is None) == (there.pair_maps is None)
    if here.pair_maps is not None:
        torch.testing.assert_close(vars(here.pair_maps), vars(there.pair_maps))


def two_tasks() -> Scenario:
    return class_incremental(tiny_images(), tasks=2)


def network(scenario: Scenario) -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Flatten(), nn.Linear(128, 4)
    )


def trainer(device: torch.device, mixer: str, policy: str, **settings: Any) -> Trainer:
    return Trainer(
        network,
        by_name(mixer, 4, generator=torch.Generator(device).manual_seed(1)),
        buffer=ReplayBuffer(16, policy, torch.Generator(device).manual_seed(2)),
        device=device,
        **{"epochs": 2, "batch_size": 16} | settings,
    )


@pytest.mark.parametrize(
    ("mixer", "policy", "settings"),
    [
        ("none", "class-balanced", {}),
        ("mixup", "reservoir", {"clip_grad": 1.0}),
        ("cutmix", "class-balanced", {}),
        ("manifold", "class-balanced", {}),
        ("balanced", "class-balanced", {}),
        ("gradmix", "herding", {}),
        ("gradmix", "reservoir", {"storage": "host"}),
        ("gradmix", "herding", {"method": "icarl"}),
        ("gradmix", "reservoir", {"method": "der++"}),
    ],
)
def test_training_on_images(mixer, policy, settings):
    here, there = on_both(
        lambda device: trainer(device, mixer, policy, **settings).fit(two_tasks())
    )
    assert torch.equal(here.accuracy_matrix, there.accuracy_matrix)
    assert here.accuracy_matrix[1].min() > 0.2


# PyTorch takes the device by its name for one that nothing can be copied to.
@pytest.mark.filterwarnings("ignore:.*copying from a non-meta parameter")
def test_a_resumed_training(tmp_path):
    def interrupted(device: torch.device) -> Result:
        checkpoint = Checkpoint(tmp_path / device.type, every_seconds=0)
        cut = trainer(device, "gradmix", "herding", callbacks=[Interrupt(3)])
        with pytest.raises(InterruptionError):
            cut.fit(two_tasks(), checkpoint)
        again = trainer(device, "gradmix", "herding", callbacks=[Interrupt(9)])
        return again.fit(two_tasks(), checkpoint)

    here, there = on_both(interrupted)
    assert torch.equal(here.confusion, there.confusion)


def test_attacks_on_saved_runs(tmp_path, capsys):
    def attacked(device: torch.device) -> Any:
        runs = [str(tmp_path / f"{device.type}-{kind}") for kind in ("runs", "attacked")]
        on = ["--device", device.type]
        training = ["--tasks", "2", "--epochs", "1", "--seeds", "1", "--jobs", "1"]
        cli(
            ["compare", "icarl", "gradmix", *training, *on, "--out", runs[0]], standalone_mode=False
        )
        attack = ["--eps", "0,0.1", "--samples", "20", "--steps", "3", *on, "--out", runs[1]]
        cli(["robustness", runs[0], *attack], standalone_mode=False)
        return json.loads((Path(runs[1]) / "robustness.json").read_text())["arms"]

    here, there = on_both(attacked)
    assert here == there


def test_the_diagnosis_of_scores():
    def measured(device: torch.device) -> Any:
        config = ExperimentConfig(tasks=2, epochs=1, hidden=(8,), device=device.type)
        fast = MeasureConfig(samples_per_pair=2, step_samples=4)
        return Study(Experiment(config, []), "gradmix", (0,), fast).run((0,)).of("sign", "mixed")

    here, there = on_both(measured)
    assert here.tolist() == there.tolist()
