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

from sing_utils.errors import SingError
from sing_utils.evidence.intervals import student_margin
from sing_utils.planted import networks as planted_models
from sing_utils.planted import scenes as planted
from sing_utils.planted import scores as planted_scores
from sing_utils.planted.heads import Planted, basis
from sing_utils.planted.scenes import BASES, BEYOND, FACTORS, GIVEN, HEADS, WORDINGS
from sing_utils.planted.scores import World, beyond, build_world, fit_translator, measure
from sing_utils.runs.run import Run

SHARES = (0.0, 0.25, 0.5, 0.75, 1.0)
MOST_SHAPE = 0.75  # a head that ignores all of the shape would name nothing
TRIED = tuple(b for b in BASES if b != "null part × 3")  # which the translator's fit undoes here
# Which way a score goes where a factor is ignored: |AS| grows, contrast falls.
DIRECTION = {"|AS|": 1.0, "contrast": -1.0}
SCORES = (*DIRECTION, *(f"{score} beyond" for score in DIRECTION))  # columns of `measure`
STEPS = (0.0, 0.05, 0.2, 0.5, 0.8, 1.0)
# How many of the eight factors a head ignores, and which share of each. The last turns the embedding about
# as little, beyond the logits, as the heads of real classifiers do.
REGIMES = {
    "1 of 8": (1, 1.0),
    "2 of 8": (2, 1.0),
    "4 of 8": (4, 1.0),
    "4 of 8, a fifth each": (4, 0.2),
    "4 of 8, a twentieth each": (4, 0.05),
    "1 of 8, a fiftieth": (1, 0.02),
}
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
    weights = sorted(planted_models.WEIGHTS.glob("*.safetensors"))
    files = [*weights, Path(planted.__file__), Path(planted_models.__file__)]
    key = hashlib.sha256(b"".join(f.read_bytes() for f in files)).hexdigest()[:12]
    sizes: dict[str, Any] = {"scenes": scenes, "evaluation": scenes // 6, "encoders": _ENCODERS}
    return [
        build_world(i, **sizes, kept=folder and folder / f"{i}-{scenes}-{key}.safetensors")
        for i in range(seed, seed + count)
    ]


def over_worlds(
    values: Iterable[float], *, level: float = 0.95, bounds: tuple[float, float] = (-np.inf, np.inf)
) -> dict[str, float]:
    """Mean over worlds with its t interval, cut at `bounds`; and how many worlds have a value."""
    x = pd.Series(values, dtype=float).replace([np.inf, -np.inf], np.nan)
    half = float(student_margin(x.std(), x.count(), level=level))
    low, high = np.clip([x.mean() - half, x.mean() + half], *bounds)
    return {"value": float(x.mean()), "low": float(low), "high": float(high), "worlds": int(x.count())}


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
    bases: Sequence[str] = (GIVEN,),
    wording: str = WORDINGS[0],
    encoder: str = "planted",
    rows: int | None = None,
    **fitting: Any,
) -> pd.DataFrame:
    """Measure some heads of every world: one row a world, head, basis and factor.

    Args:
        worlds: each with heads of its own.
        heads: the heads of a world.
        bases: in which each head is written, of `sing_utils.planted.scenes.BASES`. What is beyond the logits
            is the same in all of them, and found once.
        wording: of the prompts.
        encoder: whose embeddings are scored.
        rows: how many scenes to fit on; None: all.
        fitting: further options of `fit_translator` (without_null, ridge).
    """
    frames = []
    for world in worlds:
        for head in heads(world):
            pair = beyond(world, head, encoder=encoder, rows=rows)
            for name in bases:
                own = head.rewritten(basis(name, head, world.fit.h, seed=world.seed))
                T = fit_translator(world, own, encoder=encoder, rows=rows, **fitting)
                scores = measure(world, own, T, pair=pair, encoder=encoder, wording=wording)
                frames.append(scores.assign(basis=name))
    return pd.concat(frames, ignore_index=True)


def by_way(table: pd.DataFrame) -> pd.DataFrame:
    """A survey with a row for each way to measure a score: its columns are named in `DIRECTION`.

    Ways are null removal in each basis, and "beyond the logits", which is the same in all.
    """
    known = table.drop(columns=[c for c in table if c.endswith(" beyond")]).rename(columns={"basis": "way"})
    other = table[table["basis"] == table["basis"].iloc[0]].assign(way=BEYOND)
    for score in DIRECTION:
        other[score] = other[f"{score} beyond"]
    return pd.concat([known, other[known.columns]], ignore_index=True)


