"""Suites: their runs, the ledger that they leave, and what is made of it."""

from __future__ import annotations

import csv
import json
import math
import os
import resource
import shutil
import time
from collections.abc import Callable
from concurrent.futures.process import BrokenProcessPool
from dataclasses import replace
from multiprocessing import get_context
from multiprocessing.process import BaseProcess
from pathlib import Path
from unittest.mock import Mock

import numpy as np
import pytest
import torch
from scipy import stats

from gradmix_ext import loader
from gradmix_ext.cli import _suite, main
from gradmix_ext.continual.trainer import DivergedError
from gradmix_ext.experiments import suite_runs
from gradmix_ext.experiments.experiment import Arm, Experiment, ExperimentConfig
from gradmix_ext.experiments.suite_report import SuiteFindings
from gradmix_ext.experiments.suite_runs import Ledger, Row, run_suite
from gradmix_ext.experiments.suites import SUITES, Suite

_CONFIG = ExperimentConfig(tasks=2, epochs=1, hidden=(8,), samples_per_pair=2)
TINY = Suite(
    name="tiny",
    question="Does it run?",
    settings={"plain": _CONFIG, "split": replace(_CONFIG, replay="split")},
    context=("er",),
    references=("mixup",),
    contenders=("gradmix[policy=skip]",),
    seeds=(0, 1),
    quick_settings=("split",),
    quick_seeds=1,
)


def rows_of(folder: Path, suite: Suite = TINY, jobs: int = 1) -> dict:
    with Ledger(folder, suite) as ledger:
        list(run_suite(suite, ledger, jobs))
    return ledger.rows


def without_time(rows: dict) -> dict:
    return {key: replace(row, seconds=0.0) for key, row in rows.items()}


@pytest.mark.parametrize("suite", SUITES.values(), ids=lambda suite: suite.name)
def test_a_declared_suite_can_be_run(suite: Suite) -> None:
    arms = [Arm.parse(text) for text in suite.arms]
    assert len(set(arms)) == len(arms)
    assert len(suite.seeds) >= 20
    assert set(suite.quick().settings) <= set(suite.settings)
    for config in suite.settings.values():
        Experiment(config, arms)


def test_rows_are_the_results_of_plain_runs_to_six_digits(tmp_path: Path) -> None:
    rows = rows_of(tmp_path)
    assert len(rows) == 2 * 3 * 2
    arm = Arm.parse("gradmix[policy=skip]")
    result = Experiment(TINY.settings["split"], [arm]).run(arm, seed=1).result
    row = rows["split", "gradmix[policy=skip]", 1]
    assert row.final_accuracy == pytest.approx(result.final_accuracy, abs=6e-7)
    assert row.forgetting == pytest.approx(result.forgetting, abs=6e-7)
    assert row.average_incremental_accuracy == pytest.approx(
        result.average_incremental_accuracy, abs=6e-7
    )


def test_a_study_goes_on_where_it_was_interrupted(tmp_path: Path) -> None:
    whole = rows_of(tmp_path / "whole")
    part = tmp_path / "part"
    first = rows_of(part, replace(TINY, seeds=(0,)))
    # The power fails while a row is written.
    with (part / "runs.csv").open("a") as file:
        file.write("plain,er,1,0.5")
    again = rows_of(part)
    assert without_time(again) == without_time(whole)
    assert all(again[key] == row for key, row in first.items())  # not run again, even in its time
    assert rows_of(part) == again


@pytest.mark.parametrize("jobs", [1, 2])
def test_arms_that_were_finished_before_one_diverged_are_kept(tmp_path: Path, jobs: int) -> None:
    suite = replace(TINY, contenders=("der++[replay_weight=1e30]",), seeds=(0,))
    with Ledger(tmp_path, suite) as ledger, pytest.raises(DivergedError):
        list(run_suite(suite, ledger, jobs))
    with Ledger(tmp_path, suite) as again:
        assert again.rows == ledger.rows != {}


def test_processes_give_the_same_rows(tmp_path: Path) -> None:
    assert without_time(rows_of(tmp_path / "two", jobs=2)) == without_time(rows_of(tmp_path / "1"))


