"""What follows from the planted world, in words made from its numbers."""

from __future__ import annotations

from collections.abc import Callable

import pandas as pd

from sing_utils.controls import SUBSPACES
from sing_utils.findings import Finding, Verdict
from sing_utils.tables_planted import SHARES

_RECOVERED = 0.9  # ROC area from which on a score is said to recover what is planted
_AS_IT_SHOULD_BE = "as it should be"
_MUCH = 0.1  # of a quantity: a smaller change is called none
Row = tuple[str, str, str]


def validation(table: pd.DataFrame) -> Finding:
    """Did every check of the validation pass?"""
    failed = table[~table["passed"]]
    measured = "; ".join(f"{r['check']}: {r['found']}" for r in table.to_dict("records"))
    lost = f" FAILED: {'; '.join(failed['check'])}." if len(failed) else ""
    return Finding(
        "The paper tests its scores on no case whose answer was known beforehand.",
        f"{len(table) - len(failed)} of {len(table)} checks passed. {measured}.{lost}",
        "differs" if len(failed) else "not in the paper",
        "“Differs” if any check fails; each check's rule stands beside it in the table.",
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
        f"All factors together, over worlds: {'; '.join(parts)}. By |AS| the least well recovered factor is "
        f"{worst['factor']} ({_span(worst)}).",
        verdict,
        f"For |AS|: agrees if the interval of its ROC area lies above {_RECOVERED}, differs if below, else "
        "undecided. All of these heads see the mean feature; section 3 shows what changes where they do not.",
    )


def controlled(table: pd.DataFrame) -> Finding:
    """Do random subspaces tell a head that ignores nothing of the shape from one that ignores much?

    Args:
        table: of `sing_utils.controls_planted.planted_controls`.
    """
    own = table[(table["control"] == SUBSPACES[0]) & (table["score"] != "IS")]
    wide = own.pivot_table(index=["seed", "score"], columns="head", values="percentile").reset_index()
    parts = []
    for score, rows in wide.groupby("score", sort=False):
        right = rows["clean"] > rows["leaky"] if score == "contrast" else rows["clean"] < rows["leaky"]
        parts.append(
            f"{score} places the clean head at percentile {rows['clean'].median():.0f} and the leaky one at "
            f"{rows['leaky'].median():.0f}, the right way round in {int(right.sum())} of {len(rows)} worlds"
        )
    share = own[own["head"] == "leaky"]["planted"].mean()
    return Finding(
        "The paper has no such control.",
        f"Among random subspaces of the same dimension, {'; '.join(parts)} (the leaky head ignores "
        f"{100 * share:.0f} % of the shape, the clean one nothing).",
        "not in the paper",
        "Right way round: the clean head holds less of the shape, so its contrast stands higher, or its |AS| "
        "lower, than the leaky head's.",
    )


def calibrated(summary: pd.DataFrame, detected: pd.DataFrame) -> Finding:
    """Is a score proportional to what is planted, and from which share on does it show?"""
    parts = []
    for score in ("|AS|", "contrast"):
        own, found = summary[summary["score"] == score], detected[detected["score"] == score]
        steps = " and ".join(
            f"in {100 * one['monotone'].mean():.1f} % of steps with {setting}"
            for setting, one in own.groupby("setting", sort=False)
        )
        seen = found["detectable from"].dropna()
        parts.append(
            f"{score}: more planted moves it the right way {steps}; a straight line through the means over "
            f"worlds, rising or falling, has an R² of at least {own['linear'].min():.2f}; it stands out for "
            f"{len(seen)} of {len(found)} factors"
            + (f", from a share of {_between(seen)} on" if len(seen) else "")
        )
    return Finding(
        "The paper gives no scale: it calls a change visible from about 3° of AS on (appendix C).",
        ". ".join(parts) + ".",
        "not in the paper",
        "A share stands out if, from it on, four in five heads are beyond what 95 % of the heads stay "
        f"within that ignore nothing of the factor, whatever else they ignore. {SHARES[1]} is the smallest "
        "one tried.",
    )


def steered(table: pd.DataFrame) -> Finding:
    """Can steering reach what is ignored, and only that?"""
    own = table[table["direction"] == "toward the prompt"]
    ignored = own[own["planted"] == 1].groupby("seed")["reached"].mean()
    seen = own[own["planted"] == 0].groupby("seed")["reached"].mean()
    by_chance = table[(table["direction"] == "random") & (table["planted"] == 1)]
    random = by_chance.groupby("seed")["reached"].mean()
    most = own[own["planted"] == 0].groupby(["head", "factor"])["reached"].mean().sort_values()
    head, factor = most.index[-1]
    return Finding(
        "The paper steers features in the null space (Section 4.4) and does not ask whether the classifier "
        "ignores what is reached.",
        f"Read as the wanted level after the step: {_range(ignored)} of scenes where the head ignores the "
        f"factor, {_range(seen)} where it sees all of it, and {_range(random)} after a random null step of "
        f"the same IS where it is ignored (means and ranges over worlds). Of what is seen, {factor} is "
        f"reached most often, in {100 * most.iloc[-1]:.0f} % of scenes, by the head “{head}”.",
        "not in the paper",
        "A step toward something that is seen follows whatever else the translator makes of the null space; "
        "its length says how far it had to go.",
    )