def named(world: World, **plant: Any) -> list[Planted]:
    """The heads that have a name, `HEADS`."""
    return [world.plant(name, **(options | plant)) for name, options in HEADS.items()]


def named_heads(worlds: Sequence[World], *, level: float) -> pd.DataFrame:
    """The four named heads: accuracy on evaluation scenes and null dimension, with intervals."""
    rows = []
    for world in worlds:
        for head in named(world):
            photos, null_dim = world.photos(head), head.spaces().null_dim
            hits = (head.logits(photos.f).argmax(1) == photos.own).double().mean()
            rows.append({"head": head.name, "accuracy": float(hits), "null dimension": null_dim})
    found = means(pd.DataFrame(rows), ["head", "null dimension"], "accuracy", level=level, bounds=(0.0, 1.0))
    return found.rename(columns={"value": "accuracy"})[["head", "accuracy", "low", "high", "null dimension"]]


def truth(worlds: Sequence[World]) -> pd.DataFrame:
    """The named heads: what is planted, and 1 - R²(code | logits) on scenes that nothing is fitted on."""
    return pd.DataFrame(
        [
            {"seed": w.seed, "head": h.name, "factor": f, "planted": h.ignored[f], "unread": share}
            for w in worlds
            for h in named(w)
            for f, share in planted_scores.truth(w, h).items()
        ]
    )


# --------------------------------------------------------------------------------- recovery


def random_heads(world: World, *, count: int, **plant: Any) -> Iterable[Planted]:
    """Heads with a share drawn for each factor by itself; ends are twice as likely as what lies between."""
    rng, p = np.random.default_rng([world.seed, 1]), np.array([2, 1, 1, 1, 2]) / 7
    for i in range(count):
        shares = {f: float(rng.choice(SHARES, p=p)) for f in FACTORS}
        shares["shape"] = min(shares["shape"], MOST_SHAPE)
        yield world.plant(f"head {i}", ignored=shares, seed=1000 * world.seed + i, **plant)


def recovery(worlds: Sequence[World], *, heads: int = 6, bases: Sequence[str] = TRIED) -> pd.DataFrame:
    """Heads with random planted shares: one row a world, head, basis and factor."""
    return survey(worlds, partial(random_heads, count=heads), bases=bases)


def regime_heads(world: World, *, regime: str, count: int = 5) -> Iterable[Planted]:
    """Heads that ignore the same share of some factors, drawn, and nothing of the others: of `REGIMES`."""
    number, share = REGIMES[regime]
    chosen = list(combinations(FACTORS, number))
    order = np.random.default_rng([world.seed, 2]).permutation(len(chosen))[:count]
    for i in order.tolist():
        head = f"{regime}: {', '.join(chosen[i])}"
        yield world.plant(head, ignored=dict.fromkeys(chosen[i], share), seed=1000 * world.seed + i)


def regimes(worlds: Sequence[World], found: pd.DataFrame, *, level: float) -> pd.DataFrame:
    """ROC area of each score, by what the heads ignore and by the way it is measured.

    Args:
        worlds: each with heads of its own.
        found: `recovery` of the same worlds.
        level: of the intervals.

    Columns: regime, IS (beyond the logits, median over heads, degrees), score, way (of `by_way`), value,
    low, high, worlds.
    """
    surveys = {name: survey(worlds, partial(regime_heads, regime=name), bases=TRIED) for name in REGIMES}
    rows = []
    for regime, table in (surveys | {RANDOM: found}).items():
        turned = float(table.drop_duplicates(["seed", "head"])["IS beyond"].median())
        least = min(MOST_SHAPE, table["planted"].max())
        for way, own in by_way(table).groupby("way", sort=False):
            for score in DIRECTION:
                areas = [roc_area(g, score, least=least) for _, g in own.groupby("seed")]
                known = {"regime": regime, "IS": turned, "score": score, "way": way}
                rows.append(known | over_worlds(areas, level=level, bounds=(0.0, 1.0)))
    return pd.DataFrame(rows)


def roc_area(table: pd.DataFrame, score: str, *, least: float = MOST_SHAPE) -> float:
    """Area under the ROC curve of "at least this share of the factor is ignored" by a score; no unit.

    Heads that ignore less than that, and more than nothing, are left out. 0.5 is chance, 1 is perfect.
    """
    turned, ignored = _turned(table, score), table["planted"] >= least
    seen = table["planted"] == 0
    if not seen.any() or not ignored.any():
        return float("nan")
    above = stats.mannwhitneyu(turned[ignored], turned[seen]).statistic
    return float(above / (ignored.sum() * seen.sum()))


