"""What the report says, against the numbers in the run folder."""

from __future__ import annotations

import base64
import hashlib
import itertools
import json
import os
import re
import shutil
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest
from folders import write_run
from page_reader import Page, unpack
from scipy import stats

import gradmix_ext as gx
from gradmix_ext.cli import main
from gradmix_ext.experiments.experiment import Arm, Experiment, ExperimentConfig
from gradmix_ext.report import payload
from gradmix_ext.report.contenders import Contender
from gradmix_ext.report.load import ArmRecord, RunRecord
from gradmix_ext.report.pair_rules import pair_rule

ATTACK = "</script><img src=x onerror=alert(1)>\"'&"


def saved(folder, label, seed):
    return json.loads((folder / "matrices" / label / f"seed-{seed}.json").read_text())


def matrices(folder, label, seeds=(0, 1, 2)):
    return np.array([saved(folder, label, seed)["accuracy_matrix"] for seed in seeds])


def running(R):
    return np.array([[row[: t + 1].mean() for t, row in enumerate(r)] for r in R])


def interval(values):
    """Mean ± half width in percent, by the textbook."""
    width = stats.t.ppf(0.975, len(values) - 1) * np.std(values, ddof=1) / len(values) ** 0.5
    return f"{100 * np.mean(values):.1f} ± {100 * width:.1f}".replace("-", "−")


def test_the_table_says_what_the_matrices_say(report, tmp_path):
    folder = write_run(tmp_path / "run")
    page = report(folder)
    assert "<code>gradmix compare --seeds 3</code>" in page.text
    for label in ("er", "gradmix", "joint"):
        R = matrices(folder, label)
        forgetting = [
            np.mean([max(r[t, j] for t in range(j, 2)) - r[2, j] for j in range(2)]) for r in R
        ]
        row = page.results[label]
        assert row[0] == interval(running(R).mean(axis=1))
        assert row[1] == interval(R[:, -1].mean(axis=1))
        assert row[2] == interval(forgetting)
        assert row[-2:] == ["3", "1.5 s"]
        drawn = page.arm(label)
        np.testing.assert_allclose(
            drawn["accuracy"]["class_il"]["mean"], 100 * running(R).mean(axis=0), rtol=1e-4
        )
        np.testing.assert_allclose(
            np.mean(drawn["forgetting"]["class_il"]["mean"]),
            100 * np.mean(forgetting),
            rtol=1e-3,
            atol=1e-3,
        )
        packed = unpack(drawn["matrices"]["class_il"])
        np.testing.assert_allclose(packed[0] / 10_000, R.mean(axis=0), atol=6e-5)
        np.testing.assert_allclose(packed[1:] / 10_000, R, atol=6e-5)


def test_differences_are_paired_and_corrected(report, tmp_path):
    seeds = (0, 1, 2, 5)
    folder = write_run(tmp_path / "run", seeds=seeds)
    page = report(folder)
    rows = page.rows("Arm minus er")
    p = {}
    for label, column in itertools.product(("gradmix", "joint"), range(3)):
        ours, theirs = (measures(matrices(folder, each, seeds))[column] for each in (label, "er"))
        p[label, column] = stats.ttest_rel(ours, theirs).pvalue
        shown = rows[label][2 * column].removesuffix(" *").removeprefix("+")
        assert shown == interval(ours - theirs)
    # Holm by its definition: the k-th smallest of m is multiplied by m - k, and never decreases.
    floor = 0.0
    for rank, (label, column) in enumerate(sorted(p, key=p.__getitem__)):
        floor = max(floor, min(1.0, p[label, column] * (len(p) - rank)))
        assert rows[label][2 * column + 1] == ("< 0.001" if floor < 0.001 else f"{floor:.3f}")
        assert rows[label][2 * column].endswith(" *") == (floor < 0.05)
    assert "Holm's correction over 6 tests" in page.text


def measures(R):
    last = R.shape[1] - 1
    forgetting = [
        np.mean([max(r[t, j] for t in range(j, last)) - r[last, j] for j in range(last)]) for r in R
    ]
    return running(R).mean(axis=1), R[:, -1].mean(axis=1), np.array(forgetting)


