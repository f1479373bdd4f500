"""The notebooks: clean in git, the method in sight; each runs alone, with other parameters than these."""

from __future__ import annotations

import ast
import re
import shutil
from pathlib import Path

import nbformat
import pandas as pd
import papermill
import pytest
import yaml
from papermill.exceptions import PapermillExecutionError

import sing_utils
from sing_utils.execute.notebooks import find_notebooks
from sing_utils.runs.profiles import Profile, load_profile, profile_values

ROOT = Path(__file__).resolve().parents[2]
NOTEBOOKS = find_notebooks(ROOT)
FOLDED = {"hide-input", "hide-cell", "remove-input"}
MOST_LINES, WIDEST = 18, 96  # of a method cell, comments and blank lines apart; what fits a page
each = pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda p: p.stem.partition("_")[0])


def code_cells(path, tag=None):
    cells = [c for c in nbformat.read(path, 4).cells if c.cell_type == "code"]
    return [c for c in cells if tag is None or tag in c.metadata.get("tags", [])]


def parameters_of(path):
    """Name -> value of the parameters cell."""
    (cell,) = code_cells(path, "parameters")
    return {n.targets[0].id: ast.literal_eval(n.value) for n in ast.parse(cell.source).body}


def solutions_of(path):
    """The code of the exercises' solutions, which are the last cell."""
    return re.findall(
        r"<details><summary>Solution.*?```python\n(.*?)```", nbformat.read(path, 4).cells[-1].source, re.S
    )


def imported(path):
    """Names that a notebook imports from this package, outside its method."""
    trees = (n for c in code_cells(path) for n in ast.walk(ast.parse(c.source)))
    found = [n for n in trees if isinstance(n, ast.ImportFrom) and n.module.startswith("sing_utils")]
    return {a.asname or a.name: f"{n.module}.{a.name}" for n in found for a in n.names}


@each
def test_clean_in_git(path):
    nb = nbformat.read(path, 4)
    nbformat.validate(nb)
    ids = [c.get("id") for c in nb.cells]
    assert all(ids)
    assert len(set(ids)) == len(ids)
    for cell in code_cells(path):
        assert cell.outputs == [], cell.source
        assert cell.execution_count is None, cell.source
    assert nb.metadata.kernelspec.name == "python3"  # papermill needs one
    assert set(nb.metadata) <= {"kernelspec", "language_info"}
    assert nb.cells[0].source.startswith("# ")


@each
def test_the_method_is_in_sight_and_the_rest_is_folded(path):
    root = {
        name
        for name, where in imported(path).items()
        if where.removeprefix("sing_utils.") in sing_utils.__all__
    }
    helpers = set(imported(path)) - root
    for cell in code_cells(path):
        tags = set(cell.metadata.get("tags", []))
        if "method" not in tags:
            assert tags & FOLDED, cell.source
            continue
        assert not tags & FOLDED, cell.source
        tree = ast.parse(cell.source)
        assert not {n.id for n in ast.walk(tree) if isinstance(n, ast.Name)} & helpers, cell.source
        lines = [x for x in cell.source.splitlines() if x.strip() and not x.lstrip().startswith("#")]
        assert len(lines) <= MOST_LINES, cell.source
        assert max(map(len, lines)) <= WIDEST, cell.source
        assert re.search(r"eqs?\. ?\d", cell.source), cell.source


def test_every_equation_of_the_paper_is_in_some_method_cell():
    text = "\n".join(c.source for p in NOTEBOOKS for c in code_cells(p, "method"))
    cited = {int(x) for x in re.findall(r"\beq\. (\d+)", text)}
    for low, dash, high in re.findall(r"\beqs\. (\d+)(–| and )(\d+)", text):
        cited |= set(range(int(low), int(high) + 1)) if dash == "–" else {int(low), int(high)}
    assert cited == set(range(1, 15))


