"""Tables of the planted validation: what is planted beside what the scores find, over several worlds.

Each statistic is computed in every world by itself; intervals are over worlds (Student's t).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
from pandas.io.formats.style import Styler
from scipy import stats

from sing_utils.errors import SingError
from sing_utils.intervals import student_margin
from sing_utils.planted import FACTORS, HEADS, WORDINGS, phrase
from sing_utils.planted_heads import Planted
from sing_utils.planted_scores import World, build_world, fit_translator, measure
from sing_utils.run import Run

SHARES = (0.0, 0.25, 0.5, 0.75, 1.0)
MOST_SHAPE = 0.75  # a head that ignores all of the shape would name nothing
SCORES = ("|AS|", "AS", "contrast")
# Which way a score goes where a factor is ignored: |AS| grows, the two others fall.
DIRECTION = {"|AS|": 1.0, "AS": -1.0, "contrast": -1.0}
STEPS = (0.0, 0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0)


def build_worlds(count: int, *, scenes: int, seed: int = 0) -> list[World]:
    """Worlds with seeds of their own, each with both encoders, a sixth as many scenes to evaluate.

    Raises:
        SingError: for fewer than 2 worlds: nothing could be said about the spread.
    """
    if count < 2:
        raise SingError(f"{count} world(s) have no spread, expected at least 2: raise planted_worlds.")
    names = ("planted", "planted:weak")
    return [
        build_world(seed + i, scenes=scenes, evaluation=scenes // 6, encoders=names) for i in range(count)
    ]


def over_worlds(
    values: Sequence[float], *, level: float = 0.95, bounds: tuple[float, float] = (-np.inf, np.inf)
) -> dict[str, float]:
    """Mean over worlds with its t interval, cut at `bounds`; and how many worlds have a value."""
    x = np.asarray([v for v in values if np.isfinite(v)], dtype=float)
    mean = float(x.mean()) if len(x) else float("nan")
    half = float("nan")
    if len(x) > 1:
        half = float(student_margin(x.std(ddof=1), len(x), level=level))
    low, high = np.clip([mean - half, mean + half], *bounds)
    return {"value": mean, "low": float(low), "high": float(high), "worlds": len(x)}


# -------------------------------------------------------------------------------- the heads


def named_heads(worlds: Sequence[World], *, level: float) -> pd.DataFrame:
    """The four named heads: accuracy on evaluation scenes and null dimension, with intervals."""
    rows = []
    for name, options in HEADS.items():
        found = [_accuracy(w, w.plant(name, **options)) for w in worlds]
        interval = over_worlds(found, level=level, bounds=(0.0, 1.0))
        rows.append(
            {
                "head": name,
                "accuracy": interval["value"],
                "low": interval["low"],
                "high": interval["high"],
                "null dimension": _null_dim(worlds[0], name),
            }
        )
    return pd.DataFrame(rows)


def _accuracy(world: World, head: Planted) -> float:
    guess = head.logits(head.features(world.evaluation.h)).argmax(1).numpy()
    return float((guess == world.evaluation.levels[:, 0]).mean())


def _null_dim(world: World, name: str) -> int:
    return world.plant(name, **HEADS[name]).spaces().null_dim


def truth(worlds: Sequence[World]) -> pd.DataFrame:
    """Named heads x factors: the planted share, and what changing scenes shows; means over worlds."""
    frames = [measure(w, w.plant(name, **options)) for w in worlds for name, options in HEADS.items()]
    return pd.concat(frames, ignore_index=True)


# --------------------------------------------------------------------------------- recovery


def random_shares(rng: np.random.Generator) -> dict[str, float]:
    """Planted shares drawn for each factor by itself; ends are twice as likely as what lies between."""
    p = np.array([2, 1, 1, 1, 2]) / 7
    shares = {f: float(rng.choice(SHARES, p=p)) for f in FACTORS}
    shares["shape"] = min(shares["shape"], MOST_SHAPE)
    return shares


def recovery(
    worlds: Sequence[World], *, heads: int = 24, plant: dict[str, Any] | None = None, **options: Any
) -> pd.DataFrame:
    """Measure heads with random planted shares: one row a world, head and factor.

    Args:
        worlds: each with heads of its own.
        heads: a world.
        plant: further options of every head, such as m.
        options: of `fit_translator` (rows, without_null, ridge, encoder) and `measure` (wording).
    """
    wording = options.pop("wording", WORDINGS[0])
    encoder = options.get("encoder", "planted")
    frames = []
    for world in worlds:
        rng = np.random.default_rng([world.seed, 1])
        for i in range(heads):
            head = world.plant(
                f"head {i}", ignored=random_shares(rng), seed=1000 * world.seed + i, **(plant or {})
            )
            T = fit_translator(world, head, **options)
            frames.append(measure(world, head, T, encoder=encoder, wording=wording))
    return pd.concat(frames, ignore_index=True)


def agreement(table: pd.DataFrame, *, level: float) -> pd.DataFrame:
    """How well each score recovers what is planted: rank correlation and ROC area, factor by factor.

    The ROC area asks whether a head ignores most of a factor (a share of 0.75 or more) or nothing of it;
    heads between are left out. 0.5 is chance, 1 is perfect. Also with all factors together ("all").
    """
    rows = []
    for factor in ("all", *FACTORS):
        own = table if factor == "all" else table[table["factor"] == factor]
        for score in SCORES:
            by_world = [g for _, g in own.groupby("seed")]
            for name, statistic, lowest in (
                ("rank correlation", rank_correlation, -1.0),
                ("ROC area", roc_area, 0.0),
            ):
                found = [statistic(g, score) for g in by_world]
                rows.append(
                    {
                        "factor": factor,
                        "score": score,
                        "statistic": name,
                        **over_worlds(found, level=level, bounds=(lowest, 1.0)),
                    }
                )
    return pd.DataFrame(rows)


def rank_correlation(table: pd.DataFrame, score: str) -> float:
    """Spearman's rho of the planted share and a score, turned so that 1 is perfect; no unit."""
    if table["planted"].nunique() < 2 or table[score].nunique() < 2:
        return float("nan")
    return float(DIRECTION[score] * stats.spearmanr(table["planted"], table[score])[0])


