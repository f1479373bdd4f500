"""Each finding's verdict follows its rule: other numbers, other words."""

from __future__ import annotations

import math
import re

import numpy as np
import pandas as pd
import pytest

from sing_utils.paper.claims import box
from sing_utils.paper.published import Published
from sing_utils.show import findings, openings
from sing_utils.show.findings import Finding

# ----------------------------------------------------------------------------- set-up


def heads(moved=(1e-9, 1e-8), flips=(0, 0)):
    return pd.DataFrame(
        {
            "classifier": ["a", "b"],
            "photos": [1000, 500],
            "logits moved": moved,
            "bound": 1e-6,
            "top-1 changes": flips,
        }
    )


@pytest.mark.parametrize(
    ("moved", "flips", "verdict"),
    [
        ((1e-9, 1e-6), (0, 0), "holds"),
        ((math.nan, 1e-6), (0, 0), "holds"),  # a classifier without a feature
        ((1e-9, 2e-6), (0, 0), "fails"),
        ((1e-9, 1e-8), (0, 1), "fails"),
    ],
)
def test_certificate(moved, flips, verdict):
    finding = findings.certificate(heads(moved, flips))
    assert (finding.verdict, finding.n) == (verdict, "1,500 features")


@pytest.mark.parametrize(
    ("gain", "ratio", "converged", "verdict"),
    [
        ((0.005, 0.015), (1.6, 2.4), True, "agrees"),
        ((0.025, 0.035), (1.6, 2.4), True, "differs"),  # the squared error does not serve the cosine
        ((0.005, 0.015), (1.2, 1.4), True, "differs"),  # the cosine does serve the squared error
        ((0.015, 0.025), (1.6, 2.4), True, "undecided"),
        ((0.005, 0.015), (1.4, 1.8), True, "undecided"),
        ((0.005, 0.015), (1.6, 2.4), False, "undecided"),
    ],
)
def test_losses_are_judged_beside_the_exact_minimiser(gain, ratio, converged, verdict):
    """Training on the squared error may stop far from it: that row is not asked."""
    apart = {"gain": 0.01, "gain low": gain[0], "gain high": gain[1]}
    apart |= {"ratio": 2.0, "ratio low": ratio[0], "ratio high": ratio[1]}
    stopped = dict.fromkeys(apart, -0.5) | {"loss": "mse", "cosine": 0.4, "converged": False}
    own = apart | {"loss": "cosine", "cosine": 0.91, "converged": converged}
    table = pd.DataFrame([{"loss": "exact", "cosine": 0.90, "converged": True}, stopped, own])
    finding = findings.losses(table.assign(**{"photos to evaluate": 900}))
    assert (finding.verdict, finding.why) == (verdict, "" if converged else "not converged")
    assert "Cosine 0.900 by the exact minimiser" in finding.measured
    assert f"+0.010 (+{gain[0]:.3f} to +{gain[1]:.3f})" in finding.measured


# ---------------------------------------------------------------------------------- ratios


def ratio_table(names=("a", "b")):
    ends = {"IS / |AS|": [1.0, 2.0], "ratio low": [0.9, 1.9], "ratio high": [1.1, 2.1]}
    return pd.DataFrame({"classifier": names, "photos": 50, **ends})


@pytest.mark.parametrize(
    ("names", "verdict"),
    [
        (("ResNeXt101", "DINO-ViT"), "agrees"),
        (("ResNet50", "DINO-ViT"), "undecided"),
        (("DINO-ViT", "ResNeXt101"), "differs"),
    ],
)
def test_ratio_order(names, verdict):
    finding = findings.ratio_order(ratio_table(names))
    assert finding.verdict == verdict
    assert f"{names[1]} 2.0 (1.9 to 2.1); {names[0]}" in finding.measured
    assert "intervals of 1 of 1" in finding.measured
    wide = ratio_table(names).assign(**{"ratio low": 0.0, "ratio high": 9.0})
    assert "intervals of 0 of 1" in findings.ratio_order(wide).measured
    assert findings.ratio_order(wide[:1]).verdict == "not comparable"


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
    spreads = ratio_table()  # b has the higher ratio
    ends = {"low": [other[0], best[0]], "high": [other[1], best[1]]}
    spreads = spreads.assign(**ends, **{"log variance ratio": [np.mean(other), np.mean(best)]})
    finding = findings.elongation(spreads)
    assert finding.verdict == verdict
    assert "b has the largest ratio of IS to |AS|." in finding.measured
    assert f"({np.exp(best[0]):.2f} to {np.exp(best[1]):.2f})" in finding.measured