@each
def test_parameters_are_the_profiles_values_and_reach_the_run(path):
    given = parameters_of(path)
    assert list(given)[:2] == ["profile", "run_dir"]
    assert given["profile"], given["run_dir"] == ("embedded", None)
    written, loaded = profile_values("embedded", ROOT), load_profile("embedded", root=ROOT)
    for name in list(given)[2:]:
        assert name in Profile.model_fields
        assert given[name] == written.get(name, getattr(loaded, name)), name
    calls = [n for c in code_cells(path) for n in ast.walk(ast.parse(c.source)) if isinstance(n, ast.Call)]
    (opened,) = [n for n in calls if getattr(n.func, "id", "") == "open_run"]
    assert [a.id for a in opened.args] == ["profile", "run_dir"]
    assert {k.arg: k.value.id for k in opened.keywords} == {name: name for name in list(given)[2:]}


@each
def test_no_cell_but_the_first_two_uses_a_parameter(path):
    """A profile's value replaces a default in the run, not in the cell: `run.degrees`, not `degrees`."""
    for cell in code_cells(path):
        if "parameters" in cell.metadata["tags"] or "= open_run(" in cell.source:
            continue
        names = [n for n in ast.walk(ast.parse(cell.source)) if isinstance(n, ast.Name)]
        read = {n.id for n in names if isinstance(n.ctx, ast.Load)}
        assert not read & set(parameters_of(path)), cell.source


# --------------------------------------------------------------------------------- each runs alone

# In the planted world: its features are few, its answers known. `make book` runs the embedded profile.
OTHER = {
    "images": "planted:300@7",
    "classifiers": {"leaky": "planted:leaky", "clean": "planted:clean"},
    "classes": ["star", "circle", "heart"],
    "concepts": ["a red object", "an object on a pink background", "an object under a cloud"],
    "concept_classes": ["circle"],
    "more_concepts": ["a striped object"],
    "seed": 7,
    "held_out": 0.2,
    "adamw_epochs": 1,
    "refits": 4,
    "bootstrap_draws": 100,
    "photos": ["coffee"],
    "source_class": "circle",
    "targets": ["red object", "object on a pink background"],
    "degrees": 12.0,
    "control_draws": 19,
    "permutations": 99,
    "thumbnails": 2,
    "explorer_photos": 1,
    "planted_worlds": 2,
    "planted_scenes": 600,
    "search_photos": 2,
    "search_steps": 2,
}
# Words of solutions that the planted world does not know -> some that it does.
WORDS = {
    "02": ('["a photo taken outdoors"]', '["a striped object"]'),
    "03": ('["a camel", "a horse", "sand"]', '["a star", "a heart", "a red object"]'),
    "05": ('["an image of the sea at night"]', '["an image of a heart under a cloud"]'),
}


@pytest.fixture(scope="session")
def small(tmp_path_factory):
    """A profile of one's own, outside the checkout, with other parameters than any notebook's."""
    folder = tmp_path_factory.mktemp("small")
    written = profile_values("planted", ROOT) | OTHER | {"name": "small"}
    (folder / "small.yaml").write_text(yaml.safe_dump(written, allow_unicode=True))
    return folder


def run_alone(path, folder, parameters, *, also=()):
    """Execute a notebook by plain papermill from `folder`, outside the checkout, with more cells."""
    nb = nbformat.read(path, 4)
    nb.cells += [nbformat.v4.new_code_cell(x) for x in also]
    folder.mkdir(exist_ok=True)
    nbformat.write(nb, folder / "in.ipynb")
    papermill.execute_notebook(
        str(folder / "in.ipynb"), str(folder / "out.ipynb"), parameters=parameters, cwd=str(folder),
        progress_bar=False, log_output=False,
    )  # fmt: skip
    return nbformat.read(folder / "out.ipynb", 4)


