"""What the paper claims, what this run measured, and whether they agree: words from numbers.

Every sentence here is made from the tables of one run by a rule that is stated with it, so that
another run, with other numbers, says something else.
"""

from __future__ import annotations

import html
import itertools
import math
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import pandas as pd

Verdict = Literal["agrees", "differs", "undecided", "not comparable", "not in the paper", "not run"]
SIGNIFICANCE = 0.05
UNRELATED = 0.5  # a correlation below which two orders may be called unrelated
_SMALL_GAIN, _LARGE_RATIO = 0.02, 1.5  # of cosines, of squared errors: what serves, what does not


@dataclass(frozen=True)
class Finding:
    """One claim beside its measurement; shows itself in a notebook.

    Attributes:
        claim: what the paper says, and where.
        measured: what this run measured.
        verdict: what follows, by `rule`.
        rule: how the verdict follows from the numbers.
    """

    claim: str
    measured: str
    verdict: Verdict
    rule: str

    def _repr_html_(self) -> str:
        rows = [("Paper", self.claim), ("This run", self.measured), ("Verdict", self.verdict)]
        cells = "".join(f"<dt>{k}</dt><dd>{html.escape(v)}</dd>" for k, v in rows)
        name = self.verdict.replace(" ", "-")
        return (
            f'<div class="sing-finding sing-{name}" role="note" aria-label="finding: {self.verdict}">'
            f'<dl>{cells}</dl><p class="sing-rule">{html.escape(self.rule)}</p></div>'
        )


def certificate(
    table: pd.DataFrame,
    *,
    claim: str = "Removing the null component leaves the logits unchanged (eqs. 2 and 9).",
) -> Finding:
    """Do the logits stay where they were? (eq. 2)"""
    moved = table["max |W f − W f̃| / (‖W‖ ‖f‖)"]
    flips = int(table["top-1 changes"].sum())
    within = bool((moved <= table["bound"])[moved.notna()].all())  # NaN: no feature to look at
    return Finding(
        claim,
        f"Over {int(table['photos'].sum())} features the logits moved by at most {moved.max():.1e} of "
        f"‖W‖‖f‖, where rounding explains {table['bound'].min():.1e}; {flips} top-1 classes changed.",
        "agrees" if within and flips == 0 else "differs",
        "Agrees if every change is within the bound of the stored precision and no top-1 class changed.",
    )


def energy(photos: pd.DataFrame, random: pd.DataFrame) -> Finding:
    """How large is the invisible part of real features, against chance?"""
    own = photos.groupby("classifier", sort=False)["share"].mean()
    chance = random.groupby("classifier", sort=False)["share"].agg(["min", "max"])
    parts = [
        f"{name}: {share:.1f} % (random subspaces {chance.loc[name, 'min']:.1f} to "
        f"{chance.loc[name, 'max']:.1f} %)"
        for name, share in own.items()
    ]
    return Finding(
        "The paper gives no such figure.",
        "Mean share of a feature's energy that the logits cannot see: " + "; ".join(parts) + ".",
        "not in the paper",
        "Random subspaces have the null space's dimension; the range is over draws.",
    )


def losses(table: pd.DataFrame) -> Finding:
    """Does the mean squared error also serve the cosine, and not the other way round? (Figure 7)"""
    t = table.set_index("loss")
    own = t.loc["cosine"]
    verdict: Verdict = "undecided"
    if own["gain high"] < _SMALL_GAIN and own["ratio low"] > _LARGE_RATIO:
        verdict = "agrees"
    elif own["gain low"] > _SMALL_GAIN or own["ratio high"] < _LARGE_RATIO:
        verdict = "differs"
    return Finding(
        "Training on the squared error also satisfies the cosine; training on the cosine does not "
        "improve the squared error (appendix B, Figure 7).",
        f"On evaluation photos, cosine {t.loc['mse', 'cosine']:.3f} when trained on the squared error "
        f"and {own['cosine']:.3f} when trained on the cosine: {own['gain']:+.3f} ({own['gain low']:+.3f} to "
        f"{own['gain high']:+.3f}). Training on the cosine leaves {own['ratio']:.1f} "
        f"({own['ratio low']:.1f} to {own['ratio high']:.1f}) times the squared error.",
        verdict,
        f"Agrees if the interval of the gain in cosine ends below {_SMALL_GAIN} and that of the squared "
        f"errors' ratio begins above {_LARGE_RATIO}; differs if the gain's begins above or the ratio's ends "
        "below; else undecided. Intervals are over photos, given the two fits.",
    )


