"""Every table of a run as files beside the book's pages, and the links to them.

Links are relative and go to files in `_static/tables/`, so that they work from a disk as from a server.
"""

from __future__ import annotations

import io
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow.parquet as pq

from sing_utils.book.templates import render
from sing_utils.runs.results import Results, without_pictures

STAGED = "book/_static/tables"  # in the staged folder
ADDED = "sing-downloads"  # id of the cell that the book adds to a notebook
_SAVED = re.compile(r"""\bsave_table\(\s*(["'])([^"'{}]+)\1""")
_BESIDE = ("run.json", "citation.bib")


def run_results(root: Path, run: str) -> Results:
    """The results of a run by its name in `_build/runs`, which may have none yet."""
    return Results(root / "_build" / "runs" / run / "results")


def table_files(results: Results) -> dict[str, bytes]:
    """{path in the staged folder: contents} of every table as CSV and Parquet, the record, the citation.

    A CSV has every digit and no pictures: those are in the Parquet file only.
    """
    files = {}
    for name in results.names:
        files[f"{STAGED}/{name}.parquet"] = (results.folder / f"{name}.parquet").read_bytes()
        files[f"{STAGED}/{name}.csv"] = csv_bytes(results.table(name))
    for name in _BESIDE:
        if (results.folder / name).is_file():
            files[f"{STAGED}/{name}"] = (results.folder / name).read_bytes()
    return files


def csv_bytes(table: pd.DataFrame) -> bytes:
    r"""A table as UTF-8 text with every digit.

    >>> csv_bytes(pd.DataFrame({"class": ["tench"], "AS": [0.1], "picture": [b"RIFF"]}))
    b'class,AS\ntench,0.1\n'
    """
    return without_pictures(table).to_csv(index=False, lineterminator="\n").encode()


def saved_tables(notebook: Mapping[str, Any]) -> list[str]:
    r"""Names of the tables that a notebook's code saves, in order.

    >>> cell = {"cell_type": "code", "source": ['x = run.save_table(\n', '    "scores", scores)']}
    >>> saved_tables({"cells": [cell, cell]})
    ['scores']
    """
    code = ("".join(cell["source"]) for cell in notebook["cells"] if cell["cell_type"] == "code")
    return list(dict.fromkeys(found[2] for source in code for found in _SAVED.finditer(source)))


def download_cell(
    names: Iterable[str], files: Mapping[str, bytes], *, all_tables: bool = False
) -> dict[str, Any] | None:
    """A Markdown cell with links to a notebook's tables, those that the run has; None if it has none.

    Args:
        names: of the tables.
        files: what `table_files` returned.
        all_tables: whether the book has the page of `tables_page`, to link to.
    """
    kept = [_listed(name, files) for name in names if f"{STAGED}/{name}.parquet" in files]
    text = render("tables.md", cell=True, tables=kept, files=files, all_tables=all_tables)
    return {"cell_type": "markdown", "id": ADDED, "metadata": {}, "source": text} if kept else None


def tables_page(results: Results, files: Mapping[str, bytes], made_in: Mapping[str, str]) -> str:
    """The page "All tables" as Markdown.

    Args:
        results: of the run that the book shows.
        files: what `table_files` returned.
        made_in: table -> name of the notebook that saves it.
    """
    return render(
        "tables.md",
        cell=False,
        tables=[_listed(name, files, made_in.get(name, "")) for name in results.names],
        files=files,
        run=results.run,
        example="photo_scores" if "photo_scores" in results.names else next(iter(results.names), ""),
        citation=files.get(f"{STAGED}/citation.bib", b"").decode().strip(),
    )


def _listed(name: str, files: Mapping[str, bytes], made_in: str = "") -> dict[str, Any]:
    """What a page says of a table."""
    file = pq.ParquetFile(io.BytesIO(files[f"{STAGED}/{name}.parquet"]))
    columns = file.schema_arrow.names
    return {"name": name, "rows": file.metadata.num_rows, "columns": columns, "made_in": made_in}
