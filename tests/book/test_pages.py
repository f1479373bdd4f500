"""Every page of the built book in a real browser, from a server and from the disk.

Needs a built book and Chromium, see browser.py.
"""

from __future__ import annotations

import pytest
from browser import DESK, HTML, PAGES, PHONE, Watched, axe_finds, page_names


@pytest.mark.parametrize("name", PAGES)
def test_page_from_a_server(name, watched, server):
    watched.page.set_viewport_size(DESK)
    watched.open(f"{server}/{name}")
    assert watched.wrong == []
    assert watched.page.evaluate("document.documentElement.scrollWidth") <= DESK["width"]
    assert axe_finds(watched.page) == []


# Labels of one axis that were cut so that they read alike.
ALIKE = """() => [...document.querySelectorAll('.role-axis-label')].flatMap((axis) => {
  const labels = [...axis.querySelectorAll('text')].map((text) => text.textContent);
  return labels.filter((label, i) => label.includes('…') && labels.indexOf(label) !== i);
})"""


@pytest.mark.parametrize("name", PAGES)
def test_page_from_the_disk_and_on_a_phone(name, watched):
    watched.page.set_viewport_size(PHONE)
    watched.open((HTML / name).as_uri())
    assert watched.wrong == []
    wide = watched.page.evaluate("document.documentElement.scrollWidth")
    assert wide <= PHONE["width"], f"the page is {wide} px wide on a 360 px phone"
    assert watched.page.evaluate(ALIKE) == []
    assert axe_finds(watched.page, colours=False) == []


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


PAPER = {"width": 680, "height": 1000}  # A4 within margins of 15 mm
CUT = """(width) => [...document.querySelectorAll('.bd-article *')].filter((e) => {
  const box = e.getBoundingClientRect();
  return box.width && box.right > width + 1;
}).map((e) => e.outerHTML.slice(0, 80))"""
SHOWN = "(all) => all.filter((e) => e.getBoundingClientRect().width).map((e) => e.outerHTML.slice(0, 80))"


@pytest.mark.parametrize("name", [p for p in PAGES if not isinstance(p, str) or p.startswith("notebooks/")])
def test_print_cuts_nothing_and_has_no_buttons(browser, name):
    """Drawn for a dark screen, too."""
    context = browser.new_context(viewport=DESK)
    page = Watched(context)
    page.open((HTML / name).as_uri())
    page.page.evaluate("document.documentElement.dataset.theme = 'dark'")
    page.page.emulate_media(media="print")
    page.page.set_viewport_size(PAPER)
    assert page.page.evaluate(CUT, PAPER["width"]) == []
    assert page.page.locator("button:not(.sx-table button)").evaluate_all(SHOWN) == []
    ink = page.page.locator(".bd-article section > p").first.evaluate("(p) => getComputedStyle(p).color")
    assert ink == "rgb(34, 49, 63)"
    context.close()


def test_what_a_cell_shows_has_the_pages_ground(watched):
    name = next((p for p in PAGES if isinstance(p, str) and "sing-widget" in (HTML / p).read_text()), None)
    if not name:
        pytest.skip("no built book with an explorer")
    watched.open((HTML / name).as_uri())
    frames = watched.page.locator(".cell_output .output, .widget-subarea, .jp-OutputArea-output")
    for theme in ("light", "dark"):
        watched.page.evaluate(f"document.documentElement.dataset.theme = '{theme}'")
        grounds = frames.evaluate_all("(all) => all.map((e) => getComputedStyle(e).backgroundColor)")
        assert set(grounds) == {"rgba(0, 0, 0, 0)"}


@pytest.mark.skipif(not page_names(), reason="no built book in _build/html")
def test_what_scrolls_shows_it(watched):
    watched.page.set_viewport_size(PHONE)
    watched.open((HTML / "book/method.html").as_uri())
    drawing = watched.page.locator(".sing-drawing").first
    ground = "(e) => getComputedStyle(e).backgroundImage"
    assert "gradient" in drawing.evaluate(ground)
    assert drawing.get_attribute("tabindex") == "0"
    watched.page.set_viewport_size(DESK)
    watched.page.wait_for_function(
        "!document.querySelector('.sing-drawing').matches('[tabindex], .sing-scrolls')"
    )
    assert drawing.evaluate(ground) == "none"