def what_was_handed_down(name: str, config: object, arms: object, arm: str, seed: int) -> Row:
    """A row of what a worker knows before its first run."""
    loaded = loader.status().reason != "no op has been called yet"
    handed_down = float(os.environ.get("HANDED_DOWN", "0"))
    return Row(name, arm, seed, handed_down, float(loaded), float(torch.get_num_threads()), 1.0)


def test_processes_load_the_kernels_of_their_parent(monkeypatch, tmp_path: Path) -> None:
    monkeypatch.setattr(suite_runs, "handed_down", lambda: {"HANDED_DOWN": "0.5"})
    monkeypatch.setattr(suite_runs, "_run", what_was_handed_down)
    for row in rows_of(tmp_path, jobs=2).values():
        known = (row.average_incremental_accuracy, row.final_accuracy, row.forgetting)
        assert known == (0.5, 1.0, 1.0)


def test_a_study_that_is_closed_ends_its_own_processes_and_no_others(
    tmp_path: Path, new_children: Callable[[], list[BaseProcess]]
) -> None:
    other = get_context("spawn").Process(target=time.sleep, args=(600,))
    other.start()
    try:
        with Ledger(tmp_path, TINY) as ledger:
            found = run_suite(TINY, ledger, jobs=2)
            next(found)
            found.close()
        assert new_children() == [other]
    finally:
        other.terminate()
        other.join()


def test_a_ledger_refuses_what_is_not_its_own(tmp_path: Path) -> None:
    (tmp_path / "letter.txt").write_text("Dear reader")
    with pytest.raises(FileExistsError, match="holds no study"):
        Ledger(tmp_path, TINY)

    folder = tmp_path / "study"
    with Ledger(folder, TINY) as ledger:
        ledger.add([Row("plain", "er", 0, 0.5, 0.5, 0.5, 1.0)])
    changed = replace(TINY, settings={"plain": replace(_CONFIG, epochs=2)})
    with pytest.raises(ValueError, match="holds runs of another setting named 'plain'"):
        Ledger(folder, changed)
    with Ledger(folder, TINY) as ledger:
        assert len(ledger.rows) == 1

    (folder / "runs.csv").write_text("setting,arm\nplain,er\n")
    with pytest.raises(ValueError, match="does not hold the runs of a study"):
        Ledger(folder, TINY)


def test_runs_from_before_a_default_changed_are_refused(monkeypatch, tmp_path: Path) -> None:
    with Ledger(tmp_path, TINY) as ledger:
        ledger.add([Row("plain", "er", 0, 0.5, 0.5, 0.5, 1.0)])
    # Every new setting has the other rate, also those of the suite that do not mention it.
    defaults = ExperimentConfig.__init__.__defaults__
    changed = tuple(0.5 if value == 0.05 else value for value in defaults)
    monkeypatch.setattr(ExperimentConfig.__init__, "__defaults__", changed)
    assert ExperimentConfig().lr == 0.5
    config = ExperimentConfig(tasks=2, epochs=1, hidden=(8,), samples_per_pair=2)
    with pytest.raises(ValueError, match="holds runs of another setting named 'plain'"):
        Ledger(tmp_path, replace(TINY, settings={"plain": config}))
    same = replace(config, lr=0.05)
    with Ledger(tmp_path, replace(TINY, settings={"plain": same})) as ledger:
        assert len(ledger.rows) == 1


def test_only_one_process_writes_to_a_study(capsys, monkeypatch, tmp_path: Path) -> None:
    monkeypatch.setattr(_suite, "SUITES", {"tiny": TINY})
    with Ledger(tmp_path, TINY):
        assert gradmix("compare", "--suite", "tiny", "--out", tmp_path) == 2
        err = capsys.readouterr().err
        assert f"{tmp_path} is in use by process {os.getpid()}" in err
        assert err.count("\n") == 1


def test_a_disk_that_refuses_leaves_a_study_as_it_was(tmp_path: Path) -> None:
    folder = tmp_path / "study"
    with Ledger(folder, TINY) as ledger:
        ledger.add([Row("plain", "er", seed, 0.5, 0.5, 0.5, 1.0) for seed in range(2)])
    with (folder / "runs.csv").open("a") as file:
        file.write("plain,er,2,0.5")
    before = {name: (folder / name).read_bytes() for name in ("runs.csv", "settings.json")}
    limit = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (50, limit[1]))
    try:
        with pytest.raises(OSError, match="File too large"):
            Ledger(folder, TINY)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limit)
    assert {name: (folder / name).read_bytes() for name in before} == before
    with Ledger(folder, TINY) as ledger:
        assert len(ledger.rows) == 2


