"""Every table of a run as files beside the book's pages, and the links to them.

Links are relative and go to files in `_static/tables/`, so that they work from a disk as from a server.
"""

from __future__ import annotations

import html
import io
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pandas as pd
import pyarrow.parquet as pq

from sing_utils.runs.results import Results, without_pictures

STAGED = "book/_static/tables"  # in the staged folder
SERVED = "../_static/tables"  # from a page in book/ or notebooks/
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
    kept = [name for name in names if f"{STAGED}/{name}.parquet" in files]
    if not kept:
        return None
    said = (
        "Each table of this page as CSV, which opens anywhere, and as Parquet, which `pandas` reads with its "
        "types."
    )
    if all_tables:
        said += ' The whole run: <a href="../book/tables.html">All tables</a>.'
    rows = [_row(name, files, about="") for name in kept]
    folded = "<details><summary>Download the numbers of this page</summary>"
    text = f"{folded}\n\n{said}\n\n{_table(rows, 'Tables of this page')}\n</details>\n"
    return {"cell_type": "markdown", "id": ADDED, "metadata": {}, "source": text}


def tables_page(results: Results, files: Mapping[str, bytes], made_in: Mapping[str, str]) -> str:
    """The page "All tables" as Markdown.

    Args:
        results: of the run that the book shows.
        files: what `table_files` returned.
        made_in: table -> name of the notebook that saves it.
    """
    if not results.names:
        return "# All tables\n\nThe run that this book shows has saved no table.\n"
    rows = [_row(name, files, about=_about(name, results, made_in.get(name))) for name in results.names]
    return _PAGE.format(
        count=len(rows),
        run=results.run,
        table=_table(rows, "All tables of this run"),
        example=_example(results),
        record=_record_text(results, files),
    )


_PAGE = """# All tables

The numbers behind every chart and sentence of this book: the {count} tables of the run `{run}`. They are
tidy, one row an observation. Angles, AS and IS are in degrees. A CSV opens anywhere; Parquet keeps types.

{table}

## Load them

{example}

The same in a terminal, inside a checkout that has the run:

```bash
sing results --run {run}                          # the main tables
sing results --run {run} --table NAME             # one, whole; --format csv or markdown
sing compare {run} OTHER_RUN                      # what differs between two runs, and by how much
```

## What made them, and how to cite them

{record}
"""


def _example(results: Results) -> str:
    name = "photo_scores" if "photo_scores" in results.names else results.names[0]
    return f"```python\nimport pandas as pd\n\ntable = pd.read_parquet({name + '.parquet'!r})\n```"


def _record_text(results: Results, files: Mapping[str, bytes]) -> str:
    """Links to run.json and citation.bib, and what they say."""
    if f"{STAGED}/run.json" not in files:
        return "This run was made without a record: `sing run` writes one."
    made = (
        f"{_link('run.json', 'run.json', files)} has this run's parameters, the versions of the libraries, "
        "the machine, the weights' and pictures' checksums, the seconds of each notebook, and the SHA-256 of "
        "each table."
    )
    if f"{STAGED}/citation.bib" not in files:
        return made
    bibtex = files[f"{STAGED}/citation.bib"].decode().strip()
    cite = f"{_link('citation.bib', 'citation.bib', files)} cites the paper and this run of the book:"
    return f"{made}\n\n{cite}\n\n```bibtex\n{bibtex}\n```"


def _about(name: str, results: Results, notebook: str | None) -> str:
    """Below a table's name: what made it, and its columns, folded."""
    columns = pq.read_schema(results.folder / f"{name}.parquet").names
    listed = "".join(f"<li>{html.escape(c)}</li>" for c in columns)
    count = f"{len(columns)} columns" if len(columns) != 1 else "1 column"
    where = ""
    if notebook is not None:
        where = f'<a href="../notebooks/{quote(notebook)}.html">{html.escape(notebook)}</a>'
    return f"{where}<details><summary>{count}</summary><ul>{listed}</ul></details>"


def _row(name: str, files: Mapping[str, bytes], *, about: str) -> str:
    rows = pq.read_metadata(io.BytesIO(files[f"{STAGED}/{name}.parquet"])).num_rows
    links = "<br>".join(
        _link(f"{name}.{kind}", label, files) for kind, label in (("csv", "CSV"), ("parquet", "Parquet"))
    )
    return (
        f'<tr><th scope="row"><code>{html.escape(name).replace("_", "_<wbr>")}</code>{about}</th>'
        f"<td>{rows:,}</td><td>{links}</td></tr>"
    )


def _table(rows: list[str], caption: str) -> str:
    """Raw HTML, since its links are files and not pages; without an empty line, which would end it."""
    head = '<tr><th scope="col">Table</th><th scope="col">Rows</th><th scope="col">Download</th></tr>'
    return (
        f'<table class="sing-downloads"><caption class="sing-spoken">{caption}</caption>'
        f"<thead>{head}</thead><tbody>\n" + "\n".join(rows) + "\n</tbody></table>"
    )


def _link(file: str, label: str, files: Mapping[str, bytes]) -> str:
    size = file_size(len(files[f"{STAGED}/{file}"]))
    spoken = f' aria-label="{html.escape(file)}, {size}"'
    return f'<a href="{SERVED}/{quote(file)}" download{spoken}>{label}</a> <small>{size}</small>'


def file_size(size: int) -> str:
    """A number of bytes for people.

    >>> file_size(512), file_size(84_121), file_size(2_500_000)
    ('512 B', '84 kB', '2.5 MB')
    """
    for unit, least in (("MB", 1e6), ("kB", 1e3)):
        if size >= least:
            number = size / least
            return f"{number:.0f} {unit}" if number >= 10 else f"{number:.1f} {unit}"
    return f"{size} B"
