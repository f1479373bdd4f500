"""Tables of the planted world: what is planted beside what the scores find, over several worlds.

Each statistic is computed in every world by itself; intervals are over worlds (Student's t).
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from scipy import stats

from sing_utils import planted, planted_models
from sing_utils.errors import SingError
from sing_utils.intervals import student_margin
from sing_utils.planted import FACTORS, HEADS, WORDINGS
from sing_utils.planted_heads import Planted
from sing_utils.planted_scores import World, build_world, fit_translator, measure
from sing_utils.run import Run

SHARES = (0.0, 0.25, 0.5, 0.75, 1.0)
MOST_SHAPE = 0.75  # a head that ignores all of the shape would name nothing
SCORES = ("|AS|", "AS", "contrast")
# Which way a score goes where a factor is ignored: |AS| grows, the two others fall.
DIRECTION = {"|AS|": 1.0, "AS": -1.0, "contrast": -1.0}
STEPS = (0.0, 0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0)
# How many of the eight factors a head ignores, and which share of each.
REGIMES = {"1 of 8": (1, 1.0), "2 of 8": (2, 1.0), "4 of 8": (4, 1.0), "4 of 8, a fifth each": (4, 0.2)}
RANDOM = "random shares"  # a further regime: `random_heads`
_ENCODERS = ("planted", "planted:weak")


def worlds_of(run: Run) -> list[World]:
    """The planted worlds of a run; what their networks see of the scenes is kept there."""
    p = run.profile
    return build_worlds(
        p.planted_worlds, scenes=p.planted_scenes, seed=p.seed, folder=run.artifact("worlds/0").parent
    )


def build_worlds(count: int, *, scenes: int, seed: int = 0, folder: Path | None = None) -> list[World]:
    """Worlds with seeds of their own, each with both encoders, a sixth as many scenes to evaluate.

    Args:
        count: of the worlds.
        scenes: of each, to fit on.
        seed: of the first.
        folder: keeps what their networks see, by a key of what it depends on; None: nothing is kept.

    Raises:
        SingError: for fewer than 2 worlds: nothing could be said about the spread.
    """
    if count < 2:
        raise SingError(f"{count} world(s) have no spread, expected at least 2: raise planted_worlds.")
    files = [*planted_models.WEIGHTS.glob("*.safetensors"), Path(planted.__file__)]
    key = hashlib.sha256(b"".join(f.read_bytes() for f in [*sorted(files), Path(planted_models.__file__)]))
    return [
        build_world(
            seed + i,
            scenes=scenes,
            evaluation=scenes // 6,
            encoders=_ENCODERS,
            kept=folder and folder / f"{seed + i}-{scenes}-{key.hexdigest()[:12]}.safetensors",
        )
        for i in range(count)
    ]


def over_worlds(
    values: Iterable[float], *, level: float = 0.95, bounds: tuple[float, float] = (-np.inf, np.inf)
) -> dict[str, float]:
    """Mean over worlds with its t interval, cut at `bounds`; and how many worlds have a value."""
    x = np.asarray([v for v in values if np.isfinite(v)], dtype=float)
    mean = float(x.mean()) if len(x) else float("nan")
    half = float("nan")
    if len(x) > 1:
        half = float(student_margin(x.std(ddof=1), len(x), level=level))
    low, high = np.clip([mean - half, mean + half], *bounds)
    return {"value": mean, "low": float(low), "high": float(high), "worlds": len(x)}


def means(
    table: pd.DataFrame, keys: Sequence[str], column: str, *, level: float, bounds: Any = (-np.inf, np.inf)
) -> pd.DataFrame:
    """One row a combination of `keys`: a column's mean over worlds, as `over_worlds` has it."""
    return pd.DataFrame(
        [
            {**dict(zip(keys, at, strict=True)), **over_worlds(own[column], level=level, bounds=bounds)}
            for at, own in table.groupby(list(keys), sort=False)
        ]
    )


# -------------------------------------------------------------------------------- the heads


