"""`gradmix train` and `gradmix compare`: results, errors and exit codes."""

from __future__ import annotations

import inspect
import io
import json
import os
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest
import torch

from gradmix_ext import loader
from gradmix_ext.cli import _options, main
from gradmix_ext.cli.compare import compare_command
from gradmix_ext.cli.train import train_command
from gradmix_ext.continual import METHODS
from gradmix_ext.continual.buffer import POLICIES
from gradmix_ext.continual.replay import REPLAY_MODES
from gradmix_ext.experiments.experiment import DEFAULT_ARMS, Arm, ExperimentConfig
from gradmix_ext.experiments.statistics import Estimate
from gradmix_ext.mixers import MIXERS, GradMix

# Seconds matter here: fewer epochs, and a narrow choice of arms.
QUICK = ["--epochs", "2", "--samples-per-pair", "2", "--jobs", "1"]


pytestmark = pytest.mark.usefixtures("quiet")


def log_of(folder: Path) -> list[dict]:
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def test_compare_from_end_to_end(gradmix, tmp_path):
    out = tmp_path / "run"
    code, text, err = gradmix(
        "compare", "er", "gradmix", "joint", "--seeds", "0-1", *QUICK, "--out", out
    )
    assert (code, err) == (0, "")
    assert "over 2 seeds, mean ± 95 % CI" in text
    assert "forgetting = 1/(T-1)" in text
    for name in ("accuracy.png", "class_pairs-gradmix.png"):
        assert (out / name).read_bytes().startswith(b"\x89PNG")
        assert name in text

    log = log_of(out)
    assert {(e["arm"], e["seed"]) for e in log} == {
        (arm, seed) for arm in ("er", "gradmix", "joint") for seed in (0, 1)
    }
    one = [e for e in log if (e["arm"], e["seed"]) == ("gradmix", 1)]
    assert [e["event"] for e in one] == ["epoch", "epoch", "task"] * 5 + ["run"]
    assert all(0 <= e["helpful_fraction"] <= 1 for e in one if e["event"] == "epoch")

    # The table, the log, the matrices and the summary say the same.
    stacked = np.load(out / "matrices.npz")
    R = stacked["gradmix/class_il"]
    assert R.shape == (2, 5, 5)
    assert stacked["gradmix/seeds"].tolist() == [0, 1]
    aia = [np.mean([r[t, : t + 1].mean() for t in range(5)]) for r in R]
    logged = [
        e["average_incremental_accuracy"]
        for e in log
        if e["event"] == "run" and e["arm"] == "gradmix"
    ]
    np.testing.assert_allclose(aia, logged)
    saved = json.loads((out / "matrices" / "gradmix" / "seed-1.json").read_text())
    np.testing.assert_array_equal(saved["accuracy_matrix"], R[1])
    row = f"| gradmix | 2 | {Estimate.of(aia).percent()} "
    assert row in (out / "summary.md").read_text()

    # Arms of a seed share the class order, seeds do not.
    orders = {(e["arm"], e["seed"], e["task"]): e["classes"] for e in log if e["event"] == "task"}
    assert all(orders["er", s, t] == orders["joint", s, t] for s in (0, 1) for t in range(1, 6))
    assert any(orders["er", 0, t] != orders["er", 1, t] for t in range(1, 6))

    pairs = np.load(out / "class_pairs" / "gradmix-seed-0.npz")
    assert pairs["allowed"].shape == (10, 10, 10)

    config = json.loads((out / "config.json").read_text())
    assert config["settings"]["epochs"] == 2
    assert config["seeds"] == [0, 1]
    assert config["versions"]["torch"] == torch.__version__


