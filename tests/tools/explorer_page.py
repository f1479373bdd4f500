"""A page of the book with nothing but explorers in it, for tests and benches that need their own numbers."""

from __future__ import annotations

import base64
import html
import json
from pathlib import Path

from ipywidgets.embed import embed_data

from sing_utils.book.scripts import fetch_page_js

ROOT = Path(__file__).resolve().parents[2]
PAGE = """<!DOCTYPE html>
<html lang="en" data-theme="light" data-content_root="./"><head><meta charset="utf-8">
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


def write_page(folder: Path, explorers: dict) -> Path:
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
    page.write_text(PAGE.format(views=views, state=state), encoding="utf-8")
    return page


# An explorer in an empty page, as in JupyterLab: what it sends goes to `python`, and answers come back.
LIVE = """async ([script, state]) => {
  const read = (x) => {
    if (x === null || typeof x !== "object") return x;
    if ("base64" in x) return new DataView(Uint8Array.from(atob(x.base64), (c) => c.charCodeAt(0)).buffer);
    if (Array.isArray(x)) return x.map(read);
    return Object.fromEntries(Object.entries(x).map(([key, value]) => [key, read(value)]));
  };
  const [values, listeners] = [read(state), {}];
  const tell = (event, ...news) => (listeners[event] ?? []).forEach((listener) => listener(...news));
  const set = (trait, value) => { values[trait] = value; tell(`change:${trait}`); };
  const send = async (message) => {
    const { prompts, said } = read(await python(message));
    if (message.kind === "prompt") set("prompts", prompts);
    said.forEach(([content, buffers]) => tell("msg:custom", content, buffers));
  };
  const on = (event, listener) => (listeners[event] ??= []).push(listener);
  const url = URL.createObjectURL(new Blob([script], { type: "text/javascript" }));
  const { default: explorer } = await import(url);
  const model = { get: (trait) => values[trait], set, send, on, save_changes() {} };
  explorer.render({ el: document.body, model });
}"""


def wire(x):
    """Bytes as JSON can hold them."""
    if isinstance(x, bytes):
        return {"base64": base64.b64encode(x).decode()}
    if isinstance(x, dict):
        return {key: wire(value) for key, value in x.items()}
    return [wire(value) for value in x] if isinstance(x, list | tuple) else x


def open_live(page, explorer):
    """The driver of an explorer that has Python behind it."""
    said = []
    explorer.send = lambda content, buffers=None: said.append([content, buffers or []])

    def python(message):
        said.clear()
        explorer._answer(explorer, message, [])
        return wire({"prompts": explorer.prompts, "said": said})

    page.expose_function("python", python)
    own = ("data", "prompts", *(k for k in type(explorer).class_own_traits(sync=True) if k[0] != "_"))
    state = {k: getattr(explorer, k) for k in ("classifier", "photo", *own)}
    page.evaluate(LIVE, [explorer._esm, wire(state)])
    return Driver(page, page.locator(".sing-explorer").get_attribute("data-explorer"))


class Driver:
    """One explorer of an open page, used as a person would."""

    def __init__(self, page, name):
        self.page = page
        self.root = self.page.locator(f"[data-explorer={name}]")
        self.slider = self.root.get_by_role("slider")
        self.settle()

    def choose(self, label, option):
        self.root.get_by_label(label, exact=True).select_option(option)
        self.settle()

    def slide(self, value):
        self.slider.evaluate("(s, v) => { s.value = v; s.dispatchEvent(new Event('input')) }", value)
        self.settle()

    def drag(self, place, start, end):
        """By mouse from one share of its width to another."""
        place.scroll_into_view_if_needed()
        box = place.bounding_box()
        x, y = (lambda share: box["x"] + share * box["width"]), box["y"] + box["height"] / 2
        self.page.mouse.move(x(start), y)
        self.page.mouse.down()
        self.page.mouse.move(x(end), y, steps=5)
        self.page.mouse.up()
        self.settle()

    def press(self, button):
        self.root.get_by_role("button", name=button).click()
        self.settle()

    def copied(self, button):
        """What a button copies."""
        self.page.context.grant_permissions(["clipboard-read", "clipboard-write"])
        self.press(button)
        self.root.get_by_text("copied").wait_for()
        return self.page.evaluate("navigator.clipboard.readText()")

    def settle(self):
        """Two frames: what was asked for is drawn."""
        self.page.evaluate("new Promise((r) => requestAnimationFrame(() => requestAnimationFrame(r)))")

    def text(self, selector):
        return self.root.locator(selector).all_inner_texts()

    def numbers(self, selector):
        return [number(text) for text in self.text(selector)]

    def rows(self, heading):
        table = self.root.get_by_label(heading, exact=True).locator("tbody tr:not([hidden])")
        return [[c.strip() for c in row.split("\t")] for row in table.all_inner_texts() if row.strip()]


def number(text):
    """A number as the page writes it: +1.23°, ▼ −0.50°."""
    digits = text.replace("−", "-").replace("°", "").replace("▲", "").replace("▼", "").strip()
    return float(digits.split()[0])
