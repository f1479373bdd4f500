"""Render the executed notebooks and the prose of ``book/`` into ``_build/html``.

Jupyter Book never sees the project's root: it would walk ``.venv``, ``node_modules`` and
``_build``. A clean copy of what the book is made of is staged in ``_build/book/`` instead, and
only what changed is copied, so that Sphinx rebuilds incrementally.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path
from typing import Any

import yaml

from sing_utils.book import claims_page as reproduction_page
from sing_utils.book import downloads
from sing_utils.book.scripts import fetch_page_js, page_js_key
from sing_utils.book.summary import summary
from sing_utils.checkout import package_files
from sing_utils.errors import SingError
from sing_utils.files import locked
from sing_utils.runs.results import Results, find_run
from sing_utils.workshop import notebooks as workshop
from sing_utils.workshop import pages as for_teachers

__all__ = ["build_book"]

_PICTURES = {".jpg", ".png", ".svg"}  # a page outside book/ brings those that lie beside it
_STAMP = ".stamp"
_INTRODUCTION = "book/intro.md"
_SHORT, _PICTURE = "<!-- in short -->", "<!-- planted-picture -->"  # in it, of the run
#: Distributions whose version changes what the pages look like.
_TOOLS = (
    "jupyter-book", "sphinx", "myst-nb", "myst-parser", "sphinx-book-theme",
    "pydata-sphinx-theme", "sphinxcontrib-bibtex", "vl-convert-python", "altair",
)  # fmt: skip
_WARNING = re.compile(r"\b(WARNING|ERROR|CRITICAL|SEVERE|Exception occurred)\b")
#: Something in an output that would make the page ask the network, e.g. Altair's default renderer.
_REMOTE = re.compile(r"""<(?:script|link|img|iframe)\b[^>]*\b(?:src|href)\s*=\s*["']?https?://""")


def build_book(root: Path, profile: str, *, quiet: bool = False) -> Path:
    """Build the HTML book of a finished run; returns its first page, `_build/html/index.html`.

    The notebooks named in `_toc.yml` are taken, executed, from the run's folder; nothing is executed here. If
    nothing has changed since the last build, the book is returned at once. A build that fails leaves
    `_build/html` as it was. The log is in `_build/book.log`.

    Args:
        root: the project's folder, which holds `_config.yml`, `_toc.yml` and `book/`.
        profile: the run that is shown: name of its folder in `_build/runs`, or the folder.
        quiet: print nothing.

    Raises:
        SingError: if there is no such run, a page or notebook is missing, a notebook failed or was not run, a
            tool or page script is missing, or Jupyter Book warns about anything.
    """
    root = Path(root).resolve()
    build = root / "_build"
    html = build / "html"
    run = require_run(root, profile)
    profile = run.name if run.parent == root / "_build" / "runs" else str(run)  # Path's / takes either
    files = _staged_files(root, profile)
    stamp = _stamp(root, files)
    if (html / _STAMP).is_file() and (html / _STAMP).read_text() == stamp:
        _say(quiet, "The book is up to date.")
        return html / "index.html"

    with locked(build):  # of two books at once, the pages would be mixed
        _say(quiet, f"Building the book from the {profile!r} run ...")
        vendor = fetch_page_js(root)
        for path in (p for p in vendor.rglob("*") if p.is_file()):
            files[f"book/_static/vendor/{path.relative_to(vendor).as_posix()}"] = path.read_bytes()
        _stage(build / "book", files)
        made = _run_jupyter_book(root)
        _publish(made, html, stamp)
    _say(quiet, f"The book is in {html.relative_to(root).as_posix()}/.")
    return html / "index.html"


def _say(quiet: bool, line: str) -> None:
    if not quiet:
        print(line, flush=True)


