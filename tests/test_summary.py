"""The introduction's findings and the claims under controls: other numbers, other words."""

from __future__ import annotations

import json

import numpy as np
import pandas as pd
import pytest

from sing_utils import summary as module
from sing_utils.claims_controls import COLUMNS, ROWS, claims_under_controls
from sing_utils.controls import SOFTMAX, STATISTICS, SUBSPACES
from sing_utils.results import Results
from sing_utils.summary import REHEARSAL, SCALE, summary

NAMES = ["one", "two"]


def control(place=50.0, q=0.8, **more):
    """Rows of `subspace_control`, all at one place."""
    rows = []
    for name in NAMES:
        for kind in SUBSPACES:
            for statistic in STATISTICS:
                row = {"classifier": name, "kind": kind, "statistic": statistic, "chance": 1.0, "low": 0.5}
                row |= {"null space": 1.0 + (place - 50) / 100, "high": 1.5, "percentile": place, "q": q}
                rows.append(row | {"p": q, "draws": 99})
    return pd.DataFrame(rows)


def tables():
    pair = {"first": "one", "second": "two", "photos": 50, "difference": 0.1}
    sure = {"low": 0.05, "high": 0.2, "low by class": 0.01, "high by class": 0.3}
    spread = {"contrast low": -0.3, "contrast high": -0.1, "mean contrast (°)": -0.2, "median |AS| (°)": 0.4}
    translator = {
        "R², null part alone": 0.5,
        "halves: correlation of AS": 0.4,
        "halves: rank correlation of classes": 0.6,
        "all photos: correlation of AS": 0.55,
        "all photos: rank correlation of classes": 0.7,
        "blind: mean contrast (°)": 0.0,
        "blind: sd of contrast (°)": 0.02,
        "q of contrast": 0.03,
        "shuffled: median |AS| (°)": 0.5,
    }
    prompt = {"p of the names": 0.4}
    classes = [(-0.2, 0.001), (-0.1, 0.03), (0.2, 0.002), (0.0, 0.9)]
    agreement = {"factor": "all", "statistic": "ROC area", "worlds": 5}
    planted = {"condition": "as it should be", "of": 5}
    answers = [
        {"seed": 0, "head": h, "control": k, "score": s, "percentile": p, "value": 0.7, "planted": 0.6}
        for h, p in (("clean", 99.0), ("leaky", 40.0))
        for k, s in (
            *((k, s) for k in SUBSPACES for s in ("|AS|", "contrast")),
            ("shuffled translator", "contrast"),
        )
    ]
    answers += [
        answers[0] | {"head": h, "control": c} for h in ("clean", "leaky") for c in ("halves", "translator")
    ]
    worded = [
        {"classifier": n, "wording": w, "class": "all", "median |AS| (°)": v}
        for w, values in (("a", (1, 2)), ("b", (1, 3)), ("c", (3, 1)))
        for n, v in zip(NAMES, values, strict=True)
    ]
    return {
        "certificates": pd.DataFrame({"top-1 changes": [0, 0], "photos": [100, 100]}),
        "null_energy": pd.DataFrame({"classifier": NAMES, "share": [8.0, 10.0]}),
        "random_energy": pd.DataFrame({"classifier": NAMES, "share": [21.0, 22.0]}),
        "translator_fits": pd.DataFrame({"classifier": NAMES, "method": "ridge", "R²": [0.7, 0.74]}),
        "translator_control": pd.DataFrame([{"classifier": n} | translator for n in NAMES]),
        "spreads": pd.DataFrame([{"classifier": n} | spread for n in NAMES]),
        "subspace_control": control(),
        "classifier_differences": pd.DataFrame(
            [pair | sure | {"statistic": s} for s in ("mean contrast (°)", "log of mean IS / mean |AS|")]
        ),
        "class_scores": pd.DataFrame(
            [
                {"classifier": "one", "class": str(i), "contrast": c, "q": q}
                for i, (c, q) in enumerate(classes)
            ]
        ),
        "steering": pd.DataFrame(
            [
                {"classifier": n, "direction": d, "AS mean": a, "IS": 40.0, "target": "jellyfish"}
                for n in NAMES
                for d, a in (("toward the text", 11.0), ("random", 0.1))
            ]
        ),
        "steering_subspace_control": control(place=20.0).query("statistic == 'AS'"),
        "planted_agreement": pd.DataFrame(
            [
                agreement | {"score": "|AS|", "value": 0.1, "low": 0.05, "high": 0.2},
                agreement | {"score": "contrast", "value": 1.0, "low": 0.99, "high": 1.0},
            ]
        ),
        "planted_conclusions": pd.DataFrame(
            [
                planted | {"short": "leaky by |AS|", "worlds": 0},
                planted | {"short": "leaky by contrast", "worlds": 5},
            ]
        ),
        "planted_controls": pd.DataFrame(answers),
        "prompt_control": pd.DataFrame([{"classifier": n} | prompt for n in NAMES]),
        "wordings": pd.DataFrame(worded),
        "rank_control": pd.DataFrame(
            [
                {"classifier": n, "rule": r, "median |AS| (°)": v, "median IS (°)": v}
                for r, v in (("book", 5.0), (SOFTMAX, 12.0))
                for n in NAMES
            ]
        ),
        "reproduction": pd.DataFrame({"verdict": ["agrees"] * 3 + ["not comparable"] * 5}),
    }


@pytest.fixture
def make(tmp_path):
    def write(change=None, record=None):
        found = tables()
        if change:
            change(found)
        folder = tmp_path / "run" / "results"
        folder.mkdir(parents=True, exist_ok=True)
        for old in folder.iterdir():
            old.unlink()
        for name, table in found.items():
            table.to_parquet(folder / f"{name}.parquet")
        (folder / "run.json").write_text(json.dumps(record or {}))
        return Results(folder)

    return write


