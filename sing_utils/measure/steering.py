"""Tidy tables of notebook 04: steps in the null space toward a text, and their controls.

One row an observation, angles in degrees. Every step's logits are certified; the tables carry the
largest movement, and a movement beyond rounding stops the run.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from sing_utils.errors import SingError, UnreachableWarning
from sing_utils.method.head import Certificate
from sing_utils.method.scores import attribute_score, pairwise_angle
from sing_utils.method.steering import (
    Steered,
    largest_image_score,
    null_direction,
    random_null_direction,
    steer,
    step_for_image_score,
    text_gradient,
)
from sing_utils.paper.published import Published
from sing_utils.runs.profiles import worded
from sing_utils.runs.run import Run

DIRECTIONS = ("toward the text", "random")


def largest_scores(run: Run) -> pd.DataFrame:
    """The IS that steps toward each target approach but never reach: one row a photo of the source.

    classifier, target, path, largest.
    """
    frames = []
    for name in run.profile.classifiers:
        f, paths = _source(run, name)
        T, spaces = run.translator(name), run.spaces(name)
        for target, u in _targets(run, name).items():
            largest = largest_image_score(f, null_direction(f, u, T, spaces), T)
            frames.append(
                pd.DataFrame({"classifier": name, "target": target, "path": paths, "largest": largest})
            )
    return pd.concat(frames, ignore_index=True)


def common_degrees(largest: pd.DataFrame) -> float:
    """The largest whole degree of IS that every photo reaches in every classifier.

    Args:
        largest: of `largest_scores`, or some rows of it.
    """
    return whole_degrees(float(largest["largest"].min()))


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


def whole_gradient(run: Run, degrees: float) -> pd.DataFrame:
    """The same steps along the whole text gradient, which may move the logits: one row a classifier.

    AS of both over the photos that reach `degrees` both ways, and how many of these change their
    top-1 class when the step may leave the null space.
    """
    target = run.profile.targets[0]
    rows = []
    for name in run.profile.classifiers:
        f, _ = _source(run, name)
        T, head, u = run.translator(name), run.head(name), _targets(run, name)[target]
        within = _steer(run, name, f, u, degrees)
        d = torch.nn.functional.normalize(text_gradient(f, u, T), dim=-1)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UnreachableWarning)  # they are counted
            epsilon = step_for_image_score(f, d, T, degrees=degrees)
        both = ~(epsilon.isnan() | within.AS.isnan())
        moved = (f + epsilon[:, None] * d)[both]
        score = attribute_score(T(f[both].to(moved)), T(moved), u.to(moved))
        logits = [head.logits(x) for x in (f[both], moved)]
        rows.append(
            {
                "classifier": name,
                "target": target,
                "IS": degrees,
                "photos": int(both.sum()),
                "AS in the null space": float(within.AS[both].mean()),
                "AS along the whole gradient": float(score.mean()),
                "top-1 changes": int((logits[0].argmax(-1) != logits[1].argmax(-1)).sum()),
            }
        )
    return pd.DataFrame(rows)


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
    dims = {name: published.classifiers[name].null_dimension for name in table}
    return pd.DataFrame(
        {"the paper's": table.keys(), "null directions": dims.values(), "published |AS| (°)": table.values()}
    )


def steered_wordings(run: Run, degrees: float) -> pd.DataFrame:
    """AS of the steps toward the first target, measured in other wordings of its prompt: degrees.

    One row a classifier and wording; the steps are those toward the profile's own wording.
    """
    target, frames = run.profile.targets[0], []
    for name in run.profile.classifiers:
        f, _ = _source(run, name)
        T = run.translator(name)
        result = _steer(run, name, f, _targets(run, name)[target], degrees)
        reached = ~result.AS.isnan()
        wordings = [worded(w, target) for w in run.profile.wordings]
        texts = run.texts(name, wordings)  # (R, n)
        z, moved = T(f[reached]), T(result.f_eps[reached])
        AS = (
            pairwise_angle(z, texts) - pairwise_angle(moved, texts)
            if len(z)
            else texts.new_zeros(0, len(texts))
        )
        frames.append(pd.DataFrame({"classifier": name, "prompt": wordings, "AS": AS.mean(0).numpy()}))
    return pd.concat(frames, ignore_index=True)


def steering_curves(run: Run, largest: pd.DataFrame, *, points: int = 15) -> pd.DataFrame:
    """AS toward the first target over IS, up to what all photos of a classifier reach.

    One row a classifier, direction and IS: mean, and the span of the middle 80 % of the photos.
    """
    target = run.profile.targets[0]
    frames = []
    for name in run.profile.classifiers:
        own = largest[(largest["classifier"] == name) & (largest["target"] == target)]
        f, _ = _source(run, name)
        text = _targets(run, name)[target]
        for degrees in np.linspace(0, common_degrees(own), points):
            steps = (_steer(run, name, f, text, degrees), _steer_randomly(run, name, f, text, degrees))
            for direction, result in zip(DIRECTIONS, steps, strict=True):
                score = result.AS[~result.AS.isnan()].numpy()
                if not len(score):
                    continue  # a random direction may reach less far
                low, high = np.quantile(score, [0.1, 0.9])
                frames.append(
                    {
                        "classifier": name,
                        "direction": direction,
                        "target": target,
                        "IS": degrees,
                        "AS": score.mean(),
                        "low": low,
                        "high": high,
                        "reached": len(score),
                        **certified(result.certificate),
                    }
                )
    return pd.DataFrame(frames)


def steering_grid(run: Run, degrees: float) -> pd.DataFrame:
    """Mean AS of every source class toward every target at IS = `degrees`: one row a cell."""
    rows = []
    for name in run.profile.classifiers:
        data = run.photos(name)
        sources = data.index["class"].to_numpy()
        for target, text in _targets(run, name).items():
            result = _steer(run, name, data.f, text, degrees)
            scores = pd.Series(result.AS.numpy()).groupby(sources, sort=False)
            cells = pd.DataFrame(
                {
                    "AS": scores.mean(),
                    "AS sd": scores.std(),
                    "reached": scores.count(),
                    "photos": scores.size(),
                }
            )
            cells = cells.rename_axis("source").reset_index()
            proof = certified(result.certificate)
            # One certificate speaks for the whole column: its flips are counted once.
            proof |= {"certified": cells["reached"], "flips": np.where(cells.index == 0, proof["flips"], 0)}
            rows.append(cells.assign(classifier=name, target=target, IS=degrees, **proof))
    return pd.concat(rows, ignore_index=True)


def grid_shares(grid: pd.DataFrame) -> pd.DataFrame:
    """How much of the variance of a classifier's grid goes with its rows, and with its columns.

    One row a classifier: percent of the sum of squares about the mean (two-way, one value a cell),
    over the source classes that reach every target.
    """
    rows = []
    for name, own in grid.groupby("classifier", sort=False):
        cells = own.pivot(index="source", columns="target", values="AS").dropna().to_numpy()
        if min(cells.shape) < 2:
            continue  # nothing to divide
        total = ((cells - cells.mean()) ** 2).sum()
        by_source = cells.shape[1] * ((cells.mean(1) - cells.mean()) ** 2).sum()
        by_target = cells.shape[0] * ((cells.mean(0) - cells.mean()) ** 2).sum()
        rows.append(
            {
                "classifier": name,
                "target (%)": 100 * by_target / total,
                "source class (%)": 100 * by_source / total,
                "both together (%)": 100 * (1 - (by_target + by_source) / total),
            }
        )
    columns = ["classifier", "target (%)", "source class (%)", "both together (%)"]
    return pd.DataFrame(rows, columns=columns)


# ---------------------------------------------------------------------------------- steps


def _targets(run: Run, name: str) -> dict[str, Tensor]:
    """Target -> embedding of its prompt, (n,)."""
    return dict(zip(run.targets, run.texts(name, [run.prompt(t) for t in run.targets]), strict=True))


def _source(run: Run, name: str) -> tuple[Tensor, list[str]]:
    """Features and paths of the evaluation photos of the source class."""
    own = run.photos(name).of(run.source_class)
    if len(own.f) < 2:
        raise SingError(
            f"{run.source_class!r} has {len(own.f)} evaluation photos, expected at least 2: choose another "
            "source_class or give more pictures."
        )
    return own.f, own.index["path"].tolist()


def _steer(run: Run, name: str, f: Tensor, text: Tensor, degrees: float) -> Steered:
    bias = run.head(name).bias
    return steer(f, text, run.translator(name), run.spaces(name), degrees=degrees, bias=bias)


def _steer_randomly(run: Run, name: str, f: Tensor, text: Tensor, degrees: float) -> Steered:
    spaces = run.spaces(name)
    d = random_null_direction(len(f), spaces, seed=run.profile.seed)
    bias = run.head(name).bias
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