def roc_area(table: pd.DataFrame, score: str) -> float:
    """Area under the ROC curve of "most of this factor is ignored" by a score; no unit."""
    ends = table[(table["planted"] == 0) | (table["planted"] >= MOST_SHAPE)]
    if (ends["planted"] == 0).nunique() < 2:
        return float("nan")
    turned = DIRECTION[score] * ends[score]
    ignored, seen = turned[ends["planted"] > 0], turned[ends["planted"] == 0]
    return float(stats.mannwhitneyu(ignored, seen).statistic / (len(ignored) * len(seen)))


# ------------------------------------------------------------------------------ calibration


def calibration(worlds: Sequence[World], *, shares: Sequence[float] = STEPS) -> pd.DataFrame:
    """Scores along the planted share of one factor, all else visible, and all else ignored.

    One row a world, factor, share and setting; settings are "others seen" and "others ignored". The shape
    goes up to 0.9 and is always seen where it is one of the others.
    """
    rows = []
    for world in worlds:
        for factor in FACTORS:
            others = [f for f in FACTORS if f not in (factor, "shape")]
            for setting, base in (("others seen", {}), ("others ignored", dict.fromkeys(others, 1.0))):
                for share in shares:
                    if factor == "shape" and share > 0.9:
                        continue
                    head = world.plant("calibration", ignored={**base, factor: share})
                    own = measure(world, head)
                    rows.append({"setting": setting, **own[own["factor"] == factor].iloc[0].to_dict()})
    return pd.DataFrame(rows)


