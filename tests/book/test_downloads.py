"""Downloads: every table as files with every digit, and links that lead to them."""

from __future__ import annotations

import io
import re
from urllib.parse import unquote

import pandas as pd
import pytest
from tags import Tags

from sing_utils.book import downloads

SCORES = pd.DataFrame({"class": ["a, b", 'c"d'], "AS (°)": [1 / 3, 1e-17], "picture": [b"RIFF", b"WEBP"]})


@pytest.fixture
def results(tmp_path):
    """Three tables, a record and a citation."""
    folder = tmp_path / "_build" / "runs" / "small" / "results"
    folder.mkdir(parents=True)
    for name in ("photo_scores", "odd name & more", "spectra"):
        SCORES.to_parquet(folder / f"{name}.parquet", index=False)
    (folder / "run.json").write_text('{"run": "small"}')
    (folder / "citation.bib").write_text("@misc{x}\n")
    return downloads.run_results(tmp_path, "small")


def assert_links_lead_to(text, files):
    served = [x for x in Tags(text).links if "download" in x]
    for link in served:
        assert link["href"].startswith("../_static/tables/")
        assert unquote(link["href"]).replace("../_static/", "book/_static/") in files
        assert link["aria-label"]
    return served


def test_files_hold_what_the_tables_hold(results):
    files = downloads.table_files(results)
    assert len(files) == 2 * 3 + 2
    csv = pd.read_csv(io.BytesIO(files["book/_static/tables/photo_scores.csv"]))
    assert b",0.3333333333333333\n" in files["book/_static/tables/photo_scores.csv"]
    pd.testing.assert_frame_equal(csv, SCORES.drop(columns="picture"), check_dtype=False)
    parquet = files["book/_static/tables/photo_scores.parquet"]
    assert parquet == (results.folder / "photo_scores.parquet").read_bytes()
    assert files["book/_static/tables/run.json"] == b'{"run": "small"}'


def test_a_run_without_results_has_no_files(tmp_path):
    empty = downloads.run_results(tmp_path, "none")
    assert downloads.table_files(empty) == {}
    assert "has saved no table" in downloads.tables_page(empty, {}, {})


@pytest.mark.parametrize(
    ("source", "names"),
    [
        ('run.save_table("a", x)', ["a"]),
        ("run.save_table('a', x)\ny = run.save_table(\n    'b',\n    x)", ["a", "b"]),
        ('run.save_table("a", x); run.save_table("a", y)', ["a"]),
        ('run.save_table(f"a{i}", x)', []),
        ('run.save_table(f"{i}", x); run.table("b"); unsave_table("c")', []),
        ("run.save_table(name, x)", []),
    ],
)
def test_tables_are_found_in_the_code(source, names):
    cells = [{"cell_type": "markdown", "source": 'save_table("no")'}, {"cell_type": "code", "source": source}]
    assert downloads.saved_tables({"cells": cells}) == names


def test_a_page_links_to_those_of_its_tables_that_the_run_has(results):
    files = downloads.table_files(results)
    cell = downloads.download_cell(["spectra", "missing", "odd name & more"], files)
    text = cell["source"]
    assert text.startswith("<details><summary>Download the numbers of this page")
    served = assert_links_lead_to(text, files)
    assert [unquote(x["href"].rpartition("/")[2]) for x in served] == [
        *("spectra.csv", "spectra.parquet"),
        *("odd name & more.csv", "odd name & more.parquet"),
    ]
    assert "\n\n" not in text.partition("<table")[2]  # an empty line would end the HTML
    assert "tables.html" not in text
    assert "../book/tables.html" in downloads.download_cell(["spectra"], files, all_tables=True)["source"]
    assert downloads.download_cell(["missing"], files) is None
    assert downloads.download_cell([], files) is None


def test_the_page_of_all_tables(results):
    files = downloads.table_files(results)
    page = downloads.tables_page(results, files, {"spectra": "00_setup"})
    served = assert_links_lead_to(page, files)
    assert len(served) == 2 * 3 + 2  # also the record and the citation
    assert page.startswith("# All tables\n")
    assert "the 3 tables of the run `small`" in page
    assert '<a href="../notebooks/00_setup.html">00_setup</a>' in page
    assert "<li>AS (°)</li>" in page
    assert 'pd.read_parquet("photo_scores.parquet")' in page
    assert "```bibtex\n@misc{x}\n```" in page
    assert len(re.findall(r"<tr>", page)) == 1 + 3


def test_the_page_of_a_run_without_a_record_says_so(results):
    (results.folder / "run.json").unlink()
    files = downloads.table_files(results)
    page = downloads.tables_page(results, files, {})
    assert "made without a record" in page
    assert "run.json" not in page
