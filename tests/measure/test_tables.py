"""The tables: small ones by hand, statistics against scipy, and scores of a planted run."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
import torch
from planted_run import PlantedRun
from scipy import stats

from sing_utils.measure import tables
from sing_utils.method.scores import angle
from sing_utils.models.classifiers import LinearHead
from sing_utils.runs.run import _evaluation


@pytest.fixture
def run(tmp_path):
    return PlantedRun(tmp_path)


def without_null(f):
    return f * torch.tensor([1.0, 1.0, 0.0, 0.0], dtype=torch.float64)


# --------------------------------------------------------------------------------- set-up


def test_photo_counts(run):
    run.index.loc[3:, "evaluation"] = False
    table = tables.photo_counts(run).set_index("class")
    assert table.loc["zero"].tolist() == [19, 1, ""]
    assert table.loc["first"].tolist() == [19, 1, "yes"]
    note = tables.low_resolution_note(run)
    assert "photographs of first were" in note
    run.profile.low_resolution = []
    assert tables.low_resolution_note(run) == ""


@pytest.mark.parametrize(
    ("splits", "expected"),
    [
        (["fit", "evaluate", "val", "train", ""], [False, True, True, False, False]),
        ([""] * 4, [True, False, True, False]),  # hashes 00000000, 00000001, 00000005, ffffffff - 1
    ],
)
def test_evaluation_rows(splits, expected):
    hashes = ["00000000", "00000001", "00000005", "fffffffe", "0"][: len(splits)]
    index = pd.DataFrame({"split": splits, "label": "x", "sha256": [h.ljust(64, "a") for h in hashes]})
    assert _evaluation(index).tolist() == expected


def test_a_small_class_keeps_two_photos_to_evaluate():
    """Of those whose hashes would leave it none or one; and splits that are all of one kind are none."""
    big = [f"{i:08x}" for i in range(20)]  # every fifth
    small = ["00000003", "00000001", "00000008", "00000006"]
    index = pd.DataFrame({"label": ["big"] * 20 + ["small"] * 4 + ["pair"] * 2})
    index["sha256"] = [*big, *small, "00000002", "00000001"]
    index["split"] = "train"
    chosen = _evaluation(index)
    assert chosen[index["label"] == "big"].tolist() == [i % 5 == 0 for i in range(20)]
    assert chosen[index["label"] == "small"].tolist() == [True, True, False, False]
    assert chosen[index["label"] == "pair"].tolist() == [False, True]


# ---------------------------------------------------------------------------- translators


def test_translators_are_judged_on_photos_that_they_never_saw(run):
    fits, cosines = tables.translator_fits(run), tables.translator_cosines(run)
    methods = [["one", "ridge"], ["one", "adamw"], ["two", "ridge"], ["two", "adamw"]]
    assert fits[["classifier", "method"]].to_numpy().tolist() == methods
    ridge = fits[fits["method"] == "ridge"]
    assert (ridge["photos to evaluate"] == 20).all()
    assert (ridge["cosine"] > 0.999).all()
    assert (ridge["R²"] > 0.999).all()
    assert len(cosines) == 40
    spread = cosines.groupby("classifier")["cosine"].std()
    assert ridge["cosine sd"].to_numpy() == pytest.approx(spread[ridge["classifier"]].to_numpy(), abs=1e-6)


def test_losses_stand_beside_the_exact_minimum(run):
    table, curves = tables.compare_losses(run.disturbed(1.0), "one")
    assert table["loss"].tolist() == ["exact", "mse", "cosine", "both"]
    t = table.set_index("loss")
    assert t.loc["exact", ["gain", "ratio"]].isna().all()
    for loss in ("mse", "cosine", "both"):
        own = t.loc[loss]
        assert own["gain"] == pytest.approx(own["cosine"] - t.loc["exact", "cosine"], abs=1e-6)
        assert own["ratio"] == pytest.approx(own["squared error"] / t.loc["exact", "squared error"], rel=1e-6)
        assert own["gain low"] < own["gain"] < own["gain high"]
        assert own["ratio low"] < own["ratio"] < own["ratio high"]
    assert curves.groupby("loss")["epoch"].max().to_dict() == {"mse": 2, "cosine": 2, "both": 2}
    assert not t.loc[["mse", "cosine", "both"], "converged"].any()  # stopped by the profile's last epoch


# ---------------------------------------------------------------------------------- scores


def test_failures_are_photos_that_the_head_misnames(run, monkeypatch):
    scores = tables.photo_scores(run)
    assert tables.failures(run, scores).empty  # no output is called "zero" or "first"
    head = run.head("one")
    labelled = LinearHead(head.weight, head.bias, ("Zero, or nought", "first"), head.sha256, 0.0)
    monkeypatch.setattr(run, "head", lambda name: labelled)
    table = tables.failures(run, scores).set_index(["classifier", "score"])
    own = scores[scores["classifier"] == "one"]
    photos = run.photos("one")
    wrong = head.logits(photos.f).argmax(1).numpy() != (own["class"] == "first").to_numpy()
    sizes = own["AS"].abs().to_numpy()
    pairs = [(a > b) + (a == b) / 2 for a in sizes[wrong] for b in sizes[~wrong]]
    row = table.loc["one", "|AS|"]
    assert row["value"] == pytest.approx(np.mean(pairs))
    assert row["low"] < row["value"] < row["high"]
    assert (row["misnamed"], row["photos"]) == (wrong.sum(), 20)


def test_photo_scores_equal_the_definitions(run):
    table = tables.photo_scores(run)
    assert len(table) == 40
    for name in ("one", "two"):
        own = table[table["classifier"] == name].set_index("path")
        for i in (0, 5, 36):
            z, z_tilde = run.maps[name] @ run.f[i], run.maps[name] @ without_null(run.f[i])
            text = torch.eye(3, dtype=torch.float64)[run.classes.index(run.index["class"][i])]
            row = own.loc[f"{i}.png"]
            assert row["AS"] == pytest.approx(float(angle(z, text) - angle(z_tilde, text)), abs=1e-9)
            assert row["IS"] == pytest.approx(float(angle(z, z_tilde)), abs=1e-9)
            assert row["class"] == run.index["class"][i]
            whole, logits = run.beyond(name)(run.f[i])
            turned = float(angle(whole, text) - angle(logits, text))
            assert row["AS beyond"] == pytest.approx(turned, abs=1e-9)
            assert row["IS beyond"] == pytest.approx(float(angle(whole, logits)), abs=1e-9)
    assert table["cosine"].min() > 1 - 1e-9  # z is exactly T f here


def test_at_the_chosen_ridge_the_sensitivity_is_that_of_the_kept_translator(run):
    run.disturbed(1.0)  # or other rows would give no other map
    run.seed = run.profile.seed = 1
    run.profile.held_out = 0.4  # notebook 02 with other parameters
    table = tables.ridge_sensitivity(run, factors=(1, 100)).set_index(["classifier", "ridge, × chosen"])
    scores = tables.photo_scores(run)
    spreads = tables.spreads(scores, run).set_index("classifier")
    for name in ("one", "two"):
        own = table.loc[(name, 1)]
        for column in ("median IS (°)", "median |AS| (°)"):
            assert own[column] == pytest.approx(spreads.loc[name, column], abs=1e-9)
        cosine = scores[scores["classifier"] == name]["cosine"].mean()
        assert own["cosine of Tf and z"] == pytest.approx(cosine, abs=1e-12)
        assert table.loc[(name, 100), "cosine of Tf and z"] != pytest.approx(cosine, abs=1e-4)


def test_concept_angles_equal_the_definitions(run):
    table = tables.concept_angles(run)
    assert table[["classifier", "concept"]].to_numpy().tolist() == [
        ["one", "east"], ["one", "north"], ["two", "east"], ["two", "north"],
    ]  # fmt: skip
    f = run.f[[0, 4, 8, 12, 16, 20, 24, 28, 32, 36]]  # evaluation photos of class zero
    east = torch.tensor([1.0, 0.0, 0.0], dtype=torch.float64)
    before = angle(f @ run.maps["one"].mT, east)
    after = angle(without_null(f) @ run.maps["one"].mT, east)
    row = table.iloc[0]
    assert row["photos"] == 10
    assert row["before"] == pytest.approx(float(before.mean()))
    assert row["after"] == pytest.approx(float(after.mean()))
    assert row["AS"] == pytest.approx(float((before - after).mean()))
    low, _ = stats.t.interval(0.9, 9, (before - after).mean(), stats.sem(before - after))
    assert row["margin"] == pytest.approx(row["AS"] - low)
    assert row["p"] == pytest.approx(stats.ttest_1samp(before - after, 0.0).pvalue)  # this T is exact
    assert (table["q"] >= table["p"]).all()
    low, _ = stats.t.interval(0.9, 9, before.mean(), stats.sem(before))
    assert row["before margin"] == pytest.approx(row["before"] - low)
    places = table[table["classifier"] == "one"].set_index("concept")
    assert places["place"].tolist() == places["before"].rank().tolist()
    assert (places["place low"] <= places["place"]).all()
    assert (places["place"] <= places["place high"]).all()


def test_sizes_are_of_the_means_of_the_concepts(run):
    sizes = tables.concept_sizes(run)
    assert sizes["photos"].tolist() == [10, 10]
    f, texts = run.f[::4][:10], torch.eye(3, dtype=torch.float64)[:2]  # photos of class zero; east, north
    for name in ("one", "two"):
        T = run.maps[name].mT
        AS = torch.stack([angle(f @ T, t) - angle(without_null(f) @ T, t) for t in texts], -1)  # (10, 2)
        noise = (AS.std(0) ** 2 / 10).mean()
        row = sizes[sizes["classifier"] == name].iloc[0]
        assert row["value"] == pytest.approx(float(max((AS.mean(0) ** 2).mean() - noise, 0)) ** 0.5)
        assert row["low"] <= row["value"] <= row["high"]


# --------------------------------------------------------------------------------- spreads

HAND = pd.DataFrame(
    {
        "classifier": ["a"] * 3,
        "class": ["c"] * 3,
        "label": ["l1"] * 3,
        "AS": [1.0, -2.0, 6.0],
        "contrast": [0.5, -1.5, 4.0],
        "IS": [4.0, 2.0, 9.0],
        "AS beyond": [0.1, -0.3, 0.2],
        "contrast beyond": [0.1, 0.0, 0.2],
    }
)


def test_intervals_hold_their_value_and_follow_the_seed(run):
    scores = tables.photo_scores(run)
    table = tables.spreads(scores, run)
    assert (table["ratio low"] < table["IS / |AS|"]).all()
    assert (table["IS / |AS|"] < table["ratio high"]).all()
    pd.testing.assert_frame_equal(table, tables.spreads(scores, run))
    run.seed = run.profile.seed = 1
    assert not table.equals(tables.spreads(scores, run))


@pytest.fixture
def exact(monkeypatch):
    """Translators that every refit gives again: what is left are the errors of photos."""

    def refitted(run, name, photos):
        return {c: np.stack([photos[c]] * 4) for c in photos.select_dtypes("floating")}

    monkeypatch.setattr(tables, "refitted", refitted)
    return refitted


def test_spreads_by_hand(run, exact):
    row = tables.spreads(HAND, run).iloc[0]
    assert row["mean AS (°)"] == pytest.approx(5 / 3)
    assert row["median |AS| (°)"] == 2.0
    assert row["median IS (°)"] == 4.0
    assert row["sd AS (°)"] == pytest.approx(np.std([1, -2, 6], ddof=1))
    assert row["log variance ratio"] == pytest.approx(np.log(np.var([4, 2, 9]) / np.var([1, -2, 6])))
    assert row["mean contrast (°)"] == pytest.approx(1.0)
    assert row["IS / |AS|"] == pytest.approx(5 / 3)
    assert row["contrast low"] < 1.0 < row["contrast high"]
    assert row["mean contrast, beyond (°)"] == pytest.approx(0.1)


def test_intervals_hold_the_translators_error(run, exact, monkeypatch):
    scores = tables.photo_scores(run)
    photos = tables.spreads(scores, run)

    def refitted(run, name, own):
        moved = np.array([50.0, -50.0, 50.0, -50.0])[:, None]  # each half moves all contrasts alike
        return {c: x + moved * (c == "contrast") for c, x in exact(run, name, own).items()}

    monkeypatch.setattr(tables, "refitted", refitted)
    both = tables.spreads(scores, run)
    wide = both["contrast high"] - both["contrast low"]
    assert (wide > photos["contrast high"] - photos["contrast low"] + 0.2).all()
    assert (wide / 2 > 50 * stats.norm.ppf(0.95)).all()  # the run's intervals are of 90 %
    assert both["ratio high"].tolist() == photos["ratio high"].tolist()


def test_refits_of_photos_are_found_by_path(run):
    scores = tables.photo_scores(run)
    own = scores[scores["classifier"] == "one"][::-3]
    found = tables.refitted(run, "one", own)
    for column in ("AS", "contrast", "IS"):  # this translator is exact, so is every refit
        assert found[column].shape == (20, len(own))
        np.testing.assert_allclose(found[column], np.stack([own[column]] * 20), atol=1e-4)


def test_classes_that_were_not_enlarged_stand_beside_all(run):
    scores = tables.photo_scores(run)
    table = tables.enlarged_or_not(scores, run)
    assert table["classes"].tolist() == ["2, all"] * 2 + ["1, not enlarged"] * 2
    own = scores[(scores["classifier"] == "two") & (scores["class"] == "zero")]
    assert table["median IS (°)"].iloc[3] == pytest.approx(own["IS"].median())
    run.profile.low_resolution = []
    assert len(tables.enlarged_or_not(scores, run)) == 2


def test_class_medians(run, exact):
    scores = pd.concat([HAND, HAND.assign(**{"class": "d", "label": "l0", "AS": 5.0})])
    medians = tables.class_medians(scores, run).set_index("class")
    assert medians.loc["c", "value"] == 2.0  # of 1, 2, 6
    assert medians.loc["d", ["value", "low", "high"]].tolist() == [5.0, 5.0, 5.0]
    assert medians.loc["c", "beyond the logits"] == pytest.approx(0.2)
    assert medians["enlarged"].to_dict() == {"c": True, "d": False}


# ----------------------------------------------------------------------- rank correlation


def test_row_spearman_equals_scipys_with_and_without_ties(rng):
    a = rng.integers(0, 6, (50, 9)).astype(float)
    b = rng.standard_normal((50, 9))
    b[10:] = np.round(b[10:])
    expected = [stats.spearmanr(x, y).statistic for x, y in zip(a, b, strict=True)]
    np.testing.assert_allclose(tables._row_spearman(a, b), expected, atol=1e-12)


def class_scores(orders, *, photos=5, spread=0.01, seed=0):
    """|AS| of each class near a given level, one list of levels a classifier; signs at random."""
    rng = np.random.default_rng(seed)
    rows = [
        (name, f"class {k}", rng.choice([-1, 1]) * (level + spread * rng.standard_normal()))
        for name, levels in orders.items()
        for k, level in enumerate(levels)
        for _ in range(photos)
    ]
    table = pd.DataFrame(rows, columns=["classifier", "class", "AS"])
    return table.assign(label=table["class"])


def test_rank_correlations_of_planted_orders(run, exact):
    levels = list(range(1, 9))
    scores = class_scores({"a": levels, "b": levels, "c": levels[::-1]})
    table = tables.rank_correlations(scores, run).set_index(["a", "b"])
    assert table.loc[("a", "b"), "rho"] == pytest.approx(1.0)
    assert table.loc[("a", "c"), "rho"] == pytest.approx(-1.0)
    assert (table["classes"] == 8).all()
    assert (table["p"] == 0.01).all()  # the least of 199 permutations, two-sided: 2 / 200
    run.profile.low_resolution = ["class 0", "class 7"]
    assert tables.rank_correlations(scores, run)["not enlarged"].iloc[1] == pytest.approx(-1.0)
    assert table.loc[("a", "b"), "low"] == pytest.approx(1.0)  # the classes are far apart
    mixed = class_scores({"a": levels, "b": levels, "c": [3, 1, 4, 8, 2, 7, 5, 6]})
    tested = tables.rank_correlations(mixed, run)
    assert tested["p"].nunique() > 1
    assert tested["q"].tolist() == pytest.approx(stats.false_discovery_control(tested["p"]).tolist())
    blurred = class_scores({"a": levels, "b": levels}, spread=3.0)
    row = tables.rank_correlations(blurred, run).iloc[0]
    assert -1 <= row["low"] < row["high"] <= 1
    assert row["high"] - row["low"] > 0.2


def test_rank_correlations_match_classes_by_name_not_by_place(run, exact):
    levels = {"a": [1, 2, 3, 4], "b": [1, 2, 3, 4]}
    scores = class_scores(levels)
    turned = pd.concat([scores[scores["classifier"] == "a"], scores[scores["classifier"] == "b"][::-1]])
    assert tables.rank_correlations(turned, run)["rho"].iloc[0] == pytest.approx(1.0)


def test_rank_correlations_of_one_classifier_are_an_empty_table(run, exact):
    table = tables.rank_correlations(class_scores({"a": [1, 2]}), run)
    assert table.empty
    assert "rho" in table
