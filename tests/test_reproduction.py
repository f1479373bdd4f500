"""Paper, ours, agrees? Verdicts follow their rules on made-up results; the page shows what the rows say."""

from __future__ import annotations

import itertools
import json
import re
from html.parser import HTMLParser

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from sing_utils import reproduction, reproduction_rules_steering
from sing_utils.published import Published
from sing_utils.reproduction import COLUMNS, page, rows
from sing_utils.reproduction_facts import RunFacts
from sing_utils.reproduction_judging import JUDGES, beside, deviation, judges, together
from sing_utils.results import Results
from sing_utils.tables import RATIOS
from sing_utils.tables_steering import DIRECTIONS

NAN = float("nan")
PUBLISHED = Published()
FIVE = {name: PUBLISHED.classifiers[name] for name in PUBLISHED.numbers["table-1"].values}
CLASSES = sorted(PUBLISHED.classes)
MOVED, BOUND = "max |W f − W f̃| / (‖W‖ ‖f‖)", 1e-6


# ------------------------------------------------------------------------------ a made-up paper run


def paper_tables() -> dict[str, pd.DataFrame]:
    """Results of a run in the paper's setting that agrees with every published number."""
    tables = {}
    names = list(FIVE)
    tables["heads"] = pd.DataFrame(
        {
            "classifier": names,
            "m": [FIVE[n].width for n in names],
            "rank": 1000,
            "null dimension": [FIVE[n].null_dimension for n in names],
            "|Wf + b − logits|, relative": 1e-7,
        }
    )
    tables["photos"] = pd.DataFrame({"class": CLASSES, "to fit": 625, "to evaluate": 50})
    certificate = {"classifier": names, MOVED: 1e-9, "bound": BOUND, "top-1 changes": 0}
    tables["certificates"] = pd.DataFrame({**certificate, "photos": 10800})
    tables["step_certificates"] = pd.DataFrame({**certificate, "steps": 500})
    tables["translator_fits"] = pd.DataFrame(
        [
            {
                "classifier": n,
                "method": m,
                "cosine": 0.8,
                "cosine sd": 0.1,
                "R²": 0.5,
                "seconds": 1.0,
                "photos to evaluate": 800,
            }
            for n in names
            for m in ("ridge", "adamw")
        ]
    )
    tables["translator_cosines"] = pd.DataFrame(
        [{"classifier": n, "cosine": c} for n in names for c in (0.7, 0.8, 0.9)]
    )
    tables["losses"] = pd.DataFrame(
        {
            "loss": ["mse", "cosine", "both"],
            "cosine": [0.80, 0.81, 0.80],
            "squared error": [1.0, 9.0, 1.0],
            "photos to evaluate": 800,
            "gain": [np.nan, 0.01, 0.0],
            "gain low": [np.nan, 0.005, -0.001],
            "gain high": [np.nan, 0.015, 0.001],
            "ratio": [np.nan, 9.0, 1.0],
            "ratio low": [np.nan, 8.0, 0.9],
            "ratio high": [np.nan, 10.0, 1.1],
        }
    )
    return tables | _score_tables() | _steering_tables() | _picture_tables() | _planted_tables()


def _score_tables() -> dict[str, pd.DataFrame]:
    size = {"DINO-ViT": 0.4, "ResNet50": 1.5, "ResNeXt101": 3.0, "EfficientNet": 1.0, "BiTResNet": 0.8}
    rng = np.random.default_rng(0)
    scores, medians, spreads, ratios = [], [], [], []
    for name in FIVE:
        for c in CLASSES:
            AS = size[name] * (1 + 0.1 * rng.standard_normal(20)) * rng.choice([-1, 1], 20)
            scores.append(pd.DataFrame({"classifier": name, "class": c, "AS": AS, "IS": 20.0 + np.abs(AS)}))
            read = PUBLISHED.numbers.get(f"figure-4-{name.lower()}")
            value = read.values[c] if read else size[name]
            row = {"classifier": name, "class": c, "photos": 50}
            medians.append(row | {"value": value, "low": value - 0.05, "high": value + 0.05})
        log = 0.7 if name == "DINO-ViT" else -0.7
        row = {"classifier": name, "photos": 800, "sd AS (°)": size[name]}
        spreads.append(row | {"log variance ratio": log, "low": log - 0.1, "high": log + 0.1})
        for definition in RATIOS:
            value = PUBLISHED.numbers["ratio"].values[name]
            row = {"classifier": name, "definition": definition}
            ratios.append(row | {"value": value, "low": value - 0.5, "high": value + 0.5})
    concepts = [
        {"classifier": n, "class": c, "concept": k, "before": b, "AS": a, "margin": 0.05, "photos": 50}
        | {"before margin": 0.5, "q": 0.001, "place": place, "place low": place, "place high": place}
        for n in FIVE
        for c, scale in (("Arabian camel", 0.1), ("jellyfish", 1.0))
        for k, b, a, place in (("desert", 70.0, scale, 1), ("sea", 80.0, -scale, 2))
    ]
    sizes = [
        {"classifier": n, "class": c, "value": v, "low": v - 0.05, "high": v + 0.05, "photos": 50}
        for n in FIVE
        for c, v in (("Arabian camel", 0.1), ("jellyfish", 1.0))
    ]
    pair = {"a": "ResNet50", "b": "DINO-ViT", "rho": -0.1, "low": -0.4, "high": 0.2, "q": 0.7, "classes": 16}
    other = pair | {"a": "ResNeXt101", "b": "BiTResNet", "q": 0.001}
    return {
        "photo_scores": pd.concat(scores, ignore_index=True),
        "class_medians": pd.DataFrame(medians),
        "spreads": pd.DataFrame(spreads),
        "ratios": pd.DataFrame(ratios),
        "concepts": pd.DataFrame(concepts),
        "concept_sizes": pd.DataFrame(sizes),
        "rank_correlations": pd.DataFrame([pair, other]),
    }