@pytest.fixture
def findings() -> SuiteFindings:
    """Eight seeds; the contender gains a lot in one setting, loses in forgetting in the other."""
    rng = np.random.default_rng(0)
    rows = []
    gain = {"plain": (0.0, 0.2, 0.0), "split": (0.0, 0.0, 0.3)}
    for setting in TINY.settings:
        for seed in range(8):
            base = rng.uniform(0.3, 0.5, size=3)
            rows.append(Row(setting, "er", seed, *base, 1.0))
            rows.append(Row(setting, "mixup", seed, *(base + rng.normal(0, 0.01, 3)), 1.0))
            better = base + gain[setting] + rng.normal(0, 0.01, 3)
            rows.append(Row(setting, "gradmix[policy=skip]", seed, *better, 1.0))
    suite = replace(TINY, seeds=tuple(range(8)))
    return SuiteFindings(suite, {row.key: row for row in rows})


def test_tests_are_paired_and_corrected_over_settings_and_metrics(findings) -> None:
    found = findings.contrasts("gradmix[policy=skip]", "mixup")
    p = {}
    for setting in TINY.settings:
        for metric in ("average_incremental_accuracy", "final_accuracy", "forgetting"):
            ours, theirs = (
                list(findings.values(setting, arm, metric).values())
                for arm in ("gradmix[policy=skip]", "mixup")
            )
            p[setting, metric] = stats.ttest_rel(ours, theirs).pvalue
            difference = np.subtract(ours, theirs).mean()
            assert found[setting, metric].difference.mean == pytest.approx(difference)
    assert len(p) == 6
    ascending = sorted(p, key=p.get)
    largest = 0.0
    for rank, key in enumerate(ascending):  # Holm, step by step
        largest = max(largest, min(1.0, (6 - rank) * p[key]))
        assert found[key].p_holm == pytest.approx(largest)


def test_scores_know_which_way_is_better(findings) -> None:
    pair = ("gradmix[policy=skip]", "mixup")
    assert findings.score(*pair, "final_accuracy") == (1, 1, 0)
    assert findings.score(*pair, "forgetting") == (0, 1, 1)
    assert findings.score(*pair, "average_incremental_accuracy") == (0, 2, 0)


def test_seeds_that_one_arm_lacks_are_left_out(findings) -> None:
    rows = dict(findings.rows)
    del rows["plain", "mixup", 3]
    fewer = replace(findings, rows=rows)
    found = fewer.contrasts("gradmix[policy=skip]", "mixup")["plain", "final_accuracy"]
    assert found.difference.n == 7
    assert replace(findings, rows={}).contrasts("gradmix[policy=skip]", "mixup") == {}


def test_the_report_holds_counts_differences_and_means(findings) -> None:
    text = findings.markdown()
    assert "| gradmix[policy=skip] against mixup | 0 / 2 / 0 | 1 / 1 / 0 | 0 / 1 / 1 |" in text
    final = findings.values("plain", "er", "final_accuracy").values()
    mean = 100 * sum(final) / 8
    assert f"{mean:.1f} ±" in text
    table = text.split("final, difference in percentage points:")[1]
    plain = next(line for line in table.splitlines() if line.startswith("| plain |"))
    assert plain.split("|")[2].strip().startswith("+2")
    assert plain.split("|")[2].strip().endswith("*")
    assert "corrected by Holm's method" in text


def over_three(effect: dict[str, float], seeds: int = 6) -> SuiteFindings:
    """The contender minus `mixup` is an effect of the setting plus one that a seed has in all."""
    rng = np.random.default_rng(1)
    luck = rng.normal(0, 0.05, seeds)
    rows = []
    for setting, gain in effect.items():
        for seed in range(seeds):
            base, ours = rng.uniform(0.3, 0.5), gain + luck[seed] + rng.normal(0, 0.01)
            rows.append(Row(setting, "mixup", seed, base, base, base, 1.0))
            rows.append(Row(setting, "gradmix[policy=skip]", seed, *3 * (base + ours,), 1.0))
    suite = replace(TINY, settings=dict.fromkeys(effect, _CONFIG), seeds=tuple(range(seeds)))
    return SuiteFindings(suite, {row.key: row for row in rows})


