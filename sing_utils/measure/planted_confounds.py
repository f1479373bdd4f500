"""What else moves the scores of planted heads: the same truth under other circumstances."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

import pandas as pd

from sing_utils.measure.planted import SCORES, named, over_worlds, random_heads, roc_area, survey
from sing_utils.planted.heads import REST
from sing_utils.planted.scenes import BASES, GIVEN, HEADS, WORDINGS
from sing_utils.planted.scores import World

AS_IT_SHOULD_BE = "as it should be"
CONFOUNDS: dict[str, dict[str, Any]] = {
    AS_IT_SHOULD_BE: {},
    **{name: {"plant": {"basis": name}} for name in BASES if name != GIVEN},
    "a constant added": {"plant": {"shift": 4.0}},  # about as long as a feature
    "null dimension × 0.5": {"plant": {"m": 64}},
    "null dimension × 1.5": {"plant": {"m": 128}},
    "translator: 100 scenes": {"rows": 100},
    "translator: 300 scenes": {"rows": 300},
    "translator: null part unseen": {"without_null": True},
    "ridge × 100": {"ridge": 100.0},
    "weak encoder": {"encoder": "planted:weak"},
    "reworded: “a scene with …”": {"wording": WORDINGS[4]},
    "reworded: no opening": {"wording": WORDINGS[6]},
    "reworded: “in the picture is …”": {"wording": "in the picture is {}"},  # never trained with
    "rest × 5": {"plant": {"rest": 5 * REST}},
    "rest × 5, 100 scenes": {"plant": {"rest": 5 * REST}, "rows": 100},
}

NOTHING = 0.01  # degrees: a smaller difference of two scores is none
# Ways to conclude, most of them the paper's, about heads whose truth is known here; and their short names.
CONCLUSIONS = {
    "the leaky head has the larger |AS| toward its class than the clean one": "leaky by |AS|",
    "the leaky head has the lower IS/|AS| than the clean one": "leaky by IS/|AS|",
    "the leaky head has the lower contrast toward its class than the clean one": "leaky by contrast",
    "the leaky head has the lower contrast beyond the logits than the clean one": "leaky by contrast beyond",
    "|AS| tells ignored factors from seen ones (ROC area above 0.9)": "ignored by |AS|",
    "contrast tells ignored factors from seen ones (ROC area above 0.9)": "ignored by contrast",
    "contrast beyond the logits tells ignored from seen (ROC area above 0.9)": "ignored by contrast beyond",
    "the head that sees all has the smallest IS": "sees-all by IS",
}


def confounds(worlds: Sequence[World], *, heads: int = 8) -> pd.DataFrame:
    """Each condition: scores of the named heads and of `heads` random ones, in every world."""
    frames = []
    for condition, given in CONFOUNDS.items():
        options = {k: v for k, v in given.items() if k != "plant"}
        for some in (partial(random_heads, count=heads), named):
            own = survey(worlds, partial(some, **given.get("plant", {})), **options)
            frames.append(own.assign(condition=condition))
    return pd.concat(frames, ignore_index=True)


def confound_summary(table: pd.DataFrame, *, level: float) -> pd.DataFrame:
    """One row a condition and quantity, with its interval over worlds."""
    rows = []
    for condition, own in table.groupby("condition", sort=False):
        worlds = [g for _, g in own[own["head"].str.startswith("head ")].groupby("seed")]
        shape = own[own["factor"] == "shape"]
        clean, leaky = (shape[shape["head"] == h].sort_values("seed") for h in ("clean", "leaky"))
        quantities: dict[str, Sequence[float]] = {
            **{f"ROC area by {score}": [roc_area(g, score) for g in worlds] for score in SCORES},
            **{
                f"{score} of “{name}” toward the shape (°)": rows[score]
                for score in SCORES
                for name, rows in (("clean", clean), ("leaky", leaky))
            },
            "median IS of “clean” (°)": clean["IS"],
            "cosine of Tf and z": clean["cosine"],
        }
        rows += [
            {"condition": condition, "quantity": q, **over_worlds(v, level=level)}
            for q, v in quantities.items()
        ]
    return pd.DataFrame(rows)


def conclusions(table: pd.DataFrame) -> pd.DataFrame:
    """Which of the paper's ways to conclude hold under each condition: in how many of the worlds.

    Columns: condition, conclusion, short (its name in charts), worlds (in which it holds), of (worlds).
    """
    rows = []
    for condition, own in table.groupby("condition", sort=False):
        answers = pd.DataFrame([_concluded(world) for _, world in own.groupby("seed")])
        rows += [
            {
                "condition": condition,
                "conclusion": conclusion,
                "short": short,
                "worlds": int(answers[short].sum()),
                "of": len(answers),
            }
            for conclusion, short in CONCLUSIONS.items()
        ]
    return pd.DataFrame(rows)


def _concluded(world: pd.DataFrame) -> dict[str, bool]:
    """One world's answers, by their short names."""
    shape = world[world["factor"] == "shape"].set_index("head")
    clean, leaky = shape.loc["clean"], shape.loc["leaky"]
    random = world[world["head"].str.startswith("head ")]
    turned = shape.loc[list(HEADS), "IS"]
    answers = (
        leaky["|AS|"] > clean["|AS|"] + NOTHING,
        _ratio(leaky) < _ratio(clean),
        leaky["contrast"] < clean["contrast"] - NOTHING,
        leaky["contrast beyond"] < clean["contrast beyond"] - NOTHING,
        *(roc_area(random, score) > 0.9 for score in ("|AS|", "contrast", "contrast beyond")),
        turned.idxmin() == "sees-all" and turned.max() > NOTHING,
    )
    return dict(zip(CONCLUSIONS.values(), map(bool, answers), strict=True))


def _ratio(row: pd.Series) -> float:
    """IS / |AS|; NaN where |AS| is about 0, of which no order follows."""
    return float(row["IS"] / row["|AS|"]) if row["|AS|"] > NOTHING else float("nan")
