"""Judging one claim: the registry of the functions that do, and the arithmetic that they share."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from scipy import stats

from sing_utils.findings import Finding, Verdict, span
from sing_utils.intervals import bootstrap, student_margin
from sing_utils.published import Numbers
from sing_utils.reproduction_facts import RunFacts
from sing_utils.tables_steering import DIRECTIONS

_MOST, _FEW = 0.9, 0.5  # of the compared numbers: agree together, differ together


@dataclass(frozen=True)
class Judgement:
    """What a run says of one claim.

    Attributes:
        measured: numbers with units and intervals.
        n: over how many of what.
        verdict: by the claim's rule.
        why: in one short clause, where that needs saying.
        rule: of the notebook's own finding, added to the claim's.
    """

    measured: str
    n: str
    verdict: Verdict
    why: str = ""
    rule: str = ""


@dataclass(frozen=True)
class Judge:
    """The function that judges a claim, and the tables that it needs."""

    tables: tuple[str, ...]
    function: Callable[..., Judgement]


JUDGES: dict[str, Judge] = {}


def judges(claim: str, *tables: str) -> Callable[[Callable[..., Judgement]], Callable[..., Judgement]]:
    """Register a function(run, *tables) for a claim by its id in claims.yaml."""

    def register(function: Callable[..., Judgement]) -> Callable[..., Judgement]:
        if claim in JUDGES:
            raise ValueError(f"{claim} has two functions")
        JUDGES[claim] = Judge(tables, function)
        return function

    return register


def from_finding(finding: Finding, n: str) -> Judgement:
    """A notebook's finding as it stands: its verdict, its words, its rule."""
    return Judgement(finding.measured, n, finding.verdict, rule=finding.rule)


# ------------------------------------------------------------------------------ numbers beside numbers


def beside(low: float, high: float, published: float, error: float, widest: float) -> Verdict:
    """Does an interval overlap published ± error? One that does only because it is wide says nothing.

    >>> beside(1.0, 1.2, 1.3, 0.1, 2.0), beside(1.0, 1.1, 1.3, 0.1, 2.0), beside(0.0, 3.0, 1.3, 0.1, 2.0)
    ('agrees', 'differs', 'undecided')
    """
    if math.isnan(low) or math.isnan(high):
        return "undecided"
    slack = 1e-9  # an interval that ends where the other begins touches it
    if low > published + error + slack or high < published - error - slack:
        return "differs"
    return "undecided" if high - low > widest else "agrees"


def together(verdicts: Sequence[Verdict]) -> Verdict:
    """Of many comparisons one: agrees if nine in ten of the decided ones do, differs if fewer than half.

    >>> together(["agrees"] * 9 + ["differs"]), together(["agrees", "differs"]), together(["undecided"])
    ('agrees', 'undecided', 'undecided')
    """
    decided = [v for v in verdicts if v != "undecided"]
    if not decided:
        return "undecided"
    share = decided.count("agrees") / len(decided)
    return "agrees" if share >= _MOST else "differs" if share < _FEW else "undecided"


def compare(own: pd.DataFrame, key: str, published: Numbers) -> tuple[Verdict, str, int]:
    """Verdict over all names that both have, its words, how many agree; `own`: value, low, high by `key`."""
    verdicts: list[Verdict] = []
    apart, wide = [], 0
    for row in own[own[key].isin(published.values)].to_dict("records"):
        name, error = row[key], published.error(row[key])
        verdict = beside(row["low"], row["high"], published.values[name], error, published.widest)
        verdicts.append(verdict)
        wide += verdict == "undecided"
        if verdict == "differs":
            ours = span(row, published.unit)
            apart.append(f"{name} {ours} against {published.values[name]:g} ± {error:g}{published.unit}")
    agree = verdicts.count("agrees")
    words = f"{agree} of {len(verdicts)} within the published value and its error"
    words += f"; {wide} without an answer" if wide else ""
    words += f"; apart: {', '.join(apart)}" if apart else ""
    return together(verdicts), words, agree


def above(low: float, high: float, limit: float) -> Verdict:
    """Does an interval lie above a limit? Agrees above, differs below, else undecided."""
    return "agrees" if low > limit else "differs" if high < limit else "undecided"