def interval(sample: list[float]) -> tuple[float, float]:
    """Mean and half width of the 95 % interval, by SciPy."""
    low, high = stats.ttest_1samp(sample, 0.0).confidence_interval(0.95)
    return (low + high) / 2, (high - low) / 2


def test_means_over_settings_by_seeds_and_by_settings() -> None:
    effect = {"a": 0.01, "b": -0.02, "far": 0.3, "c": 0.0}
    findings = over_three(effect)
    pair = ("gradmix[policy=skip]", "mixup")
    gap = {
        (setting, seed): findings.rows[setting, pair[0], seed].final_accuracy
        - findings.rows[setting, pair[1], seed].final_accuracy
        for setting in effect
        for seed in range(6)
    }
    found = findings.overall(*pair, "final_accuracy")
    seeds = [sum(gap[setting, seed] for setting in effect) / 4 for seed in range(6)]
    settings = [sum(gap[setting, seed] for seed in range(6)) / 6 for setting in effect]
    rest = [sum(gap[setting, seed] for setting in "abc") / 3 for seed in range(6)]
    assert found.extreme == "far"
    for estimate, sample in (
        (found.over_seeds, seeds),
        (found.over_settings, settings),
        (found.without_extreme, rest),
    ):
        assert (estimate.mean, estimate.half_width) == pytest.approx(interval(sample))
        assert estimate.n == len(sample)
    # The seeds are good or bad luck in all settings at once: settings that were taken as
    # independent would make the interval too narrow.
    variance = sum(np.var([gap[s, seed] for seed in range(6)], ddof=1) / 6 for s in effect)
    assert found.over_seeds.half_width > 2 * 1.96 * math.sqrt(variance) / 4

    text = findings.markdown().split("final, difference in percentage points:")[1]
    rows = {
        line.split("|")[1].strip(): line.split("|")[2].strip() for line in text.split("\n")[2:11]
    }
    mean, width = (100 * value for value in interval(seeds))
    assert rows["mean, ± over seeds"] == f"{mean:+.1f} ± {width:.1f}"
    mean, width = (100 * value for value in interval(settings))
    assert rows["mean, ± over settings"] == f"{mean:+.1f} ± {width:.1f}"
    mean, width = (100 * value for value in interval(rest))
    assert rows["mean without the most extreme"] == f"{mean:+.1f} ± {width:.1f} (far)"


def test_only_seeds_that_ran_in_all_settings_are_in_the_means_over_settings() -> None:
    findings = over_three({"a": 0.0, "b": 0.1})
    rows = dict(findings.rows)
    del rows["b", "mixup", 3]
    pair = ("gradmix[policy=skip]", "mixup", "forgetting")
    found = replace(findings, rows=rows).overall(*pair)
    assert (found.over_seeds.n, found.over_settings.n) == (5, 2)
    assert (found.extreme, found.without_extreme) == (None, None)  # of two, neither is extreme
    assert "most extreme |" not in findings.markdown()

    rows = {key: row for key, row in findings.rows.items() if key[0] == "a"}
    cut_short = replace(findings, rows=rows)
    assert cut_short.overall(*pair) is None
    assert "| mean, ± over seeds |  |" in cut_short.markdown()


def test_runs_outside_the_suite_do_not_count(findings) -> None:
    assert "2 settings, 3 arms, 48 runs;" in findings.markdown()
    fewer = replace(TINY, seeds=(0, 1), settings={"plain": _CONFIG})
    part = replace(findings, suite=fewer)
    assert len(part.rows) == 48
    assert "1 settings, 3 arms, 6 runs;" in part.markdown()
    assert part.markdown() == SuiteFindings(fewer, {k: part.rows[k] for k in fewer.runs}).markdown()


def test_forgetting_of_a_single_task_is_left_open() -> None:
    rows = [
        Row("plain", arm, seed, 0.5 + seed / 10, 0.5, math.nan, 1.0)
        for arm in TINY.arms
        for seed in range(3)
    ]
    text = SuiteFindings(TINY, {row.key: row for row in rows}).markdown()
    assert "n/a" in text


