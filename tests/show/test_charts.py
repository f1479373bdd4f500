"""Charts: what their specifications hold and weigh; the linked comparison in a real browser."""

from __future__ import annotations

import json
import shutil
from itertools import product
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from browser import DESK, PHONE, Watched
from scipy import stats

from sing_utils.book.scripts import fetch_page_js
from sing_utils.show import charts

NAMES = ["a \"b\" 'c'", "<b>&amp;\\é", "net_c"]
CLASSES = ["tench", 'class "it\'s" \\ <i>', "golf ball", "jeep"]
ROOT = Path(__file__).resolve().parents[2]


def crossed(**levels):
    """All combinations of levels; `class_` stands for class."""
    return pd.DataFrame(product(*levels.values()), columns=[k.rstrip("_") for k in levels])


def numbers(table, **scales):
    """The table with normal columns, the same in every call."""
    rng = np.random.default_rng(len(table))
    return table.assign(**{k: s * rng.normal(size=len(table)) for k, s in scales.items()})


def interval(table, value=1.0):
    return numbers(table, value=value).assign(low=lambda t: t["value"] - 0.2, high=lambda t: t["value"] + 0.2)


def made_scores(photos=12, classes=CLASSES):
    table = crossed(classifier=NAMES, class_=classes, i=range(photos))
    table = numbers(table, AS=0.4, IS=1.3).assign(IS=lambda t: 6 + t["IS"])
    places = {c: i for i, c in enumerate(classes)}
    paths = [f"val/{places[c]}_{i}.JPEG" for c, i in zip(table["class"], table["i"], strict=True)]
    return table.assign(path=paths)


def made_medians(scores):
    groups = scores.assign(value=scores["AS"].abs()).groupby(["classifier", "class"], sort=False)["value"]
    table = groups.median().reset_index().assign(photos=groups.size().to_numpy(), enlarged=False)
    return table.assign(low=0.8 * table["value"], high=1.2 * table["value"])


