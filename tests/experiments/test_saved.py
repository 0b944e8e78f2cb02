"""Models come back from a run folder as they were."""

from __future__ import annotations

import json

import pytest
import torch

from gradmix_ext.experiments.compare import Comparison
from gradmix_ext.experiments.experiment import Arm, Experiment, ExperimentConfig
from gradmix_ext.experiments.plan import Plan, provenance
from gradmix_ext.experiments.run_folder import RunFolder
from gradmix_ext.experiments.saved import load_runs


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """Two arms, two seeds, uneven tasks; the folder and what was measured while training."""
    config = ExperimentConfig(
        tasks=None, increment=(4, 6), epochs=1, hidden=(16,), class_order_seed=3
    )
    arms = [Arm.parse("er"), Arm.parse("er+mixup")]
    comparison = Comparison(Experiment(config, arms), arms, [0, 5])
    plan = Plan(config, tuple(arms), (0, 5), origin=provenance("gradmix compare", "torch"))
    with RunFolder(tmp_path_factory.mktemp("run")) as folder:
        plan.write(folder.path)
        comparison.execute(folder)
    return folder.path, comparison


def test_saved_models_have_the_accuracy_that_was_measured(run):
    path, comparison = run
    saved = load_runs(path)
    assert [(each.arm.label, each.seed) for each in saved] == [
        ("er", 0),
        ("er", 5),
        ("er+mixup", 0),
        ("er+mixup", 5),
    ]
    by_key = {(each.arm, each.seed): each.result for each in comparison.runs}
    for each in saved:
        model, scenario = each.model(), each.scenario()
        assert not model.training
        measured = by_key[each.arm, each.seed].accuracy_matrix[-1]
        for task in scenario:
            accuracy = (model(task.test_x).argmax(1) == task.test_y).double().mean()
            assert accuracy.item() == pytest.approx(measured[task.index].item())


def test_files_that_hold_something_else_are_named(run, tmp_path):
    path, _ = run
    with pytest.raises(ValueError, match="is not a run folder: it has no config"):
        load_runs(tmp_path)
    (tmp_path / "config.json").write_text((path / "config.json").read_text())
    with pytest.raises(ValueError, match="holds no models"):
        load_runs(tmp_path)
    weights = tmp_path / "models" / "er"
    weights.mkdir(parents=True)
    for content in ({"0.weight": torch.zeros(1)}, [1, 2]):
        torch.save(content, weights / "seed-5.pt")
        with pytest.raises(ValueError, match=r"seed-5\.pt does not hold the weights"):
            load_runs(tmp_path)[0].model()
    (weights / "seed-5.pt").write_bytes(b"nothing")
    with pytest.raises(ValueError, match=r"seed-5\.pt does not hold the weights"):
        load_runs(tmp_path)[0].model()
    content = json.loads((path / "config.json").read_text())
    content["settings"]["colour"] = "red"
    (tmp_path / "config.json").write_text(json.dumps(content))
    with pytest.raises(ValueError, match="unknown settings colour"):
        load_runs(tmp_path)
