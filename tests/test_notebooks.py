"""The notebooks: clean in git, thin, alike; and they run with other parameters than the book's."""

from __future__ import annotations

import ast
import json
import time
from pathlib import Path

import nbformat
import pandas as pd
import pytest
import yaml

from sing_utils.profiles import Profile
from sing_utils.rehearsal import build_tiny_karlo
from sing_utils.runner import find_notebooks, run_profile

ROOT = Path(__file__).resolve().parents[1]
NOTEBOOKS = find_notebooks(ROOT)
FEATURES = ROOT / "data" / "embedded" / "features"
each = pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda p: p.stem)


def code_cells(path):
    return [c for c in nbformat.read(path, 4).cells if c.cell_type == "code"]


def parameters_of(path):
    return [c.source for c in code_cells(path) if "parameters" in c.metadata.get("tags", [])]


def test_there_are_seven():
    assert [p.stem[:2] for p in NOTEBOOKS] == ["00", "01", "02", "03", "04", "05", "06"]


@each
def test_clean_in_git(path):
    nb = nbformat.read(path, 4)
    nbformat.validate(nb)
    for cell in code_cells(path):
        assert cell.outputs == [], cell.source
        assert cell.execution_count is None, cell.source
    assert nb.metadata.kernelspec.name == "python3"  # papermill needs one
    assert set(nb.metadata) <= {"kernelspec", "language_info"}


@each
def test_every_cell_has_its_own_id_and_every_code_cell_a_tag(path):
    cells = nbformat.read(path, 4).cells
    ids = [c.get("id") for c in cells]
    assert all(ids)
    assert len(set(ids)) == len(ids)
    for cell in code_cells(path):
        assert cell.metadata.get("tags"), cell.source


@each
def test_prose_and_calls_only(path):
    """Nothing is defined in a notebook: what is worth a name is in the package, with tests."""
    for cell in code_cells(path):
        tree = ast.parse(cell.source)
        kinds = ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef | ast.Lambda
        assert not [n for n in ast.walk(tree) if isinstance(n, kinds)], cell.source


@each
def test_one_parameters_cell_the_same_in_all(path):
    own = parameters_of(path)
    assert len(own) == 1
    assert own == parameters_of(NOTEBOOKS[0])


def test_parameters_are_profile_keys():
    names = {t.id for n in ast.parse(parameters_of(NOTEBOOKS[0])[0]).body for t in n.targets}
    assert {"profile", "run_dir", "classifiers", "classes", "concepts"} <= names
    assert {"prompt_template", "images", "seed"} <= names
    assert {"source_class", "targets", "degrees", "picture_backend"} <= names
    assert names - {"profile", "run_dir"} <= set(Profile.model_fields)


@each
def test_every_parameter_reaches_the_run(path):
    names = {t.id for n in ast.parse(parameters_of(path)[0]).body for t in n.targets}
    calls = [
        n
        for c in code_cells(path)
        for n in ast.walk(ast.parse(c.source))
        if isinstance(n, ast.Call) and getattr(n.func, "id", "") == "open_run"
    ]
    assert len(calls) == 1
    passed = {k.arg: getattr(k.value, "id", None) for k in calls[0].keywords}
    assert passed == {name: name for name in names - {"profile"}}
    assert calls[0].args[0].id == "profile"


@each
def test_starts_with_a_title(path):
    first = nbformat.read(path, 4).cells[0]
    assert first.cell_type == "markdown"
    assert first.source.startswith("# ")


# --------------------------------------------------------------------- other parameters

OTHER = {
    "classifiers": ["efficientnet_lite2", "efficientnet_lite1"],
    "classes": ["jellyfish", "Arabian camel", "tench"],
    "concepts": ["a desert", "the sea", "metal", "a person"],
    "seed": 7,
    "adamw_epochs": 1,
    "bootstrap_draws": 100,
    "photos": [],
    "source_class": "tench",
    "targets": ["violin", "snow"],
    "degrees": 12.0,
    "controls": ["prompts", "rank"],
    "control_draws": 19,
    "permutations": 99,
}


