"""`gradmix robustness` and `gradmix explain`: results, errors and exit codes."""

from __future__ import annotations

import json
import math
import os
import re
import shutil
import signal
import time
from html.parser import HTMLParser
from unittest.mock import Mock

import pytest
import torch

import gradmix_ext as gx
from gradmix_ext.cli import main
from gradmix_ext.cli._report import RichProgress
from gradmix_ext.experiments.compare import Comparison
from gradmix_ext.experiments.experiment import Arm, Experiment, ExperimentConfig
from gradmix_ext.experiments.jobs import Tick
from gradmix_ext.experiments.plan import Plan, provenance
from gradmix_ext.experiments.run_folder import RunFolder
from gradmix_ext.experiments.saved import load_runs
from gradmix_ext.theory.explain import Explanation
from gradmix_ext.theory.page import render


def compared(config, labels, seeds, path):
    """A run folder at a path, with all arms and seeds finished."""
    arms = [Arm.parse(label) for label in labels]
    comparison = Comparison(Experiment(config, arms), arms, list(seeds))
    plan = Plan(config, tuple(arms), seeds, origin=provenance("gradmix compare", "torch"))
    with RunFolder(path) as folder:
        plan.write(folder.path)
        comparison.execute(folder)
    return folder.path


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A run folder with two arms and two seeds."""
    config = ExperimentConfig(tasks=2, epochs=2, hidden=(16,), alpha=0.5)
    return compared(config, ("joint", "joint+mixup"), (0, 3), tmp_path_factory.mktemp("run"))


OTHERS = ("icarl", "er[replay=split]", "er+gradmix[policy=skip,threshold=0.1]")


@pytest.fixture(scope="module")
def others(tmp_path_factory):
    """A run folder with arms that have commas and brackets, and one with its own classifier."""
    config = ExperimentConfig(tasks=2, epochs=2, hidden=(16,), buffer_size=30)
    return compared(config, OTHERS, (0, 1), tmp_path_factory.mktemp("run"))


@pytest.fixture
def gradmix(capsys, monkeypatch, tmp_path):
    """Run a command in this process, in a folder of its own; exit code, stdout and stderr."""
    monkeypatch.chdir(tmp_path)
    threads = torch.get_num_threads()

    def call(*args: object) -> tuple[int, str, str]:
        with pytest.raises(SystemExit) as exit_:
            main([str(arg) for arg in args])
        out, err = capsys.readouterr()
        return exit_.value.code, out, err

    yield call
    torch.set_num_threads(threads)


def test_robustness_writes_what_evaluate_finds(gradmix, run, tmp_path):
    eps = ["0", "0.05", "0.1"]
    code, out, err = gradmix(
        "robustness", run, "--eps", ",".join(eps), "--steps", 3, "--out", tmp_path / "out"
    )
    assert (code, err) == (0, "")
    assert "[4/4] joint+mixup seed 3" in out
    assert "Mean ± 95 % confidence interval over 2 seeds" in out
    content = json.loads((tmp_path / "out" / "robustness.json").read_text())
    assert content["bounds"] == [0.0, 1.0]
    assert content["arms"].keys() == {"joint", "joint+mixup"}
    for saved in load_runs(run):
        scenario = saved.scenario()
        x = torch.cat([task.test_x for task in scenario])
        y = torch.cat([task.test_y for task in scenario])
        expected = gx.robustness.evaluate(
            saved.model(), (x, y), "pgd", [float(e) for e in eps], steps=3
        )
        found = content["arms"][saved.arm.label][str(saved.seed)]
        assert found["accuracy"] == pytest.approx(list(expected.values()))
        assert found["ece"] == pytest.approx(list(expected.ece.values()), abs=1e-6)
    assert (tmp_path / "out" / "robustness.png").stat().st_size > 10_000
    assert "| joint+mixup |" in (tmp_path / "out" / "robustness.md").read_text()


def attacked(gradmix, monkeypatch, run, at_third):
    """Code, output and errors of an attack on four models, where something happens at the third."""
    evaluate, calls = gx.robustness.evaluate, []

    def watched(*args, **kwargs):
        calls.append(args)
        if len(calls) == 3:
            at_third()
        return evaluate(*args, **kwargs)

    monkeypatch.setattr(gx.robustness, "evaluate", watched)
    return gradmix("robustness", run, "--eps", "0,0.1", "--steps", 2, "--out", "out")


def assert_one_arm_is_kept(folder):
    content = json.loads((folder / "robustness.json").read_text())
    assert {arm: sorted(runs) for arm, runs in content["arms"].items()} == {"joint": ["0", "3"]}
    table = (folder / "robustness.md").read_text()
    assert "**Interrupted: 2 of 4 models attacked.**" in table
    assert (folder / "robustness.png").is_file()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_attack_keeps_what_was_finished(gradmix, monkeypatch, run, tmp_path, number):
    def interrupt():
        os.kill(os.getpid(), number)
        time.sleep(60)

    # What a shell starts in the background, such as tests, ignores Ctrl-C.
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        code, _, err = attacked(gradmix, monkeypatch, run, interrupt)
    finally:
        signal.signal(signal.SIGINT, before)
    assert code == 130
    assert err == "gradmix: interrupted: 2 of 4 models attacked, kept in out\n"
    assert_one_arm_is_kept(tmp_path / "out")


def test_an_attack_that_fails_keeps_what_was_finished(gradmix, monkeypatch, run, tmp_path):
    damaged = Mock(side_effect=ValueError("seed-0.pt does not hold the weights"))
    code, _, err = attacked(gradmix, monkeypatch, run, damaged)
    assert code == 2
    assert err == (
        "gradmix: error: seed-0.pt does not hold the weights; 2 of 4 models attacked, kept in out\n"
    )
    assert_one_arm_is_kept(tmp_path / "out")
    (tmp_path / "out" / "robustness.json").unlink()
    monkeypatch.undo()
    monkeypatch.chdir(tmp_path)
    bug = Mock(side_effect=RuntimeError("out of memory"))
    with pytest.raises(RuntimeError, match="out of memory"):
        attacked(lambda *args: main([*map(str, args), "--overwrite"]), monkeypatch, run, bug)
    assert_one_arm_is_kept(tmp_path / "out")


def test_robustness_of_some_arms_samples_and_another_attack(gradmix, run, tmp_path):
    code, out, _ = gradmix(
        *("robustness", run, "--arms", "joint", "--attack", "pgd_l2", "--eps", "0.5"),
        *("--samples", 20, "--steps", 2, "--bounds", "-1,2"),
    )
    assert code == 0
    assert "joint+mixup" not in out
    assert "ℓ2 radius in inputs of [-1, 2]" in out
    (written,) = (tmp_path / "runs").iterdir()
    content = json.loads((written / "robustness.json").read_text())
    assert content["arms"]["joint"]["0"]["samples"] == 20


def test_without_attack_the_accuracy_is_that_of_the_run(gradmix, others, tmp_path):
    """iCaRL's too, which predicts by nearest mean and not by its model's logits."""
    code, _, err = gradmix("robustness", others, "--eps", "0,0.05", "--steps", 2, "--out", "out")
    assert (code, err) == (0, "")
    content = json.loads((tmp_path / "out" / "robustness.json").read_text())
    assert content["arms"].keys() == set(OTHERS)
    for arm in OTHERS:
        for seed, found in content["arms"][arm].items():
            measured = json.loads((others / "matrices" / arm / f"seed-{seed}.json").read_text())
            assert found["accuracy"][0] == pytest.approx(measured["pooled_accuracy"][-1], abs=1e-12)
            assert found["accuracy"][1] < found["accuracy"][0]  # its gradient is not lost
    for saved in load_runs(others):
        scenario = saved.scenario()
        x, y = scenario.samples("test")
        by_logits = (saved.model()(x).argmax(1) == y).double().mean().item()
        found = content["arms"][saved.arm.label][str(saved.seed)]["accuracy"][0]
        assert (abs(by_logits - found) < 1e-12) == (saved.arm.method != "icarl")


def test_an_older_folder_lacks_what_icarl_predicts_with(gradmix, others, tmp_path):
    old = tmp_path / "old"
    shutil.copytree(others, old)
    for path in old.glob("models/icarl/*-method.pt"):
        path.unlink()
    args = ("robustness", old, "--eps", 0, "--out", tmp_path / "out")
    code, out, err = gradmix(*args)
    assert code == 0
    assert "[4/4] er+gradmix" in out
    assert err.splitlines() == [
        f"left out: {old} holds the model of icarl seed {seed}, but not what icarl predicts with "
        "besides: run the training again to save it"
        for seed in (0, 1)
    ]
    code, _, err = gradmix(*args, "--overwrite", "--arms", "icarl")
    assert code == 2
    assert err.count("\n") == 1
    assert "but not what icarl predicts with" in err


def test_all_arms_and_seeds_are_attacked_on_the_same_samples(gradmix, others, monkeypatch):
    """Though each seed has its own class order, and so its own order of samples."""
    orders = {saved.scenario().class_order for saved in load_runs(others)}
    assert len(orders) == 2
    given = []

    def watched(model, loader, *args, **kwargs):
        batches = list(loader)
        given.append(tuple(torch.cat(parts) for parts in zip(*batches, strict=True)))
        return evaluate(model, batches, *args, **kwargs)

    evaluate = gx.robustness.evaluate
    monkeypatch.setattr(gx.robustness, "evaluate", watched)
    assert gradmix("robustness", others, "--eps", 0, "--samples", 25)[0] == 0
    assert len(given) == len(OTHERS) * 2
    dataset = gx.continual.load_dataset("digits")
    x, y = given[0]
    place = [(dataset.test_x == row).all(1).nonzero()[0, 0] for row in x]
    assert len(set(map(int, place))) == 25
    assert torch.equal(dataset.test_y[torch.stack(place)], y)
    assert len(y.unique()) > 5
    for other_x, other_y in given[1:]:
        assert torch.equal(other_x, x)
        assert torch.equal(other_y, y)


@pytest.mark.parametrize("terminal", [False, True])
def test_arms_keep_their_brackets(gradmix, others, monkeypatch, terminal):
    chosen = OTHERS[1:]
    if terminal:
        monkeypatch.setenv("FORCE_COLOR", "1")
        monkeypatch.setenv("COLUMNS", "200")
    code, out, _ = gradmix("robustness", others, "--arms", ",".join(chosen), "--eps", 0)
    assert code == 0
    plain = re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", out)
    rows = [line.split()[0] for line in plain.splitlines() if "±" in line and "Mean" not in line]
    assert rows == [*chosen, *chosen]
    assert "icarl" not in plain
    assert (f"pgd · {chosen[-1]} seed 1" if terminal else f"] {chosen[0]} seed 0") in plain


def test_progress_of_a_training_keeps_the_brackets(others, monkeypatch, capsys):
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("COLUMNS", "200")
    arms = [Arm.parse(text) for text in OTHERS]
    comparison = Comparison(Experiment(ExperimentConfig(tasks=2), arms), arms, [0])
    with RichProgress(comparison) as progress:
        progress.tick(Tick(arms[1], 0, task=1, epoch=1, loss=0.5, accuracy=None))
    assert f"{OTHERS[1]} " in capsys.readouterr().out


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["nowhere"], "nowhere is not a run folder: it has no config.json"),
        (["RUN", "RUN"], "a run is named twice"),
        (["RUN", "--arms", "er"], "no arm 'er' in these runs"),
        (["RUN", "--eps", "0,x"], "'0,x' is not a list of numbers"),
        (["RUN", "--eps", "-1"], "eps must be finite and not negative, got -1"),
        (["RUN", "--bounds", "1,0"], "'1,0' is not LOW,HIGH"),
        (["RUN", "--bounds", "0,0.5"], "outside bounds (0.0, 0.5)"),
        (["RUN", "--out", "RUN"], "is not empty: choose another, or --overwrite"),
        (["RUN", "--attack", "cw"], "'cw' is not one of"),
        ([], "Missing argument 'RUN...'"),
    ],
)
def test_robustness_errors_are_one_line(gradmix, run, args, message):
    code, _, err = gradmix("robustness", *(run if arg == "RUN" else arg for arg in args))
    assert code == 2
    assert message in err
    assert err.count("\n") == 1


def test_nothing_is_attacked_where_nothing_can_be_written(gradmix, run, tmp_path):
    (tmp_path / "file").touch()
    code, out, err = gradmix("robustness", run, "--out", tmp_path / "file" / "out")
    assert code == 2
    assert err.endswith("file/out: Not a directory\n")
    assert "seed" not in out


class Page(HTMLParser):
    """Checks that tags close in order, and collects the text and every address."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.text: list[str] = []
        self.addresses: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.addresses += [value for name, value in attrs if name in ("src", "href")]
        if tag not in ("meta", "br"):
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text.append(data)


