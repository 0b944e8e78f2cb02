"""`gradmix bench` on a workload of a few lines, and the same as tests of pytest-benchmark."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from gradmix_ext.bench import Report, discover
from gradmix_ext.bench.plots import plot_scaling
from gradmix_ext.bench.results import Group

ROOT = Path(__file__).parents[2]
TINY = """
import torch
from gradmix_ext.bench import Case, Role, Setting, Workload
from gradmix_ext.bench.workload import plain

WORKLOADS = (
    Workload(
        "P1", "doubling", (Setting("small", quick=True), Setting("large")),
        (
            Case("gradmix_ext", plain(lambda x: x + x), Role.OURS),
            Case("product", plain(lambda x: 2 * x)),
            Case("absent", plain(lambda x: x), needs="no-such-distribution"),
            Case("limit: clone", plain(lambda x: x.clone()), Role.LIMIT),
        ),
        lambda setting, device: (torch.randn(1000),),
        lambda setting, x: 2 * x.double(),
        lambda setting: (8000.0, 1000.0),
    ),
)

def test_doubling(replay):
    replay()
"""


@pytest.fixture
def workloads(tmp_path, monkeypatch, backend):
    """A folder of one workload in the place of the real ones."""
    if backend == "torch":
        pytest.skip("the fallback is not measured")
    folder = tmp_path / "workloads"
    folder.mkdir()
    (folder / "bench_p1_doubling.py").write_text(TINY)
    (folder / "scaling.py").write_text(TINY)
    monkeypatch.setattr(discover, "benchmarks_folder", lambda: folder)
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")]))
    monkeypatch.chdir(tmp_path)
    return folder


def test_measure_check_and_show_again(workloads, gradmix, tmp_path):
    """One run is dear: it takes a process and PyTorch."""
    out = tmp_path / "results"
    code, text, _ = gradmix("bench", "--quick", "--out", out)
    assert code == 0
    for part in ("doubling small", "limit: clone", "no-such-distribution is not installed"):
        assert part in text
    assert {path.name for path in out.iterdir()} == {"bench.json", "bench.md", "roofline.png"}
    report = Report.load(out / "bench.json")
    assert [group.name for group in report.groups] == ["doubling small"]
    assert report.machine["backend"] == "cpp"
    assert {ceiling.kind for ceiling in report.ceilings} == {"bytes", "flops"}

    same, text, _ = gradmix("bench", "--again", out, "--check", out)
    assert same == 0
    assert "1 cases, 0 lost" in text

    doctored = json.loads((out / "bench.json").read_text())
    for case in doctored["groups"][0]["cases"]:
        if case["role"] == "ours":
            case["median"] /= 2
            case["low"] /= 2
    (tmp_path / "better.json").write_text(json.dumps(doctored))
    code, text, error = gradmix("bench", "--again", out, "--check", tmp_path / "better.json")
    assert code == 1
    assert "slower than before: doubling small: gradmix_ext 0.50 times as fast" in error
    assert "LOST" in text


def test_results_are_not_held_to_themselves(workloads, gradmix, tmp_path):
    """Though they take the place of those that they are held to; nor is what was there already."""
    out = tmp_path / "results"
    assert gradmix("bench", "--match", "small", "--out", out)[0] == 0
    faster = json.loads((out / "bench.json").read_text())
    for case in faster["groups"][0]["cases"]:
        if case["role"] == "ours":
            case |= {"median": 1e-9, "low": 1e-9}
    (out / "bench.json").write_text(json.dumps(faster))
    code, text, error = gradmix("bench", "--match", "large", "--out", out, "--check", out)
    assert code == 2
    assert "has none of the cases that were measured" in error
    code, text, error = gradmix("bench", "--match", "small", "--out", out, "--check", out)
    assert code == 1
    assert "1 cases, 1 lost" in text
    assert "slower than before: doubling small" in error
    assert {group.name for group in Report.load(out / "bench.json").groups} == {
        "doubling small",
        "doubling large",
    }


def test_a_text_that_is_in_no_setting(workloads, gradmix, tmp_path):
    out = tmp_path / "results"
    code, _, error = gradmix("bench", "--match", "huge", "--out", out)
    assert code == 2
    assert "nothing was measured: no setting has 'huge' in it" in error
    assert not list(out.iterdir())


def test_what_fails_is_told_and_what_was_measured_is_kept(workloads, gradmix, tmp_path):
    broken = TINY.replace('Setting("small", quick=True), Setting("large")',
                          'Setting("small"), Setting("wrong")')  # fmt: skip
    factor = "(2 + (setting.name == 'wrong'))"
    broken = broken.replace("lambda setting, x: 2 *", f"lambda setting, x: {factor} *")
    (workloads / "bench_p1_doubling.py").write_text(broken)
    out = tmp_path / "results"
    code, _, error = gradmix("bench", "--out", out)
    assert code == 1
    assert "doubling wrong, gradmix_ext: differs from the reference" in error
    assert [group.name for group in Report.load(out / "bench.json").groups] == ["doubling small"]


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["P9"], "no workload P9: there are P1"),
        (["--check", "nowhere"], "--check: nowhere does not exist"),
        (["scaling", "--check", "."], "--check compares P1 to P7"),
        (["--check", "workloads"], "workloads has no bench.json to compare with"),
        (["--check", "workloads/scaling.py"], "scaling.py is not a result of gradmix bench"),
        (["--again", "nowhere"], "has neither bench.json nor scaling.json"),
        (["P1", "--again", "nowhere"], "--again measures nothing: it goes with --check alone"),
        (["--again", "nowhere", "--quick"], "--again measures nothing"),
        (["--threads", "0"], "--threads"),
    ],
)
def test_wrong_use(arguments, says, workloads, gradmix):
    code, _, error = gradmix("bench", *arguments)
    assert code == 2
    assert says in error


def test_another_file_of_that_name_is_left_alone(workloads, gradmix, tmp_path):
    (tmp_path / "bench.json").write_text("{}")
    code, _, error = gradmix("bench", "--out", tmp_path)
    assert code == 2
    assert "is not a result of gradmix bench" in error
    assert (tmp_path / "bench.json").read_text() == "{}"


def test_as_tests_of_pytest_benchmark(workloads, tmp_path):
    """Rows of pytest-benchmark have the times that were measured in turn."""
    pytest.importorskip("pytest_benchmark")
    shutil.copy(ROOT / "benchmarks" / "conftest.py", workloads)
    saved = tmp_path / "pytest.json"
    command = [
        sys.executable, "-m", "pytest", str(workloads), "--quick", "-rs", "-c", os.devnull,
        "-o", "python_files=bench_*.py", f"--benchmark-json={saved}", "-p", "no:cacheprovider",
        "--benchmark-only", "--benchmark-enable",  # as `make bench` asks for
    ]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "3 passed, 1 skipped" in done.stdout
    assert "no-such-distribution is not installed" in done.stdout
    rows = json.loads(saved.read_text())["benchmarks"]
    assert {row["group"] for row in rows} == {"P1 doubling small"}
    own = next(row for row in rows if "gradmix_ext" in row["name"])
    for row in rows:
        ratio = row["stats"]["median"] / own["stats"]["median"]
        assert ratio == pytest.approx(row["extra_info"]["ratio"], rel=0.01)


def test_the_real_workloads_are_found_and_well_formed():
    """Reading them imports none of the other projects."""
    folder = discover.benchmarks_folder()
    files = discover.files(folder)
    assert list(files) == ["P1", "P2", "P3", "P4", "P5", "P6", "P7", "scaling"]
    for name, path in files.items():
        for workload in discover.load(path):
            assert workload.id == name
            names = [case.name for case in workload.cases]
            assert len(set(names)) == len(names)
            assert any(case.role.value == "ours" for case in workload.cases)
            settings = {setting.name for setting in workload.settings}
            assert len(settings) == len(workload.settings)
            for target in workload.targets:
                assert {target.case, target.base} <= set(names)
                assert set(target.settings) <= settings


def test_scaling_plots(make_group, make_report, tmp_path):
    groups: list[Group] = [
        make_group(f"class_gram {n}", ours=n * 1.0, other=n * n * 1.0, axis="N samples", at=n)
        for n in (10, 100, 1000)
    ]
    for what in ("time", "memory"):
        path = tmp_path / f"{what}.png"
        assert plot_scaling(make_report(*groups), what, path)
        assert path.stat().st_size > 5000
    assert not plot_scaling(make_report(), "time", tmp_path / "none.png")
    assert not (tmp_path / "none.png").exists()
