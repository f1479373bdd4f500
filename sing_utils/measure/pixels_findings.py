"""What follows from pictures that were searched for, in words made from numbers."""

from __future__ import annotations

from collections.abc import Mapping

import pandas as pd

from sing_utils.measure.pixels import JUDGE, NOISE, REMOVAL, STEP, TRANSLATOR, WHOLE
from sing_utils.show.findings import Finding, counted, number, span


def opening(
    seen: pd.DataFrame, ways: pd.DataFrame, gap: Mapping[str, float], target: str, budget: str
) -> Finding:
    """Notebook 08: what follows for the paper's security claim, and for the translator as a witness.

    The claim is borne out on pictures if the translator's AS is above zero, and the translator is no witness
    of them if it is above the judge's, photograph by photograph; intervals decide.

    Args:
        seen: of `sing_utils.measure.pixels.summary`, by what was wanted.
        ways: of `sing_utils.measure.pixels.ways`.
        gap: of `sing_utils.measure.pixels.gap`.
        target: what the steps are toward.
        budget: of the search.
    """
    AS = seen[(seen["score"] == "AS") & (seen["wanted"] == STEP)].set_index("seen by")
    own, judge, way = AS.loc[TRANSLATOR], AS.loc[JUDGE], ways.set_index("wanted").loc[STEP]
    first = (
        f"Pictures within {budget} of a photograph bring its translated feature "
        f"{span(own, digits=1, sign=True)} toward “{target}”, of "
        f"{number(way['wanted AS'], 1, sign=True)}° wanted, while logits move by "
        f"{number(way['logits moved (%)'], 1)} % of the largest; the "
        f"judge, which looks at the pictures, sees {span(judge, sign=True)} (intervals over "
        f"{counted([own['photos']], 'photographs')})."
    )
    share = f"{number(100 * own['value'] / way['wanted AS'], 0)} %"
    if pd.isna(own["low"]):
        second = "One photograph says nothing of others."
    elif own["low"] <= 0:
        second = (
            "So on pictures this search does not bear out the paper's warning that meaning can be "
            "manipulated, and puts the translator to no test."
        )
    elif gap["low"] > 0:
        second = (
            f"So pictures carry out {share} of the AS that the paper warns of, for whoever reads the "
            "feature; and as the judge does not see what the translator reads, the translator alone is no "
            "witness of what a picture shows."
        )
    else:
        second = (
            f"So pictures carry out {share} of the AS that the paper warns of; these photographs do not show "
            "that the judge sees less of it than the translator."
        )
    return Finding(f"{first} {second}")


def witnesses(seen: pd.DataFrame, ways: pd.DataFrame) -> Finding:
    """How much of what is wanted is found, and whether the judge is turned more than by noise."""
    made = ways.set_index("wanted")["step made (%)"]
    IS = seen[(seen["score"] == "IS") & (seen["seen by"] == JUDGE)].set_index("wanted")
    AS = seen[(seen["score"] == "AS") & (seen["seen by"] == TRANSLATOR)].set_index("wanted")
    free = f"; with the logits free, {number(made[WHOLE], 0)} %" if WHOLE in made else ""
    return Finding(
        f"The search makes {number(made[STEP], 0)} % of the wanted null step{free}. The judge's embedding "
        f"of the picture turns by {span(IS.loc[STEP], digits=1)}, and by {span(IS.loc[NOISE], digits=1)} for "
        f"the same changes shuffled among the pixels, which bring the translator "
        f"{span(AS.loc[NOISE], sign=True)} toward the target.",
        n=counted(seen["photos"], "photographs"),
    )


def varied(seen: pd.DataFrame, ways: pd.DataFrame) -> Finding:
    """What the search that goes farthest finds, and at what price: from a summary and `ways` by search."""
    AS = seen[seen["score"] == "AS"].set_index(["seen by", "search"])
    best = AS.loc[TRANSLATOR]["value"].idxmax()
    way = ways.set_index("search").loc[best]
    return Finding(
        f"The search that goes farthest ({best}) brings the translator "
        f"{span(AS.loc[(TRANSLATOR, best)], digits=1, sign=True)} toward the target and the judge "
        f"{span(AS.loc[(JUDGE, best)], sign=True)}. It makes {number(way['step made (%)'], 0)} % of the "
        f"wanted step, moves logits by {number(way['logits moved (%)'], 0)} % of the largest, and keeps the "
        f"top class of {int(way['top-1 kept'])} of {int(way['photos'])} photographs."
    )


def others(seen: pd.DataFrame, short: dict[str, str]) -> Finding:
    """Does the change carry over to other classifiers? From a summary by what was wanted."""
    AS, noise = (
        seen[(seen["score"] == "AS") & (seen["wanted"] == wanted)].set_index("seen by")
        for wanted in (STEP, NOISE)
    )
    rest = [w for w in AS.index if w not in (TRANSLATOR, JUDGE)]
    if not rest:
        return Finding("This run has no second classifier to look at the pictures.")
    told = "; ".join(
        f"{short[w]} {span(AS.loc[w], sign=True)}, for noise {number(noise['value'][w], sign=True)}°"
        for w in rest
    )
    return Finding(
        f"Toward the target, by their own translators: {told}; the searched classifier "
        f"{span(AS.loc[TRANSLATOR], sign=True)}."
    )


def removal(main: pd.DataFrame, pairs: pd.DataFrame) -> Finding:
    """How near a picture comes to null removal: from searches near all photographs, and near chosen ones."""
    named = {"all photographs": main[main["wanted"] == REMOVAL]}
    named |= {f"{kind} ones": own for kind, own in pairs.groupby("group")}
    told = []
    for name, own in named.items():
        own = own[own["seen by"] == TRANSLATOR]
        told.append(
            f"{name} {number(100 * own['step made'].mean(), 0)} % (IS {number(own['IS'].mean(), 1)}°, wanted "
            f"{number(own['wanted IS'].mean(), 1)}°)"
        )
    end = "" if len(pairs) else " Pairs need the photographs, of which this run has only features."
    return Finding(f"Of the wanted step the pictures make near {'; '.join(told)}.{end}")
