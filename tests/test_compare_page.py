"""The linked comparison in a real browser, from the disk: clicks, drags, fingers, keys; numbers checked."""

from __future__ import annotations

import csv
import io
import json
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
from browser import DESK, PHONE, Watched
from PIL import Image
from test_charts_compare import made_chart, made_medians, made_scores

from sing_utils.charts_compare import class_order
from sing_utils.gallery import image_source
from sing_utils.pagejs import fetch_page_js

ROOT = Path(__file__).resolve().parents[1]
SHOWN = 0.01  # degrees: two decimals are written
PAGE = """<!DOCTYPE html>
<html lang="en" data-theme="light"><head><meta charset="utf-8"><title>Comparison</title>
<meta name="viewport" content="width=device-width, initial-scale=1">
<link rel="icon" href="data:,"><link rel="stylesheet" href="sing.css">
<style>body {{ margin: 0 12px; max-width: 48rem; }} html[data-theme="dark"] {{ background: #12181e; }}</style>
<script defer src="vega.js"></script><script defer src="watch.js"></script>
<script defer src="charts.js"></script></head><body class="bd-content"><div class="sing-figure">
<div class="sing-chart" role="group" aria-label="Comparison"></div>
<script type="application/json" class="sing-chart-spec">{spec}</script></div>
<p style="height: 60rem">Below</p></body></html>
"""
# The page's script keeps its charts to itself; a test wants to see what was drawn.
WATCH = """
const embed = window.vegaEmbed;
window.vegaEmbed = async (...all) => {
  const result = await embed(...all);
  window.view = result.view;
  return result;
};
window.panels = () => {
  const found = [];
  const walk = (group, x, y) => {
    const inner = group.items.filter((mark) => /concat_\\d+_group$/.test(mark.name || ''));
    inner.forEach((mark) => mark.items.forEach((g) => walk(g, x + (g.x || 0), y + (g.y || 0))));
    if (!inner.length) found.push({ group, x, y, width: group.width, height: group.height });
  };
  walk(view.scenegraph().root.items[0], ...view.origin());
  const box = document.querySelector('.sing-chart canvas').getBoundingClientRect();
  return found.map((p) => ({ ...p, x: p.x + box.x, y: p.y + box.y }));
};
window.boxes = () => panels().map(({ group, ...box }) => box);
window.marks = (panel, type) => panels()[panel].group.items
  .filter((mark) => mark.marktype === type && !['axis', 'title'].includes(mark.role))
  .flatMap((mark) => mark.items)
  .map(({ text, x, y, opacity, datum }) => ({ text: [].concat(text).join(' '), x, y, opacity,
    n: datum?.n, classifier: datum?.classifier, AS: datum?.AS, tick: datum?.y }));
"""
TABLE, SCATTER, CLASSES, CARD, NUMBERS = range(5)  # the panels


@pytest.fixture(scope="module")
def scores():
    return made_scores(3, 4, 12)


@pytest.fixture(scope="module")
def order(scores):
    return class_order(made_medians(scores))


@pytest.fixture(scope="module")
def address(scores, tmp_path_factory):
    folder = tmp_path_factory.mktemp("page")
    shutil.copy(fetch_page_js(ROOT) / "vega.js", folder)
    for name in ("charts.js", "sing.css"):
        shutil.copy(ROOT / "book" / "_static" / name, folder)
    (folder / "watch.js").write_text(WATCH)
    picture = image_source(Image.new("RGB", (64, 64), "teal"))
    pictures = dict.fromkeys(scores["path"].drop_duplicates()[::2], picture)
    spec = made_chart(scores, pictures, picture_note="A teal square, for a test.").to_dict()
    page = folder / "index.html"
    page.write_text(PAGE.format(spec=json.dumps(spec).replace("<", "\\u003c")), encoding="utf-8")
    return page.as_uri()


