"""Altair charts, one function a figure. Titles state units; each has a description for readers
who cannot see it. Colours are Okabe and Ito's, told apart by the colour-blind, on both themes.
"""

from __future__ import annotations

import json
from typing import Any

import altair as alt
import pandas as pd

PALETTE = ["#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#D55E00", "#999999"]
BEFORE, AFTER, ROSE, FELL = "#0072B2", "#D55E00", "#009E73", "#CC79A7"

# Pixels, in JupyterLab: its Vega draws a chart of the width "container" again and again, for ever.
WIDTH = 600

# The one name under which both JupyterLab and the book draw a chart from its specification alone.
MIME = "application/vnd.vegalite.v5+json"


def _render(spec: dict[str, Any], **_: Any) -> dict[str, Any]:
    return {MIME: spec, "text/plain": spec.get("description", "chart")}


alt.renderers.register("sing", _render)
alt.renderers.enable("sing")
alt.data_transformers.disable_max_rows()  # thousands of photos are what these charts are for


def colour(field: str = "classifier:N", title: str = "classifier") -> alt.Color:
    """The colour of a classifier (or another name), with its legend on top."""
    return alt.Color(
        field,
        title=title,
        scale=alt.Scale(range=PALETTE),
        legend=alt.Legend(orient="top", columns=3, symbolOpacity=1),
    )


def finish(chart: Any, *, description: str, height: int | None = 320) -> Any:
    """A chart with words for those who can't see it. The book makes it as wide as the page."""
    properties: dict[str, Any] = {"width": WIDTH, "description": description}
    if height is not None:
        properties["height"] = height
    return chart.properties(**properties)


def spectrum(table: pd.DataFrame) -> alt.Chart:
    """Singular values of each head, logarithmic; click a legend entry to single it out."""
    pick = alt.selection_point(fields=["classifier"], bind="legend")
    chart = (
        alt.Chart(table)
        .mark_line(strokeWidth=2)
        .encode(
            x=alt.X("index:Q", title="index of the singular value"),
            y=alt.Y(
                "singular value:Q",
                title="singular value σ (log scale)",
                scale=alt.Scale(type="log"),
            ),
            color=colour(),
            opacity=alt.condition(pick, alt.value(1), alt.value(0.15)),
            tooltip=["classifier", "index", alt.Tooltip("singular value", format=".4g")],
        )
        .add_params(pick)
    )
    return finish(chart, description="Line chart of each head's singular values, largest first.")


def null_energy(photos: pd.DataFrame, random: pd.DataFrame) -> alt.LayerChart:
    """Share of feature energy in the null space per photo, beside random subspaces of its size."""
    box = (
        alt.Chart(photos)
        .mark_boxplot(size=26, outliers={"size": 6, "opacity": 0.3}, median={"color": "white"})
        .encode(
            y=alt.Y("classifier:N", title=None),
            x=alt.X("share:Q", title="share of |f|² (%)", scale=alt.Scale(zero=True)),
            color=alt.Color("classifier:N", scale=alt.Scale(range=PALETTE), legend=None),
        )
    )
    ticks = (
        alt.Chart(random)
        .mark_tick(thickness=2, size=40, color=FELL)
        .encode(
            y="classifier:N",
            x="share:Q",
            tooltip=[
                "classifier",
                "draw",
                alt.Tooltip("share", title="random subspace (%)", format=".2f"),
            ],
        )
    )
    return finish(
        box + ticks,
        height=180,
        description="Box plot a classifier of the share of each photo's feature energy that lies in "
        "the null space, and ticks for the mean share in random subspaces of the same dimension.",
    )


