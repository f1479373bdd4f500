"""Paper, ours, agrees? Every claim of the paper beside what one run measured, with one verdict by its rule.

Claims and rules are data (data/published/claims.yaml). A notebook's finding is judged when it is said, and
kept; what no notebook says is judged from tables by `sing_utils.paper.rules`. Both go through `judge`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import pandas as pd

from sing_utils.paper.published import Claim, Compare, Needs, Numbers, Published
from sing_utils.paper.rules import JUDGES, means
from sing_utils.show.findings import Finding, Verdict, pill, span, text

# CLIP ViT-L/14 with OpenAI's weights: the paper's, and Karlo's. Other weights make another space.
_ENCODERS = ("karlo", "open_clip:ViT-L-14")
_STEP = ("sports car", "jellyfish", 40.0)
_MOST, _FEW = 0.9, 0.5  # of the compared numbers: agree together, differ together
_REHEARSED = "a rehearsal: its weights are random, so no number means anything"


@dataclass(frozen=True)
class Facts:
    """What of a run decides about its claims.

    Attributes:
        parameters: of its profile, as run.json keeps them.
        table: name -> one of its tables, or None.
        published: what the paper says.
    """

    parameters: Mapping[str, Any]
    table: Callable[[str], pd.DataFrame | None]
    published: Published

    @property
    def level(self) -> float:
        """Confidence level of the run's intervals."""
        return float(self.parameters.get("confidence", 0.95))

    def published_ones(self, names: Sequence[str]) -> list[str]:
        """Of these the classifiers that the run has under that name and from the published weights."""
        sources = self.parameters.get("classifier_sources") or {}
        run = self.parameters.get("classifiers") or []
        known = self.published.classifiers
        return [n for n in names if n in run and sources.get(n, n) == known[n].source]

    def unlike(self, needs: Needs) -> str:
        """Why numbers of this run can't be compared with the paper's, in one clause; "" if they can."""
        wanted = needs.all_of or needs.any_of
        found = self.published_ones(wanted)
        parts = []
        if len(found) < (len(wanted) if needs.all_of else min(1, len(wanted))):
            parts.append(
                f"only {', '.join(found)} of {len(wanted)} classifiers" if found else "other classifiers"
            )
        encoder = str(self.parameters.get("encoder") or "one that is not recorded")
        if needs.encoder and not (
            encoder.partition(":")[0] == _ENCODERS[0]
            or (encoder.startswith(_ENCODERS[1]) and encoder.endswith("/openai"))
        ):
            parts.append(f"another encoder ({encoder})")
        if needs.classes and set((self.parameters.get("classes") or {}).values()) != self.published.classes:
            parts.append("photos of other classes")
        if needs.classes and self.parameters.get("prompt_template") != "an image of a {}":
            parts.append("other prompts")
        if needs.step and self._step() != _STEP:
            parts.append("another step")
        return ", ".join(parts)

    def _step(self) -> tuple[Any, ...]:
        targets = self.parameters.get("targets") or [None]
        return self.parameters.get("source_class"), targets[0], self.parameters.get("degrees")


def judge(claim: Claim, facts: Facts, said: Finding | None = None) -> Finding:
    """What a run says of a claim, with the claim's verdict.

    Args:
        claim: of claims.yaml.
        facts: of the run.
        said: a notebook's finding; None: judge from the run's tables.
    """
    if facts.parameters.get("rehearse"):
        return Finding("", "not run", why=_REHEARSED)
    if claim.checked:
        return Finding("", "holds")
    unlike = "" if claim.never else facts.unlike(claim.needs)
    if claim.never or unlike:
        return replace(said or Finding(""), verdict="not comparable", why=unlike)
    try:
        if claim.compare:
            found = _compared(claim.compare, facts)
            return replace(found, measured=f"{said.measured if said else ''} {found.measured}".strip())
        if claim.id in JUDGES:
            tables, function = JUDGES[claim.id]
            return function(facts.level, *(_table(facts, name) for name in tables))
    except KeyError as error:
        return Finding("", "not run", why=f"there is no {error.args[0]!r} of notebook {claim.page}")
    return said or Finding("", "not run", why=f"notebook {claim.page} has not said it")


def box(finding: Finding, claim: Claim | None = None) -> str:
    """A finding as a notebook shows it: a box beside the paper's claim, or a plain paragraph without one."""
    if claim is None:
        return f'<p class="sing-said">{text(finding.measured)}</p>'
    verdict = pill(finding.verdict) + (
        f' <span class="sing-why">{text(finding.why)}</span>' if finding.why else ""
    )
    cells = {
        "Paper": f"{text(claim.claim)} <span class='sing-where'>({text(claim.where)})</span>",
        "This run": text(finding.measured) or "no number",
        "Verdict": verdict,
    }
    listed = "".join(f"<dt>{name}</dt><dd>{cell}</dd>" for name, cell in cells.items() if cell)
    rule = " ".join(filter(None, [claim.how, f"Over {finding.n}." if finding.n else ""]))
    return (
        f'<div class="sing-finding" role="note" aria-label="{text(claim.where)}"><dl>{listed}</dl>'
        f"<details><summary>How it is judged</summary><p>{text(rule)}</p></details></div>"
    )


# ------------------------------------------------------------------------------ numbers beside numbers


def _table(facts: Facts, name: str) -> pd.DataFrame:
    table = facts.table(name)
    if table is None or table.empty:
        raise KeyError(name)
    return table


def _compared(compare: Compare, facts: Facts) -> Finding:
    """Verdict over all names that both have."""
    own, numbers = _table(facts, compare.table), facts.published.numbers[compare.numbers]
    for column, value in compare.where.items():
        own = own[own[column] == value]
    if compare.by == "classifier":
        own = own[own["classifier"].isin(facts.published_ones(list(numbers.values)))]
    own = own[own[compare.by].isin(numbers.values)]
    if compare.sd:
        own = means(own, compare.column, compare.sd, compare.n, facts.level)
    verdicts: list[Verdict] = []
    apart = []
    for row in own.to_dict("records"):
        verdicts.append(beside(row, numbers, row[compare.by]))
        if verdicts[-1] == "differs":
            theirs = f"{numbers.values[row[compare.by]]:g} ± {numbers.error(row[compare.by]):g}{numbers.unit}"
            apart.append(f"{row[compare.by]} {span(row, numbers.unit)} against {theirs}")
    words = f"{verdicts.count('agrees')} of {len(verdicts)} within the published value and its error"
    words += f"; apart: {', '.join(apart)}" if apart else ""
    return Finding(f"{words}.", together(verdicts), f"{len(verdicts)} of {len(numbers.values)} numbers")


def beside(row: Mapping[str, Any], numbers: Numbers, name: str) -> Verdict:
    """Does an interval overlap published ± error? One that does only because it is wide says nothing."""
    low, high, published, error = row["low"], row["high"], numbers.values[name], numbers.error(name)
    if math.isnan(low) or math.isnan(high):
        return "undecided"
    slack = 1e-9  # an interval that ends where the other begins touches it
    if low > published + error + slack or high < published - error - slack:
        return "differs"
    return "undecided" if high - low > numbers.widest else "agrees"


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
