"""What a run found, in words made from its tables by rules: the only place where a number becomes a sentence.

A notebook says a finding once (`run.say(finding, claim=...)`), the run keeps it as a row of its table
`findings`, and the introduction and the reproduction page read that. What the paper claims, and the rule by
which a verdict follows, stand in data/published/claims.yaml only.
"""

from __future__ import annotations

import html as _html
import itertools
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import pandas as pd

Verdict = Literal["", "agrees", "differs", "undecided", "holds", "fails", "not comparable", "not run"]
SIGNIFICANCE = 0.05
PAPER_IS, PAPER_AS = 10.0, 3.0  # appendix C: where the paper sees a change, degrees
_SMALL_GAIN, _LARGE_RATIO = 0.02, 1.5  # of cosines, of squared errors: what serves, what does not
_USEFUL = 0.7  # ROC area from which on a score is said to help
_DIRECTED, _RANDOM = "toward the text", "random"  # ways of a step in the tables of steering


@dataclass(frozen=True)
class Finding:
    """What one run measured.

    Attributes:
        measured: numbers with units and intervals.
        verdict: on a claim of the paper, by that claim's rule; "" without one.
        n: over how many of what.
        why: the verdict, in a clause, where that needs saying.
    """

    measured: str
    verdict: Verdict = ""
    n: str = ""
    why: str = ""


def pill(verdict: str) -> str:
    """A verdict as a pill; nothing for none."""
    name = re.sub(r"\W+", "-", verdict)
    return f'<span class="sing-pill sing-{name}">{text(verdict)}</span>' if verdict else ""


def text(words: Any) -> str:
    """Escaped for HTML, in one line."""
    return _html.escape(" ".join(str(words).split()))


# ----------------------------------------------------------------------------- numbers in words


def number(x: float, digits: int = 2, *, sign: bool = False) -> str:
    """A number with a true minus, and without a sign where it rounds to zero.

    >>> number(-0.123), number(-0.001), number(2, 1, sign=True), number(-3e-9, sign=True)
    ('−0.12', '0.00', '+2.0', '0.00')
    """
    shown = f"{x:{'+' if sign else ''}.{digits}f}"
    return shown.lstrip("+-") if not float(shown) else shown.replace("-", "−")


def p_value(p: float) -> str:
    """A p value as a page shows it: draws and refits know nothing of smaller ones than a thousandth.

    >>> p_value(0.0312), p_value(1.8e-24)
    ('0.031', '< 0.001')
    """
    return "–" if np.isnan(p) else "< 0.001" if p < 0.001 else f"{p:.3f}"


def tiny(x: float) -> str:
    """A number of any size, in two digits.

    >>> tiny(3.46e-9), tiny(0)
    ('3.5e−9', '0')
    """
    return f"{x:.1e}".replace("e-0", "e-").replace("-", "−") if x else "0"


def span(row: Any, unit: str = "°", digits: int = 2, *, sign: bool = False) -> str:
    """A value with its interval, from a row with value, low and high; without, if it has none.

    >>> span({"value": 1.0, "low": -0.5, "high": 1.5})
    '1.00° (−0.50 to 1.50°)'
    """
    value, low, high = (number(row[c], digits, sign=sign) for c in ("value", "low", "high"))
    if np.isnan(row["low"]) or np.isnan(row["high"]):
        return f"{value}{unit}"
    return f"{value}{unit} ({low} to {high}{unit})"


def between(values: Iterable[float], unit: str = "°", digits: int = 2, *, sign: bool = False) -> str:
    """From the least to the largest, as one number where they read the same.

    >>> between([7.85, 9.1], digits=1), between([7.86, 7.91], digits=1)
    ('7.8 to 9.1°', '7.9°')
    """
    x = np.asarray(list(values), dtype=float)
    low, high = (number(v, digits, sign=sign) for v in (np.nanmin(x), np.nanmax(x)))
    return f"{low}{unit}" if low == high else f"{low} to {high}{unit}"


def counted(numbers: Iterable[float], what: str = "photos a classifier") -> str:
    """How many, if it is the same for all; else from how many to how many.

    >>> counted([900, 900]), counted([50, 1060])
    ('900 photos a classifier', '50 to 1,060 photos a classifier')
    """
    low, high = (f"{int(f(numbers)):,}" for f in (min, max))
    return f"{low} {what}" if low == high else f"{low} to {high} {what}"