def _turned(table: pd.DataFrame, score: str) -> pd.Series:
    """A score with the sign that makes more of it mean ignored."""
    return DIRECTION[score.removesuffix(" beyond")] * table[score]


# ------------------------------------------------------------------------------ calibration


def calibration(worlds: Sequence[World], *, shares: Sequence[float] = STEPS) -> pd.DataFrame:
    """Scores along the planted share of one factor, all else visible, and all else ignored.

    One row a world, factor, share, setting and basis. Settings are "seen", in all bases of `TRIED`, and
    "ignored", as laid out. The shape goes up to 0.8 and is always seen where it is one of the others.
    """

    def heads(world: World, factor: str, others: Sequence[str]) -> Iterable[Planted]:
        base = dict.fromkeys([f for f in others if f not in (factor, "shape")], 1.0)
        for share in shares:
            if factor != "shape" or share < 0.9:
                yield world.plant("calibration", ignored={**base, factor: share})

    frames = []
    for factor in FACTORS:
        for setting, others, bases in (("seen", (), TRIED), ("ignored", tuple(FACTORS), TRIED[:1])):
            own = survey(worlds, partial(heads, factor=factor, others=others), bases=bases)
            frames.append(own[own["factor"] == factor].assign(setting=setting))
    return pd.concat(frames, ignore_index=True)


def calibration_means(table: pd.DataFrame, *, level: float) -> pd.DataFrame:
    """Mean over factors and worlds: one row a setting, share, score and way, degrees."""
    keys = ["setting", "planted", "way"]
    whole = table[table["factor"] != "shape"]  # the others go from nothing to all
    over = by_way(whole).groupby([*keys, "seed"], sort=False)[list(DIRECTION)].mean().reset_index()
    long = over.melt([*keys, "seed"], list(DIRECTION), var_name="score", value_name="degrees")
    return means(long, [*keys, "score"], "degrees", level=level)


def calibration_summary(table: pd.DataFrame) -> pd.DataFrame:
    """One row a factor, setting, score and way: is it monotone, and is it linear?

    Columns:

    - monotone: share of worlds and steps in which more planted gives a more extreme score.
    - linear: R² of a straight line through the means over worlds.
    - nothing of it, a fifth, all of it: the mean score at these planted shares (all: the most), degrees.
    """
    rows = []
    for (factor, setting, way), own in by_way(table).groupby(["factor", "setting", "way"], sort=False):
        for score, direction in DIRECTION.items():
            wide = own.pivot(index="seed", columns="planted", values=score)  # (worlds, shares)
            over, shares = wide.mean(), wide.columns.to_numpy()
            known = {"factor": factor, "setting": setting, "score": score, "way": way}
            rises = direction * np.diff(wide.to_numpy(), axis=1) > 0
            ends = {"nothing of it": over.iloc[0], "a fifth": over.get(0.2), "all of it": over.iloc[-1]}
            fit = {"monotone": rises.mean(), "linear": stats.pearsonr(shares, over)[0] ** 2}
            rows.append(known | fit | ends)
    return pd.DataFrame(rows)


def detection(recovered: pd.DataFrame, *, power: float = 0.8) -> pd.DataFrame:
    """From which planted share on does a score stand out among heads that ignore nothing of the factor?

    Columns:

    - zero: what |AS|, or minus the contrast, stays below in 95 % of the heads with share 0, degrees.
    - 0.25, 0.5, 0.75, 1.0: share of the heads with that planted share whose score is beyond `zero`.
    - detectable from: smallest share from which on that is at least `power`; NaN: none.
    """
    rows = []
    for factor in FACTORS:
        own = recovered[recovered["factor"] == factor]
        for score in SCORES:
            turned = _turned(own, score)
            zero = float(np.quantile(turned[own["planted"] == 0], 0.95))
            beyond = (turned > zero).groupby(own["planted"]).mean().drop(0.0)
            enough = np.logical_and.accumulate((beyond >= power).to_numpy()[::-1])[::-1]
            first = float(beyond.index[enough][0]) if enough.any() else float("nan")
            shown = {f"{share:g}": float(beyond.get(share, np.nan)) for share in SHARES[1:]}
            known = {"factor": factor, "score": score, "zero": zero}
            rows.append(known | shown | {"detectable from": first})
    return pd.DataFrame(rows)