def require_run(root: Path, run: str) -> Path:
    """The folder of a run with executed notebooks, by its name in `_build/runs` or as a folder."""
    found = find_run(root, run, "executed")
    if found is None:
        runs = sorted(path.parent.name for path in (root / "_build" / "runs").glob("*/executed"))
        known = f"one of {', '.join(runs)}" if runs else "one, but there is none yet"
        raise SingError(
            f"there is no run {run!r} in _build/runs, expected {known}, or a run's folder: make one with "
            "`sing run --profile PROFILE`, where `--run-dir _build/runs/NAME` gives it another name."
        )
    return found


# What the book is made of


def _staged_files(root: Path, profile: str) -> dict[str, bytes]:
    """Return {path in the staged folder: contents}, with every page of the table of contents."""
    for name in ("_config.yml", "_toc.yml", "book"):
        if not (root / name).exists():
            raise SingError(f"{name} is missing in {root.name}/, so there is no book to build.")
    files = {
        path.relative_to(root).as_posix(): path.read_bytes()
        for path in sorted((root / "book").rglob("*"))
        if path.is_file() and path.parent.name != "__pycache__"
    }
    files["_config.yml"] = _config(root, profile)
    files["_toc.yml"] = (root / "_toc.yml").read_bytes()
    if (root / "CHANGELOG.md").is_file():
        files["CHANGELOG.md"] = (root / "CHANGELOG.md").read_bytes()
    pages = list(_toc_pages(files["_toc.yml"]))
    executed = root / "_build" / "runs" / profile / "executed"
    sessions = {page for page in pages if page.startswith(f"{workshop.FOLDER}/")}
    notebooks = {
        page: shown_notebook(executed / f"{page.removeprefix('notebooks/')}.ipynb", profile)
        for page in pages
        if page.startswith("notebooks/") and page not in sessions
    }
    if sessions:  # the same whatever the run
        copies = workshop.executed(root)
        notebooks |= {
            page: workshop.folded(shown_notebook(copies[Path(page).name], "workshop")) for page in sessions
        }
    results = downloads.run_results(root, profile)
    tables = downloads.table_files(results)
    files |= tables
    saved = {page: downloads.saved_tables(notebook) for page, notebook in notebooks.items()}
    made_in = {table: Path(page).name for page, names in saved.items() for table in names}
    made = {
        "book/tables": lambda: downloads.tables_page(results, tables, made_in),
        "book/reproduction": lambda: reproduction_page.page(results, root=root),
    }
    for page in pages:
        if page in notebooks:
            cell = downloads.download_cell(saved[page], tables, all_tables="book/tables" in pages)
            notebooks[page]["cells"] += [cell] if cell else []
            text = json.dumps(notebooks[page], ensure_ascii=False, indent=1, sort_keys=True)
            files[f"{page}.ipynb"] = text.encode()
        elif page in made:
            files[f"{page}.md"] = made[page]().encode()
        elif (root / f"{page}.md").is_file():  # such as data/embedded/README, where the data are
            files[f"{page}.md"] = (root / f"{page}.md").read_bytes()
            beside = [p for p in (root / page).parent.iterdir() if p.suffix in _PICTURES]
            files |= {p.relative_to(root).as_posix(): p.read_bytes() for p in sorted(beside)}
        elif not {page, f"{page}.md"} & set(files):
            raise SingError(f"_toc.yml names the page {page!r}, but there is no {page}.md.")
    for page in for_teachers.PAGES:
        if page in pages:
            files[f"{page}.md"] = for_teachers.filled(files[f"{page}.md"].decode(), root).encode()
    if _INTRODUCTION in files:
        files[_INTRODUCTION] = _introduction(files[_INTRODUCTION].decode(), results).encode()
    return files


def _introduction(page: str, results: Results) -> str:
    """The introduction with what the run found and, where the run has drawn one, with its picture."""
    drawn = results.folder / "intro_picture.html"
    picture = drawn.read_text(encoding="utf-8") if drawn.is_file() else ""
    shown = f"``````{{raw}} html\n{picture.strip()}\n``````" if picture else ""
    return page.replace(_SHORT, summary(results)).replace(_PICTURE, shown)