def test_maps_and_confusion_are_in_class_order(report, tmp_path):
    folder = write_run(tmp_path / "run", epochs=3)
    arm = report(folder).arm("gradmix")
    helpful, counts = unpack(arm["pairs"]["allowed"]), unpack(arm["confusion"]["counts"])
    scores = unpack(arm["pairs"]["scores"]) * np.array(arm["pairs"]["scale"])[:, :, None, None]
    total_helpful, total_counts = np.zeros((6, 6, 6)), np.zeros((3, 6, 6))
    for view, seed in enumerate((0, 1, 2), start=1):
        order = [label for task in saved(folder, "gradmix", seed)["task_classes"] for label in task]
        assert arm["orders"][view - 1] == [str(label) for label in order]
        with np.load(folder / "class_pairs" / f"gradmix-seed-{seed}.npz") as maps:
            later = maps["task"] > 0
            allowed, raw = maps["allowed"][later], maps["scores"][later]
        expected = np.zeros((3, 6, 6))
        for task, true, predicted, count in saved(folder, "gradmix", seed)["confusion"]:
            expected[task, order.index(true), order.index(predicted)] = count
        np.testing.assert_array_equal(counts[view], expected)
        total_counts += expected
        for (i, a), (j, b) in itertools.product(enumerate(order), repeat=2):
            np.testing.assert_array_equal(helpful[view, :, i, j], allowed[:, a, b])
            error = np.abs(scores[view, :, i, j] / 127 - raw[:, a, b])
            assert (error <= np.abs(raw).max(axis=(1, 2)) / 253).all()
        total_helpful += helpful[view]
    np.testing.assert_array_equal(helpful[0], total_helpful)
    np.testing.assert_array_equal(counts[0], total_counts)
    assert arm["pairs"]["task"] == [1, 1, 1, 2, 2, 2]


@pytest.mark.parametrize(
    ("label", "settings"),
    [
        ("gradmix", {}),
        ("gradmix[preset=paper]", {}),
        ("gradmix[criterion=gram]", {"criterion": "mixed"}),
        ("gradmix", {"preset": "paper", "criterion": "linear"}),
        ("gradmix", {"update": "online"}),
        ("gradmix[update=epoch]", {"update": "online"}),
        ("random-mask", {}),
        ("random-mask", {"criterion": "linear", "policy": "skip"}),
        ("shuffled-scores", {}),
        ("shuffled-scores[preset=paper]", {}),
        ("shuffled-scores[policy=soft]", {"preset": "paper"}),
        ("shuffled-scores", {"policy": "redraw"}),
    ],
)
def test_a_map_is_what_the_mixer_makes_of_it(label, settings):
    parsed = Arm.parse(label)
    mixer = Experiment(ExperimentConfig(**settings), [parsed]).mixer(parsed, 0)
    control = isinstance(mixer, gx.ShuffledScoresMixup)
    config = {"settings": asdict(ExperimentConfig(**settings))}
    run = RunRecord(Path(), config, (), ())
    arm = ArmRecord(label, "er", parsed.augment, ())
    found = pair_rule(Contender(label, run, arm, "c1", "circle", ""))
    assert found == {
        "choice": ("odds" if mixer.policy == "soft" else "mask") if control else "scores",
        "score": "online" if mixer.update_every == "online" else mixer.criterion,
    }


def test_an_arm_that_this_version_cannot_read_has_the_rule_of_its_mixer():
    run = RunRecord(Path(), {"settings": {}}, (), ())
    arm = ArmRecord("gradmix[tea=1]", "er", "gradmix", ())
    found = pair_rule(Contender("old", run, arm, "c1", "circle", ""))
    assert found == {"choice": "scores", "score": "linear"}


def test_a_real_run(report, tmp_path):
    with pytest.raises(SystemExit) as exit_:
        main(f"compare er gradmix --seeds 2 --epochs 1 --out {tmp_path}/run".split())
    assert exit_.value.code == 0
    page = report(tmp_path / "run")
    summary = (tmp_path / "run" / "summary.md").read_text()
    for label in ("er", "gradmix"):
        shown = page.results[label][0]
        assert re.search(rf"\| {label} \|[^\n]*{re.escape(shown)}", summary)
    assert page.arm("gradmix")["pairs"]["epochs"] == 1
    assert len(page.arm("er")["loss"]["mean"]) == 5
    assert page.arm("er")["confusion"]


