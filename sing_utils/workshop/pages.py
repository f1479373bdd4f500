"""What the book's pages for teachers hold that is made from the notebooks and from the table of answers."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from sing_utils.workshop import notebooks

PAGES = ("book/teaching", "book/handout")
_PLACE = re.compile(r"^<!-- (\w+)(?:: (\w+))? -->$", re.MULTILINE)


def filled(page: str, root: Path) -> str:
    """A page with its places, such as ``<!-- schedule -->``, filled in."""

    def fill(place: re.Match[str]) -> str:
        return _MADE[place[1]](root, place[2])

    return _PLACE.sub(fill, page)


def schedule(root: Path, _: str | None = None) -> str:
    """A table of the sessions: when each begins, and the minutes of what is done in it."""
    rows, at = [], 0
    for path in notebooks.sources(root):
        notebook = notebooks.read(path)
        name = f"[{path.stem[0]} {notebooks.title(notebook)}](../{notebooks.FOLDER}/{path.name})"
        parts = list(notebooks.minutes(notebook))
        for part in ("welcome", "session", "break", "exit"):
            own = [(p, m) for p, m in parts if p == part or (part == "session" and p not in _ALONE)]
            if not own:
                continue
            total = {kind: sum(m for p, m in own if p == kind) for kind, _ in own}
            shown = [_ALONE[part], "", "", "", ""] if part in _ALONE else [name, *_kinds(total)]
            rows.append([f"{at // 60}:{at % 60:02d}", str(sum(total.values())), *shown])
            at += sum(total.values())
    return _table(["at", "minutes", "session", "talk", "vote", "write", "debrief"], rows)


_ALONE = {"welcome": "Welcome, green light, first question", "break": "Break", "exit": "Exit ticket"}


def _kinds(total: dict[str, int]) -> Iterator[str]:
    return (str(total.get(kind, "")) for kind in ("talk", "vote", "write", "debrief"))


def watch_for(root: Path, session: str | None) -> str:
    """What the checks say in one session, of what, and what to ask then."""
    table = notebooks.answers(root)
    (path,) = (p for p in notebooks.sources(root) if p.stem.startswith(f"{session}_"))
    rows: list[list[str]] = []
    for function in notebooks.solved_functions(notebooks.read(path)):
        rows.append([f"`{function}`", "", ""])
        known = (x for x in table[function]["wrong"] if "ask" in x)
        rows += [[f"… {x['says']} …", x["wrote"], x["ask"]] for x in known]
    return _table(["the check says", "they wrote", "ask"], rows)


def misconceptions(root: Path, _: str | None = None) -> str:
    """The beliefs behind wrong answers."""
    found = [
        [x["belief"], x["truth"]]
        for rows in notebooks.answers(root).values()
        for x in rows["wrong"]
        if "belief" in x
    ]
    return _table(["belief", "say"], found)


def functions(root: Path, _: str | None = None) -> str:
    """All functions of the workshop, as the sessions solve them."""
    found: dict[str, str] = {}
    for path in notebooks.sources(root):
        found |= notebooks.solved_functions(notebooks.read(path))
    return "```python\n" + "\n\n".join(found.values()) + "\n```"


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(cell.replace("|", r"\|") for cell in line) + " |" for line in lines)


_MADE: dict[str, Callable[[Path, str | None], str]] = {
    "schedule": schedule,
    "watch": watch_for,
    "misconceptions": misconceptions,
    "functions": functions,
}
