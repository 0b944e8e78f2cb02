"""What a step on a class pair does, and what was predicted, against plain autograd and SGD."""

from __future__ import annotations

import copy
import itertools
import math
import warnings
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy import stats
from torch import Tensor, nn

from gradmix_ext import GradMix
from gradmix_ext.cli import main
from gradmix_ext.continual import mlp
from gradmix_ext.experiments.diagnosis import (
    Diagnosis,
    MeasureConfig,
    Measurement,
    Study,
    agreement,
    measure,
)
from gradmix_ext.experiments.diagnosis.agreement import auc, partial_spearman, spearman
from gradmix_ext.experiments.diagnosis.report import markdown, write_report
from gradmix_ext.experiments.diagnosis.study import _MeasuredER
from gradmix_ext.experiments.experiment import Arm, Experiment, ExperimentConfig

# Classes 0 and 2 are old, 3 and 1 current, 4 is still to come. One sample of each class, and λ = ½
# (Beta with a huge α), leave nothing to chance.
OLD, CURRENT = (0, 2), (3, 1)
SEEN = torch.tensor([True, True, True, True, False])
FIXED_LAM = 1e9


@pytest.fixture
def samples() -> dict[str, tuple[Tensor, Tensor]]:
    g = torch.Generator().manual_seed(3)

    def draw(classes: tuple[int, ...]) -> tuple[Tensor, Tensor]:
        return torch.randn(len(classes), 6, generator=g), torch.tensor(classes)

    return {
        "current": draw(CURRENT),
        "buffer": draw(OLD),
        "old_train": draw(OLD),
        "old_test": draw(OLD * 3),
    }


@pytest.fixture
def model() -> nn.Module:
    torch.manual_seed(0)
    return mlp((6,), 5, hidden=(8, 7))


def look(model: nn.Module, samples: dict, **settings: float) -> Measurement:
    config = MeasureConfig(**{"alpha": FIXED_LAM, "noise_samples": (2,), **settings})
    generator = torch.Generator().manual_seed(1)
    return measure(model, **samples, seen_mask=SEEN, config=config, generator=generator)