def _steering_tables() -> dict[str, pd.DataFrame]:
    table = PUBLISHED.numbers["table-1"]
    steering = []
    for name, value in table.values.items():
        row = {"classifier": name, "target": "jellyfish", "IS": 40.0, "length": 1.0, "flips": 0}
        row |= {"photos": 50, "steps": 50, "reached": 50}
        for direction, mean in zip(DIRECTIONS, (value, 1.0), strict=True):
            moments = {"|AS| mean": mean, "|AS| sd": 0.3, "AS mean": mean, "AS sd": 0.3}
            steering.append(row | {"direction": direction} | moments)
    grid = [
        {"classifier": n, "source": c, "target": t, "AS": 8.0, "AS sd": 2.0, "reached": 50, "IS": 40.0}
        for n in FIVE
        for c in CLASSES
        for t in ("jellyfish", "jeep")
    ]
    return {"steering": pd.DataFrame(steering), "steering_grid": pd.DataFrame(grid)}


def _picture_tables() -> dict[str, pd.DataFrame]:
    logits = {"pair": "benign: jeep", "place": 1, "original": "jeep", "logit": 9.0}
    pair = {"kind": "benign", "class": "jeep", "AS": 0.1, "IS": 12.0}
    changes = {
        "IS": [0.0, 20.0],
        "AS": [0.0, 5.0],
        "turned": [0.0, 30.0],
        "noise": 20.0,
        "changed": [0.0, 60.0],
        "pictures": 16,
    }
    effect = {"photo": ["jeep", "minivan"], "norm, × original": [1.2, 1.5]}
    effect |= {"turned, restored (°)": [10.0, 12.0], "turned, as it comes (°)": [15.0, 20.0]}
    noise = {"photo": ["jeep", "minivan"], "step alone (°)": [5.0, 6.0]}
    noise |= {"noise alone (°)": [30.0, 20.0], "both (°)": [31.0, 21.0]}
    return {
        "pairs": pd.DataFrame([pair]),
        "pair_logits": pd.DataFrame([logits | {"equivalent": "jeep", "its logit": 9.0}]),
        "picture_changes": pd.DataFrame(changes),
        "norm_effect": pd.DataFrame(effect),
        "noise_effect": pd.DataFrame(noise),
    }


def _planted_tables() -> dict[str, pd.DataFrame]:
    agreement = [
        {"factor": f, "score": s, "statistic": t, "value": 0.95, "low": 0.92, "high": 0.98, "worlds": 5}
        for f in ("all", "shape")
        for s in ("|AS|", "contrast")
        for t in ("ROC area", "rank correlation")
    ]
    conclusion = {"condition": "as it should be", "short": "leaky by IS/|AS|", "worlds": 5, "of": 5}
    return {
        "planted_agreement": pd.DataFrame(agreement),
        "planted_conclusions": pd.DataFrame([conclusion, conclusion | {"condition": "other", "worlds": 0}]),
    }


def paper_record() -> dict:
    """As run.json of such a run."""
    parameters = {
        "classifiers": list(FIVE),
        "classifier_sources": {name: c.source for name, c in FIVE.items()},
        "encoder": "karlo",
        "source_class": "sports car",
        "prompt_template": "an image of a {}",
        "picture_backend": "karlo",
        "confidence": 0.95,
    }
    return {
        "profile": "paper",
        "rehearsal": False,
        "date": "2026-11-25T08:00:00Z",
        "code": {"commit": "0123abcd", "dirty": True},
        "parameters": parameters,
        "revisions": {"encoder": {"name": "karlo", "extractor": {"weights": "feed" * 16}}},
    }


