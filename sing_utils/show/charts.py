"""Altair charts, one function a figure, on six blocks: dots, strip, curves, boxes, bars and heat.

Titles state units; each chart has a description for readers who cannot see it, and the same table
gives the same specification, byte for byte. Colours are Okabe and Ito's, told apart by the
colour-blind, on both themes.
"""

from __future__ import annotations

import html
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any

import altair as alt
import numpy as np
import pandas as pd
from IPython.display import HTML, display
from scipy import stats

from sing_utils.show.findings import SIGNIFICANCE, p_value

PALETTE = ["#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#D55E00", "#999999", "#8B5A2B"]
BEFORE, AFTER, ROSE, FELL = "#0072B2", "#D55E00", "#009E73", "#CC79A7"
GREY = "#888888"  # reads on both themes
_INTERVAL = {"value": "value", "low": "interval from", "high": "to"}
_TURNS = {"closer": ROSE, "farther": FELL}
_MOST_PHOTOS = 2000  # a page with more loads slowly; ellipses still know them all

# Pixels, in JupyterLab: its Vega draws a chart of the width "container" again and again, for ever.
WIDTH = 600

# The one name under which both JupyterLab and the book draw a chart from its specification alone.
MIME = "application/vnd.vegalite.v5+json"


def _render(spec: dict[str, Any], **_: Any) -> dict[str, Any]:
    return {MIME: spec, "text/plain": spec.get("description", "chart")}


alt.renderers.register("sing", _render)
alt.renderers.enable("sing")
alt.data_transformers.disable_max_rows()  # thousands of photos are what these charts are for


@dataclass(frozen=True)
class Captioned:
    """A chart and its caption, which JupyterLab and the book show below it."""

    chart: Any
    text: str

    def _ipython_display_(self) -> None:
        caption = f'<figcaption class="sing-caption">{html.escape(self.text, quote=False)}</figcaption>'
        display(self.chart, HTML(f'<figure style="margin: 0">{caption}</figure>'))


def captioned(chart: Any, text: str) -> Captioned:
    """The chart with a caption of plain words: its take-home sentence and the paper's figure."""
    return Captioned(chart, text)


# ------------------------------------------------------------------------------- the parts


def _finish(
    chart: Any,
    table: pd.DataFrame,
    *,
    description: str,
    height: int = 320,
    menus: Mapping[str, Sequence[Any]] | None = None,
) -> Any:
    """A chart of `table` with words for those who can't see it. The book makes it as wide as the page.

    `menus`: a column of the table -> its values in order. The chart shows the rows of the value that is
    chosen, at first those of the first.
    """
    chart.data, unfold = _packed(table)
    filters = []
    for column, values in (menus or {}).items():
        parameter, only = _menu(column, values)
        chart = chart.add_params(parameter)
        filters.append(alt.FilterTransform(only))
        description += f" A menu chooses the {column}." if len(values) > 1 else ""
    own = [] if alt.utils.schemapi.Undefined is chart.transform else chart.transform
    chart.transform = [unfold, *filters, *own]
    return chart.properties(description=description, width=WIDTH, height=height)


def _menu(column: str, values: Sequence[Any]) -> tuple[alt.Parameter, str]:
    """A parameter with a menu of a column's values, if there are several; and which rows it chooses."""
    name = re.sub(r"\W", "_", f"chosen_{column}")
    many = {"bind": alt.binding_select(options=list(values), name=f"{column}: ")} if len(values) > 1 else {}
    return alt.param(name=name, value=next(iter(values), None), **many), f"datum['{column}'] === {name}"


def _packed(table: pd.DataFrame) -> tuple[alt.Data, alt.FlattenTransform]:
    """A table, its numbers as lists, a tenth of the bytes; and what makes them rows again in the page.

    Names that come again and again stand once; numbers have five digits.
    """
    lists = [c for c in table if table[c].dtype.kind in "if" or table[c].nunique() > len(table) / 10]
    names = [c for c in table if c not in lists]
    groups = [own for _, own in table.groupby(names, sort=False, dropna=False)] if names else [table]
    rows = [{c: _short(own[c])[0] for c in names} | {c: _short(own[c]) for c in lists} for own in groups]
    return alt.Data(values=rows), alt.FlattenTransform(flatten=lists)


def _short(column: pd.Series) -> list[Any]:
    """Its values; numbers with five digits, None where there is none."""
    if column.dtype.kind != "f":
        return [None if pd.isna(x) else x for x in column.tolist()]
    return [float(f"{x:.5g}") if np.isfinite(x) else None for x in column]


def _values(table: pd.DataFrame, *columns: str) -> dict[str, list[Any]]:
    """Column -> its values in the order of the table."""
    return {c: table[c].unique().tolist() for c in columns}


def _hue(
    field: str = "classifier",
    fixed: Mapping[str, str] | None = None,
    *,
    title: str = "",
    columns: int = 3,
) -> alt.Color:
    """Colour by a name, with its legend on top, if it has columns; `fixed`: value -> colour."""
    scale = {"domain": list(fixed), "range": list(fixed.values())} if fixed else {"range": PALETTE}
    top = alt.Legend(orient="top", columns=columns, symbolOpacity=1, labelLimit=260, titleLimit=0)
    legend = top if columns else None
    how = {"scale": alt.Scale(**scale), "legend": legend, "sort": None}  # in the order of the table
    return alt.Color(f"{field}:N", title=title or field, **how)


def _scale(given: dict[str, Any]) -> alt.Scale:
    return alt.Scale(**({} if "type" in given else {"zero": False}) | given)


def _ramp(**more: Any) -> alt.Legend:
    return alt.Legend(orient="bottom", direction="horizontal", gradientLength=200, titleLimit=0, **more)


def _x(field: str, title: str, **scale: Any) -> alt.X:
    """Numbers along the bottom."""
    axis = alt.Axis(tickCount=8, labelFlush=False)
    return alt.X(f"{field}:Q", title=title, axis=axis, scale=_scale(scale))