def test_arms_of_a_seed_are_paired_and_runs_repeat(gradmix, tmp_path):
    for name in ("one", "two"):
        assert gradmix("compare", "er", "gradmix", "--seeds", "3-3", *QUICK, "--out", name)[0] == 0
    one, two = (np.load(tmp_path / name / "matrices.npz") for name in ("one", "two"))
    assert set(one.files) == set(two.files)
    for name in one.files:
        np.testing.assert_array_equal(one[name], two[name])
    # Without a buffer nothing differs yet: plain mixup and GradMix train the first task alike.
    assert gradmix("compare", "mixup", "gradmix", "--seeds", "3-3", *QUICK, "--out", "x")[0] == 0
    losses = [e["loss"] for e in log_of(tmp_path / "x") if e["event"] == "epoch"]
    assert np.isfinite(losses).all()


def test_train_writes_to_a_new_folder_and_shows_no_spread_for_one_seed(gradmix, tmp_path):
    for _ in range(2):
        code, text, _ = gradmix("train", *QUICK, "--tasks", "2", "--update", "online")
        assert code == 0
        assert "±" not in text
        assert "er+gradmix" in text
    folders = list((tmp_path / "runs").iterdir())
    assert len(folders) == 2
    assert all((folder / "summary.md").is_file() for folder in folders)
    assert "±" not in (folders[0] / "summary.md").read_text()


def test_tensorboard_is_written_on_request_alone(gradmix, tmp_path):
    pytest.importorskip("tensorboard")
    flags = ("train", *QUICK, "--tasks", "2", "--out", "a")
    assert gradmix(*flags)[0] == 0
    assert not (tmp_path / "a" / "tensorboard").exists()
    assert gradmix(*flags, "--overwrite", "--tensorboard")[0] == 0
    assert list((tmp_path / "a" / "tensorboard" / "er+gradmix" / "seed-0").glob("events.*"))


