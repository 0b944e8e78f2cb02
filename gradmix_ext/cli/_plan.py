"""From flags to what is run: a new plan, or that of a folder which is continued."""

from __future__ import annotations

import json
from collections.abc import Collection, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import click

from gradmix_ext._version import __version__
from gradmix_ext.cli._options import experiment_config, typed_flags
from gradmix_ext.continual.files import occupied
from gradmix_ext.experiments.compare import choose_baseline
from gradmix_ext.experiments.experiment import Arm
from gradmix_ext.experiments.plan import Plan

__all__ = ["make_plan", "require_distinct"]


def make_plan(
    arms: Sequence[str],
    seeds: Sequence[int],
    params: dict[str, Any],
) -> Plan:
    """The plan of a command's flags, together with that of the folder if it is continued.

    Args:
        arms: METHOD[+AUGMENT] each.
        seeds: The seeds.
        params: All other parameters of the command.

    Raises:
        ValueError: a value is wrong; or the folder is of another version, or was run with other
            settings than the flags say.
        click.UsageError: flags do not go together.
    """
    chosen = tuple(Arm.parse(text) for text in arms)
    require_distinct(chosen)
    baseline = params.get("baseline")
    plan = Plan(
        config=experiment_config(params),
        arms=chosen,
        seeds=tuple(seeds),
        test=params.get("test", Plan.test),
        threads=params["threads"],
    )
    if params["resume"]:
        if params["out"] is None:
            raise click.UsageError("--resume needs --out")
        if params["overwrite"]:
            raise click.UsageError("give either --resume or --overwrite, not both")
        folder = Path(params["out"])
        if occupied(folder):
            plan = _continued(folder, plan, typed_flags())
    if baseline is not None:
        plan = replace(plan, baseline=choose_baseline(plan.arms, baseline))
    return plan


def _continued(folder: Path, asked: Plan, typed: dict[str, str]) -> Plan:
    """The plan of the folder, with the arms and seeds that are asked for on top."""
    plan = Plan.read(folder)
    version = plan.origin.get("versions", {}).get("gradmix_ext")
    if version != __version__:
        raise ValueError(
            f"{folder} was run by gradmix_ext {version}, and this is {__version__}: "
            "runs of different versions do not compare"
        )
    before = {**_plain(asdict(plan.config)), "threads": plan.threads}
    now = {**_plain(asdict(asked.config)), "threads": asked.threads}
    for name, flag in typed.items():
        if name in before and now[name] != before[name]:
            raise ValueError(
                f"{flag} is {now[name]}, but {folder} was run with {before[name]}: leave it out, "
                "or choose another folder"
            )
    arms, seeds = plan.arms, plan.seeds
    if not typed.keys().isdisjoint(("arms", "method", "augment")):
        arms = tuple(dict.fromkeys((*arms, *asked.arms)))
    if "seeds" in typed:
        seeds = tuple(dict.fromkeys((*seeds, *asked.seeds)))
    return replace(
        plan,
        arms=arms,
        seeds=seeds,
        test=asked.test if "test" in typed else plan.test,
    )


def _plain(settings: dict[str, Any]) -> dict[str, Any]:
    """Settings as they come back from JSON."""
    plain: dict[str, Any] = json.loads(json.dumps(settings))
    return plain


def require_distinct(arms: Collection[Arm]) -> None:
    """Refuse two arms that are the same run, however they are written ("mixup", "er+mixup").

    Raises:
        ValueError: naming both.
    """
    labels: dict[Arm, str] = {}
    for arm in arms:
        if arm in labels:
            raise ValueError(f"an arm is named twice: {labels[arm]} and {arm.label}")
        labels[arm] = arm.label
