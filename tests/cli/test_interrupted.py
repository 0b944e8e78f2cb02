"""Runs side by side, interrupted and resumed: what is written is the same, bit for bit."""

from __future__ import annotations

import json
import os
import resource
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from unittest.mock import Mock

import numpy as np
import pytest
import torch

from gradmix_ext import loader
from gradmix_ext.cli import main
from gradmix_ext.continual.trainer import DivergedError
from gradmix_ext.experiments.diagnosis import Diagnosis, Study
from gradmix_ext.experiments.experiment import Arm, Experiment, ExperimentConfig
from gradmix_ext.experiments.finished import FinishedRun
from gradmix_ext.experiments.jobs import Job, RunFailedError, Tick
from gradmix_ext.experiments.parallel import do_parallel
from gradmix_ext.experiments.run_folder import RunFolder

# Runs of a second or so, in which checkpoints are written all the time.
PLAN = ["compare", "er", "gradmix", "--seeds", "0,3", "--tasks", "3", "--epochs", "5"]
PLAN += ["--samples-per-pair", "2", "--checkpoint-every", "0"]


pytestmark = pytest.mark.usefixtures("quiet")


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory) -> Path:
    """The folder of all runs, done one after the other in this process."""
    folder = tmp_path_factory.mktemp("whole") / "run"
    threads = torch.get_num_threads()
    with pytest.raises(SystemExit) as exit_:
        main([*PLAN, "--jobs", "1", "--out", str(folder)])
    torch.set_num_threads(threads)
    assert exit_.value.code == 0
    return folder


