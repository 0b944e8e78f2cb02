"""How arms are written, and what their own settings do."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from itertools import permutations
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gradmix_ext.continual import METHODS
from gradmix_ext.continual.methods import method_option_names
from gradmix_ext.experiments.arm import split_arms
from gradmix_ext.experiments.compare import Comparison
from gradmix_ext.experiments.experiment import Arm, Experiment, ExperimentConfig
from gradmix_ext.experiments.plan import Plan, provenance
from gradmix_ext.experiments.run_folder import RunFolder
from gradmix_ext.experiments.saved import load_runs
from gradmix_ext.mixers import MIXERS, option_names

TINY = ExperimentConfig(tasks=2, epochs=1, hidden=(8,), samples_per_pair=2)


def test_a_list_of_arms_is_cut_between_them_alone() -> None:
    arms = [
        "er",
        "balanced[balance=0.5,per_sample_lam=true]",
        "der++[distill_weight=1,replay_weight=2]+mixup[alpha=1, balance=0.5]",
        "gradmix[policy=skip]",
    ]
    for chosen in permutations(arms):
        assert split_arms(",".join(chosen)) == list(chosen)
        assert split_arms(", ".join(chosen)) == list(chosen)
    assert split_arms("er,,mixup") == ["er", "", "mixup"]


def test_settings_of_an_arm_are_typed_and_sorted() -> None:
    arm = Arm.parse("joint+gradmix[threshold=-1e-3, policy=skip,per_sample_lam=true,stop_epoch=4]")
    assert (arm.method, arm.augment) == ("joint", "gradmix")
    assert dict(arm.options) == {
        "per_sample_lam": True,
        "policy": "skip",
        "stop_epoch": 4,
        "threshold": -1e-3,
    }
    assert dict(Arm.parse("mixup[stop_epoch=none]").options) == {"stop_epoch": None}


def test_other_spellings_of_a_value() -> None:
    arm = Arm.parse("gradmix[per_sample_lam=1,samples_per_pair=16.0,alpha=1]")
    assert dict(arm.options) == {"per_sample_lam": True, "samples_per_pair": 16, "alpha": 1}
    assert dict(Arm.parse("gradmix[per_sample_lam=0]").options) == {"per_sample_lam": False}


class Untyped(METHODS["er"]):  # type: ignore[misc]
    def __init__(self, weight=1.0, replay="union") -> None:  # type: ignore[no-untyped-def]
        super().__init__(replay)
        self.weight = weight


def test_settings_without_a_type_are_what_they_look_like(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(METHODS, "own", Untyped)
    for text, value in (("2", 2), ("0.5", 0.5), ("none", None), ("true", True), ("x", "x")):
        assert dict(Arm.parse(f"own[weight={text}]").method_options) == {"weight": value}


NUMBERS = st.integers(-(10**18) + 1, 10**18 - 1)
REALS = st.one_of(NUMBERS, st.floats(allow_nan=False, allow_infinity=False))
WORDS = st.sampled_from(["none", "true", "False", "7", "redraw", "layer4.fc"])


@given(
    st.fixed_dictionaries(
        {},
        optional={
            "samples_per_pair": NUMBERS,
            "stop_epoch": st.none() | NUMBERS,
            "threshold": REALS,
            "balance": st.none() | REALS,
            "per_sample_lam": st.none() | st.booleans(),
            "update": st.one_of(NUMBERS, st.just("online")),
            "taper": WORDS,
            "head": st.sampled_from([None, "3", "layer4.fc"]),
        },
    ).filter(bool)
)
def test_every_setting_survives_being_written_and_read(options: dict) -> None:
    written = [f"{key}={value}" for key, value in options.items()]
    for text in (",".join(written), ",".join(reversed(written))):
        arm = Arm.parse(f"gradmix[{text}]")
        assert dict(arm.options) == options
        assert arm == Arm("another name", "er", "gradmix", tuple(sorted(options.items())))


def is_read(text: str) -> bool:
    try:
        Arm.parse(text)
    except ValueError:
        return False
    return True


def test_every_setting_can_be_written() -> None:
    settings = [(name, key) for name in MIXERS for key in option_names(name)]
    settings += [(name, key) for name in METHODS for key in method_option_names(name)]
    for name, key in settings:
        assert any(is_read(f"{name}[{key}={value}]") for value in ("none", "true", "3", "word"))


@pytest.mark.parametrize("spelling", ["False", "false", "FALSE"])
def test_false_in_any_spelling_is_false(spelling: str) -> None:
    arm = Arm.parse(f"gradmix[per_sample_lam={spelling}]")
    assert Experiment(TINY, []).mixer(arm, seed=0).lam_law.per_sample is False


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("mixup[per_sample_lam=no]", "per_sample_lam must be true or false, got 'no'"),
        ("gradmix[per_sample_lam=2]", "per_sample_lam must be true, false or none, got '2'"),
        ("mixup[alpha=x]", "alpha must be a number, got 'x'"),
        ("mixup[alpha=true]", "alpha must be a number, got 'true'"),
        ("mixup[stop_epoch=x]", "stop_epoch must be an integer or none, got 'x'"),
        ("gradmix[samples_per_class=none]", "samples_per_class must be an integer, got 'none'"),
        ("gradmix[samples_per_class=1.5]", "samples_per_class must be an integer, got '1.5'"),
        ("mixup[balance=x]", "balance must be a number, got 'x'"),
        ("random-mask[fraction=x]", "fraction must be a number or none, got 'x'"),
        ("der++[distill_weight=none]", "distill_weight must be a number, got 'none'"),
    ],
)
def test_a_value_of_another_type_is_refused_by_name(text: str, message: str) -> None:
    with pytest.raises(ValueError, match="^" + re.escape(f"arm '{text}': {message}") + "$"):
        Arm.parse(text)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("mixup[alpha=-1]", "alpha must be positive and finite, got -1.0"),
        ("der++[replay_weight=-1]", "replay_weight must be at least 0 and finite, got -1"),
        ("manifold[layers=9]", "layers must name modules of the model"),
        ("gradmix[head=9]", "head must name an nn.Linear of the model (1, 3), got '9'"),
    ],
)
def test_a_refused_value_names_the_arm(text: str, message: str) -> None:
    with pytest.raises(ValueError, match="^" + re.escape(f"arm '{text}': {message}")):
        Experiment(TINY, [Arm.parse(text)])


def test_a_method_has_settings_too() -> None:
    arm = Arm.parse("der++[distill_weight=0.3, replay_weight=1]+gradmix[policy=skip]")
    assert (arm.method, arm.augment) == ("der++", "gradmix")
    assert dict(arm.method_options) == {"distill_weight": 0.3, "replay_weight": 1}
    assert dict(arm.options) == {"policy": "skip"}
    trainer = Experiment(TINY, []).trainer(arm, seed=0)
    assert (trainer.method.distill_weight, trainer.method.replay_weight) == (0.3, 1)
    arm = Arm.parse("icarl[replay=split]")
    assert Experiment(TINY, []).trainer(arm, seed=0).method.replay == "split"
    assert arm != Arm.parse("icarl") == Arm.parse("icarl+none")


def test_names_with_signs_in_them() -> None:
    assert Arm.parse("der++") == Arm("der++", "der++", "none")
    assert Arm.parse("der+++gradmix") == Arm("der+++gradmix", "der++", "gradmix")
    for method in METHODS:
        for augment in MIXERS:
            arm = Arm.parse(f"{method}+{augment}")
            assert (arm.method, arm.augment) == (method, augment)


def test_arms_are_equal_if_they_are_the_same_run() -> None:
    assert Arm.parse("mixup") == Arm.parse("er+mixup")
    assert Arm.parse("mixup[alpha=2,taper=none]") == Arm.parse("mixup[taper=none,alpha=2]")
    assert Arm.parse("mixup[alpha=2]") != Arm.parse("mixup")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("gradmix[", r"unknown arm 'gradmix\['"),
        ("gradmix[policy=skip]x", "unknown arm"),
        ("[policy=skip]", "unknown arm"),
        ("magic[policy=skip]", "unknown arm 'magic"),
        ("gradmix[]", r"arm 'gradmix\[\]': '' is not of the form KEY=VALUE"),
        ("gradmix[policy]", "'policy' is not of the form KEY=VALUE"),
        ("gradmix[policy=]", "'policy=' is not of the form KEY=VALUE"),
        ("gradmix[policy=skip,policy=redraw]", "sets policy twice"),
        ("er+none[alpha=2]", "none has no setting 'alpha'; it has none"),
        ("er[policy=skip]", "er has no setting 'policy'; it has replay"),
        ("joint[replay=split]", "joint has no setting 'replay'; it has none"),
        ("der+", "unknown arm 'der\\+'"),
        ("der+gradmix", "unknown arm"),
        ("der++++gradmix", "unknown arm"),
        ("mixup[policy=skip]", "mixup has no setting 'policy'; it has alpha, balance,"),
        ("gradmix[generator=1]", "no setting 'generator'"),
        ("gradmix[process_group=1]", "no setting 'process_group'"),
    ],
)
def test_what_cannot_be_read_is_refused(text: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Arm.parse(text)


def test_a_wrong_value_is_refused_before_training() -> None:
    with pytest.raises(ValueError, match=r"policy must be one of .*, got 'magic'"):
        Experiment(TINY, [Arm.parse("gradmix[policy=magic]")])


def test_a_layer_that_the_model_does_not_have_is_refused_before_training() -> None:
    assert Experiment(TINY, [Arm.parse("manifold[layers=3]")]).config == TINY
    with pytest.raises(ValueError, match=r"\(0, 1, 2, 3\) or be 'input', got 'layer4'"):
        Experiment(TINY, [Arm.parse("manifold[layers=layer4]")])


def test_an_arms_settings_override_those_of_all_arms() -> None:
    own = Arm.parse("gradmix[policy=skip,samples_per_pair=3,update=online]")
    mixer = Experiment(TINY, []).trainer(own, seed=0).mixer
    assert (mixer.policy, mixer.samples_per_pair, mixer.update_every) == ("skip", 3, "online")
    shared = replace(TINY, policy="skip", samples_per_pair=3)
    by_option = Experiment(TINY, []).run(Arm.parse("gradmix[policy=skip,samples_per_pair=3]"), 0)
    by_config = Experiment(shared, []).run(Arm.parse("gradmix"), 0)
    assert by_option.result.accuracy_matrix.equal(by_config.result.accuracy_matrix)


def test_a_run_folder_knows_the_arms_settings(tmp_path: Path) -> None:
    arms = [Arm.parse("gradmix[policy=skip]"), Arm.parse("gradmix")]
    experiment = Experiment(TINY, arms)
    comparison = Comparison(experiment, arms, [0])
    Plan(TINY, tuple(arms), (0,), origin=provenance("gradmix compare", "torch")).write(tmp_path)
    with RunFolder(tmp_path, resume=True) as folder:
        comparison.execute(folder)
    folder.finish(comparison)
    saved = json.loads((tmp_path / "config.json").read_text())["arms"][0]
    assert saved["label"] == "gradmix[policy=skip]"
    assert saved["options"] == [["policy", "skip"]]
    assert [run.arm for run in load_runs(tmp_path)] == arms