def opposite(verdict: Verdict) -> Verdict:
    """Agrees for differs and the other way round."""
    swapped: dict[Verdict, Verdict] = {"agrees": "differs", "differs": "agrees"}
    return swapped.get(verdict, verdict)


# -------------------------------------------------------------------------------- numbers from tables


def median_of_size(scores: pd.DataFrame, run: RunFacts) -> pd.DataFrame:
    """Median |AS| over photos with its bootstrap interval: one row a classifier, degrees."""
    sizes = scores.assign(size=scores["AS"].abs())
    return bootstrapped(sizes, "size", lambda a: np.median(a, -1), run).rename(columns={"n": "photos"})


def deviation(table: pd.DataFrame, column: str, run: RunFacts) -> pd.DataFrame:
    """Standard deviation over rows (photos, or classes) with its bootstrap interval: one row a classifier."""
    return bootstrapped(table, column, lambda a: a.std(-1, ddof=1), run)


def bootstrapped(
    table: pd.DataFrame, column: str, statistic: Callable[[np.ndarray], np.ndarray], run: RunFacts
) -> pd.DataFrame:
    """A statistic of a column over each classifier's n rows, with its bootstrap interval."""
    rows = []
    for name, own in table.groupby("classifier", sort=False):
        x = own[column].to_numpy()
        row = {"classifier": name, "n": len(x), "value": math.nan, "low": math.nan, "high": math.nan}
        if len(x) > 1:
            ci = bootstrap(statistic, x, level=run.level, draws=1000)
            row |= {"value": ci.value, "low": ci.low, "high": ci.high}
        elif len(x):
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", RuntimeWarning)  # one value has no deviation: NaN
                row["value"] = float(statistic(x))
        rows.append(row)
    return pd.DataFrame(rows)


def step_means(steering: pd.DataFrame, run: RunFacts, what: str = "|AS|") -> pd.DataFrame:
    """Mean |AS| (or AS) of directed steps with its interval over photos: one row a classifier, degrees."""
    own = steering[steering["direction"] == DIRECTIONS[0]]
    means = with_interval(own[f"{what} mean"], own[f"{what} sd"], own["reached"], run)
    return means.assign(classifier=own["classifier"], photos=own["reached"])


def with_interval(mean: Any, sd: Any, n: Any, run: RunFacts) -> pd.DataFrame:
    """Means of n values with Student's t intervals: value, low, high."""
    value = pd.Series(mean, dtype=float)
    half = student_margin(sd, n, level=run.level)
    return pd.DataFrame({"value": value, "low": value - half, "high": value + half})


# ---------------------------------------------------------------------------------------------- words


def spans(table: pd.DataFrame, unit: str = "°", digits: int = 2) -> str:
    """`span` of each classifier."""
    return "; ".join(f"{r['classifier']} {span(r, unit, digits)}" for r in table.to_dict("records"))


def share(k: float, n: float, run: RunFacts) -> str:
    """Share of k in n, in percent, with the exact binomial interval."""
    ends = stats.binomtest(int(k), int(n)).proportion_ci(run.level)
    return f"{100 * k / n:.0f} % ({100 * ends.low:.0f} to {100 * ends.high:.0f} %)"


def counted(numbers: Sequence[float], what: str = "photos a classifier") -> str:
    """How many, if it is the same for all; else from how many to how many.

    >>> counted([900, 900]), counted([50, 60])
    ('900 photos a classifier', '50 to 60 photos a classifier')
    """
    if not len(numbers):
        return f"no {what}"
    low, high = int(min(numbers)), int(max(numbers))
    return f"{low} {what}" if low == high else f"{low} to {high} {what}"


def between(angles: Sequence[float], digits: int) -> str:
    """From the smallest to the largest, in degrees.

    >>> between([7.85, 9.1], 1), between([7.86, 7.91], 1)
    ('7.8 to 9.1°', '7.9°')
    """
    low, high = f"{min(angles):.{digits}f}", f"{max(angles):.{digits}f}"
    return f"{low}°" if low == high else f"{low} to {high}°"
