"""A comparison as Markdown."""

from __future__ import annotations

from gradmix_ext.continual.compare import FORMULAS, Comparison

__all__ = ["describe", "summary_markdown"]


def describe(comparison: Comparison) -> str:
    """One line that says what was run."""
    config = comparison.experiment.config
    scenario = comparison.experiment.scenario(comparison.seeds[0])
    sizes = [len(task.classes) for task in scenario]
    shape = f"x {sizes[0]}" if len(set(sizes)) == 1 else "of " + "+".join(map(str, sizes))
    return (
        f"{scenario.name}: {len(sizes)} tasks {shape} classes, "
        f"buffer {config.buffer_size} ({config.buffer_policy}, {config.replay}), "
        f"{config.epochs} epochs a task, batch {config.batch_size}, lr {config.lr:g}"
    )


def summary_markdown(comparison: Comparison) -> str:
    """The table of all finished arms, with the formulas of its columns."""
    done = {arm: len(comparison.of(arm)) for arm in comparison.finished_arms()}
    counts = sorted(set(done.values()))
    seeds = f"{counts[0]}" if len(counts) == 1 else f"{counts[0]} to {counts[-1]}"
    spread = "" if counts == [1] else ", mean ± 95 % confidence interval (Student's t)"
    planned = len(comparison.jobs)
    lines = [
        f"# {describe(comparison)}",
        "",
        f"In percent, over {seeds} seed{'' if counts == [1] else 's'}{spread}.",
    ]
    if len(comparison.runs) < planned:
        lines += ["", f"**Interrupted: {len(comparison.runs)} of {planned} runs finished.**"]
    lines += [
        "",
        "| arm | " + " | ".join(heading for _, heading, _ in FORMULAS) + " |",
        "| --- |" + " ---: |" * len(FORMULAS),
    ]
    for arm in done:
        estimates = comparison.estimates(arm)
        cells = " | ".join(estimates[name].percent() for name, _, _ in FORMULAS)
        lines.append(f"| {arm.label} | {cells} |")
    lines += ["", "R[t, j] is the Class-IL test accuracy on task j after task t.", ""]
    lines += [f"- {heading} = {formula}" for _, heading, formula in FORMULAS]
    return "\n".join(lines) + "\n"
