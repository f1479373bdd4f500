"""Every page of the built book in a real browser, from a server and from the disk.

Needs a built book (``SING_BOOK_HTML``, else ``_build/html``) and Chromium.
"""

from __future__ import annotations

import functools
import os
import shutil
import threading
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

sync_api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")

HTML = Path(os.environ.get("SING_BOOK_HTML") or Path(__file__).resolve().parents[1] / "_build" / "html")
FLAGS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]
PHONE = {"width": 360, "height": 740}
DESK = {"width": 1280, "height": 900}
# Charts draw as soon as they have a size; math replaces its source; index.html moves on.
SETTLED = """() => {
  const charts = [...document.querySelectorAll('.sing-chart')];
  const drawn = charts.every((c) => c.dataset.drawn && c.querySelector('svg, canvas'));
  const math = [...document.querySelectorAll('.math.notranslate')];
  const moving = document.querySelector('meta[http-equiv="Refresh"]');
  return document.readyState === 'complete' && drawn && !moving
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


@pytest.fixture(scope="session")
def browser():
    path = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    with sync_api.sync_playwright() as playwright:
        try:
            browser = playwright.chromium.launch(executable_path=path, args=FLAGS)
        except sync_api.Error as error:
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
        except sync_api.TimeoutError:
            self._add("not drawn", url)


@pytest.fixture(scope="session")
def watched(browser):
    context = browser.new_context(viewport=DESK, color_scheme="light")
    page = Watched(context)
    yield page
    context.close()


@pytest.mark.parametrize("name", PAGES)
def test_page_from_a_server(name, watched, server):
    watched.page.set_viewport_size(DESK)
    watched.open(f"{server}/{name}")
    assert watched.wrong == []


@pytest.mark.parametrize("name", PAGES)
def test_page_from_the_disk_and_on_a_phone(name, watched):
    watched.page.set_viewport_size(PHONE)
    watched.open((HTML / name).as_uri())
    assert watched.wrong == []
    wide = watched.page.evaluate("document.documentElement.scrollWidth")
    assert wide <= PHONE["width"], f"the page is {wide} px wide on a 360 px phone"


@pytest.fixture
def chart_page():
    for name in (n for n in PAGES if isinstance(n, str)):
        if 'class="sing-chart"' in (HTML / name).read_text(encoding="utf-8"):
            return name
    pytest.skip("no page of a built book has a chart")


def test_charts_follow_the_theme_and_the_width(watched, chart_page):
    watched.page.set_viewport_size(DESK)
    watched.open((HTML / chart_page).as_uri())
    look = """() => {
      const box = document.querySelector('.sing-chart');
      const label = box.querySelector('svg .role-axis-label text, svg .role-legend-label text');
      const drawn = box.querySelector('svg, canvas').getBoundingClientRect().width;
      return [label && label.getAttribute('fill'), drawn, box.clientWidth, box.dataset.drawn];
    }"""
    light = watched.page.evaluate(look)
    watched.page.evaluate("document.documentElement.dataset.theme = 'dark'")
    watched.page.wait_for_function("document.querySelector('.sing-chart').dataset.drawn === 'dark'")
    dark = watched.page.evaluate(look)
    if light[0]:
        assert light[0] != dark[0]
    watched.page.set_viewport_size(PHONE)
    watched.page.wait_for_function(
        """() => {
          const box = document.querySelector('.sing-chart');
          const drawn = box.querySelector('svg, canvas').getBoundingClientRect().width;
          return drawn <= box.clientWidth + 1 || drawn < 360;
        }"""
    )
    assert watched.wrong == []


def test_chart_without_javascript_is_a_picture(browser, chart_page):
    context = browser.new_context(java_script_enabled=False, viewport=DESK)
    page = context.new_page()
    page.goto((HTML / chart_page).as_uri())
    picture = page.locator("img.sing-chart-static").first
    assert picture.is_visible()
    assert picture.get_attribute("alt")
    assert picture.bounding_box()["height"] > 40
    context.close()


@pytest.mark.skipif(not page_names(), reason="no built book in _build/html")
@pytest.mark.parametrize("where", ["server", "disk"])
def test_search_finds_a_word(where, watched, server):
    base = server if where == "server" else HTML.as_uri()
    watched.page.set_viewport_size(DESK)
    watched.open(f"{base}/search.html?q=translator")
    watched.page.wait_for_selector("#search-results li a", timeout=60_000)
    watched.page.wait_for_load_state("networkidle")
    assert watched.wrong == []
