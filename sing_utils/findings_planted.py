"""What follows from the planted world, in words made from its numbers."""

from __future__ import annotations

import pandas as pd

from sing_utils.findings import Finding, between, number
from sing_utils.planted import BEYOND, GIVEN

RECOVERED = 0.9  # ROC area from which on a score is said to find what is planted


def opening(regimes: pd.DataFrame) -> Finding:
    """Notebook 06: what each score finds in the regimes of `sing_utils.tables_planted.regimes`."""
    size, signed = (regimes[regimes["score"] == score] for score in ("|AS|", "contrast"))
    every = regimes["regime"].nunique()
    given, other = size[size["way"] == GIVEN], signed[signed["way"] != BEYOND]
    beyond = signed[signed["way"] == BEYOND]
    held = other.groupby("way")["low"].agg(lambda low: int((low > RECOVERED).sum()))
    return Finding(
        f"In heads built to ignore things, |AS| finds which in {_held(given)} of {every} settings (ROC area "
        f"{between(given['value'], '')}). Contrast does in {between(held, '', 0)}, by the basis "
        f"({between(other['value'], '')}); beyond the logits, in any basis, in {_held(beyond)} "
        f"({between(beyond['value'], '')})."
    )


def _held(table: pd.DataFrame) -> int:
    """Of how many rows the whole interval lies above `RECOVERED`."""
    return int((table["low"] > RECOVERED).sum())


def finds_leakage(regimes: pd.DataFrame) -> Finding:
    """Does |AS| say what a head ignores, whatever else it ignores, and in whatever basis?

    Agrees if the interval of the ROC area lies above 0.9 in every regime and in every way to measure. Differs
    if in some regime it lies below, as laid out and beyond the logits: then no choice of a basis is to blame.
    """
    own = regimes[regimes["score"] == "|AS|"]
    agrees = bool((own["low"] > RECOVERED).all())
    given, beyond = (own[own["way"] == way].set_index("regime") for way in (GIVEN, BEYOND))
    fails = (given["high"] < RECOVERED) & (beyond["high"] < RECOVERED)
    parts = [f"{r.Index} {r.value:.2f} ({beyond['value'][r.Index]:.2f})" for r in given.itertuples()]
    return Finding(
        measured="ROC area of |AS| by what the heads ignore, as laid out (and beyond the logits): "
        f"{'; '.join(parts)}.",
        verdict="agrees" if agrees else "differs" if fails.any() else "undecided",
        n=f"{own['worlds'].max()} planted worlds",
        why=f"It fails both ways in {fails.sum()} of {len(fails)}." if fails.any() else "",
    )


def controls_opening(verdicts: pd.DataFrame, steered: pd.DataFrame) -> Finding:
    """Notebook 06b: what still tells ignored factors under other circumstances, and what steering shows.

    Args:
        verdicts: of `sing_utils.confounds_planted.conclusions`.
        steered: of `sing_utils.steering_planted.steering`.
    """
    held = verdicts[verdicts["worlds"] == verdicts["of"]]["short"].value_counts()
    counts = [int(held.get(f"ignored by {s}", 0)) for s in ("contrast beyond", "contrast", "|AS|")]
    toward = steered[steered["direction"] == "toward the prompt"]
    ignored, seen = (100 * toward[toward["planted"] == p]["reached"].mean() for p in (1, 0))
    return Finding(
        f"Under {verdicts['condition'].nunique()} circumstances, contrast beyond the logits tells ignored "
        f"from seen factors in {counts[0]}, contrast in {counts[1]}, |AS| in {counts[2]}. Steering reaches "
        f"what a head ignores in {ignored:.0f} % of scenes, and what it sees in {seen:.0f} %."
    )


def small_AS(trained: pd.DataFrame) -> Finding:
    """Notebook 07: what training for a small |AS| does, from `sing_utils.planted_training`."""
    over = trained.drop(columns="seed").groupby("network", sort=False).mean()
    shrunk, own = over.iloc[1], over.iloc[2:]  # untrained; trained with more and more of a penalty
    plain, least = own.iloc[0], own.loc[own.index[1:][own["|AS|"].iloc[1:].argmin()]]
    score, other, hits, null = "|AS|", "|AS| beyond", "accuracy, background reversed", "null part"
    return Finding(
        f"With the penalty ({least.name.removeprefix('trained, ')}) training ends at |AS| "
        f"{number(least[score])}° instead of {number(plain[score])}°, but beyond the logits at "
        f"{number(least[other])}° instead of {number(plain[other])}°. Where the background changes sides, "
        f"{least[hits]:.0%} of shapes are right instead of {plain[hits]:.0%}. The null part holds "
        f"{least[null]:.0%} of the variance instead of {plain[null]:.0%}, so training "
        f"{'shrinks it' if least[null] < plain[null] else 'does not get there by shrinking it'}. "
        f"Shrinking it by hand moves no logit; the old translator then says "
        f"{number(shrunk['|AS|, T kept'])}°, a new one {number(shrunk[score])}°."
    )
