"""Tables of the controls, in a run whose null space holds what is known to be there."""

from __future__ import annotations

import re
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch
from planted_run import PlantedRun
from scipy import stats

from sing_utils import Translator
from sing_utils.evidence.controls import SOFTMAX, STATISTICS, SUBSPACES
from sing_utils.evidence.intervals import false_discovery, sure_mean
from sing_utils.measure import controls, tables
from sing_utils.measure import steering as tables_steering
from sing_utils.method.scores import angle
from sing_utils.models.classifiers import LinearHead
from sing_utils.show import charts
from sing_utils.show import controls as shown_controls

CLASSES = ["ant", "bee", "cow", "doe", "elk"]
M, WIDTH, N = 14, 9, 200


class ControlledRun(PlantedRun):
    """Five classes. "one" sees what tells them apart; of "two" it lies in the null space."""

    def __init__(self, folder, *, seed=0, noise=0.1):
        super().__init__(folder)
        g = torch.Generator().manual_seed(seed)
        self.profile.targets, self.profile.degrees, self.source_class = ["bee"], 4.0, "ant"
        self.profile.prompt_template = "an image of a {}"
        self.profile.concepts = self.profile.phrases = ["a cow and grass", "a doe and snow"]
        self.class_names = {c[0]: c for c in CLASSES}
        own = torch.arange(N) % 5
        codes = torch.zeros(5, M, dtype=torch.float64)
        codes[:, :4] = torch.randn(5, 4, generator=g, dtype=torch.float64)
        self.f = 0.5 + 3 * codes[own] + torch.randn(N, M, generator=g, dtype=torch.float64)
        self.true = torch.randn(WIDTH, M, generator=g, dtype=torch.float64)
        self.z = self.f @ self.true.mT + noise * torch.randn(N, WIDTH, generator=g, dtype=torch.float64)
        self.index = pd.DataFrame(
            {
                "path": [f"{i}.png" for i in range(N)],
                "label": [CLASSES[i][0] for i in own],
                "class": [CLASSES[i] for i in own],
                "evaluation": [i % 20 < 10 for i in range(N)],
            }
        )
        texts = (codes - codes.mean(0)) @ self.true.mT
        self.embedded = dict(zip(CLASSES, texts, strict=True))
        self.encoder = SimpleNamespace(towers=("planted",))
        self.other = None

    def head(self, name):
        rows = range(6) if name == "one" else range(4, 10)
        W = torch.eye(M, dtype=torch.float64)[list(rows)] * torch.arange(1.0, 7.0)[:, None]
        return LinearHead(W, torch.zeros(6, dtype=torch.float64), tuple("uvwxyz"), "ab" * 32, 1e-7)

    def embeddings(self, name):
        return self.z

    def judge(self, name):
        return SimpleNamespace(encoder=self.encoder, encode_text=self._encode, towers_alone=dict)

    def _encode(self, texts):
        """The class that a text names, turned a little by its other words."""
        g = torch.Generator().manual_seed(3)
        shift = torch.randn(WIDTH, generator=g, dtype=torch.float64)
        names = [next(c for c in CLASSES if c in t) for t in texts]
        return torch.stack(
            [self.embedded[c] + 0.02 * len(t) * shift for c, t in zip(names, texts, strict=True)]
        )

    def texts(self, name, phrases):
        return self._encode(phrases)

    def translator(self, name):
        evaluation = torch.from_numpy(self.index["evaluation"].to_numpy(copy=True))
        return Translator.fit(self.f[~evaluation], self.z[~evaluation], method="ridge")

    def with_encoder(self, name):
        return self.other


@pytest.fixture
def run(tmp_path):
    return ControlledRun(tmp_path)


def by(table, **values):
    for column, value in values.items():
        table = table[table[column] == value]
    return table


# ---------------------------------------------------------------------------- the subspaces