def test_the_page_asks_for_nothing_and_runs_its_own_script_alone(report, tmp_path):
    page = report(write_run(tmp_path / "run"))
    for tag, attributes in page.elements:
        assert tag not in ("link", "img", "iframe", "object", "embed", "base", "form")
        assert "src" not in attributes
        assert not [name for name in attributes if name.startswith("on")]
        assert attributes.get("href", "#").startswith("#")
    outside_namespaces = page.text.replace("http://www.w3.org/2000/svg", "")
    assert not re.search(r"https?://|url\((?!#)|@import|\bfetch\(|XMLHttp", outside_namespaces)
    [policy] = [a["content"] for t, a in page.elements if a.get("http-equiv")]
    assert policy.startswith("default-src 'none';")
    digest = base64.b64encode(hashlib.sha256(page.scripts[1].encode()).digest()).decode()
    assert f"script-src 'sha256-{digest}';" in policy
    assert len(page.scripts) == 2


def test_what_a_run_contains_stays_text(report, tmp_path):
    folder = write_run(tmp_path / "run", arms=("er", "x"), command=ATTACK, dataset=ATTACK)
    config = json.loads((folder / "config.json").read_text())
    # A label is the name of a folder too, so it has no slash.
    label = ATTACK.replace("/", "")
    config["arms"][1]["label"] = label
    config["settings"][ATTACK] = ATTACK
    config["versions"][ATTACK] = ATTACK
    config["class_names"] = [ATTACK] * 6
    (folder / "config.json").write_text(json.dumps(config))
    shutil.move(folder / "matrices" / "x", folder / "matrices" / label)
    page = report(folder)
    assert len(page.scripts) == 2
    assert "img" not in {tag for tag, _ in page.elements}
    assert [arm["name"] for arm in page.data["arms"]] == ["er", label]
    assert page.arm(label)["orders"][0] == [ATTACK] * 6


def test_one_seed_has_no_spread_and_no_test(report, tmp_path):
    page = report(write_run(tmp_path / "run", seeds=(4,)))
    body = page.text[: page.text.index("<script")]
    assert "±" not in re.sub(r"so no ± is given", "", body)
    assert "Holm" not in body
    assert page.arm("er")["accuracy"]["class_il"]["half"] is None
    assert len(unpack(page.arm("er")["matrices"]["class_il"])) == 2


def test_one_task_has_no_forgetting_and_no_pairs(report, tmp_path):
    page = report(write_run(tmp_path / "run", sizes=(4,)))
    assert "with one task nothing comes later" in page.section("forgetting")
    assert page.results["er"][2] == "n/a"
    assert page.arm("gradmix")["pairs"] is None


def test_parts_that_are_not_there(report, tmp_path):
    folder = write_run(tmp_path / "run", confusion=False)
    shutil.rmtree(folder / "class_pairs")
    (folder / "metrics.jsonl").unlink()
    page = report(folder)
    for name in ("confusion", "pairs", "loss"):
        assert page.arm("gradmix")[name] is None
    assert page.results["er"][-1] == "n/a"


def test_unfinished_runs_are_named(report, tmp_path):
    folder = write_run(tmp_path / "run")
    (folder / "matrices" / "joint" / "seed-2.json").unlink()
    shutil.rmtree(folder / "matrices" / "er")
    log = folder / "metrics.jsonl"
    log.write_text(log.read_text()[:-9])  # killed while it wrote
    page = report(folder)
    assert "5 of 9 runs are finished; missing: er seed 0, er seed 1, er seed 2, joint seed 2." in (
        page.text
    )
    assert [arm["name"] for arm in page.data["arms"]] == ["gradmix", "joint"]
    assert page.results["joint"][-2] == "2"
    assert page.results["joint"][0] == interval(
        running(matrices(folder, "joint", (0, 1))).mean(axis=1)
    )