# --------------------------------------------------------------------------------- classes


def correlations(*ps, classes=16, pair=("a", "b")):
    rows = [(*pair, 0.3, 0.1, 0.45, p, classes) for p in ps]
    return pd.DataFrame(rows, columns=["a", "b", "rho", "low", "high", "q", "classes"])


PAIR = ("DINO-ViT", "ResNet50")


@pytest.mark.parametrize(
    ("table", "verdict"),
    [
        (correlations(0.06, 0.9), "undecided"),  # what does not show may still be there
        (correlations(0.06, 0.04), "differs"),
        (correlations(0.04, classes=3), "not run"),
        (correlations(), "not run"),
        (pd.concat([correlations(0.001), correlations(0.3, pair=PAIR)]), "undecided"),  # the paper's pair
        (pd.concat([correlations(0.3), correlations(0.001, pair=PAIR)]), "differs"),
    ],
)
def test_class_order(table, verdict):
    assert findings.class_order(table).verdict == verdict


def test_nearest_concept():
    table = pd.DataFrame({"classifier": "a", "class": "camel", "concept": ["desert", "sea"], "photos": 50})
    table = table.assign(**{"before": [80, 70], "place": [2.0, 1.0], "place low": 1.0, "place high": 2.0})
    finding = findings.nearest_concept(table, "camel", "desert")
    assert finding.measured == "a place 2 (1 to 2) of 2, first “sea”."
    one_photo = table.assign(**{"place low": math.nan, "place high": math.nan})
    assert "place 2 of 2" in findings.nearest_concept(one_photo, "camel", "desert").measured
    assert findings.nearest_concept(table, "jellyfish", "desert").verdict == "not run"
    assert findings.nearest_concept(table, "camel", "moon").verdict == "not run"


@pytest.mark.parametrize(
    ("loud", "verdict"),
    [
        ((0.5, 0.5), "agrees"),
        ((0.5, 0.14), "undecided"),  # the second one's intervals overlap
        ((0.5, 0.01), "undecided"),
        ((0.01, 0.01), "differs"),
    ],
)
def test_quieter_class(loud, verdict):
    rows = [(n, "camel", 0.1) for n in "ab"] + [(n, "jelly", v) for n, v in zip("ab", loud, strict=True)]
    table = pd.DataFrame(rows, columns=["classifier", "class", "value"]).assign(photos=50)
    table = table.assign(low=table["value"] - 0.03, high=table["value"] + 0.03)
    finding = findings.quieter_class(table, "camel", "jelly")
    assert finding.verdict == verdict
    assert f"a 0.10° (0.07 to 0.13°) and {loud[0]:.2f}°" in finding.measured
    assert findings.quieter_class(table, "camel", "moon").verdict == "not run"


# --------------------------------------------------------------------------------- steering


def steps(directed=(10.0, 11.0), chance=(0.1, 0.2), flips=0):
    rows = []
    for name, a, b in zip("xy", directed, chance, strict=True):
        for direction, value in (("toward the text", a), ("random", b)):
            rows.append(
                {"classifier": name, "direction": direction, "target": "jellyfish", "IS": 40.0}
                | {"|AS| mean": value, "|AS| sd": 0.3, "AS mean": value, "AS sd": 1.5, "flips": flips}
                | {"reached": 50}
            )
    return pd.DataFrame(rows)


@pytest.mark.parametrize(
    ("table", "verdict"),
    [
        (steps(), "agrees"),
        (steps(flips=1), "undecided"),
        (steps(directed=(10.0, 1.0)), "undecided"),
        (steps(directed=(1.0, 1.0)), "differs"),
        (steps(chance=(math.nan, math.nan)), "not run"),
    ],
)
def test_steerable(table, verdict):
    assert findings.steerable(table).verdict == verdict