def survey(
    worlds: Sequence[World],
    heads: Callable[[World], Iterable[Planted]],
    *,
    wording: str = WORDINGS[0],
    **fitting: Any,
) -> pd.DataFrame:
    """Measure some heads of every world: one row a world, head and factor.

    Args:
        worlds: each with heads of its own.
        heads: the heads of a world.
        wording: of the prompts.
        fitting: options of `fit_translator` (rows, without_null, ridge, encoder).
    """
    options = {"encoder": fitting.get("encoder", "planted"), "wording": wording}
    return pd.concat(
        [measure(w, h, fit_translator(w, h, **fitting), **options) for w in worlds for h in heads(w)],
        ignore_index=True,
    )


def named(world: World, **plant: Any) -> list[Planted]:
    """The heads that have a name, `HEADS`."""
    return [world.plant(name, **(options | plant)) for name, options in HEADS.items()]


def named_heads(worlds: Sequence[World], *, level: float) -> pd.DataFrame:
    """The four named heads: accuracy on evaluation scenes and null dimension, with intervals."""
    rows = [
        {"head": h.name, "accuracy": _accuracy(w, h), "null dimension": h.spaces().null_dim}
        for w in worlds
        for h in named(w)
    ]
    found = means(pd.DataFrame(rows), ["head", "null dimension"], "accuracy", level=level, bounds=(0.0, 1.0))
    return found.rename(columns={"value": "accuracy"})[["head", "accuracy", "low", "high", "null dimension"]]


def _accuracy(world: World, head: Planted) -> float:
    photos = world.photos(head)
    return float((head.logits(photos.f).argmax(1) == photos.own).double().mean())


# --------------------------------------------------------------------------------- recovery


def random_heads(world: World, *, count: int, **plant: Any) -> Iterable[Planted]:
    """Heads with a share drawn for each factor by itself; ends are twice as likely as what lies between."""
    rng, p = np.random.default_rng([world.seed, 1]), np.array([2, 1, 1, 1, 2]) / 7
    for i in range(count):
        shares = {f: float(rng.choice(SHARES, p=p)) for f in FACTORS}
        shares["shape"] = min(shares["shape"], MOST_SHAPE)
        yield world.plant(f"head {i}", ignored=shares, seed=1000 * world.seed + i, **plant)


def recovery(worlds: Sequence[World], *, heads: int = 24) -> pd.DataFrame:
    """Heads with random planted shares: one row a world, head and factor."""
    return survey(worlds, partial(random_heads, count=heads))


def regime_heads(world: World, *, regime: str, count: int = 16) -> Iterable[Planted]:
    """Heads that ignore the same share of some factors and nothing of the others, one of `REGIMES`."""
    number, share = REGIMES[regime]
    chosen = list(combinations(FACTORS, number))
    order = np.random.default_rng([world.seed, 2]).permutation(len(chosen))[:count]
    for i in order.tolist():
        head = f"{regime}: {', '.join(chosen[i])}"
        yield world.plant(head, ignored=dict.fromkeys(chosen[i], share), seed=1000 * world.seed + i)


def regimes(worlds: Sequence[World], found: pd.DataFrame, *, level: float) -> pd.DataFrame:
    """ROC area of each score by what the heads ignore: some factors, a fifth of some, or random shares.

    Args:
        worlds: each with heads of its own.
        found: `recovery` of the same worlds.
        level: of the intervals.

    Columns: regime, whole (is a factor ignored as a whole or not at all?), IS (median over heads, degrees),
    score, value, low, high, worlds.
    """
    surveys = {name: survey(worlds, partial(regime_heads, regime=name)) for name in REGIMES}
    rows = []
    for regime, table in (surveys | {RANDOM: found}).items():
        known = {"regime": regime, "whole": set(table["planted"]) == {0.0, 1.0}}
        known["IS"] = float(table.drop_duplicates(["seed", "head"])["IS"].median())
        least = min(MOST_SHAPE, table["planted"].max())
        for score in SCORES:
            areas = [roc_area(g, score, least=least) for _, g in table.groupby("seed")]
            rows.append(known | {"score": score} | over_worlds(areas, level=level, bounds=(0.0, 1.0)))
    return pd.DataFrame(rows)


def shown_regimes(table: pd.DataFrame) -> pd.DataFrame:
    """`regimes` as the chart of `agreement` takes them, each with its IS."""
    label = table["regime"] + table["IS"].map(" (IS {:.0f}°)".format)
    return table.assign(factor=label, statistic="ROC area")


