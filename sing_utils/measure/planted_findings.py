"""What follows from the planted world, in words made from its numbers."""

from __future__ import annotations

import pandas as pd

from sing_utils.planted.scenes import BEYOND, GIVEN
from sing_utils.show.findings import Finding, between, judged, number

RECOVERED = 0.9  # ROC area from which on a score is said to find what is planted


def opening(regimes: pd.DataFrame) -> Finding:
    """Notebook 06: what each score finds in the regimes of `sing_utils.measure.planted.regimes`."""
    held = regimes.assign(held=regimes["low"] > RECOVERED)  # the whole interval lies above
    parts = []
    for score in ("|AS|", "contrast"):
        own = held[held["score"] == score]
        other, beyond = own[own["way"] != BEYOND], own[own["way"] == BEYOND]
        counts = between(other.groupby("way")["held"].sum(), "", 0)
        parts.append((counts, between(other["value"], ""), int(beyond["held"].sum())))
    (size, size_areas, size_beyond), (signed, areas, signed_beyond) = parts
    return Finding(
        f"In heads built to ignore things, |AS| finds which in {size} of {regimes['regime'].nunique()} "
        f"settings, by the basis, and contrast in {signed}. Their ROC areas are {size_areas} and {areas} "
        f"(found: above {RECOVERED}). Beyond the logits, where no basis matters, |AS| finds which in "
        f"{size_beyond} and contrast in {signed_beyond}."
    )


def finds_leakage(regimes: pd.DataFrame) -> Finding:
    """Does |AS| say what a head ignores, whatever else it ignores, and in whatever basis?

    Agrees if the interval of the ROC area lies above 0.9 in every regime and in every way to measure. Differs
    if in some regime it lies below, as laid out and beyond the logits: then no choice of a basis is to blame.
    """
    own = regimes[regimes["score"] == "|AS|"]
    given, beyond = (own[own["way"] == way].set_index("regime") for way in (GIVEN, BEYOND))
    fails = (given["high"] < RECOVERED) & (beyond["high"] < RECOVERED)
    parts = [f"{r.Index} {r.value:.2f} ({beyond['value'][r.Index]:.2f})" for r in given.itertuples()]
    return Finding(
        measured="ROC area of |AS| by what the heads ignore, as laid out (and beyond the logits): "
        f"{'; '.join(parts)}.",
        verdict=judged(own["low"] > RECOVERED, fails.any()),
        n=f"{own['worlds'].max()} planted worlds",
        why=f"It fails both ways in {fails.sum()} of {len(fails)}." if fails.any() else "",
    )


def controls_opening(verdicts: pd.DataFrame, steered: pd.DataFrame) -> Finding:
    """Notebook 06b: what still tells ignored factors under other circumstances, and what steering shows.

    Args:
        verdicts: of `sing_utils.measure.planted_controls.conclusions`.
        steered: of `sing_utils.measure.planted_controls.steering`.
    """
    held = verdicts[verdicts["worlds"] == verdicts["of"]]["short"].value_counts()
    counts = [int(held.get(f"ignored by {s}", 0)) for s in ("contrast beyond", "contrast", "|AS|")]
    toward = steered[steered["direction"] == "toward the prompt"]
    reached = 100 * toward.groupby(["head", "planted"])["reached"].mean()
    return Finding(
        f"Under {verdicts['condition'].nunique()} circumstances, contrast beyond the logits tells ignored "
        f"from seen factors in {counts[0]}, contrast in {counts[1]}, |AS| in {counts[2]}. Steering reaches "
        f"what the head clean ignores in {reached['clean', 1]:.0f} % of scenes and what it sees in "
        f"{reached['clean', 0]:.0f} %, but what the head sees-all sees in {reached['sees-all', 0]:.0f} %."
    )


def small_AS(trained: pd.DataFrame) -> Finding:
    """Notebook 07: what training for a small |AS| does, from `sing_utils.measure.planted_training`."""
    over = trained.drop(columns="seed").groupby("network", sort=False).mean()
    shrunk, own = over.iloc[1], over.iloc[2:]  # untrained; trained with more and more of a penalty
    plain, least = own.iloc[0], own.loc[own.index[1:][own["|AS|"].iloc[1:].argmin()]]
    score, other, hits, null = "|AS|", "contrast beyond", "accuracy, background reversed", "null part"
    return Finding(
        f"With the penalty ({least.name.removeprefix('trained, ')}) training ends at |AS| "
        f"{number(least[score])}° instead of {number(plain[score])}°. Contrast beyond the logits, which "
        f"falls where more of the shape is ignored, ends at {number(least[other], sign=True)}° instead of "
        f"{number(plain[other], sign=True)}°; the logits leave {100 * least['shape unsaid']:.0f} % of the "
        f"shape unsaid instead of {100 * plain['shape unsaid']:.0f} %. Where the background changes sides, "
        f"{100 * least[hits]:.0f} % of shapes are right instead of {100 * plain[hits]:.0f} %. The null part "
        f"holds {100 * least[null]:.0f} % of the variance instead of {100 * plain[null]:.0f} %, so training "
        f"{'shrinks it' if least[null] < plain[null] else 'does not get there by shrinking it'}. "
        f"Shrinking it by hand moves no logit; the old translator then says "
        f"{number(shrunk['|AS|, T kept'])}°, a new one {number(shrunk[score])}°."
    )
