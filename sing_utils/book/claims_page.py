"""The page book/reproduction.md: one table whose rows unfold, in three groups."""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pandas as pd

from sing_utils.book.templates import render
from sing_utils.paper.claims import Facts, judge
from sing_utils.paper.published import Claim, Published
from sing_utils.runs.results import Results
from sing_utils.show.findings import Finding

COLUMNS = ["id", "group", "where", "claim", "measured", "n", "verdict", "why"]
GROUPS = {
    "identity": (
        "Holds by construction, checked",
        "Linear algebra, the triangle inequality, determinism: these could not come out otherwise, and a run "
        "makes sure that its code is right.",
    ),
    "measured": (
        "Measured here",
        "Claims about classifiers, translators and pictures in general, judged on those of this run.",
    ),
    "paper": (
        "Needs the paper's models",
        "Claims about the paper's own five models, and those for which it prints nothing to compare with.",
    ),
}
_FIGURE = re.compile(r"(Figure|Table)s? (\d+)([ab]?)(?: (to|and) (\d+))?")


def facts_of(results: Results, root: Path | None = None) -> Facts:
    """The facts of a finished run."""
    record = results.record
    parameters = dict(record.get("parameters") or {})
    if record.get("rehearsal") or results.run.endswith("-rehearsal"):
        parameters["rehearse"] = True
    return Facts(parameters, results.get, Published(root))


def rows(results: Results, *, root: Path | None = None) -> pd.DataFrame:
    """One row a claim, in the order of claims.yaml: what the run said of it, else what its tables say.

    Args:
        results: of the run.
        root: of the checkout; None: the one around the working folder.
    """
    facts = facts_of(results, root)
    said = said_by(results)
    found = []
    for claim in facts.published.claims:
        own = said.get(claim.id) or judge(claim, facts, said.get(claim.finding))
        found.append(
            {**vars(own), "id": claim.id, "group": claim.group, "where": claim.where, "claim": claim.claim}
        )
    return pd.DataFrame(found, columns=COLUMNS)


def said_by(results: Results) -> dict[str, Finding]:
    """Everything that a run's notebooks said, by the id of its claim or opening."""
    table = results.get("findings")
    if table is None:
        return {}
    records = table.fillna("").to_dict("records")
    return {r["id"]: Finding(r["measured"], r["verdict"], r["n"], r["why"]) for r in records}


def page(results: Results, *, root: Path | None = None) -> str:
    """book/reproduction.md as MyST Markdown.

    Args:
        results: of the run.
        root: of the checkout; None: the one around the working folder.
    """
    facts, judged = facts_of(results, root), rows(results, root=root)
    claims, controls = facts.published.claims, results.get("controls")
    return render(
        "reproduction.md",
        run=results.run,
        card=_run_card(results, facts),
        groups=GROUPS,
        counts={group: own.value_counts() for group, own in judged.groupby("group")["verdict"]},
        rows=list(zip(claims, judged.to_dict("records"), strict=True)),
        figures=figures(claims),
        differences=facts.published.differences,
        controls=[] if controls is None else controls.fillna("").to_dict("records"),
    )


def figures(claims: Iterable[Claim]) -> dict[str, list[str]]:
    """Each figure and table of the paper -> the notebooks that have it.

    >>> figures(Published().claims)["Figure 3a"]
    ['02_model_comparison']
    """
    found: dict[tuple[str, int, str], dict[str, None]] = {}
    for claim in claims:
        for kind, first, part, _, last in _FIGURE.findall(claim.where):
            for which in range(int(first), int(last or first) + 1):
                found.setdefault((kind, which, part), {})[claim.page] = None
    return {f"{kind} {which}{part}": list(found[kind, which, part]) for kind, which, part in sorted(found)}


def _run_card(results: Results, facts: Facts) -> dict[str, Any]:
    """What the page says of the run, None where its record is silent."""
    record, parameters = results.record, facts.parameters
    code: dict[str, Any] = record.get("code") or {}
    revisions = pd.json_normalize(record.get("revisions") or {}, sep=", ").to_dict("records")[0]
    return {
        "Profile": record.get("profile"),
        "Classifiers": ", ".join(parameters.get("classifiers") or []),
        "Encoder": parameters.get("encoder"),
        "Pictures": parameters.get("picture_backend"),
        "Classes": len(parameters.get("classes") or []) or None,
        "Intervals": f"{100 * facts.level:g} %",
        "Date": record.get("date"),
        "Code": f"commit {code['commit']}{' with changes' if code.get('dirty') else ''}"
        if code.get("commit")
        else None,
        "Weights and pictures": "; ".join(
            f"{name}: {what}" for name, what in revisions.items() if what is not None
        ),
    }