def test_tensorboard_that_is_not_installed_is_named(gradmix, monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    code, _, err = gradmix("train", *QUICK, "--tensorboard")
    assert code == 2
    assert "--tensorboard needs tensorboard: pip install 'gradmix_ext[tensorboard]'" in err
    assert err.count("\n") == 1
    assert not (tmp_path / "runs").exists()


def test_one_task_has_no_forgetting(gradmix, tmp_path):
    code, text, _ = gradmix("train", "--tasks", "1", *QUICK, "--out", "one")
    assert code == 0
    assert "n/a" in text
    assert not (tmp_path / "one" / "class_pairs-er+gradmix.png").exists()
    assert log_of(tmp_path / "one")[-1]["forgetting"] is None


def test_settings_reach_the_experiment(gradmix, tmp_path):
    text = """
        --increment 4,3,3 --class-order-seed 7 --buffer-size 30 --buffer-policy herding
        --fill-buffer --replay split --batch-size 32 --epochs 1 --lr 0.1 --momentum 0.5
        --weight-decay 0.01
        --alpha 0.4 --criterion linear --policy skip --threshold 0.1 --samples-per-pair 3
        --samples-per-class 5
        --preset paper --temperature 2 --balance 0.3
        --update 5 --per-sample-lam --lam-coupling fixed --fixed-lam 0.8,0.6 --stop-epoch 3
        --taper linear --device cpu --optimizer adamw --schedule cosine --clip-grad 2.5 --amp bf16
        --storage host
    """
    flags = [*text.split(), "--jobs", "1"]
    assert gradmix("compare", "gradmix", "--seeds", "0,4", *flags, "--out", "set")[0] == 0
    config = json.loads((tmp_path / "set" / "config.json").read_text())
    changed = {
        "tasks": None, "increment": [4, 3, 3], "class_order_seed": 7, "replay": "split",
        "buffer_size": 30, "buffer_policy": "herding", "fill_buffer": True, "epochs": 1,
        "batch_size": 32, "optimizer": "adamw", "lr": 0.1, "momentum": 0.5, "weight_decay": 0.01,
        "schedule": "cosine", "clip_grad": 2.5, "alpha": 0.4, "criterion": "linear",
        "policy": "skip", "threshold": 0.1, "samples_per_pair": 3, "update": 5,
        "samples_per_class": 5,
        "preset": "paper", "temperature": 2.0, "balance": 0.3,
        "per_sample_lam": True, "lam_coupling": "fixed", "fixed_lam": [0.8, 0.6], "stop_epoch": 3,
        "taper": "linear", "amp": "bf16", "storage": "host",
    }  # fmt: skip
    defaults = json.loads(json.dumps(asdict(ExperimentConfig())))
    assert config["settings"] == {**defaults, **changed}
    tasks = [e["classes"] for e in log_of(tmp_path / "set") if e["event"] == "task"]
    assert [len(classes) for classes in tasks] == [4, 3, 3] * 2
    assert tasks[:3] == tasks[3:]


def test_a_finished_run_is_not_overwritten(gradmix, tmp_path):
    flags = ["train", "--tasks", "2", "--epochs", "1", "--out", "r"]
    assert gradmix(*flags)[0] == 0
    (tmp_path / "r" / "notes.txt").write_text("mine")
    before = (tmp_path / "r" / "metrics.jsonl").read_text()
    code, _, err = gradmix(*flags)
    assert code == 2
    assert "r is not empty" in err
    assert (tmp_path / "r" / "metrics.jsonl").read_text() == before
    assert gradmix(*flags, "--overwrite", "--augment", "none")[0] == 0
    assert {e["arm"] for e in log_of(tmp_path / "r")} == {"er"}
    assert not (tmp_path / "r" / "class_pairs").exists()
    assert (tmp_path / "r" / "notes.txt").read_text() == "mine"


def npz(path: Path, labels: list[int]) -> Path:
    y = np.repeat(labels, 10)
    np.savez(path, x=np.random.default_rng(0).normal(size=(len(y), 3)), y=y)
    return path


ERRORS = [
    (["train", "--dataset", "cifar11"], "unknown data set 'cifar11': known are cifar10, "),
    (["train", "--dataset", "no.npz"], "data set not found: no.npz"),
    (["train", "--data-dir", "nowhere"], "data folder not found: nowhere"),
    (["train", "--dataset", "gap.npz"], "label out of range: y[20] = 5"),
    (["compare", "--buffer-size", "9"], "buffer capacity 9 is smaller than the number of classes"),
    (["train", "--tasks", "11"], "tasks = 11 must be between 1 and the 10 classes"),
    (["train", "--tasks", "2", "--increment", "5"], "either --tasks or --increment"),
    (["train", "--tasks", "two"], "'two' is not a valid integer"),
    (["train", "--increment", "2,x"], "'2,x' is neither a number nor a list"),
    (["train", "--base", "11"], "base = 11"),
    (["train", "--epochs", "0"], "0 is not in the range 1<=x<=10000000"),
    (["train", "--method", "lwf"], "'lwf' is not one of 'finetune', 'er', 'er-ace'"),
    (["train", "--augment", "cutmix"], "boxes out of images [ch, H, W], got samples of shape [64]"),
    (["train", "--criterion", "mix"], "'mix' is not one of"),
    (["train", "--update", "daily"], "'daily' is none of epoch, online"),
    (["train", "--lr", "-1"], "lr must be at least 0"),
    (["train", "--lr", "nan"], "lr must be at least 0"),
    (["train", "--alpha", "0"], "alpha must be positive"),
    (["train", "--seeds", "a"], "'a' is neither a count nor a list"),
    (["train", "--seeds", "0"], "'0' names no seed"),
    (["train", "--seeds", "1,2,1"], "'1,2,1' names a seed twice"),
    (["train", "--seeds", "0,5-2"], "'5-2' ends before it starts"),
    (["train", "--seeds", f"0,{2**70}-1"], "-1' ends before it starts"),
    (["train", "--seeds", "10001"], "'10001' names more than 10000 seeds"),
    (["train", "--seeds", "0-9999999999999999999999"], "names more than 10000 seeds"),
    (["train", "--seeds", "9" * 5000], "is neither a count nor a list"),
    (["train", "--seeds", "²"], "'²' is neither a count nor a list"),
    (["train", "--seeds", "1152921504606846976,"], "is larger than 9007199254740992"),
    (["train", "--class-order-seed", "9" * 20], "is not in the range"),
    (["train", "--buffer-size", "9" * 20], "is not in the range 1<=x<=10000000"),
    (["train", "--batch-size", "9" * 20], "is not in the range 1<=x<=10000000"),
    (["train", "--threads", "100000000000"], "is not in the range 1<=x<=1024"),
    (["rare-features", "--threads", "100000000000"], "is not in the range 1<=x<=1024"),
    (["rare-features", "--n", "9" * 20], "is not in the range x<=10000000"),
    (["robustness", ".", "--threads", "100000000000"], "is not in the range 1<=x<=1024"),
    (["explain", ".", "--threads", "100000000000"], "is not in the range 1<=x<=1024"),
    (["explain", ".", "--draw-seed", "9" * 20], "is not in the range"),
    (["explain", ".", "--pairs", "²"], "'²' is neither all nor a"),
    (["train", "--update", "²"], "'²' is none of epoch, online"),
    (["train", "--update", "9" * 5000], "is none of epoch, online"),
    (["train", "--device", "gpu"], "device 'gpu' cannot be used"),
    (["train", "--device", "meta"], "device 'meta' cannot be used"),
    (["train", "--out", "file/run"], "file/run: Not a directory"),
    (["train", "--out", "full"], "full is not empty"),
    (["train", "--out", "full", "--overwrite"], "full holds no earlier run"),
    (["train", "--bufer-size", "5"], "No such option"),
    (["compare", "er", "mixdown"], "unknown arm 'mixdown': write METHOD[+AUGMENT]"),
    (["compare", "er+lwf"], "unknown arm 'er+lwf'"),
    (["compare", "mixup+gradmix"], "unknown arm 'mixup+gradmix'"),
    (["compare", "er", "er"], "an arm is named twice: er and er"),
    (["compare", "er+mixup", "joint", "mixup"], "an arm is named twice: er+mixup and mixup"),
    (["compare", "er+none", "er"], "an arm is named twice: er+none and er"),
    (["build", "--cuda", "--cpu"], "give either --cuda or --cpu, not both"),
    (["build", "--clean", "--cpu"], "--clean goes with no other option"),
    (["trian"], "No such command 'trian'"),
]


@pytest.mark.parametrize(("args", "message"), ERRORS, ids=lambda v: " ".join(v)[:40])
def test_errors_are_one_line_with_exit_code_2(gradmix, tmp_path, args, message):
    (tmp_path / "file").write_text("")
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "thesis.txt").write_text("")
    npz(tmp_path / "gap.npz", [0, 1, 5])
    code, _, err = gradmix(*args)
    assert code == 2
    assert message in err
    assert err.startswith("gradmix: error: ")
    assert err.count("\n") == 1
    assert not (tmp_path / "runs").exists()


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_a_missing_gpu_is_named(gradmix):
    code, _, err = gradmix("train", "--device", "cuda")
    assert code == 2
    assert "device 'cuda' cannot be used" in err
    assert err.count("\n") == 1


