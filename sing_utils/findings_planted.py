"""What follows from the planted world, in words made from its numbers."""

from __future__ import annotations

from typing import Any

import pandas as pd

from sing_utils.findings import Finding, between

RECOVERED = 0.9  # ROC area from which on a score is said to find what is planted


def opening(regimes: pd.DataFrame) -> Finding:
    """Notebook 06: what each score finds in every regime of `sing_utils.tables_planted.regimes`."""
    areas = {score: own.set_index("regime") for score, own in regimes.groupby("score")}
    found, lost = (
        areas["|AS|"][mask] for mask in (areas["|AS|"]["low"] > RECOVERED, areas["|AS|"]["low"] <= RECOVERED)
    )
    every, value = len(areas["|AS|"]), lambda own: between(own["value"], "")
    if found.empty or lost.empty:
        does = "finds" if lost.empty else "does not find"
        first = f"In heads built to ignore things, |AS| {does} which (ROC area {value(areas['|AS|'])})."
    else:
        first = (
            f"In heads built to ignore things, |AS| finds which in {len(found)} of {every} settings "
            f"(ROC area {value(found)}) and fails in the others ({value(lost)})."
        )
    contrast = areas["contrast"]
    held = int((contrast["low"] > RECOVERED).sum())
    return Finding(f"{first} Contrast finds it in {held} of {every} ({value(contrast)}).")


def finds_leakage(regimes: pd.DataFrame) -> Finding:
    """Does |AS| say what a head ignores, whatever else it ignores?

    Judged where factors are ignored as a whole: a smaller share depends on the basis of the features. Agrees
    if the interval of the ROC area lies above 0.9 in each of these regimes, differs if it lies below in one,
    else undecided.
    """
    own = regimes[regimes["score"] == "|AS|"]
    whole = own[own["whole"]]
    agrees, differs = (whole["low"] > RECOVERED).all(), (whole["high"] < RECOVERED).any()
    parts = [f"{r.regime} (IS {r.IS:.0f}°) {_span(r)}" for r in own.itertuples()]
    return Finding(
        measured=f"ROC area of |AS| by how many factors the heads ignore: {'; '.join(parts)}.",
        verdict="agrees" if agrees else "differs" if differs else "undecided",
        n=f"{own['worlds'].max()} planted worlds",
        why="It rests on the heads that ignore whole factors.",
    )


def controls_opening(verdicts: pd.DataFrame, steered: pd.DataFrame) -> Finding:
    """Notebook 06b: what still tells ignored factors under other circumstances, and what steering shows.

    Args:
        verdicts: of `sing_utils.confounds_planted.conclusions`.
        steered: of `sing_utils.steering_planted.steering`.
    """
    held = verdicts[verdicts["worlds"] == verdicts["of"]]["short"].value_counts()
    counts = [int(held.get(f"ignored by {s}", 0)) for s in ("contrast", "|AS|")]
    toward = steered[steered["direction"] == "toward the prompt"]
    ignored, seen = (100 * toward[toward["planted"] == p]["reached"].mean() for p in (1, 0))
    return Finding(
        f"Under {verdicts['condition'].nunique()} circumstances, contrast tells ignored from seen factors in "
        f"{counts[0]}, |AS| in {counts[1]}. Steering reaches what a head ignores in {ignored:.0f} % of "
        f"scenes, and what it sees in {seen:.0f} %."
    )


def _span(row: Any) -> str:
    return f"{row.value:.2f} ({row.low:.2f} to {row.high:.2f})"
