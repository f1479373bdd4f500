"""The page book/reproduction.md: cards instead of a wide table, so that a phone shows it whole."""

from __future__ import annotations

import html
from collections.abc import Iterator, Mapping
from typing import Any

import pandas as pd

from sing_utils.claims_controls import claims_under_controls
from sing_utils.published import Claim, Difference
from sing_utils.reproduction_facts import RunFacts
from sing_utils.results import Results

CONTROLS = "claims_under_controls"  # claim, where, control, embedded, planted
VERDICTS = {
    "agrees": "what this run measured fits what the paper says, by the rule of that card.",
    "differs": "it does not fit, by the same rule.",
    "undecided": "the intervals are too wide, or classifiers of this run say different things.",
    "not comparable": "the numbers are not of the same thing; the card says what differs.",
    "not run": "this run has no number for it; the card says why.",
}
_FOLLOWS = {
    "paper": "the paper",
    "code": "the code",
    "both": "both: it has either",
    "neither": "neither",
}


def render(rows: pd.DataFrame, run: RunFacts, planted: Results | None) -> str:
    """The page as MyST Markdown.

    Args:
        rows: of `sing_utils.reproduction.rows`.
        run: facts of the run that they come from.
        planted: a run of the planted profile, for the last section.
    """
    by_id = rows.set_index("id").to_dict("index")
    parts = ["# Paper, ours, agrees?", _raw(_lead(rows, run)), _raw(_summary(rows)), _HOW, _raw(_rules())]
    parts += ["## This run", _raw(_run_card(run)), "## The claims of the paper"]
    section = ""
    for claim in run.published.claims:
        if claim.section != section:
            section = claim.section
            parts.append(f"### {section}")
        parts.append(_raw(_claim_card(claim, by_id[claim.id])))
    parts += ["## Where the paper and its public code differ", _CODE]
    parts += [_raw("\n".join(map(_difference_card, run.published.differences)))]
    parts += ["## The paper's claims under controls", _CONTROL, _raw(_controls(run.results, planted))]
    return "\n\n".join(parts) + "\n"


# ------------------------------------------------------------------------------------------- the text


_HOW = """## How to read it

Each card sets one claim, figure or table of *Make It Sing* {cite:p}`makeitsing` beside the run. The rule by
which its verdict follows was written before; unfold it on the card. No number here is adjusted by hand, and a
verdict is about this run only. The [glossary](glossary.md) explains the words."""

_CODE = """The authors have published code that analyses one image at a time. In these points it does
something else than the paper says."""

_CONTROL = """Each claim again, under one control at a time: what stays of it in this run's pictures; what in
the [planted world](../notebooks/06_planted.ipynb), where the answer is known; and in a run of the profile
`planted`, which measures four heads of that world as if they were classifiers like any other (if there is
one: `sing run --profile planted`). A low contrast means that the null component holds much of the class, a
high one that it holds little."""


def _lead(rows: pd.DataFrame, run: RunFacts) -> str:
    if run.rehearsal:
        text = "This run is a rehearsal: its weights are random, so it says nothing of the paper."
    else:
        text = (
            f"What the paper says, what the run “{run.results.run}” measured, and whether the two agree: "
            f"{len(rows)} claims, figures and tables, one card each."
        )
    return f'<p class="sing-lead">{_text(text)}</p>'


def _summary(rows: pd.DataFrame) -> str:
    """How many rows have each verdict, with a link to each of them."""
    items = []
    for verdict in VERDICTS:
        own = rows[rows["verdict"] == verdict]
        links = " · ".join(
            f'<a href="#claim-{r["id"]}">{_text(_short(r["id"]))}</a>' for r in own.to_dict("records")
        )
        summary = f'<summary aria-label="which: {verdict}">which</summary>'
        folded = f"<details>{summary}<p>{links}</p></details>" if len(own) else ""
        items.append(
            f"<li {_class('sing-count', verdict)}><strong>{len(own)}</strong> {verdict}{folded}</li>"
        )
    return f'<ul class="sing-counts" aria-label="Verdicts">{"".join(items)}</ul>'


def _short(claim_id: str) -> str:
    return claim_id.replace("-", " ")


def _rules() -> str:
    cells = "".join(f"<dt>{name}</dt><dd>{_text(words)}</dd>" for name, words in VERDICTS.items())
    return f'<div class="sing-finding sing-plain"><dl>{cells}</dl></div>'


# ------------------------------------------------------------------------------------------- the cards