# What is committed --------------------------------------------------------------------------------

ROOT = Path(__file__).parents[2]
RESULTS = ROOT / "benchmarks" / "results" / "selection"
METRICS = ("average_incremental_accuracy", "final_accuracy", "forgetting")
EVEN = "balanced[balance=0.5,per_sample_lam=true]"


def test_the_committed_report_is_that_of_the_committed_runs() -> None:
    with (RESULTS / "suite" / "runs.csv").open(newline="") as file:
        rows = [
            Row(line["setting"], line["arm"], int(line["seed"]), *map(float, [*line.values()][3:]))
            for line in csv.DictReader(file)
        ]
    findings = SuiteFindings(SUITES["selection"], {row.key: row for row in rows})
    assert (RESULTS / "suite" / "report.md").read_text() == findings.markdown()


@pytest.mark.parametrize("study", ["suite", "held-back"])
def test_the_committed_studies_can_go_on(tmp_path: Path, study: str) -> None:
    """Their settings are written as they once were: what each changes of the defaults."""
    settings = {
        name: ExperimentConfig(
            **{key: tuple(v) if isinstance(v, list) else v for key, v in changes.items()}
        )
        for name, changes in json.loads((RESULTS / study / "settings.json").read_text()).items()
    }
    if study == "suite":
        assert settings == dict(SUITES["selection"].settings)
    for name in ("runs.csv", "settings.json"):
        shutil.copy(RESULTS / study / name, tmp_path)
    suite = replace(SUITES["selection"], settings=settings)
    for _ in range(2):  # as they were written, and as they are written now
        with Ledger(tmp_path, suite) as ledger:
            assert len(ledger.rows) >= 1000
    changed = settings | {name: replace(config, lr=0.3) for name, config in settings.items()}
    with pytest.raises(ValueError, match="holds runs of another setting"):
        Ledger(tmp_path, replace(suite, settings=changed))


def by_hand(study: str, reference: str, metric: str, without: str = "") -> tuple[list, list]:
    """The default minus a reference in points, by seed and by setting, from the CSV alone."""
    with (RESULTS / study / "runs.csv").open(newline="") as file:
        value = {
            (line["setting"], line["arm"], line["seed"]): 100 * float(line[metric])
            for line in csv.DictReader(file)
        }
    settings = {key[0] for key in value} - {without}
    seeds = {key[2] for key in value}
    gap = {
        (setting, seed): value[setting, "gradmix", seed] - value[setting, reference, seed]
        for setting in settings
        for seed in seeds
    }
    return (
        [sum(gap[setting, seed] for setting in settings) / len(settings) for seed in seeds],
        [sum(gap[setting, seed] for seed in seeds) / len(seeds) for setting in settings],
    )


def written(sample: list[float], sign: str = "+") -> str:
    mean, width = interval(sample)
    return f"{mean:{sign}.1f} ± {width:.1f}"


def words(name: str) -> str:
    return " ".join((ROOT / name).read_text().split())


def test_the_documentation_has_the_means_over_the_settings() -> None:
    lines = (ROOT / "docs" / "selection-study.md").read_text().splitlines()
    for reference in ("balanced", "shuffled-scores", EVEN):
        found = [by_hand("suite", reference, metric) for metric in METRICS]
        rest = [by_hand("suite", reference, metric, "permuted union") for metric in METRICS]
        for name, samples in (
            ("seeds", [seeds for seeds, _ in found]),
            ("settings", [settings for _, settings in found]),
            ("seeds, without permuted union", [seeds for seeds, _ in rest]),
        ):
            assert f"| - `{reference}` | {name} | {' | '.join(map(written, samples))} |" in lines


