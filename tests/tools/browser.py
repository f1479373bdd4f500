"""Headless Chromium, the built book, and a page that remembers what went wrong: for the pages' tests.

The built book is ``SING_BOOK_HTML``, else ``_build/html``.
"""

from __future__ import annotations

import functools
import os
import shutil
import threading
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest


def sync_api():
    """Playwright, or a skip."""
    return pytest.importorskip("playwright.sync_api", reason="playwright is not installed")


HTML = Path(os.environ.get("SING_BOOK_HTML") or Path(__file__).resolve().parents[2] / "_build" / "html")
FLAGS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]
PHONE = {"width": 360, "height": 740}
DESK = {"width": 1280, "height": 900}
# Charts draw as soon as they have a size; explorers fill their place; math replaces its source;
# index.html moves on.
SETTLED = """() => {
  // What is folded is drawn when it is unfolded.
  const folded = (c) => c.closest('details:not([open])');
  const charts = [...document.querySelectorAll('.sing-chart')].filter((c) => !folded(c));
  const drawn = charts.every((c) => c.dataset.drawn && c.querySelector('svg, canvas'));
  const places = [...document.querySelectorAll('.sing-widget')];
  const explorers = places.every((w) => w.querySelector('.sing-explorer .sx-view *'));
  const math = [...document.querySelectorAll('.math.notranslate')];
  const moving = document.querySelector('meta[http-equiv="Refresh"]');
  return document.readyState === 'complete' && drawn && explorers && !moving
    && math.every((m) => m.querySelector('mjx-container'));
}"""


def page_names():
    """Pages of the book, as paths under the HTML folder."""
    if not (HTML / ".stamp").is_file():
        return []
    skip = {"_static", "_sources"}
    paths = (p.relative_to(HTML) for p in sorted(HTML.rglob("*.html")))
    return [p.as_posix() for p in paths if p.parts[0] not in skip]


PAGES = page_names() or [pytest.param("index.html", marks=pytest.mark.skip("no built book in _build/html"))]


def chromium():
    """Path of the system's browser, or None: then playwright looks for one of its own."""
    return next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)


@pytest.fixture(scope="session")
def browser():
    with sync_api().sync_playwright() as playwright:
        try:
            browser = playwright.chromium.launch(executable_path=chromium(), args=FLAGS)
        except sync_api().Error as error:
            pytest.skip(f"no Chromium: {error.message.splitlines()[0]}")
        yield browser
        browser.close()


class Quiet(SimpleHTTPRequestHandler):
    def log_message(self, *_args):
        pass


@pytest.fixture(scope="session")
def server():
    """The book on 127.0.0.1, on a port of its own."""
    handler = functools.partial(Quiet, directory=str(HTML))
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as httpd:
        threading.Thread(target=httpd.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{httpd.server_port}"
        httpd.shutdown()


class Watched:
    """A page of the browser that remembers what went wrong since `open`."""

    def __init__(self, context):
        self.page = context.new_page()
        self.page.set_default_timeout(60_000)  # a busy machine is slow, not broken
        self.wrong: list[str] = []
        self.page.on("request", self._request)
        self.page.on("requestfailed", lambda r: self._add("failed", r.url))
        self.page.on("response", lambda r: r.status >= 400 and self._add(f"status {r.status}", r.url))
        self.page.on("pageerror", lambda e: self._add("error", str(e)))
        self.page.on("console", lambda m: m.type == "error" and self._add("console", m.text))

    def _add(self, what, text):
        self.wrong.append(f"{what}: {text}")

    def _request(self, request):
        local = ("file:", "data:", "blob:", "about:", "http://127.0.0.1:")
        if not request.url.startswith(local):
            self._add("left the machine", request.url)

    def open(self, url):
        self.page.goto("about:blank")  # what the last page still loads is cut off here
        self.wrong.clear()
        self.page.goto(url, wait_until="load")
        self.settle(url)

    def settle(self, url=""):
        try:
            self.page.wait_for_function(SETTLED, timeout=60_000)
        except sync_api().TimeoutError:
            self._add("not drawn", url)


@pytest.fixture(scope="session")
def watched(browser):
    context = browser.new_context(viewport=DESK, color_scheme="light")
    page = Watched(context)
    yield page
    context.close()


def axe_finds(page, context=None, *, colours=True):
    """What axe has to say of a page, or of a part of it, whatever it weighs."""
    axe = pytest.importorskip("axe_playwright_python.sync_playwright")
    if page.locator("meta[http-equiv=Refresh]").count():
        return []
    options = {
        "preload": False,
        "resultTypes": ["violations"],
        "rules": {"color-contrast": {"enabled": colours}},
    }
    found = axe.Axe().run(page, context, options).response["violations"]
    return [(v["id"], [n["target"] for n in v["nodes"]]) for v in found]