def made_concepts(concepts=40):
    table = crossed(classifier=NAMES, class_=CLASSES[:2], concept=[f"concept {i}" for i in range(concepts)])
    table = numbers(table, before=2, AS=0.3).assign(margin=0.1, before=lambda t: 90 + t["before"])
    return table.assign(after=table["before"] - table["AS"], q=[0.01, 0.2] * (len(table) // 2))


def made_contrasts():
    table = numbers(crossed(classifier=NAMES, class_=CLASSES), contrast=0.3).assign(
        photos=9, q=[0.01, 0.2] * 6
    )
    for end, width in {"low": -0.1, "high": 0.1, "least": -0.2, "most": 0.2}.items():
        table[f"contrast {end}"] = table["contrast"] + width
    for end in ("", " low", " high"):
        table[f"contrast beyond{end}"] = 0.1 * table[f"contrast{end}"]
    table["q beyond"] = 0.9
    table.loc[0, "contrast"] = np.nan
    return table


def made_steps():
    table = crossed(classifier=NAMES, direction=["toward the text", "random"], IS=[0.0, 20.0, 40.0])
    table = numbers(table, AS=1, low=1, high=1)
    return table.assign(target="jellyfish", reached=50)


CURVES = numbers(
    crossed(loss=["mse", "cosine", "both"], split=["fit", "held out"], epoch=[0, 1, 2]), cosine=0.1
)
PLANTED = crossed(head=["sees-all", "clean"], seed=[0, 1], factor=["shape", "background"], planted=[0.0, 0.5])
PLANTED = numbers(PLANTED, unread=0.1)
CHANGES = pd.DataFrame({"IS": [0.0, 5.0], "turned": [0, 5.5], "low": [0, 4.0], "high": [0, 7.0]})
CHANGES = CHANGES.assign(changed=[0, 12.5], pictures=16, noise=37.4)
DRAWS = crossed(classifier=NAMES, kind=["same dimension", "same energy"], draw=[-1, 0, 1, 2])
WAYS = {"score": ["|AS|", "contrast"], "way": ["as laid out", "beyond the logits"]}
CONCLUSIONS = crossed(condition=["as it should be", "weak encoder"], short=["leaky by |AS|", "sees-all"])
REACHED = crossed(
    head=["sees-all", "clean"], factor=["shape", "cloud"], direction=["toward the prompt", "random"]
)
MADE = {
    "spectrum": lambda: charts.spectrum(
        crossed(classifier=NAMES, index=[1, 2]).assign(**{"singular value": 1.5})
    ),
    "null_energy": lambda: charts.null_energy(
        numbers(crossed(classifier=NAMES, i=range(9)), share=2),
        numbers(crossed(classifier=NAMES, draw=[0, 1]), share=2),
    ),
    "training_curves": lambda: charts.training_curves(CURVES.assign(mse=1.5), {"mse": 0.2, "cosine": 0.9}),
    "translator_cosines": lambda: charts.translator_cosines(made_scores().assign(cosine=lambda t: t["AS"])),
    "linked": lambda: charts.linked(made_scores()),
    "subspaces": lambda: charts.subspaces(numbers(DRAWS, **{"|AS|": 1, "AS": 1, "contrast": 1, "IS": 1})),
    "rescalings": lambda: charts.rescalings(
        numbers(
            crossed(classifier=NAMES, basis=["as given", "slope of |AS|, +0.5", "random 1"]),
            **dict.fromkeys(("IS", "|AS|", "contrast"), 1),
        )
    ),
    "factors_told": lambda: charts.factors_told(
        numbers(crossed(factor=["shape", "cloud"], outputs=[0, 1]), **{"R²": 1})
    ),
    "more_outputs": lambda: charts.more_outputs(
        numbers(crossed(head=NAMES, outputs=[1, 10]), **{"R²": 1, "by chance": 1})
    ),
    "wordings": lambda: charts.wordings(
        numbers(
            crossed(classifier=NAMES, wording=["a {}", "an image of a {}"], of=["all photos", "class"]),
            **{"mean contrast (°)": 1, "mean AS (°)": 1, "median |AS| (°)": 1},
        ),
        "a {}",
    ),
    "class_violins": lambda: charts.class_violins(made_scores(), made_medians(made_scores())),
    "class_contrasts": lambda: charts.class_contrasts(made_contrasts()),
    "photo_curve": lambda: charts.photo_curve(
        numbers(crossed(classifier=NAMES, photos=[500, 1000], score=["median IS", "mean contrast"]), value=1)
    ),
    "concept_arrows": lambda: charts.concept_arrows(made_concepts()),
    "steering_curves": lambda: charts.steering_curves(made_steps()),
    "steering_grid": lambda: charts.steering_grid(
        numbers(crossed(classifier=NAMES, source=CLASSES, target=["jeep", "pirate"]), AS=1).assign(
            reached=9, photos=9
        )
    ),
    "picture_changes": lambda: charts.picture_changes(CHANGES),
    "witnesses": lambda: charts.witnesses(
        interval(
            crossed(wanted=["null step", "random null step"], who=["translator", "judge"]).rename(
                columns={"who": "seen by"}
            )
        )
    ),
    "truth": lambda: charts.truth(PLANTED),
    "recovery": lambda: charts.recovery(
        interval(crossed(regime=["1 of 8", "4 of 8"], **WAYS)).assign(IS=5.0)
    ),
    "calibration": lambda: charts.calibration(
        interval(crossed(setting=["seen", "ignored"], planted=[0.0, 1.0], **WAYS))
    ),
    "conclusions": lambda: charts.conclusions(CONCLUSIONS.assign(conclusion="so", worlds=4, of=5)),
    "planted_steering": lambda: charts.planted_steering(
        interval(REACHED).assign(planted=lambda t: (t["head"] == "clean") * 1.0, IS=40.0, step=1.0)
    ),
    "trained": lambda: charts.trained(
        interval(crossed(measure=["|AS|", "|AS| beyond"], network=["as planted", "trained, λ = 1"]))
    ),
}


def text_of(chart):
    return json.dumps(chart.to_dict(), separators=(",", ":"), allow_nan=False)  # validated by Altair


def walk(spec):
    """Every mapping in a specification."""
    if isinstance(spec, dict):
        yield spec
    for value in spec.values() if isinstance(spec, dict) else spec if isinstance(spec, list) else ():
        yield from walk(value)


def unfolded(data, transform):
    """The rows that a page makes of packed data."""
    rows = pd.DataFrame(data["values"])
    return rows.explode(transform["flatten"], ignore_index=True)


def test_no_chart_goes_untested():
    public = {
        k for k, v in vars(charts).items() if callable(v) and getattr(v, "__module__", "") == charts.__name__
    }
    assert {k for k in public if k[0].islower() and k[0] != "_"} == {*MADE, "dots", "captioned"}


@pytest.mark.parametrize("name", MADE)
def test_chart_is_described_states_units_and_is_drawn(name):
    chart = MADE[name]()
    assert text_of(MADE[name]()) == text_of(chart)  # the same table, the same bytes
    assert "random()" not in text_of(chart)
    spec = chart.to_dict()
    assert len(spec["description"]) > 50
    titles = [
        m[axis]["title"]
        for m in walk(spec)
        for axis in "xy"
        if isinstance(m.get(axis), dict) and m[axis].get("title")
    ]
    assert titles
    for title in titles:
        angles = title.startswith(("AS", "IS ", "|AS|", "score", "mean contrast", "angle"))
        assert "/" in title or not angles or "(degrees" in title or "(°)" in title
    vl_convert = pytest.importorskip("vl_convert", reason="the `book` extra is not installed")
    svg = vl_convert.vegalite_to_svg(spec)
    assert svg.count("<path") > 3
    assert "NaN" not in svg
    assert ">-" not in svg  # a true minus


def test_packed_tables_unfold_to_what_they_were():
    table = made_scores().assign(verdict=True)
    table.loc[3, "AS"] = np.nan
    data, transform = charts._packed(table)
    rows = unfolded(data.to_dict(), transform.to_dict())
    for column in ("classifier", "class", "path", "i", "verdict"):
        assert rows[column].tolist() == table[column].tolist()
    np.testing.assert_allclose(rows["AS"].astype(float), table["AS"], rtol=5e-5)
    assert data.to_dict()["values"][0]["AS"][3] is None


def test_pages_stay_light():
    scores = made_scores(56, [f"class {i}" for i in range(16)])  # 2,688 rows
    assert len(text_of(charts.linked(scores))) < 130_000
    assert len(text_of(charts.class_violins(scores, made_medians(scores)))) < 50_000
    assert len(text_of(charts.linked(pd.concat([scores] * 4)))) < 330_000  # no more than 2,000 photos


def test_an_ellipse_holds_the_share_it_says():
    rng = np.random.default_rng(0)
    own = pd.DataFrame(rng.multivariate_normal([0.2, 6], [[0.2, 0.3], [0.3, 2]], 4000), columns=["AS", "IS"])
    outline = charts._ellipse(own, 0.8)[["AS", "IS"]] - own.mean()
    far = np.einsum("ni,ij,nj->n", outline, np.linalg.inv(own.cov()), outline)
    np.testing.assert_allclose(far, stats.chi2.ppf(0.8, df=2))


def test_arrows_are_of_the_largest_and_smallest_scores():
    table = made_concepts()
    spec = charts.concept_arrows(table, top=3).to_dict()
    rows = unfolded(spec["data"], spec["transform"][0])
    for (name, c), own in table.groupby(["classifier", "class"]):
        shown = rows[(rows["classifier"] == name) & (rows["class"] == c)]
        ordered = own.sort_values("AS")["concept"].tolist()
        assert set(shown["concept"]) == {*ordered[:3], *ordered[-3:]}
        sure = shown["corrected p"] == "0.010"
        turn = np.select([sure & (shown["value"] > 0), sure], ["closer", "farther"], "may be 0")
        assert shown["turn"].tolist() == turn.tolist()


def test_a_caption_is_below_its_chart(monkeypatch):
    shown = []
    monkeypatch.setattr(charts, "display", lambda *parts: shown.extend(parts))
    charts.captioned("chart", "Mean |AS| < 1° & more.")._ipython_display_()
    assert shown[0] == "chart"
    assert '<figcaption class="sing-caption">Mean |AS| &lt; 1° &amp; more.</figcaption>' in shown[1].data


# --------------------------------------------------------------------------- in a browser

PAGE = """<!DOCTYPE html>
<html lang="en" data-theme="light"><head><meta charset="utf-8"><title>Comparison</title>
<meta name="viewport" content="width=device-width, initial-scale=1">
<link rel="icon" href="data:,"><link rel="stylesheet" href="sing.css">
<style>body {{ margin: 0 12px; max-width: 48rem; }}</style>
<script defer src="vega.js"></script><script defer src="charts.js"></script></head>
<body class="bd-content"><div class="sing-figure">
<div class="sing-chart" role="group" aria-label="Comparison"></div>
<script type="application/json" class="sing-chart-spec">{spec}</script></div></body></html>
"""
FILLED = """() => {
  const [box, svg] = ['.sing-chart', '.sing-chart svg'].map((x) => document.querySelector(x).clientWidth);
  return svg <= box && svg > 0.85 * box;
}"""
# Dots by panel: how many are not dimmed. Pixels a degree on both axes.
DOTS = """() => [...document.querySelectorAll('.photos_marks')].map((panel) => {
  const dots = [...panel.querySelectorAll('path')];
  return dots.filter((dot) => dot.getAttribute('opacity') > 0.5).length;
})"""
DEGREES = """() => ['x', 'y'].map((axis) => {
  const at = [...document.querySelectorAll('.role-axis-label')].flatMap((labels) =>
    [...labels.querySelectorAll('text')].map((t) => ({
      value: Number(t.textContent.replace('−', '-')), box: t.getBoundingClientRect(),
      row: t.getAttribute('text-anchor') === 'end' ? 'y' : 'x', panel: labels,
    }))).filter(({ row }) => row === axis);
  const own = at.filter(({ panel }) => panel === at[0].panel);
  const [a, b] = [own[0], own[own.length - 1]];
  const middle = ({ box }) => (axis === 'x' ? box.x + box.width / 2 : box.y + box.height / 2);
  return Math.abs((middle(b) - middle(a)) / (b.value - a.value));
})"""


@pytest.mark.parametrize("name", ["every class", "all", "", "null", "it's"])
def test_no_name_of_a_class_is_the_menus_every_class_or_an_outline(name):
    spec = charts.linked(made_scores(classes=["tench", name])).to_dict()
    menu = next(p for p in spec["params"] if p["name"] == "chosen_class")
    assert menu["value"] is None
    assert menu["bind"]["options"] == [None, "tench", name]
    assert menu["bind"]["labels"] == ["every class", "tench", name]
    rows = [row for row in spec["data"]["values"] for _ in row["AS"]]
    assert [sum(row["class"] == c for row in rows) for c in ("tench", name)] == [36, 36]
    assert sum(row["class"] is None for row in rows) == 3 * 49


@pytest.fixture(scope="module")
def address(tmp_path_factory):
    folder = tmp_path_factory.mktemp("page")
    shutil.copy(fetch_page_js(ROOT) / "vega.js", folder)
    for name in ("charts.js", "sing.css"):
        shutil.copy(ROOT / "book" / "_static" / name, folder)
    spec = text_of(charts.linked(made_scores())).replace("<", "\\u003c")
    (folder / "index.html").write_text(PAGE.format(spec=spec), encoding="utf-8")
    return (folder / "index.html").as_uri()


@pytest.fixture
def chart(browser, address):
    context = browser.new_context(color_scheme="light", viewport=DESK)
    watched = Watched(context)
    watched.page.on("console", lambda m: m.type == "warning" and watched.wrong.append(m.text))
    watched.open(address)
    yield watched.page
    assert watched.wrong == []
    context.close()


def test_a_degree_is_as_long_on_both_axes_on_every_screen(chart):
    for size in (DESK, PHONE):
        chart.set_viewport_size(size)
        chart.wait_for_function(FILLED)
        across, up = chart.evaluate(DEGREES)
        assert across == pytest.approx(up, rel=0.05)
        assert chart.evaluate("document.documentElement.scrollWidth") <= size["width"]
        assert chart.locator(".sing-figure").bounding_box()["height"] <= 600
        assert len(chart.evaluate(DOTS)) == 3  # panels


def test_a_classifier_a_class_and_a_photo_are_singled_out(chart):
    assert chart.evaluate(DOTS) == [48, 48, 48]
    chart.get_by_label("class:").select_option("golf ball")
    assert chart.evaluate(DOTS) == [12, 12, 12]
    chart.locator(".role-legend-label text").nth(1).click()
    assert chart.evaluate(DOTS) == [0, 12, 0]
    chart.evaluate("document.documentElement.dataset.theme = 'dark'")  # a redraw keeps what was chosen
    chart.wait_for_function("document.querySelector('.sing-chart').dataset.drawn === 'dark'")
    assert chart.evaluate(DOTS) == [0, 12, 0]
    box = chart.locator(".photos_marks").nth(1).bounding_box()
    chart.mouse.click(box["x"] + box["width"] / 2, box["y"] + box["height"] / 2)  # near some photo
    chart.wait_for_function(f"({DOTS})().filter((n) => n > 0).length === 3")  # in all panels
    told = chart.locator("#vg-tooltip-element").inner_text()
    assert "JPEG" in told
    assert NAMES[1] in told
    assert "undefined" not in told