def test_the_null_space_among_random_ones(run):
    run.profile.control_draws = 99
    draws = controls.subspace_draws(run)
    assert len(draws) == 2 * 2 * 100
    table = controls.subspace_control(draws)
    assert len(table) == 2 * 2 * len(STATISTICS)
    assert set(table["draws"]) == {99}
    place = table.set_index(["classifier", "kind", "statistic"])["percentile"]
    assert place["two", SUBSPACES[0], "contrast"] == 0.0  # holds all that tells the classes apart
    assert place["one", SUBSPACES[0], "contrast"] == 100.0
    assert place["two", SUBSPACES[1], "contrast"] < 50.0 < place["one", SUBSPACES[1], "contrast"]
    null = by(draws, classifier="two", draw=-1)["energy"].iloc[0]
    matched = by(draws, classifier="two", kind=SUBSPACES[1])
    assert matched["energy"].mean() == pytest.approx(null, rel=0.15)
    row = by(table, classifier="two", kind=SUBSPACES[0], statistic="IS").iloc[0]
    drawn = by(draws, classifier="two", kind=SUBSPACES[0]).query("draw >= 0")["IS"]
    assert (row["low"], row["chance"], row["high"]) == pytest.approx(
        drawn.quantile([0.025, 0.5, 0.975]).tolist()
    )


def test_steps_measured_in_other_words(run):
    table = tables_steering.steered_wordings(run, 4.0)
    assert table["prompt"].tolist() == ["an image of a bee", "a bee"] * 2
    shown = shown_controls.steered_wordings(table)
    assert shown["prompt"].tolist() == ["an image of a bee", "a bee"]


# -------------------------------------------------------------------------- the translator


def test_what_the_translator_knows(run):
    table = controls.translator_control(run).set_index("classifier")
    assert (table["R², whole"] > 0.95).all()
    assert table.loc["two", "R², null part alone"] > table.loc["one", "R², null part alone"] + 0.2
    real = tables.photo_scores(run).groupby("classifier")
    assert table["mean contrast (°)"].tolist() == pytest.approx(real["contrast"].mean().tolist())
    assert (table["blind: median IS (°)"] < 0.5 * table["median IS (°)"]).all()
    noisy = controls.translator_control(ControlledRun(run.folder, noise=6.0)).set_index("classifier")
    assert (noisy["blind: median |AS| (°)"] > 3 * table["blind: median |AS| (°)"]).all()
    assert shown_controls.translators(table.reset_index()).shape == (9, 3)


def test_scores_of_fewer_photos(run):
    table = controls.photo_curve(run, parts=(8, 2, 1))
    assert set(table["photos"]) == {11, 45, 90}
    whole = by(table, classifier="two", photos=90).set_index("score")["value"]
    own = by(tables.photo_scores(run), classifier="two")
    assert whole["mean contrast"] == pytest.approx(own["contrast"].mean(), abs=1e-4)
    assert whole["median |AS|"] == pytest.approx(own["AS"].abs().median(), abs=1e-4)
    few = by(table, score="median IS, beyond the logits")["photos"]
    assert set(few) == {45, 90}  # 11 photos do not determine 14 numbers
    charts.photo_curve(table).to_dict()


# ----------------------------------------------------------------------------- the prompts


def test_wordings_by_hand(run):
    table = controls.wording_scores(run)
    assert len(table) == 2 * 2 * 6  # classifiers, wordings, classes and all
    photos, T, text = run.photos("one").of("cow"), run.translator("one"), run._encode(["a cow"])[0]
    expected = angle(T(photos.f), text) - angle(T(run.spaces("one").remove_null(photos.f)), text)
    row = by(table, classifier="one", wording="a {}", **{"class": "cow"}).iloc[0]
    assert row["mean AS (°)"] == pytest.approx(float(expected.mean()))
    assert row["median |AS| (°)"] == pytest.approx(np.median(expected.abs()))
    assert row["photos"] == 20
    whole = by(table, classifier="one", wording="a {}", of=controls.ALL).iloc[0]
    classes = by(table, classifier="one", wording="a {}")
    assert whole["mean AS (°)"] == pytest.approx(classes["mean AS (°)"].iloc[1:].mean())


