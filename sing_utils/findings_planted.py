"""What follows from the planted world, in words made from its numbers."""

from __future__ import annotations

import pandas as pd

from sing_utils.findings import Finding, Verdict

_RECOVERED = 0.9  # ROC area from which on a score is said to recover what is planted


def validation(table: pd.DataFrame) -> Finding:
    """Did every check of the validation pass?"""
    failed = table[~table["passed"]]
    measured = "; ".join(f"{r['check']}: {r['found']}" for r in table.to_dict("records"))
    lost = f" FAILED: {'; '.join(failed['check'])}." if len(failed) else ""
    return Finding(
        "The paper takes it as given that null-space scores show what is in the null space; no case is known "
        "in which the answer was known beforehand.",
        f"{len(table) - len(failed)} of {len(table)} checks passed. {measured}.{lost}",
        "differs" if len(failed) else "agrees",
        "Agrees if every check passes: " + "; ".join(f"{r['rule']}" for r in table.to_dict("records")) + ".",
    )


def recovered(agreement: pd.DataFrame) -> Finding:
    """Does |AS| rank heads as the truth does, and does anything do it better?"""
    own = agreement[agreement["factor"] == "all"]
    areas = own[own["statistic"] == "ROC area"].set_index("score")
    ranks = own[own["statistic"] == "rank correlation"].set_index("score")
    low, high = areas.loc["|AS|", ["low", "high"]]
    verdict: Verdict = "agrees" if low > _RECOVERED else "differs" if high < _RECOVERED else "undecided"
    parts = [
        f"{s}: ROC area {_span(areas.loc[s])}, rank correlation {_span(ranks.loc[s])}" for s in areas.index
    ]
    by_factor = agreement[(agreement["statistic"] == "ROC area") & (agreement["score"] == "|AS|")]
    worst = by_factor[by_factor["factor"] != "all"].sort_values("value").iloc[0]
    return Finding(
        "A large |AS| toward a prompt says that the classifier ignores part of what the prompt names "
        "(Sections 4.2 and 4.3).",
        "All factors together, over worlds: "
        + "; ".join(parts)
        + f". By |AS| the least well recovered factor is {worst['factor']} ({_span(worst)}).",
        verdict,
        f"For |AS|: agrees if the interval of its ROC area lies above {_RECOVERED}, differs if below, else "
        "undecided.",
    )


def calibrated(summary: pd.DataFrame, detected: pd.DataFrame) -> Finding:
    """Is a score proportional to what is planted, and from which share on does it show?"""
    parts = []
    for score in ("|AS|", "contrast"):
        own, found = summary[summary["score"] == score], detected[detected["score"] == score]
        onward = own.groupby("setting", sort=False)["monotone"].mean()
        steps = " and ".join(f"{100 * v:.0f} % of steps with {setting}" for setting, v in onward.items())
        seen = found["detectable from"].dropna()
        parts.append(
            f"{score}: more planted makes it more extreme in {steps}; a straight line explains "
            f"{100 * own['linear'].min():.0f} to {100 * own['linear'].max():.0f} %; it stands out for "
            f"{len(seen)} of {len(found)} factors"
            + (f", from a share of {_between(seen)} on" if len(seen) else "")
        )
    return Finding(
        "The paper gives no scale: it calls a change visible from about 3° of AS on (appendix C).",
        ". ".join(parts) + ".",
        "not in the paper",
        "A share stands out if, from it on, four in five heads are beyond what 95 % of the heads stay within "
        "that ignore nothing of the factor, whatever else they ignore.",
    )


def _between(shares: pd.Series) -> str:
    low, high = f"{shares.min():.2f}", f"{shares.max():.2f}"
    return low if low == high else f"{low} to {high}"


def steered(table: pd.DataFrame) -> Finding:
    """Can steering reach what is ignored, and only that?"""
    own = table[table["direction"] == "toward the prompt"]
    ignored = own[own["planted"] == 1].groupby("seed")["reached"].mean()
    seen = own[own["planted"] == 0].groupby("seed")["reached"].mean()
    random = (
        table[(table["direction"] == "random") & (table["planted"] == 1)].groupby("seed")["reached"].mean()
    )
    apart = bool((ignored - seen > 0.25).all())
    verdict: Verdict = "agrees" if apart else "differs" if bool((ignored <= seen).all()) else "undecided"
    return Finding(
        "Features can be steered in the null space toward any concept while the logits stay (Section 4.4).",
        f"Read as the wanted level after the step: {_range(ignored)} of scenes where the head "
        f"ignores the factor, "
        f"{_range(seen)} where it sees all of it, and {_range(random)} after a random null step of "
        f"the same IS "
        "where it is ignored (means and ranges over worlds).",
        verdict,
        "Agrees if in every world ignored factors are reached in at least 25 percentage points more of the "
        "scenes than seen ones; differs if never more often; else undecided.",
    )


