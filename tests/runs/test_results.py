"""Results: opening them by name or folder, and their tables as text that loses nothing."""

from __future__ import annotations

import json
import math
import re

import numpy as np
import pandas as pd
import pytest
from typer.testing import CliRunner

from sing_utils import SingError
from sing_utils.book.downloads import csv_bytes
from sing_utils.cli import app
from sing_utils.cli.tables import HEADLINES, describe, headline, readable, render, sections
from sing_utils.execute.compare import compare
from sing_utils.runs.results import Results, without_pictures

MEDIANS = pd.DataFrame(
    {
        "classifier": ["b", "b", "a", "a"],
        "class": ["tench", "gas pump"] * 2,
        "photos": [60, 50, 60, 50],
        "value": [0.41691, 0.2, 0.1, 0.3],
        "low": [0.2926, 0.1, math.nan, 0.2],
        "high": [0.5136, 0.3, math.nan, 0.4],
        "enlarged": [False, True, False, True],
    }
)


@pytest.fixture
def root(tmp_path):
    """A checkout with one run."""
    folder = tmp_path / "_build" / "runs" / "small" / "results"
    folder.mkdir(parents=True)
    MEDIANS.to_parquet(folder / "class_medians.parquet", index=False)
    return tmp_path


def write_record(root, **values):
    record = {
        "run": "small",
        "profile": "small",
        "date": "2026-11-25T08:56:37Z",
        "code": {"sing_utils": "0.1.0", "commit": "abcdef0123456789", "dirty": False},
        "hardware": {"processor": "A CPU", "cores": 2, "gpus": []},
    }
    file = root / "_build" / "runs" / "small" / "results" / "run.json"
    file.write_text(json.dumps(record | values))


def test_a_run_is_opened_by_its_name_or_by_a_folder(root, monkeypatch):
    run = root / "_build" / "runs" / "small"
    monkeypatch.chdir(run)
    for given in ("small", "_build/runs/small", str(run), str(run / "results"), "."):
        opened = Results.open(root, given)
        assert opened.run == "small"
        assert opened.names == ["class_medians"]
    assert Results.open(root, "small").get("nothing") is None


def test_a_run_that_is_not_there_is_told_with_those_that_are(root, tmp_path_factory):
    with pytest.raises(SingError, match="no results of a run 'smal', expected one of small, .*`sing run"):
        Results.open(root, "smal")
    with pytest.raises(SingError, match="expected a run, but there is none yet: .*`sing run"):
        Results.open(tmp_path_factory.mktemp("empty"), "small")


def test_an_unknown_table_is_told_with_the_nearest(root):
    with pytest.raises(SingError, match="run small has no table 'class_median'.*mean 'class_medians'"):
        Results.open(root, "small").table("class_median")


def test_a_record_is_empty_without_a_file_and_refused_when_damaged(root):
    opened = Results.open(root, "small")
    assert opened.record == {}
    for text in ("{", "3", "\x00"):
        (opened.folder / "run.json").write_text(text)
        with pytest.raises(SingError, match="run.json of the run small is damaged.*delete it"):
            _ = Results(opened.folder).record


def test_only_columns_of_bytes_are_left_out():
    table = pd.DataFrame(
        {"path": ["a", "b"], "picture": [None, b"RIFF"], "number": [1, 2], "list": [[1], [2]]}
    )
    assert list(without_pictures(table)) == ["path", "number", "list"]


# ------------------------------------------------------------------------------------- text


def test_the_line_of_a_run_says_what_made_it(root):
    opened = Results.open(root, "small")
    assert describe(opened) == ["Run small; it has no run.json yet, which `sing run` writes: call it again."]
    write_record(root, rehearsal=False)
    code = "sing_utils 0.1.0, commit abcdef0123"
    line = f"Run small · profile small · 2026-11-25 08:56:37 UTC · {code} · A CPU, 2 cores"
    assert describe(Results(opened.folder)) == [line]
    write_record(root, rehearsal=True, stages={"00_a": {"current": True}, "01_b": {"current": False}})
    assert describe(Results(opened.folder))[1:] == [
        "Made before something changed, and not again since: 01_b.",
        "This is a rehearsal: random weights and generated pictures. No number means anything.",
    ]