def listed(rows: Mapping[Any, str]) -> str:
    """Names with what is said of them, as a sentence's end."""
    return "; ".join(f"{name} {words}" for name, words in rows.items()) + "."


def spans(table: pd.DataFrame, unit: str = "°", digits: int = 2, **columns: str) -> str:
    """Each classifier's value with its interval; `columns`: what value, low and high are called."""
    named = {"value": "value", "low": "low", "high": "high"} | columns
    rows = table.set_index("classifier")[[*named.values()]].set_axis([*named], axis=1)
    return listed({name: span(row, unit, digits) for name, row in rows.iterrows()})


def judged(agrees: Any, differs: Any) -> Verdict:
    """What a rule says where it asks something of every classifier, or of one.

    >>> judged([True, True], [False, False]), judged([True, False], [False, False]), judged(False, True)
    ('agrees', 'undecided', 'differs')
    """
    return "agrees" if np.all(agrees) else "differs" if np.all(differs) else "undecided"


# ------------------------------------------------------------------ notebooks 00 and 01


def certificate(heads: pd.DataFrame, of: str = "features") -> Finding:
    """Do the logits stay where they were? (eqs. 2 and 13)"""
    moved, flips = heads["logits moved"], int(heads["top-1 changes"].sum())
    within = bool((moved <= heads["bound"])[moved.notna()].all())  # NaN: no feature to look at
    return Finding(
        f"The logits moved by at most {tiny(moved.max())} of ‖W‖‖f‖, where rounding explains "
        f"{tiny(heads['bound'].min())}; {flips} top-1 classes changed.",
        "holds" if within and flips == 0 else "fails",
        f"{int(heads['photos'].sum()):,} {of}",
    )


def losses(table: pd.DataFrame) -> Finding:
    """Does the squared error also serve the cosine, and not the other way round? (Figure 7)"""
    t = table.set_index("loss")
    exact, own = t.loc["exact"], t.loc["cosine"]
    verdict = judged(
        own["gain high"] < _SMALL_GAIN and own["ratio low"] > _LARGE_RATIO,
        own["gain low"] > _SMALL_GAIN or own["ratio high"] < _LARGE_RATIO,
    )
    gain, ratio = (
        {"value": own[x], "low": own[f"{x} low"], "high": own[f"{x} high"]} for x in ("gain", "ratio")
    )
    return Finding(
        f"Cosine {number(exact['cosine'], 3)} by the exact minimiser of the squared error. Training on "
        f"the cosine changes it by {span(gain, '', 3, sign=True)} and leaves "
        f"{span(ratio, '', 1)} times that error.",
        verdict if own["converged"] else "undecided",
        counted(table["photos to evaluate"], "photos"),
        "" if own["converged"] else "not converged",
    )


# ------------------------------------------------------------------ notebooks 02 and 03


def ratio_order(spreads: pd.DataFrame) -> Finding:
    """Which classifier has the largest IS/AS ratio, which the least? (Figure 3b)"""
    own = spreads.sort_values("IS / |AS|", ascending=False)
    if len(own) < 2:
        return Finding("One classifier has no order.", "not comparable")
    names = {"value": "IS / |AS|", "low": "ratio low", "high": "ratio high"}
    ends = own["classifier"].iloc[[0, -1]] == ["DINO-ViT", "ResNeXt101"]
    apart = sum(a["ratio low"] > b["ratio high"] for a, b in itertools.pairwise(own.to_dict("records")))
    return Finding(
        f"Mean IS / mean |AS|, largest first: {spans(own, '', 1, **names)} The "
        f"intervals of {apart} of {len(own) - 1} neighbouring pairs do not overlap.",
        judged(ends, ~ends),
        counted(own["photos"]),
    )


def beyond_by_chance(table: pd.DataFrame) -> Finding:
    """What is found beyond the logits where nothing is: the zero of those scores."""
    return Finding(
        "Where null directions say nothing, the same fit finds beyond the logits a mean IS of "
        f"{between(table['IS (°)'])} and a mean |AS| of {between(table['|AS| (°)'], digits=3)}: the zeros of "
        "what is found there. Notebook 07 has those of null removal."
    )


