"""Charts of the controls: the null space among random subspaces, wordings, and classes with both."""

from __future__ import annotations

import altair as alt
import pandas as pd

from sing_utils.charts import AFTER, BEFORE, FELL, PALETTE, finish

NAMES = {
    "contrast": "mean contrast (degrees)",
    "|AS|": "median |AS| (degrees)",
    "AS": "mean AS (degrees)",
    "IS": "median IS (degrees)",
}
KINDS = ["#56B4E9", "#E69F00"]


def subspaces(draws: pd.DataFrame) -> alt.LayerChart:
    """Scores after removing random subspaces (ticks) and the null space (diamonds).

    Args:
        draws: of `subspace_draws` or `subspace_steering`.
    """
    statistics = [s for s in NAMES if s in draws]
    long = draws.melt(["classifier", "kind", "draw"], statistics, "statistic").dropna(subset="value")
    long["statistic"] = long["statistic"].map(NAMES)
    choice = alt.param(
        name="statistic",
        value=NAMES[statistics[0]],
        bind=alt.binding_select(options=[NAMES[s] for s in statistics], name="score: "),
    )
    base = alt.Chart(long).transform_filter("datum.statistic == statistic")
    y = alt.Y("classifier:N", title=None)
    x = alt.X("value:Q", title="degrees", scale=alt.Scale(zero=False))
    kind = alt.Color(
        "kind:N",
        title="random subspaces of",
        scale=alt.Scale(range=KINDS),
        legend=alt.Legend(orient="top", columns=1, labelLimit=260),
    )
    tips = ["classifier", "kind", alt.Tooltip("value:Q", title="degrees", format=".3f")]
    ticks = (
        base.transform_filter("datum.draw >= 0")
        .mark_tick(thickness=1.5, size=22, opacity=0.7)
        .encode(x=x, y=y, yOffset="kind:N", color=kind, tooltip=tips)
    )
    null = (
        base.transform_filter("datum.draw < 0")
        .mark_point(shape="diamond", filled=True, size=130, opacity=1, color=AFTER)
        .encode(x=x, y=y, yOffset="kind:N", tooltip=["classifier", *tips[2:]])
    )
    chart = ticks + null
    if len(statistics) > 1:
        chart = chart.add_params(choice)
    else:
        chart = chart.add_params(alt.param(name="statistic", value=NAMES[statistics[0]]))
    return finish(
        chart,
        height=75 * draws["classifier"].nunique() + 20,
        description="Strip chart, a pair of rows a classifier: a tick for each random subspace, and a "
        "diamond "
        "for the null space. A diamond inside its cloud of ticks does nothing that chance does not do.",
    )


def wordings(table: pd.DataFrame, chosen: str) -> alt.LayerChart:
    """Scores of each classifier in all wordings of the class prompt.

    Args:
        table: of `wording_scores`.
        chosen: the profile's own wording.
    """
    columns = ["mean contrast (°)", "mean AS (°)", "median |AS| (°)"]
    every = table[table["class"] == "all"]
    long = every.melt(["classifier", "wording"], columns, "score")
    long["own"] = long["wording"] == chosen
    choice = alt.param(
        name="score", value=columns[0], bind=alt.binding_select(options=columns, name="score: ")
    )
    base = alt.Chart(long).transform_filter("datum.score == score")
    x = alt.X("value:Q", title="degrees")
    y = alt.Y("classifier:N", title=None)
    tips = ["classifier", "wording", alt.Tooltip("value:Q", title="degrees", format=".3f")]
    dots = base.transform_filter("!datum.own").mark_point(size=60, strokeWidth=1.5, color=BEFORE, opacity=0.9)
    own = base.transform_filter("datum.own").mark_point(
        shape="diamond", filled=True, size=130, opacity=1, color=AFTER
    )
    zero = alt.Chart(pd.DataFrame({"x": [0]})).mark_rule(strokeDash=[4, 4], color="#888").encode(x="x:Q")
    return finish(
        (zero + dots.encode(x=x, y=y, tooltip=tips) + own.encode(x=x, y=y, tooltip=tips)).add_params(choice),
        height=45 * every["classifier"].nunique() + 30,
        description="Dot plot of a score of each classifier in several wordings of the class prompt; a "
        "diamond "
        "marks the profile's own wording, a dashed line zero.",
    )


def class_contrasts(table: pd.DataFrame, name: str) -> alt.LayerChart:
    """Mean contrast of each class of one classifier: interval, spread over wordings, significance.

    Args:
        table: of `class_scores`.
        name: of the classifier.
    """
    own = table[table["classifier"] == name].dropna(subset="contrast").sort_values("contrast")
    told = {True: "differs from 0", False: "may be 0"}
    own = own.assign(verdict=(own["q"] < 0.05).map(told))
    title = "mean contrast (degrees); below 0: the class leaks"
    y = alt.Y("class:N", title=None, sort=own["class"].tolist())
    tips = [
        "class",
        alt.Tooltip("contrast:Q", title="contrast (°)", format=".2f"),
        alt.Tooltip("contrast low:Q", title="interval from", format=".2f"),
        alt.Tooltip("contrast high:Q", title="to", format=".2f"),
        alt.Tooltip("q:Q", title="corrected p", format=".4f"),
        "photos",
    ]
    base = alt.Chart(own)
    layers = [alt.Chart(pd.DataFrame({"x": [0]})).mark_rule(strokeDash=[4, 4], color="#888").encode(x="x:Q")]
    if "contrast least" in own:
        layers.append(
            base.mark_bar(size=10, color=FELL, opacity=0.35).encode(
                y=y, x=alt.X("contrast least:Q", title=title), x2="contrast most:Q"
            )
        )
    layers.append(
        base.mark_rule(strokeWidth=2.5, color="#777").encode(
            y=y, x=alt.X("contrast low:Q", title=title), x2="contrast high:Q"
        )
    )
    layers.append(
        base.mark_point(filled=True, size=85, opacity=1).encode(
            y=y,
            x=alt.X("contrast:Q", title=title),
            color=alt.Color(
                "verdict:N",
                title=None,
                scale=alt.Scale(domain=list(told.values()), range=[AFTER, PALETTE[-1]]),
                legend=alt.Legend(orient="top"),
            ),
            tooltip=tips,
        )
    )
    return finish(
        alt.layer(*layers),
        height=24 * len(own) + 40,
        description=f"Dot plot of the mean contrast in degrees of each class of {name}, with the bootstrap "
        "interval over photos as a line and the spread over wordings of the prompt as a pale bar.",
    )
