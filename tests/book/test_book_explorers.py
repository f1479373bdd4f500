"""The explorers of the built book: from a server and from the disk, in light and dark, on a phone, and
without JavaScript. What they compute is compared with the run that the book shows.

Pictures of each are kept in _build/screenshots.
"""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from browser import DESK, HTML, PAGES, PHONE
from explorer_page import Driver

from sing_utils import attribute_score, image_score
from sing_utils.live import explorers as ex
from sing_utils.live import moves
from sing_utils.method.scores import pairwise_angle
from sing_utils.runs.run import open_run

SHOTS = Path(__file__).resolve().parents[2] / "_build" / "screenshots"
SHOWN = 0.01  # degrees
PAYLOAD = 1_500_000  # bytes that the explorers of a page may add to it
PLACE = re.compile(r"<script[^>]*application/vnd.jupyter.widget-state\+json[^>]*>(.*?)</script>", re.DOTALL)


def explorer_pages():
    """Explorer -> its page."""
    found = {}
    for page in (p for p in PAGES if isinstance(p, str)):
        text = (HTML / page).read_text(encoding="utf-8")
        if "sing-widget" in text:
            state = json.loads(PLACE.search(text)[1])["state"].values()
            esm = [s["state"]["_esm"] for s in state if "_esm" in s["state"]]
            found |= {re.search(r'name: "(\w+)",\s+title:', source)[1]: page for source in esm}
    return found


EXPLORERS = explorer_pages()
NAMES = ["pair", "steering", "lens", "dial", "basis"]
pytestmark = pytest.mark.skipif(not EXPLORERS, reason="no book with explorers in _build/html")
each = pytest.mark.parametrize("name", NAMES)


def test_every_explorer_is_in_the_book():
    assert set(EXPLORERS) == set(NAMES)


def test_what_explorers_add_to_a_page_is_bounded():
    for page in EXPLORERS.values():
        size = len(PLACE.search((HTML / page).read_text(encoding="utf-8"))[1])
        print(f"{page}: {size:,} bytes")
        assert size <= PAYLOAD, page


@pytest.fixture(scope="module")
def run():
    """The run that the book shows."""
    named = re.search(
        r"tables of the run.*?<span class=\"pre\">([^<]+)<", (HTML / "book/tables.html").read_text()
    )
    folder = HTML.parent / "runs" / named[1]
    if not (folder / ".parameters.json").exists():
        pytest.skip(f"the book's run {named[1]} is not here")
    own = folder / "profile.yaml"
    profile = str(own) if own.exists() else json.loads((folder / ".parameters.json").read_text())["name"]
    opened = open_run(profile, run_dir=str(folder), must_exist=True)
    return opened


@pytest.fixture(params=["server", "disk"])
def opened(request, watched, server):
    base = server if request.param == "server" else HTML.as_uri()

    def open_page(name, query=""):
        watched.page.set_viewport_size(DESK)
        watched.open(f"{base}/{EXPLORERS[name]}#explore-{name}{query}")
        return Driver(watched.page, name)

    yield open_page
    assert watched.wrong == []


def test_pair(run, opened):
    name, k = run.classifiers[0], 4
    pair = opened("pair", f"?classifier={name}&photo={k}")
    pair.slide(1.6)
    photo = moves.offered_photos(run).iloc[[k]]
    f, T = ex.features(run, name, photo), run.translator(name)
    z, z_tilde = T(f), T(f - 1.6 * run.spaces(name).null_component(f))
    own = run.texts(name, [run.prompt(photo["class"].iloc[0])]).double()
    expected = [float(image_score(z, z_tilde)), float(attribute_score(z, z_tilde, own))]
    assert pair.numbers(".sx-value") == pytest.approx(expected, abs=SHOWN)
    angles = pairwise_angle(z_tilde, run.texts(name, run.profile.phrases).double())[0]
    assert pair.rows("Nearest phrases now")[0][1] == run.profile.phrases[int(angles.argmin())]
    assert pair.root.locator(".sx-picture img").evaluate_all("(is) => is.every((i) => i.naturalWidth > 0)")


@each
def test_looks(watched, name):
    """No request, no complaint, nothing that sticks out; and a picture for those who want to look."""
    page = watched.page
    page.set_viewport_size(DESK)
    watched.open((HTML / EXPLORERS[name]).as_uri())
    page.add_style_tag(content=".bd-header-article, .skip-link { display: none !important }")
    root = page.locator(f"[data-explorer={name}]")
    SHOTS.mkdir(parents=True, exist_ok=True)
    for look in ("light", "dark", "phone"):
        page.set_viewport_size(PHONE if look == "phone" else DESK)
        page.evaluate(f"document.documentElement.dataset.theme = '{'dark' if look == 'dark' else 'light'}'")
        root.scroll_into_view_if_needed()
        root.screenshot(path=SHOTS / f"{name}-{look}.png")
        assert page.evaluate("document.documentElement.scrollWidth") <= page.viewport_size["width"]
        assert root.evaluate("(e) => e.scrollWidth <= e.clientWidth")
    assert watched.wrong == []


@each
def test_without_javascript_there_is_a_picture(browser, name):
    context = browser.new_context(java_script_enabled=False, viewport=DESK)
    page = context.new_page()
    page.goto((HTML / EXPLORERS[name]).as_uri())
    pictures = page.locator(".sing-widget img.sing-chart-static")
    assert pictures.first.is_visible()
    assert pictures.first.get_attribute("alt")
    assert pictures.first.bounding_box()["height"] > 100
    assert "being set up" not in page.locator(".sing-widget").first.evaluate(
        "(e) => getComputedStyle(e, '::before').content"
    )
    context.close()