def test_medians_stand_beside_each_other_with_their_intervals():
    shown = headline("class_medians", MEDIANS)
    assert list(shown) == ["class", "b", "a"]  # in the order of the run, not of the alphabet
    assert shown.to_numpy().tolist() == [
        ["tench", "0.417 [0.293, 0.514]", "0.100"],  # a single photo has no interval
        ["gas pump", "0.200 [0.100, 0.300]", "0.300 [0.200, 0.400]"],
    ]


def test_rows_that_would_be_lost_side_by_side_stay_below_each_other():
    twice = pd.concat([MEDIANS, MEDIANS])
    assert list(headline("class_medians", twice)) == ["classifier", "class", "median |AS| (°)"]
    assert len(headline("class_medians", twice)) == 8


def test_contrasts_have_intervals_and_a_star_where_they_are_not_chance():
    table = pd.DataFrame(
        {
            "classifier": ["a", "a", "b", "b"],
            "class": ["cat", "dog"] * 2,
            "contrast": [0.5, -0.25, 0.125, 1.0],
            "contrast low": [0.25, -0.5, 0.0, 0.5],
            "contrast high": [0.75, 0.0, 0.25, 1.5],
            "q": [0.01, 0.05, 0.5, float("nan")],
        }
    )
    shown = headline("class_scores", table)
    assert shown["a"].tolist() == ["0.500 [0.250, 0.750] *", "-0.250 [-0.500, 0.000]"]
    assert shown["b"].tolist() == ["0.125 [0.000, 0.250]", "1.000 [0.500, 1.500]"]


def test_angles_of_steering_have_their_unit():
    row = dict.fromkeys(HEADLINES["steering"].columns, 1.5) | {"classifier": "a", "moved": 1e-9}
    shown = headline("steering", pd.DataFrame([row]))
    assert {"IS (°)", "mean |AS| (°)", "top-1 changes"} <= set(shown)
    assert "moved" not in shown
    control = pd.DataFrame({"prompt": ["an image"], "AS": [0.25]})
    assert list(headline("encoder_control", control)) == ["prompt", "AS (°)"]


@pytest.mark.parametrize(
    ("values", "texts"),
    [
        ([0.123456, 0.01], ["0.123", "0.010"]),
        ([12.3456, 1.0], ["12.35", "1.00"]),
        ([1234.5, 0.5], ["1234", "0.5"]),
        ([0.5, 0.0, -1e-4, math.nan], ["0.500", "0.000", "-0.0001", "–"]),
        ([3.5e-9, 2e-9], ["3.5e-09", "2.0e-09"]),
        ([0.0, math.nan], ["0", "–"]),
        ([math.inf, -math.inf], ["∞", "−∞"]),
        ([40.0, 20.0], ["40", "20"]),
        ([True, False], ["yes", "no"]),
        ([3, 4], ["3", "4"]),
        (["x", None], ["x", "–"]),
        (np.array([0.5, 2.0], dtype=np.float32), ["0.500", "2.000"]),
        (pd.array([1, None], dtype="Int64"), ["1", "–"]),
    ],
)
def test_cells_have_few_digits(values, texts):
    assert readable(pd.DataFrame({"x": values}))["x"].tolist() == texts


def test_a_pipe_gets_every_row_and_every_character(monkeypatch):
    wide = pd.DataFrame({f"column {i}": [f"text {i} " + "x" * 60] * 150 for i in range(12)})
    lines = render(wide).splitlines()
    assert len(lines) == 2 + 150
    assert all(len(line.split()) == 12 * 3 for line in lines[2:])
    assert "…" not in "".join(lines)
    assert "\x1b" not in "".join(lines)


