"""Charts of notebooks 04 and 05: steps in the null space, and what pictures show of them."""

from __future__ import annotations

import altair as alt
import pandas as pd

from sing_utils.charts import PALETTE, colour, finish
from sing_utils.tables_steering import DIRECTIONS


def steering_curves(table: pd.DataFrame) -> alt.LayerChart:
    """AS toward the target over IS, a line a classifier, beside random null directions."""
    target = table["target"].iloc[0]
    pick = alt.selection_point(fields=["classifier"], bind="legend")
    base = alt.Chart(table)
    x = alt.X("IS:Q", title="IS of the step (degrees)")
    y = alt.Y("AS:Q", title=f"AS toward “{target}” (degrees)")
    dash = alt.StrokeDash(
        "direction:N",
        title="direction",
        sort=list(DIRECTIONS),
        scale=alt.Scale(domain=list(DIRECTIONS), range=[[1, 0], [5, 4]]),
        legend=alt.Legend(orient="top", symbolType="stroke"),
    )
    shown = alt.condition(pick, alt.value(1), alt.value(0.1))
    line = base.mark_line(strokeWidth=2.5).encode(
        x=x,
        y=y,
        color=colour(),
        strokeDash=dash,
        opacity=shown,
        tooltip=[
            "classifier",
            "direction",
            alt.Tooltip("IS", title="IS (°)", format=".1f"),
            alt.Tooltip("AS", title="mean AS (°)", format=".2f"),
            alt.Tooltip("low", title="a tenth is below (°)", format=".2f"),
            alt.Tooltip("high", title="a tenth is above (°)", format=".2f"),
            alt.Tooltip("reached", title="photos"),
        ],
    )
    band = base.mark_area().encode(
        x=x,
        y=alt.Y("low:Q", title=f"AS toward “{target}” (degrees)"),
        y2="high:Q",
        color=colour(),
        detail="direction:N",
        opacity=alt.condition(pick, alt.value(0.15), alt.value(0.02)),
    )
    return finish(
        (band + line).add_params(pick),
        height=380,
        description=f"Line chart of the Attribute Score toward {target} over the Image Score of the step, "
        "both in degrees, for each classifier, toward the text and along random null directions, with a "
        "band for the middle 80 percent of the photos.",
    )


def steering_grid(table: pd.DataFrame) -> alt.LayerChart:
    """Mean AS of each source class toward each target; a menu chooses the classifier."""
    names = list(table["classifier"].unique())
    choice = alt.param(
        name="grid_classifier",
        value=names[0],
        bind=alt.binding_select(options=names, name="classifier: "),
    )
    middle = float(table["AS"].min() + table["AS"].max()) / 2
    base = (
        alt.Chart(table)
        .transform_filter("datum.classifier == grid_classifier")
        .encode(
            x=alt.X(
                "target:N",
                title="target of the step",
                sort=list(table["target"].unique()),
                axis=alt.Axis(labelAngle=-30, orient="top"),
            ),
            y=alt.Y("source:N", title="class of the photos", axis=alt.Axis(labelLimit=160)),
        )
    )
    domain = [float(table["AS"].min()), float(table["AS"].max())]
    cells = base.mark_rect().encode(
        color=alt.Color(
            "AS:Q",
            title="mean AS (degrees)",
            scale=alt.Scale(scheme="blues", domain=domain),
            legend=alt.Legend(orient="bottom", gradientLength=220),
        ),
        tooltip=[
            "classifier",
            alt.Tooltip("source", title="photos of"),
            "target",
            alt.Tooltip("AS", title="mean AS (°)", format=".2f"),
            alt.Tooltip("reached", title="photos that reach the IS"),
            "photos",
        ],
    )
    words = base.mark_text(fontSize=11).encode(
        text=alt.Text("AS:Q", format=".1f"),
        color=alt.condition(f"datum.AS > {middle}", alt.value("white"), alt.value("#16344a")),
    )
    return finish(
        (cells + words).add_params(choice),
        height=24 * table["source"].nunique() + 20,
        description="Heat map of the mean Attribute Score in degrees of photos of each class (rows) after a "
        "null-space step toward each target (columns); a menu chooses the classifier.",
    )


def picture_changes(table: pd.DataFrame) -> alt.LayerChart:
    """How far decoded pictures turn along a step, and how many are recognised as another class."""
    long = table[["IS", "turned", "low", "high"]]
    line = (
        alt.Chart(long)
        .mark_line(point=True, strokeWidth=2.5, color=PALETTE[0])
        .encode(
            x=alt.X("IS:Q", title="IS of the step (degrees)"),
            y=alt.Y("turned:Q", title="angle of the picture to the original's (degrees)"),
            tooltip=[
                alt.Tooltip("IS", title="IS (°)", format=".3~g"),
                alt.Tooltip("turned", title="median angle (°)", format=".1f"),
                alt.Tooltip("low", title="a quarter is below (°)", format=".1f"),
                alt.Tooltip("high", title="a quarter is above (°)", format=".1f"),
            ],
        )
    )
    band = (
        alt.Chart(long)
        .mark_area(opacity=0.18, color=PALETTE[0])
        .encode(
            x="IS:Q",
            y=alt.Y("low:Q", title="angle of the picture to the original's (degrees)"),
            y2="high:Q",
        )
    )
    floor = (
        alt.Chart(pd.DataFrame({"angle": table["noise"].head(1)}))
        .mark_rule(strokeDash=[5, 4], strokeWidth=2, color=PALETTE[5])
        .encode(y="angle:Q", tooltip=[alt.Tooltip("angle", title="other noise (°)", format=".1f")])
    )
    return finish(
        band + line + floor,
        height=300,
        description="Line chart of the median angle in degrees between the encoder's embeddings of the "
        "picture at each step and of the picture at the start, with quartiles, and a dashed line for the "
        "angle that other noise alone makes.",
    )


def recognised(table: pd.DataFrame) -> alt.Chart:
    """Share of pictures whose recognised class differs from the first step's."""
    chart = (
        alt.Chart(table)
        .mark_bar(color=PALETTE[2])
        .encode(
            x=alt.X("IS:O", title="IS of the step (degrees)", axis=alt.Axis(format=".3~g", labelAngle=0)),
            y=alt.Y("changed:Q", title="recognised as another class (%)", scale=alt.Scale(domain=[0, 100])),
            tooltip=[
                alt.Tooltip("IS", title="IS (°)", format=".3~g"),
                alt.Tooltip("changed", title="another class (%)", format=".0f"),
                alt.Tooltip("pictures", title="pictures"),
            ],
        )
    )
    return finish(
        chart,
        height=220,
        description="Bar chart of the percentage of pictures at each step whose recognised class is not "
        "that of the picture at the start.",
    )
