"""The claims of the paper that no notebook's finding judges: one function each, from a run's tables.

Rules are in data/published/claims.yaml. A function is asked only where what its claim needs is there, so
classifiers have the paper's names.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pandas as pd

from sing_utils.evidence.intervals import bootstrap, student_margin
from sing_utils.show.findings import Finding, Verdict, between, counted, number, span, tiny

Judge = Callable[..., Finding]  # of the run's confidence level and of tables
JUDGES: dict[str, tuple[tuple[str, ...], Judge]] = {}


def judges(claim: str, *tables: str) -> Callable[[Judge], Judge]:
    """Register a function for a claim by its id, with the tables that it is given."""

    def register(function: Judge) -> Judge:
        JUDGES[claim] = (tables, function)
        return function

    return register


def means(table: pd.DataFrame, mean: str, sd: str, n: str, level: float) -> pd.DataFrame:
    """The table with means' Student t intervals: value, low, high."""
    half = student_margin(table[sd], table[n], level=level)
    return table.assign(value=table[mean], low=table[mean] - half, high=table[mean] + half)


# ------------------------------------------------------------------ what holds by construction


@judges("head-identity", "networks")
def _head(level: float, networks: pd.DataFrame) -> Finding:
    off = networks["|Wf + b − logits|, relative"].dropna()
    if off.empty:
        return Finding("No network was loaded, only heads.", "not run")
    words = f"W f + b differs from the networks' own logits by at most {tiny(off.max())} of the largest."
    if not off.max():
        words = "W f + b are the networks' own logits, to the last digit."
    return Finding(words, "holds" if off.max() <= 1e-3 else "fails", f"{len(off)} classifiers")


@judges("scores", "photo_scores")
def _triangle(level: float, scores: pd.DataFrame) -> Finding:
    over = int((scores["AS"].abs() - scores["IS"] > 1e-6).sum())
    words = f"|AS| exceeds IS for {over or 'no'} photo{'s' if over > 1 else ''}."
    return Finding(words, "fails" if over else "holds", counted(scores.groupby("classifier").size()))


@judges("steering-logits", "steering")
def _steps(level: float, steering: pd.DataFrame) -> Finding:
    moved, flips = steering["moved"], int(steering["flips"].sum())
    within = bool((moved <= steering["bound"])[moved.notna()].all())
    words = f"The logits moved by at most {tiny(moved.max())} of ‖W‖‖f‖; {flips} top-1 classes changed."
    return Finding(
        words, "holds" if within and not flips else "fails", f"{steering['certified'].sum()} steps"
    )


@judges("figure-6-small", "steering", "heads")
def _small(level: float, steering: pd.DataFrame, heads: pd.DataFrame) -> Finding:
    steps = steering[steering["direction"] == "toward the text"].set_index("classifier")["length"].dropna()
    null = (heads.set_index("classifier")["ignored (%)"] / 100) ** 0.5  # its length, in the feature's
    times = steps / null.loc[steps.index]
    if times.empty:
        return Finding("", "not run", why="no photo reaches this IS")
    verdict: Verdict = "agrees" if (times < 1).all() else "undecided" if (times < 1).any() else "differs"
    words = (
        f"The step is {between(steps, '', 1)} times as long as the feature, and "
        f"{between(times, '', 1)} times as long as its null component."
    )
    return Finding(words, verdict, counted(steering["reached"].loc[lambda x: x > 0], "steps"))


@judges("same-noise", "picture_changes")
def _twice(level: float, changes: pd.DataFrame) -> Finding:
    start = changes[changes["IS"] == 0].iloc[0]
    words = f"Drawn twice from one noise, pictures differ by {number(start['turned'])}° (median)."
    return Finding(words, "holds" if start["turned"] < 0.1 else "fails", f"{start['pictures']:.0f} pictures")


# ------------------------------------------------------------------ the paper's classifiers


def _over_photos(scores: pd.DataFrame, statistic: Any, level: float) -> dict[str, dict[str, float]]:
    """A statistic of AS over each classifier's photos with its bootstrap interval: value, low, high."""
    found = {}
    for name, own in scores.groupby("classifier", sort=False):
        ci = bootstrap(statistic, own["AS"].to_numpy(), level=level, draws=1000)
        found[str(name)] = {"value": ci.value, "low": ci.low, "high": ci.high}
    return found


def _size(x: np.ndarray) -> Any:
    return np.median(np.abs(x), -1)


def _deviation(x: np.ndarray) -> Any:
    return x.std(-1, ddof=1)


def _said(rows: dict[str, dict[str, float]]) -> str:
    return "; ".join(f"{name} {span(row)}" for name, row in rows.items())


