"""One linked chart that compares classifiers: all photos, all classes, one photo (Figures 3 and 4).

Every panel reads what a reader clicked, dragged, or set in a menu from the same four names:

    frame              the part of the scatter that was dragged, in degrees; none means all
    chosen_classifier  by a click on its row, or the menu; none means all
    chosen_class       by a click on its row, or the menu; none means all
    photo              by a click near a dot, or the slider: its number, from 1

Vega-Lite binds a click and a menu to one name, so they cannot disagree. `shown` is the number of the
photo on the card: while a class is chosen, the slider goes round through that class.
"""

from __future__ import annotations

import json
import math
import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import cycle, islice
from pathlib import PurePosixPath
from typing import Any

import altair as alt
import pandas as pd

from sing_utils.charts import PALETTE

Rows = list[dict[str, Any]]

SHAPES = ["circle", "square", "triangle-up", "diamond", "cross", "triangle-down", "triangle-right"]
DASHES = [[1, 0], [7, 3], [2, 2], [9, 2, 2, 2], [12, 4], [4, 1], [1, 3]]
MEASURES = ["AS", "IS", "cosine", "top1"]
MOST_PHOTOS = 2000  # a page with more loads slowly; medians, violins and ellipses still know them all
GREY = "#888888"  # reads on both themes
AS_SIZE = "|AS| (degrees)"
GUTTER = 46  # pixels left of every panel: the scatter's axis, so that the others begin there too

HOW = [
    "IS = angle(T f, T f̃) (eq. 8) and AS = angle(T f, u) − angle(T f̃, u) toward the prompt u of the photo's "
    "class (eq. 7), in degrees, and the cosine of T f with the judge's own embedding of the photo: measured "
    "by sing_utils for every photo, here with three decimals.",
    "The page counts and takes medians of the photos in the frame; violins (a kernel density), the classes' "
    "medians with their bootstrap intervals and the ellipses (Gaussian) are of all photos.",
]


def compare(
    scores: pd.DataFrame,
    outlines: pd.DataFrame,
    shapes: pd.DataFrame,
    medians: pd.DataFrame,
    pictures: Mapping[str, str],
    *,
    level: float,
    picture_note: str = "",
) -> alt.ConcatChart:
    """Classifiers, photos, classes and the card of one photo, linked.

    Args:
        scores: `tables.photo_scores`, AS and IS in degrees.
        outlines: `tables.ellipses` of the scores at `level`.
        shapes: `tables.violins` of the scores.
        medians: `tables.class_medians` of the scores.
        pictures: path of a photo -> data URI of its picture; may lack some or all.
        level: share of the photos that an ellipse would hold were they normally distributed.
        picture_note: what the pictures are, in words for the card.
    """
    order = class_order(medians)
    names = list(dict.fromkeys(scores["classifier"]))
    it = _Shared(names, order, photo_rows(scores, order, pictures), known=scores["path"].nunique())
    height = 27 * (len(order) + 1)
    return (
        alt.concat(
            _classifiers(it),
            _scatter(it, outlines).properties(height=min(max(height, 300), 480))
            | _classes(it, shapes, medians).properties(height=height),
            _picture(it, picture_note) | _numbers(it),
            columns=1,
            spacing=22,
        )
        .add_params(*_follows(it))
        .configure_view(stroke=None)
        .properties(description=_description(it, level), usermeta=_page(it), datasets={"photos": it.photos})
    )


def _page(it: _Shared) -> dict[str, Any]:
    """For charts.js: a name for links, what it copies and explains below the chart, and how it draws.

    Panels narrower than `panel` pixels go under one another; what the signal `spoken` says is read out;
    and thousands of dots are drawn on a canvas.
    """
    sing = {"name": "compare", "classifiers": it.names, "how": HOW, "panel": 280, "spoken": "spoken"}
    return {"sing": sing, "embedOptions": {"renderer": "canvas"}}


def class_order(medians: pd.DataFrame) -> list[str]:
    """Classes by their median |AS|, on average over classifiers, largest first."""
    return medians.groupby("class")["value"].mean().sort_values(ascending=False).index.tolist()


