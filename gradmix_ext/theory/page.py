"""An explanation as one self-contained HTML page, for a phone as well as for a desk."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from html import escape
from statistics import median

from gradmix_ext.page import document
from gradmix_ext.theory.explain import Explanation

__all__ = ["render"]

_SHOWN = 5

_STYLE = """
.terms { width: 100%; } .terms tr { border-bottom: 1px solid var(--line); }
.terms td:last-child { width: 42%; }
.bar { position: relative; height: .8rem; } .bar i { position: absolute; top: 0; bottom: 0; }
.bar b { position: absolute; left: 50%; top: -.2rem; bottom: -.2rem; width: 1px;
  background: var(--soft); }
.map { font-size: .8rem; table-layout: fixed; }
.map td, .map th { text-align: center; padding: 0; width: 1.85rem; height: 1.75rem; }
.map td { border: 1px solid var(--paper); }
.two { display: grid; grid-template-columns: repeat(auto-fit, minmax(15rem, 1fr)); gap: 0 2rem; }
ol { margin: .3rem 0; padding-left: 1.4rem; }
"""


def render(found: Explanation, title: str, facts: Mapping[str, str], names: Sequence[str]) -> str:
    """The page.

    Args:
        found: What to show.
        title: What was explained.
        facts: Where it comes from, name: value.
        names: Class names.
    """
    lead = "<br>".join(f"{escape(name)}: {escape(value)}" for name, value in facts.items())
    body = f"""<h1>{escape(title)}</h1>
<p class="soft">{lead}</p>
{_loss(found)}
{_pairs(found, names)}
{_regulariser(found, names)}
{_radius(found)}"""
    return document(title, body, _STYLE)


def _loss(found: Explanation) -> str:
    t = found.taylor
    effect = t.L_mix - t.L_std
    # The loss of unmixed samples is exact; the expansion brings the noise of its drawn pairs along.
    noise, error_noise = 2 * t.L_mix_stderr, 2 * t.error_stderr
    direction = "raises" if effect > 0 else "lowers"
    if abs(effect) <= noise:
        verdict = "Mixing does not change the loss on this batch beyond the noise of the estimate."
    else:
        verdict = (
            f"Mixing {direction} the loss on this batch by {abs(effect):.4g} ± {noise:.2g}, "
            f"from {t.L_std:.4g} to {t.L_mix:.4g}."
        )
    share = abs(t.error) / abs(effect) if effect else float("inf")
    if math.isnan(error_noise):
        trust = (
            "Of a single pair the noise of the expansion is unknown: whether it agrees with the "
            "mixup loss cannot be said."
        )
    elif abs(t.error) <= error_noise:
        trust = "The expansion agrees with the mixup loss within the noise"
        if 2 * t.R_stderr > abs(effect):
            trust += ", but that of its drawn pairs is larger than the change: take more pairs."
        else:
            trust += ": its terms can be read."
    elif share < 0.25:
        trust = f"The expansion misses {share:.0%} of that change: its terms can be read."
    else:
        trust = (
            f"The expansion misses {abs(t.error):.3g}, {share:.0%} of that change: the model is "
            "far from quadratic between samples, and its terms tell the direction at best."
        )
    rows = [
        ("R1", t.R1, "slope of the loss towards other samples", True),
        ("R2", t.R2, "curvature of the loss: punishes steep logits", True),
        ("R3", t.R3, "curvature of the model; 0 for ReLU networks", True),
        (
            "expansion − loss",
            t.error,
            f"no term: what the expansion {'over' if t.error > 0 else 'under'}estimates, "
            f"{_plus_minus(error_noise)}",
            False,
        ),
    ]
    widest = max(abs(value) for _, value, *_ in rows) or 1.0
    body = "".join(
        f"<tr><th>{name}<div class='soft'>{escape(text)}</div></th><td>{value:+.4g}</td>"
        f"<td>{_bar(value / widest, is_term)}</td></tr>"
        for name, value, text, is_term in rows
    )
    drawn = f" drawn at random; R1 + R2 + R3 is {_plus_minus(2 * t.R_stderr)}" if t.R_stderr else ""
    return f"""<h2>The loss</h2>
<p>{verdict} {trust}</p>
<table class="terms">{body}</table>
<p class="soft">Mixup loss ≈ L + R1 + R2 + R3, with L = {t.L_std:.4g} the loss of unmixed samples;
means over {t.pairs:,} pairs{drawn}. ± is two standard errors. A term below 0 lowers the loss of
mixed samples, one above 0 raises it. The last row, in grey, says nothing of that: there, above 0
the expansion overestimates the mixup loss, below 0 it underestimates it.</p>"""


def _plus_minus(noise: float) -> str:
    return "± unknown, of a single pair" if math.isnan(noise) else f"± {noise:.2g}"


def _bar(share: float, is_term: bool) -> str:
    """A bar from the middle to either side; grey for what neither helps nor harms."""
    side = "left" if share > 0 else "right"
    colour = ("--harm" if share > 0 else "--help") if is_term else "--soft"
    width = 50 * abs(share)
    return (
        f"<div class='bar'><i style='{side}:50%;width:{width:.1f}%;background:var({colour})'></i>"
        "<b></b></div>"
    )


def _pairs(found: Explanation, names: Sequence[str]) -> str:
    ranked = found.ranked_pairs()
    helpful = [pair for pair in ranked if pair[2] >= 0]
    harmful = [pair for pair in reversed(ranked) if pair[2] < 0]
    values = [
        [found.scores[a, b].item() if found.scored[a, b] else None for b in range(len(names))]
        for a in range(len(names))
    ]
    return f"""<h2>Which class pairs help</h2>