def test_explain_writes_a_page_that_stands_alone(gradmix, run, tmp_path):
    out = tmp_path / "page.html"
    code, text, err = gradmix(
        "explain", run, "--arm", "joint+mixup", "--seed", 3, "--samples", 60, "--out", out
    )
    assert (code, err) == (0, "")
    page = Page(out.read_text())
    assert page.open == []
    assert page.addresses == []
    words = " ".join(" ".join(page.text).split())
    for part in (
        "What mixup does to joint+mixup, seed 3",
        "Which class pairs help",
        "Beta(0.5, 0.5)",
    ):
        assert part in words
    assert "Not defined for any of the 45 pairs" in words
    assert "color-scheme: light dark" in out.read_text()
    # The terms are those of the library, for the same draw of the batch.
    (saved,) = (
        each for each in load_runs(run) if (each.arm.label, each.seed) == ("joint+mixup", 3)
    )
    scenario = saved.scenario()
    x = torch.cat([task.train_x for task in scenario])
    y = torch.cat([task.train_y for task in scenario])
    kept = torch.randperm(len(y), generator=torch.Generator().manual_seed(0))[:60]
    expected = gx.theory.mixup_taylor(saved.model(), x[kept], y[kept], 0.5, 0.5)
    for name in ("L_std", "R1", "R2", "R3"):
        line = next(line for line in text.splitlines() if line.startswith(name))
        assert float(line.split()[1]) == pytest.approx(getattr(expected, name), abs=2e-5)