def _of_two(hits: int) -> Verdict:
    return "agrees" if hits == 2 else "undecided" if hits else "differs"


@judges("abstract-resnet50", "photo_scores")
def _abstract(level: float, scores: pd.DataFrame) -> Finding:
    found = _over_photos(scores[scores["classifier"].isin(["ResNet50", "DINO-ViT"])], _size, level)
    a, b = found["ResNet50"], found["DINO-ViT"]
    verdict: Verdict = (
        "agrees" if a["low"] > b["high"] else "differs" if a["high"] < b["low"] else "undecided"
    )
    return Finding(f"Median |AS|: {_said(found)}.", verdict, counted(scores.groupby("classifier").size()))


@judges("dino-typical", "photo_scores")
def _typical(level: float, scores: pd.DataFrame) -> Finding:
    own = scores[scores["classifier"] == "DINO-ViT"]
    row = _over_photos(own, _size, level)["DINO-ViT"]
    verdict: Verdict = "agrees" if row["high"] < 1 else "differs" if row["low"] > 1 else "undecided"
    return Finding(f"Median |AS|: {span(row)}.", verdict, f"{len(own)} photos")


@judges("resnext101-variance", "photo_scores")
def _resnext101(level: float, scores: pd.DataFrame) -> Finding:
    medians, deviations = (_over_photos(scores, of, level) for of in (_size, _deviation))
    hits = sum(pd.DataFrame(t).loc["value"].idxmax() == "ResNeXt101" for t in (medians, deviations))
    words = f"Median |AS|: {_said(medians)}. Standard deviation of AS: {_said(deviations)}."
    return Finding(words, _of_two(hits), counted(scores.groupby("classifier").size()))


@judges("resnet50-varies", "class_medians")
def _varies(level: float, medians: pd.DataFrame) -> Finding:
    a, b = (medians[medians["classifier"] == n].set_index("class") for n in ("ResNet50", "DINO-ViT"))
    up, down = int((a["low"] > b["high"]).sum()), int((a["high"] < b["low"]).sum())
    more = a["value"].std() > b["value"].std()
    verdict: Verdict = "agrees" if 2 * up > len(a) else "undecided"
    words = (
        f"ResNet50's interval lies above DINO-ViT's in {up} of {len(a)} classes, below in {down}. Standard "
        f"deviation over classes {number(a['value'].std())}° and {number(b['value'].std())}°."
    )
    return Finding(words, verdict if more and 2 * down <= len(a) else "differs", f"{len(a)} classes")


@judges("figure-4-caption", "class_medians")
def _caption_4(level: float, medians: pd.DataFrame) -> Finding:
    own = medians[medians["classifier"] == "ResNet50"].sort_values("value", ascending=False)
    order = own["class"].tolist()
    places = {name: order.index(name) + 1 for name in ("porcupine", "sports car")}
    words = f"{', '.join(f'{name} has place {place}' for name, place in places.items())} of {len(order)}."
    hits = sum(place <= len(order) / 4 for place in places.values())
    return Finding(words, _of_two(hits), counted(own["photos"], "photos a class"))


def _directed(steering: pd.DataFrame, level: float) -> pd.DataFrame:
    """Means of directed steps, largest first: value, low, high by classifier."""
    own = means(
        steering[steering["direction"] == "toward the text"], "|AS| mean", "|AS| sd", "reached", level
    )
    return own.set_index("classifier").sort_values("value", ascending=False)


def _ordered(own: pd.DataFrame) -> str:
    return f"Mean |AS|, largest first: {'; '.join(f'{name} {span(row)}' for name, row in own.iterrows())}."


@judges("table-1-order", "steering")
def _order(level: float, steering: pd.DataFrame) -> Finding:
    own = _directed(steering, level)
    dino, others = own.loc["DINO-ViT"], own.drop("DINO-ViT")
    verdict: Verdict = "undecided"
    if (others["high"] < dino["low"]).any():
        verdict = "differs"
    elif (others["low"] > dino["high"]).all() and set(own.index[:2]) == {"EfficientNet", "ResNet50"}:
        verdict = "agrees"
    return Finding(_ordered(own), verdict, counted(own["reached"]))


@judges("table-1-caption", "steering")
def _caption_1(level: float, steering: pd.DataFrame) -> Finding:
    own = _directed(steering, level)
    verdict: Verdict = "undecided"
    if (own["low"] > own.loc["ResNeXt101", "high"]).any():
        verdict = "differs"
    elif own.index[0] == "ResNeXt101":
        verdict = "agrees"
    return Finding(_ordered(own), verdict, counted(own["reached"]))