def methods(table: pd.DataFrame) -> Finding:
    """Closed form against AdamW."""
    wide = table.pivot(index="classifier", columns="method", values=["cosine", "R²", "seconds"])
    ahead = (wide["cosine"]["ridge"] > wide["cosine"]["adamw"]).sum()
    speed = (wide["seconds"]["adamw"] / wide["seconds"]["ridge"]).median()
    return Finding(
        "The paper trains with AdamW and does not compare with the exact minimiser of eq. 4.",
        f"On evaluation photos the closed form has the higher cosine for {ahead} of {len(wide)} "
        f"classifiers (mean {wide['cosine']['ridge'].mean():.3f} against "
        f"{wide['cosine']['adamw'].mean():.3f}), and AdamW takes {speed:.0f} times as long (median).",
        "not in the paper",
        "Both are fitted on the same photos; neither saw the evaluation photos. AdamW stops after a fixed "
        "number of epochs, converged or not: see the curves below.",
    )


def ratio_order(table: pd.DataFrame) -> Finding:
    """Does the order of classifiers by IS/AS depend on the ratio's definition? (Figure 3b)"""
    orders = {
        definition: own.sort_values("value", ascending=False)["classifier"].tolist()
        for definition, own in table.groupby("definition", sort=False)
    }
    distinct: dict[str, list[str]] = {}
    for definition, order in orders.items():
        distinct.setdefault(" > ".join(order), []).append(definition)
    if len(distinct) == 1:
        measured = f"The order is the same under all {len(orders)} definitions: {next(iter(distinct))}."
    else:
        parts = [f"{order} by {', '.join(names)}" for order, names in distinct.items()]
        measured = "The order depends on the definition: " + "; ".join(parts) + "."
    overlap = _overlaps(table[table["definition"] == table["definition"].iloc[0]])
    measured += f" By {table['definition'].iloc[0]}, {overlap}."
    return Finding(
        "DINO-ViT has the highest IS/AS ratio of five models, ResNeXt101 the lowest (Figure 3b); the "
        "ratio is not defined.",
        measured,
        "not comparable",
        "These are other classifiers and another encoder; only the way of measuring is the paper's.",
    )


def elongation(spreads: pd.DataFrame, ratios: pd.DataFrame) -> Finding:
    """Is the classifier with the best ratio the only one whose ellipse is taller than wide?"""
    definition = ratios["definition"].iloc[0]
    first = ratios[ratios["definition"] == definition]
    best = first.sort_values("value")["classifier"].iloc[-1]
    taller = set(spreads[spreads["low"] > 0]["classifier"])
    wider = set(spreads[spreads["high"] < 0]["classifier"])
    others = set(spreads["classifier"]) - {best}
    if best in taller and others <= wider:
        verdict: Verdict = "agrees"
    elif best in wider or taller & others:
        verdict = "differs"
    else:
        verdict = "undecided"
    parts = [
        f"{r['classifier']} {np.exp(r['log variance ratio']):.2f} "
        f"({np.exp(r['low']):.2f} to {np.exp(r['high']):.2f})"
        for r in spreads.to_dict("records")
    ]
    return Finding(
        "Only the model with the best IS/AS ratio varies more in IS than in AS (Section 4.2, Figure 3a).",
        f"Var(IS) / Var(AS), with interval: {'; '.join(parts)}. By {definition}, the best ratio has {best}.",
        verdict,
        "Agrees if the interval of the best lies above 1 and the others' below; differs if the best's "
        "lies below 1 or another's above; else undecided. The paper speaks of five other models: the "
        "verdict says whether these follow the same pattern.",
    )


def class_order(correlations: pd.DataFrame) -> Finding:
    """Do classifiers leak in the same classes? (Section 4.3)"""
    claim = "The classes' order by |AS| is not significantly correlated between two models (Section 4.3)."
    rule = (
        f"Differs if a pair has a p below {SIGNIFICANCE} (Spearman; classes exchanged at random; corrected "
        "for "
        f"the number of pairs); agrees if none has and every interval ends below {UNRELATED}; else "
        "undecided, "
        "since few classes can hide a correlation."
    )
    if correlations.empty or int(correlations["classes"].min()) < 4:
        return Finding(claim, "Fewer than two classifiers or four classes.", "not run", rule)
    parts = [
        f"{r['a']} / {r['b']}: ρ = {r['rho']:.2f} ({r['low']:.2f} to {r['high']:.2f}), corrected p = "
        f"{r['q']:.3f}"
        for r in correlations.to_dict("records")
    ]
    verdict: Verdict = "agrees" if (correlations["high"] < UNRELATED).all() else "undecided"
    if (correlations["q"] < SIGNIFICANCE).any():
        verdict = "differs"
    return Finding(claim, "; ".join(parts) + ".", verdict, rule)