def _span(row: pd.Series) -> str:
    return f"{row['value']:.2f} ({row['low']:.2f} to {row['high']:.2f})"


def _range(values: pd.Series) -> str:
    return f"{100 * values.mean():.0f} % ({100 * values.min():.0f} to {100 * values.max():.0f} %)"


# ------------------------------------------------------------------------------------ advice


def advice(
    agreement: pd.DataFrame,
    detected: pd.DataFrame,
    confounds: pd.DataFrame,
    conclusions: pd.DataFrame,
    steering: pd.DataFrame,
) -> pd.DataFrame:
    """When to believe a score, and when not: question, what was measured here, advice by a rule.

    Every line is made from the numbers of this run; another run may advise otherwise.
    """
    value = confounds.set_index(["condition", "quantity"])["value"]
    base = "as it should be"

    def of(quantity: str, condition: str = base) -> float:
        return float(value[condition, quantity])

    areas = agreement[(agreement["factor"] == "all") & (agreement["statistic"] == "ROC area")]
    area = areas.set_index("score")["value"]
    clean, leaky = of("|AS| of “clean” toward the shape (°)"), of("|AS| of “leaky” toward the shape (°)")
    clean_c, leaky_c = (of(f"contrast of “{h}” toward the shape (°)") for h in ("clean", "leaky"))
    turn = "median IS of “clean” (°)"
    own = detected[detected["score"] == "contrast"]["detectable from"]
    held = conclusions[conclusions["condition"] == base].set_index("short")
    worlds = int(held["of"].iloc[0])
    right, right_c = (int(held.loc[f"leaky by {s}", "worlds"]) for s in ("|AS|", "contrast"))
    narrow, wide = "null dimension × 0.5", "null dimension × 1.5"
    strong, strong_narrow = "rest × 5", "rest × 5, null dim. × 0.5"
    few, blind = "translator: 100 scenes", "translator: null part unseen"
    mean, weak, ridge = "mean feature ignored", "weak encoder", "ridge × 100"
    worded = [c for c in confounds["condition"].unique() if c.startswith("reworded")]
    shift = max(abs(of("ROC area by contrast", c) - of("ROC area by contrast")) for c in worded)
    shift_c = max(abs(of("contrast of “leaky” toward the shape (°)", c) - leaky_c) for c in worded)
    gap = clean_c - leaky_c
    gap_weak = of("contrast of “clean” toward the shape (°)", weak) - of(
        "contrast of “leaky” toward the shape (°)", weak
    )
    toward = steering[steering["direction"] == "toward the prompt"]
    far = {p: float(toward[toward["planted"] == p]["step"].median()) for p in (0.0, 1.0)}
    reach = {p: float(toward[toward["planted"] == p]["reached"].mean()) for p in (0.0, 1.0)}
    rows = [
        (
            "Is |AS| enough to say that something is ignored?",
            f"ROC area {area['|AS|']:.2f} by |AS|, {area['contrast']:.2f} by contrast",
            "Set the prompt beside the same prompt with other levels: the contrast says more than |AS|."
            if area["contrast"] > area["|AS|"] + 0.02
            else "Here |AS| says as much as the contrast.",
        ),
        (
            "Does a small |AS| toward the class make a head clean?",
            f"toward the shape: |AS| {clean:.1f}° of the clean head, {leaky:.1f}° of the leaky one, which "
            f"has the "
            f"larger in {right} of {worlds} worlds; contrast {clean_c:+.1f}° and {leaky_c:+.1f}°, lower "
            f"for the "
            f"leaky one in {right_c}",
            "As an order, here; but the clean head's |AS| is not zero: removing what has nothing to do "
            "with the "
            "class moves the angle to its prompt too."
            if right == worlds
            else "No: without all else that it ignores, a clean head's feature is nearer to the prompt "
            "of its "
            "class, and |AS| counts that as well. Look at the sign, and at the contrast.",
        ),
        (
            "How much must be ignored before it shows?",
            f"contrast stands out for {int(own.notna().sum())} of {len(own)} factors"
            + (f", from a share of {_between(own.dropna())} on" if own.notna().any() else ""),
            "Read nothing into smaller shares, and take the spread at zero from a control.",
        ),
        (
            "Can IS be compared between heads of different null dimension?",
            f"median IS of the clean head {of(turn, narrow):.1f}° and {of(turn, wide):.1f}° at null "
            f"dimensions 32 "
            f"and 96, {of(turn, strong_narrow):.1f}° and {of(turn, strong):.1f}° at 32 and 64 where "
            f"features carry "
            "much that belongs to no factor; what is planted is the same",
            "Here yes: it moved by less than a tenth."
            if max(abs(of(turn, wide) - of(turn, narrow)), abs(of(turn, strong) - of(turn, strong_narrow)))
            < 0.1 * of(turn)
            else "Not without a control: the same planted truth gives other angles.",
        ),
        (
            "How many scenes does a translator need?",
            f"from 100 scenes: cosine {of('cosine of Tf and z', few):.2f} instead of "
            f"{of('cosine of Tf and z'):.2f}, "
            f"ROC area by contrast {of('ROC area by contrast', few):.2f} instead of "
            f"{of('ROC area by contrast'):.2f}",
            "Believe no score without the held-out cosine beside it."
            if of("ROC area by contrast", few) < of("ROC area by contrast") - 0.02
            else "Even few were enough to tell ignored from seen; the angles themselves still differ.",
        ),
        (
            "Does AS = 0 mean that nothing is ignored?",
            f"translator that never saw null components: median IS of the clean head "
            f"{of(turn, blind):.2f}° instead "
            f"of {of(turn):.1f}°",
            "No: a translator must have seen what it is asked about; otherwise every head looks clean.",
        ),
        (
            "What does IS count?",
            f"median IS of the clean head {of(turn, mean):.1f}° with the mean feature in its null space, "
            f"{of(turn):.1f}° without",
            "Look where the mean feature lies before reading IS as meaning: a constant that says "
            "nothing of any "
            "picture turns every translated feature."
            if abs(of(turn, mean) - of(turn)) > 0.1 * of(turn)
            else "Here the mean feature makes little difference.",
        ),
        (
            "Does the ridge matter?",
            f"ridge × 100: median IS {of(turn, ridge):.1f}° instead of {of(turn):.1f}°, ROC area by contrast "
            f"{of('ROC area by contrast', ridge):.2f} instead of {of('ROC area by contrast'):.2f}",
            "Compare degrees only between translators fitted by one rule.",
        ),
        (
            "Does the encoder have to be good?",
            f"contrast toward the shape, clean minus leaky head: {gap_weak:.1f}° with the weak encoder, "
            f"{gap:.1f}° with the other; cosine {of('cosine of Tf and z', weak):.2f} and "
            f"{of('cosine of Tf and z'):.2f}",
            "Yes: what an encoder sees badly, a score shows faintly, and the cosine does not warn. Check "
            "zero-shot accuracy on what you ask about."
            if gap_weak < 0.5 * gap
            else "Here a weak one served as well.",
        ),
        (
            "Does the wording matter?",
            f"with other wordings the ROC area by contrast moves by at most {shift:.3f}, the leaky head's "
            f"contrast by at most {shift_c:.1f}°",
            "Report more than one wording." if shift > 0.02 else "Little, for telling ignored from seen.",
        ),
        (
            "Does steering toward a concept show that it is ignored?",
            f"reached in {100 * reach[1.0]:.0f} % of scenes where it is ignored, {100 * reach[0.0]:.0f} % "
            f"where "
            f"all of it is seen; steps of {far[1.0]:.1f} and {far[0.0]:.1f} times the feature's length "
            f"(medians)",
            "It is evidence, if the step is short: what the head sees is reached less often, by longer steps."
            if reach[1.0] > reach[0.0] + 0.25 and far[0.0] > far[1.0]
            else "Little by itself: it is reached nearly as often, or as easily, where it is not ignored.",
        ),
    ]
    return pd.DataFrame(rows, columns=["question", "measured here", "advice"])