def test_steps_beside_chance():
    assert "x 10.00 ± 0.30° (random null directions 0.10 ± 0.30°)" in findings.table_1(steps()).measured
    beyond = pd.DataFrame(
        {"classifier": ["x"], "AS (°)": [15.0], "step (sd)": [200.0], "photos (sd)": [20.0]}
    )
    assert "must be 10 times as long" in findings.steered_beyond(beyond, 40.0).measured
    assert "no step" in findings.steered_beyond(beyond[:0], 40.0).measured


@pytest.mark.parametrize(
    ("two", "one", "verdict"),
    [
        ((8.0, 9.0), (8.0, 8.5), "agrees"),
        ((8.0, 9.0), (3.1, 9.0), "undecided"),
        ((1.0, 1.1), (1.0, 1.1), "differs"),
        ((1.0, 1.1), (8.0, 9.0), "undecided"),  # clear in one of the classifiers only
        ((8.0, 9.0), (math.nan, math.nan), "undecided"),
    ],
)
def test_figure_6(two, one, verdict):
    rows = [("x", "jeep", *two), ("x", "pirate", 8.0, 9.0), ("y", "jeep", *one), ("y", "pirate", 8.0, 9.0)]
    grid = pd.DataFrame(
        [(n, t, s, v, 40.0) for n, t, *values in rows for s, v in zip("pq", values, strict=True)],
        columns=["classifier", "target", "source", "AS", "IS"],
    )
    finding = findings.figure_6(grid)
    assert finding.verdict == verdict
    assert ("reached by no photo" in finding.why) == math.isnan(one[0])
    assert "nan" not in finding.measured


# --------------------------------------------------------------------------------- pictures


def pairs(benign=(7.9, 0.0), problematic=(9.3, 1.3)):
    rows = [("benign", *benign), ("problematic", *problematic), ("problematic", 6.2, 1.1)]
    return pd.DataFrame(rows, columns=["kind", "IS", "AS"])


def logits(equivalent=("cat", "dog"), its=(2.0, 1.0)):
    table = pd.DataFrame({"pair": "benign: x", "original": ["cat", "dog"], "logit": [2.0, 1.0]})
    return table.assign(**{"equivalent": equivalent, "its logit": its})


@pytest.mark.parametrize(
    ("pairs", "logits", "why"),
    [
        (pairs(problematic=(12.0, 1.3)), logits(), ""),
        (pairs(problematic=(9.3, -3.2)), logits(), ""),
        (pairs(), logits(), "no problematic pair changes much"),
        (pairs((11.0, 0.0), (12.0, 1.3)), logits(), "a benign pair changes much"),
        (pairs(problematic=(12.0, 1.3)), logits(its=(2.0, 1.1)), "the logits are not the same"),
        (pairs(problematic=(12.0, 1.3)), logits(("cat", "cow")), "the logits are not the same"),
    ],
)
def test_figure_1_is_about_logits_and_about_meaning(pairs, logits, why):
    finding = findings.figure_1(pairs, logits)
    assert (finding.verdict, finding.why) == ("differs" if why else "agrees", why)


def changes(changed=(0.0, 20.0, 60.0), turned=(0.0, 15.0, 30.0), noise=20.0):
    table = pd.DataFrame({"IS": [0.0, 10.0, 20.0], "AS": [0.0, 3.0, 6.0], "turned": turned})
    return table.assign(noise=noise, changed=changed, pictures=16)


def test_visible_change():
    words = findings.visible_change(changes()).measured
    assert "another class from IS = 20° on (mean AS 6.0°); from IS = 20° on they turn by more" in words
    half = findings.visible_change(changes((0.0, 50.0, 60.0))).measured
    assert "another class from IS = 10° on (mean AS 3.0°)" in half
    assert "noise" not in findings.visible_change(changes(noise=0.0)).measured
    never = findings.visible_change(changes((0.0, 0.0, 40.0), noise=50.0)).measured
    assert "at no IS up to 20°" in never
    assert "at no IS" in never