def _y(field: str, title: str, **scale: Any) -> alt.Y:
    """Numbers up the side."""
    return alt.Y(f"{field}:Q", title=title, scale=_scale(scale))


def _rows(table: pd.DataFrame, field: str = "classifier", title: str | None = None) -> alt.Y:
    """Names down the side, in the order of the table."""
    order = table[field].unique().tolist()
    return alt.Y(f"{field}:N", title=title, sort=order, axis=alt.Axis(labelLimit=200))


def _tips(table: pd.DataFrame, *names: str, **titled: str) -> list[alt.Tooltip]:
    """What a mark tells under the pointer: names of columns, and columns with titles.

    Numbers have no "+", which would write −0.00 where one rounds to zero.
    """
    fields = dict(zip(names, names, strict=True)) | titled
    number = {c: {"type": "quantitative", "format": ".3~g"} for c in table if table[c].dtype.kind in "if"}
    name = {"type": "nominal", "format": ""}  # without a format, that of the nearest mark is "undefined"
    return [alt.Tooltip(field=c, title=title, **number.get(c, name)) for c, title in fields.items()]


def _line(at: float, axis: str = "x") -> alt.Chart:
    """A dashed line at a value that others are compared with."""
    rule = alt.Chart(pd.DataFrame({"at": [at]})).mark_rule(strokeDash=[4, 4], color=GREY, strokeWidth=1.5)
    return rule.encode(**{axis: alt.X("at:Q") if axis == "x" else alt.Y("at:Q")})


def _picked(field: str) -> tuple[alt.Parameter, Any]:
    """A click on a legend's entry singles it out; and the opacity that follows it."""
    pick = alt.selection_point(name=f"picked_{field}", fields=[field], bind="legend")
    return pick, lambda on, off: alt.condition(pick, alt.value(on), alt.value(off))


# -------------------------------------------------------------------------------- the blocks


