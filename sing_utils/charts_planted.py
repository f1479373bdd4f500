"""Charts of notebook 06: what is planted, and what the scores find."""

from __future__ import annotations

import altair as alt
import pandas as pd

from sing_utils.charts import AFTER, BEFORE, PALETTE, finish
from sing_utils.planted import FACTORS

_ORDER = list(FACTORS)
_SCORE_COLOURS = alt.Scale(domain=["|AS|", "AS", "contrast"], range=[PALETTE[1], PALETTE[3], PALETTE[0]])
_SHARE = alt.Scale(domain=[0, 1], scheme="blues")


def truth(table: pd.DataFrame) -> alt.LayerChart:
    """Heads x factors: how much of each factor the head ignores, by construction and in changed scenes."""
    means = table.groupby(["head", "factor"], sort=False)[["planted", "counterfactual"]].mean().reset_index()
    heads = list(means["head"].unique())
    base = alt.Chart(means).encode(
        x=alt.X("factor:N", title="factor", sort=_ORDER, axis=alt.Axis(labelAngle=-35)),
        y=alt.Y("head:N", title="head", sort=heads),
    )
    tips = [
        *("head", "factor"),
        alt.Tooltip("planted", title="planted share", format=".0%"),
        alt.Tooltip("counterfactual", title="found by changing scenes", format=".0%"),
    ]
    cells = base.mark_rect(stroke="#888").encode(
        color=alt.Color(
            "planted:Q",
            title="planted share that is ignored",
            scale=_SHARE,
            legend=alt.Legend(orient="top", format="%", gradientLength=200, titleLimit=0),
        ),
        tooltip=tips,
    )
    text = base.mark_text(fontSize=12).encode(
        text=alt.Text("counterfactual:Q", format=".0%"),
        color=alt.condition("datum.planted > 0.5", alt.value("white"), alt.value("#222")),
        tooltip=tips,
    )
    return finish(
        cells + text,
        height=46 * len(heads),
        description="Table of heads by factors. The colour is the planted share of the factor that the head "
        "ignores, in percent; the number is what changing scenes shows.",
    )


def agreement(table: pd.DataFrame, statistic: str) -> alt.LayerChart:
    """ROC area or rank correlation by factor, a dot a score, with intervals over worlds."""
    own = table[table["statistic"] == statistic]
    chance = 0.5 if statistic == "ROC area" else 0.0
    title = f"{statistic} (no unit; 1 is perfect, dashed: chance)"
    scale = alt.Scale(domain=[0, 1] if statistic == "ROC area" else [-1, 1])
    x = alt.X("value:Q", title=title, scale=scale)
    y = alt.Y("factor:N", title=None, sort=["all", *_ORDER])
    offset = alt.YOffset("score:N", sort=["|AS|", "AS", "contrast"])
    colour = alt.Color("score:N", title="score", scale=_SCORE_COLOURS, legend=alt.Legend(orient="top"))
    base = alt.Chart(own).encode(
        y=y,
        yOffset=offset,
        color=colour,
        tooltip=[
            *("factor", "score"),
            alt.Tooltip("value", title=statistic, format=".2f"),
            alt.Tooltip("low", title="interval from", format=".2f"),
            alt.Tooltip("high", title="to", format=".2f"),
        ],
    )
    rule = base.mark_rule(strokeWidth=2, clip=True).encode(x=alt.X("low:Q", title=title), x2="high:Q")
    dots = base.mark_point(filled=True, size=70, opacity=1).encode(x=x)
    line = alt.Chart(pd.DataFrame({"x": [chance]})).mark_rule(strokeDash=[4, 4], color="#888").encode(x="x:Q")
    return finish(
        line + rule + dots,
        height=46 * (len(_ORDER) + 1),
        description=f"Dot plot of the {statistic} between what is planted and each score, by factor, with "
        "intervals over worlds and a dashed line at chance.",
    )


def recovery(table: pd.DataFrame) -> alt.LayerChart:
    """Each random head's score over the planted share; menus choose score and factor."""
    score = alt.param(
        name="recovery_score",
        value="contrast",
        bind=alt.binding_select(options=["|AS|", "AS", "contrast"], name="score: "),
    )
    factor = alt.param(
        name="recovery_factor", value="background", bind=alt.binding_select(options=_ORDER, name="factor: ")
    )
    base = (
        alt.Chart(table)
        .transform_filter("datum.factor == recovery_factor")
        .transform_calculate(score="datum[recovery_score]", spread="datum.planted + 0.04 * (random() - 0.5)")
    )
    dots = base.mark_circle(size=45, opacity=0.6, color=BEFORE).encode(
        x=alt.X("spread:Q", title="planted share of the factor in the null space (jittered)"),
        y=alt.Y("score:Q", title="score (degrees)"),
        tooltip=[
            *("head", "seed", "factor"),
            alt.Tooltip("planted", format=".2f"),
            alt.Tooltip("score:Q", title="score (°)", format=".2f"),
        ],
    )
    means = base.mark_line(color=AFTER, point=True, strokeWidth=2.5).encode(
        x="planted:Q", y=alt.Y("mean(score):Q", title="score (degrees)")
    )
    return finish(
        (dots + means).add_params(score, factor),
        height=340,
        description="Scatter plot of a score in degrees over the planted share, a dot a head, with the mean "
        "as a line; menus choose the score and the factor.",
    )