def training_curves(curves: pd.DataFrame) -> alt.Chart:
    """Held-out error and cosine over epochs for the three losses (Figure 7)."""
    long = curves[curves["split"] == "held out"].melt(
        id_vars=["epoch", "loss"], value_vars=["mse", "cosine"], var_name="measure"
    )
    names = {"mse": "squared error |Tf − z|²", "cosine": "cosine of Tf and z"}
    long["measure"] = long["measure"].map(names)
    choice = alt.param(
        name="measure",
        value=names["mse"],
        bind=alt.binding_radio(options=list(names.values()), name="measure: "),
    )
    chart = (
        alt.Chart(long)
        .mark_line(strokeWidth=2)
        .encode(
            x=alt.X("epoch:Q", title="epoch"),
            y=alt.Y("value:Q", title="on held-out photos (no unit)", scale=alt.Scale(zero=False)),
            color=colour("loss:N", "loss that was minimised"),
            strokeDash=alt.StrokeDash("loss:N", legend=None),
            tooltip=["loss", "epoch", "measure", alt.Tooltip("value:Q", format=".4f")],
        )
        .transform_filter("datum.measure == measure")
        .add_params(choice)
    )
    return finish(
        chart,
        description="Line chart over epochs, one line for each of the losses mse, cosine and both.",
    )


def translator_cosines(photos: pd.DataFrame) -> alt.Chart:
    """Cosine of T f and z per evaluation photo, by class and classifier (Figure 8, held out)."""
    chart = (
        alt.Chart(photos)
        .mark_boxplot(size=6, outliers={"size": 4, "opacity": 0.25})
        .encode(
            y=alt.Y("class:N", title=None, sort="x"),
            x=alt.X("cosine:Q", title="cosine of Tf and z (no unit)", scale=alt.Scale(zero=False)),
            yOffset="classifier:N",
            color=colour(),
        )
    )
    return finish(
        chart,
        height=26 * photos["class"].nunique() + 40,
        description="Box plots of the cosine between translated feature and embedding of evaluation "
        "photos, one for each class and classifier.",
    )


def ratio_bars(table: pd.DataFrame) -> alt.LayerChart:
    """IS/AS ratio of each classifier with its interval (Figure 3b); the definition can be chosen."""
    options = list(table["definition"].unique())
    choice = alt.param(
        name="definition",
        value=options[0],
        bind=alt.binding_select(options=options, name="definition: "),
    )
    base = alt.Chart(table).transform_filter("datum.definition == definition")
    y = alt.Y("classifier:N", title=None)
    bars = base.mark_bar(size=22).encode(
        y=y,
        x=alt.X("value:Q", title="IS/AS ratio (no unit)"),
        color=alt.Color("classifier:N", scale=alt.Scale(range=PALETTE), legend=None),
        tooltip=["classifier", "definition", *_interval_tips(".2f")],
    )
    whiskers = base.mark_rule(strokeWidth=2, color="#777").encode(
        y=y, x=alt.X("low:Q", title="IS/AS ratio (no unit)"), x2="high:Q"
    )
    return finish(
        (bars + whiskers).add_params(choice),
        height=170,
        description="Bar chart of the ratio of Image Score to Attribute Score for each classifier, with "
        "bootstrap intervals; a menu chooses the definition of the ratio.",
    )


