"""The tables of a comparison, from matrices that are made up."""

from __future__ import annotations

import csv
import math
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from gradmix_ext.continual.result import METRICS, Result
from gradmix_ext.experiments.compare import FORMULAS, Comparison, choose_baseline
from gradmix_ext.experiments.experiment import Arm, Experiment, ExperimentConfig
from gradmix_ext.experiments.summary import (
    summary_latex,
    summary_markdown,
    tables,
    write_metrics_csv,
    write_table_csv,
)
from gradmix_ext.experiments.tables import Table

ARMS = [Arm.parse(text) for text in ("finetune", "er", "gradmix")]


@pytest.fixture(scope="module")
def experiment() -> Experiment:
    return Experiment(ExperimentConfig(tasks=2), ARMS)


def result(first: float, last: tuple[float, ...]) -> Result:
    """Two tasks, or one: accuracy after the first, and after the last on each."""
    rows = [[first, 0.0], [*last]] if len(last) == 2 else [[*last]]
    R = torch.tensor(rows, dtype=torch.float64)
    classes = tuple((2 * t, 2 * t + 1) for t in range(len(R)))
    confusion = torch.zeros(len(R), 4, 4, dtype=torch.int64)
    return Result(R, R, R[0], R[:, 0], confusion, classes)


def comparison(experiment: Experiment, runs: dict[tuple[int, int], Result], **how) -> Comparison:
    """Runs by number of the arm and seed."""
    made = Comparison(experiment, ARMS, range(4), **how)
    for (arm, seed), each in runs.items():
        made.add(SimpleNamespace(arm=ARMS[arm], seed=seed, result=each))
    return made


def four_seeds() -> dict[tuple[int, int], Result]:
    runs = {}
    for seed in range(4):
        wobble = 0.01 * seed
        runs[0, seed] = result(0.9, (0.0, 0.8 + 2 * wobble))
        runs[1, seed] = result(0.9, (0.2 + wobble, 0.8))
        runs[2, seed] = result(0.9, (0.6 + wobble + 0.001 * (seed % 2), 0.8))
    return runs


def test_tables_by_hand(experiment):
    means, gaps = tables(comparison(experiment, four_seeds()))
    assert means.headings == ("arm", "seeds", "AIA", "final", "forgetting")
    # A_2 of er: (0.5 + 0.01 s / 2), so 0.5075 ± t(0.975, 3) s / sqrt(4), s = 0.0064550.
    assert means.rows[1] == ("er", "4", "70.4 ± 0.5", "50.7 ± 1.0", "68.5 ± 2.1")
    assert means.rows[2][0] == "gradmix"
    assert all(cell.endswith(" *") for cell in means.rows[2][2:])
    assert "over 4 seeds, mean ± 95 % CI; * differs from er, p < 0.05" in means.title
    assert gaps.title == (
        "Minus er, in percentage points, over 4 common seeds, mean ± 95 % CI; "
        "p: paired t test, Holm's correction over 6 tests"
    )
    assert [row[0] for row in gaps.rows] == ["finetune", "gradmix"]
    # Final: (0.4 + 0.001 (s mod 2)) / 2: mean 0.20025, and half of that in the AIA.
    assert gaps.rows[1][1::2] == ("+10.0 ± 0.0", "+20.0 ± 0.0", "-40.1 ± 0.1")
    assert gaps.rows[1][2::2] == ("<0.001",) * 3


def test_each_arm_has_the_seeds_that_it_has(experiment):
    runs = four_seeds()
    del runs[2, 3], runs[1, 0]
    means, gaps = tables(comparison(experiment, runs))
    assert [row[1] for row in means.rows] == ["4", "3", "3"]
    assert "over 3 to 4 seeds" in means.title
    assert "over 2 to 3 common seeds" in gaps.title
    text = summary_markdown(comparison(experiment, runs))
    assert "**Interrupted: 10 of 12 runs finished.**" in text


def test_one_seed_has_a_difference_and_no_test(experiment):
    runs = {key: each for key, each in four_seeds().items() if key[1] == 0}
    means, gaps = tables(comparison(experiment, runs))
    assert "±" not in str(means) + str(gaps)
    assert gaps.title == "Minus er, in percentage points, over 1 common seed"
    assert gaps.rows[1] == ("gradmix", "+10.0", "n/a", "+20.0", "n/a", "-40.0", "n/a")


def test_one_task_has_no_forgetting_to_test(experiment):
    runs = {
        (a, s): result(0, (0.5 + 0.1 * a + 0.01 * s * s * a,)) for a in (1, 2) for s in (0, 1, 2)
    }
    means, gaps = tables(comparison(experiment, runs))
    assert means.rows[0][-1] == "n/a"
    assert gaps.rows[0][-2:] == ("n/a", "n/a")
    assert "over 2 tests" in gaps.title


def test_without_the_baseline_there_are_no_differences(experiment):
    runs = {key: each for key, each in four_seeds().items() if key[0] != 1}
    (means,) = tables(comparison(experiment, runs))
    assert "no seed in common with er" in means.title