def _between(shares: pd.Series) -> str:
    low, high = f"{shares.min():.2f}", f"{shares.max():.2f}"
    return low if low == high else f"{low} to {high}"


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

    Every line is chosen by the numbers of this run; another run may advise otherwise.
    """
    value = confounds.set_index(["condition", "quantity"])["value"]

    def of(quantity: str, condition: str = _AS_IT_SHOULD_BE) -> float:
        return float(value[condition, quantity])

    rows = [
        _enough(agreement, of),
        _clean(conclusions, of),
        _how_much(detected),
        _null_dimension(of),
        *_translator(of),
        _mean(of),
        _encoder(of),
        _wording(of, [c for c in confounds["condition"].unique() if c.startswith("reworded")]),
        _steering(steering),
    ]
    return pd.DataFrame(rows, columns=["question", "measured here", "advice"])


_Of = Callable[..., float]  # quantity and condition -> its mean over worlds
_AREA, _AREA_C = "ROC area by |AS|", "ROC area by contrast"
_TURN, _COSINE = "median IS of “clean” (°)", "cosine of Tf and z"


def _shape(score: str, head: str) -> str:
    return f"{score} of “{head}” toward the shape (°)"


def _enough(agreement: pd.DataFrame, of: _Of) -> Row:
    own = agreement[(agreement["factor"] == "all") & (agreement["statistic"] == "ROC area")]
    area, mean = own.set_index("score")["value"], "mean feature ignored"
    return (
        "Is |AS| enough to say that something is ignored?",
        f"ROC area {area['|AS|']:.2f} by |AS|, {area['contrast']:.2f} by contrast; where the mean feature is "
        f"ignored {of(_AREA, mean):.2f} and {of(_AREA_C, mean):.2f}",
        "Set the prompt beside the same prompt with other levels. |AS| also counts what removing everything "
        "else does, and so depends on what else is ignored."
        if area["contrast"] > area["|AS|"] + 0.02
        else "Here |AS| says as much as the contrast.",
    )


def _clean(conclusions: pd.DataFrame, of: _Of) -> Row:
    held = conclusions[conclusions["condition"] == _AS_IT_SHOULD_BE].set_index("short")
    worlds = int(held["of"].iloc[0])
    right, right_c = (int(held.loc[f"leaky by {s}", "worlds"]) for s in ("|AS|", "contrast"))
    return (
        "Does a small |AS| toward the class make a head clean?",
        f"toward the shape: |AS| {of(_shape('|AS|', 'clean')):.1f}° of the clean head, "
        f"{of(_shape('|AS|', 'leaky')):.1f}° of the leaky one, which has the larger in {right} of {worlds} "
        f"worlds; contrast {of(_shape('contrast', 'clean')):+.1f}° and "
        f"{of(_shape('contrast', 'leaky')):+.1f}°, lower for the leaky one in {right_c}",
        "As an order, here; but removing what has nothing to do with the class moves the angle to its prompt "
        "as well."
        if 2 * right > worlds
        else "No: without all else that it ignores, a clean head's feature is nearer to the prompt of its "
        "class, and |AS| counts that too. Compare contrasts, with each other or with a control's: 0 is not "
        "“nothing ignored”.",
    )


def _how_much(detected: pd.DataFrame) -> Row:
    own = detected[detected["score"] == "contrast"]["detectable from"]
    seen = own.dropna()
    return (
        "How much must be ignored before it shows?",
        f"contrast stands out for {len(seen)} of {len(own)} factors"
        + (f", from a share of {_between(seen)} on" if len(seen) else ""),
        f"Take the spread at zero from a control. Shares below {SHARES[1]} were not tried."
        if len(seen)
        else "Nothing can be read off a contrast alone.",
    )


def _null_dimension(of: _Of) -> Row:
    narrow, wide = of(_TURN, "null dimension × 0.5"), of(_TURN, "null dimension × 1.5")
    strong_narrow, strong = of(_TURN, "rest × 5, null dim. × 0.5"), of(_TURN, "rest × 5")
    return (
        "Can IS be compared between heads of different null dimension?",
        f"median IS of the clean head {narrow:.1f}° and {wide:.1f}° at null dimensions 32 and 96; "
        f"{strong_narrow:.1f}° and {strong:.1f}° at 32 and 64 where features carry much that belongs to no "
        "factor; what is planted is the same",
        "Here yes, because what fills the additional dimensions says nothing of any factor. That shows "
        "nothing about heads whose additional dimensions mean something."
        if max(abs(wide - narrow), abs(strong - strong_narrow)) < _MUCH * of(_TURN)
        else "Not without a control: the same planted truth gives other angles.",
    )


def _translator(of: _Of) -> list[Row]:
    few, blind, ridge = "translator: 100 scenes", "translator: null part unseen", "ridge × 100"
    return [
        (
            "How many scenes does a translator need?",
            f"from 100 scenes: cosine {of(_COSINE, few):.2f} instead of {of(_COSINE):.2f}, ROC area by "
            f"contrast {of(_AREA_C, few):.2f} instead of {of(_AREA_C):.2f}",
            "Believe no score without the held-out cosine beside it."
            if of(_AREA_C, few) < of(_AREA_C) - 0.02
            else "Even few gave the right order, with features as simple as these; not the same degrees.",
        ),
        (
            "Does AS = 0 mean that nothing is ignored?",
            f"translator that never saw null components: median IS of the clean head {of(_TURN, blind):.2f}° "
            f"instead of {of(_TURN):.1f}°",
            "No: a translator must have seen what it is asked about; otherwise every head looks clean."
            if of(_TURN, blind) < _MUCH * of(_TURN)
            else "Here a translator found null components without having seen any.",
        ),
        (
            "Does the ridge matter?",
            f"ridge × 100: median IS {of(_TURN, ridge):.1f}° instead of {of(_TURN):.1f}°, ROC area by "
            f"contrast {of(_AREA_C, ridge):.2f} instead of {of(_AREA_C):.2f}",
            "Compare degrees only between translators fitted by one rule."
            if abs(of(_TURN, ridge) - of(_TURN)) > _MUCH * of(_TURN)
            else "Little, here.",
        ),
    ]


def _mean(of: _Of) -> Row:
    mean = "mean feature ignored"
    return (
        "What does IS count?",
        f"median IS of the clean head {of(_TURN, mean):.1f}° with the mean feature in its null space, "
        f"{of(_TURN):.1f}° without",
        "Look where the mean feature lies before reading IS as meaning: a constant that says nothing of any "
        "picture turns every translated feature."
        if abs(of(_TURN, mean) - of(_TURN)) > _MUCH * of(_TURN)
        else "Here the mean feature makes little difference.",
    )


def _encoder(of: _Of) -> Row:
    weak = "weak encoder"
    gap, gap_weak = (
        of(_shape("contrast", "clean"), c) - of(_shape("contrast", "leaky"), c)
        for c in (_AS_IT_SHOULD_BE, weak)
    )
    unwarned = of(_COSINE, weak) > of(_COSINE) - 0.05
    return (
        "Does the encoder have to be good?",
        f"contrast toward the shape, clean minus leaky head: {gap_weak:.1f}° with the weak encoder, "
        f"{gap:.1f}° with the other; ROC area by contrast {of(_AREA_C, weak):.2f} and {of(_AREA_C):.2f}, "
        f"cosine {of(_COSINE, weak):.2f} and {of(_COSINE):.2f}",
        "Degrees shrink with what an encoder sees: never compare them between encoders"
        + (", and do not count on the cosine to warn." if unwarned else ".")
        if gap_weak < 0.5 * gap
        else "Here a weak one served as well.",
    )


def _wording(of: _Of, worded: list[str]) -> Row:
    leaky = _shape("contrast", "leaky")
    shift = max(abs(of(_AREA_C, c) - of(_AREA_C)) for c in worded)
    turned = max(abs(of(leaky, c) - of(leaky)) for c in worded)
    return (
        "Does the wording matter?",
        f"with other wordings the ROC area by contrast moves by at most {shift:.3f}, the leaky head's "
        f"contrast by at most {turned:.1f}°",
        "Report more than one wording."
        if shift > 0.02
        else "Little, for telling ignored from seen. The encoder knows all the words, and was trained with "
        "all but one of the wordings.",
    )


def _steering(steering: pd.DataFrame) -> Row:
    toward = steering[steering["direction"] == "toward the prompt"]
    ignored, seen = (toward[toward["planted"] == p] for p in (1.0, 0.0))
    reach, reach_seen = ignored["reached"].mean(), seen["reached"].mean()
    far, far_seen = ignored["step"].median(), seen["step"].median()
    return (
        "Does steering toward a concept show that it is ignored?",
        f"reached in {100 * reach:.0f} % of scenes where it is ignored, {100 * reach_seen:.0f} % where all "
        f"of it is seen; steps of {far:.1f} and {far_seen:.1f} times the feature's length (medians)",
        "Weak evidence: what the head sees is reached too, less often and by longer steps. Look at the "
        "step's length."
        if reach > reach_seen + 0.25 and far_seen > far
        else "Little by itself: it is reached nearly as often, or as easily, where it is not ignored.",
    )
