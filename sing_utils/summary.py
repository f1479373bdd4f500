"""The findings of a run in a few sentences, with their uncertainty in words (the introduction's summary).

Every word is chosen by a rule from the run's tables. How sure a statement is, is said by four words: see
`SCALE`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

import numpy as np
import pandas as pd

from sing_utils.controls import SUBSPACES
from sing_utils.findings_controls import RELIABLE
from sing_utils.results import Results

CERTAIN, LIKELY = 0.01, 0.05
SCALE = (
    "*Clearly* stands for a corrected p below 0.01, or an interval without zero both by photo and by class; "
    "*probably* for a p below 0.05, or an interval by photo alone. What *cannot be told* may still be so: "
    "it only "
    "does not show. AS, IS and contrast are angles in degrees (see above and the [glossary](glossary.md)); a "
    "contrast below zero means that photos move away from their own class."
)
REHEARSAL = "This run is a rehearsal: its weights are random, and it has no findings."


def summary(results: Results) -> str:
    """Markdown: what the words of certainty mean, and one bullet a finding, those whose tables the run has.

    Args:
        results: of the run.
    """
    if results.record.get("rehearsal"):
        return REHEARSAL
    bullets = [text for make in _BULLETS if (text := _made(make, results))]
    if not bullets:
        return "This run has no results yet: run its notebooks first."
    return f"{SCALE}\n\n" + "\n".join(f"- {b}" for b in bullets)


def _made(make: Callable[[Results], str], results: Results) -> str:
    try:
        return make(results)
    except KeyError:  # a table or a column is missing
        return ""


# ------------------------------------------------------------------------------- the bullets


def _certificate(results: Results) -> str:
    table = results.filled("certificates")
    flips, photos = int(table["top-1 changes"].sum()), int(table["photos"].sum())
    return (
        f"**The logits stay.** Without its null component, {flips or 'none'} of {photos} features changed "
        "its top "
        "class; what moved was within rounding. [Setup](../notebooks/00_setup.ipynb)"
    )


def _energy(results: Results) -> str:
    own = results.filled("null_energy").groupby("classifier")["share"].mean()
    chance = results.filled("random_energy").groupby("classifier")["share"].mean()
    size = (
        "less than"
        if (own < chance).all()
        else "more than"
        if (own > chance).all()
        else "not always less than"
    )
    return (
        f"**How much is invisible.** {_span(own, '.0f')} % of a feature's energy lies in the null space, "
        f"{size} in "
        f"random subspaces of its dimension ({_span(chance, '.0f')} %). [Setup](../notebooks/00_setup.ipynb)"
    )


def _translators(results: Results) -> str:
    fits = results.filled("translator_fits")
    explained = _span(100 * fits[fits["method"] == "ridge"]["R²"], ".0f")
    text = f"**What can be read.** The translators explain {explained} % of the embeddings' variance"
    control = results.get("translator_control")
    if control is None:
        return text + ". [Translators](../notebooks/01_translators.ipynb)"
    null, agree = control["R², null part alone"], control["all photos: correlation of AS"]
    trust = (
        "can" if (agree >= RELIABLE).all() else "cannot" if not (agree >= RELIABLE).any() else "cannot always"
    )
    return (
        f"{text} on photos that they never saw, from the null part alone {_span(100 * null, '.0f')} %. "
        "Fitted on "
        f"other photos, they would agree on a photo's AS with a correlation of about "
        f"{_span(agree, '.2f')}: the AS of "
        f"a single photo {trust} be relied on. [Comparing models](../notebooks/02_model_comparison.ipynb)"
    )


def _leaks(results: Results) -> str:
    spreads = results.filled("spreads").set_index("classifier")["mean contrast (°)"]
    table = results.filled("translator_control").assign(contrast=lambda t: t["classifier"].map(spreads))
    if table["contrast"].isna().any():
        raise KeyError("contrast")
    words = {"yes": table["contrast"] < 0, "the opposite": table["contrast"] > 0}
    said = _sorted(table.assign(q=table["q of contrast"]), words)
    return (
        f"**Does the null component speak for the class?** The mean contrasts are {_span(spreads, '+.2f')}°. "
        "Set beside the error that translators make by themselves, the answer: "
        f"{said}. [Comparing models](../notebooks/02_model_comparison.ipynb)"
    )


def _special(results: Results) -> str:
    table = results.filled("subspace_control").dropna(subset="q")
    parts = []
    for kind in SUBSPACES:
        own = table[table["kind"] == kind]
        turned, held = own[own["statistic"] == "IS"], own[own["statistic"] == "contrast"]
        if turned.empty or held.empty:
            raise KeyError("q")
        beyond, above = turned["null space"] > turned["chance"], held["null space"] > held["chance"]
        far, much = {"farther": beyond, "less far": ~beyond}, {"less": above, "more": ~above}
        parts.append(
            f"Removing it, against removing random subspaces of the {kind}: does a photo turn farther or "
            "less far? "
            f"{_start(_sorted(turned, far))}. Does it take more or less of the class (contrast)? "
            f"{_start(_sorted(held, much))}."
        )
    where = "[Comparing models](../notebooks/02_model_comparison.ipynb)"
    return f"**Is the null space special?** {' '.join(parts)} {where}"


def _start(text: str) -> str:
    return f"{text[0].upper()}{text[1:]}"


def _sorted(own: pd.DataFrame, directions: dict[str, pd.Series]) -> str:
    """Each classifier in words: clearly or probably more or less, or cannot be told."""
    said: dict[str, list[str]] = {}
    for i, row in own.iterrows():
        way = next((name for name, holds in directions.items() if holds.loc[i]), "as much")
        word = (
            f"clearly {way}"
            if row["q"] < CERTAIN
            else f"probably {way}"
            if row["q"] < LIKELY
            else "cannot be told"
        )
        said.setdefault(word, []).append(str(row["classifier"]))
    every = len(own) if len(own) > 1 else 0
    return ", ".join(f"{word} for {'all' if len(n) == every else _and(n)}" for word, n in said.items())


def _compared(results: Results) -> str:
    table = results.filled("classifier_differences")
    parts = []
    for statistic, own in table.groupby("statistic", sort=False):
        photo = (own["low"] > 0) | (own["high"] < 0)
        known = "low by class" in own
        by = (own["low by class"] > 0) | (own["high by class"] < 0) if known else photo & False
        clear, likely = int((photo & by).sum()), int((photo & ~by).sum())
        what = "IS/AS ratio" if "log" in str(statistic) else str(statistic).replace(" (°)", "")
        parts.append(f"in {what} clearly {clear}, probably {likely}")
    pairs = len(table[["first", "second"]].drop_duplicates())
    return (
        f"**Do the classifiers differ?** Of {pairs} pair(s), given their translators, {'; '.join(parts)}; "
        "for the "
        "rest it cannot be told. [Comparing models](../notebooks/02_model_comparison.ipynb)"
    )


def _classes(results: Results) -> str:
    table = results.filled("class_scores").dropna(subset="q")
    if table.empty:
        raise KeyError("q")
    clear, likely = table[table["q"] < CERTAIN], table[(table["q"] >= CERTAIN) & (table["q"] < LIKELY)]

    def count(rows: pd.DataFrame, sign: int) -> int:
        return int((sign * rows["contrast"] > 0).sum())

    return (
        f"**Which classes leak?** Of {len(table)} pairs of classifier and class, {count(clear, -1)} "
        "clearly leak and "
        f"{count(likely, -1)} probably; {count(clear, 1)} clearly come nearer to their own name and "
        f"{count(likely, 1)} probably; for the rest it cannot be told. "
        "[Classes and concepts](../notebooks/03_class_analysis.ipynb)"
    )


def _steering(results: Results) -> str:
    table = results.filled("steering")
    wide = table.pivot(index="classifier", columns="direction", values="AS mean").dropna()
    if wide.empty:
        raise KeyError("steps")
    text = (
        f"**Can the null space be steered?** At IS = {table['IS'].iloc[0]:g}° a directed step brings a photo "
        f"{_span(wide['toward the text'], '.1f')}° nearer to “{table['target'].iloc[0]}”, a random null step "
        f"moves it by {_span(wide['random'], '+.1f')}°."
    )
    control = results.get("steering_subspace_control")
    known = None if control is None else control.dropna(subset="q")
    if known is not None and len(known):
        said = []
        for kind, own in known.groupby("kind", sort=False):
            more, less = own["null space"] > own["chance"], own["null space"] < own["chance"]
            words = _sorted(own, {"farther": more, "less far": less})
            said.append(f"of the {kind} {_span(own['chance'], '.1f')}° (the null space {words})")
        text += f" Directed steps in random subspaces reach, {'; '.join(said)}."
    return f"{text} [Steering](../notebooks/04_steering.ipynb)"


def _planted(results: Results) -> str:
    table = results.filled("planted_agreement")
    own = table[(table["factor"] == "all") & (table["statistic"] == "ROC area")].set_index("score")
    size, contrast = own.loc["|AS|"], own.loc["contrast"]

    def area(row: pd.Series) -> str:
        return f"{row['value']:.2f} ({row['low']:.2f} to {row['high']:.2f})"

    verdict = (
        "so |AS| alone should not be relied on"
        if size["high"] < contrast["low"]
        else "which does not speak against |AS|"
    )
    return (
        "**Do the scores find what is there?** In a world where it was planted, |AS| tells ignored factors "
        "from seen "
        f"ones with a ROC area of {area(size)}, contrast with {area(contrast)}, where 0.5 is guessing; "
        f"{verdict}. "
        "[A planted world](../notebooks/06_planted.ipynb)"
    )


def _claims(results: Results) -> str:
    table = results.filled("reproduction")
    counts = table["verdict"].value_counts()
    words = {"agrees": "agree", "differs": "differ"}
    parts = [
        f"{counts[v]} {words.get(v, v)}"
        for v in ("agrees", "differs", "undecided", "not comparable", "not run")
        if v in counts
    ]
    return (
        f"**And the paper?** Of its {len(table)} claims, figures and tables: {', '.join(parts)}. "
        "[Paper, ours, agrees?](reproduction.md)"
    )


_BULLETS: tuple[Callable[[Results], str], ...] = (
    *(
        _certificate,
        _energy,
        _translators,
        _leaks,
        _special,
        _compared,
        _classes,
        _steering,
        _planted,
        _claims,
    ),
)


# --------------------------------------------------------------------------------- in words


def _span(values: Iterable[float], number: str) -> str:
    """The least and the largest, as one number where they read the same."""
    x = np.asarray(list(values), dtype=float)
    low, high = (_number(v, number) for v in (x.min(), x.max()))
    return low if low == high else f"{low} to {high}"


def _number(x: float, number: str) -> str:
    text = f"{x:{number}}"
    return text.lstrip("+-") if not float(text) else text.replace("-", "−")


def _and(names: list[str]) -> str:
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"
