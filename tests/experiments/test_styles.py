"""Arms look different in every picture, and bands end where accuracies do."""

from __future__ import annotations

import json
import math
import re
from types import SimpleNamespace

import pytest
import torch

from gradmix_ext.experiments import plots
from gradmix_ext.experiments.experiment import DEFAULT_ARMS
from gradmix_ext.experiments.styles import COLOURS, arm_styles, nth_style
from gradmix_ext.report import contenders as report
from gradmix_ext.robustness import RobustAccuracy, curves

ARMS = (*DEFAULT_ARMS, *(f"gradmix[threshold={k}]" for k in range(12)))


def drawn(line):
    """What is seen of a line."""
    return line.get_color(), line.get_marker(), line._dash_pattern


def require_distinct(axes, count):
    lines = [line for line in axes.get_lines() if len(line.get_xdata())]
    assert len(lines) == count
    assert len({str(drawn(line)) for line in lines}) == count


def require_bands_within(axes, low, high):
    ends = [path.vertices[:, 1] for band in axes.collections for path in band.get_paths()]
    assert len(ends) == len(ARMS)
    assert min(y.min() for y in ends) == low  # the intervals reach beyond it
    assert max(y.max() for y in ends) == high


@pytest.fixture
def figures(monkeypatch):
    """The figures that were made."""
    made = []
    original = plots.new_figure

    def watched(width, height):
        made.append(original(width, height))
        return made[-1]

    for module in (plots, curves):
        monkeypatch.setattr(module, "new_figure", watched)
    return made


def test_no_two_styles_are_the_same() -> None:
    styles = [nth_style(n) for n in range(196)]
    assert len(set(styles)) == 196
    assert len({str(style.line) for style in styles}) == 196
    assert len({str(style.points) for style in styles[:49]}) == 49
    assert [style.line["color"] for style in styles[:7]] == list(COLOURS)


def test_bounds_are_grey_and_black_and_take_no_style_away() -> None:
    with_bounds = arm_styles(["finetune", "er", "joint", "mixup"])
    assert [with_bounds[1], with_bounds[3]] == arm_styles(["er", "mixup"])
    assert with_bounds[0].line["color"] == "#888888"
    assert with_bounds[2].line["color"] == "#000000"
    assert [with_bounds[0].marker, with_bounds[2].marker] == ["", ""]
    # Those of two runs side by side differ too.
    assert len(set(arm_styles(["joint", "er"] * 5))) == 10


def test_curves_of_accuracy_look_different(figures, tmp_path) -> None:
    arms = [SimpleNamespace(label=label) for label in ARMS]
    matrices = [torch.full((2, 2), 0.99).tril(), torch.full((2, 2), 0.1).tril()]
    runs = [SimpleNamespace(result=SimpleNamespace(accuracy_matrix=each)) for each in matrices]
    tasks = [SimpleNamespace(classes=(0, 1)), SimpleNamespace(classes=(2, 3))]

    class Tasks(list):
        name = "digits"

    comparison = SimpleNamespace(
        finished_arms=lambda: arms,
        of=lambda arm: runs,
        experiment=SimpleNamespace(scenario=lambda seed: Tasks(tasks)),
        seeds=(0, 1),
    )
    plots.plot_accuracy(comparison, tmp_path / "accuracy.png")
    (axes,) = figures[0].axes
    require_distinct(axes, len(ARMS))
    require_bands_within(axes, 0, 100)
    assert axes.get_title("left").endswith("confidence band over 2 seeds")

    # Cut short: what counts are the seeds that are finished.
    comparison.of = lambda arm: runs[: 1 if arm is arms[-1] else 2]
    comparison.seeds = range(10)
    plots.plot_accuracy(comparison, tmp_path / "accuracy.png")
    (axes,) = figures[1].axes
    assert axes.get_title("left").endswith("confidence band over 1 to 2 seeds")


def test_curves_of_robustness_look_different(figures, tmp_path) -> None:
    found = curves.Curves("pgd", (0.0, 1.0), (0.0, 0.1))
    for arm in ARMS:
        for seed, value in enumerate((0.05, 0.98)):
            ece = {0.0: value, 0.1: 1 - value}
            found.add(arm, seed, RobustAccuracy({0.0: value, 0.1: 1 - value}, ece, 50))
    found.write(tmp_path, "gradmix robustness", {})
    for axes in figures[0].axes:
        require_distinct(axes, len(ARMS))
        require_bands_within(axes, 0, 100)


def test_bounds_of_two_folders_are_bounds(figures, tmp_path) -> None:
    found = curves.Curves("pgd", (0.0, 1.0), (0.0, 0.1))
    for folder in ("a", "b"):
        value = RobustAccuracy({0.0: 0.9, 0.1: 0.5}, {0.0: 0.1, 0.1: 0.2}, 50)
        found.add(f"joint (runs/{folder})", 0, value, "joint")
    found.write(tmp_path, "gradmix robustness", {})
    for axes in figures[0].axes:
        require_distinct(axes, 2)
        assert {line.get_color() for line in axes.get_lines()} == {"#000000"}


def test_the_page_draws_them_alike(tmp_path) -> None:
    arms = [SimpleNamespace(label=label) for label in ARMS]
    runs = [SimpleNamespace(path=tmp_path / name, arms=arms) for name in ("a", "b")]
    found = report.contenders(runs)
    assert [each.name for each in found[:2]] == ["a: finetune", "a: er"]
    assert len({(each.colour, each.marker, each.dash) for each in found}) == 2 * len(ARMS)
    for each, style in zip(found, arm_styles([arm.label for arm in arms] * 2), strict=True):
        assert (each.colour, each.marker) == (style.colour, style.marker)
        assert tuple(map(int, re.findall(r"\d+", each.dash))) == style.dash


def test_robustness_of_folders_with_odd_names_and_no_bounds(figures, tmp_path) -> None:
    found = curves.Curves("pgd", (-math.inf, 1.0), (0.0,))
    names = ["er (a|b)", r"er ($\a$)"]
    for name in names:
        found.add(name, 0, RobustAccuracy({0.0: 0.5}, {0.0: 0.1}, 50), "er")
    found.write(tmp_path, "gradmix robustness", {})
    table = (tmp_path / "robustness.md").read_text()
    assert table.count(r"| er (a\|b) | 50.0 |") == table.count(r"| er ($\a$) | 50.0 |") == 1
    legend = figures[0].axes[0].get_legend().get_texts()
    assert [text.get_text() for text in legend] == [name.replace("$", r"\$") for name in names]

    def refuse(constant: str) -> None:
        raise AssertionError(f"{constant} is no JSON")

    content = json.loads((tmp_path / "robustness.json").read_text(), parse_constant=refuse)
    assert content["bounds"] == [None, 1.0]
