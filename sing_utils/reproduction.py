"""Paper, ours, agrees? Every claim of the paper beside what one run measured, with a verdict by its rule.

The claims and their rules are data (data/published/claims.yaml), one function judges each
(`sing_utils.reproduction_rules` and its neighbours), and nothing is adjusted by hand.
"""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pandas as pd

from sing_utils import (  # noqa: F401 (they register)
    reproduction_rules,
    reproduction_rules_classes,
    reproduction_rules_steering,
)
from sing_utils.published import Claim, Published
from sing_utils.reproduction_facts import RunFacts, needed
from sing_utils.reproduction_judging import JUDGES, Judgement
from sing_utils.reproduction_page import render
from sing_utils.results import Results

COLUMNS = ["id", "where", "claim", "measured", "n", "verdict", "rule", "note"]
_FOLLOWS = {
    "agrees": "they follow the pattern",
    "differs": "they do not follow the pattern",
    "undecided": "they leave it open",
}


def rows(results: Results, *, root: Path | None = None) -> pd.DataFrame:
    """One row a claim, figure or table of the paper: words only, made from the run's tables.

    Args:
        results: of the run.
        root: of the checkout; None: the one around the working folder.

    Returns:
        id, where, claim, measured (with units and intervals), n (over how many of what), verdict, rule,
        note (why the verdict, and what else to know).
    """
    published = Published(root)
    run = RunFacts(results, published)
    return pd.DataFrame([_row(claim, run) for claim in published.claims], columns=COLUMNS)


def page(results: Results, planted: Results | None = None, *, root: Path | None = None) -> str:
    """book/reproduction.md as MyST Markdown: all rows, where paper and code differ, and the controls.

    Args:
        results: of the run.
        planted: of a run of the planted profile, whose words fill the column `planted` of the controls.
        root: of the checkout; None: the one around the working folder.
    """
    published = Published(root)
    return render(rows(results, root=root), RunFacts(results, published), planted)


def _row(claim: Claim, run: RunFacts) -> dict[str, str]:
    found = _judged(claim, run)
    parts = [found.why, _pattern(claim, found), claim.note]
    rule = [claim.rule, found.rule, needed(claim.needs)]
    return {
        "id": claim.id,
        "where": claim.where,
        "claim": claim.claim,
        "measured": found.measured,
        "n": found.n,
        "verdict": found.verdict,
        "rule": " ".join(filter(None, rule)),
        "note": " ".join(_sentence(part) for part in parts if part),
    }


def _judged(claim: Claim, run: RunFacts) -> Judgement:
    if run.rehearsal:
        return Judgement(
            "", "", "not run", "a rehearsal: its weights are random, so no number means anything"
        )
    judge = JUDGES[claim.id]
    tables = [run.results.get(name) for name in judge.tables]
    notebook = claim.page.partition("#")[0]
    for name, table in zip(judge.tables, tables, strict=True):
        if table is None:
            return Judgement("", "", "not run", f"the table {name} is missing; notebook {notebook} makes it")
        if table.empty:
            return Judgement("", "", "not run", f"the table {name} of notebook {notebook} is empty")
    unlike = run.unlike(claim.needs)
    try:
        found = judge.function(dataclasses.replace(run, apart=bool(unlike)), *tables)
    except KeyError as error:
        why = f"a table of notebook {notebook} lacks {error.args[0]!r}: it was made by an older version"
        return Judgement("", "", "not run", why)
    if unlike:
        why = "; ".join(filter(None, [unlike, found.why]))
        return dataclasses.replace(found, verdict="not comparable", why=why)
    return found


def _pattern(claim: Claim, found: Judgement) -> str:
    """On whose classifiers a statement about classifiers was judged."""
    if not claim.pattern or found.verdict not in _FOLLOWS:
        return ""
    return f"judged on this run's own classifiers: {_FOLLOWS[found.verdict]}"


def _sentence(text: str) -> str:
    return f"{text[0].upper()}{text[1:].rstrip('.')}."