def agreement(table: pd.DataFrame, *, level: float) -> pd.DataFrame:
    """How well each score recovers what is planted: rank correlation and ROC area, factor by factor.

    The ROC area asks whether a head ignores most of a factor (a share of 0.75 or more) or nothing of it;
    heads between are left out. 0.5 is chance, 1 is perfect. Also with all factors together ("all").
    """
    rows = []
    for factor in ("all", *FACTORS):
        own = table if factor == "all" else table[table["factor"] == factor]
        for score in SCORES:
            for name, statistic, lowest in (
                ("rank correlation", rank_correlation, -1.0),
                ("ROC area", roc_area, 0.0),
            ):
                found = [statistic(g, score) for _, g in own.groupby("seed")]
                known = {"factor": factor, "score": score, "statistic": name}
                rows.append(known | over_worlds(found, level=level, bounds=(lowest, 1.0)))
    return pd.DataFrame(rows)


def rank_correlation(table: pd.DataFrame, score: str) -> float:
    """Spearman's rho of the planted share and a score, turned so that 1 is perfect; no unit."""
    if table["planted"].nunique() < 2 or table[score].nunique() < 2:
        return float("nan")
    return float(DIRECTION[score] * stats.spearmanr(table["planted"], table[score])[0])


def roc_area(table: pd.DataFrame, score: str, *, least: float = MOST_SHAPE) -> float:
    """Area under the ROC curve of "at least this share of the factor is ignored" by a score; no unit."""
    turned, ignored = DIRECTION[score] * table[score], table["planted"] >= least
    seen = table["planted"] == 0
    if not seen.any() or not ignored.any():
        return float("nan")
    above = stats.mannwhitneyu(turned[ignored], turned[seen]).statistic
    return float(above / (ignored.sum() * seen.sum()))


# ------------------------------------------------------------------------------ calibration


def calibration(worlds: Sequence[World], *, shares: Sequence[float] = STEPS) -> pd.DataFrame:
    """Scores along the planted share of one factor, all else visible, and all else ignored.

    One row a world, factor, share and setting; settings are "others seen" and "others ignored". The shape
    goes up to 0.9 and is always seen where it is one of the others.
    """
    frames = []
    for world in worlds:
        for factor in FACTORS:
            others = [f for f in FACTORS if f not in (factor, "shape")]
            for setting, base in (("others seen", {}), ("others ignored", dict.fromkeys(others, 1.0))):
                for share in shares:
                    if factor == "shape" and share > 0.9:
                        continue
                    own = measure(world, world.plant("calibration", ignored={**base, factor: share}))
                    own.insert(0, "setting", setting)
                    frames.append(own[own["factor"] == factor])
    return pd.concat(frames, ignore_index=True)


def calibration_means(table: pd.DataFrame, *, level: float) -> pd.DataFrame:
    """Mean over worlds with its interval: one row a factor, setting, share and score, degrees."""
    keys = ["factor", "setting", "planted"]
    long = table.melt([*keys, "seed"], list(SCORES), var_name="score", value_name="degrees")
    return means(long, [*keys, "score"], "degrees", level=level)


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
            over, shares = wide.mean().to_numpy(), wide.columns.to_numpy()
            onward = DIRECTION[score] * np.diff(wide.to_numpy(), axis=1) > 0
            rows.append(
                {
                    "factor": factor,
                    "setting": setting,
                    "score": score,
                    "monotone": float(onward.mean()),
                    "linear": float(stats.pearsonr(shares, over)[0] ** 2),
                    "nothing of it": float(over[0]),
                    "all of it": float(over[-1]),
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
            known = {"factor": factor, "score": score, "zero": DIRECTION[score] * zero}
            rows.append(known | shown | {"detectable from": first})
    return pd.DataFrame(rows)


def mean_features(run: Run, worlds: Sequence[World]) -> pd.DataFrame:
    """Share of the mean feature's energy in the null space: planted heads of one world, the run's own."""
    features = {f"planted: {h.name}": (h.spaces(), worlds[0].photos(h, "fit").f) for h in named(worlds[0])}
    features |= {n: (run.spaces(n), run.photos(n, "fit").f.double()) for n in run.classifiers}
    shares = {name: float(spaces.null_energy(f.mean(0))) for name, (spaces, f) in features.items()}
    return pd.DataFrame({"head": shares.keys(), "share of the mean feature ignored": shares.values()})