def _config(root: Path, profile: str) -> bytes:
    """``_config.yml`` plus what a page may say of the run: ``{{ profile }}``, its name."""
    config = yaml.safe_load((root / "_config.yml").read_text(encoding="utf-8")) or {}
    config.setdefault("parse", {}).setdefault("myst_substitutions", {})["profile"] = f"`{Path(profile).name}`"
    return yaml.safe_dump(config, sort_keys=False, allow_unicode=True).encode()  # scripts have an order


def _toc_pages(toc: bytes) -> Iterator[str]:
    """Yield every page that a table of contents names, in order."""
    todo: list[Any] = [yaml.safe_load(toc)]
    while todo:
        item = todo.pop(0)
        if isinstance(item, list):
            todo = item + todo
        elif isinstance(item, dict):
            yield from (str(item[key]) for key in ("root", "file") if key in item)
            parts = [item[key] for key in ("parts", "chapters", "sections") if key in item]
            todo = parts + todo


def shown_notebook(path: Path, profile: str) -> dict[str, Any]:
    """Read an executed notebook, refuse a broken one, and drop what differs from run to run."""
    name = f"notebooks/{path.name}"
    if not path.is_file():
        raise SingError(
            f"{name} is in the table of contents, but the {profile!r} run has not executed it: "
            "run the notebooks of this profile first."
        )
    try:
        notebook: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        cells = notebook["cells"]
    except (ValueError, KeyError, TypeError) as error:
        raise SingError(f"{name} of the {profile!r} run is not a notebook: {error}.") from None
    code = [cell for cell in cells if cell["cell_type"] == "code" and "".join(cell["source"])]
    for cell in code:
        _check_outputs(cell, f"Cell {cells.index(cell) + 1} of {name}")
    if code and all(cell.get("execution_count") is None for cell in code):
        raise SingError(f"{name} of the {profile!r} run has no outputs: it was never executed.")
    for output in (o for cell in code for o in cell.get("outputs", [])):
        if html := output.get("data", {}).get("text/html"):
            # pandas' table heads above row names are empty: no heads, for those who hear the page.
            output["data"]["text/html"] = "".join(html).replace("<th></th>", "<td></td>")
    # Papermill notes times and paths of this machine; equal results should give equal pages.
    for part in (notebook, *cells):
        if "injected-parameters" in part.get("metadata", {}).get("tags", []):
            # The run's name and folder say nothing to a reader.
            part["metadata"]["tags"].append("remove-cell")
        for key in ("papermill", "execution"):
            part.get("metadata", {}).pop(key, None)
    return notebook


def _check_outputs(cell: dict[str, Any], where: str) -> None:
    for output in cell.get("outputs", []):
        if output["output_type"] == "error":
            message = f"{output.get('ename', 'error')}: {output.get('evalue', '')}".strip(": ")
            raise SingError(f"{where} failed with {message.rstrip('.')}.")
        data = output.get("data", {})
        chart = any(key.startswith("application/vnd.vegalite.") for key in data)
        shown = "" if chart else "".join(data.get("text/html", ""))
        if _REMOTE.search(shown):
            raise SingError(
                f"{where} shows something that loads from the network, "
                "which the book must not: import sing_utils.show.charts before showing Altair charts."
            )


def _stamp(root: Path, files: dict[str, bytes]) -> str:
    """Hash of all that the finished book depends on: pages, package sources, tools, scripts."""
    digest = hashlib.sha256()
    # The API page is made from the package's docstrings.
    sources = {name: path.read_bytes() for name, path in package_files(root).items()}
    for name, content in sorted((files | sources).items()):
        digest.update(f"{name}\0{len(content)}\0".encode() + content)
    try:
        tools = {tool: metadata.version(tool) for tool in _TOOLS}
    except metadata.PackageNotFoundError as error:
        raise SingError(f"{error.name} is missing, expected it here: pip install -e '.[book]'.") from None
    digest.update(repr(tools).encode())
    digest.update(f"{page_js_key(root)} {sys.version}".encode())
    return digest.hexdigest()


