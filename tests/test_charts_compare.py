"""The linked comparison of classifiers: what its specification holds, says and weighs."""

from __future__ import annotations

import json

import numpy as np
import pandas as pd
import pytest

from sing_utils import tables
from sing_utils.charts_compare import MOST_PHOTOS, class_order, compare, photo_rows

AWKWARD = ["a \"quoted\" 'net'", "b <b>&amp;</b> \\ é", "net_c", "net_d", "net_e", "net_f"]
LEVEL = 0.9


def made_scores(classifiers=3, classes=4, photos=12, *, seed=0, name="ILSVRC2012_val_{:08d}.JPEG"):
    """A table like `tables.photo_scores`; names have quotes, markup and backslashes."""
    rng = np.random.default_rng(seed)
    labels = [f'class {c} "it\'s" \\ <i>' if c % 2 else f"class {c}" for c in range(classes)]
    frames = []
    for k in range(classifiers):
        for c, label in enumerate(labels):
            frames.append(
                pd.DataFrame(
                    {
                        "class": label,
                        "label": f"n{c:08d}",
                        "path": [f"val/n{c:08d}/{name.format(1000 * c + i)}" for i in range(photos)],
                        "classifier": AWKWARD[k],
                        "AS": rng.normal(0.1 * k, 0.1 + 0.1 * c, photos),
                        "IS": rng.normal(6 + k, 1.2, photos).clip(0.5),
                        "cosine": rng.uniform(0.7, 1, photos),
                        "top1": rng.choice(["English springer", *labels], photos),
                    }
                )
            )
    return pd.concat(frames, ignore_index=True)


def made_medians(scores):
    """A table like `tables.class_medians`, with made-up intervals; every third class was enlarged."""
    groups = scores.assign(a=scores["AS"].abs()).groupby(["classifier", "class"], sort=False)["a"]
    table = groups.median().reset_index(name="value").assign(photos=groups.size().to_numpy())
    table["enlarged"] = pd.factorize(table["class"])[0] % 3 == 0
    return table.assign(low=0.8 * table["value"], high=1.2 * table["value"])


def made_chart(scores, pictures=None, **options):
    return compare(
        scores,
        tables.ellipses(scores, level=LEVEL),
        tables.violins(scores),
        made_medians(scores),
        pictures or {},
        level=LEVEL,
        **options,
    )


def made_pictures(scores, count, size):
    paths = scores["path"].drop_duplicates()[:count]
    return dict.fromkeys(paths, f"data:image/webp;base64,{'A' * (size - 23)}")


def weight(spec):
    return len(json.dumps(spec, separators=(",", ":"), allow_nan=False).encode())


def walk(spec):
    """Every mapping in a specification."""
    if isinstance(spec, dict):
        yield spec
        for value in spec.values():
            yield from walk(value)
    elif isinstance(spec, list):
        for value in spec:
            yield from walk(value)


@pytest.fixture(scope="module")
def spec():
    scores = made_scores()
    return made_chart(
        scores, made_pictures(scores, 20, 700), picture_note="Drawn, not photographed."
    ).to_dict()


def params(spec):
    return {p["name"]: p for p in spec["params"]}


def test_choices_have_both_a_click_and_a_named_input(spec):
    own = params(spec)
    for name in ("chosen_class", "chosen_classifier", "photo"):
        assert own[name]["select"]["on"].startswith("click")
        assert own[name]["bind"]["name"].strip(": ")
    assert own["chosen_classifier"]["bind"]["options"] == [None, *AWKWARD[:3]]
    assert own["chosen_class"]["bind"]["options"][1:] == class_order(made_medians(made_scores()))
    assert own["photo"]["bind"] == {"input": "range", "min": 1, "max": 48, "step": 1, "name": "photo: "}
    assert own["photo"]["select"]["nearest"]
    assert own["frame"]["select"] == own["frame"]["select"] | {"type": "interval", "encodings": ["x", "y"]}


def test_it_is_described_and_its_axes_state_units(spec):
    assert "48 photos, 4 classes and 3 classifiers" in spec["description"]
    assert f"{100 * LEVEL:g} %" in spec["description"]
    titles = {m["title"] for m in walk(spec) if "field" in m and isinstance(m.get("title"), str)}
    assert {"AS toward the true class (degrees)", "IS (degrees)", "|AS| (degrees)"} <= titles


