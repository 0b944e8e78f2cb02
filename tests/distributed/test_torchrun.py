"""`gradmix train` under torchrun: output, exit codes, a process that dies, and resuming."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from gradmix_ext.continual import Checkpoint

TRAIN = ["--buffer-size", "20", "--tasks", "2", "--class-order-seed", "0"]


GRADMIX = ("-m", "gradmix_ext")


def torchrun(*args: object) -> subprocess.Popen[str]:
    """Two processes of a program."""
    launcher = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node=2"]
    return subprocess.Popen(
        [*launcher, "--standalone", *map(str, args)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(Path(__file__).parents[2])},
    )


def run_of(folder: Path) -> dict:
    return json.loads((folder / "metrics.jsonl").read_text().splitlines()[-1])


def exit_codes(err: str) -> list[int]:
    """Those of the processes, as torchrun reports them."""
    return [int(code) for code in re.findall(r"exitcode +: (-?\d+) \(pid", err)]


def test_the_first_process_alone_prints_and_writes(tmp_path):
    out = tmp_path / "run"
    process = torchrun(*GRADMIX, "train", *TRAIN, "--epochs", 2, "--tensorboard", "--out", out)
    text, err = process.communicate(timeout=120)
    assert process.returncode == 0, err
    assert "gradmix:" not in err
    for line in ("cpu with 1 thread(s), 2 processes", "[1/1] er+gradmix seed 0", "AIA        ="):
        assert text.count(line) == 1
    run = run_of(out)
    assert (run["event"], run["seed"]) == ("run", 0)
    assert run["final_accuracy"] > 0.25  # of ten classes
    assert json.loads((out / "config.json").read_text())["processes"] == 2
    assert len(list((out / "tensorboard").rglob("events.out.*"))) == 1
    weights = torch.load(out / "models" / "er+gradmix" / "seed-0.pt")
    assert all(not name.startswith("module.") for name in weights)


def test_wrong_input_is_told_once_and_ends_every_process(tmp_path):
    process = torchrun(*GRADMIX, "train", *TRAIN, "--batch-size", 3, "--out", tmp_path / "run")
    text, err = process.communicate(timeout=120)
    assert process.returncode != 0
    assert text == ""
    assert err.count("gradmix: error: batch_size is 3, but 2 processes need 2 samples each") == 1
    assert exit_codes(err) == [2, 2]


def test_a_process_that_dies_ends_all_and_one_process_goes_on(tmp_path, gradmix, quiet):
    out = tmp_path / "run"
    path = out / "checkpoints" / "er+gradmix-seed-0.pt"
    process = torchrun(
        *GRADMIX, "train", *TRAIN, "--epochs", 60, "--checkpoint-every", 0, "--out", out
    )
    for _ in range(1200):
        if path.is_file() or process.poll() is not None:
            break
        time.sleep(0.05)
    children = subprocess.run(
        ["ps", "--ppid", str(process.pid), "-o", "pid="], capture_output=True, text=True, check=True
    )
    victim = max(map(int, children.stdout.split()))
    os.kill(victim, signal.SIGKILL)
    began = time.monotonic()
    _, err = process.communicate(timeout=60)
    assert time.monotonic() - began < 45
    assert process.returncode != 0
    assert "lost another rank" in err or "or another process has died" in err
    saved = Checkpoint(path).load()
    assert saved is not None
    assert exit_codes(err).count(-signal.SIGKILL) == 1

    code, text, err = gradmix("train", "--resume", "--out", out)
    assert code == 0
    assert "begun with 2 process(es), this is 1" in err
    assert "er+gradmix seed 0" in text
    assert run_of(out)["final_accuracy"] > 0.6


def test_the_documented_script_gives_every_rank_the_same_criterion(tmp_path):
    page = (Path(__file__).parents[2] / "docs" / "distributed.md").read_text()
    _, example = re.findall(r"```python\n(.*?)```", page, flags=re.DOTALL)
    script = tmp_path / "own.py"
    script.write_text(example)
    process = torchrun(script)
    text, err = process.communicate(timeout=120)
    # Threads of Gloo can abort an interpreter that is on its way out, whose work is done.
    assert process.returncode == 0 or "terminate called without an active exception" in err, err
    # Not by lines: two processes write at the same time.
    told = re.findall(r"rank (\d): (\d+ of 36 pairs, score of 0 and 3: -?\d+\.\d{4})", text)
    assert sorted(rank for rank, _ in told) == ["0", "1"]
    assert told[0][1] == told[1][1]


@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="NCCL needs two GPUs")
def test_two_gpus_train_one_model(tmp_path):
    out = tmp_path / "run"
    process = torchrun(*GRADMIX, "train", *TRAIN, "--epochs", 2, "--sync-batch-norm", "--out", out)
    text, err = process.communicate(timeout=300)
    assert process.returncode == 0, err
    assert "cuda:0 with 1 thread(s), 2 processes" in text