class Truth:
    """The same by `backward` and `torch.optim.SGD` on a copy of the model, pair by pair."""

    def __init__(self, model: nn.Module, samples: dict) -> None:
        self.model = copy.deepcopy(model).double()
        self.samples = {name: (x.double(), y) for name, (x, y) in samples.items()}
        pool = [self.samples[name] for name in ("current", "buffer")]
        self.one = {int(k): x[i : i + 1] for x, y in pool for i, k in enumerate(y)}

    def loss(self, model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
        logits = model(x)[:, SEEN]
        place = SEEN.cumsum(0) - 1
        return nn.functional.cross_entropy(logits, place[y])

    def gradients(self, model: nn.Module, loss: Tensor) -> list[Tensor]:
        model.zero_grad()
        loss.backward()
        return [p.grad.clone() for p in model.parameters()]

    def of(self, name: str) -> list[Tensor]:
        return self.gradients(self.model, self.loss(self.model, *self.samples[name]))

    def mixed_loss(self, model: nn.Module, a: int, b: int) -> Tensor:
        x = (self.one[a] + self.one[b]) / 2
        return sum(self.loss(model, x, torch.tensor([k])) for k in (a, b)) / 2

    def change(self, a: int, b: int, step: float, test: str) -> float:
        moved = copy.deepcopy(self.model)
        optimizer = torch.optim.SGD(moved.parameters(), lr=step)
        optimizer.zero_grad()
        self.mixed_loss(moved, a, b).backward()
        optimizer.step()
        data = self.samples[test]
        with torch.no_grad():
            return (self.loss(moved, *data) - self.loss(self.model, *data)).item()

    def inner(self, one: list[Tensor], other: list[Tensor], layer: int | None = None) -> float:
        chosen = slice(None) if layer is None else slice(2 * layer, 2 * layer + 2)
        pairs = zip(one[chosen], other[chosen], strict=True)
        return float(sum((a * b).sum() for a, b in pairs))


def close(found: Tensor, expected: list[float]) -> None:
    np.testing.assert_allclose(found.numpy(), expected, rtol=2e-3, atol=1e-6)


def test_changes_are_those_of_a_step_of_sgd(model, samples) -> None:
    found = look(model, samples, step=0.3)
    truth = Truth(model, samples)
    pairs = list(itertools.combinations_with_replacement(range(4), 2))
    assert found.pairs.tolist() == [list(pair) for pair in pairs]
    assert found.old.tolist() == [(a in OLD) + (b in OLD) for a, b in pairs]
    for name, change in (("old_train", found.train_change), ("old_test", found.test_change)):
        close(change, [truth.change(a, b, 0.3, name) for a, b in pairs])
        assert change.min() < 0 < change.max()


def test_scores_are_inner_products_of_gradients_by_autograd(model, samples) -> None:
    found = look(model, samples)
    truth = Truth(model, samples)
    g_buf, g_old = truth.of("buffer"), truth.of("old_train")
    pairs = found.pairs.tolist()
    mixed = [truth.gradients(truth.model, truth.mixed_loss(truth.model, *p)) for p in pairs]
    for layer in range(3):
        expected = [truth.inner(g, g_buf, layer) for g in mixed]
        close(found.scores[f"layer {layer + 1}"], expected)
    close(found.scores["network"], [truth.inner(g, g_buf) for g in mixed])
    close(found.scores["network, old data"], [truth.inner(g, g_old) for g in mixed])

    # The criteria of GradMix look at the last layer.
    head = [truth.inner(g, g_buf, 2) for g in mixed]
    close(found.scores["mixed"], head)
    close(found.scores["mixed@2"], head)
    own = {k: mixed[pairs.index([k, k])] for k in range(4)}
    s = {k: truth.inner(g, g_buf, 2) for k, g in own.items()}
    close(found.scores["linear"], [(s[a] + s[b]) / 2 for a, b in pairs])
    close(found.scores["gram"], [truth.inner(own[a], own[b], 2) for a, b in pairs])
    everything = Truth(model, {**samples, "buffer": samples["old_train"]})
    for score, (a, b) in zip(found.scores["mixed, old data"], pairs, strict=True):
        loss = everything.mixed_loss(everything.model, a, b)
        gradient = everything.gradients(everything.model, loss)
        assert float(score) == pytest.approx(everything.inner(gradient, g_old, 2), rel=2e-3)


def test_facts_are_norms_cosines_and_losses_by_autograd(model, samples) -> None:
    facts = look(model, samples).facts
    truth = Truth(model, samples)
    g_buf, g_old = truth.of("buffer"), truth.of("old_train")
    expected = {
        "buffer_loss": truth.loss(truth.model, *truth.samples["buffer"]).item(),
        "old_loss": truth.loss(truth.model, *truth.samples["old_train"]).item(),
    }
    for where, layer in (("head", 2), ("network", None)):
        buf, old = (math.sqrt(truth.inner(g, g, layer)) for g in (g_buf, g_old))
        expected |= {
            f"{where}_buffer_norm": buf,
            f"{where}_old_norm": old,
            f"{where}_cosine": truth.inner(g_buf, g_old, layer) / (buf * old),
        }
    assert facts == pytest.approx(expected, rel=1e-9)


def test_a_small_step_changes_the_loss_by_the_first_order_term(model, samples) -> None:
    found = look(model, samples, step=1e-6)
    first_order = -1e-6 * found.scores["network, old data"]
    np.testing.assert_allclose(found.train_change, first_order, rtol=1e-3, atol=1e-11)


def test_measuring_leaves_no_trace(samples) -> None:
    model = nn.Sequential(nn.Linear(6, 8), nn.BatchNorm1d(8), nn.Dropout(), nn.Linear(8, 5))
    model[2].eval()
    before = copy.deepcopy(model.state_dict())
    random = torch.get_rng_state()
    look(model, samples)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert [module.training for module in model] == [True, True, False, True]
    assert all(p.grad is None for p in model.parameters())
    assert torch.equal(torch.get_rng_state(), random)


# Statistics -------------------------------------------------------------------------------------


@pytest.fixture
def values() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    kind = np.repeat([0, 1, 2], [3, 8, 5])
    a = rng.normal(size=16).round(1) + kind
    return a, a + rng.normal(size=16).round(1), kind


def test_rank_correlations_equal_scipy_and_least_squares(values) -> None:
    a, b, kind = values
    assert spearman(a, b) == pytest.approx(stats.spearmanr(a, b).statistic)
    design = np.eye(3)[kind]
    rest = []
    for each in (a, b):
        rank = stats.rankdata(each)
        rest.append(rank - design @ np.linalg.lstsq(design, rank, rcond=None)[0])
    assert partial_spearman(a, b, kind) == pytest.approx(np.corrcoef(*rest)[0, 1])
    assert math.isnan(partial_spearman(kind - 0.5, b, kind))


def test_auc_counts_pairs_in_the_right_order() -> None:
    score, helps = np.array([1.0, 2.0, 2.0, 3.0]), np.array([False, True, False, True])
    won = [
        0.5 * (p == n) + (p > n)
        for p, n in itertools.product(score[helps], score[~helps])
    ]  # fmt: skip
    assert auc(score, helps) == pytest.approx(np.mean(won))
    assert math.isnan(auc(score, np.ones(4, dtype=bool)))


def test_agreement_reads_signs_with_zero_as_helpful() -> None:
    change = torch.tensor([-1.0, 2.0, 0.0, -3.0], dtype=torch.float64)
    found = Measurement(
        torch.zeros(4, 2, dtype=torch.int64),
        torch.tensor([2, 0, 1, 1]),
        change,
        -change,
        {
            "exact": -change,
            "half": torch.tensor([1.0, 1.0, 0.0, -1.0], dtype=torch.float64),
            "mixed@2": change,
            "mixed@16": torch.tensor([1.0, -1.0, -1.0, -1.0], dtype=torch.float64),
        },
        {},
    )
    table = agreement(found)
    assert table["exact"]["spearman"] == 1
    assert table["exact"]["spearman_test"] == -1
    assert (table["exact"]["sign"], table["exact"]["auc"]) == (1, 1)
    assert table["half"]["sign"] == 0.5
    assert table["half"]["reference_sign"] == 0.5


def test_gradients_that_vanish_leave_the_cosine_open(model, samples) -> None:
    with torch.no_grad():
        # The logits of the old class are far enough apart for the softmax to be 0 and 1.
        model[-1].weight.zero_()
        model[-1].bias.copy_(torch.tensor([2e3, 0, 0, 0, 0]))
    x, y = samples["buffer"]
    samples["buffer"] = samples["old_train"] = x[:1], y[:1]
    vanished = look(model, samples)
    for where in ("head", "network"):
        assert vanished.facts[f"{where}_buffer_norm"] == 0
        assert math.isnan(vanished.facts[f"{where}_cosine"])


# Studies ------------------------------------------------------------------------------------------

TINY = ExperimentConfig(tasks=3, epochs=2, buffer_size=10, hidden=(16,))
FAST = MeasureConfig(step_samples=4, samples_per_pair=2, noise_samples=(2, 4))


@pytest.fixture(scope="module")
def diagnosis() -> Diagnosis:
    torch.set_num_threads(1)
    return Study(Experiment(TINY, []), "mixup", (0, 1), FAST).run((0, 3))


def test_every_task_but_the_first_is_measured_at_the_epochs_asked_for(diagnosis) -> None:
    assert diagnosis.moments.tolist() == [[1, 0], [1, 1], [2, 0], [2, 1]]
    assert diagnosis.of("spearman", "mixed").shape == (2, 4)
    assert (np.abs(diagnosis.of("spearman", "network")) <= 1).all()
    assert (diagnosis.fact_of("head_buffer_norm") > 0).all()


def test_measuring_does_not_change_the_training() -> None:
    experiment = Experiment(TINY, [])
    arm = Arm.parse("gradmix")
    trainer = experiment.trainer(arm, seed=1)
    generator = torch.Generator().manual_seed(0)
    trainer.method = _MeasuredER("union", frozenset({0, 1}), FAST, generator)
    measured = trainer.fit(experiment.scenario(1))
    plain = experiment.run(arm, seed=1).result
    assert torch.equal(measured.accuracy_matrix, plain.accuracy_matrix)


def test_a_saved_diagnosis_comes_back(diagnosis, tmp_path: Path) -> None:
    diagnosis.save(tmp_path)
    loaded = Diagnosis.load(tmp_path)
    assert markdown(loaded) == markdown(diagnosis)
    assert loaded.setting["augment"] == "mixup"
    np.testing.assert_array_equal(loaded.agreement, diagnosis.agreement)
    whole = (tmp_path / "diagnosis.npz").read_bytes()
    middle = len(whole) // 2
    for damaged in (b"nonsense", whole[:middle] + bytes(20) + whole[middle + 20 :]):
        (tmp_path / "diagnosis.npz").write_bytes(damaged)
        with pytest.raises(ValueError, match="is not a saved diagnosis"):
            Diagnosis.load(tmp_path)


def test_tables_hold_means_of_seeds(diagnosis) -> None:
    text = markdown(diagnosis)
    per_seed = diagnosis.of("sign", "mixed").mean(axis=1)
    row = next(line for line in text.splitlines() if line.startswith("| mixed |"))
    assert row.split("|")[5].strip().startswith(f"{per_seed.mean():.2f} ±")
    assert "| kind |" in text


def test_facts_that_are_missing_are_shown_so(diagnosis, tmp_path: Path) -> None:
    fact = diagnosis.fact.copy()
    at = diagnosis.facts.index("head_cosine")
    fact[:, 1, at] = np.nan  # in all seeds
    fact[0, 2, at] = np.nan  # in one of two
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        text, _ = write_report(replace(diagnosis, fact=fact), tmp_path)
    rows = text.read_text().split("## Over training")[1].splitlines()
    column = [row.split("|")[8].strip() for row in rows if row.startswith("| ")]
    assert column[0] == "cosine"
    assert column[3] == "n/a"
    assert column[4] == f"{diagnosis.fact[1, 2, at]:.2f}"
    (tmp_path / "diagnosis.png").unlink()
    write_report(replace(diagnosis, fact=np.full_like(fact, np.nan)), tmp_path)
    assert (tmp_path / "diagnosis.png").is_file()


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda e: Study(e, "mixup", (0, 2), FAST), r"epochs must be numbers from 0 to 1, got"),
        (lambda e: Study(e, "mixup", (), FAST), "epochs must be numbers"),
        (lambda e: Study(e, "magic", (0,), FAST), "magic"),
        (lambda e: MeasureConfig(step=0.0), "step must be positive and finite, got 0"),
        (lambda e: MeasureConfig(samples_per_pair=0), "samples_per_pair must be at least 1, got 0"),
        (lambda e: MeasureConfig(noise_samples=(0,)), "noise_samples must be positive"),
    ],
)
def test_what_cannot_be_studied_is_refused(make: Callable, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make(Experiment(TINY, []))


def test_a_single_task_has_no_old_one() -> None:
    with pytest.raises(ValueError, match="tasks must be at least 2"):
        Study(Experiment(ExperimentConfig(tasks=1), []), "mixup", (0,), FAST)


# The command --------------------------------------------------------------------------------------


def gradmix(*args: object) -> int:
    with pytest.raises(SystemExit) as exit_:
        main([str(arg) for arg in args])
    return exit_.value.code


SHORT = ("--epochs", 1, "--tasks", 2, "--seeds", 2, "--step-samples", 2, "--samples-per-pair", 2)


def test_the_command_measures_and_writes_the_report_again(capsys, tmp_path: Path) -> None:
    out = tmp_path / "found"
    assert gradmix("diagnose", *SHORT, "--out", out) == 0
    text = capsys.readouterr().out
    assert "| mixed |" in text
    assert (out / "diagnosis.png").read_bytes().startswith(b"\x89PNG")
    report = (out / "diagnosis.md").read_text()
    (out / "diagnosis.md").unlink()
    assert gradmix("diagnose", "--again", out) == 0
    assert (out / "diagnosis.md").read_text() == report


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (("--at", "0,7,12"), "epochs must be numbers from 0 to 9, got [0, 7, 12]"),
        (("--at", "a"), "'a' is not a list of numbers"),
        (("--augment", "magic"), "magic"),
        (("--step", "-1"), "step must be positive and finite, got -1"),
        (("--tasks", "1"), "tasks must be at least 2"),
        (("--again", "nowhere"), "holds no diagnosis"),
    ],
)
def test_wrong_use_is_one_line_and_exit_code_2(capsys, tmp_path, args, message) -> None:
    assert gradmix("diagnose", *args, "--out", tmp_path / "x") == 2
    err = capsys.readouterr().err
    assert message in err
    assert err.count("\n") == 1


def test_a_criterion_of_the_report_is_the_mixers_own(model, samples) -> None:
    """The scores of `linear` need no draw, so the mixer must give exactly the same."""
    found = look(model, samples)
    mixer = GradMix(5, criterion="linear")
    mixer.update(model, samples["current"], samples["buffer"], SEEN)
    own = [float(mixer.scores[a, b]) for a, b in found.pairs.tolist()]
    np.testing.assert_array_equal(found.scores["linear"].numpy(), own)
