"""Rare features: exact pairs against brute force, the data model, what is learned, the command."""

from __future__ import annotations

import itertools
import json
import math
from dataclasses import replace
from unittest.mock import Mock

import pytest
import torch
from matplotlib.figure import Figure

from gradmix_ext.cli import cli, main
from gradmix_ext.theory import rare_features as rf
from gradmix_ext.theory.rare_features import folder, pairs, training
from gradmix_ext.theory.rare_features.network import ACTIVATIONS, activate

LAMBDAS = [
    (0.6, 0.6),
    (0.5, 0.5),
    (0.8, 0.6),
    (0.6, 0.8),
    (0.6, 1.0),
    (1.0, 0.7),
    (0.0, 0.3),
    (1, 1),
]
# Seconds matter here: small data on which mixup still learns what standard training does not.
SMALL = rf.ExperimentConfig(
    n=80, d=400, rho=0.15, sigma_p=0.17, lr=0.2, steps=900, standard_steps=900, test_samples=200,
    record_every=300,
)  # fmt: skip
QUICK = ["--n", "24", "--d", "30", "--steps", "12", "--standard-steps", "20", "--test-samples", "8"]


@pytest.fixture(autouse=True)
def one_thread():
    """All is small here, and threads would only wait for each other."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture
def generator():
    return torch.Generator().manual_seed(7)


@pytest.fixture
def small_data(generator):
    model = rf.DataModel(n=9, d=12, patches=4, rho=0.3, shuffle_patches=True)
    return model.sample(model.features(generator), generator)


@pytest.fixture
def gradmix(capsys, monkeypatch, tmp_path):
    """Run a command in this process; gives exit code, stdout and stderr."""
    monkeypatch.chdir(tmp_path)

    def run(*args: object) -> tuple[int, str, str]:
        with pytest.raises(SystemExit) as exit_:
            main([str(arg) for arg in args])
        out, err = capsys.readouterr()
        return exit_.value.code, out, err

    return run


def brute_force_logits(weight, x, lam, activation):
    """Every mixed input materialised, [n, n, P, d]."""
    mixed = lam * x[:, None] + (1 - lam) * x[None]
    return activate(torch.einsum("ijpd,kmd->ijkpm", mixed, weight), activation).sum(dim=(3, 4))


def brute_force_loss(weight, x, y, lam_x, lam_y, activation):
    labels = torch.nn.functional.one_hot(y, 2).to(x.dtype)
    target = lam_y * labels[:, None] + (1 - lam_y) * labels[None]
    logits = brute_force_logits(weight, x, lam_x, activation)
    return -(target * logits.log_softmax(dim=-1)).sum(dim=-1).mean()


# Pairs


@pytest.mark.parametrize("block", [1 << 22, 20], ids=["one block", "blocks of two rows"])
@pytest.mark.parametrize("lams", LAMBDAS)
@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_loss_and_gradient_equal_brute_force(
    activation, lams, block, small_data, generator, monkeypatch
):
    monkeypatch.setattr(pairs, "_BLOCK", block)
    network = rf.PatchNetwork.initial(3, 12, 0.5, generator, activation)
    weight = network.weight.clone().requires_grad_()
    expected = brute_force_loss(weight, small_data.x, small_data.y, *lams, activation)
    (gradient,) = torch.autograd.grad(expected, weight)
    loss, found = rf.mixup_loss(network, small_data, *lams)
    torch.testing.assert_close(loss, expected.detach(), rtol=1e-12, atol=1e-13)
    torch.testing.assert_close(found, gradient, rtol=1e-11, atol=1e-13)


@pytest.mark.parametrize("lam", [0.0, 0.3, 0.5, 1.0])
@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_mixed_logits_equal_brute_force(activation, lam, small_data, generator):
    network = rf.PatchNetwork.initial(3, 12, 0.5, generator, activation)
    expected = brute_force_logits(network.weight, small_data.x, lam, activation)
    torch.testing.assert_close(rf.mixed_logits(network, small_data, lam), expected)


def test_label_lam_defaults_to_input_lam(small_data, generator):
    network = rf.PatchNetwork.initial(3, 12, 0.5, generator)
    assert (
        rf.mixup_loss(network, small_data, 0.7)[0]
        == rf.mixup_loss(network, small_data, 0.7, 0.7)[0]
    )


@pytest.mark.parametrize("lams", [(-0.1, 0.5), (1.1, 0.5), (0.5, math.nan)])
def test_a_lam_outside_its_range_is_an_error(lams, small_data, generator):
    network = rf.PatchNetwork.initial(3, 12, 0.5, generator)
    with pytest.raises(ValueError, match=r"lam_[xy] must be in \[0, 1\], got"):
        rf.mixup_loss(network, small_data, *lams)


# Training


@pytest.mark.parametrize("d", [12, 80], ids=["weights", "Gram matrix"])
@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_training_is_gradient_descent_on_the_brute_force_loss(activation, d, generator):
    model = rf.DataModel(n=8, d=d, patches=4, rho=0.25)
    features = model.features(generator)
    data = model.sample(features, generator)
    network = rf.PatchNetwork.initial(2, d, 0.3, generator, activation)
    schedule = rf.Schedule(0.6, 0.8, stop=4, taper=True)
    history = rf.train(
        network, data, schedule, steps=6, lr=0.2, features=features, record_every=2, snapshots=[3]
    )
    weight, losses = network.weight.clone(), []
    for step in range(7):
        weight.requires_grad_()
        loss = brute_force_loss(weight, data.x, data.y, *schedule.at(step), activation)
        (gradient,) = torch.autograd.grad(loss, weight)
        if step == 3:
            torch.testing.assert_close(history.snapshots[3].weight, weight.detach())
        if step % 2 == 0:
            losses.append(loss.item())
        if step < 6:
            weight = (weight - 0.2 * gradient).detach()
    assert history.step == [0, 2, 4, 6]
    assert history.loss == pytest.approx(losses, rel=1e-10)
    assert history.network is not None
    torch.testing.assert_close(history.network.weight, weight.detach(), rtol=1e-9, atol=1e-12)


def test_both_ways_of_descent_are_in_use(generator, monkeypatch):
    used = []
    for name in ("_DirectState", "_KernelState"):
        original = getattr(training, name)
        spy = lambda *args, name=name, original=original: used.append(name) or original(*args)  # noqa: E731
        monkeypatch.setattr(training, name, spy)
    for d in (12, 80):
        model = rf.DataModel(n=8, d=d, patches=6)
        features = model.features(generator)
        network = rf.PatchNetwork.initial(2, d, 0.3, generator)
        data = model.sample(features, generator)
        rf.train(network, data, rf.Schedule(), steps=1, lr=0.1, features=features)
    assert used == ["_DirectState", "_KernelState"]


def test_mixup_learns_the_rare_features_and_standard_training_does_not():
    experiment = rf.Experiment(SMALL)
    standard = experiment.run(rf.Schedule(), seed=0)
    mixup = experiment.run(rf.Schedule(0.6, 0.6), seed=0)
    for run in (standard, mixup):
        assert run.final()["train"] == run.final()["common"] == 1.0
        assert min(run.history.common_margin[-1]) > 1.0
    assert max(standard.history.rare_margin[-1]) < 0.05
    assert min(mixup.history.rare_margin[-1]) > 1.0
    assert standard.final()["rare"] < 0.6
    assert mixup.final()["rare"] > 0.95


def test_a_seed_gives_the_same_run_again_and_another_seed_another():
    experiment = rf.Experiment(replace(SMALL, steps=30, record_every=10))
    first, again, other = (experiment.run(rf.Schedule(0.6, 0.6), seed) for seed in (3, 3, 4))
    assert first.history.curves() == again.history.curves()
    assert first.history.curves() != other.history.curves()


def test_a_sweep_continues_where_mixup_stopped():
    experiment = rf.Experiment(replace(SMALL, steps=60, standard_steps=60, record_every=30))
    swept = experiment.sweep(rf.Schedule(0.6, 0.6), "rho", 0.3, (0.0, 0.5, 1.0), seed=1)
    direct, _ = experiment.at("rho", 0.3, rf.Schedule(0.6, 0.6))
    for share, arm in (
        (0.0, rf.Schedule()),
        (0.5, rf.Schedule(0.6, 0.6, stop=30)),
        (1.0, rf.Schedule(0.6, 0.6)),
    ):
        assert swept.final[share] == pytest.approx(direct.run(arm, 1).final(), abs=0.011)


def test_diverging_training_is_an_error():
    with pytest.raises(FloatingPointError, match="smaller learning rate"):
        rf.Experiment(replace(SMALL, lr=1e4)).run(rf.Schedule(0.6, 0.6), seed=0)


# Schedule


def test_schedule_over_the_steps():
    assert rf.Schedule(0.6, 0.8).at(10_000) == (0.6, 0.8)
    stopped = rf.Schedule(0.6, 0.8, stop=10)
    assert stopped.at(9) == (0.6, 0.8)
    assert stopped.at(10) == (1.0, 1.0)
    tapered = rf.Schedule(0.6, 0.8, stop=10, taper=True)
    assert tapered.at(0) == (0.6, 0.8)
    assert tapered.at(5) == pytest.approx((0.8, 0.9))
    assert tapered.at(10) == (1.0, 1.0)


@pytest.mark.parametrize(
    ("text", "schedule"),
    [
        ("standard", rf.Schedule()),
        (".6", rf.Schedule(0.6, 0.6)),
        ("0.8/0.6", rf.Schedule(0.8, 0.6)),
        ("0.6/1", rf.Schedule(0.6, 1.0)),
        ("0.6/0.6@1000", rf.Schedule(0.6, 0.6, 1000)),
        ("0.5~70", rf.Schedule(0.5, 0.5, 70, taper=True)),
    ],
)
def test_labels_can_be_read_again(text, schedule):
    assert rf.Schedule.parse(text) == schedule == rf.Schedule.parse(schedule.label)


# Data


@pytest.mark.parametrize("shuffle", [False, True])
def test_every_sample_is_what_the_model_says(shuffle, generator):
    model = rf.DataModel(n=400, d=60, patches=6, alpha=0.3, rho=0.2, shuffle_patches=shuffle)
    features = model.features(generator)
    data = model.sample(features, generator)
    torch.testing.assert_close(features @ features.T, torch.eye(4, dtype=torch.float64))
    assert data.x.shape == (400, 6, 60)
    assert data.y.bincount().tolist() == [200, 200]
    coefficients = data.x @ features.T  # [n, P, 4]
    expected = torch.zeros(400, 4, dtype=torch.float64)
    own = torch.where(data.rare, 2 + data.y, data.y)
    expected[torch.arange(400), own] += 1.0
    expected[torch.arange(400), 1 - data.y] += 0.3
    torch.testing.assert_close(coefficients.sum(dim=1), expected, rtol=0, atol=1e-12)
    # One patch has the feature, one the feature noise, and four are noise off the features.
    assert (coefficients.abs() > 1e-9).sum(dim=(1, 2)).eq(2).all()
    first = coefficients[:, 0].abs().amax(dim=1) > 0.9
    assert bool(first.all()) is not shuffle


def test_noise_has_its_variance_in_every_direction_off_the_features(generator):
    model = rf.DataModel(n=2000, d=10, patches=7, sigma_p=0.15)
    features = model.features(generator)
    noise = model.sample(features, generator).atoms[4:]
    assert len(noise) == 2000 * 5
    expected = 0.15**2 * (torch.eye(10, dtype=torch.float64) - features.T @ features)
    torch.testing.assert_close(noise.T @ noise / len(noise), expected, rtol=0, atol=1.5e-3)


def test_rare_samples_are_as_many_as_asked_for(generator):
    for n, rho in itertools.product((7, 150, 151), (0.0, 0.1, 0.5, 1.0)):
        model = rf.DataModel(n=n, d=6, patches=2, rho=rho)
        data = model.sample(model.features(generator), generator)
        counts = [int((data.rare & (data.y == k)).sum()) for k in (0, 1)]
        assert sum(counts) == round(rho * n)
        assert abs(counts[0] - counts[1]) <= 1
    model = rf.DataModel(n=20_000, d=4, patches=2, rho=0.1, rare_count="binomial")
    data = model.sample(model.features(generator), generator)
    assert 0 < abs(data.rare.double().mean().item() - 0.1) < 4 * math.sqrt(0.09 / 20_000)


@pytest.mark.parametrize("kind", ["common", "rare"])
def test_test_sets_are_of_one_kind_and_their_feature_noise_of_either_class(kind, generator):
    model = rf.DataModel(d=20)
    data = model.test_set(kind, 100, model.features(generator), generator)
    assert data.rare.all() if kind == "rare" else not data.rare.any()
    for k in (0, 1):
        assert data.opposed[data.y == k].double().mean() == 0.5


def test_margins_are_logit_differences_of_lone_features(generator):
    model = rf.DataModel(d=20)
    features = model.features(generator)
    network = rf.PatchNetwork.initial(3, 20, 1.0, generator, "cube")
    lone = activate(torch.einsum("fd,kmd->fkm", features, network.weight), "cube").sum(dim=2)
    expected = [[lone[0, 0] - lone[0, 1], lone[1, 1] - lone[1, 0]]]
    expected.append([lone[2, 0] - lone[2, 1], lone[3, 1] - lone[3, 0]])
    torch.testing.assert_close(network.margins(features), torch.tensor(expected).double())


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ({"n": 1}, "n must be at least 2, got 1"),
        ({"d": 3}, "d must be at least 4, got 3"),
        ({"rho": 1.5}, r"rho must be in \[0, 1\], got 1.5"),
        ({"sigma_p": -1.0}, "sigma_p must be at least 0 and finite, got -1.0"),
        ({"feature_noise": "own"}, "feature_noise must be one of"),
        ({"activation": "tanh"}, "activation must be one of"),
        ({"filters": 0}, "filters must be at least 1, got 0"),
        ({"lr": math.inf}, "lr must be positive and finite, got inf"),
    ],
)
def test_wrong_settings_are_named(setting, message):
    with pytest.raises(ValueError, match=message):
        rf.ExperimentConfig(**setting)


# Command


def test_the_table_from_end_to_end(gradmix, tmp_path):
    code, out, err = gradmix("rare-features", *QUICK, "--seeds", "2", "--out", "r")
    assert (code, err) == (0, "")
    folder = tmp_path / "r"
    runs = [json.loads(line) for line in (folder / "runs.jsonl").read_text().splitlines()]
    arms = [arm.label for arm in rf.default_arms(12)]
    assert [(run["training"], run["seed"]) for run in runs] == [
        (a, s) for s in (0, 1) for a in arms
    ]
    curves = runs[0]["curves"]
    assert curves["step"] == [0, 20]
    assert runs[0]["final"]["rare"] == curves["accuracy"]["rare"][-1]
    summary = (folder / "summary.md").read_text()
    for arm in arms:
        assert f"| {arm} |" in summary
        assert arm in out
    assert json.loads((folder / "config.json").read_text())["settings"]["d"] == 30
    assert (folder / "curves.png").read_bytes().startswith(b"\x89PNG")


def test_the_sweep_from_end_to_end(gradmix, tmp_path):
    args = ["rare-features", *QUICK, "--sweep", "sigma-p", "--values", "0.1,0.3", "--stops", "3"]
    code, out, err = gradmix(*args, "--seeds", "2", "--out", "r")
    assert (code, err) == (0, "")
    runs = [json.loads(line) for line in (tmp_path / "r" / "runs.jsonl").read_text().splitlines()]
    assert [(run["sigma_p"], run["seed"]) for run in runs] == [
        (0.1, 0),
        (0.3, 0),
        (0.1, 1),
        (0.3, 1),
    ]
    assert [float(stop) for stop in runs[0]["stops"]] == pytest.approx([0, 1 / 3, 2 / 3, 1])
    assert "hurts (-) in" in out
    assert (tmp_path / "r" / "stop-map.png").read_bytes().startswith(b"\x89PNG")
    summary = (tmp_path / "r" / "summary.md").read_text()
    assert "| 0.3 |" in summary
    assert "makes no difference beyond the 95 % interval" in summary
    saved = json.loads((tmp_path / "r" / "config.json").read_text())
    assert saved["trainings"] == ["0.6/0.6"]
    assert saved["sweep"] == {
        "axis": "sigma_p",
        "values": [0.1, 0.3],
        "stops": pytest.approx([0, 1 / 3, 2 / 3, 1]),
    }


@pytest.mark.parametrize(
    ("axis", "values", "name", "trainings"),
    [
        ("lam", "0.6,0.9", "mixup", ["0.6/0.6", "0.9/0.9"]),
        ("rho", "0.25,0.5", "mixup 0.8/0.8", ["0.8/0.8"]),
        ("steps", "7,9", "mixup 0.8/0.8", ["0.8/0.8"]),
    ],
)
def test_a_sweep_is_named_without_what_is_swept(
    axis, values, name, trainings, gradmix, monkeypatch, tmp_path
):
    titles = []
    monkeypatch.setattr(Figure, "suptitle", lambda figure, text, **how: titles.append(text))
    args = ["rare-features", *QUICK, "0.8", "--sweep", axis, "--values", values, "--stops", "2"]
    code, out, _ = gradmix(*args, "--seeds", "1", "--out", "r")
    assert code == 0
    summary = (tmp_path / "r" / "summary.md").read_text()
    settings = ["n = 24", "d = 30", "P = 5", "α = 0.3", "ρ = 0.1", "σ_p = 0.15"]
    line = ", ".join(each for each in settings if axis != "rho" or "ρ" not in each)
    assert summary.startswith(f"# When to stop {name}: {line}, 10 square")
    assert out.startswith(f"{line}, 10 square")
    words = " ".join(out.split())
    assert f"in percent, {name} stopped after a share of the steps, seed 0" in words
    (title,) = titles
    assert title.startswith(f"{name.capitalize()}, stopped: ")
    assert ("ρ = 0.1" in title) == (axis != "rho")
    assert ("steps = 12" in title) == (axis != "steps")
    saved = json.loads((tmp_path / "r" / "config.json").read_text())
    assert saved["trainings"] == trainings
    assert saved["sweep"]["axis"] == axis
    assert ",".join(f"{value:g}" for value in saved["sweep"]["values"]) == values
    # A single seed has no interval that a verdict could speak of.
    assert "interval" not in summary + out
    assert "hurts" not in summary + out


def test_cells_of_a_single_seed_have_no_verdict():
    arm = rf.Schedule(0.6, 0.6)
    found = rf.StopMap(rf.ExperimentConfig(), arm, "rho", (0.1, 0.2), (0.0, 0.5, 1.0), (0, 1))

    def run(value: float, seed: int, *rare: float) -> rf.SweepRun:
        final = {stop: {"rare": r} for stop, r in zip(found.stops, rare, strict=True)}
        return rf.SweepRun(value, seed, final, 1.0)

    found.runs = [run(0.1, 0, 0.5, 0.9, 0.9), run(0.2, 0, 0.5, 0.9, 0.9)]
    assert found.counts() == {"helps": 0, "hurts": 0, "": 0}
    assert "stopping" not in found.markdown()
    found.runs.append(run(0.1, 1, 0.501, 0.92, 0.9))
    # Of 0.1 there are two, of 0.2 one: -0.4 and -0.399 hurt; 0 and 0.02 have an interval around 0.
    assert found.counts() == {"helps": 0, "hurts": 1, "": 1}
    assert "hurts in 1, and makes no difference beyond the 95 % interval in 1." in found.markdown()


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["mixup"], "unknown training 'mixup': write standard"),
        (["0.6/1.2"], "training '0.6/1.2': lam_y must be in [0, 1], got 1.2"),
        (["0.6", "0.6/0.6"], "training 0.6/0.6 is named twice"),
        (["0.6@13"], "training 0.6/0.6@13 stops mixup after 13 of 12 steps"),
        (["--rho", "2"], "rho must be in [0, 1], got 2.0"),
        (["--steps", "0"], "steps must be at least 1, got 0"),
        (["--device", "gpu"], "device 'gpu' cannot be used"),
        (["--values", "1"], "--values needs --sweep"),
        (["--sweep", "rho", "--values", "0.1,x"], "'0.1,x' is not a list of numbers"),
        (["--sweep", "rho", "--values", "0.1,3"], "rho must be in [0, 1], got 3.0"),
        (["--sweep", "rho", "standard"], "--sweep takes one training that mixes"),
        (["--sweep", "steps", "--values", "1.5"], "steps must be a whole number, got 1.5"),
        (["--sweep", "lam", "0.8/0.6"], "a sweep of lam sets one λ for inputs and labels"),
        (["--sweep", "lam", "0.6/1", "--values", "0.6,1"], "it cannot be that of 0.6/1"),
    ],
)
def test_wrong_input_is_one_line_and_exit_code_2(args, message, gradmix, tmp_path):
    code, out, err = gradmix("rare-features", *QUICK, *args)
    assert code == 2
    assert out == ""
    assert message in err
    assert err.count("\n") == 1
    assert not (tmp_path / "runs").exists()


def test_results_are_replaced_only_when_asked_for(gradmix, tmp_path):
    args = ["rare-features", *QUICK, "standard", "--seeds", "1", "--out", "r"]
    assert gradmix(*args)[0] == 0
    assert gradmix(*args) == (
        2,
        "",
        "gradmix: error: r is not empty: choose another, or --overwrite\n",
    )
    assert gradmix(*args, "--overwrite")[0] == 0
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "thesis.tex").touch()
    code, _, err = gradmix(*args[:-1], "other", "--overwrite")
    assert code == 2
    assert "holds no earlier run" in err
    assert (tmp_path / "other" / "thesis.tex").exists()


def test_an_interrupted_table_keeps_what_is_finished(gradmix, tmp_path, monkeypatch):
    run, done = rf.Experiment.run, []

    def interrupted(self, arm, seed, on_record=None):
        if len(done) == 3:
            raise KeyboardInterrupt
        done.append(arm)
        return run(self, arm, seed, on_record)

    monkeypatch.setattr(rf.Experiment, "run", interrupted)
    code, _, err = gradmix("rare-features", *QUICK, "standard", "0.6", "--seeds", "3", "--out", "r")
    assert code == 130
    assert err == "gradmix: interrupted: 3 of 6 runs finished, kept in r\n"
    assert len((tmp_path / "r" / "runs.jsonl").read_text().splitlines()) == 3
    assert "**Interrupted: 3 of 6 runs finished.**" in (tmp_path / "r" / "summary.md").read_text()


def test_a_full_disk_is_one_line_and_a_reader_that_has_gone_is_not_taken_for_it(
    gradmix, tmp_path, monkeypatch
):
    args = ["rare-features", *QUICK, "standard", "--seeds", "1"]
    monkeypatch.setattr(folder, "plot_curves", Mock(side_effect=OSError(28, "No space left")))
    code, _, err = gradmix(*args, "--out", "full")
    assert code == 1
    assert err == "gradmix: error: cannot write full: [Errno 28] No space left\n"

    monkeypatch.setattr(rf.Experiment, "run", Mock(side_effect=BrokenPipeError))
    with pytest.raises(BrokenPipeError):
        cli([*args, "--out", "gone"], standalone_mode=False)


def test_diverging_is_one_line_and_exit_code_1(gradmix):
    code, _, err = gradmix("rare-features", *QUICK, "0.6", "--lr", "1e6", "--out", "r")
    assert code == 1
    assert err.startswith("gradmix: error: the loss is")
    assert err.count("\n") == 1
