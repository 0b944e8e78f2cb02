"""Suites: their runs, the ledger that they leave, and what is made of it."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from scipy import stats

from gradmix_ext.cli import _suite, main
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
    ledger = Ledger(folder, suite)
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


def test_processes_give_the_same_rows(tmp_path: Path) -> None:
    assert without_time(rows_of(tmp_path / "two", jobs=2)) == without_time(rows_of(tmp_path / "1"))


def test_a_ledger_refuses_what_is_not_its_own(tmp_path: Path) -> None:
    (tmp_path / "letter.txt").write_text("Dear reader")
    with pytest.raises(FileExistsError, match="holds no study"):
        Ledger(tmp_path, TINY)

    folder = tmp_path / "study"
    Ledger(folder, TINY).add([Row("plain", "er", 0, 0.5, 0.5, 0.5, 1.0)])
    changed = replace(TINY, settings={"plain": replace(_CONFIG, epochs=2)})
    with pytest.raises(ValueError, match="holds runs of another setting named 'plain'"):
        Ledger(folder, changed)
    assert len(Ledger(folder, TINY).rows) == 1

    (folder / "runs.csv").write_text("setting,arm\nplain,er\n")
    with pytest.raises(ValueError, match="does not hold the runs of a study"):
        Ledger(folder, TINY)


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
    assert "[6/6] split, seed 1" in text
    for name in ("final_accuracy.png", "forgetting.png"):
        assert (out / name).read_bytes().startswith(b"\x89PNG")
    report = (out / "report.md").read_text()
    (out / "report.md").unlink()
    assert gradmix(*args) == 0
    assert "seed 1 (" not in capsys.readouterr().out  # nothing was left to run
    assert (out / "report.md").read_text() == report


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (("--suite", "magic"), "unknown suite 'magic': known are selection"),
        (("--suite", "selection", "--epochs", "3", "--lr", "1"), "leave out --epochs, --lr"),
        (("--quick",), "--quick is for a --suite"),
        (("gradmix[x=1]", "--suite", "selection"), "gradmix has no setting 'x'"),
    ],
)
def test_wrong_use_is_one_line_and_exit_code_2(capsys, monkeypatch, tmp_path, args, message):
    monkeypatch.chdir(tmp_path)
    assert gradmix("compare", *args) == 2
    err = capsys.readouterr().err
    assert message in err
    assert err.count("\n") == 1
