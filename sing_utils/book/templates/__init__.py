"""Pages of the book that are made from a run, as Jinja templates: what is shown is escaped, in one line."""

from __future__ import annotations

from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined

from sing_utils.show.findings import pill


def _one_line(shown: Any) -> Any:
    return shown if hasattr(shown, "__html__") else " ".join(str(shown).split())


_PAGES = Environment(
    loader=PackageLoader("sing_utils.book"),
    autoescape=True,
    trim_blocks=True,
    lstrip_blocks=True,
    keep_trailing_newline=True,
    undefined=StrictUndefined,
    finalize=_one_line,
)
_PAGES.filters["pill"] = pill


def render(template: str, **values: Any) -> str:
    """A page of this folder with its values."""
    return _PAGES.get_template(template).render(values)