def photo_rows(scores: pd.DataFrame, order: Sequence[str], pictures: Mapping[str, str]) -> Rows:
    """One row a photo, numbered from 1, class after class; its scores are lists, an item a classifier.

    Nothing is written twice and scores keep three decimals, so that a page with thousands stays light.
    """
    place = {c: i for i, c in enumerate(order)}
    photos = scores.drop_duplicates("path").sort_values("class", key=lambda c: c.map(place), kind="stable")
    if len(photos) > MOST_PHOTOS:
        photos = photos.groupby("class", sort=False).head(math.ceil(MOST_PHOTOS / len(order)))
    wide = scores.pivot(index="path", columns="classifier", values=MEASURES).loc[photos["path"]]
    names = list(dict.fromkeys(scores["classifier"]))
    lists = {m: [_short(row) for row in wide[m][names].to_numpy()] for m in MEASURES}  # (N, K) each
    rows = []
    for i, (path, c) in enumerate(zip(photos["path"], photos["class"], strict=True)):
        row = {"n": i + 1, "class": c, "file": PurePosixPath(path).name}
        row |= {m: values[i] for m, values in lists.items()}
        rows.append(row | ({"picture": pictures[path]} if path in pictures else {}))
    return rows


def _short(values: Sequence[Any]) -> list[Any]:
    """Numbers with three decimals; what is missing or not finite is None."""
    return [v if isinstance(v, str) else round(float(v), 3) if math.isfinite(v) else None for v in values]


# ----------------------------------------------------------------------- what panels share


@dataclass(frozen=True)
class _Shared:
    """Classifiers, classes in order, and photos, with the choices and colours that all panels share."""

    names: list[str]
    order: list[str]
    photos: Rows
    known: int  # photos in the table; fewer are drawn if they are very many

    @property
    def frame(self) -> alt.Parameter:
        mark = alt.BrushConfig(fill=GREY, fillOpacity=0.13, stroke=GREY, strokeOpacity=0.9)
        return alt.selection_interval(name="frame", encodings=["x", "y"], mark=mark)

    @property
    def classifier(self) -> alt.Parameter:
        return _choice("classifier", self.names, "all classifiers")

    @property
    def one_class(self) -> alt.Parameter:
        return _choice("class", self.order, "all classes")

    @property
    def photo(self) -> alt.Parameter:
        """The photo of the dot nearest to a click, or by its number; the first with a picture at first."""
        slider = alt.binding_range(min=1, max=len(self.photos), step=1, name="photo: ")
        return alt.selection_point(
            name="photo",
            fields=["n"],
            nearest=True,
            on="click",
            clear=False,
            bind=slider,
            value=[{"n": next((p["n"] for p in self.photos if "picture" in p), 1)}],
        )

    def dots(self) -> alt.Chart:
        """The photos unfolded in the page: one row a photo and classifier (number k)."""
        return (
            alt.Chart(alt.NamedData("photos"))
            .transform_calculate(
                classifier=json.dumps(self.names), k=json.dumps(list(range(len(self.names))))
            )
            .transform_flatten(["classifier", "k", *MEASURES])
        )

    def style(self, channel: Any, values: Sequence[Any]) -> Any:
        """An encoding of the classifier; after the last value, the first comes again."""
        ordered = list(islice(cycle(values), len(self.names)))
        return channel("classifier:N", scale=alt.Scale(domain=self.names, range=ordered), legend=None)

    @property
    def marked(self) -> dict[str, Any]:
        """Colour and shape of a classifier: neither stands alone."""
        return {"color": self.style(alt.Color, PALETTE), "shape": self.style(alt.Shape, SHAPES)}


def _choice(field: str, options: list[str], everything: str) -> alt.Parameter:
    """One of the options, or None for all, by a menu or by a click on a row's strip."""
    menu = alt.binding_select(options=[None, *options], labels=[everything, *options], name=f"{field}: ")
    on = f"click[event.item && event.item.datum && event.item.datum.strip === '{field}']"
    return alt.selection_point(name=f"chosen_{field}", fields=[field], bind=menu, on=on, clear=False)


def _follows(it: _Shared) -> list[alt.Parameter]:
    """What follows from the choices: the number of the photo on the card, and the card in words."""
    spans: dict[str, dict[str, int]] = {}
    for photo in it.photos:
        spans.setdefault(photo["class"], {"first": photo["n"], "count": 0})["count"] += 1
    own = "spans[chosen_class['class'][0]]"
    round_and_round = (
        f"{own}.first + (photo.n[0] - {own}.first + {own}.count * {len(it.photos)}) % {own}.count"
    )
    return [
        alt.param(name="spans", value=spans),
        alt.param(name="shown", expr=f"chosen_class['class'] ? {round_and_round} : photo.n[0]"),
        alt.param(name="spoken", expr=_spoken(it.names)),
    ]