def start(*args: object) -> subprocess.Popen[str]:
    environment = os.environ | {"PYTHONPATH": str(Path(loader.__file__).parents[2])}
    return subprocess.Popen(
        [sys.executable, "-m", "gradmix_ext", *map(str, args)],
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def wait_until(
    condition: Callable[[], object], process: subprocess.Popen[str] | None = None
) -> None:
    deadline = time.monotonic() + 240
    while not condition():
        assert time.monotonic() < deadline
        assert process is None or process.poll() is None, process.communicate()
        time.sleep(0.005)


def children(process: subprocess.Popen[str]) -> list[int]:
    """Process ids of the workers."""
    found = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    return [int(pid) for pid in found if "spawn_main" in command_of(pid)]


def command_of(pid: str) -> str:
    """The command of a process; nothing once it has ended."""
    try:
        return Path(f"/proc/{pid}/cmdline").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return ""


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def assert_same_content(one: Path, two: Path) -> None:
    """Byte for byte, apart from times."""

    def names(folder: Path) -> set[str]:
        files = {path.relative_to(folder) for path in folder.rglob("*") if path.is_file()}
        return {str(path) for path in files} - {".lock", "config.json"}

    def timeless(path: Path) -> object:
        if path.suffix == ".jsonl":
            events = map(json.loads, path.read_text().splitlines())
            return [{k: v for k, v in each.items() if k != "seconds"} for each in events]
        if path.name == "metrics.csv":
            return [line for line in path.read_text().splitlines() if ",seconds," not in line]
        return path.read_bytes()

    assert names(one) == names(two)
    for name in sorted(names(one)):
        assert timeless(one / name) == timeless(two / name), name


@pytest.mark.parametrize("jobs", [1, 2])
def test_killed_and_resumed_equals_uninterrupted(gradmix, uninterrupted, tmp_path, jobs):
    """Also: runs side by side equal runs one after the other."""
    out = tmp_path / "run"

    def finished() -> set[str]:
        return {f"{path.parent.name}-{path.stem}" for path in out.glob("events/*/seed-*.jsonl")}

    def in_progress() -> set[str]:
        return {path.stem for path in out.glob("checkpoints/[!.]*.pt")} - finished()

    process = start(*PLAN, "--jobs", jobs, "--out", out, "--resume")
    # The third run, the first of gradmix, has just begun: it will not finish before the kill.
    wait_until(lambda: len(finished() | in_progress()) > 2, process)
    workers = children(process)
    assert len(workers) == (jobs if jobs > 1 else 0)
    process.kill()
    process.communicate()
    wait_until(lambda: not any(map(alive, workers)))
    assert 1 <= len(finished()) < 4
    assert in_progress()
    # The settings need not be said again.
    code, text, err = gradmix("compare", "--resume", "--out", out, "--jobs", jobs)
    assert (code, err) == (0, "")
    assert "of 4 runs are there already" in text
    assert ("2 runs side by side" in text) == (jobs == 2)
    assert_same_content(uninterrupted, out)
    config = json.loads((out / "config.json").read_text())
    assert len(config["resumed"]) == 1
    assert config["command"] != config["resumed"][0]["command"]


@pytest.mark.parametrize(("number", "jobs"), [(signal.SIGINT, 1), (signal.SIGTERM, 2)])
def test_interrupts_keep_what_was_finished(gradmix, tmp_path, ctrl_c, new_children, number, jobs):
    out = tmp_path / "run"
    log = out / "metrics.jsonl"
    workers = []

    def interrupt() -> None:
        wait_until(lambda: log.exists() and '"run"' in log.read_text())
        workers.extend(new_children())
        os.kill(os.getpid(), number)

    killer = threading.Thread(target=interrupt)
    killer.start()
    flags = ("--tasks", "2", "--epochs", "2", "--jobs", jobs, "--out", out)
    code, printed, err = gradmix("compare", "er", "--seeds", "500", *flags)
    killer.join()
    assert code == 130
    assert len(workers) == (jobs if jobs > 1 else 0)
    assert not new_children()
    assert "Traceback" not in printed + err
    last = err.splitlines()[-1]
    assert last.startswith("gradmix: interrupted: ")
    assert last.endswith(f"of 500 runs finished, kept in {out}; --resume goes on from there")
    finished = int(last.split()[2])
    assert finished >= 1
    assert log.read_text().count('"event": "run"') == finished
    assert len(np.load(out / "matrices.npz")["er/seeds"]) == finished
    assert "Interrupted" in (out / "summary.md").read_text()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_no_worker_outlives_a_suite(tmp_path, ctrl_c, number):
    args = ("compare", "--suite", "selection", "--quick", "--jobs", 2, "--out", tmp_path / "suite")
    with start(*args) as process:
        wait_until(lambda: len(children(process)) == 2, process)
        workers = children(process)
        process.send_signal(number)
        _, err = process.communicate(timeout=60)
        wait_until(lambda: not any(map(alive, workers)))
    if number != signal.SIGKILL:
        assert process.returncode == 130
        assert err.splitlines()[-1] == "gradmix: interrupted"
        assert "Traceback" not in err


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_suite_keeps_every_run_that_was_finished(tmp_path, ctrl_c, number):
    folder = tmp_path / "suite"
    args = ("compare", "--suite", "selection", "--quick", "--jobs", 1, "--out", folder)
    with start(*args) as process:
        wait_until(lambda: "[2/120] union 20, mixup, seed 0" in process.stdout.readline(), process)
        process.send_signal(number)
        out, _ = process.communicate(timeout=60)
    assert process.returncode == 130
    told = 2 + sum(line.startswith("[") for line in out.splitlines())
    written = len((folder / "runs.csv").read_text().splitlines()) - 1
    assert written - told in (0, 1)  # of the last, the line may be missing


def diagnosed(gradmix, monkeypatch, folder: Path, at_third: Callable[[], object]):
    """Code, output and errors of a diagnosis of five seeds, where something happens in the third.

    Also: the seeds that the file held then.
    """
    train, held = Study._train, []

    def watched(study: Study, seed: int) -> object:
        if seed == 2:
            held.extend(Diagnosis.load(folder).seeds)
            at_third()
        return train(study, seed)

    monkeypatch.setattr(Study, "_train", watched)
    flags = ("--tasks", 2, "--epochs", 1, "--step-samples", 2, "--samples-per-pair", 2)
    return *gradmix("diagnose", *flags, "--seeds", 5, "--out", folder), held


def interrupt(number: int) -> None:
    """Interrupt this process."""
    os.kill(os.getpid(), number)
    time.sleep(60)


def assert_two_seeds_are_kept(folder: Path) -> None:
    assert Diagnosis.load(folder).seeds == (0, 1)
    assert "2 seeds, mean ±" in (folder / "diagnosis.md").read_text()
    assert (folder / "diagnosis.png").is_file()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_diagnosis_keeps_its_seeds(gradmix, monkeypatch, tmp_path, ctrl_c, number):
    out = tmp_path / "out"
    code, _, err, held = diagnosed(gradmix, monkeypatch, out, lambda: interrupt(number))
    assert (code, held) == (130, [0, 1])
    assert err == f"gradmix: interrupted: 2 of 5 seeds finished, kept in {out}\n"
    assert_two_seeds_are_kept(out)


def test_a_diagnosis_that_diverges_keeps_its_seeds(gradmix, monkeypatch, tmp_path):
    error = DivergedError("the training loss is nan")
    code, _, err, _ = diagnosed(gradmix, monkeypatch, tmp_path / "out", Mock(side_effect=error))
    assert code == 1
    what = f"the training loss is nan; what was finished is in {tmp_path / 'out'}"
    assert err == f"gradmix: error: {what}\n"
    assert_two_seeds_are_kept(tmp_path / "out")


def one_worker(lr: float, folder: Path, tell: Callable[[Tick], None]) -> list[Job]:
    """The jobs that a single worker finishes."""
    arm = Arm.parse("er")
    experiment = Experiment(ExperimentConfig(tasks=2, epochs=2, lr=lr), [arm])
    jobs = [Job(arm, seed, folder, checkpoint_every=0, tensorboard=False) for seed in (0, 7)]
    return list(do_parallel(experiment, [arm], jobs, 1, tell))


def test_a_dead_worker_is_named(tmp_path, new_children):
    def kill(tick: Tick) -> None:
        if tick.seed == 7:
            (worker,) = new_children()
            worker.kill()
            worker.join()

    message = r"er with seed 7: its process was ended by signal 9 \(Killed\): out of memory\?"
    with pytest.raises(RunFailedError, match=message):
        one_worker(0.05, tmp_path, kill)
    assert FinishedRun(tmp_path, Arm.parse("er"), 0).is_there
    assert not new_children()


def test_a_run_that_diverges_in_a_worker_is_named(tmp_path, new_children):
    with pytest.raises(RunFailedError, match="er with seed 0: the training loss is"):
        one_worker(1e25, tmp_path, lambda tick: None)
    assert not new_children()


QUICK = ("--tasks", "2", "--epochs", "1", "--samples-per-pair", "2", "--jobs", "1")


def test_more_arms_and_seeds_extend_a_comparison(gradmix, tmp_path):
    assert gradmix("compare", "er", "--seeds", "2", *QUICK, "--out", "a")[0] == 0
    stamp = (tmp_path / "a/events/er/seed-0.jsonl").stat().st_mtime_ns
    more = ("compare", "gradmix", "er+none", "--seeds", "1-2", "--resume")
    code, text, err = gradmix(*more, *QUICK, "--out", "a")
    assert (code, err) == (0, "")
    assert "2 of 6 runs are there already" in text
    assert (tmp_path / "a/events/er/seed-0.jsonl").stat().st_mtime_ns == stamp
    assert gradmix("compare", "er", "gradmix", "--seeds", "3", *QUICK, "--out", "b")[0] == 0
    assert_same_content(tmp_path / "a", tmp_path / "b")


def test_a_finished_folder_resumes_to_itself(gradmix, tmp_path):
    assert gradmix("train", *QUICK, "--out", "a")[0] == 0
    before = (tmp_path / "a/metrics.jsonl").read_bytes()
    (tmp_path / "a/metrics.jsonl").write_text("torn")
    (tmp_path / "a/summary.md").unlink()
    code, text, err = gradmix("train", "--resume", "--out", "a")
    assert (code, err) == (0, "")
    assert "1 of 1 runs are there already" in text
    assert (tmp_path / "a/metrics.jsonl").read_bytes() == before
    assert (tmp_path / "a/summary.md").is_file()


def test_a_finished_run_that_is_damaged_is_told_before_any_training(gradmix, tmp_path):
    assert gradmix("train", *QUICK, "--out", "a")[0] == 0
    result = tmp_path / "a/matrices/er+gradmix/seed-0.json"
    result.write_text("{")
    code, _, err = gradmix("train", "--resume", "--out", "a", "--seeds", "2")
    assert code == 2
    assert "seed-0.json is not a saved result" in err
    assert err.count("\n") == 1
    result.unlink()
    code, _, err = gradmix("train", "--resume", "--out", "a", "--seeds", "2")
    assert code == 2
    assert err.endswith("seed-0.json: No such file or directory\n")


@pytest.mark.parametrize("place", [0.2, 0.5, 0.8])
def test_damaged_class_pair_maps_are_told_before_any_training(gradmix, tmp_path, place):
    assert gradmix("train", *QUICK, "--out", "a")[0] == 0
    maps = tmp_path / "a/class_pairs/er+gradmix-seed-0.npz"
    content = bytearray(maps.read_bytes())
    start = int(place * len(content))
    content[start : start + 20] = bytes(20)
    maps.write_bytes(content)
    resume = ("train", "--resume", "--out", "a", "--seeds", "2")
    for command in (resume, ("report", "a")):
        code, _, err = gradmix(*command)
        assert code == 2
        assert "er+gradmix-seed-0.npz does not hold class-pair maps" in err
        assert err.count("\n") == 1
    maps.unlink()
    assert gradmix(*resume)[2].endswith("er+gradmix-seed-0.npz: No such file or directory\n")


def test_what_cannot_be_resumed(gradmix, tmp_path):
    def error(*args: object) -> str:
        code, _, err = gradmix(*args)
        assert code == 2
        assert err.count("\n") == 1
        return err.removeprefix("gradmix: error: ").strip()

    assert error("train", "--resume") == "--resume needs --out"
    assert "either --resume or --overwrite" in error(
        "train", "--resume", "--overwrite", "--out", "a"
    )
    assert gradmix("train", *QUICK, "--lr", "0.1", "--out", "a")[0] == 0
    resume = ("train", "--resume", "--out", "a")
    assert error(*resume, "--lr", "0.2") == (
        "--lr is 0.2, but a was run with 0.1: leave it out, or choose another folder"
    )
    assert "--increment is [2, 3, 5], but a was run with None" in error(
        *resume, "--increment", "2,3,5"
    )
    assert "--threads is 2, but a was run with 1" in error(*resume, "--threads", "2")
    assert gradmix(*resume, "--lr", "0.1", "--jobs", "3")[0] == 0
    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis/chapter.txt").write_text("")
    assert "thesis is not a run folder" in error("train", "--resume", "--out", "thesis")
    config = json.loads((tmp_path / "a/config.json").read_text())
    config["versions"]["gradmix_ext"] = "0.0.1"
    (tmp_path / "a/config.json").write_text(json.dumps(config))
    assert "a was run by gradmix_ext 0.0.1, and this is" in error(*resume)
    (tmp_path / "a/config.json").write_text("{}")
    assert "config.json does not hold the settings of a run" in error(*resume)


def test_other_versions_are_noted(gradmix, tmp_path):
    assert gradmix("train", *QUICK, "--out", "a")[0] == 0
    config = json.loads((tmp_path / "a/config.json").read_text())
    config["versions"]["numpy"] = "1.0"
    (tmp_path / "a/config.json").write_text(json.dumps(config))
    code, _, err = gradmix("train", "--resume", "--out", "a")
    assert code == 0
    assert err.startswith("gradmix: note: the folder was begun with numpy 1.0, this is ")
    assert err.count("\n") == 1


def test_a_checkpoint_that_does_not_fit_is_named(gradmix, tmp_path):
    (tmp_path / "a/checkpoints").mkdir(parents=True)
    assert gradmix("train", *QUICK, "--out", "b")[0] == 0
    (tmp_path / "a/config.json").write_text((tmp_path / "b/config.json").read_text())
    (tmp_path / "a/checkpoints/er+gradmix-seed-0.pt").write_bytes(b"half")
    code, _, err = gradmix("train", "--resume", "--out", "a")
    assert code == 1
    assert "er+gradmix with seed 0: a/checkpoints/er+gradmix-seed-0.pt is not a training" in err
    assert err.count("\n") == 1


def test_only_one_process_writes_to_a_folder(gradmix, tmp_path):
    assert gradmix("train", *QUICK, "--out", "a")[0] == 0
    with RunFolder("a", resume=True):
        for how in ("--resume", "--overwrite"):
            code, _, err = gradmix("train", how, *QUICK, "--out", "a")
            assert code == 2
            assert f"a is in use by process {os.getpid()}" in err
    assert gradmix("train", "--resume", "--out", "a")[0] == 0


def test_jobs_that_are_none(gradmix):
    for text in ("0", "many", "9" * 5000, "1025"):
        code, _, err = gradmix("train", "--jobs", text)
        assert code == 2
        assert "is neither auto nor a number from 1 to 1024" in err


@pytest.mark.parametrize("limit", [1_000, 100_000])  # bytes: for the settings, for the weights
def test_a_disk_that_refuses_is_one_line_and_the_run_can_go_on(gradmix, tmp_path, limit):
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, before[1]))
    try:
        code, _, err = gradmix("train", *QUICK, "--out", tmp_path / "run")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert code in (1, 2)
    assert err.count("\n") == 1, err
    assert "File too large" in err
    code, out, _ = gradmix("train", *QUICK, "--out", tmp_path / "run", "--resume")
    assert code == 0, out
    assert not list((tmp_path / "run").rglob("*.part*"))