def test_a_run_is_finished_when_its_own_log_is_there(report, tmp_path):
    folder = write_run(tmp_path / "run", arms=("er", "joint"))
    log = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    (folder / "metrics.jsonl").unlink()
    for label, seed in itertools.product(("er", "joint"), (0, 1)):
        own = folder / "events" / label / f"seed-{seed}.jsonl"
        own.parent.mkdir(parents=True, exist_ok=True)
        entries = [e for e in log if (e["arm"], e["seed"]) == (label, seed)]
        own.write_text("".join(json.dumps(entry) + "\n" for entry in entries))
    page = report(folder)
    assert "4 of 6 runs are finished; missing: er seed 2, joint seed 2." in page.text
    losses = [[e["loss"] for e in log if e["arm"] == "er" and e["seed"] == s and "loss" in e]
              for s in (0, 1)]  # fmt: skip
    np.testing.assert_allclose(page.arm("er")["loss"]["mean"], np.mean(losses, axis=0), rtol=1e-4)


def test_baseline_test_and_commands_are_those_of_the_run(report, tmp_path):
    folder = write_run(tmp_path / "run")
    path = folder / "config.json"
    config = json.loads(path.read_text())
    again = {"command": "gradmix compare --resume"}
    path.write_text(
        json.dumps(config | {"baseline": "joint", "test": "wilcoxon", "resumed": [again]})
    )
    page = report(folder)
    chosen = re.search(r"<option[^>]* selected>([^<]*)<", page.text)
    assert chosen[1] == "joint"
    assert "Wilcoxon signed-rank test" in page.text
    assert "Continued by:" in page.text
    assert "<code>gradmix compare --resume</code>" in page.text


def test_several_folders(report, tmp_path):
    one = write_run(tmp_path / "one", arms=("er",))
    two = write_run(tmp_path / "two", arms=("gradmix",), seeds=(1, 2, 9), epochs=3)
    other = write_run(tmp_path / "three", arms=("er",), dataset="cifar10")
    later = write_run(tmp_path / "four", arms=("er",), seeds=(7, 8))
    page = report(one, two, other, later)
    names = [arm["name"] for arm in page.data["arms"]]
    assert names == ["one: er", "two: gradmix", "three: er", "four: er"]
    gap = matrices(two, "gradmix", (1, 2))[:, -1] - matrices(one, "er", (1, 2))[:, -1]
    rows = page.rows("Arm minus one: er")
    assert rows["two: gradmix"][2].removeprefix("+") == interval(gap.mean(axis=1))
    assert rows["two: gradmix"][-1] == "2"
    assert rows["three: er"] == ["cannot be paired: another data set"]
    assert rows["four: er"] == ["cannot be paired: no seed in common"]
    settings = page.rows("Settings")
    assert settings["epochs ≠"] == ["2", "3", "2", "2"]
    assert settings["lr"] == ["0.05"] * 4


def test_a_folder_of_the_same_name_is_told_apart(report, tmp_path):
    paths = [write_run(tmp_path / name / "run", arms=("er",)) for name in "ab"]
    assert [arm["name"] for arm in report(*paths).data["arms"]] == [f"{p}: er" for p in paths]


def test_large_maps_are_thinned_but_all_seeds_count(monkeypatch, tmp_path):
    folder = write_run(tmp_path / "run", epochs=40, seeds=tuple(range(6)))
    whole, small = tmp_path / "whole.html", tmp_path / "small.html"
    gx.report.write([folder], whole)
    monkeypatch.setattr(payload, "MAX_CELLS", 3 * 36 * 4 * 12)
    gx.report.write([folder], small)
    before, after = (Page(path.read_text()).arm("gradmix")["pairs"] for path in (whole, small))
    assert len(before["seeds"]) == 6
    assert len(before["task"]) == 2 * 40
    assert len(after["seeds"]) == 3
    kept = [i for i, (t, e) in enumerate(zip(before["task"], before["epoch"], strict=True)) if
            (t, e) in set(zip(after["task"], after["epoch"], strict=True))]  # fmt: skip
    assert len(kept) == 2 * 10
    assert after["epoch"][9] == after["epoch"][-1] == 39
    np.testing.assert_array_equal(unpack(after["allowed"])[0], unpack(before["allowed"])[0][kept])
    monkeypatch.setattr(payload, "MAX_CELLS", 100)
    gx.report.write([folder], small)
    page = Page(small.read_text())
    assert page.arm("gradmix")["pairs"] == page.arm("er")["confusion"] == {"too_large": True}


