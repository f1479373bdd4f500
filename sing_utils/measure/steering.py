"""Tidy tables of notebook 04: steps in the null space toward a text, and their controls.

One row an observation, angles in degrees. Every step's logits are certified; the tables carry the
largest movement, and a movement beyond rounding stops the run.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from sing_utils.errors import SingError
from sing_utils.method.head import Certificate
from sing_utils.method.scores import pairwise_angle
from sing_utils.method.steering import (
    Steered,
    largest_image_score,
    null_direction,
    random_null_direction,
    steer,
)
from sing_utils.method.translator import Translator
from sing_utils.paper.published import Published
from sing_utils.runs.profiles import worded
from sing_utils.runs.run import Photos, Run

DIRECTIONS = ("toward the text", "random")


def largest_scores(run: Run) -> pd.DataFrame:
    """The IS that steps toward each target approach but never reach: one row a photo of the source.

    classifier, target, path, largest.
    """
    frames = []
    for name, source, T, targets in _sources(run):
        for target, u in targets.items():
            largest = largest_image_score(source.f, null_direction(source.f, u, T, run.spaces(name)), T)
            frame = source.index[["path"]].assign(classifier=name, target=target, largest=largest.numpy())
            frames.append(frame)
    return pd.concat(frames, ignore_index=True)


def whole_degrees(largest: float) -> float:
    """The whole degree below a limit of IS, and clearly so: at the limit itself steps are endless.

    Raises:
        SingError: if that is not even one degree.
    """
    degrees = math.floor(largest - 0.1)
    if degrees < 1:
        raise SingError(
            f"some photo can't be steered by more than {largest:.2f}°, expected at least 1°: choose other "
            "targets or another source_class, or look at the translator."
        )
    return float(degrees)


def side_by_side(table: pd.DataFrame) -> pd.DataFrame:
    """Table 1 for a page, one row a classifier: mean |AS| ± deviation by each way, and the step's length.

    Args:
        table: of notebook 04, one row a classifier and direction.
    """
    cell = table["|AS| mean"].map("{:.2f}".format) + " ± " + table["|AS| sd"].map("{:.2f}".format)
    wide = table.assign(cell=cell).pivot(index="classifier", columns="direction", values="cell")
    wide = wide[table["direction"].unique()].add_prefix("|AS| (°) ")
    first = table[table["direction"] == DIRECTIONS[0]].set_index("classifier")
    return wide.assign(**{"AS (°)": first["AS mean"], "ε / |f|": first["length"]}).reset_index()


def published_step(run: Run) -> pd.DataFrame:
    """The paper's Table 1 beside the null dimension of its heads: name, null directions, |AS| (°)."""
    published = Published(run.root)
    table = published.numbers["table-1"].values
    rows = [(name, published.classifiers[name].null_dimension, AS) for name, AS in table.items()]
    return pd.DataFrame(rows, columns=["the paper's", "null directions", "published |AS| (°)"])


def steered_wordings(run: Run, degrees: float) -> pd.DataFrame:
    """AS of the steps toward the first target, measured in other wordings of its prompt: degrees.

    One row a classifier and wording; the steps are those toward the profile's own wording.
    """
    target, frames = run.targets[0], []
    wordings = [worded(w, target) for w in run.profile.wordings]
    for name, source, T, targets in _sources(run):
        result = _steer(run, name, source.f, targets[target], degrees)
        reached = ~result.AS.isnan()
        AS = torch.zeros(0, len(wordings))
        if reached.any():
            pair = T(source.f[reached]), T(result.f_eps[reached])
            before, after = (pairwise_angle(z, run.texts(name, wordings)) for z in pair)
            AS = before - after  # (N, R), eq. 7
        frames.append(pd.DataFrame({"classifier": name, "prompt": wordings, "AS": AS.mean(0).numpy()}))
    return pd.concat(frames, ignore_index=True)


def steering_curves(run: Run, largest: pd.DataFrame, *, points: int = 15) -> pd.DataFrame:
    """AS toward the first target over IS, up to what all photos of a classifier reach.

    One row a classifier, direction and IS: mean, and the span of the middle 80 % of the photos.
    """
    target, rows = run.targets[0], []
    for name, source, _, targets in _sources(run):
        own = largest[(largest["classifier"] == name) & (largest["target"] == target)]
        for degrees in np.linspace(0, whole_degrees(own["largest"].min()), points):
            for direction in DIRECTIONS:
                chance = direction != DIRECTIONS[0]
                result = _steer(run, name, source.f, targets[target], degrees, chance=chance)
                score = result.AS[~result.AS.isnan()].numpy()
                if not len(score):
                    continue  # a random direction may reach less far
                row = {"classifier": name, "direction": direction, "target": target, "IS": degrees}
                row |= {"AS": score.mean(), "low": np.quantile(score, 0.1), "high": np.quantile(score, 0.9)}
                rows.append(row | {"reached": len(score)} | certified(result.certificate))
    return pd.DataFrame(rows)


def steering_grid(run: Run, degrees: float) -> pd.DataFrame:
    """Mean AS of every source class toward every target at IS = `degrees`: one row a cell."""
    frames = []
    for name, _, _, targets in _sources(run):
        photos = run.photos(name)
        for target, text in targets.items():
            result = _steer(run, name, photos.f, text, degrees)
            scores = pd.Series(result.AS.numpy()).groupby(photos.index["class"].to_numpy(), sort=False)
            named = {"AS": "mean", "AS sd": "std", "reached": "count", "photos": "size"}
            cells = scores.agg(**named).rename_axis("source").reset_index()
            proof = certified(result.certificate)
            # One certificate speaks for the whole column: its flips are counted once.
            proof |= {"certified": cells["reached"], "flips": np.where(cells.index == 0, proof["flips"], 0)}
            frames.append(cells.assign(classifier=name, target=target, IS=degrees, **proof))
    return pd.concat(frames, ignore_index=True)


# ---------------------------------------------------------------------------------- steps


def _sources(run: Run) -> Iterator[tuple[str, Photos, Translator, dict[str, Tensor]]]:
    """Each classifier, its photos of the source class, its translator, and target -> embedding, (n,)."""
    for name in run.classifiers:
        source = run.photos(name).of(run.source_class)
        if len(source) < 2:
            raise SingError(
                f"{run.source_class!r} has {len(source)} evaluation photos, expected at least 2: choose "
                "another source_class or give more pictures."
            )
        texts = run.texts(name, [run.prompt(t) for t in run.targets])
        yield name, source, run.translator(name), dict(zip(run.targets, texts, strict=True))


def _steer(run: Run, name: str, f: Tensor, text: Tensor, degrees: float, *, chance: bool = False) -> Steered:
    """Steps toward a text, or by `chance` in random null directions."""
    spaces, bias = run.spaces(name), run.head(name).bias
    d = random_null_direction(len(f), spaces, seed=run.seed) if chance else None
    return steer(f, text, run.translator(name), spaces, degrees=degrees, direction=d, bias=bias)


def certified(c: Certificate | None) -> dict[str, Any]:
    """A certificate's part of a row: steps, largest movement of a logit, its bound, top-1 changes."""
    if c is None:
        return {"certified": 0, "moved": math.nan, "bound": math.nan, "flips": 0}
    return {"certified": c.n, "moved": c.relative_change, "bound": c.bound, "flips": c.top1_changes}


def with_certificates(rows: Sequence[dict[str, Any]]) -> pd.DataFrame:
    """Rows as a table, what stands under "certificate" in columns of its own."""
    return pd.DataFrame(
        {k: v for k, v in row.items() if k != "certificate"} | certified(row["certificate"]) for row in rows
    )
