"""What each notebook says at its top: two sentences made from its numbers, the first of which stands alone.

The introduction quotes the first sentences, so a fact is phrased here and nowhere else.
"""

from __future__ import annotations

import pandas as pd

from sing_utils.show.findings import Finding, between, half_changed, number, tiny


def setup(heads: pd.DataFrame) -> Finding:
    """What the logits cannot see of a feature: from the table `heads`."""
    ignored, chance = heads["ignored (%)"], heads["by chance (%)"]
    than = "less than" if (ignored < chance).all() else "more than" if (ignored > chance).all() else "beside"
    flips = int(heads["top-1 changes"].sum())
    moved = f"{tiny(heads['logits moved'].max())} of ‖W‖‖f‖"
    then = (
        f"no logit moves by more than rounding ({moved}), and no top class changes"
        if (heads["logits moved"] <= heads["bound"]).all() and not flips
        else f"logits move by up to {moved}, and {flips} top classes change"
    )
    return Finding(
        f"The heads of these classifiers ignore {between(ignored, ' %', 0)} of a feature's energy, {than} "
        f"the {between(chance, ' %', 0)} in a random subspace of that size. Without it {then}."
    )


def translators(fits: pd.DataFrame) -> Finding:
    """How far the translators can be trusted: from the table `translator_fits`."""
    exact, steps = (fits[fits["method"] == m].reset_index(drop=True) for m in ("ridge", "adamw"))
    ahead = int((exact["cosine"] > steps["cosine"]).sum())
    return Finding(
        f"A linear map carries features to embeddings with a cosine of {between(exact['cosine'], '', 2)} on "
        f"photos that it never saw, and explains {between(100 * exact['R²'], ' %', 0)} of their variance. "
        "Of the closed form and the paper's training by steps, the former has the higher cosine for "
        f"{ahead} of {len(exact)} classifiers."
    )


def comparison(scores: pd.DataFrame, ridges: pd.DataFrame) -> Finding:
    """How far null removal turns the meaning, and what of that hangs on the basis and on the translator.

    Args:
        scores: of `photo_scores`.
        ridges: of `ridge_sensitivity`.
    """
    IS, beyond = (scores.groupby("classifier", sort=False)[column].median() for column in ("IS", "IS beyond"))
    near = ridges[ridges["ridge, × chosen"].between(0.1, 10)].groupby("classifier", sort=False)
    factor = near["median IS (°)"].max() / near["median IS (°)"].min()
    cosine = near["cosine of Tf and z"].max() - near["cosine of Tf and z"].min()
    return Finding(
        f"Without its null component a photo's meaning turns by {between(IS, '°', 1)} (median) in its "
        f"network's own basis, and by {between(beyond, '°', 1)} in a reading that every basis shares. The "
        "degrees are the translator's as well: ridges from a tenth to ten times as large change IS by a "
        f"factor of {between(factor, '', 1)}, and "
        f"the cosine by {number(cosine.max())} at most."
    )


def controls(summary: pd.DataFrame) -> Finding:
    """What is left of the scores under controls: from the table `controls`."""
    said = summary.groupby("control", sort=False)["verdict"].last()
    first = "In this run the null space is not compared with random subspaces"
    if (kind := "same dimension and energy") in said:
        first = (
            "Counted by classifiers, the null space's contrast beside random subspaces of its size and "
            f"energy is {said[kind]}"
        )
    second = "A single class has no contrast"
    if "class by class" in said:
        second = (
            f"Class by class it differs from zero in {said['class by class']} cases, given the translator's "
            "error and the number of tests"
        )
        beyond = said.get("class by class, beyond the logits")
        second += f"; beyond the logits in {beyond}" if beyond else ""
    return Finding(f"{first}. {second}.")


def classes(scores: pd.DataFrame, agreement: pd.DataFrame) -> Finding:
    """How much classes differ, and whether classifiers agree about them: from `photo_scores` and
    `rank_correlations`.
    """
    medians = scores["AS"].abs().groupby([scores["classifier"], scores["class"]], sort=False).median()
    same = (
        f"The orders of two classifiers correlate by {between(agreement['rho'], '', 2, sign=True)} (ranks)"
        if len(agreement)
        else "One classifier, or too few classes, has no order to compare"
    )
    return Finding(f"Class by class the median |AS| runs from {between(medians, '°', 2)}. {same}.")


def steering(table: pd.DataFrame) -> Finding:
    """How far a feature can be steered while its logits stay: from the table `steering`."""
    wide = table.pivot(index="classifier", columns="direction", values="AS mean")
    text, chance = wide["toward the text"].dropna(), wide["random"].dropna()
    if text.empty:
        return Finding("No photo of the source class reaches the wanted Image Score. Ask for fewer degrees.")
    first, flips = table.iloc[0], int(table["flips"].sum())
    stay = "No step changed" if not flips else f"{flips} {'step' if flips == 1 else 'steps'} changed"
    length = table.loc[table["direction"] == "toward the text", "length"].dropna()
    return Finding(
        f"Turned by {first['IS']:g}° inside the null space, features come {between(text, '°', 1)} nearer to "
        f"“{first['target']}”, and {between(chance, '°', 1)} along random null directions. "
        f"{stay} a top class; directed steps are {between(length, '', 1)} times as long as the feature."
    )


def pictures(pairs: pd.DataFrame, changes: pd.DataFrame) -> Finding:
    """How different pairs are, and when pictures change: from `pairs` and `picture_changes`."""
    return Finding(
        f"Pairs with the same logits turn by {between(pairs['IS'], digits=1)}, and by up to "
        f"{number(pairs['AS'].abs().max(), 1)}° toward or away from their class. {half_changed(changes)}."
    )


def basis(stretched: pd.DataFrame, tried: pd.DataFrame) -> Finding:
    """What a change of basis does: from `tables_basis.stretches` and `rescalings`."""
    own, contrast = stretched.drop_duplicates("classifier"), tried["contrast"].dropna()
    beyond = "the photos to fit on are too few to say what lies beyond the logits"
    if (own["directions beyond"] > 0).any():
        beyond = f"beyond the logits it stays at {between(own['IS beyond'], '°', 1)}"
    second = "One class has no contrast."
    if len(contrast):
        second = (
            "Coordinates rescaled by factors at most three apart take contrasts from "
            f"{number(contrast.min(), 1)} to {number(contrast.max(), 1)}°."
        )
    IS = pd.concat([stretched["IS"], tried["IS"]])
    return Finding(
        "Written in other bases, networks with the same logits have a median IS of "
        f"{between(IS, '°', 1)}; {beyond}. {second}"
    )
