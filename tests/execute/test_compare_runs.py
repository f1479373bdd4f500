"""Comparing runs: rows find their partners, and every difference is counted where it is."""

from __future__ import annotations

import json
import math

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sing_utils import SingError
from sing_utils.cli.tables import sections, summary
from sing_utils.execute.compare import compare
from sing_utils.runs.results import Results

SCORES = pd.DataFrame(
    {
        "class": ["tench", "tench", "gas pump", "gas pump"],
        "path": ["a", "b", "c", "d"],
        "classifier": ["x"] * 4,
        "AS": [0.1, 0.2, 0.3, 0.4],
        "top1": ["tench", "tench", "gas pump", "church"],
    }
)
RECORD = {
    "parameters": {"seed": 0, "classes": {"n1": "tench", "n2": "gas pump"}, "concepts": ["a", "b"]},
    "versions": {"torch": "2.12"},
    "revisions": {"classifiers": {"x": {"weights": "0" * 64}}, "pictures": {"number": 4}},
    "date": "2026-11-25T08:00:00Z",
    "code": {"commit": "a"},
    "hardware": {"cores": 2},
}


@pytest.fixture
def runs(tmp_path):
    """Write two runs: name -> (table of A, table of B); None: not there."""

    def write(tables, record_a=None, record_b=None):
        made = []
        for i, record in enumerate((record_a, record_b)):
            folder = tmp_path / "ab"[i] / "results"
            folder.mkdir(parents=True)
            for name, pair in tables.items():
                if pair[i] is not None:
                    pair[i].to_parquet(folder / f"{name}.parquet", index=False)
            if record is not None:
                (folder / "run.json").write_text(json.dumps(record))
            made.append(Results(folder))
        return made

    return write


def changed(table, row, column, value):
    table = table.copy()
    table.loc[row, column] = value
    return table


def test_equal_runs_are_equal_whatever_the_order_of_rows_and_the_seconds(runs):
    a = SCORES.assign(seconds=1.0)
    b = SCORES.assign(seconds=9.0).iloc[::-1]
    later = RECORD | {"date": "2027-01-01T00:00:00Z", "code": {"commit": "b"}, "hardware": {"cores": 9}}
    found = compare(*runs({"scores": (a, b)}, RECORD, later))
    assert found.equal
    assert found.skipped == ("scores.seconds",)
    assert found.tables.loc[0, ["rows", "note"]].tolist() == [4, ""]
    assert sections(found) == []
    assert summary(found) == "The runs are equal: 1 table. Not compared: scores.seconds."


def test_a_row_whose_name_lacks_a_part_finds_its_partner(runs):
    table = pd.DataFrame({"class": [None, "tench", "tench"], "wording": ["a", "a", "b"], "AS": 1.5})
    a, b = runs({"scores": (table, changed(table.iloc[::-1], 0, "AS", 2.5))})
    (row,) = compare(a, b).columns.to_dict("records")
    assert (row["table"], row["column"], row["differ"]) == ("scores", "AS", 1)


def test_a_number_or_text_that_differs_is_counted_measured_and_placed(runs):
    b = changed(changed(SCORES, 0, "AS", 0.15), 2, "AS", 0.6)
    b = changed(b, 3, "top1", "tench").iloc[[3, 2, 1, 0]]
    found = compare(*runs({"scores": (SCORES, b)}))
    assert not found.equal
    row, text = found.columns.iloc[0], found.columns.iloc[1]
    assert (row["table"], row["column"], row["rows"], row["differ"]) == ("scores", "AS", 4, 2)
    assert row["largest"] == pytest.approx(0.3)
    assert row["median"] == pytest.approx((0.05 + 0.3) / 2)
    assert row["where"] == "path c"
    assert row["relative"] == pytest.approx(0.3 / 0.6)
    assert math.isnan(row["outside"])
    assert (text["column"], text["differ"], text["where"], text["relative"]) == ("top1", 1, "path d", 0.25)
    assert math.isnan(text["largest"])
    assert len(found.columns) == 2