def test_without_a_common_seed_there_are_no_differences(experiment, tmp_path: Path):
    runs = four_seeds()
    apart = comparison(experiment, {(1, 0): runs[1, 0], (2, 1): runs[2, 1]})
    (means,) = tables(apart)
    assert means.title == (
        "Class-IL, in percent, over 1 seed; no seed in common with er, so no differences"
    )
    assert [row[:2] for row in means.rows] == [("er", "1"), ("gradmix", "1")]
    assert means.title in summary_markdown(apart)
    assert "no seed in common with er" in summary_latex(apart)
    write_table_csv(apart, tmp_path / "table.csv")
    with (tmp_path / "table.csv").open(newline="") as file:
        assert all(row["difference"] == "" for row in csv.DictReader(file))

    alone = comparison(experiment, {(2, 1): runs[2, 1]})
    (means,) = tables(alone)
    assert means.title == "Class-IL, in percent, over 1 seed"  # nothing that could be compared


def test_the_baseline_is_named_er_or_the_first():
    assert choose_baseline(ARMS) == ARMS[1]
    assert choose_baseline(ARMS[::2]) == ARMS[0]
    assert choose_baseline(ARMS, "er+gradmix") == ARMS[2]
    with pytest.raises(ValueError, match="baseline 'mixup' is none of the arms finetune, er, grad"):
        choose_baseline(ARMS, "mixup")


def test_latex_escapes_and_rules(experiment):
    text = summary_latex(comparison(experiment, four_seeds(), test="wilcoxon"))
    for rule in (r"\toprule", r"\midrule", r"\bottomrule", r"\begin{tabular}{lrrrr}"):
        assert rule in text
    assert r"er & 4 & 70.4 $\pm$ 0.5 & 50.7 $\pm$ 1.0 & 68.5 $\pm$ 2.1 \\" in text
    assert "Wilcoxon signed-rank test" in text
    body = "".join(line for line in text.splitlines() if not line.startswith("%"))
    assert body.isascii()
    table = Table("50 % of #1_a & b", ("arm", "Δ ~^\\{}$"), (("er-ace", "-1.5"), ("a_b", "+<*")))
    assert table.latex().splitlines()[2:] == [
        r"  \caption{50 \% of \#1\_a \& b}",
        r"  \begin{tabular}{lr}",
        r"    \toprule",
        r"    arm & $\Delta$ \textasciitilde{}\textasciicircum{}\textbackslash{}\{\}\$ \\",
        r"    \midrule",
        r"    er-ace & $-$1.5 \\",
        r"    a\_b & +$<$$^*$ \\",
        r"    \bottomrule",
        r"  \end{tabular}",
        r"\end{table}",
    ]


def test_markdown_rows_are_as_wide_as_their_heading(experiment):
    lines = summary_markdown(comparison(experiment, four_seeds())).splitlines()
    widths = [line.count("|") for line in lines if line.startswith("|")]
    assert widths == [6] * 5 + [8] * 4
    assert sum(line.startswith("- ") for line in lines) == len(FORMULAS)


def test_table_csv_holds_the_exact_numbers(experiment, tmp_path: Path):
    made = comparison(experiment, four_seeds())
    write_table_csv(made, tmp_path / "table.csv")
    with (tmp_path / "table.csv").open() as file:
        rows = {(row["arm"], row["metric"]): row for row in csv.DictReader(file)}
    assert len(rows) == len(ARMS) * len(METRICS)
    row = rows["gradmix", "final_accuracy"]
    values = [run.result.final_accuracy for run in made.of(ARMS[2])]
    assert float(row["mean"]) == np.mean(values)
    assert float(row["difference"]) == pytest.approx(0.20025, abs=1e-12)
    assert (row["baseline"], row["test"], row["common_seeds"]) == ("er", "t", "4")
    assert float(row["p"]) <= float(row["p_holm"]) < 0.001
    assert rows["er", "final_accuracy"]["difference"] == ""
    assert rows["gradmix", "bwt"]["difference"] == ""


def test_metrics_csv_has_one_number_a_row(tmp_path: Path):
    common = {"arm": "er", "seed": 3}
    entries = [
        {**common, "event": "epoch", "task": 1, "epoch": 2, "loss": 0.5},
        {**common, "event": "task", "task": 2, "classes": [4, 5], "class_il": [0.25, 0.75]},
        {**common, "event": "run", "final_accuracy": 0.5, "forgetting": None, "bwt": math.nan},
    ]
    write_metrics_csv(entries, tmp_path / "metrics.csv")
    assert (tmp_path / "metrics.csv").read_text().splitlines() == [
        "arm,seed,event,task,epoch,name,on_task,value",
        "er,3,epoch,1,2,loss,,0.5",
        "er,3,task,2,,class_il,1,0.25",
        "er,3,task,2,,class_il,2,0.75",
        "er,3,run,,,final_accuracy,,0.5",
        "er,3,run,,,forgetting,,",
        "er,3,run,,,bwt,,",
    ]