@pytest.mark.skipif(os.geteuid() == 0, reason="nothing is forbidden to root")
def test_an_unwritable_folder(gradmix, tmp_path):
    (tmp_path / "locked").mkdir(mode=0o500)
    code, _, err = gradmix("train", "--out", "locked/run")
    assert code == 2
    assert "Permission denied" in err
    assert err.count("\n") == 1


def test_divergence_is_one_line(gradmix):
    code, _, err = gradmix("train", "--augment", "none", "--lr", "1e25", "--out", "r")
    assert code == 1
    assert "er with seed 0: the training loss is" in err
    assert err.count("\n") == 1


def test_an_npz_file_trains(gradmix, tmp_path):
    npz(tmp_path / "mine.npz", [0, 1, 2])
    code, text, _ = gradmix("train", "--dataset", "mine.npz", "--tasks", "3", *QUICK)
    assert code == 0
    assert "mine: 3 tasks x 1 classes" in text


def test_a_reservoir_can_be_smaller_than_the_number_of_classes(gradmix, tmp_path):
    small = ["--buffer-policy", "reservoir", "--buffer-size", "5"]
    code, _, err = gradmix("train", "--augment", "none", *small, *QUICK, "--out", "r")
    assert code == 0, err
    assert log_of(tmp_path / "r")[-1]["event"] == "run"