@pytest.mark.skipif(not FEATURES.is_dir(), reason="data/embedded/features is not there")
def test_the_notebooks_run_with_other_parameters(tmp_path):
    """Also with another decoder: a small, randomly initialised pipeline of Karlo's classes."""
    build_tiny_karlo(tmp_path / "karlo", dim=320)
    given = OTHER | {"picture_backend": f"karlo:{tmp_path / 'karlo'}"}
    core = [n.stem[:2] for n in NOTEBOOKS[:6]]
    for path in NOTEBOOKS[:6]:  # what papermill replaces is there to be replaced
        assert 'profile = "embedded"' in parameters_of(path)[0]
        assert "run_dir = None" in parameters_of(path)[0]
    folder = tmp_path / "run"
    start = time.perf_counter()
    done = run_profile(ROOT, "embedded", overrides=given, only=core, run_dir=str(folder), progress=False)
    print(f"{time.perf_counter() - start:.0f} s")

    assert [e.ran for e in done] == [True] * 6
    for executed in done:
        injected = [
            c for c in code_cells(executed.path) if "injected-parameters" in c.metadata.get("tags", [])
        ]
        assert [f'profile = "{folder}/profile.yaml"' in c.source for c in injected] == [True]
        assert all(c.execution_count for c in code_cells(executed.path))
    resolved = yaml.safe_load((folder / "profile.yaml").read_text())
    assert {k: resolved[k] for k in OTHER if k != "classes"} == {
        k: v for k, v in OTHER.items() if k != "classes"
    }

    # Every table speaks of these classifiers, classes and concepts only.
    tables = {p.stem: pd.read_parquet(p) for p in (folder / "results").glob("*.parquet")}
    assert {"heads", "certificates", "translator_fits", "photo_scores", "ratios", "concepts"} <= set(tables)
    assert {"steering", "steering_curves", "pairs", "pair_logits", "norm_effect"} <= set(tables)
    for name, table in tables.items():
        assert len(table), name
        for column, expected in (("classifier", OTHER["classifiers"]), ("class", [*OTHER["classes"], "all"])):
            if column in table:
                assert set(table[column]) <= set(expected), name
    assert set(tables["photo_scores"]["classifier"]) == set(OTHER["classifiers"])
    assert set(tables["photo_scores"]["class"]) == set(OTHER["classes"])
    assert set(tables["concepts"]["concept"]) == set(OTHER["concepts"])
    assert set(tables["loss_curves"]["epoch"]) == {0, 1}
    assert (tables["certificates"]["top-1 changes"] == 0).all()
    assert len(tables["rank_correlations"]) == 1  # one pair of classifiers
    assert (tables["step_certificates"]["top-1 changes"] == 0).all()
    assert set(tables["steering_grid"]["target"]) == {"violin", "snow"}
    assert set(tables["steering"]["target"]) == {"violin"}
    assert tables["picture_changes"]["IS"].max() == 12.0
    # Controls that are turned off leave no table and say so; the others ran.
    assert {"wordings", "prompt_control", "rank_control", "steered_wordings"} <= set(tables)
    off = {
        "subspaces",
        "subspace_control",
        "blind",
        "translator_control",
        "encoder_control",
        "steering_subspaces",
    }
    assert not off & set(tables)
    said = [c for e in done for c in code_cells(e.path) if "turned off in this run" in str(c.outputs)]
    assert len(said) == 4  # subspaces, translator and encoder in notebook 02, subspaces in 04
    record = json.loads((folder / "results" / "run.json").read_text())
    assert record["parameters"]["controls"] == ["prompts", "rank"]
    drawn = [o for c in code_cells(done[5].path) for o in c.outputs if "sing-gallery" in str(o)]
    assert len(drawn) == 7


def test_the_planted_profile_runs_from_end_to_end(tmp_path):
    """All notebooks in the planted world, at its smallest; what is known beforehand comes out."""
    folder = tmp_path / "run"
    given = {
        "images": "planted:300@7",
        "classifiers": ["clean", "leaky"],
        "classes": ["circle", "star", "heart"],
        "concepts": ["a red object", "an object on a pink background", "an object under a cloud"],
        "targets": ["red object", "object on a pink background"],
        "adamw_epochs": 1,
        "bootstrap_draws": 100,
        "thumbnails": 2,
        "explorer_photos": 1,
        "planted_worlds": 2,
        "planted_scenes": 600,
        "control_draws": 19,
        "permutations": 99,
    }
    done = run_profile(ROOT, "planted", overrides=given, run_dir=str(folder), progress=False)
    assert [e.ran for e in done] == [True] * len(NOTEBOOKS)
    tables = {p.stem: pd.read_parquet(p) for p in (folder / "results").glob("*.parquet")}
    assert set(tables["heads"]["null dimension"]) == {64}
    assert (tables["certificates"]["top-1 changes"] == 0).all()
    assert tables["planted_validation"]["passed"].all()
    assert "planted:weak" in set(tables["encoder_control"]["encoder"])
    answers = tables["planted_controls"]
    kinds = answers[(answers["control"] == "same dimension") & (answers["score"] == "contrast")]
    places = kinds.groupby("head")["percentile"].min()
    assert places["clean"] > 95 > places["leaky"]
    assert set(tables["planted_recovery"]["seed"]) == {0, 1}
