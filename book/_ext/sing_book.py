"""The book's Sphinx extension: Altair charts and explorers become figures that the page draws itself.

A notebook's Vega-Lite output is written as an empty, labelled box followed by its specification;
``_static/charts.js`` draws it with the local Vega-Embed. A reader without JavaScript gets a
picture of the same chart, drawn here while the book is built. An explorer comes as a chart of its
first state that names its widget: the page shows the widget, and the chart where it can't.
"""

from __future__ import annotations

import hashlib
import html
import json
import re
import zlib
from pathlib import Path
from typing import Any

import vl_convert
from docutils import nodes
from myst_nb.core import render
from sphinx.util import logging

logger = logging.getLogger(__name__)

# JupyterLab and VS Code draw "v5+json" themselves. Altair's own "v6.json" cannot be in a notebook,
# whose format allows JSON only under names that end in "+json".
CHART_TYPES = ("application/vnd.vegalite.v5+json", "application/vnd.vegalite.v6+json")
MAX_SVG = 200_000  # bytes; a scatter of thousands of points is smaller as a bitmap


class ChartRenderer:
    """MyST-NB mime plugin for Vega-Lite outputs."""

    # Before every other form of the same output, such as Altair's HTML, which needs the network.
    mime_priority_overrides = tuple(("*", mime, 1) for mime in CHART_TYPES)

    @staticmethod
    def handle_mime(
        renderer: render.NbElementRenderer, data: render.MimeData, inline: bool
    ) -> list[nodes.Element] | None:
        """Return the nodes of a chart, or None for any other output."""
        if inline or data.mime_type not in CHART_TYPES:
            return None
        spec = data.content if isinstance(data.content, dict) else json.loads(data.string)
        label = description(spec)
        widget = spec.get("usermeta", {}).get("widget")
        if not label:
            where = f"{renderer.renderer.document['source']}: cell {(data.cell_index or 0) + 1}"
            logger.warning("%s: a chart needs a description, for those who cannot see it", where)
        if not widget:
            renderer.add_js_file("vega", "vendor/vega.js", {"defer": "defer"})
            renderer.add_js_file("sing-charts", "charts.js", {"defer": "defer"})
        name, picture = static_picture(spec)
        uri = renderer.write_file(["charts", name], picture, exists_ok=True)
        shown = widget_html(widget) if widget else chart_html(spec, label)
        return [
            nodes.raw("", shown + "<noscript>", format="html"),
            nodes.image(uri=uri, alt=label, classes=["sing-chart-static"]),
            nodes.raw("", "</noscript></div>", format="html"),
        ]


def description(spec: dict[str, Any]) -> str:
    """What a chart says of itself in words: its description, else its title.

    Altair leaves both with the inner chart when a chart is split into facets.
    """
    title = spec.get("title", "")
    if isinstance(title, dict):
        title = title.get("text", "")
    title = " ".join(title) if isinstance(title, list) else str(title)
    inner = spec.get("spec")
    return str(spec.get("description") or title) or (description(inner) if inner else "")


def chart_html(spec: dict[str, Any], label: str) -> str:
    """The box in which the page script draws, and the specification that it reads.

    The outer ``div`` is left open for the picture of the chart.
    """
    # An image's parts are hidden from screen readers; a chart with sliders is a group of them.
    role = "group" if '"bind"' in json.dumps(spec.get("params", [])) else "img"
    # "<" never appears in the script, so nothing in the data can end it.
    text = json.dumps(spec, separators=(",", ":")).replace("<", "\\u003c")
    wide = " sing-wide" if is_wide(spec) else ""
    return (
        f'<div class="sing-figure{wide}">'
        f'<div class="sing-chart" role="{role}" aria-label="{html.escape(label)}"></div>'
        f'<script type="application/json" class="sing-chart-spec">{text}</script>'
    )


def is_wide(spec: dict[str, Any]) -> bool:
    """Whether a chart has panels beside each other, which take a wide screen's margin, too."""
    inside = [inner for inner in (*spec.get("vconcat", ()), spec.get("spec")) if inner]
    beside = "hconcat" in spec or spec.get("columns", 1) > 1 or "column" in spec.get("encoding", {})
    return beside or any(map(is_wide, inside))


def widget_html(model_id: str) -> str:
    """The place of a widget whose first state a chart shows, see `sing_utils.live.widgets.Explorer`.

    The outer ``div`` is left open for the picture of that chart.
    """
    view = {"version_major": 2, "version_minor": 0, "model_id": model_id}
    return (
        '<div class="sing-figure sing-widget">'
        f'<script type="application/vnd.jupyter.widget-view+json">{json.dumps(view)}</script>'
    )


def static_picture(spec: dict[str, Any]) -> tuple[str, bytes]:
    """Draw the chart without a page: its file name and contents."""
    svg = vl_convert.vegalite_to_svg(spec).encode()
    if len(svg) < MAX_SVG:
        suffix, picture = "svg", svg
    else:
        suffix, picture = "png", vl_convert.svg_to_png(svg.decode(), scale=1.5)
    return f"chart-{hashlib.sha256(picture).hexdigest()[:16]}.{suffix}", picture


def plain_bars(_app: Any, _what: str, _name: str, _obj: Any, _opt: Any, lines: list[str]) -> None:
    """Let docstrings write norms as ``|x|``, which reStructuredText takes for substitutions."""
    for i, line in enumerate(lines):
        if "|" in line and not line.lstrip().startswith((">>>", "...")):
            parts = re.split(r"(``.*?``)", line)
            lines[i] = "".join(p if p.startswith("``") else p.replace("|", r"\|") for p in parts)


def add_lab_button(_app: Any, _page: str, _template: str, context: dict[str, Any], _doctree: Any) -> None:
    """Put "Open in JupyterLab" first among the buttons of a page's header; ``sing.js`` says what it does."""
    button = {
        "type": "javascript",
        "javascript": "singOpenLab(this)",
        "text": "Open in JupyterLab",  # its accessible name; small screens show the icon only
        "tooltip": "Open in JupyterLab",
        "icon": "fas fa-flask",
        "label": "lab-button",
    }
    context.get("header_buttons", []).insert(0, button)


def mend_roles(_app: Any, _page: str, _template: str, context: dict[str, Any], _doctree: Any) -> None:
    """Let what docutils calls a list have list items: its role for references is deprecated, and no item."""
    if "citation-list" in context.get("body", ""):
        context["body"] = context["body"].replace('role="doc-biblioentry"', 'role="listitem"')


def setup(app: Any) -> dict[str, Any]:
    """Register the plugin with MyST-NB, :func:`plain_bars` with autodoc, and what the theme's pages get.

    MyST-NB finds plugins among installed distributions only; the list that it caches is the one
    place where a book's own extension can add one.
    """
    plugins = render.load_mime_renders()
    if ChartRenderer not in plugins:
        plugins.append(ChartRenderer)
    app.setup_extension("sphinx.ext.autodoc")
    app.connect("autodoc-process-docstring", plain_bars)
    app.connect("html-page-context", mend_roles)
    app.connect("html-page-context", add_lab_button, priority=502)  # the theme's own come with 501
    # Sphinx writes only pages whose sources changed; with another environment version it writes all.
    own = zlib.crc32(Path(__file__).read_bytes())
    return {"version": "1", "env_version": own, "parallel_read_safe": True, "parallel_write_safe": True}