def test_explain_takes_the_alpha_of_its_arm(gradmix, tmp_path):
    config = ExperimentConfig(tasks=2, epochs=1, hidden=(8,))
    folder = compared(config, ("joint+mixup[alpha=0.25]",), (0,), tmp_path / "own")
    for flags, expected in (((), "Beta(0.25, 0.25)"), (("--alpha", 2), "Beta(2, 2)")):
        out = tmp_path / "page.html"
        assert gradmix("explain", folder, "--samples", 10, *flags, "--out", out)[0] == 0
        assert expected in " ".join(Page(out.read_text()).text)


@pytest.mark.parametrize("pairs", ["all", 40, 1])
def test_explain_says_how_exact_the_expansion_is(gradmix, run, tmp_path, pairs):
    out = tmp_path / "page.html"
    code, text, _ = gradmix(
        "explain", run, "--arm", "joint", "--samples", 30, "--pairs", pairs, "--out", out
    )
    assert code == 0
    lines = {line.split()[0]: line.split() for line in text.splitlines() if line}
    assert lines["R"][2:4] == lines["L_approx"][2:4]
    of_pairs, of_draws = lines["R"][3], float(lines["L_mix"][3])
    words = " ".join(" ".join(Page(out.read_text()).text).split())
    assert "The last row, in grey, says nothing of that" in words
    if pairs == 1:
        assert of_pairs == "unknown"
        assert "estimates, ± unknown, of a single pair" in words
        assert "whether it agrees with the mixup loss cannot be said" in words
        return
    shown = float(re.search(r"(?:over|under)estimates, ± ([\d.e-]+)", words)[1])
    assert shown == pytest.approx(2 * math.sqrt(float(of_pairs) ** 2 + of_draws**2), rel=0.06)
    assert (float(of_pairs) == 0) == (pairs == "all")
    if pairs == 40:
        assert float(of_pairs) > 2 * of_draws  # what was left out
        drawn = float(re.search(r"R1 \+ R2 \+ R3 is ± ([\d.e-]+)\. ±", words)[1])
        assert drawn == pytest.approx(2 * float(of_pairs), rel=0.06)