def dots(
    table: pd.DataFrame,
    title: str,
    *,
    description: str,
    y: str = "classifier",
    colour: Any = AFTER,
    offset: str | None = None,
    menus: Mapping[str, Sequence[Any]] | Sequence[str] = (),
    order: Any = None,
    line: float | None = None,
    domain: Sequence[float] | None = None,
    pale: tuple[str, str] | None = None,
    bars: bool = False,
    tips: Sequence[str] = (),
    step: int = 26,
) -> alt.LayerChart:
    """A value with its interval for each name: dots, or bars, with lines.

    Args:
        table: columns value, low, high, `y`, and those that other arguments name.
        title: of the values, with their unit.
        colour: one for all, or an encoding.
        offset: column of the dots that share a name's row.
        menus: columns by whose values the rows shown are chosen; with these values, if a mapping.
        order: of the names; the table's if None.
        line: a value that the others are compared with, dashed.
        pale: columns of a second, pale interval.
        tips: further columns that a mark tells under the pointer.
        step: pixels a row.
    """
    every = menus if isinstance(menus, Mapping) else _values(table, *menus)
    where: dict[str, Any] = {"y": _rows(table, y)}
    if order is not None:
        where["y"].sort = order
    if offset:
        where["y"].scale = alt.Scale(paddingInner=0.35)
        where["yOffset"] = alt.YOffset(f"{offset}:N", sort=table[offset].unique().tolist())
    fixed, hue = ({"color": colour}, {}) if isinstance(colour, str) else ({}, {"color": colour})
    value = _x("value", title, **({"domain": list(domain)} if domain else {"zero": bars}))
    names = [y, *every, *([offset] if offset else [])]
    base = alt.Chart().encode(**where)
    shown = {"x": value, "tooltip": _tips(table, *names, **_INTERVAL, **dict(zip(tips, tips, strict=True)))}
    layers = [] if line is None else [_line(line)]
    if pale:
        bar = base.mark_bar(size=10, color=FELL, opacity=0.35)
        layers.append(bar.encode(x=alt.X(f"{pale[0]}:Q", title=title), x2=f"{pale[1]}:Q"))
    interval = base.mark_rule(strokeWidth=2.5, color=GREY, clip=True)
    interval = interval.encode(x=alt.X("low:Q", title=title), x2="high:Q")
    if bars:
        bar = base.mark_bar(**fixed, **({} if offset else {"size": step // 2}))
        layers += [bar.encode(**shown, **hue), interval]
    else:
        dot = base.mark_point(filled=True, size=80, opacity=1, **fixed)
        layers += [interval.encode(**hue) if offset else interval, dot.encode(**shown, **hue)]
    rows = max(table.groupby(list(every))[y].nunique() if every else [table[y].nunique()], default=1)
    height = step * rows * (1 + 0.5 * (table[offset].nunique() - 1) if offset else 1) + 20
    return _finish(alt.layer(*layers), table, description=description, height=int(height), menus=every)


def _strip(table: pd.DataFrame, many: Any, *, colour: Any, tip: str, step: int, description: str) -> Any:
    """The values of many draws, and a diamond for the one that is `own`.

    Columns: classifier, score (by menu), value (degrees), own, `tip`, and perhaps kind, a row each.
    """
    own = {"shape": "diamond", "filled": True, "size": 130, "opacity": 1, "color": AFTER}
    base = alt.Chart().encode(
        x=_x("value", "degrees"),
        y=_rows(table),
        tooltip=_tips(table, "classifier", tip, value="degrees"),
        **({"yOffset": "kind:N"} if "kind" in table else {}),
    )
    return _finish(
        alt.layer(
            many(base.transform_filter("!datum.own")).encode(color=colour),
            base.transform_filter("datum.own").mark_point(**own),
        ),
        table,
        height=step * table["classifier"].nunique() + 30,
        description=description,
        menus=_values(table, "score"),
    )


def _curves(
    table: pd.DataFrame,
    x: alt.X,
    y: alt.Y,
    tips: Sequence[alt.Tooltip],
    *,
    colour: str | None = "classifier",
    dash: alt.StrokeDash | None = None,
    band: bool = False,
    line: float | None = None,
    **finish: Any,
) -> alt.LayerChart:
    """Lines, and a band from low to high around each; a click in the legend singles one out."""
    base = alt.Chart().encode(x=x, **({"color": _hue(colour)} if colour else {}))
    fixed = {} if colour else {"color": BEFORE}
    lines = base.mark_line(strokeWidth=2.5, point=band and not dash, **fixed).encode(y=y, tooltip=tips)
    area = base.mark_area(**fixed).encode(y=alt.Y("low:Q", title=y["title"]), y2="high:Q")
    if dash:
        lines, area = lines.encode(strokeDash=dash), area.encode(detail=dash.shorthand)
    if colour:
        pick, opacity = _picked(colour)
        lines = lines.encode(opacity=opacity(1, 0.12)).add_params(pick).properties(name="lines")
    area = area.encode(opacity=opacity(0.16, 0.02) if colour else alt.value(0.16))
    layers = [*([area] if band else []), lines, *([] if line is None else [_line(line, "y")])]
    return _finish(alt.layer(*layers), table, **finish)


def _boxes(x: alt.X, y: alt.Y, *, size: int, **more: Any) -> alt.Chart:
    """A box plot of many values for each name."""
    style = {"outliers": {"size": 5, "opacity": 0.3}, "median": {"color": "white"}}
    return alt.Chart().mark_boxplot(size=size, **style).encode(x=x, y=y, **more)


def _heat(
    table: pd.DataFrame,
    colour: alt.Color,
    text: alt.Text,
    white: str,
    tips: Any,
    *,
    names: Any,
    angle: int = -40,
    **finish: Any,
) -> alt.LayerChart:
    """Cells with a number in each.

    `white`: an expression, where the number is white; `names`: column -> title, of x and y.
    """
    (x, across), (y, down) = names.items()
    base = alt.Chart().encode(
        x=alt.X(
            f"{x}:N",
            title=across,
            sort=table[x].unique().tolist(),
            axis=alt.Axis(labelAngle=angle, orient="top", labelLimit=220),
        ),
        y=_rows(table, y, down),
        tooltip=tips,
    )
    cells = base.mark_rect(stroke=GREY, strokeWidth=0.5).encode(color=colour)
    ink = alt.condition(white, alt.value("white"), alt.value("#222"))
    numbers = base.mark_text(fontSize=11.5).encode(text=text, color=ink)
    heat = _finish(alt.layer(cells, numbers), table, **finish)
    return heat.properties(usermeta={"minWidth": 150 + 40 * table[x].nunique()})  # less wide it scrolls


# ------------------------------------------------------------------------ set-up, translators


def spectrum(table: pd.DataFrame) -> alt.LayerChart:
    """Singular values of each head, logarithmic."""
    return _curves(
        table,
        _x("index", "index of the singular value"),
        _y("singular value", "singular value σ (log scale)", type="log"),
        _tips(table, "classifier", "index", "singular value"),
        description="Line chart of each head's singular values, largest first.",
    )


def null_energy(photos: pd.DataFrame, random: pd.DataFrame) -> alt.LayerChart:
    """Share of feature energy in the null space per photo, beside random subspaces of its size."""
    x = _x("share", "share of |f|² (%)", zero=True)
    ticks = alt.Chart(random).mark_tick(thickness=2, size=40, color=FELL)
    tips = _tips(random, "classifier", "draw", share="random subspace (%)")
    return _finish(
        alt.layer(
            _boxes(x, _rows(photos), size=26, color=_hue(columns=0)),
            ticks.encode(x=x, y=_rows(photos), tooltip=tips),
        ),
        photos[["classifier", "share"]],
        height=55 * photos["classifier"].nunique() + 15,
        description="Box plot a classifier of the share of each photo's feature energy that lies in "
        "the null space, and ticks for the mean share in random subspaces of the same dimension.",
    )


def training_curves(curves: pd.DataFrame, minimum: Mapping[str, float] | None = None) -> alt.HConcatChart:
    """Held-out error and cosine over epochs for the three losses (Figure 7).

    Args:
        minimum: mse and cosine of the exact minimiser of the squared error on the same photos.
    """
    held = curves[curves["split"] == "held out"]
    # `mse` lies on `both`: it is drawn last, and dashed.
    fixed = {"cosine": (ROSE, [1, 0]), "both": (PALETTE[1], [1, 0]), "mse": (BEFORE, [5, 4])}
    order = [x for x in fixed if x in set(held["loss"])]
    held = held.sort_values("loss", key=lambda x: x.map(order.index), kind="stable")
    dashes = alt.Scale(domain=order, range=[fixed[x][1] for x in order])
    data, unfold = _packed(held[["epoch", "loss", "mse", "cosine"]])
    base = (
        alt.Chart(data, transform=[unfold])
        .mark_line(strokeWidth=2.5)
        .encode(
            x=_x("epoch", "epoch"),
            color=_hue("loss", {x: fixed[x][0] for x in order}),
            strokeDash=alt.StrokeDash("loss:N", title="loss", scale=dashes),
        )
    )
    panels = []
    for y, below in (
        (_y("mse", "squared error |Tf − z|² (log scale)", type="log"), True),
        (_y("cosine", "cosine of Tf and z (no unit)"), False),
    ):
        measure = y.shorthand.removesuffix(":Q")
        layers = [base.encode(y=y, tooltip=_tips(held, "loss", "epoch", measure))]
        if minimum is not None:
            at = alt.Y("at:Q", title=y["title"])
            exact = alt.Chart(pd.DataFrame({"at": [minimum[measure]], "name": ["exact minimiser"]}))
            words = exact.mark_text(align="right", dx=-4, dy=11 if below else -9, color=AFTER, fontWeight=600)
            layers.append(exact.mark_rule(color=AFTER, strokeWidth=2).encode(y=at))
            layers.append(words.encode(x=alt.value("width"), y=at, text="name:N"))
        panels.append(alt.layer(*layers).properties(width=WIDTH // 2 - 40, height=280))
    return alt.hconcat(*panels).properties(
        description="Line charts over epochs of the squared error and of the cosine on held-out photos, one "
        "line for each of the losses mse, cosine and both"
        + (", and a line at what the exact minimiser of the squared error reaches." if minimum else ".")
    )


def translator_cosines(photos: pd.DataFrame) -> alt.Chart:
    """Cosine of T f and z per evaluation photo, by class and classifier (Figure 8, held out)."""
    medians = photos.groupby("class")["cosine"].median().sort_values().reset_index()
    return _finish(
        _boxes(
            _x("cosine", "cosine of Tf and z (no unit)"),
            _rows(medians, "class"),
            size=6,
            yOffset=alt.YOffset("classifier:N", sort=photos["classifier"].unique().tolist()),
            color=_hue(),
        ),
        photos[["class", "classifier", "cosine"]],
        height=26 * len(medians) + 40,
        description="Box plots of the cosine between translated feature and embedding of evaluation "
        "photos, one for each class and classifier.",
    )


# -------------------------------------------------------------------------------- comparison


def linked(scores: pd.DataFrame, level: float = 0.95) -> alt.FacetChart:
    """AS and IS of every photo, a panel a classifier, with confidence ellipses (Figure 3a).

    A degree has the same length on both axes, however wide the page. A click in the legend singles a
    classifier out, one on a dot shows its photo in all panels, a menu a class.

    Args:
        scores: columns classifier, class, path, AS and IS (degrees).
        level: share of the photos that an ellipse would hold were they normally distributed.
    """
    names = scores["classifier"].unique().tolist()
    few = -(-_MOST_PHOTOS // scores["class"].nunique())
    photos = scores.groupby(["classifier", "class"], sort=False).head(few)
    photos = photos.assign(photo=[PurePosixPath(p).name for p in photos["path"]], order=0)
    groups = scores.groupby("classifier", sort=False)
    outlines = pd.concat([_ellipse(own, level).assign(classifier=n) for n, own in groups])
    outlines = outlines.assign(**{"class": None, "photo": None})  # an outline is no photo
    table = pd.concat([photos, outlines])[["classifier", "class", "photo", "order", "AS", "IS"]]
    data, unfold = _packed(table)
    again, unfold_again = _packed(outlines[["classifier", "order", "AS", "IS"]])  # in each panel
    x, y = _equal(table)
    classes = scores["class"].unique()
    menu = alt.binding_select(options=[None, *classes], labels=["every class", *classes], name="class: ")
    bright = "(chosen_class === null || datum['class'] === chosen_class)"
    pick, opacity = _picked("classifier")
    photo = alt.selection_point(name="picked_photo", fields=["photo"], on="click", nearest=True, empty=False)
    seen = alt.PredicateComposition({"and": [{"param": pick.name}, bright]})
    points = (
        alt.Chart()
        .transform_filter("datum['class'] !== null")
        .mark_point(filled=True, cursor="pointer", aria=False)
        .encode(
            x=x,
            y=y,
            color=_hue(),
            size=alt.condition(photo, alt.value(220), alt.value(16)),
            opacity=alt.when(photo)
            .then(alt.value(1))
            .when(seen)
            .then(alt.value(0.55))
            .otherwise(alt.value(0.05)),
            tooltip=_tips(table, "photo", "class", "classifier", AS="AS (°)", IS="IS (°)"),
        )
        .add_params(pick, photo)
        .properties(name="photos")
    )
    curve = {"x": x, "y": y, "order": "order:Q", "color": _hue()}
    own = alt.Chart().transform_filter("datum['class'] === null").mark_line(strokeWidth=2.5)
    others = alt.Chart(again, transform=[unfold_again]).mark_line(strokeWidth=1, strokeDash=[3, 3])
    rings = [own.encode(**curve, opacity=opacity(1, 0.1)), others.encode(**curve, opacity=opacity(0.8, 0.1))]
    chart = (
        alt.layer(points, *rings)
        .properties(width=WIDTH // len(names) - 20, height=400)
        .add_params(alt.param(name="chosen_class", value=None, bind=menu))
        .facet(alt.Facet("classifier:N", title=None, sort=names), data=data, columns=len(names))
    )
    chart.transform = [unfold]
    if len(photos) > 4000:
        chart.usermeta = {"embedOptions": {"renderer": "canvas"}}
    return chart.properties(
        spacing=12,
        description="Scatter plots, one a classifier, of the Image Score over the Attribute Score of "
        f"{photos['path'].nunique()} photos in degrees, with {100 * level:g} % confidence ellipses. A degree "
        "has the same length on both axes. A menu chooses a class.",
    )


def _ellipse(own: pd.DataFrame, level: float) -> pd.DataFrame:
    """Outline of the Gaussian confidence ellipse: order, AS, IS (degrees)."""
    xy = own[["AS", "IS"]].to_numpy().T  # (2, N)
    values, vectors = np.linalg.eigh(np.cov(xy))
    t = np.linspace(0, 2 * np.pi, 49)
    circle = np.sqrt(stats.chi2.ppf(level, df=2)) * np.stack([np.cos(t), np.sin(t)])  # (2, 49)
    outline = xy.mean(1)[:, None] + vectors @ (np.sqrt(values.clip(0))[:, None] * circle)
    return pd.DataFrame({"order": np.arange(len(t)), "AS": outline[0], "IS": outline[1]})


def _equal(points: pd.DataFrame) -> tuple[alt.X, alt.Y]:
    """Axes on which a degree has one length, in facets of any size: what is narrower gets more room."""
    low, high = points[["AS", "IS"]].min(), points[["AS", "IS"]].max()
    middle, span = (low + high) / 2, (high - low) * 1.04 + 0.05
    scale = f"min(child_width / {span['AS']:.4f}, child_height / {span['IS']:.4f})"  # pixels a degree

    def axis(field: str, size: str) -> alt.Scale:
        ends = (alt.ExprRef(f"{middle[field]:.4f} {sign} {size} / {scale} / 2") for sign in "-+")
        return alt.Scale(**dict(zip(("domainMin", "domainMax"), ends, strict=True)), nice=False, zero=False)

    return (
        alt.X("AS:Q", title="AS (°)", scale=axis("AS", "child_width"), axis=alt.Axis(tickMinStep=1)),
        alt.Y("IS:Q", title="IS (°)", scale=axis("IS", "child_height"), axis=alt.Axis(tickMinStep=1)),
    )


def subspaces(draws: pd.DataFrame) -> alt.LayerChart:
    """Scores after removing random subspaces (ticks) and the null space (diamonds); from `subspace_draws`."""
    names = {"contrast": "mean contrast", "|AS|": "median |AS|", "AS": "mean AS", "IS": "median IS"}
    long = draws.melt(["classifier", "kind", "draw"], list(names), "score").dropna(subset="value")
    return _strip(
        long.assign(score=long["score"].map(names), own=long["draw"] < 0).drop(columns="draw"),
        lambda base: base.mark_tick(thickness=1.5, size=22, opacity=0.7),
        colour=_hue("kind", title="random subspaces of", columns=1),
        tip="kind",
        step=75,
        description="Strip chart, a pair of rows a classifier: a tick for each random subspace, and a "
        "diamond for the null space. A diamond inside its cloud of ticks does nothing that chance does "
        "not do.",
    )


def rescalings(table: pd.DataFrame) -> alt.LayerChart:
    """Scores of each classifier in other bases of its feature; from `tables_basis.rescalings`."""
    names = {"|AS|": "median |AS| (°)", "contrast": "mean contrast (°)", "IS": "median IS (°)"}
    long = table.melt(["classifier", "basis"], list(names), "score").dropna(subset="value")
    drifted = "along the slope of a score"
    return _strip(
        long.assign(
            score=long["score"].map(names),
            own=long["basis"] == "as given",
            rescaled=long["basis"].str.startswith("slope").map({True: drifted, False: "at random"}),
        ),
        lambda base: base.mark_tick(thickness=2, size=26, opacity=0.8),
        colour=_hue("rescaled", {"at random": BEFORE, drifted: FELL}, title="rescaled"),
        tip="basis",
        step=45,
        description="Strip chart, a row a classifier: a tick for its score in each other basis, and a "
        "diamond for the basis as given. A menu chooses the score, in degrees.",
    )


def more_outputs(table: pd.DataFrame) -> alt.LayerChart:
    """What k more outputs would tell beyond the logits, beside worlds in which there is nothing.

    Args:
        table: of `tables_basis.more_outputs`, with a column "head".
    """
    long = table.rename(columns={"R²": "these photos", "by chance": "nothing there"})
    long = long.melt(["head", "outputs"], ["these photos", "nothing there"], "fit", "share")
    long["share"] *= 100
    ticks = alt.Axis(values=[0, 0.01, 0.1, 1, 10, 100], format="~r")
    y = alt.Y(
        "share:Q",
        title="variance told beyond the logits (%)",
        scale=alt.Scale(type="symlog", constant=0.01, domain=[-0.02, 100], clamp=True),
        axis=ticks,
    )
    return _curves(
        long.rename(columns={"head": "classifier"}),
        _x("outputs", "outputs added to the head (log scale)", type="log", nice=False),
        y,
        _tips(
            long.rename(columns={"head": "classifier"}), "classifier", "fit", "outputs", share="variance (%)"
        ),
        dash=alt.StrokeDash("fit:N", sort=["these photos", "nothing there"], legend=alt.Legend(orient="top")),
        height=300,
        description="Line chart of the share of the embeddings' variance in percent that further outputs of "
        "a head would tell beyond its logits, over their number, beside fits where there is nothing to tell.",
    )


def factors_told(table: pd.DataFrame) -> alt.LayerChart:
    """What a planted head and k more outputs tell of each factor; from `tables_basis.factors_told`."""
    own = table[["factor", "outputs"]].assign(share=100 * table["R²"])
    return _curves(
        own,
        _x("outputs", "outputs added to the head", nice=False),
        _y("share", "told of a factor (% of variance)", domain=[-5, 100]),
        _tips(own, "factor", "outputs", share="told (%)"),
        colour="factor",
        height=150,
        description="Line chart of the share of each planted factor's levels, in percent of their variance, "
        "that a head's logits and further outputs tell, over the number of further outputs.",
    )


def wordings(table: pd.DataFrame, chosen: str) -> alt.LayerChart:
    """Scores of each classifier in all wordings of the class prompt.

    Args:
        table: of `wording_scores`.
        chosen: the profile's own wording.
    """
    columns = {f"{x} (°)": x for x in ("mean contrast", "mean AS", "median |AS|")}
    every = table[table["of"] == "all photos"].rename(columns=columns)
    long = every.melt(["classifier", "wording"], list(columns.values()), "score")
    return _strip(
        long.assign(own=long["wording"] == chosen),
        lambda base: base.mark_point(size=60, strokeWidth=1.5, opacity=0.9),
        colour=alt.value(BEFORE),
        tip="wording",
        step=45,
        description="Dot plot of a score of each classifier in several wordings of the class prompt; a "
        "diamond marks the profile's own wording.",
    )


# ---------------------------------------------------------------------- classes and concepts


def class_violins(scores: pd.DataFrame, medians: pd.DataFrame) -> alt.LayerChart:
    """|AS| per class, ordered by median, a classifier at a time on one axis (Figures 4, 10-12).

    Args:
        scores: columns classifier, class, AS (degrees).
        medians: of `class_medians`.
    """
    medians = medians.sort_values("value", ascending=False, kind="stable").assign(
        label=lambda t: t["class"] + t["enlarged"].map({True: " (64 px)", False: ""}),
        row=lambda t: t.groupby("classifier").cumcount(),
    )
    shapes = scores.assign(size=scores["AS"].abs()).groupby(["classifier", "class"], sort=False)["size"]
    outlines = pd.concat([_violin(own).assign(classifier=n, **{"class": c}) for (n, c), own in shapes])
    data, unfold = _packed(outlines.merge(medians[["classifier", "class", "row"]]))
    menu, only = _menu("classifier", scores["classifier"].unique().tolist())
    labels = {n: own["label"].tolist() for n, own in medians.groupby("classifier")}
    classes, title = scores["class"].nunique(), "|AS| (degrees)"
    axis = alt.Axis(
        values=list(range(classes)),
        labelExpr="labels[chosen_classifier][datum.value]",
        grid=False,
        ticks=False,
        domain=False,
        labelLimit=160,
    )
    row = {"title": None, "axis": axis, "scale": alt.Scale(domain=[classes - 0.5, -0.5], nice=False)}
    area = alt.Chart(data, transform=[unfold]).mark_area(
        orient="vertical", opacity=0.55, color=BEFORE, clip=True
    )
    area = area.transform_calculate(top="datum.row - datum.half", bottom="datum.row + datum.half")
    base = alt.Chart(medians.round(4)).transform_filter(only)
    rule = base.mark_rule(strokeWidth=3, color=AFTER)
    dot = base.mark_point(filled=True, size=55, color=AFTER, opacity=1)
    longest = float(f"{scores['AS'].abs().max():.3g}")  # of all classifiers
    chart = alt.layer(
        area.transform_filter(only).encode(
            x=_x("AS", title, domain=[0, longest]), y=alt.Y("top:Q", **row), y2="bottom:Q", detail="class:N"
        ),
        rule.encode(x=alt.X("low:Q", title=title), x2="high:Q", y=alt.Y("row:Q", **row)),
        dot.encode(
            x=alt.X("value:Q", title=title),
            y=alt.Y("row:Q", **row),
            tooltip=_tips(medians, "class", "photos", **_INTERVAL),
        ),
    )
    return chart.add_params(menu, alt.param(name="labels", value=labels)).properties(
        width=WIDTH,
        height=25 * classes + 20,
        description="Violin plot of the absolute Attribute Score in degrees for each class, ordered by the "
        "median, which is a dot with its interval. A menu chooses the classifier.",
    )


def _violin(sizes: pd.Series, *, points: int = 40) -> pd.DataFrame:
    """Density of one class's |AS|, scaled to half a row: AS, half. No rows where there is none to draw."""
    values = sizes.to_numpy()
    if len(values) < 3 or np.ptp(values) == 0:
        return pd.DataFrame({"AS": [], "half": []})
    grid = np.linspace(0, values.max() * 1.05, points)
    density = stats.gaussian_kde(values)(grid)
    return pd.DataFrame({"AS": grid.round(3), "half": (0.42 * density / density.max()).round(3)})


def class_contrasts(table: pd.DataFrame) -> alt.LayerChart:
    """Mean contrast of each class, also beyond the logits: interval, spread over wordings, significance.

    Args:
        table: of `class_scores`, corrected.
    """
    parts = {}
    for tail, score in (("", "contrast"), (" beyond", "contrast, beyond the logits")):
        part = table[["classifier", "class", "photos"]].copy()
        part["verdict"] = np.where(table[f"q{tail}"] < SIGNIFICANCE, "differs from 0", "may be 0")
        part["corrected p"] = table[f"q{tail}"].map(p_value)
        for end in ("least", "most"):  # over wordings; beyond the logits there is one
            part[end] = table.get(f"contrast{tail} {end}", table[f"contrast{tail}"])
        part[["value", "low", "high"]] = table[[f"contrast{tail}{end}" for end in ("", " low", " high")]]
        parts[score] = part.dropna(subset="value")
    own = pd.concat(parts, names=["score"]).reset_index("score")
    return dots(
        own,
        "mean contrast (degrees)",
        y="class",
        colour=_hue("verdict", {"differs from 0": AFTER, "may be 0": PALETTE[6]}),
        menus=["classifier", "score"],
        order=alt.EncodingSortField("value", op="min", order="ascending"),
        line=0,
        pale=("least", "most"),
        tips=["corrected p", "photos"],
        description="Dot plot of the mean contrast in degrees of each class, with its interval as a "
        "line and the spread over wordings of the prompt as a pale bar.",
    )


def photo_curve(table: pd.DataFrame) -> alt.LayerChart:
    """Scores over the number of photos that a translator was fitted on, a line a classifier.

    Args:
        table: of `photo_curve`.
    """
    counts = sorted(table["photos"].unique().tolist())
    x = alt.X(
        "photos:Q",
        title="photos to fit on",
        scale=alt.Scale(type="log", nice=False),
        axis=alt.Axis(values=counts, labelFlush=False),
    )
    return _curves(
        table,
        x,
        _y("value", "degrees"),
        _tips(table, "classifier", "photos", value="degrees"),
        height=220,
        description="Lines of a score in degrees over the number of photos that the translator was fitted "
        "on, one a classifier.",
        menus=_values(table, "score"),
    )


def _wide(values: pd.DataFrame) -> list[float] | None:
    """From the least to the largest value and a little more, so that all of a menu shares one axis."""
    low, high = min(0.0, *values.min()), max(0.0, *values.max())
    room = 0.04 * (high - low)
    return [float(f"{low - room:.3g}"), float(f"{high + room:.3g}")] if high > low else None


def concept_arrows(table: pd.DataFrame, *, top: int = 10) -> alt.LayerChart:
    """How far a class's photos move to concepts by null removal, with intervals (Figures 5, 13, 14).

    The arrow of the AS starts at 0; beside it stands the angle to the concept before and after.

    Args:
        table: of `concept_angles`.
        top: how many concepts with the largest AS, and as many with the smallest.
    """
    ranked = table.sort_values("AS", ascending=False, kind="stable")
    groups = ranked.groupby(["classifier", "class"], sort=False)
    place, count = groups.cumcount(), groups["AS"].transform("size")
    own = ranked[(place < top) | (place >= count - top)]
    own = own.assign(
        value=own["AS"],
        low=own["AS"] - own["margin"],
        high=own["AS"] + own["margin"],
        angles=[f"{b:.1f}° → {a:.1f}°" for b, a in zip(own["before"], own["after"], strict=True)],
    )
    apart, closer = own["q"] < SIGNIFICANCE, own["AS"] > 0
    own["turn"] = np.select([apart & closer, apart & ~closer], ["closer", "farther"], "may be 0")
    own["corrected p"] = own["q"].map(p_value)
    keep = ["classifier", "class", "concept", "before", "after", "value", "low", "high", "angles", "turn"]
    keep.append("corrected p")
    shown = own[keep].sort_index()  # menus in the order of the table
    low, high = _wide(own[["low", "high"]]) or [-1.0, 1.0]
    wide = round(high + 0.3 * (high - low), 3)  # room for the angles
    value = _x("value", "AS (degrees)", domain=[low, wide], nice=False)
    base = alt.Chart().encode(
        y=alt.Y("concept:N", title=None, sort=alt.EncodingSortField("value", op="max", order="descending")),
    )
    hue = _hue("turn", {**_TURNS, "may be 0": PALETTE[6]}, title="without the null component")
    head = alt.condition("datum.value < 0", alt.value("triangle-left"), alt.value("triangle-right"))
    tips = _tips(shown, "concept", "corrected p", before="before (°)", after="after (°)", **_INTERVAL)
    return _finish(
        alt.layer(
            _line(0),
            base.mark_bar(size=4).encode(x=value, color=hue),
            base.mark_rule(strokeWidth=1.5, color=GREY).encode(
                x=alt.X("low:Q", title="AS (degrees)"), x2="high:Q"
            ),
            base.mark_point(filled=True, size=75, opacity=1).encode(
                x=value, color=hue, shape=head, tooltip=tips
            ),
            base.mark_text(align="right", fontSize=11).encode(x=alt.value("width"), text="angles:N"),
        ),
        shown,
        height=40 * top + 20,
        description=f"For the {top} concepts with the largest and the {top} with the smallest Attribute "
        "Score of a class's photos: an arrow from 0 to the score in degrees, its interval, and the mean "
        "angle to the concept before and after null removal.",
        menus=_values(table, "class", "classifier"),
    )


# -------------------------------------------------------------------------- steering, pictures


def steering_curves(table: pd.DataFrame) -> alt.LayerChart:
    """AS toward the target over IS, a line a classifier, beside random null directions."""
    target, ways = table["target"].iloc[0], table["direction"].unique().tolist()
    table = table[["classifier", "direction", "IS", "AS", "low", "high", "reached"]]
    told = {
        "IS": "IS (°)",
        "AS": "mean AS (°)",
        "low": "a tenth is below (°)",
        "high": "a tenth is above (°)",
    }
    return _curves(
        table,
        _x("IS", "IS of the step (degrees)"),
        _y("AS", f"AS toward “{target}” (degrees)"),
        _tips(table, "classifier", "direction", **told, reached="photos"),
        dash=alt.StrokeDash(
            "direction:N",
            sort=ways,
            scale=alt.Scale(domain=ways, range=[[1, 0], [5, 4]]),
            legend=alt.Legend(orient="top", symbolType="stroke"),
        ),
        band=True,
        height=380,
        description=f"Line chart of the Attribute Score toward {target} over the Image Score of the step, "
        "both in degrees, for each classifier, toward the text and along random null directions, with a "
        "band for the middle 80 percent of the photos.",
    )


def steering_grid(table: pd.DataFrame) -> alt.LayerChart:
    """Mean AS of each source class toward each target; a menu chooses the classifier."""
    low, high = float(table["AS"].min()), float(table["AS"].max())
    table = table[["classifier", "source", "target", "AS", "reached", "photos"]]
    told = {
        "source": "photos of",
        "target": "target",
        "AS": "mean AS (°)",
        "reached": "photos that reach the IS",
    }
    scale = alt.Scale(scheme="blues", domain=[low, high])
    return _heat(
        table,
        alt.Color("AS:Q", title="mean AS (degrees)", scale=scale, legend=_ramp()),
        alt.Text("AS:Q", format=".1f"),
        f"datum.AS > {(low + high) / 2:.4f}",
        _tips(table, "classifier", "photos", **told),
        names={"target": "target of the step", "source": "class of the photos"},
        height=24 * table["source"].nunique() + 20,
        menus=_values(table, "classifier"),
        description="Heat map of the mean Attribute Score in degrees of photos of each class (rows) after a "
        "null-space step toward each target (columns).",
    )


def picture_changes(table: pd.DataFrame) -> alt.LayerChart:
    """How far decoded pictures turn along a step, and how far other noise alone turns them."""
    told = {"turned": "median angle (°)", "low": "a quarter is below (°)", "high": "a quarter is above (°)"}
    return _curves(
        table[["IS", "turned", "low", "high"]],
        _x("IS", "IS of the step (degrees)"),
        _y("turned", "angle of the picture to the original's (degrees)"),
        _tips(table, IS="IS (°)", **told),
        colour=None,
        band=True,
        line=float(table["noise"].iloc[0]),
        description="Line chart of the median angle in degrees between the encoder's embeddings of the "
        "picture at each step and of the picture at the start, with quartiles, and a dashed line for the "
        "angle that other noise alone makes.",
    )


def witnesses(table: pd.DataFrame, by: str = "wanted") -> alt.LayerChart:
    """AS of found pictures as each witness sees it: rows of `by`, of a summary's AS."""
    seen = table["seen by"].unique().tolist()
    hues = dict(zip(seen, [AFTER, BEFORE, *PALETTE[2:5], *[GREY] * len(seen)], strict=False))
    return dots(
        table[[by, "seen by", "value", "low", "high"]],
        "AS (degrees)",
        y=by,
        offset="seen by",
        colour=_hue("seen by", hues),
        line=0.0,
        step=24,
        description="Dot plot of the Attribute Score in degrees of found pictures beside their photographs, "
        f"with intervals over photographs: a row for each {by}, and in it a dot for each witness.",
    )


# --------------------------------------------------------------------------- a planted world

_SHARE = "planted share"


def truth(table: pd.DataFrame) -> alt.LayerChart:
    """Heads x factors: how much of each factor the logits do not say, by construction and measured."""
    means = 100 * table.groupby(["head", "factor"], sort=False)[["planted", "unread"]].mean()
    means = means.reset_index()
    scale = alt.Scale(domain=[0, 100], scheme="blues")
    told = {"planted": "planted share (%)", "unread": "not said by the logits (%)"}
    return _heat(
        means,
        alt.Color("planted:Q", title="planted share (%)", scale=scale, legend=_ramp()),
        alt.Text("unread:Q", format=".0f"),
        "datum.planted > 50",
        _tips(means, "head", "factor", **told),
        names={"factor": "factor", "head": "head"},
        height=46 * means["head"].nunique(),
        description="Table of heads by factors. The colour is the planted share of the factor, in percent; "
        "the number is the share that the logits do not say of it on new scenes.",
    )


def recovery(table: pd.DataFrame) -> alt.LayerChart:
    """Ways to measure x what heads ignore: the ROC area of each score."""
    table = table.sort_values("score", key=lambda s: s != "|AS|", kind="stable")
    row = table["score"] + ", " + table["way"]
    own = table.assign(row=row, column=table["regime"] + table["IS"].map(" (IS {:.0f}°)".format))
    scale = alt.Scale(domain=[0, 1], range=[AFTER, "#f2f2f2", BEFORE])
    return _heat(
        own[["row", "column", "value", "low", "high"]],
        alt.Color("value:Q", title="ROC area (no unit)", scale=scale, legend=_ramp()),
        alt.Text("value:Q", format=".2f"),
        "datum.value > 0.8 || datum.value < 0.2",
        _tips(own, "row", "column", **_INTERVAL),
        names={"column": "what the heads ignore, and IS beyond the logits", "row": "measured by"},
        angle=-90,
        height=27 * row.nunique(),
        description="Table of scores by what the heads ignore, with the ROC area in each cell: 1 finds what "
        "is planted, 0.5 is chance, 0 points backwards.",
    )


def _with_first(table: pd.DataFrame, column: str, first: str) -> dict[str, list[Any]]:
    """A menu of a column that begins with a value."""
    return {column: sorted(table[column].unique(), key=lambda x: x != first)}


def calibration(table: pd.DataFrame) -> alt.LayerChart:
    """A score along the planted share, a line a way to measure; menus: the score, what else is ignored."""
    return _curves(
        table.rename(columns={"setting": "other factors", "way": "measured"}),
        _x("planted", _SHARE),
        _y("value", "score (degrees), mean over factors"),
        _tips(table, "measured", "planted", **_INTERVAL),
        colour="measured",
        band=True,
        menus={"score": ["contrast", "|AS|"], "other factors": ["seen", "ignored"]},
        description="Line chart of a score in degrees over the planted share of one factor, a line for each "
        "way to measure it, with its interval over worlds as a band.",
    )


def conclusions(table: pd.DataFrame) -> alt.LayerChart:
    """Conditions x conclusions: in how many worlds each conclusion is the right one."""
    text = table["worlds"].astype(str) + "/" + table["of"].astype(str)
    own = table.assign(share=table["worlds"] / table["of"], text=text)
    scale = alt.Scale(domain=[0, 1], range=[AFTER, "#f2f2f2", BEFORE])
    return _heat(
        own,
        alt.Color("share:Q", title="true in (worlds)", scale=scale, legend=_ramp(format="%")),
        alt.Text("text:N"),
        "datum.share > 0.8 || datum.share < 0.2",
        _tips(own, "condition", "conclusion", "worlds", "of"),
        names={"short": "conclusion", "condition": "condition"},
        angle=-90,
        height=30 * own["condition"].nunique() + 20,
        description="Table of conditions by conclusions with the number of worlds in which the conclusion "
        "is the right one.",
    )


def planted_steering(table: pd.DataFrame) -> alt.LayerChart:
    """How often steering toward a factor's level reaches it, by the planted share."""
    own = table.assign(
        factor=[f"{f} ({p:.0%})" for f, p in zip(table["factor"], table["planted"], strict=True)]
    )
    return dots(
        own,
        "reached (share)",
        y="factor",
        bars=True,
        colour=_hue("direction", {"toward the prompt": BEFORE, "random": PALETTE[6]}, columns=1),
        offset="direction",
        menus=_with_first(own, "head", own["head"].unique()[:2][-1]),
        domain=[0, 1],
        tips=["IS", "step"],
        description="Bar chart: of each factor, the share of scenes that are read as the wanted level after "
        "a null-space step toward its prompt, and after a random one.",
    )


def trained(table: pd.DataFrame) -> alt.LayerChart:
    """Planted networks trained for a small |AS|: |AS| toward the shape, and contrast beyond the logits."""
    colours = {"|AS|": PALETTE[1], "contrast beyond": PALETTE[0]}
    own = table[table["measure"].isin(list(colours))]
    return dots(
        own,
        "toward the shape (degrees)",
        y="network",
        colour=_hue("measure", colours),
        offset="measure",
        description="Dot plot of |AS| of networks that were trained with more or less of a penalty on it, "
        "and of contrast beyond the logits, with intervals over worlds.",
    )