# Staging, building, publishing


def _stage(folder: Path, files: dict[str, bytes]) -> None:
    """Make `folder` hold exactly `files`, leaving unchanged ones alone (Sphinx goes by mtime)."""
    if folder.is_dir():
        for path in sorted(folder.rglob("*"), reverse=True):
            if path.is_dir():
                if not any(path.iterdir()):
                    path.rmdir()
            elif path.relative_to(folder).as_posix() not in files:
                path.unlink()
    for name, content in files.items():
        path = folder / name
        if not path.is_file() or path.read_bytes() != content:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content)


def _run_jupyter_book(root: Path) -> Path:
    """Run Jupyter Book on the staged folder with warnings as errors; return the HTML folder."""
    build = root / "_build"
    work, log = build / "sphinx", build / "book.log"
    main = "from jupyter_book.cli.main import main; main()"  # it has no __main__
    command = [sys.executable, "-c", main, "build", str(build / "book")]
    command += ["--path-output", str(work), "-W", "-n", "--keep-going"]
    # The API page documents the package beside the book, wherever Python was started.
    paths = [str(root), *filter(None, [os.environ.get("PYTHONPATH")])]
    env = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join(paths),
        "PYTHONDONTWRITEBYTECODE": "1",  # no __pycache__ in the staged folder
        "NO_COLOR": "1",
    }
    try:
        done = subprocess.run(
            command,
            check=False,
            cwd=root,
            env=env,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            encoding="utf-8",
            errors="replace",
        )
    except BaseException:
        shutil.rmtree(work, ignore_errors=True)
        raise
    log.write_text(done.stdout, encoding="utf-8")
    made = work / "_build" / "html"
    _copy_static(build / "book/book/_static", made / "_static")
    if done.returncode != 0 or not (made / "index.html").is_file():
        # Sphinx keeps pages that it warned about; the next build would use them without a word.
        shutil.rmtree(work, ignore_errors=True)
        raise SingError(_failure(done.stdout, build / "book"))
    return made


def _copy_static(staged: Path, shown: Path) -> None:
    """Style, scripts and tables as they are staged: Sphinx copies none where no page changed."""
    shutil.rmtree(shown / "tables", ignore_errors=True)  # it never removes one
    shutil.copytree(staged, shown, dirs_exist_ok=True)


def _failure(output: str, staged: Path) -> str:
    """One sentence for a failed build, with the first thing that Jupyter Book complained about."""
    lines = [
        re.sub(r"\x1b\[[0-9;]*m", "", line).replace(f"{staged}{os.sep}", "").strip()
        for line in output.splitlines()
    ]
    found = list(dict.fromkeys(line for line in lines if _WARNING.search(line)))
    if not found:
        return "Jupyter Book could not build the book; see _build/book.log."
    more = f" (and {len(found) - 1} more)" if len(found) > 1 else ""
    return f"Jupyter Book could not build the book: {found[0]}{more}; see _build/book.log."


def _publish(made: Path, html: Path, stamp: str) -> None:
    """Replace `html` by a complete copy of `made` in one step, stamped as valid."""
    fresh, old = html.with_name("html.new"), html.with_name("html.old")
    for folder in (fresh, old):
        shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(made, fresh, ignore=shutil.ignore_patterns(".buildinfo"))
    _name_icon(fresh / "index.html")
    (fresh / _STAMP).write_text(stamp)
    if html.exists():
        html.rename(old)
    fresh.rename(html)
    shutil.rmtree(old, ignore_errors=True)


def _name_icon(index: Path) -> None:
    """Give the page that only leads to the first one an icon that needs no request.

    Without one a browser may ask for a default one; the load of a real one fails as the page moves on.
    """
    text = index.read_text(encoding="utf-8")
    if 'http-equiv="Refresh"' in text and 'rel="icon"' not in text:
        index.write_text(f'<link rel="icon" href="data:," />\n{text}', encoding="utf-8")