def test_what_the_gradients_bought_is_quoted_from_the_runs() -> None:
    final, final_settings = by_hand("suite", "shuffled-scores", "final_accuracy")
    forgetting, forgetting_settings = by_hand("suite", "shuffled-scores", "forgetting")
    rest, _ = by_hand("suite", "shuffled-scores", "final_accuracy", "permuted union")
    less = written([-value for value in forgetting], "")
    of_settings = [f"± {interval(each)[1]:.1f}" for each in (forgetting_settings, final_settings)]
    readme, page = words("README.md"), words("docs/gradmix.md")
    assert f"{less} points less forgetting, and {written(final, '')} of final" in readme
    assert f"without it {written(rest, '')}" in readme
    assert f"over the settings {of_settings[0]} and {of_settings[1]}" in readme
    assert f"{less} points of forgetting" in page
    assert f"{written(final, '')} of final accuracy ({of_settings[1]} over the settings)" in page
    assert f"without it {written(rest, '')}" in page

    study = words("docs/selection-study.md")
    held_back = [by_hand("held-back", "shuffled-scores", metric) for metric in METRICS[::-1]]
    kinds = (written(held_back[0][0]), written(held_back[1][0]), written(held_back[2][0]))
    assert "{}, with {} of final accuracy and {} of AIA".format(*kinds) in study
    widths = (f"± {interval(settings)[1]:.1f}" for _, settings in held_back)
    assert "over the streams: {}, {} and {}".format(*widths) in study


# The command --------------------------------------------------------------------------------------


def gradmix(*args: object) -> int:
    with pytest.raises(SystemExit) as exit_:
        main([str(arg) for arg in args])
    return exit_.value.code


def test_the_command_runs_a_suite_and_makes_its_report_again(
    capsys, monkeypatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(_suite, "SUITES", {"tiny": TINY})
    out = tmp_path / "out"
    args = ("compare", "--suite", "tiny", "--quick", "--seeds", "2", "--jobs", "1", "--out", out)
    assert gradmix(*args) == 0
    text = capsys.readouterr().out
    assert "6 runs, kept in" in text
    assert "[6/6] split, gradmix[policy=skip], seed 1" in text
    for name in ("final_accuracy.png", "forgetting.png"):
        assert (out / name).read_bytes().startswith(b"\x89PNG")
    report = (out / "report.md").read_text()
    (out / "report.md").unlink()
    assert gradmix(*args) == 0
    assert "seed 1 (" not in capsys.readouterr().out  # nothing was left to run
    assert (out / "report.md").read_text() == report


def test_a_disk_that_refuses_or_a_process_that_dies_is_one_line(
    capsys, monkeypatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(_suite, "SUITES", {"tiny": TINY})
    args = ("compare", "--suite", "tiny", "--quick", "--seeds", "1", "--out", tmp_path / "out")
    for error, says in (
        (OSError(28, "No space left on device"), "cannot write"),
        (BrokenProcessPool("a process was ended"), "a process was ended; what was finished is in"),
    ):
        monkeypatch.setattr(Ledger, "add", Mock(side_effect=error))
        assert gradmix(*args, "--jobs", "1") == 1
        message = capsys.readouterr().err
        assert says in message
        assert message.count("\n") == 1


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (("--suite", "magic"), "unknown suite 'magic': known are selection"),
        (("--suite", "selection", "--epochs", "3", "--lr", "1"), "leave out --epochs, --lr"),
        (("--quick",), "--quick is for a --suite"),
        (("gradmix[x=1]", "--suite", "selection"), "gradmix has no setting 'x'"),
        (("gradmix", "mixup", "--suite", "selection"), "an arm is named twice: mixup and mixup"),
        (("cutmix", "--suite", "selection"), "arm 'cutmix': CutMix cuts boxes out of images"),
    ],
)
def test_wrong_use_is_one_line_and_exit_code_2(capsys, monkeypatch, tmp_path, args, message):
    monkeypatch.chdir(tmp_path)
    assert gradmix("compare", *args) == 2
    err = capsys.readouterr().err
    assert message in err
    assert err.count("\n") == 1


def test_a_backend_that_cannot_be_had_is_told_before_any_training(
    capsys, monkeypatch, tmp_path: Path
) -> None:
    error = loader.BackendUnavailable("there are no cuda kernels")
    monkeypatch.setattr(loader, "load", Mock(side_effect=error))
    args = ("compare", "--suite", "selection", "--quick", "--out", tmp_path / "out")
    assert gradmix(*args) == 2
    assert capsys.readouterr().err == "gradmix: error: there are no cuda kernels\n"
    assert not (tmp_path / "out").exists()


def test_a_suite_is_refused_under_torchrun(capsys, monkeypatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "1")  # what torchrun sets
    assert gradmix("compare", "--suite", "selection", "--quick") == 2
    assert "start it without torchrun" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []
