"""Each finding's verdict follows its rule: other numbers, other words."""

from __future__ import annotations

import math

import numpy as np
import pandas as pd
import pytest

from sing_utils import findings
from sing_utils.findings import Finding

# ----------------------------------------------------------------------------- set-up


def certificate_table(changes=(1e-9, 1e-8), flips=(0, 0)):
    return pd.DataFrame(
        {
            "classifier": ["a", "b"],
            "photos": [100, 50],
            "max |W f − W f̃| / (‖W‖ ‖f‖)": changes,
            "bound": [1e-6, 1e-6],
            "top-1 changes": flips,
        }
    )


@pytest.mark.parametrize(
    ("changes", "flips", "verdict"),
    [
        ((1e-9, 1e-8), (0, 0), "agrees"),
        ((1e-9, 1e-6), (0, 0), "agrees"),
        ((1e-9, 2e-6), (0, 0), "differs"),
        ((1e-9, 1e-8), (0, 1), "differs"),
    ],
)
def test_certificate(changes, flips, verdict):
    finding = findings.certificate(certificate_table(changes, flips))
    assert finding.verdict == verdict
    assert "150 features" in finding.measured
    assert f"{sum(flips)} top-1 classes changed" in finding.measured


def test_energy():
    photos = pd.DataFrame({"classifier": ["a", "a", "b"], "share": [1.0, 2.0, 30.0]})
    random = pd.DataFrame({"classifier": ["a", "a", "b", "b"], "share": [20.0, 22.0, 21.0, 23.0]})
    finding = findings.energy(photos, random)
    assert finding.verdict == "not in the paper"
    assert "a: 1.5 % (random subspaces 20.0 to 22.0 %); b: 30.0 %" in finding.measured


# ----------------------------------------------------------------------------- translators


@pytest.mark.parametrize(
    ("gain", "ratio", "verdict"),
    [
        ((0.005, 0.015), (1.6, 2.4), "agrees"),
        ((0.025, 0.035), (1.6, 2.4), "differs"),  # the squared error does not serve the cosine
        ((0.005, 0.015), (1.2, 1.4), "differs"),  # the cosine does serve the squared error
        ((0.015, 0.025), (1.6, 2.4), "undecided"),
        ((0.005, 0.015), (1.4, 1.8), "undecided"),
    ],
)
def test_losses(gain, ratio, verdict):
    other = {"loss": "cosine", "cosine": 0.91, "gain": 0.01, "gain low": gain[0], "gain high": gain[1]}
    other |= {"ratio": 2.0, "ratio low": ratio[0], "ratio high": ratio[1]}
    finding = findings.losses(pd.DataFrame([{"loss": "mse", "cosine": 0.90}, other]))
    assert finding.verdict == verdict
    assert f"leaves 2.0 ({ratio[0]:.1f} to {ratio[1]:.1f}) times" in finding.measured


def test_methods():
    table = pd.DataFrame(
        {
            "classifier": ["a", "a", "b", "b"],
            "method": ["ridge", "adamw"] * 2,
            "cosine": [0.8, 0.7, 0.6, 0.65],
            "R²": [0.5] * 4,
            "seconds": [0.1, 1.0, 0.1, 3.0],
        }
    )
    finding = findings.methods(table)
    assert "higher cosine for 1 of 2" in finding.measured
    assert "20 times as long" in finding.measured
    assert "0.700 against 0.675" in finding.measured


# ---------------------------------------------------------------------------------- ratios


def ratio_table(second=(1.0, 2.0)):
    rows = []
    for definition, values in (("first", (1.0, 2.0)), ("second", second)):
        for name, value in zip("ab", values, strict=True):
            rows.append((name, definition, value, value - 0.1, value + 0.1))
    return pd.DataFrame(rows, columns=["classifier", "definition", "value", "low", "high"])


def test_ratio_order_says_whether_it_depends_on_the_definition():
    same = findings.ratio_order(ratio_table())
    assert "The order is the same under all 2 definitions: b > a." in same.measured
    other = findings.ratio_order(ratio_table(second=(2.0, 1.0)))
    assert "depends on the definition: b > a by first; a > b by second." in other.measured
    assert same.verdict == other.verdict == "not comparable"


def test_ratio_order_says_which_intervals_overlap():
    assert (
        "the intervals of 1 of 1 neighbouring pairs do not overlap"
        in findings.ratio_order(ratio_table()).measured
    )
    wide = ratio_table().assign(low=0.0, high=9.0)
    assert "the intervals of 0 of 1" in findings.ratio_order(wide).measured


@pytest.mark.parametrize(
    ("best", "other", "verdict"),
    [
        ((0.1, 0.5), (-0.5, -0.1), "agrees"),
        ((0.1, 0.5), (-0.5, 0.1), "undecided"),
        ((-0.1, 0.5), (-0.5, -0.1), "undecided"),
        ((-0.5, -0.1), (-0.5, -0.1), "differs"),
        ((0.1, 0.5), (0.1, 0.5), "differs"),
        ((-0.1, 0.5), (0.1, 0.5), "differs"),
    ],
)
def test_elongation(best, other, verdict):
    spreads = pd.DataFrame(
        {
            "classifier": ["a", "b"],  # b has the higher ratio
            "log variance ratio": [np.mean(other), np.mean(best)],
            "low": [other[0], best[0]],
            "high": [other[1], best[1]],
        }
    )
    finding = findings.elongation(spreads, ratio_table())
    assert finding.verdict == verdict
    assert "By first, the best ratio has b." in finding.measured
    assert f"({np.exp(best[0]):.2f} to {np.exp(best[1]):.2f})" in finding.measured