class Chart:
    """The chart of an open page, used as a person would."""

    def __init__(self, context, address, size):
        self.watched = Watched(context)
        self.page = self.watched.page
        self.page.on("console", lambda m: m.type == "warning" and self.watched.wrong.append(m.text))
        self.page.set_viewport_size(size)
        self.watched.open(address)
        self.settle()

    def settle(self):
        self.page.evaluate(
            "(async () => { await view.runAsync(); await new Promise(requestAnimationFrame) })()"
        )

    def box(self, panel):
        return self.page.evaluate("boxes()")[panel]

    def at(self, panel, x, y):
        box = self.box(panel)
        return box["x"] + x * box["width"], box["y"] + y * box["height"]

    def marks(self, panel, kind):
        return self.page.evaluate("([p, k]) => marks(p, k)", [panel, kind])

    def texts(self, panel):
        return [m["text"] for m in self.marks(panel, "text") if m["text"]]

    def signal(self, name):
        return self.page.evaluate("(name) => view.signal(name)", name)

    def click_row(self, panel, row, rows):
        self.page.mouse.click(*self.at(panel, 0.4, (row + 0.5) / rows))
        self.settle()

    def drag(self, start, end):
        self.page.mouse.move(*self.at(SCATTER, *start))
        self.page.mouse.down()
        self.page.mouse.move(*self.at(SCATTER, *end), steps=6)
        self.page.mouse.up()
        self.settle()

    def choose(self, label, option):
        self.page.get_by_label(label).select_option(label=option)
        self.settle()

    def press(self, label, *keys):
        self.page.get_by_label(label).focus()
        for key in keys:
            self.page.keyboard.press(key)
        self.settle()

    def bright(self):
        """Numbers of the photos whose dots are not dimmed, by classifier."""
        dots = [m for m in self.marks(SCATTER, "symbol") if m["opacity"] == 0.5]
        return {(m["n"], m["classifier"]) for m in dots}


@pytest.fixture(scope="module")
def context(browser):
    context = browser.new_context(color_scheme="light")
    yield context
    context.close()


@pytest.fixture
def chart(context, address):
    """The chart, opened anew; nothing may be said on the console."""
    chart = Chart(context, address, DESK)
    yield chart
    assert chart.watched.wrong == []
    chart.page.close()


def number(text):
    return float(re.search(r"[-+−]?\d+\.\d+", text)[0].replace("−", "-"))


def card_numbers(chart, names):
    """What the card says: classifier -> AS, IS, cosine, top-1 class."""
    marks = [m for m in chart.marks(NUMBERS, "text") if m["n"] is not None]
    told = {}
    for name in names:
        own = [m["text"] for m in marks if m["classifier"] == name]
        top = next(t for t in own if t.startswith("top-1 class: "))
        told[name] = [number(t) for t in own if t not in (name, top)] + [top.removeprefix("top-1 class: ")]
    return told


def assert_card_is(chart, scores, path):
    own = scores[scores["path"] == path].set_index("classifier")
    assert path.rsplit("/", 1)[-1] in chart.texts(CARD)
    assert own["class"].iloc[0] in chart.texts(CARD)
    spoken = chart.page.locator(".sing-spoken").inner_text()
    for name, told in card_numbers(chart, own.index).items():
        row = own.loc[name]
        assert abs(told[0] - row["AS"]) <= SHOWN
        assert abs(told[1] - row["IS"]) <= SHOWN
        assert abs(told[2] - row["cosine"]) <= 0.001
        assert told[3] == row["top1"]
        heard = re.search(
            re.escape(f"{name}: AS ") + r"(\S+) degrees, IS (\S+) degrees, cosine (\S+),", spoken
        )
        assert [number(v) for v in heard.groups()] == told[:3]


def paths_in_order(scores, order):
    photos = scores.drop_duplicates("path")
    return [p for c in order for p in photos.loc[photos["class"] == c, "path"]]


def test_a_class_by_click_and_by_menu(chart, order, scores):
    assert len(chart.bright()) == 3 * 48
    chart.click_row(CLASSES, 2, 5)  # below "all classes" and the first
    assert chart.page.get_by_label("class:").input_value() == order[1]
    assert {n for n, _ in chart.bright()} == set(range(13, 25))
    assert order[1] in chart.texts(CARD)  # the card follows
    chart.choose("class:", order[3])
    assert {n for n, _ in chart.bright()} == set(range(37, 49))
    assert order[3] in chart.texts(CARD)
    chart.click_row(CLASSES, 0, 5)
    assert chart.page.get_by_label("class:").input_value() == "null"
    assert len(chart.bright()) == 3 * 48


def test_a_classifier_by_click_and_by_menu(chart, scores):
    names = list(dict.fromkeys(scores["classifier"]))
    chart.click_row(TABLE, 3, 5)  # below the heads, "all classifiers" and the first
    assert chart.page.get_by_label("classifier:").input_value() == names[1]
    assert {name for _, name in chart.bright()} == {names[1]}
    chart.choose("classifier:", names[0])
    assert {name for _, name in chart.bright()} == {names[0]}
    chart.click_row(TABLE, 1, 5)
    assert {name for _, name in chart.bright()} == set(names)
    assert len(chart.signal("chosen_class")) == 0  # a click in one panel is none in another


