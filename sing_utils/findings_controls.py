"""What the controls say, in words made from their tables by rules that are stated with them."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd

from sing_utils.controls import SOFTMAX, SUBSPACES
from sing_utils.findings import SIGNIFICANCE, Finding
from sing_utils.shown_controls import signed

Row = dict[str, Any]
RELIABLE = 0.7  # correlation of a photo's AS between two translators, from which it is called reliable


def subspaces(control: pd.DataFrame) -> Finding:
    """Does the null space carry more or less class semantics than any other subspace of its size?

    Args:
        control: of `subspace_control`.
    """
    parts = []
    for kind in SUBSPACES:
        own = control[control["kind"] == kind]
        said = [
            f"{what} {_compared(own[own['statistic'] == statistic])}"
            for statistic, what in (("contrast", "of the class (contrast)"), ("|AS|", "|AS|"), ("IS", "IS"))
        ]
        parts.append(f"Against random subspaces of the {kind}: " + "; ".join(said) + ".")
    return Finding(
        "The paper compares heads whose null spaces differ up to 44-fold in dimension; it has no such "
        "control.",
        " ".join(parts),
        "not in the paper",
        f"More, less: a two-sided p below {SIGNIFICANCE} by Student's t over {int(control['draws'].min())} "
        "random "
        "subspaces, corrected for the number of classifiers. A lower contrast is more of the class. What "
        "is not "
        "told from random subspaces may still hold as much of the class as its share of the dimensions.",
    )


def steering_subspaces(control: pd.DataFrame) -> Finding:
    """Is the null space easier to steer in than any other subspace of its size?

    Args:
        control: of `subspace_control` over `subspace_steering`.
    """
    known, parts = control.dropna(subset="percentile"), []
    for kind, own in known.groupby("kind", sort=False):
        degrees = ", ".join(
            f"{r['null space']:.1f}° against {r['chance']:.1f}° ({r['classifier']})"
            for r in own.to_dict("records")
        )
        parts.append(f"of the {kind}, AS {_compared(own)}: {degrees}")
    return Finding(
        "Directed null-space steps reveal a security risk (Section 4.4); other subspaces are not tried.",
        f"Directed steps in the null space against those in random subspaces {'; '.join(parts)}."
        if parts
        else "No step reaches this IS in both.",
        "not in the paper",
        "In a random subspace the logits move, so such a step is no attack; it shows how much of the AS is "
        "owed to "
        f"having so many directions to choose from. More, less: a two-sided p below {SIGNIFICANCE} by "
        "Student's t "
        f"over {int(control['draws'].max())} subspaces, corrected for the number of classifiers.",
    )


def translator(table: pd.DataFrame) -> Finding:
    """Does the translator know anything of null directions, and can its scores be trusted?

    Args:
        table: of `translator_control`.
    """
    records = table.to_dict("records")
    knows = [f"{r['classifier']} {r['R², null part alone']:.2f}" for r in records]
    trust = [f"{r['classifier']} {r['all photos: correlation of AS']:.2f}" for r in records]
    blind = [
        f"{r['classifier']} |AS| {r['blind: median |AS| (°)']:.2f}°, IS {r['blind: median IS (°)']:.1f}°"
        for r in records
    ]
    low = [r["classifier"] for r in records if not r["all photos: correlation of AS"] >= RELIABLE]
    verdict = f"is not reliable for {', '.join(low)}" if low else "is reliable by this rule"
    sure = [r["classifier"] for r in records if r["q of contrast"] < SIGNIFICANCE]
    told = f"differs from 0 for {', '.join(sure)}" if sure else "differs from 0 for none"
    return Finding(
        "The paper judges its translators on the photos that they were trained on (Figure 8).",
        f"R² of photos never seen, from the null part alone: {', '.join(knows)}. Correlation of a photo's AS "
        f"between two translators of as many photos: {', '.join(trust)}; the AS of a single photo {verdict}. "
        "Translators in worlds where null directions mean nothing still find a median "
        f"{'; '.join(blind)}. With their error, the mean contrast of this run {told}.",
        "not in the paper",
        f"Reliable: a correlation of at least {RELIABLE}, extrapolated from halves of the photos. Differs: a "
        f"two-sided p below {SIGNIFICANCE} by Student's t, with the spread over those worlds as the "
        "translator's error, corrected for the number of classifiers.",
    )


def prompts(table: pd.DataFrame) -> Finding:
    """Do AS and contrast survive another wording, and is it the class's own name that they answer to?

    Args:
        table: of `prompt_control`.
    """
    parts, turned = [], []
    for r in table.to_dict("records"):
        least, most = r["mean AS (°), least"], r["mean AS (°), most"]
        if least < 0 < most:
            turned.append(str(r["classifier"]))
        parts.append(
            f"{r['classifier']}: mean AS {signed(least)} to {signed(most)}°, contrast "
            f"{signed(r['mean contrast (°), least'])} to {signed(r['mean contrast (°), most'])}°" + _names(r)
        )
    sign = (
        f"The sign of mean AS depends on the wording for {', '.join(turned)}."
        if turned
        else "The sign of mean AS is the same in all wordings."
    )
    return Finding(
        "The paper uses one wording, “an image of a ⟨class⟩”.",
        f"Over {int(table['wordings'].max())} wordings, {'; '.join(parts)}. {sign}",
        "not in the paper",
        "Least and largest value over wordings of the same prompt. Other names: the classes' names exchanged "
        "at random; p is two-sided, not corrected. A score that other names give as "
        "well "
        "is not about the class.",
    )


def _names(r: Row) -> str:
    if "p of the names" not in r or not np.isfinite(r["p of the names"]):
        return ""
    return (
        f"; AS toward other names {signed(r['other names, low'])} to {signed(r['other names, high'])}°, "
        f"against {signed(r['mean AS (°)'])}° toward the own (p = {r['p of the names']:.3f}, "
        f"{int(r['exchanges'])} exchanges)"
    )


def encoders(table: pd.DataFrame) -> Finding:
    """Do the scores survive another encoder?

    Args:
        table: of `encoder_control`.
    """
    parts = []
    for name, own in table.groupby("classifier", sort=False):
        c, r = own["mean contrast (°)"], own["rank correlation of classes"].iloc[1:]
        told = (
            f", classes' order by |AS| correlates {r.min():.2f} to {r.max():.2f} with the first"
            if len(r)
            else ""
        )
        parts.append(
            f"{name}: median |AS| {own['median |AS| (°)'].min():.2f} to "
            f"{own['median |AS| (°)'].max():.2f}°, contrast "
            f"{signed(c.min())} to {signed(c.max())}°{told}"
        )
    count = int(table.groupby("classifier").size().max())
    return Finding(
        "The paper reads all classifiers with one encoder, CLIP.",
        f"Read by {count} encoders or parts of one: " + "; ".join(parts) + ".",
        "not in the paper",
        "Each encoder has a translator of its own, fitted on the same photos.",
    )


def rank(table: pd.DataFrame) -> Finding:
    """Does the null space depend on the rule of rank, and what if softmax's blind spot is counted in?

    Args:
        table: of `rank_control`.
    """
    parts, softmax = [], []
    for name, own in table.groupby("classifier", sort=False):
        rows = own.set_index("rule")
        book = rows.iloc[0]
        others = rows[(rows.index != SOFTMAX) & (rows["rank"] != book["rank"])]
        clear = "nothing beyond it" if np.isinf(book["gap"]) else f"a gap of {book['gap']:.3g} after it"
        differ = f"{len(others)} of the other rules cut elsewhere" if len(others) else "all rules cut there"
        parts.append(f"{name}: rank {int(book['rank'])}, {clear}, {differ}")
        if SOFTMAX in rows.index:
            s = rows.loc[SOFTMAX]
            if s["null dimension"] == book["null dimension"]:
                continue  # the head's rows sum to nothing already
            softmax.append(
                f"{name} energy {book['energy (%)']:.1f} to {s['energy (%)']:.1f} %, median IS "
                f"{book['median IS (°)']:.1f} to {s['median IS (°)']:.1f}°, contrast "
                f"{signed(book['mean contrast (°)'])} to "
                f"{signed(s['mean contrast (°)'])}°"
            )
    more = f" With the one direction more that softmax ignores: {'; '.join(softmax)}." if softmax else ""
    return Finding(
        "The paper speaks of non-zero singular values; its public code counts those above 0.00001.",
        "; ".join(parts) + "." + more,
        "not in the paper",
        "A constant added to all logits changes no probability, so that direction may be called null as "
        "well; "
        "the book does not count it, as the paper does not.",
    )


def classes(table: pd.DataFrame) -> Finding:
    """Which classes' contrast is more than a translator makes by itself?

    Args:
        table: of `class_scores`.
    """
    parts, spread = [], 0
    for name, own in table.groupby("classifier", sort=False):
        sure = own[own["q"] < SIGNIFICANCE]
        if "contrast least" in own:
            spread += int(((sure["contrast least"] < 0) & (sure["contrast most"] > 0)).sum())
        leak, keep = sure[sure["contrast"] < 0], sure[sure["contrast"] > 0]
        parts.append(
            f"{name}: of {len(own)} classes {len(leak)} leak{_listed(leak)} and {len(keep)} come nearer to "
            "their own "
            f"name{_listed(keep)}"
        )
    turned = f" In {spread} of these, another wording of the prompt turns the sign." if spread else ""
    return Finding(
        "Some classes leak substantially more than others (Section 4.3, Figure 4), by |AS| and without a "
        "test.",
        "; ".join(parts) + "." + turned,
        "not comparable",
        f"Counted: a mean contrast with a corrected p below {SIGNIFICANCE} (test: {table['test'].iloc[0]}; "
        "false "
        "discovery rate over all rows). The paper's measure has no sign and no test.",
    )


def differences(table: pd.DataFrame) -> Finding:
    """Do the classifiers differ, with other photos, and with other classes?

    Args:
        table: of `classifier_differences`.
    """
    parts = []
    for statistic, own in table.groupby("statistic", sort=False):
        photo = int(((own["low"] > 0) | (own["high"] < 0)).sum())
        text = f"{statistic}: {photo} of {len(own)} pairs by photo"
        if "low by class" in own and own["low by class"].notna().all():
            text += f", {int(((own['low by class'] > 0) | (own['high by class'] < 0)).sum())} by class"
        parts.append(text)
    return Finding(
        "Models are ordered without intervals (Figures 3 and 4).",
        "Pairs of classifiers whose difference has an interval without 0: " + "; ".join(parts) + ".",
        "not in the paper",
        "Both classifiers on the same photos. By photo: had other photos of these classes been taken; by "
        "class: "
        "had other classes been taken, for which there are few here. Given these translators; not "
        "corrected for "
        "the number of pairs.",
    )


def _compared(own: pd.DataFrame) -> str:
    """More, less or as chance: who, with percentiles."""
    said: dict[str, list[Row]] = {}
    for r in own.to_dict("records"):
        said.setdefault(_than_chance(r), []).append(r)
    parts = []
    for words, rows in said.items():
        names = "all" if len(rows) == len(own) > 1 else ", ".join(str(r["classifier"]) for r in rows)
        places = ", ".join(f"{r['percentile']:.0f}" for r in rows)
        parts.append(f"{words} for {names} (percentile {places})")
    return ", ".join(parts)


def _than_chance(r: Row) -> str:
    if not np.isfinite(r["q"]):
        return "no number"
    if not r["q"] < SIGNIFICANCE:
        return "not told from them"
    higher = r["null space"] > r["chance"]
    return "more" if higher != (r["statistic"] == "contrast") else "less"


def _listed(rows: pd.DataFrame, most: int = 4) -> str:
    names = rows.reindex(rows["contrast"].abs().sort_values(ascending=False).index)["class"].tolist()
    if not names:
        return ""
    return f" ({', '.join(names[:most])}{', …' if len(names) > most else ''})"


def _percent(share: float) -> str:
    return f"{100 * share:.0f} %"


def _size(degrees: float) -> str:
    return f"{degrees:.2f}°"