def nearest_concept(concepts: pd.DataFrame, class_name: str, expected: str) -> Finding:
    """Is the expected concept the nearest to a class's photos? (Figure 5)"""
    claim = f"Of 30 concepts, “{expected}” has the smallest angle to {class_name} (Figure 5, DINO-ViT)."
    rule = (
        "Agrees if the interval of its place, over photos, is 1 to 1 in every classifier; differs if it "
        "holds 1 in none; else undecided."
    )
    own = concepts[concepts["class"] == class_name]
    if own.empty or expected not in set(own["concept"]):
        return Finding(claim, "This run has not both that class and that concept.", "not run", rule)
    if own["place"].isna().any():
        return Finding(claim, "A class of one photo: no interval, no answer.", "undecided", rule)
    parts = []
    for name, table in own.groupby("classifier", sort=False):
        place = table[table["concept"] == expected].iloc[0]
        parts.append(
            f"{name}: place {place['place']:.0f} ({place['place low']:.0f} to {place['place high']:.0f}) of "
            f"{len(table)}, first “{table.sort_values('before')['concept'].iloc[0]}”"
        )
    places = own[own["concept"] == expected]
    verdict: Verdict = "undecided"
    if (places["place high"] == 1).all():
        verdict = "agrees"
    elif (places["place low"] > 1).all():
        verdict = "differs"
    return Finding(claim, "; ".join(parts) + ".", verdict, rule)


def quieter_class(sizes: pd.DataFrame, quiet: str, loud: str) -> Finding:
    """Do concepts move less for one class than for another? From `tables.concept_sizes` (Figure 5)."""
    claim = f"Concepts move little for {quiet} and substantially more for {loud} (Section 4.3, DINO-ViT)."
    rule = (
        "Agrees if in every classifier the interval of the second class lies above that of the first; "
        "differs if in every one it lies below; else undecided. Each half of the photos counts "
        "with the signs of the other half, so that chance alone has the size 0."
    )
    if not {quiet, loud} <= set(sizes["class"]):
        return Finding(claim, "This run has not both classes.", "not run", rule)
    a, b = (sizes[sizes["class"] == c].set_index("classifier") for c in (quiet, loud))
    parts = [f"{n}: {span(a.loc[n])} and {span(b.loc[n])}" for n in a.index]
    verdict: Verdict = "undecided"
    if (b["low"] > a["high"]).all():
        verdict = "agrees"
    elif (b["high"] < a["low"]).all():
        verdict = "differs"
    return Finding(
        claim,
        f"Mean size of AS over concepts, {quiet} and {loud}: " + "; ".join(parts) + ".",
        verdict,
        rule,
    )


def photo(logits: pd.DataFrame, concepts: pd.DataFrame) -> Finding:
    """One picture: same logits, other meaning? (Figure 1)"""
    moved = float((logits["logit after"] - logits["logit before"]).abs().max())
    gained = concepts.sort_values("AS").iloc[-1]
    lost = concepts.sort_values("AS").iloc[0]
    return Finding(
        "An equivalent pair gives the same logits while its meaning may change (Figure 1).",
        f"{logits['photo'].iloc[0]}: the {len(logits)} largest logits moved by at most {moved:.1e}; the "
        f"translated feature turned by IS = {concepts['IS'].iloc[0]:.1f}°. Most gained: "
        f"“{gained['concept']}” ({gained['AS']:+.2f}°); most lost: “{lost['concept']}” ({lost['AS']:+.2f}°).",
        "agrees" if moved < 1e-3 * logits["logit before"].abs().max() else "differs",
        "Agrees if no shown logit moved by a thousandth of the largest; how much the meaning changed is "
        "for the reader to judge.",
    )


def span(row: Any, unit: str = "°", digits: int = 2) -> str:
    """A value with its interval, from a row with value, low and high; without, if it has none.

    >>> span({"value": 1.0, "low": 0.5, "high": 1.5})
    '1.00° (0.50 to 1.50°)'
    """
    value = f"{row['value']:.{digits}f}{unit}"
    if math.isnan(row["low"]) or math.isnan(row["high"]):
        return value
    return f"{value} ({row['low']:.{digits}f} to {row['high']:.{digits}f}{unit})"


def _overlaps(table: pd.DataFrame) -> str:
    """Whether neighbouring intervals overlap, in words."""
    ordered = table.sort_values("value", ascending=False).to_dict("records")
    apart = sum(a["low"] > b["high"] for a, b in itertools.pairwise(ordered))
    return f"the intervals of {apart} of {len(ordered) - 1} neighbouring pairs do not overlap"