def _spoken(names: Sequence[str]) -> str:
    """An expression: the card of photo `shown` in words."""
    row = "data('photos')[shown - 1]"
    words = [f"'Photo ' + shown + ', ' + {row}['class'] + ', ' + {row}.file + '. '"]
    for k, name in enumerate(names):
        words.append(
            f"{json.dumps(name)} + ': AS ' + format({row}.AS[{k}], '+.2f') + ' degrees, IS ' + "
            f"format({row}.IS[{k}], '.2f') + ' degrees, cosine ' + format({row}.cosine[{k}], '.3f') + "
            f"', top-1 class ' + {row}.top1[{k}] + '. '"
        )
    return " + ".join(words)


def _description(it: _Shared, level: float) -> str:
    return (
        f"Linked charts of {len(it.photos)} photos, {len(it.order)} classes and {len(it.names)} classifiers: "
        "a table of medians, a scatter plot of Image Score over Attribute Score in degrees with each "
        f"classifier's {100 * level:g} % confidence ellipse, violins of the absolute Attribute Score for "
        "each class, and the card of one photo with its scores. Menus choose classifier and class, a "
        "slider the photo; the card is also read out."
    )


# ------------------------------------------------------------------------ parts of a panel


def _title(text: str, how: str) -> alt.Title:
    return alt.Title(text, subtitle=how, anchor="start", offset=8, frame="bounds")


def _strips(rows: pd.DataFrame, field: str, choice: alt.Parameter, y: dict[str, Any]) -> alt.Chart:
    """A strip over each row that takes clicks, and is shaded where its row is the chosen one."""
    return (
        alt.Chart(rows.assign(top=rows["row"] - 0.5, bottom=rows["row"] + 0.5, strip=field))
        .mark_rect(cursor="pointer", color=GREY)
        .encode(
            x=alt.value(-GUTTER),
            x2=alt.value("width"),
            y=alt.Y("top:Q", **y),
            y2="bottom:Q",
            opacity=alt.condition(choice, alt.value(0.22), alt.value(0), empty=False),
        )
        .add_params(choice)
    )


def _words(rows: alt.Chart, field: str, x: float | None, y: alt.Y, **style: Any) -> alt.Chart:
    """Text that ends at the share `x` of a panel's width, or starts at its left edge."""
    if x is None:
        start = {"align": "left", "dx": 34, "fontSize": 12} | style
        return rows.mark_text(**start).encode(x=alt.value(-GUTTER), y=y, text=f"{field}:N")
    end = {"align": "right", "fontSize": 12} | style
    at = alt.X(datum=x, type="quantitative", scale=alt.Scale(domain=[0, 1]), axis=None)
    return rows.mark_text(**end).encode(x=at, y=y, text=f"{field}:N")


def _key(it: _Shared, rows: alt.Chart, y: alt.Y) -> list[alt.Chart]:
    """A classifier's mark and dash, at the left edge."""
    middle, half = 15 - GUTTER, 13
    return [
        rows.mark_rule(strokeWidth=2).encode(
            x=alt.value(middle - half),
            x2=alt.value(middle + half),
            y=y,
            color=it.marked["color"],
            strokeDash=it.style(alt.StrokeDash, DASHES),
        ),
        rows.mark_point(filled=True, size=75, opacity=1).encode(x=alt.value(middle), y=y, **it.marked),
    ]


def _heads(columns: Mapping[str, float], row: float, y: alt.Y) -> list[alt.Chart]:
    """Names over columns of numbers."""
    field = y.shorthand.removesuffix(":Q")
    bold = {"fontWeight": 600, "fontSize": 11.5}
    return [
        _words(alt.Chart(pd.DataFrame({field: [row], "head": [head]})), "head", x, y, **bold)
        for head, x in columns.items()
    ]


# ------------------------------------------------------------------------------ the panels