def class_violins(violins: pd.DataFrame, medians: pd.DataFrame, name: str) -> alt.LayerChart:
    """|AS| per class of one classifier, ordered by median (Figures 4, 10-12)."""
    own = medians[medians["classifier"] == name].sort_values("value", ascending=False)
    order = own["class"].tolist()
    place = {c: i for i, c in enumerate(order)}
    labels = [c + (" (64 px)" if e else "") for c, e in zip(own["class"], own["enlarged"], strict=True)]
    shapes = violins[violins["classifier"] == name].assign(row=lambda t: t["class"].map(place))
    shapes = shapes.assign(top=shapes["row"] - shapes["half"], bottom=shapes["row"] + shapes["half"])
    dots = own.assign(row=own["class"].map(place))
    axis = alt.Axis(
        values=list(range(len(order))),
        labelExpr=f"{json.dumps(labels, ensure_ascii=False)}[datum.value]",
        grid=False,
        ticks=False,
        domain=False,
        labelLimit=160,
    )
    y_scale = alt.Scale(domain=[len(order) - 0.5, -0.5], nice=False)
    x_title = "|AS| (degrees)"
    area = (
        alt.Chart(shapes)
        .mark_area(orient="vertical", opacity=0.55, color=PALETTE[0])
        .encode(
            x=alt.X("AS:Q", title=x_title),
            y=alt.Y("top:Q", title=None, axis=axis, scale=y_scale),
            y2="bottom:Q",
            detail="class:N",
        )
    )
    rule = (
        alt.Chart(dots)
        .mark_rule(strokeWidth=3, color=AFTER)
        .encode(x=alt.X("low:Q", title=x_title), x2="high:Q", y=alt.Y("row:Q", scale=y_scale, axis=axis))
    )
    median = (
        alt.Chart(dots)
        .mark_point(filled=True, size=55, color=AFTER, opacity=1)
        .encode(
            x=alt.X("value:Q", title=x_title),
            y=alt.Y("row:Q", scale=y_scale, axis=axis),
            tooltip=["class", "photos", *_interval_tips(".2f")],
        )
    )
    return finish(
        area + rule + median,
        height=26 * len(order) + 20,
        description=f"Violin plot of the absolute Attribute Score in degrees for each class of {name}, "
        "ordered by the median, which is a dot with its interval.",
    )


def concept_arrows(table: pd.DataFrame, class_name: str) -> alt.LayerChart:
    """Angle of a class's photos to each concept before and after null removal (Figures 5, 13, 14)."""
    own = table[table["class"] == class_name]
    names = list(own["classifier"].unique())
    key = "".join(c for c in class_name if c.isalnum())  # two such charts may share a page
    choice = alt.param(
        name=f"classifier_{key}",
        value=names[0],
        bind=alt.binding_select(options=names, name="classifier: "),
    )
    base = alt.Chart(own).transform_filter(f"datum.classifier == classifier_{key}")
    y = alt.Y(
        "concept:N",
        title=None,
        sort=alt.EncodingSortField("before", op="min", order="ascending"),
        axis=alt.Axis(labelLimit=160),
    )
    scale = alt.Scale(zero=False)
    title = "angle to the concept (degrees)"
    tips = [
        "concept",
        "classifier",
        alt.Tooltip("before:Q", title="before (°)", format=".2f"),
        alt.Tooltip("after:Q", title="after (°)", format=".2f"),
        alt.Tooltip("AS:Q", title="AS (°)", format="+.3f"),
        alt.Tooltip("margin:Q", title="± (°)", format=".3f"),
    ]
    line = base.mark_rule(strokeWidth=3, color=ROSE, opacity=0.8).encode(
        y=y, x=alt.X("before:Q", title=title, scale=scale), x2="after:Q"
    )
    long = base.transform_fold(["before", "after"], as_=["when", "angle"])
    dots = long.mark_point(filled=True, size=50, opacity=1).encode(
        y=y,
        x=alt.X("angle:Q", title=title, scale=scale),
        color=alt.Color(
            "when:N",
            title="null component",
            scale=alt.Scale(domain=["before", "after"], range=[BEFORE, AFTER]),
            legend=alt.Legend(orient="top", labelExpr="{before: 'kept', after: 'removed'}[datum.label]"),
        ),
        shape=alt.Shape(
            "when:N",
            scale=alt.Scale(domain=["before", "after"], range=["circle", "diamond"]),
            legend=None,
        ),
        tooltip=tips,
    )
    return finish(
        (line + dots).add_params(choice),
        height=16 * own["concept"].nunique() + 40,
        description=f"For each concept, its mean angle in degrees to photos of {class_name} before and "
        "after null removal, joined by a line; a menu chooses the classifier.",
    )