def calibration_means(table: pd.DataFrame, *, level: float) -> pd.DataFrame:
    """Mean over worlds with its interval: one row a factor, setting, share and score, degrees."""
    keys = ["factor", "setting", "planted"]
    return pd.DataFrame(
        [
            {**dict(zip(keys, at, strict=True)), "score": score, **over_worlds(own[score], level=level)}
            for at, own in table.groupby(keys, sort=False)
            for score in SCORES
        ]
    )


def calibration_summary(table: pd.DataFrame) -> pd.DataFrame:
    """One row a factor, setting and score: is it monotone, and is it linear?

    Columns:

    - monotone: share of worlds and steps in which more planted gives a more extreme score.
    - linear: R^2 of a straight line through the means over worlds.
    - nothing of it, all of it: the mean score where the factor is ignored least and most, degrees.
    """
    rows = []
    for (factor, setting), own in table.groupby(["factor", "setting"], sort=False):
        for score in SCORES:
            wide = own.pivot(index="seed", columns="planted", values=score)  # (worlds, shares)
            means, shares = wide.mean().to_numpy(), wide.columns.to_numpy()
            onward = DIRECTION[score] * np.diff(wide.to_numpy(), axis=1) > 0
            rows.append(
                {
                    "factor": factor,
                    "setting": setting,
                    "score": score,
                    "monotone": float(onward.mean()),
                    "linear": float(stats.pearsonr(shares, means)[0] ** 2),
                    "nothing of it": float(means[0]),
                    "all of it": float(means[-1]),
                }
            )
    return pd.DataFrame(rows)


def detection(recovered: pd.DataFrame, *, power: float = 0.8) -> pd.DataFrame:
    """From which planted share on does a score stand out among heads that ignore nothing of the factor?

    Columns:

    - zero: what 95 % of the heads with share 0 stay below (|AS|) or above (the others), degrees.
    - 0.25, 0.5, 0.75, 1.0: share of the heads with that planted share whose score is beyond `zero`.
    - detectable from: smallest share from which on that is at least `power`; NaN: none.
    """
    rows = []
    for factor in FACTORS:
        own = recovered[recovered["factor"] == factor]
        for score in SCORES:
            turned = DIRECTION[score] * own[score]
            zero = float(np.quantile(turned[own["planted"] == 0], 0.95))
            beyond = (turned > zero).groupby(own["planted"]).mean().drop(0.0)
            enough = np.logical_and.accumulate((beyond >= power).to_numpy()[::-1])[::-1]
            first = float(beyond.index[enough][0]) if enough.any() else float("nan")
            shown = {f"{share:g}": float(beyond.get(share, np.nan)) for share in SHARES[1:]}
            rows.append(
                {
                    "factor": factor,
                    "score": score,
                    "zero": DIRECTION[score] * zero,
                    **shown,
                    "detectable from": first,
                }
            )
    return pd.DataFrame(rows)


# ------------------------------------------------------------------------------- validation


