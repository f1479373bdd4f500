"""The page book/reproduction.md: one table whose rows unfold, in three groups."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pandas as pd

from sing_utils.paper.claims import Facts, judge
from sing_utils.paper.published import Claim, Published
from sing_utils.runs.results import Results
from sing_utils.show.findings import Finding, pill, text

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
_HEAD = """# Paper, ours, agrees?

Each row sets one claim of *Make It Sing* {cite:p}`makeitsing` beside what this run measured. A verdict
follows by a rule that was written before; no number is adjusted by hand. Unfold a row for the rule and for
where its number comes from. The [glossary](glossary.md) explains the words."""
_CODE = """## Where the paper and its public code differ

The authors have published code that analyses one image at a time. In these points it does something else than
the paper says."""
_CONTROLS = """## What the controls say

The paper has no controls. [Appendix: controls](../notebooks/02b_controls.ipynb) shows each, and asks the
same of a [planted world](../notebooks/06_planted.ipynb), where the answer is known."""
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
    claims = {claim.id: claim for claim in facts.published.claims}
    parts = [_HEAD, _raw(_counts(judged)), _raw(_run_card(results, facts))]
    for group, (title, words) in GROUPS.items():
        own = judged[judged["group"] == group].to_dict("records")
        shown = "\n".join(_claim_row(claims[r["id"]], r) for r in own)
        parts += [f"## {title}\n\n{words}", _raw(_table(("Claim", "Paper", "Here", "Verdict"), shown))]
    parts += ["## The paper's figures and tables, here", _raw(_figures(claims.values()))]
    parts += [_CODE, _raw(_differences(facts))]
    controls = results.get("controls")
    if controls is not None and len(controls):
        parts += [_CONTROLS, _raw(_controls(controls))]
    return "\n\n".join(parts) + "\n"


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


# ------------------------------------------------------------------------------------------ the parts


def _counts(judged: pd.DataFrame) -> str:
    """How many of each group have which verdict."""
    items = []
    for group, (title, _) in GROUPS.items():
        counts = judged[judged["group"] == group]["verdict"].value_counts()
        pills = " ".join(f"{count} {pill(verdict)}" for verdict, count in counts.items())
        items.append(f"<li><strong>{title}</strong>: {pills}</li>")
    return f'<ul class="sing-counts" aria-label="Verdicts">{"".join(items)}</ul>'


def _claim_row(claim: Claim, row: Mapping[str, str]) -> str:
    here = row["measured"] or claim.checked or claim.never
    rule = "" if here == claim.never else claim.how
    more = {"Rule": rule, "Why": row["why"], "Over": row["n"], "Note": claim.note}
    listed = "".join(f"<dt>{name}</dt><dd>{text(words)}</dd>" for name, words in more.items() if words)
    where = f'<a href="../notebooks/{claim.page}.html">notebook {claim.page.partition("_")[0]}</a>'
    return (
        f'<tr id="claim-{claim.id}"><td><details><summary>{text(claim.claim)}</summary>'
        f"<dl>{listed}<dt>From</dt><dd>{where}</dd></dl></details></td>"
        f"<td>{text(claim.where)}</td><td>{text(here) or '–'}</td>"
        f"<td>{pill(row['verdict'])}</td></tr>"
    )


def _figures(claims: Iterable[Claim]) -> str:
    lines = (
        f"<tr><td>{figure}</td><td>"
        + ", ".join(
            f'<a href="../notebooks/{p}.html">notebook {text(p.partition("_")[0])}</a>' for p in pages
        )
        + "</td></tr>"
        for figure, pages in figures(claims).items()
    )
    return _table(("Paper", "Here"), "".join(lines))


def _differences(facts: Facts) -> str:
    lines = (
        f"<tr><td>{text(d.item)}</td><td>{text(d.paper)}</td><td>{text(d.code)}</td>"
        f"<td>{text(d.ours)} <em>({text(d.follows)})</em></td></tr>"
        for d in facts.published.differences
    )
    return _table(("What", "Paper", "Code", "This book (follows)"), "".join(lines))


def _controls(controls: pd.DataFrame) -> str:
    lines = (
        f"<tr>{''.join(f'<td>{text(cell)}</td>' for cell in row)}</tr>"
        for row in controls.fillna("").itertuples(index=False)
    )
    return _table([text(str(name).capitalize()) for name in controls], "".join(lines))


def _run_card(results: Results, facts: Facts) -> str:
    record, parameters = results.record, facts.parameters
    code: dict[str, Any] = record.get("code") or {}
    cells = {
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
        "Weights and pictures": "; ".join(_flat(record.get("revisions"))) or None,
    }
    listed = "".join(f"<dt>{n}</dt><dd>{text(w or 'not recorded')}</dd>" for n, w in cells.items())
    name = f"<summary>The run “{text(results.run)}”</summary>"
    return f'<details class="sing-run">{name}<dl>{listed}</dl></details>'


def _flat(value: Any, path: str = "") -> Iterator[str]:
    """Leaves of nested revisions as lines.

    >>> list(_flat({"a": {"b": 1, "c": None}}))
    ['a, b: 1']
    """
    if isinstance(value, Mapping):
        for key, inner in value.items():
            yield from _flat(inner, f"{path}, {key}" if path else str(key))
    elif isinstance(value, list | tuple):
        for inner in value:
            yield from _flat(inner, path)
    elif value is not None:
        yield f"{path}: {value}" if path else str(value)


def _table(head: Iterable[str], body: str) -> str:
    """A table that takes the page's margin on a wide screen, and is cards on a phone."""
    cells = "".join(f'<th scope="col">{cell}</th>' for cell in head)
    table = f'<table class="sing-claims"><thead><tr>{cells}</tr></thead><tbody>{body}</tbody></table>'
    return f'<div class="full-width">{table}</div>'


def _raw(words: str) -> str:
    """HTML in MyST; nothing in it is read as Markdown."""
    return f"``````{{raw}} html\n{words}\n``````"