def elongation(spreads: pd.DataFrame) -> Finding:
    """Is the classifier with the best ratio the only one whose ellipse is taller than wide? (Figure 3a)"""
    best = spreads.sort_values("IS / |AS|").iloc[-1]
    taller = set(spreads[spreads["low"] > 0]["classifier"])
    wider = set(spreads[spreads["high"] < 0]["classifier"])
    others = set(spreads["classifier"]) - {best["classifier"]}
    ends = ["log variance ratio", "low", "high"]
    shown = spans(spreads.assign(**np.exp(spreads[ends])), "", value=ends[0])
    return Finding(
        f"Var(IS) / Var(AS): {shown} {best['classifier']} has the largest ratio of IS to |AS|.",
        judged(
            best["classifier"] in taller and others <= wider,
            best["classifier"] in wider or bool(taller & others),
        ),
        counted(spreads["photos"]),
    )


def basis_orders(orders: pd.DataFrame, tried: pd.DataFrame) -> Finding:
    """Does the order of classifiers survive a change of basis? From `orders` and `rescalings`."""
    names, draws = tried["classifier"].unique(), tried["basis"].str.startswith("random").sum()
    if len(names) < 2:
        return Finding("", "not run", why="one classifier has no order that a basis could change")
    kept = orders.dropna().set_index("score")["order kept"]
    often = ", ".join(f"by {score} in {100 * share:.0f} %" for score, share in kept.items())
    ends = tried.groupby("classifier")[list(kept.index)].agg(["min", "max"])
    free = [s for s in kept.index if ends[s, "min"].max() < ends[s, "max"].min()]
    moved = [score in free for score in ("IS", "|AS|")]  # what the paper compares
    reach = f"every order by {' or '.join(free)} is within" if free else "some orders are out of"
    return Finding(
        "With a random basis for each classifier, their order stays "
        f"{often} of {orders['combinations'].iloc[0]:,} combinations of {draws // len(names)} draws; chance "
        f"would keep it in {100 * orders['by chance'].iloc[0]:.0f} %. Among all bases tried, {reach} reach.",
        judged(not any(moved), moved),
        f"{tried['basis'].nunique()} bases of each classifier",
    )


def more_outputs(table: pd.DataFrame) -> Finding:
    """What would more outputs tell? Of classifiers and one planted head."""
    whole = table.groupby("head", sort=False)[["R²", "by chance"]].last()
    planted = whole.index.str.startswith("planted")
    own, known = whole[~planted], whole[planted]
    real = table[~table["head"].str.startswith("planted")]
    enough = real["R²"] >= real.groupby("head")["R²"].transform("last") / 2
    half = real[enough].groupby("head")["outputs"].min()
    every = real.groupby("head")["directions"].first()
    first = (
        "The photos to fit on are too few to say what these heads ignore."
        if not (real["directions"] > 0).any()
        else f"All that these heads ignore tells {between(100 * own['R²'], ' %', 2)} of the embeddings' "
        f"variance beyond the logits, and {between(100 * own['by chance'], ' %', 2)} where there is nothing "
        f"to tell; at most {between(half, '', 0)} of {between(every, '', 0)} outputs tell half of it."
    )
    return Finding(f"{first} What the planted head ignores tells {between(100 * known['R²'], ' %', 0)}.")


def class_order(correlations: pd.DataFrame) -> Finding:
    """Do classifiers leak in the same classes? Of the paper's pair, where the run has it (Section 4.3)."""
    if correlations.empty or int(correlations["classes"].min()) < 4:
        return Finding("", "not run", why="fewer than two classifiers or four classes")
    pair = correlations[correlations[["a", "b"]].isin(["ResNet50", "DINO-ViT"]).all(axis=1)]
    own = pair if len(pair) else correlations
    parts = {
        f"{r['a']} / {r['b']}": f"ρ = {span(r | {'value': r['rho']}, '')}, corrected p = {number(r['q'], 3)}"
        for r in own.to_dict("records")
    }
    differs = bool((own["q"] < SIGNIFICANCE).any())
    why = "" if differs else "so few classes can hide a correlation"
    return Finding(
        listed(parts), "differs" if differs else "undecided", counted(own["classes"], "classes"), why
    )


def failures(areas: pd.DataFrame) -> Finding:
    """Does |AS| tell photos that are misnamed? From `tables.failures` (Section 3.5)."""
    if areas.empty:
        return Finding("", "not run", why="no head has labels of these classes, or none is ever wrong")
    of = dict(list(areas.groupby("score")))
    own = of["|AS|"]
    return Finding(
        f"ROC area of |AS| for misnamed photos: {spans(own, '')} Of IS: {between(of['IS']['value'], '')}.",
        judged(own["low"] > _USEFUL, own["high"] < _USEFUL),
        f"{counted(areas['misnamed'], 'misnamed')} of {counted(areas['photos'])}",
    )