def _classifiers(it: _Shared) -> alt.LayerChart:
    """A row a classifier: its mark, how many photos are in the frame and class, and their medians."""
    rows = pd.DataFrame({"classifier": [None, *it.names], "row": range(len(it.names) + 1)})
    rows["name"] = ["all classifiers", *it.names]
    place = {"scale": alt.Scale(domain=[len(it.names) + 0.5, -1.5], nice=False), "axis": None}
    y = alt.Y("row:Q", **place)
    inside = it.dots().transform_filter(it.frame).transform_filter(it.one_class)
    medians = {"photos": "distinct(n)", "AS": "median(AS)", "IS": "median(IS)"}
    each = inside.transform_aggregate(**medians, row="min(k)", groupby=["classifier"])
    columns = {"photos": 0.62, "AS": 0.81, "IS": 0.99}
    layers = [*_key(it, alt.Chart(rows[1:]), y), _words(alt.Chart(rows), "name", None, y)]
    layers += _heads(columns, -1, y)
    for some, row in ((each, "datum.row + 1"), (inside.transform_aggregate(**medians), "0")):
        told = some.transform_calculate(
            row=row, AS="format(datum.AS, '+.2f') + '°'", IS="format(datum.IS, '.2f') + '°'"
        )
        layers += [_words(told, field, x, y) for field, x in columns.items()]
    layers.append(_strips(rows, "classifier", it.classifier, place))
    title = _title("Classifiers: click one", "Medians of the photos in the frame and class.")
    return alt.layer(*layers).properties(width=600, height=22 * (len(it.names) + 2), title=title)


def _scatter(it: _Shared, outlines: pd.DataFrame) -> alt.LayerChart:
    """AS against IS of every photo with confidence ellipses; the photo on the card stands out."""
    dots = it.dots()
    x = alt.X("AS:Q", title="AS toward the true class (degrees)", scale=_span(it, outlines, "AS"))
    flush = alt.Axis(labelFlush=True, minExtent=GUTTER - 18, maxExtent=GUTTER - 18)
    y = alt.Y("IS:Q", title="IS (degrees)", scale=_span(it, outlines, "IS"), axis=flush)
    points = dots.mark_point(filled=True, size=17).encode(
        x=x,
        y=y,
        **it.marked,
        opacity=alt.condition(it.classifier & it.one_class, alt.value(0.5), alt.value(0.05)),
    )
    own = dots.transform_filter("datum.n === shown").encode(x=x, y=y)
    ring = own.mark_point(filled=False, size=150, opacity=1).encode(shape=it.marked["shape"])
    rings = [
        ring.encode(stroke=alt.value(c), strokeWidth=alt.value(w)) for c, w in (("white", 5), ("black", 2))
    ]
    heart = own.mark_point(filled=True, size=90, opacity=1).encode(**it.marked)
    # Takes the clicks. Nothing in it follows the frame, so that a drag does not look for neighbours anew.
    near = (
        dots.transform_filter(it.classifier)
        .transform_filter(it.one_class)
        .mark_point(size=1, opacity=0)
        .encode(x=x, y=y)
        .add_params(it.photo, it.frame)
    )
    count = f"{len(it.photos)}" if len(it.photos) == it.known else f"{len(it.photos)} of {it.known}"
    title = _title(f"Photos ({count})", "Click near a dot, or drag a frame.")
    return alt.layer(points, _ellipses(it, outlines, x, y), *rings, heart, near).properties(
        width=300, title=title
    )


def _span(it: _Shared, outlines: pd.DataFrame, field: str) -> alt.Scale:
    """From the smallest to the largest value of all dots and ellipses, whatever is chosen."""
    values = [v for photo in it.photos for v in photo[field] if v is not None]
    values += outlines[field].dropna().tolist()
    return alt.Scale(domain=_short([min(values, default=0), max(values, default=1)]), nice=True)


def _ellipses(it: _Shared, outlines: pd.DataFrame, x: alt.X, y: alt.Y) -> alt.Chart:
    curves = [
        {"classifier": name, "AS": _short(own["AS"]), "IS": _short(own["IS"]), "order": list(range(len(own)))}
        for name, own in outlines.groupby("classifier", sort=False)
    ]
    return (
        alt.Chart(alt.Data(values=curves))
        .transform_flatten(["AS", "IS", "order"])
        .mark_line(strokeWidth=2.5)
        .encode(
            x=x,
            y=y,
            color=it.marked["color"],
            strokeDash=it.style(alt.StrokeDash, DASHES),
            order="order:O",
            opacity=alt.condition(it.classifier, alt.value(1), alt.value(0.1)),
        )
    )


