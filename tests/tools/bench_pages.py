"""How fast the explorers are in a browser: `make bench`.

A drag over explorers with 2000 photos and 300 phrases, in milliseconds of script a frame (a frame has 16),
and how soon the pages of the built book can be used, from an empty cache.
"""

from __future__ import annotations

import statistics
import sys
import tempfile
import threading
from functools import partial
from http.server import ThreadingHTTPServer
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).parent))
from browser import DESK, FLAGS, HTML, Quiet, chromium, page_names, sync_api
from explorer_page import write_page

from sing_utils.live.explorers import pack, pack_pictures
from sing_utils.live.widgets import ConceptLens, PairExplorer

PHOTOS, PHRASES, CLASSES = 2000, 300, 20
# Notes how long each callback of a frame runs.
TIMED = """
window.frames_ms = [];
const ask = window.requestAnimationFrame.bind(window);
window.requestAnimationFrame = (callback) => ask((time) => {
  const start = performance.now();
  callback(time);
  window.frames_ms.push(performance.now() - start);
});
"""
# When the page has drawn all its explorers and charts, and nothing keeps it from answering.
USABLE = """() => {
  const places = [...document.querySelectorAll('.sing-widget')];
  const charts = [...document.querySelectorAll('.sing-chart')];
  return document.readyState === 'complete'
    && places.every((p) => p.querySelector('.sing-explorer .sx-view *'))
    && charts.every((c) => c.dataset.drawn);
}"""


def pair_of_2000():
    """A pair explorer of made-up numbers."""
    rng = np.random.default_rng(0)
    phrases = [f"phrase {i}" for i in range(PHRASES)]
    prompts = [f"an image of a thing {i}" for i in range(CLASSES)]
    cosines = rng.normal(0, 2000, (1, PHOTOS, CLASSES + PHRASES, 2)).astype(np.int16)
    logits = {
        "labels": prompts,
        "classes": pack(rng.integers(0, CLASSES, (1, PHOTOS, 5), dtype=np.uint16)),
        "values": pack(rng.normal(8, 1, (1, PHOTOS, 5))),
        "drifts": pack(rng.normal(0, 1e-15, (1, PHOTOS, 5))),
        "most": pack(np.full((1, PHOTOS), 1e-14)),
    }
    data = {
        "classifiers": ["one"],
        "texts": prompts + phrases,
        "norms": pack(np.tile([0.7, 0.01, 0.02], (1, PHOTOS, 1))),
        "cosines": pack(cosines) | {"unit": 1 / 32767},
        "logits": logits,
        "stops": [-1, 1, 2],
        "ways": 1,
        "frames": pack_pictures([]),
        "classes": [f"thing {i}" for i in range(CLASSES)],
        "photoClass": sorted(i % CLASSES for i in range(PHOTOS)),
        "photoName": [f"{i}.jpg" for i in range(PHOTOS)],
        "pictureNote": "",
    }
    return PairExplorer(None, data=data)


def lens_of_300():
    """A lens of made-up numbers: 2000 photos have become means of their classes."""
    rng = np.random.default_rng(0)
    shape = (1, CLASSES, PHRASES)
    data = {
        "classifiers": ["one"],
        "classes": [f"thing {i}" for i in range(CLASSES)],
        "counts": [PHOTOS // CLASSES] * CLASSES,
        "phrases": [f"phrase {i}" for i in range(PHRASES)],
        "confidence": 0.95,
        "photoName": [],
        "pictures": pack_pictures([]),
        "means": pack(rng.normal(80, 5, (*shape, 3)).astype(np.float32)),
        "ends": pack(np.zeros((*shape, 0), np.uint16)),
        "endScores": pack(np.zeros((*shape, 0), np.int16)) | {"unit": 180 / 32767},
        "pictureNote": "",
    }
    return ConceptLens(None, data=data, class_name="thing 0")


def frames(page, act):
    """Milliseconds of script of each frame while `act` goes on."""
    page.evaluate("window.frames_ms.length = 0")
    act()
    page.wait_for_timeout(100)
    return page.evaluate("window.frames_ms")


def drag(page, slider):
    """From one end to the other and back by mouse."""
    slider.scroll_into_view_if_needed()
    box = slider.bounding_box()
    y = box["y"] + box["height"] / 2
    page.mouse.move(box["x"] + 4, y)
    page.mouse.down()
    for end in (box["x"] + box["width"] - 4, box["x"] + 4):
        page.mouse.move(end, y, steps=60)
    page.mouse.up()


def bench_drags(browser):
    """Rows of the first table."""
    with tempfile.TemporaryDirectory() as folder:
        address = write_page(Path(folder), {"pair": pair_of_2000(), "lens": lens_of_300()}).as_uri()
        page = browser.new_page(viewport=DESK)
        page.add_init_script(TIMED)
        page.goto(address)
        page.wait_for_function(USABLE)
        pair, lens = (page.locator(f"[data-explorer={n}]") for n in ("pair", "lens"))
        search = lens.get_by_label("Show phrases with")
        sort = lens.get_by_role("button", name="before")
        rows = {
            "pair: drag α": frames(page, lambda: drag(page, pair.get_by_role("slider"))),
            "pair: next photo": frames(
                page, lambda: [pair.get_by_label("Photo").press("ArrowDown") for _ in range(20)]
            ),
            "lens: type": frames(page, lambda: search.press_sequentially("phrase 12")),
            "lens: sort all rows": frames(
                page, lambda: [search.fill(""), *(sort.click() for _ in range(10))]
            ),
        }
        page.close()
    return rows


def bench_pages(browser, repeat=3):
    """Seconds until each page of the built book can be used, from an empty cache."""
    rows = {}
    with ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(HTML))) as httpd:
        threading.Thread(target=httpd.serve_forever, daemon=True).start()
        for name in (n for n in page_names() if n.startswith("notebooks/")):
            times = []
            for _ in range(repeat):
                context = browser.new_context(viewport=DESK)
                page = context.new_page()
                page.goto(f"http://127.0.0.1:{httpd.server_port}/{name}", wait_until="commit")
                page.wait_for_function(USABLE, polling=20)
                times.append(page.evaluate("performance.now()") / 1000)
                context.close()
            rows[name] = times
        httpd.shutdown()
    return rows


def main():
    """Print both tables."""
    with sync_api().sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium(), args=FLAGS)
        print(f"\n{PHOTOS} photos, {PHRASES} phrases; script a frame, of the 16 ms that a frame has\n")
        print(f"{'':<42}{'median (ms)':>12}{'95 % (ms)':>12}{'most (ms)':>12}")
        for name, ms in bench_drags(browser).items():
            low, high = statistics.median(ms), np.quantile(ms, 0.95)
            print(f"{name:<42}{low:>12.1f}{high:>12.1f}{max(ms):>12.1f}")
        print("\nseconds until a page can be used, from an empty cache\n")
        print(f"{'':<42}{'median (s)':>12}{'most (s)':>12}")
        for name, times in bench_pages(browser).items():
            print(f"{name:<42}{statistics.median(times):>12.2f}{max(times):>12.2f}")
        browser.close()


if __name__ == "__main__":
    main()