def test_help_lists_every_command_and_flag(gradmix):
    code, text, _ = gradmix("--help")
    assert code == 0
    assert all(name in text for name in ("train", "compare", "build", "info"))
    assert "\n  gradmix compare  " in text
    assert gradmix()[1] == text
    flags = [
        "--dataset", "--data-dir", "--tasks", "--increment", "--base", "--class-order-seed",
        "--buffer-size", "--buffer-policy", "--replay", "--batch-size", "--epochs", "--lr",
        "--momentum", "--weight-decay", "--alpha", "--criterion", "--policy", "--threshold",
        "--samples-per-pair", "--samples-per-class", "--update", "--per-sample-lam", "--seeds",
        "--device", "--threads", "--out",
    ]  # fmt: skip
    for command in ("train", "compare"):
        text = gradmix(command, "--help")[1]
        assert all(flag in text for flag in flags)
        assert "Examples:\n    gradmix " in text  # examples keep their lines


def test_flags_offer_what_the_package_has_and_share_its_defaults():
    """The command line names choices itself, so that --help loads nothing."""
    options = {o.name: o for o in (*compare_command.params, *train_command.params)}
    assert tuple(options["method"].type.choices) == tuple(METHODS)
    assert tuple(options["augment"].type.choices) == tuple(MIXERS)
    assert tuple(options["buffer_policy"].type.choices) == POLICIES
    assert tuple(options["replay"].type.choices) == REPLAY_MODES
    config, defaults = ExperimentConfig(), compare_command.make_context("compare", []).params
    for name in ExperimentConfig.__dataclass_fields__:
        if name not in ("hidden", "device", "tasks"):
            assert (defaults[name] or None) == (getattr(config, name) or None), name
    assert _options.experiment_config({"tasks": None, "increment": None}).tasks == config.tasks
    mixer = inspect.signature(GradMix).parameters
    for name in (
        "alpha", "criterion", "policy", "threshold", "temperature", "samples_per_pair",
        "samples_per_class", "update", "per_sample_lam", "balance",
    ):  # fmt: skip
        assert mixer[name].default == getattr(config, name)


def test_arms():
    assert Arm.parse("er") == Arm("er", "er", "none")
    assert Arm.parse("mixup") == Arm("mixup", "er", "mixup")
    assert Arm.parse("joint+gradmix") == Arm("joint+gradmix", "joint", "gradmix")
    assert [Arm.parse(a).method for a in DEFAULT_ARMS] == ["finetune", *["er"] * 7, "joint"]


def test_a_real_process_fails_with_one_line(tmp_path):
    environment = os.environ | {"PYTHONPATH": str(Path(loader.__file__).parents[2])}
    command = [sys.executable, "-m", "gradmix_ext", "train", "--dataset", "nothing"]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert done.returncode == 2
    assert done.stdout == ""
    assert done.stderr.startswith("gradmix: error: unknown data set 'nothing'")
    assert done.stderr.count("\n") == 1


def test_a_terminal_that_cannot_show_a_letter(monkeypatch):
    bare = io.TextIOWrapper(io.BytesIO(), encoding="latin-1")
    monkeypatch.setattr(sys, "stdout", bare)
    with pytest.raises(SystemExit) as exit_:
        main(["rare-features", "--help"])
    bare.flush()
    assert exit_.value.code == 0
    assert b"mixup: ? of the inputs / ? of the labels" in bare.buffer.getvalue()
