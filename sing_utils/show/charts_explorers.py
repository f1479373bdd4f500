"""The live explorers as they open, as plain charts: for pages without JavaScript, and for print."""

from __future__ import annotations

from typing import Any

import altair as alt
import pandas as pd

from sing_utils.show.charts import AFTER, BEFORE, FELL, PALETTE, ROSE


def pair(logits: pd.DataFrame, moved: pd.DataFrame, pictures: list[str], **words: str) -> Any:
    """Pictures before and after null removal, logits (class, logit), and phrases (phrase, AS)."""
    features = ["original", "null component removed"][: len(pictures)]
    below = alt.X("feature:N", title=None, axis=alt.Axis(labelAngle=0, orient="bottom"))
    images = alt.Chart(pd.DataFrame({"url": pictures, "feature": features}), width=280, height=140)
    images = images.mark_image(width=120, height=120).encode(x=below, url="url:N")
    bars = alt.Chart(logits, width=280, height=100, title="Largest logits, the same for both")
    bars = bars.mark_bar(color=BEFORE).encode(
        x=alt.X("logit:Q", title="logit"), y=alt.Y("class:N", sort="-x", title=None)
    )
    return _titled(
        alt.hconcat(alt.vconcat(images, bars), _moves(moved)),
        "Pictures drawn from a photo's original feature and from its equivalent, their largest logits, and "
        "the phrases that came closer or moved away most.",
        **words,
    )


def steering(curve: pd.DataFrame, **words: str) -> Any:
    """AS toward the target and toward the photo's own class against IS: IS, AS, toward."""
    return _titled(
        _lines(curve, alt.X("IS:Q", title="Image Score (°)"))
        .mark_line(strokeWidth=2.5)
        .encode(
            y=alt.Y("AS:Q", title="Attribute Score (°)"),
            color=alt.Color("toward:N", scale=alt.Scale(range=[AFTER, BEFORE]), title="toward"),
            strokeDash=alt.StrokeDash("toward:N", legend=None),
        ),
        "Line chart of the Attribute Score toward the target and toward the photo's own class against the "
        "Image Score of the step.",
        **words,
    )


def lens(moved: pd.DataFrame, **words: str) -> Any:
    """Phrases with the largest mean AS in either direction: phrase, AS."""
    return _titled(
        _moves(moved, width=420),
        "Bar chart of the phrases that come closer to a class's photos, or move away from them, most when "
        "the null component is removed.",
        **words,
    )


def dial(spectrum: pd.DataFrame, rank: int, width: int, **words: str) -> Any:
    """A head's singular values (direction, σ), and where its null space begins."""
    line = _lines(spectrum, alt.X("direction:Q", title="direction", scale=alt.Scale(domain=[0, width])))
    σ = alt.Y("σ:Q", title="singular value σ (log scale)", scale=alt.Scale(type="log"))
    edge = alt.Chart(pd.DataFrame({"direction": [rank]})).mark_rule(color=AFTER, size=2.5)
    return _titled(
        line.mark_line(strokeWidth=2.5, color=BEFORE).encode(y=σ) + edge.encode(x="direction:Q"),
        "Line chart of a head's singular values, and a line where its null space begins.",
        **words,
    )


def basis(stretched: pd.DataFrame, **words: str) -> Any:
    """Median IS over the stretch of the null component (classifier, s, IS, IS beyond)."""
    x = alt.X("s:Q", title="s, the null component's factor (log scale)", scale=alt.Scale(type="log"))
    lines = _lines(stretched[["classifier", "s", "IS", "IS beyond"]], x)
    lines = lines.encode(
        color=alt.Color("classifier:N", scale=alt.Scale(range=PALETTE), title=None, sort=None)
    )
    title = "median Image Score (°); dashed: beyond the logits"
    return _titled(
        lines.mark_line(strokeWidth=2.5).encode(y=alt.Y("IS:Q", title=title))
        + lines.mark_line(strokeDash=[5, 4]).encode(y=alt.Y("IS beyond:Q", title=title)),
        "Line chart of the median Image Score of each classifier over the factor by which its features' null "
        "component is stretched; beyond the logits the lines are level.",
        **words,
    )


def _lines(table: pd.DataFrame, x: alt.X) -> alt.Chart:
    return alt.Chart(table, width=520, height=240).encode(x=x)


def _moves(moved: pd.DataFrame, *, width: int = 240) -> alt.Chart:
    title = "Closer (+) or farther (−) without the null part"
    bars = alt.Chart(moved, width=width, height=alt.Step(17), title=title).mark_bar()
    return bars.encode(
        x=alt.X("AS:Q", title="Attribute Score (°)"),
        y=alt.Y("phrase:N", sort=alt.EncodingSortField("AS", order="descending"), title=None),
        color=alt.condition("datum.AS > 0", alt.value(ROSE), alt.value(FELL)),
    )


def _titled(chart: Any, description: str, *, title: str, subtitle: str) -> Any:
    words = alt.TitleParams(title, subtitle=subtitle, anchor="start")
    return chart.properties(title=words, description=description)