def explanation(**of_taylor: float) -> Explanation:
    """One of two classes, where the terms of the expansion are as given."""
    terms = torch.zeros(2, 2, dtype=torch.float64)
    names = ("L_std", "R1", "R2", "R3", "R_stderr", "L_mix", "L_mix_stderr")
    taylor = gx.theory.MixupTaylor(
        **{name: of_taylor.get(name, 0.0) for name in names}, pairs=int(of_taylor.get("pairs", 9))
    )
    counts = torch.ones(2, 2, dtype=torch.int64)
    by_class = gx.theory.ClassPairTerms(terms, terms, terms, counts)
    return Explanation(1.0, 3, taylor, by_class, terms, counts.bool(), ())


@pytest.mark.parametrize(
    ("taylor", "present", "absent"),
    [
        # Off by 0.3: 30 standard errors of the mixup loss, but only 1.5 of the expansion.
        (
            {"R1": 1.3, "L_mix": 1.0, "L_mix_stderr": 0.01, "R_stderr": 0.2},
            "agrees with the mixup loss within the noise: its terms can be read",
            "misses",
        ),
        (
            {"R1": 1.3, "L_mix": 1.0, "L_mix_stderr": 0.01},
            "misses 0.3, 30% of that change",
            "within the noise",
        ),
        # Nothing is left of agreement when the noise is larger than what it is about.
        (
            {"R1": 1.3, "L_mix": 1.0, "L_mix_stderr": 0.01, "R_stderr": 0.6},
            "that of its drawn pairs is larger than the change: take more pairs",
            "can be read",
        ),
        # The change itself is known as well as the mixup loss is.
        (
            {"R1": 0.1, "L_mix": 0.1, "L_mix_stderr": 0.01, "R_stderr": 0.6},
            "raises the loss on this batch by 0.1 ± 0.02",
            "does not change the loss",
        ),
        (
            {"R1": -0.5, "L_mix": 0.1, "L_mix_stderr": 0.01, "R_stderr": math.nan, "pairs": 1},
            "no term: what the expansion underestimates, ± unknown",
            "misses",
        ),
        ({"R1": 0.5, "L_mix": 0.1}, "no term: what the expansion overestimates", "underestimates,"),
    ],
)
def test_the_verdict_on_the_expansion(taylor, present, absent):
    page = render(explanation(**taylor), "title", {}, ["a", "b"])
    words = " ".join(" ".join(Page(page).text).split())
    assert present in words
    assert absent not in words


