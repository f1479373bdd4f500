"""A page of the book with nothing but explorers in it, for tests and benches that need their own numbers."""

from __future__ import annotations

import html
import json
from pathlib import Path

from ipywidgets.embed import embed_data

from sing_utils.pagejs import fetch_page_js

ROOT = Path(__file__).resolve().parents[1]
PAGE = """<!DOCTYPE html>
<html lang="en" data-theme="{theme}" data-content_root="./"><head><meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1"><title>Explorers</title>
<link rel="stylesheet" href="_static/sing.css">
<script defer src="_static/vendor/require.js"></script>
<script defer src="_static/widgets.js"></script>
<script defer src="_static/vendor/embed-amd.js"></script>
</head><body><main class="bd-content"><article class="bd-article"><h1>Explorers</h1>
{views}
<script type="application/vnd.jupyter.widget-state+json">{state}</script>
</article></main></body></html>
"""
VIEW = '<h2>{name}</h2><div class="sing-figure sing-widget">{script}</div>'


def write_page(folder: Path, explorers: dict, *, theme: str = "light") -> Path:
    """Write index.html and the scripts that it loads; `explorers` are widgets by name."""
    statics = folder / "_static"
    statics.mkdir(parents=True, exist_ok=True)
    for name in ("sing.css", "widgets.js"):
        (statics / name).write_bytes((ROOT / "book" / "_static" / name).read_bytes())
    if not (statics / "vendor").exists():
        (statics / "vendor").symlink_to(fetch_page_js(ROOT))
    data = embed_data(views=list(explorers.values()), drop_defaults=False)
    kind = "application/vnd.jupyter.widget-view+json"
    views = "\n".join(
        VIEW.format(name=html.escape(name), script=f'<script type="{kind}">{json.dumps(spec)}</script>')
        for name, spec in zip(explorers, data["view_specs"], strict=True)
    )
    state = json.dumps(data["manager_state"]).replace("<", "\\u003c")
    page = folder / "index.html"
    page.write_text(PAGE.format(theme=theme, views=views, state=state), encoding="utf-8")
    return page