@pytest.mark.parametrize(
    ("first", "second", "verdict"),
    [((20.0, 30.0), 10.0, "agrees"), ((20.0, 1.0), 10.0, "undecided"), ((1.0, 2.0), 10.0, "differs")],
)
def test_norm_and_noise(first, second, verdict):
    table = pd.DataFrame({"turned, as it comes (°)": first, "turned, restored (°)": second})
    assert findings.norm_effect(table.assign(**{"norm, × original": 1.5})).verdict == verdict
    noise = pd.DataFrame({"noise alone (°)": first, "step alone (°)": second})
    assert findings.noise_effect(noise).verdict == verdict
    silent = noise.assign(**{"noise alone (°)": 0.0})
    assert findings.noise_effect(silent).verdict == "not comparable"


# ----------------------------------------------------------------------------- words about code


def test_docstrings_spell_symbols_as_the_code_does(root):
    """A linter once made capitals of the first letters of formulas: "M - r", "X / |x|"."""
    for path in (root / "sing_utils").rglob("*.py"):
        found = re.findall(r'"""([A-Z] [-/] .*)', path.read_text(encoding="utf-8"))
        assert found == [], path.name


# ------------------------------------------------------------------------------------ html

CLAIM = Published().claims[0]


def test_html_escapes_what_it_shows():
    evil = "a & b <script>"
    for shown in (
        box(Finding(evil, "agrees", evil, evil), CLAIM.model_copy(update={"claim": evil, "rule": evil})),
        box(Finding(evil)),
    ):
        assert "<script>" not in shown
        assert "a &amp; b &lt;script&gt;" in shown


def test_a_finding_with_a_claim_is_a_box_and_one_without_is_a_sentence():
    shown = box(Finding("m", "not comparable", "9 photos"), CLAIM)
    assert '<span class="sing-pill sing-not-comparable">not comparable</span>' in shown
    assert CLAIM.claim in shown
    rule = re.search(r"<details>.*</details>", shown)[0]
    assert CLAIM.rule in rule
    assert "9 photos" in rule
    assert box(Finding("m")) == '<p class="sing-said">m</p>'


@pytest.mark.parametrize(
    ("low", "high", "verdict"), [(0.75, 0.9, "agrees"), (0.4, 0.6, "differs"), (0.6, 0.8, "undecided")]
)
def test_failures_are_judged_by_the_area_of_the_attribute_score(low, high, verdict):
    rows = [
        {"classifier": "x", "score": s, "value": 0.5, "photos": 90, "misnamed": 9} for s in ("|AS|", "IS")
    ]
    table = pd.DataFrame(rows).assign(low=[low, 0.9], high=[high, 1.0])  # IS does not decide
    assert findings.failures(table).verdict == verdict
    assert findings.failures(table[:0]).verdict == "not run"


@pytest.mark.parametrize(
    ("spread", "verdict"), [((9, 9), "differs"), ((9, 0), "undecided"), ((0, 0), "agrees")]
)
def test_a_comparison_is_fair_if_no_basis_changes_the_order(spread, verdict):
    """Classifiers whose IS and |AS| are 1 and 5 as given; the spread is what bases add to the first."""
    bases = ["as given", "random 1", "random 2"]
    rows = [
        {"classifier": c, "basis": b, "IS": at + spread[0] * i * more, "|AS|": at + spread[1] * i * more}
        for c, at, more in (("a", 1.0, 1), ("b", 5.0, 0.1))
        for i, b in enumerate(bases)
    ]
    tried = pd.DataFrame(rows).assign(contrast=0.0)
    kept = pd.DataFrame({"score": ["IS", "|AS|"], "order kept": 0.5, "by chance": 0.5, "combinations": 4})
    assert findings.basis_orders(kept, tried).verdict == verdict
    assert findings.basis_orders(kept, tried[tried["classifier"] == "a"]).verdict == "not run"


@pytest.mark.parametrize(
    ("ignored", "words"),
    [((5.0, 9.0), "less than the 22 %"), ((30.0, 40.0), "more than the"), ((5.0, 40.0), "beside the")],
)
def test_the_first_opening_compares_with_chance(ignored, words):
    heads = pd.DataFrame({"ignored (%)": ignored, "by chance (%)": 22.0, "top-1 changes": 0})
    said = openings.setup(heads.assign(**{"logits moved": 1e-9, "bound": 1e-6})).measured
    assert f"of a feature's energy, {words}" in said