def nearest_concept(concepts: pd.DataFrame, class_name: str, expected: str) -> Finding:
    """Which place has a concept by its angle to a class's photos? (Figure 5)"""
    own = concepts[concepts["class"] == class_name]
    parts = {}
    for name, table in own.groupby("classifier", sort=False):
        found = table[table["concept"] == expected].to_dict("records")
        if found:
            place = {"value": found[0]["place"], "low": found[0]["place low"], "high": found[0]["place high"]}
            first = table.sort_values("before")["concept"].iloc[0]
            parts[name] = f"place {span(place, '', 0)} of {len(table)}, first “{first}”"
    if not parts:
        return Finding("", "not run", why="this run has not both that class and that concept")
    return Finding(listed(parts), n=counted(own["photos"]))


def quieter_class(sizes: pd.DataFrame, quiet: str, loud: str) -> Finding:
    """Do concepts move less for one class than for another? From `concept_sizes` (Figure 5)."""
    if not {quiet, loud} <= set(sizes["class"]):
        return Finding("", "not run", why="this run has not both classes")
    a, b = (sizes[sizes["class"] == c].set_index("classifier") for c in (quiet, loud))
    parts = {name: f"{span(a.loc[name])} and {span(b.loc[name])}" for name in a.index}
    return Finding(
        f"Size of AS over concepts (root mean square, less what errors add), {quiet} and {loud}: "
        f"{listed(parts)}",
        judged(b["low"] > a["high"], b["high"] < a["low"]),
        counted(sizes["photos"], "photos a class"),
    )


# ------------------------------------------------------------------ notebooks 04 and 05


def table_1(table: pd.DataFrame) -> Finding:
    """|AS| toward the target at one IS, beside chance (Table 1)."""
    parts = {}
    for name, own in table.groupby("classifier", sort=False):
        ways = own.set_index("direction").loc[[_DIRECTED, _RANDOM]]
        a, b = (f"{number(r['|AS| mean'])} ± {number(r['|AS| sd'])}°" for _, r in ways.iterrows())
        parts[name] = f"{a} (random null directions {b})"
    first = table.iloc[0]
    return Finding(
        f"At IS = {first['IS']:g}° toward “{first['target']}”: {listed(parts)} Mean ± standard deviation.",
        n=counted(table[table["direction"] == _DIRECTED]["reached"]),
    )


def steerable(table: pd.DataFrame) -> Finding:
    """Does a directed step move toward the text more than a random one of the same IS? (Section 4.4)"""
    wide = table.pivot(index="classifier", columns="direction", values="AS mean").dropna()
    if wide.empty or wide.shape[1] < 2:
        return Finding("", "not run", why="no photo reaches this IS in both ways")
    spread = table.pivot(index="classifier", columns="direction", values="AS sd").loc[wide.index]
    clear = (wide[_DIRECTED] - wide[_RANDOM]) > 2 * spread[_RANDOM]
    flips = int(table["flips"].sum())
    parts = {
        n: f"{number(r[_DIRECTED], 1, sign=True)}° against {number(r[_RANDOM], 1, sign=True)}°"
        for n, r in wide.iterrows()
    }
    return Finding(
        f"Mean AS toward the text, directed against random steps: {listed(parts)} {flips} top-1 classes "
        "changed.",
        judged(clear.all() and flips == 0, ~clear),
        counted(table[table["direction"] == _DIRECTED]["reached"]),
    )


def steered_beyond(table: pd.DataFrame, degrees: float) -> Finding:
    """How far beyond photos a step reaches that no basis can shorten; no claim of the paper."""
    own = table.dropna()
    if own.empty:
        return Finding("Beyond the logits no step reaches this angle.")
    times = own["step (sd)"] / own["photos (sd)"]
    return Finding(
        f"To turn what stands in the place of Tf by {degrees:g}°, a step must be {between(times, '', 0)} "
        "times as long as what photos have beyond their logits. It then comes "
        f"{between(own['AS (°)'], '°', 1)} nearer to the text."
    )