def test_a_drag_counts_photos_and_leaves_the_card(chart, scores, order):
    shown = chart.signal("shown")
    assert not [t for t in chart.texts(CLASSES) if " of " in t]
    chart.drag((0.3, 0.2), (0.75, 0.7))
    frame = chart.signal("frame")
    inside = scores[
        scores["AS"].round(3).between(*sorted(frame["AS"]))
        & scores["IS"].round(3).between(*sorted(frame["IS"]))
    ]
    assert 5 < len(inside) < len(scores) - 5
    counts = inside.groupby("class")["path"].nunique()
    told = [t for t in chart.texts(CLASSES) if " of " in t]
    assert sorted(told) == sorted(f"{n} of 12" for n in counts)
    ticks = [m for m in chart.marks(CLASSES, "rect") if m["n"] is not None]
    assert sorted(m["AS"] for m in ticks) == pytest.approx(sorted(inside["AS"].abs()), abs=0.001)
    rows = [m for m in chart.marks(TABLE, "text") if m["text"].endswith("°")]
    medians = [inside["AS"].median(), inside["IS"].median()]
    for _, own in inside.groupby("classifier", sort=False):
        medians += [own["AS"].median(), own["IS"].median()]
    assert sorted(number(m["text"]) for m in rows) == pytest.approx(sorted(medians), abs=SHOWN)
    assert chart.signal("shown") == shown  # the drag was no click

    chart.drag((0.5, 0.5), (0.45, 0.45))  # by its middle
    moved = chart.signal("frame")
    assert np.ptp(moved["AS"]) == pytest.approx(np.ptp(frame["AS"]))
    assert moved["AS"] != frame["AS"]


def test_a_click_near_a_dot_puts_its_photo_on_the_card(chart, scores, order):
    dot = max((m for m in chart.marks(SCATTER, "symbol") if m["opacity"] == 0.5), key=lambda m: m["y"])
    box = chart.box(SCATTER)
    chart.page.mouse.click(box["x"] + dot["x"] + 2, box["y"] + dot["y"] + 2)
    chart.settle()
    assert chart.page.get_by_label("photo:").input_value() == str(dot["n"])
    assert_card_is(chart, scores, paths_in_order(scores, order)[dot["n"] - 1])


def test_keys_step_through_the_photos(chart, scores, order):
    paths = paths_in_order(scores, order)
    start = chart.signal("shown")
    chart.press("photo:", "ArrowRight", "ArrowRight")
    assert chart.signal("shown") == start + 2
    assert_card_is(chart, scores, paths[start + 1])
    chart.press("photo:", "End")
    assert_card_is(chart, scores, paths[-1])
    chart.press("class:", "ArrowDown", "ArrowDown")  # from all to the second class
    assert chart.page.get_by_label("class:").input_value() == order[1]
    for _ in range(13):  # round and round within it
        assert 13 <= chart.signal("shown") <= 24
        assert_card_is(chart, scores, paths[chart.signal("shown") - 1])
        chart.press("photo:", "ArrowLeft")


def test_pictures_and_their_note(chart, scores, order):
    paths = paths_in_order(scores, order)
    drawn = set(scores["path"].drop_duplicates()[::2])
    for _ in range(3):
        texts = chart.texts(CARD)
        assert ("no picture" in texts) == (paths[chart.signal("shown") - 1] not in drawn)
        assert "A teal square, for a test." in texts
        assert len(chart.marks(CARD, "image")) == ("no picture" not in texts)
        chart.press("photo:", "ArrowRight")


def test_what_was_chosen_survives_another_theme_and_width(chart, order):
    chart.choose("class:", order[2])
    chart.drag((0.3, 0.2), (0.7, 0.7))
    chart.press("photo:", "ArrowRight")
    names = ("chosen_class", "chosen_classifier", "frame", "shown")
    before = [chart.signal(n) for n in names]
    chart.page.evaluate("document.documentElement.dataset.theme = 'dark'")
    chart.page.wait_for_function("document.querySelector('.sing-chart').dataset.drawn === 'dark'")
    assert [chart.signal(n) for n in names] == before
    chart.page.set_viewport_size(PHONE)
    chart.page.wait_for_function("boxes()[2].y > boxes()[1].y + boxes()[1].height", timeout=20_000)
    chart.page.wait_for_function("document.querySelector('.sing-chart canvas').clientWidth <= 340")
    after = [chart.signal(n) for n in names]
    assert after[0] == before[0]
    assert after[2]["AS"] == pytest.approx(before[2]["AS"])
    assert after[3] == before[3]


def test_panels_too_narrow_for_their_words_go_under_one_another(chart):
    beside = "boxes()[2].x > boxes()[1].x + boxes()[1].width"
    assert chart.page.evaluate(beside)
    chart.page.set_viewport_size({"width": 640, "height": 800})
    chart.page.wait_for_function(f"!({beside})", timeout=20_000)
    assert chart.page.evaluate("document.documentElement.scrollWidth") <= 640