@pytest.fixture
def make(tmp_path):
    """Write results and a record, both changed first -> Results."""

    def write(change=lambda t: None, change_record=lambda r: None, run="paper"):
        tables, record = paper_tables(), paper_record()
        change(tables)
        change_record(record)
        folder = tmp_path / run / "results"
        folder.mkdir(parents=True)
        for name, table in tables.items():
            table.to_parquet(folder / f"{name}.parquet", index=False)
        if record:
            (folder / "run.json").write_text(json.dumps(record), encoding="utf-8")
        return Results(folder)

    return write


@pytest.fixture(scope="module")
def agreeing(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs") / "paper" / "results"
    folder.mkdir(parents=True)
    for name, table in paper_tables().items():
        table.to_parquet(folder / f"{name}.parquet", index=False)
    (folder / "run.json").write_text(json.dumps(paper_record()), encoding="utf-8")
    return Results(folder)


def row(results, claim):
    """One row without judging all others."""
    chosen = next(c for c in PUBLISHED.claims if c.id == claim)
    return reproduction._row(chosen, RunFacts(results, PUBLISHED))


# ----------------------------------------------------------------------------------------- all rows


def test_every_claim_has_a_function_and_every_function_a_claim():
    assert set(JUDGES) == {claim.id for claim in PUBLISHED.claims}
    with pytest.raises(ValueError, match="table-1 has two functions"):
        judges("table-1")(lambda run: None)


def test_a_run_that_repeats_the_paper_agrees_with_it(agreeing):
    table = rows(agreeing)
    assert list(table.columns) == COLUMNS
    verdicts = table.set_index("id")["verdict"]
    never = {c.id for c in PUBLISHED.claims if c.rule.startswith("Never comparable")} | {"figure-9"}
    surprising = {k: v for k, v in verdicts.items() if v != ("not comparable" if k in never else "agrees")}
    # The published table itself contradicts its caption; the published medians and rank order do not.
    assert surprising == {"table-1-caption": "differs"}
    assert (table["measured"].str.len() > 0).all()
    assert table["measured"].str.contains(r"\d").drop(verdicts.index.get_loc("decoder")).all()
    assert (table["n"].str.len() > 0).all()
    assert (table["rule"].str.len() > 20).all()


def test_rows_go_to_parquet(agreeing, tmp_path):
    table = rows(agreeing)
    table.to_parquet(tmp_path / "reproduction.parquet", index=False)
    pd.testing.assert_frame_equal(pd.read_parquet(tmp_path / "reproduction.parquet"), table)


def scale(table, columns, by, where=None):
    """Multiply some columns of a table, in some rows."""

    def change(tables):
        own = tables[table].copy()
        chosen = slice(None) if where is None else own["classifier"] == where
        own.loc[chosen, columns] = own.loc[chosen, columns] * by
        tables[table] = own

    return change


def put(table, column, value, where=None):
    """Set a column of a table, in some rows."""

    def change(tables):
        own = tables[table].copy()
        if where is None:
            own[column] = value
        else:
            own.loc[own["classifier"] == where, column] = value
        tables[table] = own

    return change


ENDS = ["value", "low", "high"]


def still_jellyfish(tables):
    """Let concepts move less for jellyfish than for camels."""
    own = tables["concept_sizes"].copy()
    own.loc[own["class"] == "jellyfish", ENDS] = [0.01, 0.0, 0.02]
    tables["concept_sizes"] = own


def one_class(c, value, *others):
    """Move ResNet50's median of one class, or of some."""

    def change(tables):
        own = tables["class_medians"].copy()
        chosen = (own["classifier"] == "ResNet50") & own["class"].isin([c, *others])
        own.loc[chosen, ENDS] = [value, value - 0.05, value + 0.05]
        tables["class_medians"] = own

    return change


CHANGES = [
    ("figure-1", put("pair_logits", "its logit", 8.0), "differs"),
    ("abstract-resnet50", scale("photo_scores", ["AS"], 0.1, "ResNet50"), "differs"),
    ("abstract-resnet50", scale("photo_scores", ["AS"], 0.4 / 1.5, "ResNet50"), "undecided"),
    ("figure-2", put("certificates", MOVED, 1e-3), "differs"),
    ("equation-2", put("certificates", "top-1 changes", 1), "differs"),
    ("scores", put("photo_scores", "IS", 0.0), "differs"),
    ("as-finds-leakage", put("planted_agreement", "high", 0.5), "agrees"),  # low still lies above
    ("ratio-finds-leakage", put("planted_conclusions", "worlds", 2), "undecided"),
    ("ratio-finds-leakage", put("planted_conclusions", "worlds", 0), "differs"),
    ("set-up", put("photos", "to fit", 500), "differs"),
    ("null-dimensions", put("heads", "null dimension", 25, "DINO-ViT"), "differs"),
    ("head-identity", put("heads", "|Wf + b − logits|, relative", 0.01), "differs"),
    ("head-identity", put("heads", "|Wf + b − logits|, relative", NAN), "undecided"),
    ("figure-3a-pattern", scale("spreads", ["low", "high"], -1, "ResNet50"), "differs"),
    ("figure-3a-models", scale("spreads", ["low", "high"], -1, "BiTResNet"), "differs"),
    ("figure-3a-models", put("spreads", "high", 0.1, "BiTResNet"), "undecided"),
    ("figure-3a-models", scale("spreads", ["low", "high"], -1, "DINO-ViT"), "differs"),
    ("figure-3b", put("ratios", "value", 1.0, "DINO-ViT"), "differs"),
    ("resnext101-variance", put("photo_scores", "AS", 3.0, "ResNeXt101"), "undecided"),  # large, all alike
    ("figure-4-resnet50", scale("class_medians", ENDS, 3.0, "ResNet50"), "differs"),
    ("figure-4-dino-vit", put("class_medians", "high", 5.0, "DINO-ViT"), "undecided"),  # too wide to say
    ("figure-4-dino-vit", put("class_medians", "low", NAN, "DINO-ViT"), "undecided"),
    ("figure-4-dino-vit", scale("class_medians", ENDS, 9.0, "DINO-ViT"), "differs"),
    ("dino-typical", scale("photo_scores", ["AS"], 5.0, "DINO-ViT"), "differs"),
    ("dino-typical", scale("photo_scores", ["AS"], 2.5, "DINO-ViT"), "undecided"),
    ("resnet50-varies", scale("class_medians", ENDS, 0.01, "ResNet50"), "differs"),
    ("resnet50-varies", put("class_medians", "value", 2.0, "ResNet50"), "differs"),  # larger, but not varied
    ("resnet50-varies", put("class_medians", "low", 0.0, "ResNet50"), "undecided"),
    ("figure-4-caption", one_class("porcupine", 0.0), "undecided"),
    ("figure-4-caption", scale("class_medians", ["value"], -1, "ResNet50"), "differs"),
    ("figure-4-resnet50", one_class("porcupine", 9.0, "jeep", "goldfish"), "undecided"),  # 13 of 16
    ("figure-4-resnet50", one_class("porcupine", 9.0), "agrees"),  # 15 of 16
    ("class-order", put("rank_correlations", "q", 0.01), "differs"),
    ("figure-5-desert", put("concepts", ["place low", "place high"], 2), "differs"),
    ("figure-5-jellyfish", put("concept_sizes", ENDS, 0.1), "undecided"),
    ("figure-5-jellyfish", still_jellyfish, "differs"),
    ("figure-5-desert", put("concepts", "place high", 2), "undecided"),
    ("steering-logits", put("step_certificates", MOVED, 1e-3), "differs"),
    ("steerable", put("steering", "flips", 1), "undecided"),
    ("figure-6", put("steering_grid", "AS", 1.0), "differs"),
    ("figure-6", put("steering_grid", "AS", 1.0, "ResNet50"), "undecided"),
    ("figure-6", put("steering_grid", "AS sd", 90.0), "undecided"),  # 8° on average, not surely above 3°
    ("table-1", put("steering", "|AS| mean", 20.0), "differs"),
    ("table-1", put("steering", "|AS| mean", 20.0, "ResNet50"), "undecided"),  # four of five are too few
    ("table-1", put("steering", "|AS| sd", 90.0), "undecided"),  # too wide to say
    ("table-1", put("steering", "reached", 1), "undecided"),  # one photo has no interval
    ("table-1-order", put("steering", "|AS| mean", 4.0, "ResNet50"), "differs"),
    ("table-1-order", put("steering", "|AS| mean", 10.0, "ResNet50"), "undecided"),
    ("table-1-order", put("steering", "|AS| mean", 5.1, "BiTResNet"), "undecided"),
    ("table-1-caption", put("steering", "|AS| mean", 13.0, "ResNeXt101"), "agrees"),
    ("table-1-caption", put("steering", "|AS| mean", 12.35, "ResNeXt101"), "undecided"),
    ("figure-7", put("losses", ["ratio low", "ratio high"], 1.0), "differs"),
    ("norm-quality", put("norm_effect", "turned, as it comes (°)", 1.0), "differs"),
    ("same-noise", put("picture_changes", "turned", 3.0), "differs"),
    ("noise-attribution", put("noise_effect", "noise alone (°)", 1.0), "differs"),
    ("later-ratios", scale("ratios", ENDS, 3.0), "differs"),
    ("later-ratios", put("ratios", "high", 500.0), "undecided"),
]


@pytest.mark.parametrize(
    ("claim", "change", "verdict"), CHANGES, ids=lambda x: x if isinstance(x, str) else ""
)
def test_other_numbers_other_verdict(make, claim, change, verdict):
    found = row(make(change), claim)
    assert found["verdict"] == verdict, found["measured"]


def test_a_target_that_no_photo_reaches_is_not_called_reached(make):
    def change(tables):
        own = tables["steering_grid"].copy()
        unreached = (own["target"] == "jeep") & (own["classifier"] == "ResNet50")
        own.loc[unreached, ["AS", "AS sd", "reached"]] = [np.nan, np.nan, 0]
        tables["steering_grid"] = own

    found = row(make(change), "figure-6")
    assert found["verdict"] == "undecided"
    assert "jeep by no photo" in found["measured"]
    assert "nan" not in found["measured"]


def test_pictures_without_noise_cannot_show_what_noise_does(make):
    found = row(make(put("noise_effect", ["noise alone (°)", "both (°)"], 0.0)), "noise-attribution")
    assert (found["verdict"], found["measured"]) == (
        "not comparable",
        "These pictures are made without noise.",
    )


def test_a_single_photo_has_no_margin(make):
    nothing = put("concepts", ["before margin", "q", "place", "place low", "place high"], np.nan)
    table = rows(make(nothing)).set_index("id")
    assert "nan" not in table.loc["figure-13", "measured"]
    assert "70.0°," in table.loc["figure-13", "measured"]
    assert table.loc["figure-5-desert", "verdict"] == "undecided"


def test_concepts_of_an_older_run_are_not_judged(make):
    def change(tables):
        tables["concepts"] = tables["concepts"].drop(columns=["place", "place low", "place high"])

    assert row(make(change), "figure-5-desert")["verdict"] == "not run"


def test_means_of_classes_make_the_mean_over_photos(make):
    rng = np.random.default_rng(0)
    photos = [rng.normal(5.0, 2.0, n) for n in (30, 20, 1)]
    cells = [
        {"AS": x.mean(), "AS sd": x.std(ddof=1) if len(x) > 1 else np.nan, "reached": len(x)} for x in photos
    ]
    unreached = {"AS": np.nan, "AS sd": np.nan, "reached": 0}
    grid = pd.DataFrame([*cells, unreached]).assign(classifier="x", target="jeep")
    found = reproduction_rules_steering._over_classes(grid, RunFacts(make(), PUBLISHED)).iloc[0]
    every = np.concatenate(photos)
    low, high = stats.t.interval(0.95, 50, every.mean(), stats.sem(every))
    assert found[ENDS].tolist() == pytest.approx([every.mean(), low, high])
    assert found["photos"] == 51


def test_deviations_have_the_interval_of_resampled_rows(make):
    results = make()
    run, medians = RunFacts(results, PUBLISHED), results.table("class_medians")
    found = deviation(medians, "value", run).set_index("classifier")
    own = medians[medians["classifier"] == "ResNet50"]["value"]
    assert found.loc["ResNet50", "value"] == pytest.approx(own.std())
    assert found.loc["ResNet50", "low"] < own.std() < found.loc["ResNet50", "high"]
    flat = found.loc["ResNeXt101"]  # all classes alike, and so whatever is drawn
    assert flat["value"] == pytest.approx(0)
    one = deviation(medians.groupby("classifier").head(1), "value", run)
    assert one[ENDS].isna().all(axis=None)
    assert "ResNet50 0.93° (0.67 to 1.07°)" in row(results, "resnet50-varies")["measured"]


def test_shares_of_pictures_have_the_exact_interval(make):
    found = row(make(), "figure-9")
    ends = stats.binomtest(10, 16).proportion_ci(0.95)
    assert f"62 % ({100 * ends.low:.0f} to {100 * ends.high:.0f} %) at IS = 20°" in found["measured"]


def test_one_definition_of_the_ratio_is_enough_for_the_later_figure_but_not_for_the_order(make):
    def change(tables):
        own = tables["ratios"]
        others = own["definition"] != next(iter(RATIOS))
        own.loc[others, ENDS] = 200 - own.loc[others, ENDS]
        tables["ratios"] = own

    results = make(change)
    assert row(results, "later-ratios")["verdict"] == "agrees"
    assert f"By {next(iter(RATIOS))}: " in row(results, "later-ratios")["measured"]
    assert row(results, "figure-3b")["verdict"] == "undecided"
    assert "As published by 1 of 4 definitions" in row(results, "figure-3b")["measured"]


def test_measured_words_hold_the_interval_and_what_lies_apart(make):
    found = row(make(put("steering", "|AS| mean", 20.0, "ResNet50")), "table-1")
    half = 0.3 / 50**0.5 * 2.0096  # Student's t, 49 degrees of freedom, 95 %
    assert f"ResNet50 20.00° ({20 - half:.2f} to {20 + half:.2f}°)" in found["measured"]
    assert "4 of 5 within the published value and its error" in found["measured"]
    assert (
        f"apart: ResNet50 20.00° ({20 - half:.2f} to {20 + half:.2f}°) against 12.04 ± 0.25°"
        in found["measured"]
    )
    assert found["n"] == "50 photos a classifier"


def test_intervals_follow_the_level_of_the_run(make):
    found = row(make(change_record=lambda r: r["parameters"].update(confidence=0.5)), "table-1")
    half = 0.3 / 50**0.5 * 0.6795
    assert f"DINO-ViT 5.00° ({5 - half:.2f} to {5 + half:.2f}°)" in found["measured"]


def test_only_the_named_pair_is_judged_where_the_run_has_it(make):
    """Another pair is correlated in these results; the paper speaks of ResNet50 and DINO-ViT."""
    found = row(make(), "class-order")
    assert found["verdict"] == "agrees"
    assert "ResNeXt101" not in found["measured"]
    assert "the medians read off figure 4 give ρ = -0.11" in found["note"].lower()


# ------------------------------------------------------------------------------------ not comparable


NUMERIC = ["table-1", "figure-4-resnet50", "figure-4-dino-vit", "later-ratios"]


@pytest.mark.parametrize(
    ("change", "why"),
    [
        (lambda p: p.update(encoder="embedded"), "another encoder (embedded)"),
        (lambda p: p.update(encoder="open_clip:ViT-L-14/laion2b_s32b_b82k"), "another encoder"),
        (lambda p: p.update(encoder="open_clip:ViT-B-32/openai"), "another encoder"),
        (lambda p: p.pop("encoder"), "an encoder that is not recorded"),
        (lambda p: p.update(classifier_sources={}), "other classifiers"),
        (lambda p: p.update(prompt_template="a photo of a {}"), "other prompts"),
    ],
)
def test_numbers_of_another_setting_are_not_compared(make, change, why):
    results = make(change_record=lambda r: change(r["parameters"]))
    table = rows(results).set_index("id")
    for claim in NUMERIC:
        assert table.loc[claim, "verdict"] == "not comparable"
        assert why in table.loc[claim, "note"].lower()
        assert "within the published value" not in table.loc[claim, "measured"]
        assert "°" in table.loc[claim, "measured"] or claim == "later-ratios"  # ours is shown all the same
    assert table.loc["null-dimensions", "verdict"] == ("not comparable" if "classif" in why else "agrees")
    assert table.loc["equation-2", "verdict"] == "agrees"  # a pattern: any classifier will do


@pytest.mark.parametrize("encoder", ["karlo", "karlo:models/karlo", "open_clip:ViT-L-14/openai"])
def test_encoders_that_are_the_papers(make, encoder):
    assert (
        row(make(change_record=lambda r: r["parameters"].update(encoder=encoder)), "table-1")["verdict"]
        == "agrees"
    )


def test_photos_of_other_classes(make):
    results = make(lambda t: t.update(photos=t["photos"].iloc[:5]))
    found = row(results, "figure-4-dino-vit")
    assert found["verdict"] == "not comparable"
    assert "photos of other classes (5 of the paper's 16)" in found["note"].lower()


@pytest.mark.parametrize(
    ("change", "change_record", "step"),
    [
        (put("steering", "IS", 30.0), lambda r: None, "sports car to jellyfish at IS = 30°"),
        (put("steering", "target", "pirate"), lambda r: None, "sports car to pirate at IS = 40°"),
        (
            lambda t: None,
            lambda r: r["parameters"].update(source_class="jeep"),
            "jeep to jellyfish at IS = 40°",
        ),
    ],
)
def test_another_step(make, change, change_record, step):
    found = row(make(change, change_record), "table-1")
    assert found["verdict"] == "not comparable"
    assert f"Another step ({step})" in found["note"]


def test_one_published_classifier_is_enough_for_numbers_but_not_for_an_order(make):
    def one(record):
        record["parameters"]["classifier_sources"] = {"ResNet50": FIVE["ResNet50"].source}

    table = rows(make(change_record=one)).set_index("id")
    assert table.loc["table-1", "verdict"] == "agrees"
    assert "1 of 1 within" in table.loc["table-1", "measured"]
    assert "BiTResNet" not in table.loc["table-1", "measured"]
    assert table.loc["table-1-order", "verdict"] == "not comparable"
    assert "Only ResNet50 of 5 needed classifiers" in table.loc["table-1-order", "note"]


def test_classifiers_are_known_by_what_was_loaded_not_by_what_they_are_called(make):
    def rename(tables):
        for name, table in tables.items():
            for column in ("classifier", "a", "b"):
                if column in table and not name.startswith("planted"):
                    tables[name] = table = table.assign(
                        **{column: table[column].replace("DINO-ViT", "my ViT")}
                    )

    def record(r):
        p = r["parameters"]
        p["classifiers"] = ["my ViT" if n == "DINO-ViT" else n for n in p["classifiers"]]
        p["classifier_sources"]["my ViT"] = p["classifier_sources"].pop("DINO-ViT")

    table = rows(make(rename, record)).set_index("id")
    assert table.loc["table-1", "verdict"] == table.loc["figure-4-dino-vit", "verdict"] == "agrees"
    assert "This run loads it as my ViT" in table.loc["dino-name", "measured"]


def test_a_pattern_is_said_to_be_judged_on_the_runs_own(make):
    results = make(put("losses", ["ratio low", "ratio high"], 1.0))
    assert "they do not follow the pattern" in row(results, "figure-7")["note"]
    assert "they follow the pattern" in row(results, "equation-2")["note"]


def test_another_decoder(make):
    found = row(make(change_record=lambda r: r["parameters"].update(picture_backend="mini")), "decoder")
    assert (found["verdict"], found["note"]) == ("not comparable", "Another decoder (mini).")


# -------------------------------------------------------------------------------------------- not run


def test_a_rehearsal_says_nothing(make):
    table = rows(make(change_record=lambda r: r.update(rehearsal=True)))
    assert set(table["verdict"]) == {"not run"}
    assert table["note"].str.contains("rehearsal").all()
    assert set(table["measured"]) == {""}


def test_a_rehearsal_without_a_record_is_known_by_its_folder(make):
    results = make(change_record=lambda r: r.clear(), run="paper-rehearsal")
    assert set(rows(results)["verdict"]) == {"not run"}


@pytest.mark.parametrize("name", sorted({t for judge in JUDGES.values() for t in judge.tables}))
def test_a_missing_table_names_its_notebook(make, name):
    table = rows(make(lambda t: t.pop(name))).set_index("id")
    for claim in PUBLISHED.claims:
        missing = name in JUDGES[claim.id].tables
        if missing:
            assert table.loc[claim.id, "verdict"] == "not run"
            assert f"the table {name} is missing" in table.loc[claim.id, "note"].lower()
            assert claim.page.partition("#")[0] in table.loc[claim.id, "note"]
        elif name not in ("photos", "steering"):  # whose absence says that nothing can be compared
            assert table.loc[claim.id, "verdict"] != "not run"


def test_an_empty_and_an_old_table(make):
    def change(tables):
        tables["rank_correlations"] = tables["rank_correlations"].iloc[:0]
        tables["losses"] = tables["losses"].drop(columns="ratio low")

    table = rows(make(change)).set_index("id")
    assert table.loc["class-order", "verdict"] == table.loc["figure-7", "verdict"] == "not run"
    assert "is empty" in table.loc["class-order", "note"]
    assert "lacks 'ratio low'" in table.loc["figure-7", "note"]


def test_a_run_without_concepts_of_a_class(make):
    def change(tables):
        tables["concepts"] = tables["concepts"][tables["concepts"]["class"] == "jellyfish"]

    table = rows(make(change)).set_index("id")
    assert table.loc["figure-13", "verdict"] == "not run"
    assert table.loc["figure-14", "verdict"] == "not comparable"


def test_a_run_without_any_record(make):
    results = make(change_record=lambda r: r.clear())
    table = rows(results).set_index("id")
    assert table.loc["equation-2", "verdict"] == "agrees"
    assert table.loc["table-1", "verdict"] == "not comparable"
    assert "not recorded" in page(results)
    assert RunFacts(results, PUBLISHED).sources == {name: name for name in FIVE}


# -------------------------------------------------------------------------------------- arithmetic


@pytest.mark.parametrize(
    ("low", "high", "verdict"),
    [
        (1.0, 1.9, "agrees"),  # touches 2 ± 0.1
        (1.0, 1.89, "differs"),
        (2.1, 3.0, "agrees"),
        (2.11, 3.0, "differs"),
        (1.95, 2.05, "agrees"),
        (0.0, 6.0, "undecided"),  # wider than 5
        (NAN, 2.0, "undecided"),
    ],
)
def test_beside(low, high, verdict):
    assert beside(low, high, 2.0, 0.1, 5.0) == verdict


@pytest.mark.parametrize(
    ("verdicts", "verdict"),
    [
        (["agrees"] * 9 + ["differs"], "agrees"),
        (["agrees"] * 8 + ["differs"] * 2, "undecided"),
        (["agrees"] * 5 + ["differs"] * 5, "undecided"),
        (["agrees"] * 4 + ["differs"] * 5, "differs"),
        (["agrees"] + ["undecided"] * 9, "agrees"),
        (["undecided"], "undecided"),
        ([], "undecided"),
    ],
)
def test_together(verdicts, verdict):
    assert together(verdicts) == verdict


# ------------------------------------------------------------------------------------------ the page


class Reader(HTMLParser):
    """Ids, links and whether tags are balanced."""

    def __init__(self):
        super().__init__()
        self.ids, self.links, self.open = [], [], []

    def handle_starttag(self, tag, attrs):
        given = dict(attrs)
        self.ids += [given["id"]] if "id" in given else []
        self.links += [given["href"]] if "href" in given else []
        self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag


def read(text):
    reader = Reader()
    for block in re.findall(r"^``````\{raw\} html\n(.*?)\n``````$", text, re.MULTILINE | re.DOTALL):
        reader.feed(block)
    assert reader.open == []
    return reader


def test_page_has_a_card_for_each_row_that_can_be_linked(agreeing):
    text = page(agreeing)
    reader = read(text)
    assert [i.removeprefix("claim-") for i in reader.ids] == [claim.id for claim in PUBLISHED.claims]
    for claim in PUBLISHED.claims:
        notebook, _, anchor = claim.page.partition("#")
        assert f"../notebooks/{notebook}.html#{anchor}" in reader.links
    inside = {link[1:] for link in reader.links if link.startswith("#")}
    assert inside == set(reader.ids)


def test_page_counts_its_verdicts(agreeing):
    text, counts = page(agreeing), rows(agreeing)["verdict"].value_counts()
    for verdict in ("agrees", "differs", "undecided", "not comparable", "not run"):
        assert f"<strong>{counts.get(verdict, 0)}</strong> {verdict}" in text
    assert f"{len(PUBLISHED.claims)} claims, figures and tables" in text


def test_headings_skip_no_level_and_occur_once(agreeing):
    headings = re.findall(r"^(#+) (.+)$", page(agreeing), re.MULTILINE)
    levels = [len(marks) for marks, _ in headings]
    assert levels[0] == 1
    assert levels.count(1) == 1
    assert all(b - a <= 1 for a, b in itertools.pairwise(levels))
    assert len({title for _, title in headings}) == len(headings)


def test_page_states_the_facts_of_the_run(agreeing):
    text = page(agreeing)
    for fact in ("2026-11-25T08:00:00Z", "commit 0123abcd with changes", "95 %", "feed" * 16):
        assert fact in text
    assert "<dt>Profile</dt><dd>paper</dd>" in text


def test_rules_are_folded_and_whole(agreeing):
    text = page(agreeing)
    assert text.count("<summary>The rule</summary>") == len(PUBLISHED.claims)
    rule = row(agreeing, "figure-7")["rule"]
    assert rule.startswith("Judged on the first classifier")
    assert "Agrees if the interval of the gain in cosine" in rule  # the notebook's own
    assert "OpenAI's CLIP ViT-L/14 as the encoder" in row(agreeing, "table-1")["rule"]


def test_everything_shown_is_escaped(make):
    evil = 'x"><script>alert(1)</script>\n``````\n# owned {{ profile }}'

    def change(tables):
        tables["pairs"] = tables["pairs"].assign(kind=evil)
        controls = {"claim": evil, "where": evil, "control": evil, "embedded": evil, "planted": evil}
        tables["claims_under_controls"] = pd.DataFrame([controls])

    def record(r):
        r["date"] = evil
        r["revisions"] = {evil: [evil]}

    text = page(make(change, record))
    assert "<script>" not in text
    assert not any(line.startswith("# owned") for line in text.splitlines())
    fences = [line for line in text.splitlines() if line.startswith("```")]
    assert set(fences) == {"``````{raw} html", "``````"}
    assert len(fences) % 2 == 0
    read(text)


def test_page_of_a_rehearsal_says_so_first(make):
    text = page(make(change_record=lambda r: r.update(rehearsal=True)))
    assert text.index("is a rehearsal") < text.index("How to read it")


def test_code_differences_stand_on_the_page(agreeing):
    text = page(agreeing)
    for point in PUBLISHED.differences:
        assert f"<dt>What</dt><dd>{point.item}</dd>" in text
    assert text.count("<dt>Follows</dt>") == len(PUBLISHED.differences)


CONTROL = {
    "claim": "A claim",
    "where": "Section 4",
    "control": "random text",
    "embedded": "holds",
    "planted": "",
}


def test_controls_that_no_run_has(agreeing):
    assert "Not run: no run has left a table of claims under controls." in page(agreeing)


def test_controls_of_two_runs_stand_beside_each_other(make, agreeing):
    words = pd.DataFrame([CONTROL | {"planted": "recovered"}])
    results = make(lambda t: t.update(claims_under_controls=words))
    planted = make(
        lambda t: t.update(claims_under_controls=pd.DataFrame([CONTROL | {"embedded": "fails"}])),
        run="planted",
    )
    alone, both = page(results), page(results, planted)
    for text in (alone, both):
        assert "<span>This run:</span> holds" in text
        assert "<span>Planted world:</span> recovered" in text
    assert "<span>Planted profile:</span>" not in alone
    assert "<span>Planted profile:</span> fails" in both
    assert "<dt>random text</dt>" not in page(agreeing, planted)


def test_a_control_that_was_turned_off_is_said_not_to_be_run(make):
    results = make(lambda t: t.update(claims_under_controls=pd.DataFrame([CONTROL | {"embedded": ""}])))
    assert "<span>This run:</span> not run" in page(results)