def test_no_colour_stands_alone(spec):
    scales = {}
    for encoding in (m["encoding"] for m in walk(spec) if "encoding" in m):
        if encoding.get("color", {}).get("field") == "classifier":
            scales.update({k: encoding[k]["scale"]["range"] for k in ("color", "shape") if k in encoding})
    assert len(set(scales["shape"])) == len(set(scales["color"])) == 3
    rows = spec["concat"][0]["layer"]
    names = [m["text"] for m in walk(rows) if m.get("text", {}).get("field") == "name"]
    assert names  # the name is beside the mark


def test_every_score_of_the_table_is_there_to_a_hundredth_of_a_degree():
    scores = made_scores(photos=30, seed=3).sample(frac=1, random_state=0)
    rows = photo_rows(scores, class_order(made_medians(scores)), {})
    names = list(dict.fromkeys(scores["classifier"]))
    assert [r["n"] for r in rows] == list(range(1, 121))
    by_file = {r["file"]: r for r in rows}
    for score in scores.to_dict("records"):
        row, k = by_file[score["path"].rsplit("/", 1)[-1]], names.index(score["classifier"])
        assert row["class"] == score["class"]
        assert row["top1"][k] == score["top1"]
        for measure in ("AS", "IS", "cosine"):
            assert abs(row[measure][k] - score[measure]) <= 0.0005 + 1e-9


def test_classes_lie_together_with_the_largest_median_first():
    scores = made_scores()
    order = class_order(made_medians(scores))
    rows = photo_rows(scores, order, {})
    assert list(dict.fromkeys(r["class"] for r in rows)) == order
    medians = scores.assign(a=scores["AS"].abs()).groupby(["class", "classifier"])["a"].median()
    means = medians.groupby("class").mean()[order]
    assert means.is_monotonic_decreasing


def test_a_full_page_stays_light():
    scores = made_scores(3, 16, 56)
    spec = made_chart(scores, made_pictures(scores, 384, 700), picture_note="x" * 180).to_dict()
    assert len(spec["datasets"]["photos"]) == 896
    assert sum("picture" in row for row in spec["datasets"]["photos"]) == 384
    assert weight(spec) < 900_000


@pytest.mark.parametrize(("classifiers", "classes", "photos"), [(1, 2, 5), (6, 20, 4), (2, 3, 2)])
def test_it_works_with_other_parameters(classifiers, classes, photos):
    scores = made_scores(classifiers, classes, photos)
    shapes = (
        tables.violins(scores) if photos > 2 else pd.DataFrame(columns=["classifier", "class", "AS", "half"])
    )
    outlines = tables.ellipses(scores, level=LEVEL)
    spec = compare(scores, outlines, shapes, made_medians(scores), {}, level=LEVEL).to_dict()
    assert weight(spec) < 300_000
    vl_convert = pytest.importorskip("vl_convert", reason="the `book` extra is not installed")
    svg = vl_convert.vegalite_to_svg(spec)
    assert "no picture" in svg
    assert "a \"quoted\" 'net'" in svg.replace("&quot;", '"').replace("&apos;", "'").replace("&#39;", "'")


def test_the_first_photo_shown_is_one_with_a_picture():
    scores = made_scores()
    order = class_order(made_medians(scores))
    path = scores.loc[scores["class"] == order[1], "path"].iloc[4]
    spec = made_chart(scores, {path: "data:,"}, picture_note="Drawn.").to_dict()
    assert params(spec)["photo"]["value"] == [{"n": 12 + 5}]
    assert ["Drawn."] in [m.get("text") for m in walk(spec["concat"])]


def test_very_many_photos_are_thinned_and_it_says_so():
    scores = made_scores(1, 4, MOST_PHOTOS // 4 + 100)
    spec = made_chart(scores).to_dict()
    rows = spec["datasets"]["photos"]
    assert pd.Series([r["class"] for r in rows]).value_counts().tolist() == [MOST_PHOTOS // 4] * 4
    titles = [m["text"] for m in walk(spec) if "subtitle" in m]
    assert f"Photos ({MOST_PHOTOS} of {MOST_PHOTOS + 400})" in titles