def validation(recovered: pd.DataFrame, calibrated: pd.DataFrame, worlds: Sequence[World]) -> pd.DataFrame:
    """Is the method and this code right, where the answer is known? One row a check, rules set beforehand.

    Columns: check, found, rule, passed.
    """
    moved, flips = [], 0
    for world in worlds:
        for name, options in HEADS.items():
            head = world.plant(name, **options)
            f = head.features(world.evaluation.h)
            proof = head.spaces().certificate(f, bias=head.bias)
            moved.append(proof.relative_change / proof.bound)
            flips += proof.top1_changes
    full = calibrated[calibrated["planted"] >= 0.9]
    by_world = [g for _, g in recovered.groupby("seed")]
    area = float(np.mean([roc_area(g, "contrast") for g in by_world]))
    rank = float(np.mean([rank_correlation(g, "contrast") for g in by_world]))
    close = float((recovered["planted"] - recovered["counterfactual"]).abs().median())
    ignored = float((full["contrast"] < 0).mean())
    held = float(recovered["cosine"].mean())
    rows = [
        (
            "The logits of equivalent pairs are equal",
            f"{max(moved):.2g} of the bound, {flips} top-1 changes",
            "within the bound, no change",
            max(moved) <= 1 and flips == 0,
        ),
        (
            "Changed scenes show the planted shares",
            f"median difference {close:.3f}",
            "at most 0.1",
            close <= 0.1,
        ),
        (
            "Ignored factors are told from seen ones",
            f"ROC area by contrast {area:.3f}",
            "at least 0.9",
            area >= 0.9,
        ),
        (
            "More ignored gives lower contrast",
            f"rank correlation, turned: {rank:.3f}",
            "at least 0.8",
            rank >= 0.8,
        ),
        (
            "An ignored level loses more than its alternatives (contrast below 0)",
            f"{100 * ignored:.0f} % of cases",
            "at least 90 %",
            ignored >= 0.9,
        ),
        (
            "The translator is faithful to scenes that it never saw",
            f"cosine {held:.3f}",
            "at least 0.7",
            held >= 0.7,
        ),
    ]
    return pd.DataFrame(rows, columns=["check", "found", "rule", "passed"])


def example_prompts() -> pd.DataFrame:
    """Factor, its levels, and the prompt of the first."""
    rows = [(f, ", ".join(v), phrase(f, v[0])) for f, v in FACTORS.items()]
    return pd.DataFrame(rows, columns=["factor", "levels", "prompt of the first level"])


def encoder_quality(card: dict[str, Any]) -> pd.DataFrame:
    """What training measured of both encoders, on scenes of other seeds: shares of hits."""
    both = {"encoder": card["planted"], "weak encoder": card["planted:weak"]}
    names = [k for k in card["planted"] if "top-1" in k or k.startswith("zero-shot")]
    order = sorted(names, key=lambda k: ("top-1" not in k, k))
    return pd.DataFrame([{"measure": k, **{e: values[k] for e, values in both.items()}} for k in order])


def shown_calibration(summary: pd.DataFrame) -> pd.DataFrame:
    """A row a factor: each score where nothing and where all of the factor is ignored, degrees."""
    own = summary[summary["score"] != "AS"]
    span = [
        f"{round(a, 1) + 0.0:.1f} → {round(b, 1) + 0.0:.1f}"
        for a, b in zip(own["nothing of it"], own["all of it"], strict=True)
    ]
    column = own["score"] + ", " + own["setting"] + " (°)"
    wide = own.assign(column=column, span=span).pivot(index="factor", columns="column", values="span")
    return wide.loc[summary["factor"].unique(), column.unique()].reset_index()


def shown_detection(detected: pd.DataFrame) -> pd.DataFrame:
    """The detection of |AS| and contrast under headings for people."""
    names = {"0.25": "¼ ignored", "0.5": "½ ignored", "0.75": "¾ ignored", "1": "all ignored"}
    own = detected[detected["score"] != "AS"]
    return own.rename(columns={"zero": "limit (°)", "detectable from": "stands out from share", **names})


def mean_features(run: Run, worlds: Sequence[World]) -> pd.DataFrame:
    """Share of the mean feature's energy in the null space: planted heads of one world, the run's own."""
    rows = []
    for name, options in HEADS.items():
        head = worlds[0].plant(name, **options)
        share = head.spaces().null_energy(head.features(worlds[0].fit.h).mean(0))
        rows.append({"head": f"planted: {name}", "share of the mean feature ignored": float(share)})
    for name in run.profile.classifiers:
        share = run.spaces(name).null_energy(run.photos(name, "fit").f.double().mean(0))
        rows.append({"head": name, "share of the mean feature ignored": float(share)})
    return pd.DataFrame(rows)


def words(table: pd.DataFrame) -> Styler:
    """A table of sentences for a notebook: its cells wrap on the book's page."""
    return table.style.hide(axis="index").set_table_attributes('class="sing-words"')