def test_the_tolerance_is_absolute_and_no_number_is_never_within_it(runs):
    near = changed(SCORES, 0, "AS", 0.1 + 1e-9)
    a, b = runs({"scores": (SCORES, near)})
    assert not compare(a, b).equal
    assert compare(a, b, tolerance=1e-8).equal
    changed(SCORES, 0, "AS", math.nan).to_parquet(b.folder / "scores.parquet")
    found = compare(a, b, tolerance=10.0)
    assert found.columns.loc[0, ["differ", "where"]].tolist() == [1, "path a"]
    assert math.isnan(found.columns.loc[0, "largest"])
    for bad in (-1.0, math.nan, math.inf):
        with pytest.raises(SingError, match="tolerance is .*, expected 0"):
            compare(a, b, tolerance=bad)


def test_no_number_and_infinity_equal_themselves(runs):
    table = SCORES.assign(AS=[math.nan, math.inf, -math.inf, 1.0])
    a, b = runs({"scores": (table, table)})
    assert compare(a, b).equal
    changed(table, 1, "AS", -math.inf).to_parquet(b.folder / "scores.parquet")
    assert compare(a, b).columns.loc[0, "differ"] == 1


def test_rows_tables_and_columns_of_one_run_only(runs):
    tables = {
        "scores": (SCORES, SCORES.iloc[1:].drop(columns="top1")),
        "only_a": (SCORES, None),
        "only_b": (None, SCORES),
    }
    found = compare(*runs(tables))
    assert found.rows.to_numpy().tolist() == [["scores", "A", "class tench, path a"]]
    assert (found.only_a, found.only_b) == (("only_a",), ("only_b",))
    assert found.tables["note"].tolist() == ["only A has the column top1"]
    assert found.columns.empty
    told = summary(found)
    assert (
        "1 row without a partner; 2 tables in one run only; 1 table of another form; 1 table in both" in told
    )


def test_measured_whole_numbers_and_words_do_not_name_rows(runs):
    """The change of top1 and of flips is a difference, not two rows without partners."""
    table = pd.DataFrame({"flips": [0, 1], "classifier": ["x", "y"], "top1": ["a", "b"]})
    other = pd.DataFrame({"flips": [3, 1], "classifier": ["x", "y"], "top1": ["a", "c"]})
    found = compare(*runs({"steps": (table, other)}))
    assert found.rows.empty
    assert found.tables.loc[0, "matched_by"] == "classifier"
    assert set(found.columns["column"]) == {"flips", "top1"}


def test_numbers_of_an_order_name_rows_where_words_do_not(runs):
    table = pd.DataFrame({"pair": ["p", "p", "q", "q"], "place": [1, 2, 1, 2], "original": list("abab")})
    found = compare(*runs({"logits": (table, changed(table, 0, "original", "z"))}))
    assert found.tables.loc[0, "matched_by"] == "pair, place"
    assert found.columns.loc[0, ["column", "where"]].tolist() == ["original", "pair p, place 1"]


def test_a_grid_of_numbers_names_rows_only_where_all_find_a_partner(runs):
    curve = pd.DataFrame({"IS": [0.0, 5.0, 10.0], "AS": [0.0, 1.0, 2.0]})
    a, b = runs({"curve": (curve, curve.iloc[:2])})
    found = compare(a, b)
    assert found.tables.loc[0, ["rows", "matched_by", "note"]].tolist() == [2, "IS", ""]
    assert found.rows["row"].tolist() == ["IS 10.0"]
    (curve + 0.5).to_parquet(b.folder / "curve.parquet")  # nothing names them now
    found = compare(a, b)
    assert "position" in found.tables.loc[0, "matched_by"]
    assert found.columns["where"].tolist() == ["row 1", "row 1"]
    (curve.iloc[:2] + 0.5).to_parquet(b.folder / "curve.parquet")
    found = compare(a, b)
    assert "there are 3 and 2: not compared" in found.tables.loc[0, "note"]
    assert not found.equal


def test_values_outside_the_other_interval_come_first(runs):
    table = pd.DataFrame(
        {"a": ["x", "y", "z"], "rho": [0.1, 0.2, 0.3], "low": 0.0, "high": 0.5, "p": [0.1] * 3}
    )
    other = table.assign(rho=[0.1, 0.4, 0.9], low=[0.15, 0.0, 0.0], p=[0.9] * 3)
    a, b = runs({"rank": (table, other)})
    found = compare(a, b)
    assert found.columns["column"].tolist() == ["rho", "low", "p"]
    assert found.columns.loc[0, "outside"] == 2  # A's 0.1 lies below 0.15, B's 0.9 above 0.5
    for tolerance, outside in ((0.1, 1), (0.45, 0)):  # which counts beside an interval too
        columns = compare(a, b, tolerance=tolerance).columns.set_index("column")
        assert columns.loc["rho", "outside"] == outside
    assert found.columns["outside"].isna().tolist() == [False, True, True]
    shown = dict(sections(found))["Numbers, what matters most first"]
    assert shown.loc[0, "outside the interval"] == "2 of 3"