@pytest.mark.parametrize("count", [1, 2, 7, 50])
@pytest.mark.parametrize("most", [0, 1, 3, 50, 60])
def test_spread_keeps_the_last_and_no_more_than_asked(count, most):
    kept = payload._spread(count, most)
    assert len(kept) == min(count, most)
    assert kept == sorted(set(kept))
    if most:
        assert kept[-1] == count - 1
        gaps = np.diff(kept)
        assert not len(gaps) or gaps.max() - gaps.min() <= 1


def spoil(folder, name, content):
    path = folder / name
    path.write_bytes(content) if content is not None else path.unlink()


SEED = "matrices/er/seed-0.json"
BAD = [
    ("config.json", None, "run is not a run folder: it has no config.json"),
    ("config.json", b"{", "config.json is not valid JSON"),
    ("config.json", b"\xff", "config.json is not valid JSON"),
    ("config.json", b"[]", "config.json does not hold a JSON object"),
    ("config.json", b'{"arms": 3}', "config.json does not hold a run"),
    (
        "config.json",
        b'{"arms": [], "seeds": [], "settings": {}, "test": "z"}',
        "config.json does not hold a run: ValueError(\"unknown test 'z'\")",
    ),
    ("config.json", b'{"arms": [], "seeds": [], "settings": {}}', "holds no finished run yet"),
    (SEED, b"{}", "seed-0.json, or the log of its run, is corrupt: KeyError('task_classes')"),
    (SEED, b'{"task_classes": [[0], [1]], "accuracy_matrix": [[1]]}', "accuracy_matrix must be"),
    ("metrics.jsonl", b"[1]\n", "metrics.jsonl, line 1, is not a log entry"),
    ("metrics.jsonl", b'{"arm": "er"}\n', "metrics.jsonl, line 1, is not a log entry"),
    ("class_pairs/gradmix-seed-1.npz", b"PK", "gradmix-seed-1.npz does not hold class-pair maps"),
    ("class_pairs/gradmix-seed-1.npz", b"", "gradmix-seed-1.npz does not hold class-pair maps"),
]


@pytest.mark.parametrize(("name", "content", "message"), BAD)
def test_bad_input_is_one_line_with_exit_code_2(tmp_path, capsys, name, content, message):
    folder = write_run(tmp_path / "run")
    spoil(folder, name, content)
    assert message in failure(capsys, folder)
    assert not (folder / "report.html").exists()


def test_bad_use_is_one_line_with_exit_code_2(tmp_path, capsys):
    folder = write_run(tmp_path / "run")
    assert "no config.json" in failure(capsys, tmp_path / "nowhere")
    assert "is given twice" in failure(capsys, folder, folder / ".." / "run")
    assert "Missing argument" in failure(capsys)
    assert "No such file or directory" in failure(capsys, folder, "--out", tmp_path / "a" / "b")
    with pytest.raises(ValueError, match="at least one run folder"):
        gx.report.write([], tmp_path / "x.html")


def failure(capsys, *args):
    with pytest.raises(SystemExit) as exit_:
        main(["report", *map(str, args)])
    out, err = capsys.readouterr()
    assert exit_.value.code == 2
    assert out == ""
    assert err.startswith("gradmix: error: ")
    assert err.count("\n") == 1
    return err


def test_a_page_that_cannot_be_written_is_no_wrong_input(tmp_path, capsys):
    folder = write_run(tmp_path / "run")
    (tmp_path / "file").touch()
    with pytest.raises(SystemExit) as exit_:
        main(["report", str(folder), "--out", str(tmp_path / "file" / "page.html")])
    assert exit_.value.code == 1
    assert "cannot write" in capsys.readouterr().err


def test_the_page_lies_in_the_folder_by_default(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    one, two = (write_run(tmp_path / name, arms=("er",)) for name in ("one", "two"))
    for args, written in (([one], one / "report.html"), ([one, two], tmp_path / "report.html")):
        with pytest.raises(SystemExit) as exit_:
            main(["report", *map(str, args)])
        assert exit_.value.code == 0
        assert os.path.basename(written) in capsys.readouterr().out
        assert written.read_text().startswith("<!doctype html>")
