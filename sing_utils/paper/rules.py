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
from sing_utils.show.findings import (  # fmt: skip
    Finding,
    between,
    certificate,
    counted,
    judged,
    number,
    span,
    spans,
    tiny,
)

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
    names = {"moved": "logits moved", "flips": "top-1 changes", "certified": "photos"}
    return certificate(steering[[*names, "bound"]].rename(columns=names), "steps")


@judges("figure-6-small", "steering", "heads")
def _small(level: float, steering: pd.DataFrame, heads: pd.DataFrame) -> Finding:
    steps = steering[steering["direction"] == "toward the text"].set_index("classifier")["length"].dropna()
    null = (heads.set_index("classifier")["ignored (%)"] / 100) ** 0.5  # its length, in the feature's
    times = steps / null.loc[steps.index]
    if times.empty:
        return Finding("", "not run", why="no photo reaches this IS")
    words = (
        f"The step is {between(steps, '', 1)} times as long as the feature, and "
        f"{between(times, '', 1)} times as long as its null component."
    )
    reached = steering["reached"].loc[lambda x: x > 0]
    return Finding(words, judged(times < 1, times >= 1), counted(reached, "steps"))


@judges("same-noise", "picture_changes")
def _twice(level: float, changes: pd.DataFrame) -> Finding:
    start = changes[changes["IS"] == 0].iloc[0]
    words = f"Drawn twice from one noise, pictures differ by {number(start['turned'])}° (median)."
    return Finding(words, "holds" if start["turned"] < 0.1 else "fails", f"{start['pictures']:.0f} pictures")


# ------------------------------------------------------------------ the paper's classifiers


def _over_photos(scores: pd.DataFrame, statistic: Any, level: float) -> pd.DataFrame:
    """A statistic of AS over each classifier's photos with its bootstrap interval: value, low, high."""
    found = []
    for name, own in scores.groupby("classifier", sort=False):
        ci = bootstrap(statistic, own["AS"].to_numpy(), level=level, draws=1000)
        found.append({"classifier": name, "value": ci.value, "low": ci.low, "high": ci.high})
    return pd.DataFrame(found)


def _size(x: np.ndarray) -> Any:
    return np.median(np.abs(x), -1)


def _deviation(x: np.ndarray) -> Any:
    return x.std(-1, ddof=1)


@judges("abstract-resnet50", "photo_scores")
def _abstract(level: float, scores: pd.DataFrame) -> Finding:
    found = _over_photos(scores[scores["classifier"].isin(["ResNet50", "DINO-ViT"])], _size, level)
    a, b = (found.set_index("classifier").loc[name] for name in ("ResNet50", "DINO-ViT"))
    return Finding(
        f"Median |AS|: {spans(found)}",
        judged(a["low"] > b["high"], a["high"] < b["low"]),
        counted(scores.groupby("classifier").size()),
    )


@judges("dino-typical", "photo_scores")
def _typical(level: float, scores: pd.DataFrame) -> Finding:
    own = scores[scores["classifier"] == "DINO-ViT"]
    row = _over_photos(own, _size, level).iloc[0]
    return Finding(
        f"Median |AS|: {span(row)}.", judged(row["high"] < 1, row["low"] > 1), f"{len(own)} photos"
    )


@judges("resnext101-variance", "photo_scores")
def _resnext101(level: float, scores: pd.DataFrame) -> Finding:
    medians, deviations = (_over_photos(scores, of, level) for of in (_size, _deviation))
    largest = [t.set_index("classifier")["value"].idxmax() for t in (medians, deviations)]
    hits = np.array(largest) == "ResNeXt101"
    words = f"Median |AS|: {spans(medians)} Standard deviation of AS: {spans(deviations)}"
    return Finding(words, judged(hits, ~hits), counted(scores.groupby("classifier").size()))


@judges("resnet50-varies", "class_medians")
def _varies(level: float, medians: pd.DataFrame) -> Finding:
    a, b = (medians[medians["classifier"] == n].set_index("class") for n in ("ResNet50", "DINO-ViT"))
    up, down = int((a["low"] > b["high"]).sum()), int((a["high"] < b["low"]).sum())
    more = a["value"].std() > b["value"].std()
    words = (
        f"ResNet50's interval lies above DINO-ViT's in {up} of {len(a)} classes, below in {down}. Standard "
        f"deviation over classes {number(a['value'].std())}° and {number(b['value'].std())}°."
    )
    verdict = judged(more and 2 * up > len(a), not more or 2 * down > len(a))
    return Finding(words, verdict, f"{len(a)} classes")


@judges("figure-4-caption", "class_medians")
def _caption_4(level: float, medians: pd.DataFrame) -> Finding:
    own = medians[medians["classifier"] == "ResNet50"].sort_values("value", ascending=False)
    order = own["class"].tolist()
    places = {name: order.index(name) + 1 for name in ("porcupine", "sports car")}
    words = f"{', '.join(f'{name} has place {place}' for name, place in places.items())} of {len(order)}."
    hits = np.array([*places.values()]) <= len(order) / 4
    return Finding(words, judged(hits, ~hits), counted(own["photos"], "photos a class"))


def _directed(steering: pd.DataFrame, level: float) -> pd.DataFrame:
    """Means of directed steps, largest first: classifier, value, low, high."""
    own = steering[steering["direction"] == "toward the text"]
    return means(own, "|AS| mean", "|AS| sd", "reached", level).sort_values("value", ascending=False)


@judges("table-1-order", "steering")
def _order(level: float, steering: pd.DataFrame) -> Finding:
    own = _directed(steering, level)
    is_dino = own["classifier"] == "DINO-ViT"
    dino, others = own[is_dino].iloc[0], own[~is_dino]
    least = (others["low"] > dino["high"]).all()
    return Finding(
        f"Mean |AS|, largest first: {spans(own)}",
        judged(
            least and set(own["classifier"][:2]) == {"EfficientNet", "ResNet50"},
            (others["high"] < dino["low"]).any(),
        ),
        counted(own["reached"]),
    )


@judges("table-1-caption", "steering")
def _caption_1(level: float, steering: pd.DataFrame) -> Finding:
    own = _directed(steering, level)
    first = own["classifier"].iloc[0] == "ResNeXt101"
    high = own["high"][own["classifier"] == "ResNeXt101"].iloc[0]
    return Finding(
        f"Mean |AS|, largest first: {spans(own)}",
        judged(first, (own["low"] > high).any()),
        counted(own["reached"]),
    )