<p>{len(helpful)} of {len(ranked)} class pairs help and {len(harmful)} harm: a step on mixed samples
of a helpful pair (<b class="help">+</b>) lowers the loss on the reference samples to first order,
one of a harmful pair (<b class="harm">−</b>) raises it.</p>
{_map(values, names, "help", "harm")}
<div class="two"><div><h3 class="help">Most helpful</h3>{_list(helpful, names)}</div>
<div><h3 class="harm">Most harmful</h3>{_list(harmful, names)}</div></div>"""


def _regulariser(found: Explanation, names: Sequence[str]) -> str:
    total, count = found.terms.total, found.terms.count
    values = [
        [total[a, b].item() if count[a, b] else None for b in range(len(names))]
        for a in range(len(names))
    ]
    return f"""<h2>Where the regulariser acts</h2>
<p>R1 + R2 + R3 when a sample of the row's class is mixed with one of the column's:
<b class="harm">+</b> raises its loss, <b class="help">−</b> lowers it.</p>
{_map(values, names, "harm", "help")}"""


def _map(
    values: Sequence[Sequence[float | None]], names: Sequence[str], above: str, below: str
) -> str:
    """Classes by classes, a sign in each cell and its size as the strength of the colour."""
    widest = max((abs(v) for row in values for v in row if v is not None), default=1.0) or 1.0
    head = "".join(f"<th>{escape(name)}</th>" for name in names)
    rows = []
    for name, row in zip(names, values, strict=True):
        cells = []
        for other, value in zip(names, row, strict=True):
            if value is None:
                cells.append("<td class='soft' title='no samples'>·</td>")
                continue
            kind = above if value >= 0 else below
            strength = 12 + 68 * abs(value) / widest
            cells.append(
                f"<td style='background:color-mix(in srgb,var(--{kind}) {strength:.0f}%,"
                f"var(--paper))' title='{escape(name)} with {escape(other)}: {value:+.3g}'>"
                f"{'+' if value >= 0 else '−'}</td>"
            )
        rows.append(f"<tr><th>{escape(name)}</th>{''.join(cells)}</tr>")
    return (
        f"<div class='scroll'><table class='map'><tr><th></th>{head}</tr>{''.join(rows)}</table>"
        "</div>"
    )


def _list(pairs: Sequence[tuple[int, int, float]], names: Sequence[str]) -> str:
    if not pairs:
        return "<p>None.</p>"
    items = "".join(
        f"<li>{escape(names[a])} with {escape(names[b])} "
        f"<span class='soft'>{score:+.3g}</span></li>"
        for a, b, score in pairs[:_SHOWN]
    )
    return f"<ol>{items}</ol>"


def _radius(found: Explanation) -> str:
    if not found.radii:
        return "<h2>Robust radius</h2><p>Not defined: the batch has one class.</p>"
    defined = [pair.radius for pair in found.radii if not pair.reasons]
    reasons = Counter(reason.split(":")[0] for pair in found.radii for reason in pair.reasons)
    pairs = len(found.radii)
    right = sum(pair.in_theta for pair in found.radii)
    text = (
        f"<p>Defined for {len(defined)} of {pairs} pairs of classes: there the mixup loss bounds "
        f"the loss under an attack of ℓ2 radius {min(defined):.3g} or more (median "
        f"{median(defined):.3g}).</p>"
        if defined
        else f"<p>Not defined for any of the {pairs} pairs of classes: the theorem's conditions do "
        f"not hold. The formula would give an ℓ2 radius of "
        f"{median(pair.radius for pair in found.radii):.3g} (median over pairs), which nothing "
        "backs here.</p>"
    )
    items = "".join(
        f"<li>{escape(reason)} <span class='soft'>({count} of {pairs} pairs)</span></li>"
        for reason, count in reasons.most_common()
    )
    conditions = f"<p>Conditions that fail:</p><ul>{items}</ul>" if items else ""
    return f"""<h2>Robust radius</h2>
{text}{conditions}
<p class="soft">For each pair of classes, with f the difference of their logits; {right} of {pairs}
pairs are told apart without a mistake on this batch. For accuracy under real attacks:
<code>gradmix robustness</code>.</p>"""