@pytest.mark.parametrize("name", ["all", "All photos", "all photos", "nan", "None", "every class", "class"])
def test_no_name_of_a_class_stands_for_all(run, name):
    expected = controls.wording_scores(run)
    prompts = controls.prompt_control(run, expected)
    encode = run._encode
    run.class_names["c"] = name
    run.index["class"] = run.index["class"].replace("cow", name)
    run._encode = lambda texts: encode([re.sub(rf"\ban? {name}$", "a cow", t) for t in texts])
    table = controls.wording_scores(run)
    pd.testing.assert_frame_equal(table.replace({"class": {name: "cow"}}), expected)
    pd.testing.assert_frame_equal(controls.prompt_control(run, table), prompts)


def test_the_profiles_prompt_against_others(run):
    words = controls.wording_scores(run)
    table = controls.prompt_control(run, words).set_index("classifier")
    own = by(words, classifier="two", of=controls.ALL)["mean contrast (°)"]
    row = table.loc["two"]
    assert row["mean contrast (°)"] == own.iloc[0]
    assert (row["mean contrast (°), least"], row["mean contrast (°), most"]) == (own.min(), own.max())
    assert row["p of the names"] == pytest.approx(2 / 120)  # the class lies in the null space
    assert row["mean AS (°)"] < row["other names, low"]
    assert set(table["exchanges"]) == {119}  # all of 5! but the true one


# --------------------------------------------------------------------------- other encoders


def test_another_encoder_has_a_translator_of_its_own(run, tmp_path):
    assert controls.encoder_control(run)["encoder"].tolist() == ["planted (the profile's)"] * 2
    run.profile.second_encoder = "second"
    run.other = ControlledRun(tmp_path, noise=6.0)
    run.other.profile.encoder = "second"
    table = controls.encoder_control(run)
    assert table["encoder"].tolist() == ["planted (the profile's)", "second"] * 2
    assert table["R²"].iloc[1] < table["R²"].iloc[0] - 0.05
    assert table["rank correlation of classes"].iloc[0] == pytest.approx(1.0)


# ------------------------------------------------------------------------------- the rank


def test_rules_of_rank(run):
    table = controls.rank_control(run)
    own = by(table, classifier="one").set_index("rule")
    assert len(own) == 7
    assert own.loc[SOFTMAX, "null dimension"] == own["null dimension"].iloc[0] + 1
    assert own.loc[SOFTMAX, "energy (%)"] > own["energy (%)"].iloc[0]
    assert np.isinf(own["gap"].iloc[0])
    assert (own["logits moved"] < 1e-12).all()
    shown = shown_controls.ranks(table)
    assert not shown["logits moved"].str.contains("-").any()  # a true minus
    assert "gap" not in shown  # the table has it
    assert len(shown) == 4  # this book's rule and softmax's direction: no other rule cuts elsewhere


# ------------------------------------------------------------------ classes and classifiers


def test_contrasts_of_classes(run):
    scores, words = tables.photo_scores(run), controls.wording_scores(run)
    table = controls.class_scores(run, scores, words)
    assert len(table) == 10  # five classes of two classifiers
    leaky = by(table, classifier="two")
    assert (leaky["contrast"] < 0).all()
    assert (leaky["p"] < 0.05).all()
    assert (table["contrast least"] <= table["contrast"] + 1e-9).all()
    own = by(scores, classifier="two", **{"class": "doe"})
    row = by(leaky, **{"class": "doe"}).iloc[0]
    for column in ("contrast", "contrast beyond"):
        found = sure_mean(own[column], tables.refitted(run, "two", own)[column], level=0.9)
        ends = row[[column, f"{column} low", f"{column} high", column.replace("contrast", "p")]]
        assert ends.tolist() == pytest.approx([found.value, found.low, found.high, found.p])
    assert "contrast least" not in controls.class_scores(run, scores, None)


def test_one_family_a_page():
    first, second = (
        pd.DataFrame({"p": [0.01, 0.5]}),
        pd.DataFrame({"p beyond": [0.02], "p by class": [np.nan]}),
    )
    a, none, b = controls.corrected(first, None, second)
    assert none is None
    q = false_discovery([0.01, 0.5, 0.02])
    assert [*a["q"], *b["q beyond"]] == pytest.approx(q.tolist())
    assert b["q by class"].isna().all()
    assert "q" not in first


