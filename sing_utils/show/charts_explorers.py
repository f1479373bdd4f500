"""The live explorers as they open, as plain charts: for pages without JavaScript, and for print."""

from __future__ import annotations

from typing import Any

import altair as alt
import pandas as pd

from sing_utils.show.charts import AFTER, BEFORE, FELL, PALETTE, ROSE


def pair(logits: pd.DataFrame, moved: pd.DataFrame, pictures: list[str], *, title: str, subtitle: str) -> Any:
    """Pictures before and after null removal, logits (class, logit), and phrases (phrase, AS)."""
    shown = pd.DataFrame(
        {"url": pictures, "feature": ["original", "null component removed"][: len(pictures)]}
    )
    images = (
        alt.Chart(shown, width=280, height=140)
        .mark_image(width=120, height=120)
        .encode(x=alt.X("feature:N", title=None, axis=alt.Axis(labelAngle=0, orient="bottom")), url="url:N")
    )
    bars = (
        alt.Chart(logits, width=280, height=100, title="Largest logits, the same for both")
        .mark_bar(color=BEFORE)
        .encode(x=alt.X("logit:Q", title="logit"), y=alt.Y("class:N", sort="-x", title=None))
    )
    return _titled(
        alt.hconcat(alt.vconcat(images, bars), _moves(moved)),
        title=title,
        subtitle=subtitle,
        description="Pictures drawn from a photo's original feature and from its equivalent, their "
        "largest logits, and the phrases that came closer or moved away most.",
    )


def steering(curve: pd.DataFrame, *, title: str, subtitle: str) -> Any:
    """AS toward the target and toward the photo's own class against IS: IS, AS, toward."""
    chart = (
        alt.Chart(curve, width=520, height=240)
        .mark_line(strokeWidth=2.5)
        .encode(
            x=alt.X("IS:Q", title="Image Score (°)"),
            y=alt.Y("AS:Q", title="Attribute Score (°)"),
            color=alt.Color("toward:N", scale=alt.Scale(range=[AFTER, BEFORE]), title="toward"),
            strokeDash=alt.StrokeDash("toward:N", legend=None),
        )
    )
    return _titled(
        chart,
        title=title,
        subtitle=subtitle,
        description="Line chart of the Attribute Score toward the target and toward the photo's own class "
        "against the Image Score of the step.",
    )


def lens(moved: pd.DataFrame, *, title: str, subtitle: str) -> Any:
    """Phrases with the largest mean AS in either direction: phrase, AS."""
    return _titled(
        _moves(moved, width=420),
        title=title,
        subtitle=subtitle,
        description="Bar chart of the phrases that come closer to a class's photos, or move away from "
        "them, most when the null component is removed.",
    )


def dial(spectrum: pd.DataFrame, rank: int, width: int, *, title: str, subtitle: str) -> Any:
    """A head's singular values (direction, σ), and where its null space begins."""
    line = (
        alt.Chart(spectrum, width=520, height=240)
        .mark_line(strokeWidth=2.5, color=BEFORE)
        .encode(
            x=alt.X("direction:Q", title="direction", scale=alt.Scale(domain=[0, width])),
            y=alt.Y("σ:Q", title="singular value σ (log scale)", scale=alt.Scale(type="log")),
        )
    )
    edge = (
        alt.Chart(pd.DataFrame({"direction": [rank]}))
        .mark_rule(color=AFTER, size=2.5)
        .encode(x="direction:Q")
    )
    return _titled(
        line + edge,
        title=title,
        subtitle=subtitle,
        description="Line chart of a head's singular values, and a line where its null space begins.",
    )


def basis(stretched: pd.DataFrame, *, title: str, subtitle: str) -> Any:
    """Median IS over the stretch of the null component (classifier, s, IS, IS beyond)."""
    lines = alt.Chart(stretched[["classifier", "s", "IS", "IS beyond"]], width=520, height=240).encode(
        x=alt.X("s:Q", title="s, the null component's factor (log scale)", scale=alt.Scale(type="log")),
        color=alt.Color("classifier:N", scale=alt.Scale(range=PALETTE), title=None, sort=None),
    )
    y = alt.Y("IS:Q", title="median Image Score (°); dashed: beyond the logits")
    return _titled(
        lines.mark_line(strokeWidth=2.5).encode(y=y)
        + lines.mark_line(strokeDash=[5, 4]).encode(y=alt.Y("IS beyond:Q", title=y["title"])),
        title=title,
        subtitle=subtitle,
        description="Line chart of the median Image Score of each classifier over the factor by which its "
        "features' null component is stretched; beyond the logits the lines are level.",
    )


def _moves(moved: pd.DataFrame, *, width: int = 240) -> alt.Chart:
    return (
        alt.Chart(
            moved, width=width, height=alt.Step(17), title="Closer (+) or farther (−) without the null part"
        )
        .mark_bar()
        .encode(
            x=alt.X("AS:Q", title="Attribute Score (°)"),
            y=alt.Y("phrase:N", sort=alt.EncodingSortField("AS", order="descending"), title=None),
            color=alt.condition("datum.AS > 0", alt.value(ROSE), alt.value(FELL)),
        )
    )


def _titled(chart: Any, *, title: str, subtitle: str, description: str) -> Any:
    words = alt.TitleParams(title, subtitle=subtitle, anchor="start")
    return chart.properties(title=words, description=description)