def _classes(it: _Shared, shapes: pd.DataFrame, medians: pd.DataFrame) -> alt.LayerChart:
    """|AS| per class: violins, medians with intervals, and a tick for every photo in the frame."""
    enlarged = dict(zip(medians["class"], medians["enlarged"], strict=True))
    labels = ["all classes", *[c + (" (64 px)" if enlarged[c] else "") for c in it.order]]
    rows = pd.DataFrame({"class": [None, *it.order], "row": range(-1, len(it.order)), "label": labels})
    place = {"scale": alt.Scale(domain=[len(it.order) - 0.5, -1.5], nice=False), "axis": None, "title": None}
    room = min(138, 7 * max(map(len, labels)))  # pixels for the labels
    sizes = [abs(v) for photo in it.photos for v in photo["AS"] if v is not None]
    # Beyond the largest value is room for the counts.
    scale = alt.Scale(domain=[0, 1.3 * max([*sizes, 0.01])], rangeMin=max(0, room - GUTTER + 6))
    x, y = alt.X("AS:Q", title=AS_SIZE), alt.Y("y:Q", **place)
    named = alt.Chart(rows).mark_text(align="right", limit=room, fontSize=12)
    return alt.layer(
        named.encode(x=alt.value(room - GUTTER), y=alt.Y("row:Q", **place), text="label:N"),
        # One layer alone may name the scale, or Vega-Lite sees a conflict.
        _violins(it, shapes, alt.X("AS:Q", title=AS_SIZE, scale=scale), y),
        *_framed(it, x, y),
        *_medians(it, medians, x, y),
        _strips(rows.merge(_told(it, medians), how="left"), "class", it.one_class, place).encode(
            tooltip=["class:N", *[alt.Tooltip(f"m{k}:N", title=name) for k, name in enumerate(it.names)]]
        ),
    ).properties(width=230, title=_title("Classes: click one", "Marks: medians. Ticks: photos in the frame."))


def _told(it: _Shared, medians: pd.DataFrame) -> pd.DataFrame:
    """Each class's medians with their intervals in words: class, and m0, m1, ... by classifier."""
    words = [
        f"{m:.2f}° ({low:.2f} to {high:.2f})"
        for m, low, high in medians[["value", "low", "high"]].itertuples(index=False)
    ]
    wide = medians.assign(words=words).pivot(index="class", columns="classifier", values="words")[it.names]
    return wide.set_axis([f"m{k}" for k in range(len(it.names))], axis=1).reset_index()