def _claim_card(claim: Claim, row: Mapping[str, str]) -> str:
    notebook, _, anchor = claim.page.partition("#")
    cells = _cells(
        {
            "Paper": row["claim"],
            "This run": row["measured"] or "no number",
            "Over": row["n"],
            "Verdict": row["verdict"],
        }
    )
    note = f'<p class="sing-rule">{_text(row["note"])}</p>' if row["note"] else ""
    name = _text(f"{claim.where}: {row['verdict']}")
    return (
        f'<article id="claim-{claim.id}" {_class("sing-finding", row["verdict"])} aria-label="{name}">'
        f'<p class="sing-where"><a href="#claim-{claim.id}">{_text(row["where"])}</a></p>'
        f"<dl>{cells}</dl>{note}"
        f"<details><summary>The rule</summary><p>{_text(row['rule'])}</p></details>"
        f'<p class="sing-from"><a href="../notebooks/{notebook}.html#{anchor}">'
        f"Notebook {notebook[:2]}: where the numbers come from</a></p></article>"
    )


def _difference_card(point: Difference) -> str:
    cells = _cells(
        {
            "What": point.item,
            "Paper": point.paper,
            "Code": point.code,
            "This book": point.ours,
            "Follows": _FOLLOWS[point.follows],
        }
    )
    return f'<article class="sing-finding" aria-label="{_text(point.item)}"><dl>{cells}</dl></article>'


def _run_card(run: RunFacts) -> str:
    record = run.results.record
    code: dict[str, Any] = record["code"] if isinstance(record.get("code"), dict) else {}
    changed = " with changes" if code.get("dirty") else ""
    cells = _cells(
        {
            "Profile": run.profile,
            "Classifiers": ", ".join(run.sources),
            "Encoder": run.encoder or "not recorded",
            "Classes": str(len(run.classes)),
            "Intervals": f"{100 * run.level:g} %",
            "Date": str(record.get("date") or "not recorded"),
            "Code": f"commit {code['commit']}{changed}" if code.get("commit") else "not recorded",
        }
    )
    lines = "".join(f"<li>{_text(line)}</li>" for line in _flat(record.get("revisions")))
    shown = lines or "<li>not recorded</li>"
    return (
        f'<div class="sing-finding sing-plain"><dl>{cells}</dl><details><summary>Revisions of weights and '
        f"pictures</summary><ul>{shown}</ul></details></div>"
    )


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


# ---------------------------------------------------------------------------------------- the controls


def _controls(results: Results, planted: Results | None) -> str:
    table = control_table(results, planted)
    if table is None:
        return "<p>Not run: no run has left a table of claims under controls.</p>"
    cards = []
    for (claim, where), own in table.groupby(["claim", "where"], sort=False):
        cells = "".join(
            f"<dt>{_text(r['control'])}</dt><dd>{_cell('This run', r['embedded'] or 'not run')}"
            f"{_cell('Planted world', r['planted'])}{_cell('Planted profile', r['profile'])}</dd>"
            for r in own.to_dict("records")
        )
        cards.append(
            f'<article class="sing-finding sing-plain sing-controls" aria-label="{_text(claim)}">'
            f"<p><strong>{_text(claim)}</strong> <span>({_text(where)})</span></p><dl>{cells}</dl></article>"
        )
    return "\n".join(cards)


def control_table(results: Results, planted: Results | None) -> pd.DataFrame | None:
    """Words for each claim and control, in the run and, as `profile`, in a run of the planted profile.

    None if the run has no such words.
    """
    own = results.get(CONTROLS)
    if own is None:
        return None
    other = None
    if planted is not None:
        made = planted.get(CONTROLS)  # by the book of that run, if one was built
        other = claims_under_controls(planted) if made is None else made
    if other is None:
        return own.assign(profile="")
    keys = ["claim", "where", "control"]
    both = own.merge(other[[*keys, "embedded"]].rename(columns={"embedded": "profile"}), on=keys, how="left")
    return both.assign(profile=both["profile"].fillna(""))


def _cell(name: str, words: Any) -> str:
    return f"<p><span>{name}:</span> {_text(words)}</p>" if words else ""


# --------------------------------------------------------------------------------------------- helpers


def _raw(text: str) -> str:
    """HTML in MyST; nothing in it is read as Markdown."""
    return f"``````{{raw}} html\n{text}\n``````"


def _cells(words: Mapping[str, str]) -> str:
    return "".join(f"<dt>{name}</dt><dd>{_text(said)}</dd>" for name, said in words.items() if said)


def _text(words: Any) -> str:
    """Escaped, in one line."""
    return html.escape(" ".join(str(words).split()))


def _class(name: str, verdict: str) -> str:
    return f'class="{name} sing-{verdict.replace(" ", "-")}"'