def test_a_finger_drags_sideways_scrolls_and_taps(browser, address):
    context = browser.new_context(has_touch=True, is_mobile=True, viewport=PHONE)
    chart = Chart(context, address, PHONE)
    assert chart.page.evaluate("document.documentElement.scrollWidth") <= PHONE["width"]
    touch = context.new_cdp_session(chart.page)

    def swipe(start, end):
        (x0, y0), (x1, y1) = start, end
        send = lambda kind, *points: touch.send(  # noqa: E731
            "Input.dispatchTouchEvent", {"type": kind, "touchPoints": [{"x": x, "y": y} for x, y in points]}
        )
        send("touchStart", start)
        for i in range(1, 9):
            send("touchMove", (x0 + (x1 - x0) * i / 8, y0 + (y1 - y0) * i / 8))
        send("touchEnd")
        chart.page.wait_for_timeout(100)
        chart.settle()

    swipe(chart.at(SCATTER, 0.3, 0.3), chart.at(SCATTER, 0.8, 0.5))
    frame = chart.signal("frame")
    assert len(frame) == 2
    assert chart.page.evaluate("scrollY") == 0
    x, y = chart.at(SCATTER, 0.1, 0.9)
    swipe((x, y), (x + 3, y - 200))
    assert chart.page.evaluate("scrollY") > 50
    assert chart.signal("frame") == frame  # scrolling loses nothing
    chart.page.touchscreen.tap(*chart.at(SCATTER, 0.95, 0.95))
    chart.settle()
    assert chart.signal("frame") == {}
    assert chart.page.get_by_label("photo:").input_value() == str(chart.signal("shown"))
    chart.page.evaluate("scrollBy(0, boxes()[2].y - 100)")
    chart.page.touchscreen.tap(*chart.at(CLASSES, 0.5, 0.3))
    chart.settle()
    assert chart.signal("chosen_class")["class"]
    assert chart.watched.wrong == []
    context.close()


# ------------------------------------------------------------------------- link, values, fold


def test_values_are_copied_as_csv(chart, scores):
    chart.page.context.grant_permissions(["clipboard-read", "clipboard-write"])
    chart.page.get_by_role("button", name="Copy values (CSV)").click()
    chart.page.get_by_text("Values copied as CSV.").wait_for()
    rows = list(csv.DictReader(io.StringIO(chart.page.evaluate("navigator.clipboard.readText()"))))
    assert len(rows) == len(scores)
    by_photo = scores.assign(photo=scores["path"].map(lambda p: Path(p).name)).set_index(
        ["photo", "classifier", "class"]
    )
    for row in rows[:: len(rows) // 7]:
        expected = by_photo.loc[(row["photo"], row["classifier"], row["class"])]
        assert float(row["AS (degrees)"]) == pytest.approx(expected["AS"], abs=SHOWN)
        assert float(row["IS (degrees)"]) == pytest.approx(expected["IS"], abs=SHOWN)


def test_a_copied_link_restores_what_was_chosen(chart, address, order):
    chart.page.context.grant_permissions(["clipboard-read", "clipboard-write"])
    chart.choose("class: ", order[1])
    chart.drag((0.2, 0.2), (0.7, 0.8))
    frame = chart.signal("frame")
    chart.page.get_by_role("button", name="Copy link to this view").click()
    chart.page.get_by_text("Link copied.").wait_for()
    link = chart.page.evaluate("navigator.clipboard.readText()")
    assert link.startswith(f"{address}#explore-compare?")
    chart.watched.open(link)
    chart.settle()
    assert chart.signal("chosen_class")["class"] == [order[1]]
    assert chart.signal("frame")["AS"] == pytest.approx(frame["AS"])


@pytest.mark.parametrize(
    "query", ["chosen_class=nobody", 'chosen_class=[{"class":7}]', "photo=%5B", "frame={}"]
)
def test_a_broken_link_changes_nothing(chart, address, query):
    before = chart.texts(NUMBERS)
    chart.watched.open(f"{address}#explore-compare?{query}")
    chart.settle()
    assert chart.texts(NUMBERS) == before
    assert chart.signal("frame") == {}


def test_the_fold_says_how_and_the_current_numbers(chart):
    chart.page.get_by_text("How is this computed").click()
    fold = chart.page.locator("details")
    assert "angle(T f, u)" in fold.inner_text()
    chart.page.wait_for_function(
        "document.querySelector('details p:last-child').textContent"
        " === document.querySelector('.sing-spoken').textContent"
    )
