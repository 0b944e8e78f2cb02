"""The file format, the tables, and whether something became slower."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from gradmix_ext.bench import CaseResult, Report, Role
from gradmix_ext.bench.check import changes, committed, of_machine
from gradmix_ext.bench.tables import (
    duration,
    goal_table,
    group_table,
    headline_table,
    loss_table,
    markdown,
    size,
    skipped_table,
)
from gradmix_ext.bench.workload import GOAL

# The file -----------------------------------------------------------------------------------------


def test_a_saved_report_is_the_same_when_loaded(make_report, tmp_path):
    report = make_report()
    report.save(tmp_path / "bench.json")
    assert Report.load(tmp_path / "bench.json") == report


@pytest.mark.parametrize(
    ("damage", "says"),
    [
        (lambda v: v.pop("machine"), "no 'machine'"),
        (lambda v: v.update(format="other"), "its format is not"),
        (lambda v: v["groups"][0].pop("cases"), "no 'cases'"),
        (lambda v: v["groups"][0].update(color=1), "color"),
        (lambda v: v["groups"][0]["cases"][0].update(median=-1.0), "times of 'gradmix_ext'"),
        (lambda v: v["groups"][0]["cases"][0].update(median="1"), "times of 'gradmix_ext'"),
        (lambda v: v["groups"][0]["cases"][0].update(median=0.0), "neither a time nor a reason"),
        (lambda v: v["groups"][0]["cases"][0].update(role="hero"), "hero"),
        (lambda v: v.update(groups=3), "int"),
    ],
)
def test_a_damaged_file_says_what_is_wrong(damage, says, make_report, tmp_path):
    path = tmp_path / "bench.json"
    make_report().save(path)
    values = json.loads(path.read_text())
    damage(values)
    path.write_text(json.dumps(values))
    with pytest.raises(ValueError, match=says) as error:
        Report.load(path)
    assert str(path) in str(error.value)


def test_groups_that_are_measured_again_replace_the_older(make_report, make_group):
    old = make_report(make_group("a", ours=1.0), make_group("b", ours=2.0))
    new = make_report(make_group("b", ours=3.0), make_group("c", ours=4.0))
    merged = old.merged(new)
    assert {g.name: g.base.median for g in merged.groups} == {"a": 1.0, "b": 3.0, "c": 4.0}
    assert old.merged(new, ["P1"]).groups == new.groups


def test_reports_of_two_machines_are_not_merged(make_report):
    old = make_report()
    with pytest.raises(ValueError, match="simd was 'avx512' and is now 'avx2'"):
        old.merged(Report({**old.machine, "simd": "avx2"}))


def test_quartiles():
    case = CaseResult("a", Role.OURS).timed([5.0, 1.0, 2.0, 3.0, 4.0, 9.0, 8.0, 7.0], 3)
    assert (case.median, case.low, case.high) == (4.5, 3.0, 7.0)
    assert (case.rounds, case.iterations) == (8, 3)
    one = CaseResult("a", Role.OURS).timed([2.0], 1)
    assert (one.low, one.median, one.high) == (2.0, 2.0, 2.0)


# Tables -------------------------------------------------------------------------------------------


def test_group_table_has_ratios_rates_and_memory(make_group):
    ours, formula, opacus, limit = group_table(make_group()).rows
    assert ours == ("gradmix_ext", "1 s", "1 s to 1 s", "1.00", "1 MB", "8.0", "16.0", "1e-07")
    assert formula[1:5] == ("4 s", "4 s to 4 s", "4.00", "9 MB")
    assert formula[5:7] == ("2.0", "4.0")
    assert opacus[1] == "not measured"
    assert limit[3:7] == ("0.50", "", "", "")


def test_goals(make_group):
    reached, missed = goal_table([make_group(other=3.0), make_group(other=2.9)]).rows
    assert reached[2:] == ("3.00", "3.00", "yes")
    assert missed[2:] == ("3.00", "2.90", "**no**")


def test_what_wins_is_listed(make_group):
    assert loss_table([make_group()]) is None
    (row,) = loss_table([make_group(other=0.5)]).rows
    assert row == ("class_gram small", "formula", "500 ms against 1 s", "")


def test_what_takes_less_memory_is_listed(make_group):
    group = make_group()
    ours, other, *rest = group.cases
    lean = replace(group, cases=(replace(ours, peak_bytes=20_000_000), other, *rest))
    (row,) = loss_table([lean]).rows
    assert row[2:] == ("", "9 MB against 20 MB")


def test_headline_names_the_fastest_other_and_the_limit(make_group):
    (row,) = headline_table([make_group()]).rows
    assert row[1:4] == ("1 s", "formula: 4 s (4.00)", "GEMM: 500 ms (0.50)")
    assert row[4:] == ("1 MB", "9 MB")


def test_markdown_says_where_what_and_why_not(make_report):
    text = markdown(make_report())
    assert "Others used the machine" not in text
    crowded = replace(make_report(), machine={**make_report().machine, "load": 9.0, "cores": 2})
    assert "Others used the machine: 9 processes for 2 cores" in markdown(crowded)
    for part in ("some CPU", "abc", "timm 1.0", "copy of 1 MiB | 20.0 GB/s", "opacus is not"):
        assert part in text
    assert len(skipped_table(make_report().groups).rows) == 1


def test_a_group_without_its_own_case_has_no_ratio(make_group):
    group = make_group()
    alone = replace(group, cases=group.cases[1:])
    assert group_table(alone).rows[0][3] == ""
    assert headline_table([alone]).rows == ()
    assert goal_table([alone]).rows == ()


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(12.34, "12.3 s"), (0.0999, "99.9 ms"), (0.123456, "123 ms"), (4.2e-6, "4.2 µs"),
     (3e-9, "3 ns"), (0.9999e-3, "1e+03 µs")],
)  # fmt: skip
def test_durations(seconds, text):
    assert duration(seconds) == text.replace("1e+03", "1000")


@pytest.mark.parametrize(("count", "text"), [(0, "0 B"), (1500, "1.5 kB"), (12_345_678, "12.3 MB")])
def test_sizes(count, text):
    assert size(count) == text


# Whether something became slower ------------------------------------------------------------------


def test_a_machine_twice_as_slow_has_lost_nothing(make_report, make_group):
    slower = make_report(make_group(ours=2.0, other=8.0, limit=1.0))
    (change,) = changes(make_report(), slower)
    assert change.factor == 1
    assert not change.lost()


def test_a_goal_in_seconds_is_no_yardstick(make_report, make_group):
    """A slower machine is further from it, with the same code."""
    ours, *_, limit = make_group().cases
    goal = replace(limit, name=GOAL)
    slower = replace(ours, low=2.0, median=2.0, high=2.0)

    def report(*cases):
        return make_report(replace(make_group(), cases=cases))

    assert changes(report(ours, goal), report(slower, goal)) == []
    (change,) = changes(report(ours, limit, goal), report(slower, limit, goal))
    assert change.yardsticks == 1
    assert change.lost()


@pytest.mark.parametrize(("ours", "lost"), [(1.24, False), (1.26, True), (0.5, False)])
def test_more_than_a_fifth_is_lost(make_report, make_group, ours, lost):
    (change,) = changes(make_report(), make_report(make_group(ours=ours)))
    assert change.lost() == lost
    assert change.factor == pytest.approx(1 / ours)
    assert "class_gram small: gradmix_ext" in str(change)


def test_one_yardstick_that_changed_raises_no_alarm(make_report, make_group):
    def three(limit):
        group = make_group(limit=limit)
        more = replace(group.cases[1], name="another formula")
        return make_report(replace(group, cases=(*group.cases, more)))

    (change,) = changes(three(limit=0.5), three(limit=0.1))
    assert change.factor == 1


def test_memory_that_is_slow_for_a_while_raises_no_alarm(make_report, make_group):
    """The limit slows down with ours; what is busy with something else does not."""
    (change,) = changes(make_report(), make_report(make_group(ours=2.0, limit=1.0)))
    assert change.factor == 1


def test_samples_of_two_kinds_raise_no_alarm(make_report, make_group):
    """Where memory is at hand in a quarter of the samples, the median tells little."""
    group = make_group()
    ours = replace(group.cases[0], median=3.0, high=4.0)
    (change,) = changes(make_report(), make_report(replace(group, cases=(ours, *group.cases[1:]))))
    assert change.factor == 1
    slower = replace(ours, low=1.3)
    (change,) = changes(
        make_report(), make_report(replace(group, cases=(slower, *group.cases[1:])))
    )
    assert change.lost()


def test_a_case_that_is_gone_is_a_loss(make_report, make_group):
    group = make_group()
    gone = replace(group.cases[0], skipped="failed", median=0.0)
    (change,) = changes(make_report(), make_report(replace(group, cases=(gone, *group.cases[1:]))))
    assert change.lost()
    assert "is not measured any more" in str(change)


def test_groups_that_were_not_measured_now_are_not_compared(make_report, make_group):
    assert changes(make_report(), make_report(make_group("another"))) == []


def test_the_report_of_this_machine_is_found(make_report, tmp_path):
    here = make_report()
    there = Report({**here.machine, "simd": "avx2"}, here.groups)
    there.save(tmp_path / "a" / "bench.json")
    with pytest.raises(ValueError, match=r"say nothing about this one.*avx2"):
        of_machine(committed(tmp_path), here)
    here.save(tmp_path / "b" / "bench.json")
    assert of_machine(committed(tmp_path), here) == (tmp_path / "b" / "bench.json", here)
    (tmp_path / "nothing").mkdir()
    with pytest.raises(ValueError, match="there are none"):
        committed(tmp_path / "nothing")