def figure_1(pairs: pd.DataFrame, logits: pd.DataFrame) -> Finding:
    """Same logits in every pair, and a meaning that changes much in some and hardly in others? (Figure 1)"""
    moved = float((logits["logit"] - logits["its logit"]).abs().max())
    same = moved < 1e-3 * logits["logit"].abs().max() and (logits["original"] == logits["equivalent"]).all()
    much = (pairs["IS"] >= PAPER_IS) | (pairs["AS"].abs() >= PAPER_AS)
    benign = pairs["kind"] == "benign"
    parts = [
        f"{kind} pairs IS {between(own['IS'], digits=1)} and |AS| {between(own['AS'].abs())}"
        for kind, own in pairs.groupby("kind", sort=False)
    ]
    missing = {
        "the logits are not the same": not same,
        "no problematic pair changes much": not much[~benign].any(),
        "a benign pair changes much": much[benign].any(),
    }
    why = [words for words, lacks in missing.items() if lacks]
    return Finding(
        f"No shown logit differs by more than {tiny(moved)}; {', '.join(parts)}.",
        "differs" if why else "agrees",
        f"{len(pairs)} pairs",
        "; ".join(why),
    )


def figure_6(grid: pd.DataFrame) -> Finding:
    """Do steps toward each target reach it clearly? From `steering_grid` (Figure 6)."""
    cells = grid.groupby(["classifier", "target"], sort=False)["AS"].agg(["mean", "std", "count"])
    margin = 2 * cells["std"] / np.sqrt(cells["count"])
    above = cells["mean"] - margin > PAPER_AS  # NaN, where no photo reaches a target, is not above
    below = (cells["mean"] + margin < PAPER_AS).groupby("classifier").any()
    reached = cells["mean"].unstack(sort=False)
    parts = {name: between(row, digits=1) for name, row in reached.iterrows()}
    missed = int(cells["mean"].isna().sum())
    return Finding(
        f"Mean AS toward {reached.shape[1]} targets at IS = {grid['IS'].iloc[0]:g}°: {listed(parts)}",
        judged(above, below),
        f"{grid['source'].nunique()} classes of photos",
        f"{missed} targets are reached by no photo" if missed else "",
    )


def half_changed(changes: pd.DataFrame) -> str:
    """From which IS on half of the pictures are seen as another class, if from any."""
    half = changes[changes["changed"] >= 50]
    at = f"from IS = {half['IS'].iloc[0]:g}° on" if len(half) else f"at no IS up to {changes['IS'].max():g}°"
    return f"Half of the steered pictures are seen as another class {at}"


def visible_change(changes: pd.DataFrame) -> Finding:
    """At which IS do pictures change? (appendix C, Figure 9)"""
    half, noise = changes[changes["changed"] >= 50], float(changes["noise"].iloc[0])
    words = half_changed(changes) + (f" (mean AS {number(half['AS'].iloc[0], 1)}°)" if len(half) else "")
    past = changes[changes["turned"] > noise]
    if noise > 0:
        when = f"from IS = {past['IS'].iloc[0]:g}° on" if len(past) else "at no IS"
        words += f"; {when} they turn by more than other noise does ({number(noise, 0)}°)"
    return Finding(f"{words}.", n=counted(changes["pictures"], "pictures at each IS"))


def norm_effect(effect: pd.DataFrame) -> Finding:
    """How much of a picture's change is the length's doing? (eq. 14)"""
    restored, plain = effect["turned, restored (°)"], effect["turned, as it comes (°)"]
    return Finding(
        f"Steps make features {between(effect['norm, × original'], '')} times as long. Pictures turn by "
        f"{number(restored.mean(), 1)}° with the norm restored, {number(plain.mean(), 1)}° without (means).",
        judged(plain > restored, ~(plain > restored)),
        f"{len(effect)} pictures",
    )


def noise_effect(effect: pd.DataFrame) -> Finding:
    """Can a step be told from noise that is not shared? (appendix D)"""
    step, noise = effect["step alone (°)"], effect["noise alone (°)"]
    if not noise.any():
        return Finding("These pictures are made without noise.", "not comparable", f"{len(effect)} photos")
    more = noise > step
    return Finding(
        f"The step alone turns a picture by {number(step.mean(), 1)}°, other noise alone by "
        f"{number(noise.mean(), 1)}° (means); noise turns {int(more.sum())} of {len(effect)} farther.",
        judged(more, ~more),
        f"{len(effect)} photos",
    )