def rank_agreement(table: pd.DataFrame) -> alt.LayerChart:
    """Spearman correlation of the classes' order for each pair of classifiers, with intervals."""
    pairs = table.assign(pair=table["a"] + " / " + table["b"])
    x = alt.X("rho:Q", title="Spearman ρ (no unit)", scale=alt.Scale(domain=[-1, 1]))
    y = alt.Y("pair:N", title=None, axis=alt.Axis(labelLimit=260))
    tips = [
        "pair",
        alt.Tooltip("rho:Q", title="ρ", format=".2f"),
        alt.Tooltip("low:Q", format=".2f"),
        alt.Tooltip("high:Q", format=".2f"),
        alt.Tooltip("p:Q", title="p (ρ = 0)", format=".3f"),
    ]
    rule = (
        alt.Chart(pairs)
        .mark_rule(strokeWidth=3, color=PALETTE[0])
        .encode(y=y, x=alt.X("low:Q", title="Spearman ρ (no unit)"), x2="high:Q")
    )
    dots = (
        alt.Chart(pairs)
        .mark_point(filled=True, size=90, opacity=1, color=AFTER)
        .encode(x=x, y=y, tooltip=tips)
    )
    zero = alt.Chart(pd.DataFrame({"x": [0]})).mark_rule(strokeDash=[4, 4], color="#888").encode(x="x:Q")
    return finish(
        zero + rule + dots,
        height=40 * len(pairs) + 30,
        description="Dot plot of the rank correlation between each pair of classifiers, with its "
        "bootstrap interval and a dashed line at zero.",
    )


def photo_logits(table: pd.DataFrame) -> alt.Chart:
    """Top logits of one photo, before and after null removal side by side (Figure 1)."""
    long = table.melt(
        id_vars=["class"],
        value_vars=["logit before", "logit after"],
        var_name="when",
        value_name="logit",
    )
    long["when"] = long["when"].map({"logit before": "kept", "logit after": "removed"})
    chart = (
        alt.Chart(long)
        .mark_bar()
        .encode(
            y=alt.Y("class:N", title=None, sort="-x", axis=alt.Axis(labelLimit=180)),
            x=alt.X("logit:Q", title="logit (no unit)"),
            yOffset=alt.YOffset("when:N", sort=["kept", "removed"]),
            color=alt.Color(
                "when:N",
                title="null component",
                sort=["kept", "removed"],
                scale=alt.Scale(domain=["kept", "removed"], range=[BEFORE, AFTER]),
                legend=alt.Legend(orient="top"),
            ),
            tooltip=["class", "when", alt.Tooltip("logit", format=".5f")],
        )
    )
    return finish(
        chart,
        height=190,
        description="Bar chart of the five largest logits with the null component kept and removed.",
    )


def photo_concepts(table: pd.DataFrame, *, top: int = 8) -> alt.Chart:
    """Concepts that one photo gained and lost most by null removal (Figure 1)."""
    ordered = table.sort_values("AS", ascending=False)
    shown = pd.concat([ordered.head(top), ordered.tail(top)]).drop_duplicates("concept")
    shown = shown.assign(change=["closer" if v > 0 else "farther" for v in shown["AS"]])
    chart = (
        alt.Chart(shown)
        .mark_bar()
        .encode(
            y=alt.Y("concept:N", title=None, sort="-x", axis=alt.Axis(labelLimit=180)),
            x=alt.X("AS:Q", title="AS (degrees)"),
            color=alt.Color(
                "change:N",
                title="without null component",
                scale=alt.Scale(domain=["closer", "farther"], range=[ROSE, FELL]),
                legend=alt.Legend(orient="top"),
            ),
            tooltip=[
                "concept",
                alt.Tooltip("before", title="before (°)", format=".2f"),
                alt.Tooltip("after", title="after (°)", format=".2f"),
                alt.Tooltip("AS", title="AS (°)", format="+.3f"),
            ],
        )
    )
    return finish(
        chart,
        height=20 * len(shown) + 30,
        description="Bar chart of the Attribute Score in degrees of the concepts that a photo gained and "
        "lost most when its null component was removed.",
    )


def _interval_tips(number: str) -> list[alt.Tooltip]:
    return [
        alt.Tooltip("value:Q", title="value", format=number),
        alt.Tooltip("low:Q", title="interval from", format=number),
        alt.Tooltip("high:Q", title="to", format=number),
    ]