def test_the_bar_of_what_is_missed_is_neither_help_nor_harm():
    page = render(explanation(R1=0.4, R2=-0.2, L_mix=0.5), "title", {}, ["a", "b"])
    colours = re.findall(r"<i style='[^']*background:var\((--\w+)\)'", page)
    assert colours == ["--harm", "--help", "--help", "--soft"]


def test_explain_by_default_writes_into_the_run(gradmix, run):
    code, out, _ = gradmix(
        "explain", run, "--arm", "joint", "--samples", 30, "--pairs", 50, "--alpha", 1
    )
    assert code == 0
    assert "30 samples, 50 pairs, alpha 1" in out
    assert (run / "explain-joint-seed-0.html").is_file()


def test_explain_refuses_what_does_not_predict_by_logits(gradmix, others):
    code, _, err = gradmix("explain", others, "--arm", "icarl")
    assert code == 2
    assert "icarl does not predict by the logits of its model" in err
    assert err.count("\n") == 1


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["nowhere"], "nowhere is not a run folder"),
        (["RUN"], "has several arms: choose one by --arm (joint, joint+mixup)"),
        (["RUN", "--arm", "er"], "has no arm 'er': there are joint, joint+mixup"),
        (["RUN", "--arm", "joint", "--seed", 1], "has no seed 1: there are 0, 3"),
        (["RUN", "--arm", "joint", "--alpha", 0], "alpha must be positive"),
        (["RUN", "--arm", "joint", "--pairs", "few"], "'few' is neither all nor a positive"),
    ],
)
def test_explain_errors_are_one_line(gradmix, run, args, message):
    code, _, err = gradmix("explain", *(run if arg == "RUN" else arg for arg in args))
    assert code == 2
    assert message in err
    assert err.count("\n") == 1