def _framed(it: _Shared, x: alt.X, y: alt.Y) -> list[alt.Chart]:
    """The photos in the frame, a tick each, and how many of each class they are."""
    inside = (
        it.dots()
        .transform_filter({"param": "frame", "empty": False})
        .transform_filter(it.classifier)
        .transform_calculate(AS="abs(datum.AS)", row=f"indexof({json.dumps(it.order)}, datum['class'])")
        .transform_calculate(y=f"datum.row + {_lane(it)}")
    )
    ticks = inside.mark_tick(thickness=1.2, size=max(4, 15 // len(it.names)), opacity=0.6)
    counts = (
        inside.transform_aggregate(photos="distinct(n)", y="min(row)", groupby=["class"])
        .transform_calculate(text="datum.photos + ' of ' + spans[datum['class']].count")
        .mark_text(align="right", dx=-4, fontSize=11.5)
    )
    return [
        ticks.encode(x=x, y=y, color=it.marked["color"]),
        counts.encode(x=alt.value("width"), y=y, text="text:N"),
    ]


def _lane(it: _Shared) -> str:
    """An expression: where in its class's row a classifier's marks lie; in the middle if it is alone."""
    step = 0.6 / len(it.names)
    return f"(chosen_classifier.classifier ? 0 : (datum.k - {(len(it.names) - 1) / 2}) * {step:.3f})"


def _violins(it: _Shared, shapes: pd.DataFrame, x: alt.X, y: alt.Y) -> alt.Chart:
    bodies = [
        {
            "classifier": name,
            "class": c,
            "row": it.order.index(c),
            "AS": _short(own["AS"]),
            "half": _short(own["half"]),
        }
        for (name, c), own in shapes.groupby(["classifier", "class"], sort=False)
    ]
    alone = alt.ExprRef(f"chosen_classifier.classifier ? 0.25 : {0.4 / (len(it.names) + 1):.2f}")
    return (
        alt.Chart(alt.Data(values=bodies))
        .transform_filter(it.classifier)
        .transform_flatten(["AS", "half"])
        .transform_calculate(y="datum.row - datum.half", y2="datum.row + datum.half")
        .mark_area(fillOpacity=alone, strokeWidth=1, strokeOpacity=0.7, clip=True)
        .encode(
            x=x,
            y=y,
            y2="y2:Q",
            fill=it.style(alt.Fill, PALETTE),
            stroke=it.style(alt.Stroke, PALETTE),
            detail="class:N",
        )
    )


def _medians(it: _Shared, medians: pd.DataFrame, x: alt.X, y: alt.Y) -> list[alt.Chart]:
    place = {c: i for i, c in enumerate(it.order)}
    number = {name: k for k, name in enumerate(it.names)}
    rows = medians.assign(
        row=medians["class"].map(place), k=medians["classifier"].map(number), AS=medians["value"]
    )
    base = (
        alt.Chart(rows[["classifier", "k", "row", "AS", "low", "high"]].round(3))
        .transform_filter(it.classifier)
        .transform_calculate(y=f"datum.row + {_lane(it)}")
    )
    low = alt.X("low:Q", title=AS_SIZE)
    return [
        base.mark_rule(strokeWidth=2).encode(x=low, x2="high:Q", y=y, color=it.marked["color"]),
        base.mark_point(filled=True, size=55, opacity=1, stroke="white", strokeWidth=1).encode(
            x=x, y=y, **it.marked
        ),
    ]


def _picture(it: _Shared, note: str) -> alt.LayerChart:
    """The photo on the card: its picture, class, file and number."""
    own = alt.Chart(alt.NamedData("photos")).transform_filter("datum.n === shown")
    side = 128  # pixels, twice the picture's
    ground = own.mark_rect(x=-GUTTER, x2=side - GUTTER, y=0, y2=side, fill=GREY, fillOpacity=0.15)
    none = own.transform_filter("!datum.picture").mark_text(
        x=side / 2 - GUTTER, y=side / 2, text="no picture"
    )
    image = own.transform_filter("datum.picture").mark_image(
        x=-GUTTER, y=0, width=side, height=side, align="left", baseline="top"
    )
    place = "shown - spans[datum['class']].first + 1"
    told = own.transform_calculate(
        place=f"'photo ' + ({place}) + ' of ' + spans[datum['class']].count + ' of its class'"
    )
    style = {"align": "left", "baseline": "top", "x": side + 12 - GUTTER, "limit": 184, "fontSize": 12}
    lines = textwrap.wrap(note, 31) if any("picture" in photo for photo in it.photos) else []
    layers = [
        ground,
        none,
        image.encode(url="picture:N"),
        told.mark_text(**style | {"y": 2, "fontSize": 14, "fontWeight": 600}).encode(text="class:N"),
        told.mark_text(**style | {"y": 26, "fontSize": 11}).encode(text="file:N"),
        told.mark_text(**style | {"y": 44}).encode(text="place:N"),
        told.mark_text(**style | {"y": 68, "fontSize": 11, "opacity": 0.85}, text=lines),
    ]
    title = _title("The photo", "Click near a dot, or use the slider below.")
    return alt.layer(*layers).properties(width=290, height=max(side, 66 + 13 * len(lines)), title=title)


def _numbers(it: _Shared) -> alt.LayerChart:
    """The photo on the card for each classifier: AS, IS, cosine of Tf and z, and its top-1 class."""
    y = alt.Y("k:Q", scale=alt.Scale(domain=[len(it.names) - 0.4, -1], nice=False), axis=None)
    own = (
        it.dots()
        .transform_filter("datum.n === shown")
        .transform_calculate(
            top="'top-1 class: ' + datum.top1",
            AS="format(datum.AS, '+.2f') + '°'",
            IS="format(datum.IS, '.2f') + '°'",
            cosine="format(datum.cosine, '.3f')",
        )
    )
    columns = {"AS": 0.63, "IS": 0.8, "cosine": 0.99}
    layers = [
        *_key(it, own, y),
        _words(own, "classifier", None, y, limit=132),
        _words(own, "top", None, y, dy=16, limit=270, opacity=0.85),
        *_heads(columns, -0.7, y),
        *[_words(own, field, x, y) for field, x in columns.items()],
    ]
    title = _title("Its scores", "cosine: how faithful the translation is")
    return alt.layer(*layers).properties(width=290, height=42 * len(it.names) + 16, title=title)