# --------------------------------------------------------------------------------- summary


def test_one_bullet_a_finding_and_what_the_words_mean(make):
    text = summary(make())
    assert text.count("\n- ") == len(module._BULLETS) == 10
    assert text.startswith(SCALE)
    assert "nan" not in text.lower().split()


def test_a_rehearsal_has_no_findings(make):
    assert summary(make(record={"rehearsal": True})) == REHEARSAL
    assert "no results yet" in summary(make(lambda t: t.clear()))


def put(table, column, value, where=None):
    def change(found):
        rows = slice(None) if where is None else found[table].query(where).index
        found[table].loc[rows, column] = value

    return change


CHANGED = [
    (put("certificates", "top-1 changes", 3), "none of 200 features", "6 of 200 features"),
    (put("null_energy", "share", 30.0), "less than in random", "more than in random"),
    (
        put("translator_control", "all photos: correlation of AS", 0.9),
        "AS of a single photo cannot be relied on",
        "AS of a single photo can be relied on",
    ),
    (put("translator_control", "q of contrast", 0.001), "probably yes for all", "clearly yes for all"),
    (
        put("translator_control", "q of contrast", 0.1),
        "probably yes for all",
        "the answer: cannot be told for all",
    ),
    (
        put("spreads", "mean contrast (°)", 0.5, "classifier == 'two'"),
        "probably yes for all",
        "probably yes for one, probably the opposite for two",
    ),
    (
        put("subspace_control", ["null space", "q"], [0.2, 0.001], "statistic == 'contrast'"),
        "of the class (contrast)? Cannot be told for all",
        "of the class (contrast)? Clearly more for all",
    ),
    (
        put(
            "subspace_control", ["null space", "q"], [1.9, 0.03], "statistic == 'IS' and classifier == 'two'"
        ),
        "turn farther or less far? Cannot be told for all",
        "turn farther or less far? Cannot be told for one, probably farther for two",
    ),
    (
        put("classifier_differences", "low by class", -0.1),
        "in mean contrast clearly 1, probably 0",
        "in mean contrast clearly 0, probably 1",
    ),
    (
        put("class_scores", "q", 0.5),
        "1 clearly leak and 1 probably; 1 clearly",
        "0 clearly leak and 0 probably; 0 clearly",
    ),
    (
        put("steering_subspace_control", ["null space", "q"], [0.5, 0.02]),
        "(the null space cannot be told for all)",
        "(the null space probably less far for all)",
    ),
    (
        put("planted_agreement", ["value", "low", "high"], 1.0, "score == '|AS|'"),
        "so |AS| alone should not be relied on",
        "which does not speak against |AS|",
    ),
    (put("reproduction", "verdict", "differs"), "3 agree, 5 not comparable", "8 differ"),
]


@pytest.mark.parametrize(("change", "before", "after"), CHANGED)
def test_other_numbers_other_words(make, change, before, after):
    assert before in summary(make())
    changed = summary(make(change))
    assert before not in changed
    assert after in changed


@pytest.mark.parametrize("name", sorted(tables()))
def test_a_missing_table_costs_its_bullets_only(make, name):
    text = summary(make(lambda t: t.pop(name)))
    assert text.count("\n- ") >= len(module._BULLETS) - 2


# ------------------------------------------------------------------ claims under controls


def words(results, control, claim=""):
    table = claims_under_controls(results)
    return table[(table["control"] == control) & table["claim"].str.contains(claim, regex=False)].iloc[0]


def test_every_claim_under_every_control_has_a_row(make):
    table = claims_under_controls(make())
    assert list(table.columns) == COLUMNS
    assert len(table) == len(ROWS)
    assert not table.duplicated(["claim", "control"]).any()
    assert claims_under_controls(make(lambda t: t.clear()))["embedded"].eq("").all()


def test_words_come_from_the_numbers(make):
    results = make()
    row = words(results, "A score with a sign: contrast")
    assert row["embedded"].startswith("2 of 2 classifiers leak")
    assert "one −0.20 ± 0.02° (corrected p = 0.030)" in row["embedded"]
    assert row["planted"].endswith("larger |AS| in 0 of 5 worlds, and the lower contrast in 5 of 5.")
    row = words(results, "Random subspaces of the same dimension", "|AS|")
    assert "|AS|: above them for 0 of 2 classifiers, below for 0, not told from them for 2" in row["embedded"]
    assert "contrast at percentile 99 (clean), 40 (leaky head)" in row["planted"]
    row = words(results, "Other wordings of the prompt")
    assert row["embedded"] == "The order by median |AS| is that of the first in 1 of 2 other wordings."
    row = words(results, "Other classes")
    assert row["embedded"].startswith("1 of 1 pairs of classifiers differ in mean contrast")
    row = words(results, "What softmax ignores")
    assert "one 5.0° without and 12.0° with it" in row["embedded"]
    row = words(results, "Directed steps in random subspaces")
    assert "for 2 of 2 classifiers less than the median one (percentiles 20, 20)" in row["embedded"]


def test_other_numbers_other_claims(make):
    above = make(put("subspace_control", ["null space", "q"], [1.9, 0.01], "statistic == '|AS|'"))
    row = words(above, "Random subspaces of the same dimension", "|AS|")
    assert "|AS|: above them for 2 of 2 classifiers, below for 0" in row["embedded"]
    few = make(put("class_scores", "q", 0.9))
    assert words(few, "A test of each class")["embedded"].startswith(
        "Of 4 pairs of classifier and class 0 leak"
    )
    none = make(put("class_scores", "q", np.nan))
    assert words(none, "A test of each class")["embedded"].startswith("Of 0 pairs")