@pytest.mark.parametrize("width", [40, 160, 200])
def test_a_narrow_terminal_loses_no_number(monkeypatch, width):
    monkeypatch.setattr("sys.stdout.isatty", lambda: True, raising=False)
    monkeypatch.setenv("COLUMNS", str(width))
    monkeypatch.setenv("TERM", "xterm")
    table = pd.DataFrame(
        {
            "classifier": ["efficientnet_lite0", "efficientnet_lite1"],
            "direction": ["toward the text", "random"],
            **{f"mean {i} (°)": [f"{i}.125 [{i}.001, {i}.987]"] * 2 for i in range(6)},
        }
    )
    text = re.sub(r"\x1b\[[0-9;]*m", "", render(table))
    for i in range(6):
        assert text.count(f"{i}.125 [{i}.001, {i}.987]") == 2
    assert (max(map(len, text.splitlines())) <= width) == (width >= 160)  # numbers do not break


def test_markdown_is_a_table_whose_bars_are_escaped():
    shown = render(pd.DataFrame({"|AS|": ["0.5"], "class": ["a|b"]}), markdown=True)
    assert shown == "| \\|AS\\| | class |\n| --: | :-- |\n| 0.5 | a\\|b |"


def test_many_columns_of_few_classifiers_are_turned():
    table = pd.DataFrame({"classifier": ["a", "b"], "wordings": [9, 9], "mean AS (°)": [0.5, -1.0]})
    shown = headline("prompt_control", table)
    assert list(shown.columns) == ["classifier", "a", "b"]
    assert shown["classifier"].tolist() == ["wordings", "mean AS (°)"]
    assert shown["b"].tolist()[0] == "9"


# ----------------------------------------------------------------------- tables without a row

EMPTY = {
    "rank_correlations": pd.DataFrame({"a": [], "b": [], "rho": [], "low": [], "high": []}),
    "class_scores": pd.DataFrame(columns=["classifier", "class", "contrast", "contrast low"]),
    "prompt_control": pd.DataFrame({"classifier": pd.Series([], dtype="str"), "share": []}),
    "classifier_differences": pd.DataFrame(),
    "failures": pd.DataFrame({"classifier": [], "photos": pd.Series([], dtype=int)}),
}


@pytest.fixture
def empties(root):
    for name, table in EMPTY.items():
        table.to_parquet(root / "_build" / "runs" / "small" / "results" / f"{name}.parquet", index=False)
    return Results.open(root, "small")


@pytest.mark.parametrize("markdown", [True, False])
@pytest.mark.parametrize("name", EMPTY)
def test_a_table_without_rows_is_shown_as_one(empties, name, markdown):
    table = empties.table(name)
    for texts in (readable(without_pictures(table)), headline(name, table) if name in HEADLINES else table):
        assert "no row" in render(texts, markdown=markdown)
    assert csv_bytes(table).count(b"\n") == 1  # its heading


@pytest.mark.parametrize("format", ["text", "markdown"])
def test_headlines_leave_out_tables_without_rows(empties, monkeypatch, format):
    monkeypatch.setattr("sing_utils.checkout.project_root", lambda: empties.folder.parents[3])
    shown = CliRunner().invoke(app, ["results", "--run", "small", "--format", format])
    assert shown.exit_code == 0, shown.output
    assert "[class_medians]" in shown.output
    assert "[rank_correlations]" not in shown.output
    further = shown.output.split("Further tables, for --table: ")[1]
    assert all(name in further for name in EMPTY)


@pytest.mark.parametrize("name", EMPTY)
def test_a_run_with_rows_is_compared_with_one_without(empties, tmp_path, name):
    other = tmp_path / "other" / "results"
    other.mkdir(parents=True)
    full = pd.DataFrame({"classifier": ["x"], "a": ["x"], "b": ["y"], "rho": [0.5], "class": ["tench"]})
    full.to_parquet(other / f"{name}.parquet", index=False)
    found = compare(empties, Results(other))
    assert not found.equal
    assert sections(found)
    assert compare(empties, empties).equal