# --------------------------------------------------------------------------------- classes


def correlations(*ps, classes=16):
    rows = [("a", f"b{i}", 0.3, 0.1, 0.45, p, classes) for i, p in enumerate(ps)]
    return pd.DataFrame(rows, columns=["a", "b", "rho", "low", "high", "q", "classes"])


@pytest.mark.parametrize(
    ("table", "verdict"),
    [
        (correlations(0.06, 0.9), "agrees"),
        (correlations(0.06, 0.04), "differs"),
        (correlations(0.04, classes=3), "not run"),
        (correlations(), "not run"),
    ],
)
def test_class_order(table, verdict):
    finding = findings.class_order(table)
    assert finding.verdict == verdict
    if verdict in ("agrees", "differs"):
        assert "a / b0: ρ = 0.30 (0.10 to 0.45), corrected p = 0.060" in finding.measured


def concepts(before, AS=(0.1, 0.2)):
    """One class per classifier pair: before[classifier] = angles to (desert, sea)."""
    rows = [
        (name, "camel", concept, angle, a)
        for name, angles in before.items()
        for concept, angle, a in zip(("desert", "sea"), angles, AS, strict=True)
    ]
    table = pd.DataFrame(rows, columns=["classifier", "class", "concept", "before", "AS"])
    place = table.groupby(["classifier", "class"])["before"].rank()
    return table.assign(**{"place": place, "place low": place, "place high": place})


@pytest.mark.parametrize(
    ("before", "verdict"),
    [
        ({"a": (70, 80), "b": (60, 61)}, "agrees"),
        ({"a": (70, 80), "b": (62, 61)}, "undecided"),
        ({"a": (90, 80), "b": (62, 61)}, "differs"),
    ],
)
def test_nearest_concept(before, verdict):
    finding = findings.nearest_concept(concepts(before), "camel", "desert")
    assert finding.verdict == verdict
    place = 1 if before["b"][0] < before["b"][1] else 2
    assert f"b: place {place} ({place} to {place}) of 2" in finding.measured


def test_the_nearest_concept_is_undecided_where_photos_decide_it():
    for before, column, end in (((70, 80), "place high", 2), ((90, 80), "place low", 1)):
        table = concepts({"a": before, "b": before})
        table.loc[(table["classifier"] == "a") & (table["concept"] == "desert"), column] = end
        assert findings.nearest_concept(table, "camel", "desert").verdict == "undecided"
    one_photo = concepts({"a": (70, 80)}).assign(**{"place": math.nan, "place high": math.nan})
    assert findings.nearest_concept(one_photo, "camel", "desert").verdict == "undecided"


def test_nearest_concept_without_that_class_or_concept():
    table = concepts({"a": (70, 80)})
    assert findings.nearest_concept(table, "jellyfish", "desert").verdict == "not run"
    assert findings.nearest_concept(table, "camel", "moon").verdict == "not run"


@pytest.mark.parametrize(
    ("loud", "verdict"),
    [
        ((0.5, 0.5), "agrees"),
        ((0.5, 0.14), "undecided"),  # the second one's intervals overlap
        ((0.5, 0.01), "undecided"),
        ((0.01, 0.01), "differs"),
        ((0.06, 0.06), "undecided"),
    ],
)
def test_quieter_class(loud, verdict):
    rows = [(n, "camel", 0.1) for n in "ab"] + [(n, "jelly", v) for n, v in zip("ab", loud, strict=True)]
    table = pd.DataFrame(rows, columns=["classifier", "class", "value"])
    table = table.assign(low=table["value"] - 0.03, high=table["value"] + 0.03)
    finding = findings.quieter_class(table, "camel", "jelly")
    assert finding.verdict == verdict
    assert f"a: 0.10° (0.07 to 0.13°) and {loud[0]:.2f}°" in finding.measured
    assert findings.quieter_class(table, "camel", "moon").verdict == "not run"


# ----------------------------------------------------------------------------- one photo


@pytest.mark.parametrize(("moved", "verdict"), [(0.005, "agrees"), (0.02, "differs")])
def test_photo(moved, verdict):
    logits = pd.DataFrame({"photo": "cat", "logit before": [10.0, 5.0], "logit after": [10.0, 5.0 - moved]})
    angles = pd.DataFrame({"concept": ["up", "none", "down"], "AS": [1.5, 0.0, -2.0], "IS": 30.0})
    finding = findings.photo(logits, angles)
    assert finding.verdict == verdict
    assert "Most gained: “up” (+1.50°); most lost: “down” (-2.00°)" in finding.measured
    assert "IS = 30.0°" in finding.measured


# ------------------------------------------------------------------------------------ html


def test_html_escapes_what_it_shows():
    shown = Finding("<b>claim</b>", "a & b <script>", "agrees", "x < y")._repr_html_()
    assert "<b>" not in shown
    assert "<script>" not in shown
    assert "&lt;b&gt;claim&lt;/b&gt;" in shown
    assert "a &amp; b &lt;script&gt;" in shown
    assert "x &lt; y" in shown


@pytest.mark.parametrize("verdict", ["agrees", "not comparable", "not in the paper"])
def test_html_names_the_verdict_for_eyes_and_screen_readers(verdict):
    shown = Finding("c", "m", verdict, "r")._repr_html_()
    assert f'aria-label="finding: {verdict}"' in shown
    assert f'class="sing-finding sing-{verdict.replace(" ", "-")}"' in shown
    assert f"<dd>{verdict}</dd>" in shown