def test_records_are_compared_key_by_key(runs):
    other = json.loads(json.dumps(RECORD))
    other["parameters"] |= {"seed": 3, "classes": {"n1": "tench", "n3": "church"}, "concepts": ["a"]}
    other["versions"] = {"torch": "2.13", "numpy": "2"}
    other["revisions"]["classifiers"]["x"]["weights"] = "1" * 64
    found = compare(*runs({"scores": (SCORES, SCORES)}, RECORD, other))
    assert not found.equal
    assert found.parameters["key"].tolist() == ["seed", "classes", "concepts"]
    assert found.versions.to_numpy().tolist() == [["torch", "2.12", "2.13"], ["numpy", None, "2"]]
    assert found.revisions["key"].tolist() == ["classifiers.x.weights"]
    shown = dict(sections(found))
    assert shown["Parameters"].to_numpy().tolist() == [
        ["seed", "0", "3"],
        ["classes", "with n2: gas pump", "with n3: church"],
        ["concepts", "with b", "without them"],
    ]
    assert shown["Weights and pictures"].loc[0, "A"] == "0" * 12 + "…"
    assert summary(found) == "The runs differ: 3 parameters; 2 versions; 1 revision; 1 table in both."


def test_a_run_without_a_record_is_said_and_compared_by_its_tables(runs):
    found = compare(*runs({"scores": (SCORES, SCORES)}, RECORD, None))
    assert found.equal
    assert not found.recorded
    assert "Only tables were compared" in summary(found)


def test_only_the_first_columns_are_listed_unless_all_are_wanted(runs):
    table = pd.DataFrame({"a": ["x"], **{f"c{i}": [float(i)] for i in range(9)}})
    found = compare(*runs({"t": (table, table + table.assign(a=[""]))}))
    title, shown = sections(found, rows=3)[0]
    assert title.endswith("5 more columns with --all")
    assert len(shown) == 3
    assert len(sections(found)[0][1]) == 8


def test_a_damaged_table_is_one_sentence(runs):
    a, b = runs({"scores": (SCORES, SCORES)})
    (b.folder / "scores.parquet").write_bytes(b"PAR1")
    with pytest.raises(SingError, match="table scores of the run b can't be read .*--force"):
        compare(a, b)


def test_columns_of_another_type_and_of_bytes(runs):
    a = pd.DataFrame({"path": ["a", "b"], "picture": [b"1", b"2"], "number": [1, 2], "none": [None, "x"]})
    b = a.assign(number=[1.0, 2.5], picture=[b"1", b"3"])
    found = compare(*runs({"t": (a, b)}))
    assert dict(zip(found.columns["column"], found.columns["differ"], strict=True)) == {
        "picture": 1,
        "number": 1,
    }


@given(
    order=st.permutations(range(6)),
    shift=st.lists(st.sampled_from([0.0, 0.5, -2.0]), min_size=6, max_size=6),
)
def test_any_order_any_change(tmp_path_factory, order, shift):
    """What compare counts is what was changed, however the rows are ordered."""
    table = pd.DataFrame({"name": list("abcdef"), "draw": range(6), "value": np.arange(6.0)})
    folders = [tmp_path_factory.mktemp("run") / "results" for _ in range(2)]
    for folder, t in zip(
        folders, (table, table.assign(value=table["value"] + shift).iloc[list(order)]), strict=True
    ):
        folder.mkdir()
        t.to_parquet(folder / "t.parquet", index=False)
    found = compare(Results(folders[0]), Results(folders[1]))
    moved = np.abs(shift)
    assert found.equal == (not moved.any())
    if moved.any():
        row = found.columns.iloc[0]
        assert (row["differ"], row["largest"]) == ((moved > 0).sum(), moved.max())
        assert row["where"] == f"name {'abcdef'[int(moved.argmax())]}"
