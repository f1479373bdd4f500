"""What is left of the paper's claims under each control, in words made from a run's tables.

Each row is one claim under one control: what this run's photographs say, and what the planted world of
notebook 06 says, where the answer is known. A table that the run does not have (a control that is turned
off) leaves its words empty.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import pandas as pd

from sing_utils.controls import SOFTMAX, SUBSPACES
from sing_utils.findings import SIGNIFICANCE
from sing_utils.results import Results
from sing_utils.shown_controls import signed

COLUMNS = ["claim", "where", "control", "embedded", "planted"]
LEAKS = "A larger |AS| toward the own class means that more of the class lies in the null space."
ORDER = "Models can be ordered by how much of the class leaks."
CLASSES = "Which classes leak depends on the model, not on the class."
MEANING = "Removing the null component changes what the feature means."
STEERING = "Steering inside the null space shows a particular vulnerability."


@dataclass(frozen=True)
class _Row:
    """One claim under one control: which function makes the words of the run and of the planted world."""

    claim: str
    where: str
    control: str
    ours: Callable[[Results], str]
    planted: Callable[[Results], str] | None = None


def claims_under_controls(results: Results) -> pd.DataFrame:
    """Words for each claim and control: claim, where, control, embedded (this run's photographs), planted.

    Args:
        results: of the run.
    """
    rows = []
    for row in ROWS:
        words = {"embedded": _said(row.ours, results), "planted": _said(row.planted, results)}
        rows.append({"claim": row.claim, "where": row.where, "control": row.control, **words})
    return pd.DataFrame(rows, columns=COLUMNS)


def _said(words: Callable[[Results], str] | None, results: Results) -> str:
    if words is None:
        return ""
    try:
        return words(results)
    except KeyError:  # a table or a column is missing
        return ""


# -------------------------------------------------------------------------- what leaks


def _contrasts(results: Results) -> str:
    spreads = results.filled("spreads").set_index("classifier")["mean contrast (°)"]
    parts, leak = [], 0
    for r in results.filled("translator_control").to_dict("records"):
        own = spreads[r["classifier"]]
        leak += int(r["q of contrast"] < SIGNIFICANCE and own < 0)
        parts.append(
            f"{r['classifier']} {signed(own)} ± {r['blind: sd of contrast (°)']:.2f}° "
            f"(corrected p = {r['q of contrast']:.3f})"
        )
    return (
        f"{leak} of {len(parts)} classifiers leak: mean contrast ± the error that a translator makes by "
        f"itself, {'; '.join(parts)}."
    )


def _planted_contrasts(results: Results) -> str:
    table = results.filled("planted_conclusions")
    own = table[table["condition"] == "as it should be"].set_index("short")
    return (
        "The head that leaks has the larger |AS| in "
        f"{_of(own.loc['leaky by |AS|'])} worlds, and the lower contrast in "
        f"{_of(own.loc['leaky by contrast'])}."
    )


def _of(row: pd.Series) -> str:
    return f"{int(row['worlds'])} of {int(row['of'])}"


def _subspaces(kind: str, statistics: tuple[str, ...]) -> Callable[[Results], str]:
    def words(results: Results) -> str:
        control = results.filled("subspace_control")
        own = control[control["kind"] == kind]
        return " ".join(_placed(own[own["statistic"] == s], s) for s in statistics)

    return words


def _placed(own: pd.DataFrame, statistic: str) -> str:
    apart = own[own["q"] < SIGNIFICANCE]
    higher = int((apart["null space"] > apart["chance"]).sum())
    places = ", ".join(f"{p:.0f}" for p in own["percentile"])
    return (
        f"{statistic}: above them for {higher} of {len(own)} classifiers, below for {len(apart) - higher}, "
        "not told "
        f"from them for {len(own) - len(apart)} (percentiles {places})."
    )


def _planted_subspaces(kind: str) -> Callable[[Results], str]:
    def words(results: Results) -> str:
        table = results.filled("planted_controls")
        own = table[(table["control"] == kind) & (table["score"] != "IS")]
        parts = []
        for score, rows in own.groupby("score", sort=False):
            places = rows.groupby("head")["percentile"].median()
            parts.append(
                f"{score} at percentile {places['clean']:.0f} (clean), {places['leaky']:.0f} (leaky head)"
            )
        return "; ".join(parts) + ". Right is a higher contrast, or a lower |AS|, of the clean head."

    return words


def _shuffled(results: Results) -> str:
    table = results.filled("translator_control")
    spreads = results.filled("spreads").set_index("classifier")["median |AS| (°)"]
    parts = [
        f"{r['classifier']} {r['shuffled: median |AS| (°)']:.2f}° against {spreads[r['classifier']]:.2f}°"
        for r in table.to_dict("records")
    ]
    return f"Translators fitted on shuffled photos find a median |AS| of {'; '.join(parts)} by the true one."


def _planted_shuffled(results: Results) -> str:
    table = results.filled("planted_controls")
    own = table[(table["control"] == "shuffled translator") & (table["head"] == "leaky")]
    outside = int(((own["percentile"] == 0) | (own["percentile"] == 100)).sum())
    return f"The leaky head's contrast lies outside all shuffled ones in {outside} of {len(own)} worlds."


def _names(results: Results) -> str:
    table = results.filled("prompt_control")
    clear = int((table["p of the names"] < SIGNIFICANCE).sum())
    parts = [f"{r['classifier']} p = {r['p of the names']:.3f}" for r in table.to_dict("records")]
    return (
        f"AS toward the own names differs from AS toward exchanged names for {clear} of {len(table)} "
        "classifiers "
        f"({', '.join(parts)}; not corrected)."
    )


# --------------------------------------------------------------------------------- the order


def _order_by_wording(results: Results) -> str:
    every = results.filled("wordings")
    every = every[every["class"] == "all"]
    wide = every.pivot(index="wording", columns="classifier", values="median |AS| (°)")
    first = every["wording"].iloc[0]
    return _orders(wide, first, "wordings")


def _order_by_encoder(results: Results) -> str:
    table = results.filled("encoder_control")
    # The classifiers are not read by the same parts of an encoder, so their places are compared.
    table = table.assign(place=table.groupby("classifier").cumcount().astype(str))
    wide = table.pivot(index="place", columns="classifier", values="median |AS| (°)").dropna()
    return _orders(wide, "0", "encoders or parts of one")


def _orders(wide: pd.DataFrame, first: str, what: str) -> str:
    if wide.shape[1] < 2 or len(wide) < 2:
        return f"Nothing to compare: there are {wide.shape[1]} classifier(s) and {len(wide)} {what}."
    order = wide.rank(axis=1)
    same = int((order == order.loc[first]).all(axis=1).sum())
    return f"The order by median |AS| is that of the first in {same - 1} of {len(wide) - 1} other {what}."


def _order_by_chance(results: Results) -> str:
    return _survive(results, "low", "high")


def _order_by_class(results: Results) -> str:
    return _survive(results, "low by class", "high by class")


def _survive(results: Results, low: str, high: str) -> str:
    table = results.filled("classifier_differences")
    parts = []
    for statistic, own in table.groupby("statistic", sort=False):
        clear = int(((own[low] > 0) | (own[high] < 0)).sum())
        parts.append(
            f"{clear} of {len(own)} pairs of classifiers differ in {str(statistic).removesuffix(' (°)')}"
        )
    return "; ".join(parts) + "."


def _planted_condition(condition: str) -> Callable[[Results], str]:
    def words(results: Results) -> str:
        table = results.filled("planted_conclusions")
        own = table[table["condition"].str.startswith(condition)]
        if own.empty:
            raise KeyError(condition)
        parts = []
        for short in ("leaky by |AS|", "leaky by contrast"):
            rows = own[own["short"] == short]
            parts.append(
                f"{int(rows['worlds'].sum())} of {int(rows['of'].sum())} times {short.removeprefix('leaky ')}"
            )
        return f"The leaky head is placed behind the clean one {' and '.join(parts)}."

    return words


def _ridge(results: Results) -> str:
    table = results.filled("ridge_sensitivity")
    wide = table.pivot(index="ridge, × chosen", columns="classifier", values="median |AS| (°)")
    wide.index = wide.index.map(str)
    return _orders(wide, "1.0", "ridges")


def _rank_rule(results: Results) -> str:
    table = results.filled("rank_control")
    wide = table.pivot(index="rule", columns="classifier", values="median |AS| (°)").dropna()
    return _orders(wide, table["rule"].iloc[0], "rules of rank")


# ------------------------------------------------------------------------------- the classes


def _between_models(results: Results) -> str:
    table = results.filled("rank_correlations")
    parts = [
        f"{r['a']} / {r['b']} {r['rho']:.2f} (corrected p = {r['q']:.2f})" for r in table.to_dict("records")
    ]
    return "Rank correlation of the classes' |AS|: " + "; ".join(parts) + "."


def _between_halves(results: Results) -> str:
    table = results.filled("translator_control")
    column = "all photos: rank correlation of classes"
    parts = [f"{r['classifier']} {r[column]:.2f}" for r in table.to_dict("records") if np.isfinite(r[column])]
    if not parts:
        raise KeyError(column)
    return (
        "One classifier read by two translators of other photos (extrapolated from halves): "
        f"{', '.join(parts)}. Two models can hardly be expected to agree more than that."
    )


def _by_test(results: Results) -> str:
    table = results.filled("class_scores").dropna(subset="q")
    sure = table[table["q"] < SIGNIFICANCE]
    leak = int((sure["contrast"] < 0).sum())
    return (
        f"Of {len(table)} pairs of classifier and class {leak} leak and {len(sure) - leak} come nearer to "
        "their own "
        f"name (contrast, corrected p below {SIGNIFICANCE})."
    )


def _planted_halves(results: Results) -> str:
    table = results.filled("planted_controls")
    own = table[table["control"] == "halves"]["value"]
    return f"A scene's AS correlates {own.min():.2f} to {own.max():.2f} between such translators."


# ------------------------------------------------------------------------------- the meaning


def _knowledge(results: Results) -> str:
    table = results.filled("translator_control")
    parts = [f"{r['classifier']} {r['R², null part alone']:.2f}" for r in table.to_dict("records")]
    return f"R² of photos never seen, from the null part alone: {', '.join(parts)}."


def _planted_knowledge(results: Results) -> str:
    table = results.filled("planted_controls")
    own = table[table["control"] == "translator"].groupby("head")["value"].mean()
    return f"R² from the null part alone {own['clean']:.2f} (clean), {own['leaky']:.2f} (leaky head)."


def _softmax(results: Results) -> str:
    table = results.filled("rank_control")
    book = table.groupby("classifier", sort=False).first()
    parts = []
    for r in table[table["rule"] == SOFTMAX].to_dict("records"):
        before = book.loc[r["classifier"], "median IS (°)"]
        parts.append(f"{r['classifier']} {before:.1f}° without and {r['median IS (°)']:.1f}° with it")
    if not parts:
        raise KeyError("softmax")
    return f"Median IS where the direction that softmax ignores is counted as null: {'; '.join(parts)}."


# ------------------------------------------------------------------------------- the steering


def _random_steps(results: Results) -> str:
    table = results.filled("steering")
    wide = table.pivot(index="classifier", columns="direction", values="AS mean")
    parts = [
        f"{n}: {r['toward the text']:.1f}° against {signed(r['random'], 1)}°" for n, r in wide.iterrows()
    ]
    return f"AS of directed against random null steps of the same IS: {'; '.join(parts)}."


def _planted_steps(results: Results) -> str:
    table = results.filled("planted_steering")
    own = table[table["direction"] != "random"]
    ignored, seen = own[own["planted"] >= 0.5]["reached"], own[own["planted"] < 0.5]["reached"]
    chance = table[table["direction"] == "random"]["reached"].mean()
    return (
        f"Directed steps reach what they aim at in {_percent(ignored.mean())} of scenes where half of the "
        "factor or "
        f"more is ignored, {_percent(seen.mean())} where less is, random ones in {_percent(chance)}."
    )


def _percent(share: float) -> str:
    return f"{100 * share:.0f} %"


def _other_subspaces(results: Results) -> str:
    table = results.filled("steering_subspace_control").dropna(subset="percentile")
    if table.empty:
        raise KeyError("percentile")
    parts = []
    for kind, own in table.groupby("kind", sort=False):
        below = int((own["null space"] < own["chance"]).sum())
        places = ", ".join(f"{p:.0f}" for p in own["percentile"])
        parts.append(
            f"{kind}: for {below} of {len(own)} classifiers less than the median one (percentiles {places})"
        )
    return (
        "Directed steps in the null space against those in random subspaces of the " + "; ".join(parts) + "."
    )


def _target_words(results: Results) -> str:
    table = results.filled("steered_wordings")
    own = table.groupby("classifier", sort=False)["AS"].agg(["first", "min", "max"])
    parts = [
        f"{n} {r['min']:.1f} to {r['max']:.1f}°, {r['first']:.1f}° by the first" for n, r in own.iterrows()
    ]
    return f"AS of the same steps over wordings of the target: {'; '.join(parts)}."


ROWS = (
    _Row(LEAKS, "Sections 3.4, 3.5", "A score with a sign: contrast", _contrasts, _planted_contrasts),
    *(
        _Row(
            LEAKS,
            "Sections 3.4, 3.5",
            f"Random subspaces of the {kind}",
            _subspaces(kind, ("|AS|", "contrast")),
            _planted_subspaces(kind),
        )
        for kind in SUBSPACES
    ),
    _Row(LEAKS, "Sections 3.4, 3.5", "Shuffled translators", _shuffled, _planted_shuffled),
    _Row(LEAKS, "Sections 3.4, 3.5", "The names of other classes", _names),
    _Row(ORDER, "Section 4.2, Figure 3", "Other photos of the same classes", _order_by_chance),
    _Row(ORDER, "Section 4.2, Figure 3", "Other classes", _order_by_class),
    _Row(
        ORDER,
        "Section 4.2, Figure 3",
        "Other wordings of the prompt",
        _order_by_wording,
        _planted_condition("reworded"),
    ),
    _Row(
        ORDER,
        "Section 4.2, Figure 3",
        "Other encoders",
        _order_by_encoder,
        _planted_condition("weak encoder"),
    ),
    _Row(ORDER, "Section 4.2, Figure 3", "Other ridges", _ridge, _planted_condition("ridge")),
    _Row(
        ORDER,
        "Section 4.2, Figure 3",
        "Other rules of rank",
        _rank_rule,
        _planted_condition("null dimension"),
    ),
    _Row(CLASSES, "Section 4.3, Figure 4", "A test over classes", _between_models),
    _Row(
        CLASSES,
        "Section 4.3, Figure 4",
        "Another translator of the same model",
        _between_halves,
        _planted_halves,
    ),
    _Row(CLASSES, "Section 4.3, Figure 4", "A test of each class", _by_test),
    _Row(MEANING, "Section 3.4, Figure 1", "What the translator knows", _knowledge, _planted_knowledge),
    *(
        _Row(MEANING, "Section 3.4, Figure 1", f"Random subspaces of the {kind}", _subspaces(kind, ("IS",)))
        for kind in SUBSPACES
    ),
    _Row(MEANING, "Section 3.4, Figure 1", "What softmax ignores", _softmax),
    _Row(STEERING, "Section 4.4, Table 1", "Random null directions", _random_steps, _planted_steps),
    _Row(STEERING, "Section 4.4, Table 1", "Directed steps in random subspaces", _other_subspaces),
    _Row(STEERING, "Section 4.4, Table 1", "Other wordings of the target", _target_words),
)