def calibration(table: pd.DataFrame) -> alt.LayerChart:
    """A score along the planted share, a line a factor; menus choose the score and what the rest does."""
    score = alt.param(
        name="calibration_score",
        value="contrast",
        bind=alt.binding_select(options=["|AS|", "AS", "contrast"], name="score: "),
    )
    setting = alt.param(
        name="calibration_setting",
        value="others seen",
        bind=alt.binding_select(options=["others seen", "others ignored"], name="other factors: "),
    )
    pick = alt.selection_point(fields=["factor"], bind="legend")
    title = "score (degrees), mean over worlds"
    base = (
        alt.Chart(table)
        .transform_filter("datum.setting == calibration_setting && datum.score == calibration_score")
        .encode(
            x=alt.X(
                "planted:Q",
                title="planted share of the factor in the null space",
                axis=alt.Axis(tickCount=6),
            ),
            color=alt.Color(
                "factor:N",
                sort=_ORDER,
                scale=alt.Scale(domain=_ORDER, range=[*PALETTE, "#8B5A2B"]),
                legend=alt.Legend(orient="top", columns=4, symbolOpacity=1),
            ),
        )
    )
    lines = base.mark_line(strokeWidth=2.5, point=True).encode(
        y=alt.Y("value:Q", title=title),
        opacity=alt.condition(pick, alt.value(1), alt.value(0.1)),
        tooltip=[
            "factor",
            alt.Tooltip("planted", format=".2f"),
            alt.Tooltip("value", title="score (°)", format=".2f"),
            alt.Tooltip("low", title="interval from", format=".2f"),
            alt.Tooltip("high", title="to", format=".2f"),
        ],
    )
    bands = base.mark_area().encode(
        y=alt.Y("low:Q", title=title),
        y2="high:Q",
        opacity=alt.condition(pick, alt.value(0.2), alt.value(0.02)),
    )
    return finish(
        (bands + lines).add_params(score, setting, pick),
        height=380,
        description="Line chart of a score in degrees over the planted share of one factor, with its "
        "interval over worlds as a band; menus choose the score and whether the other factors are seen or "
        "ignored.",
    )


def conclusions(table: pd.DataFrame) -> alt.LayerChart:
    """Conditions x conclusions: in how many worlds each conclusion is the right one."""
    own = table.assign(
        share=table["worlds"] / table["of"], text=table["worlds"].astype(str) + "/" + table["of"].astype(str)
    )
    base = alt.Chart(own).encode(
        x=alt.X(
            "short:N",
            title=None,
            sort=list(own["short"].unique()),
            axis=alt.Axis(labelAngle=-90, orient="top", labelLimit=180),
        ),
        y=alt.Y(
            "condition:N", title=None, sort=list(own["condition"].unique()), axis=alt.Axis(labelLimit=200)
        ),
        tooltip=["condition", "conclusion", "worlds", "of"],
    )
    cells = base.mark_rect(stroke="white").encode(
        color=alt.Color(
            "share:Q",
            title="true in (worlds)",
            scale=alt.Scale(domain=[0, 1], range=[AFTER, "#f2f2f2", BEFORE]),
            legend=alt.Legend(orient="bottom", format="%", gradientLength=200),
        )
    )
    text = base.mark_text(fontSize=12).encode(
        text="text:N",
        color=alt.condition("datum.share > 0.8 || datum.share < 0.2", alt.value("white"), alt.value("#222")),
    )
    return finish(
        cells + text,
        height=30 * own["condition"].nunique() + 20,
        description="Table of conditions by conclusions with the number of worlds in which the conclusion "
        "is the right one.",
    )


def steering(table: pd.DataFrame) -> alt.LayerChart:
    """How often steering toward a factor's level reaches it, by the planted share."""
    heads = list(table["head"].unique())
    choice = alt.param(
        name="steered_head", value=heads[1], bind=alt.binding_select(options=heads, name="head: ")
    )
    title = "scenes read as the wanted level (share)"
    base = (
        alt.Chart(table.assign(order=table["factor"].map(_ORDER.index)))
        .transform_filter("datum.head == steered_head")
        .transform_calculate(row="datum.factor + ', ' + format(datum.planted, '.0%') + ' ignored'")
        .encode(
            y=alt.Y("row:N", title=None, sort=alt.EncodingSortField("order", op="min")),
            yOffset=alt.YOffset("direction:N", sort=["toward the prompt", "random"]),
            tooltip=[
                *("head", "factor", "direction"),
                alt.Tooltip("planted", title="planted share", format=".0%"),
                alt.Tooltip("value", title="reached", format=".0%"),
                alt.Tooltip("low", title="interval from", format=".0%"),
                alt.Tooltip("high", title="to", format=".0%"),
                alt.Tooltip("IS", title="mean IS (°)", format=".1f"),
                alt.Tooltip("step", title="step, lengths of the feature", format=".2f"),
            ],
        )
    )
    bars = base.mark_bar().encode(
        x=alt.X("value:Q", title=title, axis=alt.Axis(format="%"), scale=alt.Scale(domain=[0, 1])),
        color=alt.Color(
            "direction:N",
            sort=["toward the prompt", "random"],
            scale=alt.Scale(domain=["toward the prompt", "random"], range=[BEFORE, "#999999"]),
            legend=alt.Legend(orient="top"),
        ),
    )
    spread = base.mark_rule(color=AFTER, strokeWidth=2, clip=True).encode(
        x=alt.X("low:Q", title=title), x2="high:Q"
    )
    return finish(
        (bars + spread).add_params(choice),
        height=36 * len(_ORDER),
        description="Bar chart: of each factor, the share of scenes that are read as the wanted level after "
        "a null-space step toward its prompt, and after a random one; a menu chooses the head.",
    )