@each
def test_alone_from_another_folder_with_other_parameters_and_its_solutions(path, small, tmp_path):
    """What papermill is given reaches every table; what the notebook needs of others is made."""
    number, solutions = path.stem.partition("_")[0], solutions_of(path)
    assert len(solutions) >= 2 or number[-1].isalpha()  # an appendix has a letter
    if number in WORDS:
        assert WORDS[number][0] in "".join(solutions)
        solutions = [x.replace(*WORDS[number]) for x in solutions]
    given = {"profile": str(small / "small.yaml"), "run_dir": str(tmp_path / "run")}
    done = run_alone(path, tmp_path / "elsewhere", given, also=solutions)
    outputs = [o for c in done.cells if c.cell_type == "code" for o in c.outputs]
    warned = "".join(o["text"] for o in outputs if o.get("name") == "stderr")
    assert "Warning" not in warned, warned  # bars of a first extraction may be there
    tables = {p.stem: pd.read_parquet(p) for p in (tmp_path / "run" / "results").glob("*.parquet")}
    said = tables["findings"].set_index("id")["measured"]
    opening = [o for o in outputs if "sing-opening" in str(o)]
    assert len(opening) == 1
    assert any(text[:40] in str(opening[0]["data"]["text/html"]).replace("&#x27;", "'") for text in said)
    for name, table in tables.items():
        assert len(table), name
        for column, known in (("classifier", OTHER["classifiers"]), ("class", OTHER["classes"])):
            if column in table and not name.startswith("planted"):
                assert set(table[column].dropna()) <= set(known), name
    check_what_is_known(number, tables)


def check_what_is_known(number, tables):
    """What the planted world says beforehand comes out."""
    if number == "00":
        assert set(tables["heads"]["null dimension"]) == {64}
        assert (tables["heads"]["top-1 changes"] == 0).all()
    if number == "02b":
        assert "planted:weak" in set(tables["encoder_control"]["encoder"])
    if number == "06":
        assert set(tables["planted_recovery"]["seed"]) == {7, 8}
    if number == "06b":
        answers = tables["planted_controls"]
        kinds = answers[(answers["control"] == "same dimension") & (answers["score"] == "contrast")]
        places = kinds.groupby("head")["percentile"].min()
        assert places["clean"] > 95 > places["leaky"]


@pytest.mark.parametrize("number", ["02b", "03", "07"])
def test_one_classifier_and_one_class_are_enough(small, tmp_path, number):
    path = next(p for p in NOTEBOOKS if p.stem.startswith(f"{number}_"))
    written = yaml.safe_load((small / "small.yaml").read_text())
    written |= {"classifiers": {"clean": "planted:clean"}, "classes": ["circle"]}
    (tmp_path / "one.yaml").write_text(yaml.safe_dump(written, allow_unicode=True))
    run_alone(
        path, tmp_path / "in", {"profile": str(tmp_path / "one.yaml"), "run_dir": str(tmp_path / "run")}
    )
    assert (tmp_path / "run" / "results" / "findings.parquet").exists()


def test_what_differs_from_the_profile_is_a_run_of_its_own(small, tmp_path):
    """Given to papermill by hand: a new folder, and the default run is untouched."""
    runs = ROOT / "_build" / "runs"
    before = {p: p.stat().st_mtime_ns for p in runs.glob("embedded/results/*")}
    known = set(runs.glob("*"))
    try:
        run_alone(NOTEBOOKS[0], tmp_path, {"classifiers": ["efficientnet_lite1"], "seed": 3})
        (made,) = set(runs.glob("*")) - known
        assert made.name.startswith("embedded-classifiers-efficientnet-lite1-seed-3-")
        assert pd.read_parquet(made / "results" / "heads.parquet")["classifier"].tolist() == [
            "efficientnet_lite1"
        ]
        assert before == {p: p.stat().st_mtime_ns for p in before}
    finally:
        for folder in set(runs.glob("*")) - known:
            shutil.rmtree(folder)


def test_a_parameter_that_the_notebook_lacks_is_an_error(tmp_path):
    with pytest.raises(PapermillExecutionError, match=r"no parameter 'degree', .* did you mean 'seed'"):
        run_alone(NOTEBOOKS[0], tmp_path, {"degree": 30.0, "run_dir": str(tmp_path / "run")})