@pytest.mark.parametrize("few", ["one class", "one photo"])
def test_classes_of_which_nothing_can_be_said(run, few):
    scores = tables.photo_scores(run)
    if few == "one class":
        scores = scores[scores["class"] == "ant"].assign(contrast=np.nan)
    else:
        scores = scores.groupby(["classifier", "class"]).head(1)
    table, _ = controls.corrected(controls.class_scores(run, scores, None), pd.DataFrame({"p": [0.5]}))
    assert table["q"].isna().all()
    assert table["AS"].notna().all()
    charts.class_contrasts(table).to_dict()
    differ = controls.classifier_differences(run, scores)
    assert ("mean contrast (°)" in set(differ["statistic"])) == (few == "one photo")
    assert "mean IS (°)" in set(differ["statistic"])


def test_differences_of_classifiers_on_the_same_photos(run):
    scores = tables.photo_scores(run)
    table = controls.classifier_differences(run, scores).set_index("statistic")
    wide = scores.pivot(index="path", columns="classifier", values="contrast")
    row = table.loc["mean contrast (°)"]
    assert row["difference"] == pytest.approx((wide["one"] - wide["two"]).mean())
    assert 0 < row["low"] < row["difference"] < row["high"]
    assert row["high by class"] - row["low by class"] > row["high"] - row["low"]
    assert row["p by class"] > 0.1 or row["low by class"] > 0
    same = run.refits("two")  # the same halves: what they move alike is no difference
    run.refits = lambda name: same
    paired = controls.classifier_differences(run, scores).set_index("statistic").loc["mean contrast (°)"]
    photos = stats.sem(wide["one"] - wide["two"]) * stats.t.ppf(0.95, 99)
    assert paired["high"] - paired["low"] == pytest.approx(2 * photos)
    few = scores[scores["class"].isin(CLASSES[:4])]
    assert "low by class" not in controls.classifier_differences(run, few)
    shown = shown_controls.differences(table.reset_index())
    assert "(by class)" in shown
    assert "sing-wrap" in shown_controls.page(shown).to_html()


def test_shown_numbers_have_true_minus_signs_and_no_negative_zero():
    table = pd.DataFrame({"a": [-0.001, -1.25], "b": [np.nan, 0.12345], "n": [3, 4]})
    text = shown_controls.page(table, b=3).to_html()
    assert all(f">{x}</td>" in text for x in ("0.00", "−1.25", "–", "0.123", "3"))


def test_shown_intervals_run_from_low_to_high():
    pair = {"a": "x", "b": "y", "rho": 0.5, "low": -0.1, "high": 0.8, "not enlarged": 0.4}
    shown = shown_controls.correlations(pd.DataFrame([pair])).loc[0].to_dict()
    assert shown == {"a": "x", "b": "y", "ρ of |AS|": "+0.50 (−0.10\xa0to\xa0+0.80)", "not enlarged": "+0.40"}
    group = {"classifier": "x", "classes": "3, all"}
    for score, ends in (("median |AS| (°)", "median |AS| (°)"), ("mean contrast (°)", "contrast")):
        group |= {score: 2.0, f"{ends} low": 1.0, f"{ends} high": 3.0}
    beyond = "mean contrast, beyond (°)"
    group |= {beyond: -2.0, f"{beyond} low": -3.0, f"{beyond} high": -1.0}
    shown = shown_controls.groups(pd.DataFrame([group])).loc[0].to_dict()
    assert shown["median |AS| (°)"] == "2.00 (1.00\xa0to\xa03.00)"
    assert shown["mean contrast (°)"] == "+2.00 (+1.00\xa0to\xa0+3.00)"
    assert shown[beyond] == "−2.000 (−3.000\xa0to\xa0−1.000)"


def test_a_run_of_one_classifier_has_no_differences(run):
    run.classifiers = run.profile.classifiers = ["one"]
    assert controls.classifier_differences(run, tables.photo_scores(run)).empty
