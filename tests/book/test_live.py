"""`sing live` as a real process on a tiny project: who gets in, what is served, how it ends.

Most tests look at one server whose user has hostile Jupyter settings: they would let everybody in.
"""

from __future__ import annotations

import contextlib
import http.client
import importlib.util
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path

import nbformat
import pandas as pd
import psutil
import pytest
from browser import DESK, HTML, page_names
from command import SING, assert_refused
from explorer_page import Driver, number
from small_run import small_run

from sing_utils.book import downloads
from sing_utils.book.build import shown_notebook
from sing_utils.book.lab import _copies, _require_book, _shows, copy_run, source_of
from sing_utils.measure.tables import class_angles
from sing_utils.runs.profiles import save_profile

ROOT = Path(__file__).resolve().parents[2]
CLASSES = ROOT / "notebooks" / "03_class_analysis.ipynb"
PROMPT = "a lighthouse at night"
BUTTON = '<button onclick="singOpenLab(this)" class="btn">Open in JupyterLab</button>'
PAGE = """<!DOCTYPE html>
<html lang="en" data-theme="light"><head><meta charset="utf-8"><title>Page</title>
<link rel="stylesheet" href="{up}_static/sing.css"><script src="{up}_static/sing.js"></script></head>
<body><h1>é Page</h1>{button}</body></html>
"""
HOSTILE = {
    "c.PasswordIdentityProvider.hashed_password": "'argon2:no'",
    "c.ServerApp.ip": "'0.0.0.0'",
    "c.ServerApp.token": "''",
    "c.ServerApp.allow_remote_access": "True",
    "c.ServerApp.allow_origin": "'*'",
    "c.ServerApp.disable_check_xsrf": "True",
    "c.ServerApp.root_dir": "'/'",
    "c.IdentityProvider.token": "''",
    "c.PasswordIdentityProvider.token": "''",
    "c.LabApp.extension_manager": "'pypi'",
}


def notebook(source="1 + 1", run_dir="_build/runs/embedded"):
    """An executed notebook as papermill leaves it."""
    metadata = {"kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"}}
    given = {"execution_count": 1, "id": "a", "outputs": [], "metadata": {"tags": ["injected-parameters"]}}
    cells = [
        {"cell_type": "code", **given, "source": ["# Parameters\n", f'run_dir = "{run_dir}"\n']},
        {"cell_type": "code", **given, "id": "b", "source": [source], "metadata": {}},
    ]
    made = {"cells": cells, "metadata": metadata, "nbformat": 4, "nbformat_minor": 5}
    return json.dumps(made, indent=1).encode()


def make_project(root):
    """A checkout with a built book of a few pages and one run."""
    html, run = root / "_build" / "html", root / "_build" / "runs" / "embedded"
    files = {
        root / "data" / "profiles" / "embedded.yaml": b"",
        root / "pyproject.toml": b"secret = true\n",
        root / "book" / "intro.md": b"# Intro\n",
        root / "book" / "a & b.md": b"# Odd\n",
        run / "executed" / "00_setup.ipynb": notebook(),
        run / "executed" / ".00_setup.key": b"key",
        run / "executed" / ".ipynb_checkpoints" / "00_setup-checkpoint.ipynb": b"{}",
        run / "results" / "heads.parquet": b"heads",
        run / "artifacts" / "features" / "lite0.json": b'{"store": "x"}',
        html / ".stamp": b"secret = true",
        html / "_static" / "bytes.bin": bytes(range(256)),
        html / "_static" / "<html.js": b"// <html>\n",
    }
    for name in (
        "index.html",
        "search.html",
        "book/intro.html",
        "book/a & b.html",
        "notebooks/00_setup.html",
    ):
        page = PAGE.format(up="../" * name.count("/"), button=BUTTON)
        files[html / name] = page.encode()
    for path, content in files.items():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    for name in ("sing.js", "sing.css"):
        shutil.copy(ROOT / "book" / "_static" / name, html / "_static" / name)
    return root


def few_pictures(root):
    """The run that the real notebook of the project opens: one drawn photo a class."""
    return small_run(root / "_build" / "runs" / "embedded", thumbnails=1, photos=[], refits=4)


def add_real_notebook(root):
    """The notebook of classes as it is, with its page, in a checkout that has the book's data."""
    shutil.rmtree(root / "data")
    (root / "data").symlink_to(ROOT / "data")
    run = few_pictures(root)
    save_profile(run.profile, root / "few.yaml")
    nb = nbformat.read(CLASSES, 4)
    given = f'# Parameters\nprofile = "{root / "few.yaml"}"\nrun_dir = "_build/runs/embedded"\n'
    cell = nbformat.v4.new_code_cell(given, metadata={"tags": ["injected-parameters"]})
    nb.cells.insert(1 + next(i for i, c in enumerate(nb.cells) if c.cell_type == "code"), cell)
    nbformat.write(nb, run.folder / "executed" / CLASSES.name)
    (root / "_build/html/notebooks" / f"{CLASSES.stem}.html").write_text(PAGE.format(up="../", button=BUTTON))
    return root


@dataclass
class Live:
    """A running `sing live`."""

    process: subprocess.Popen
    log: Path
    token: str
    port: int
    children: list[psutil.Process] = field(default_factory=list)

    @property
    def address(self):
        return f"http://127.0.0.1:{self.port}"

    @property
    def root(self):
        """The checkout that it serves."""
        return Path(psutil.Process(self.process.pid).cwd()).parent

    def get(self, path, *, method="GET", body=None, token=True, **headers):
        """Status, headers and body; the path goes out as it is."""
        headers = {name.replace("_", "-"): value for name, value in headers.items()}
        if token:
            headers["Authorization"] = f"token {self.token}"
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=30)
        connection.request(method, path, body, headers)
        answer = connection.getresponse()
        return answer.status, answer.headers, answer.read()

    def start_kernel(self):
        body = json.dumps({"name": "python3", "path": "_build/live/embedded/00_setup.ipynb"})
        assert self.get("/api/kernels", method="POST", body=body)[0] == 201
        self.children = psutil.Process(self.process.pid).children(recursive=True)
        assert any("ipykernel" in command_of(p) for p in self.children)

    def end(self, number):
        """Send a signal; the exit code, once everything is gone."""
        self.process.send_signal(number)
        code = self.process.wait(timeout=30)
        assert psutil.wait_procs(self.children, timeout=5)[1] == []
        with pytest.raises(ConnectionRefusedError):
            self.get("/book/")
        return code


def command_of(process):
    """A process's command; nothing of one that has just ended."""
    try:
        return " ".join(process.cmdline())
    except psutil.Error:
        return ""


def settings(home, hostile):
    """An environment whose Jupyter settings are those in `home`."""
    config = home / "config"
    config.mkdir(parents=True, exist_ok=True)
    lines = [f"{name} = {value}" for name, value in (HOSTILE if hostile else {}).items()]
    for name in ("jupyter_server_config.py", "jupyter_lab_config.py", "jupyter_config.py"):
        (config / name).write_text("\n".join(["c = get_config()", *lines]))
    folders = {"CONFIG": config, "DATA": home / "data", "RUNTIME": home / "runtime"}
    jupyter = {f"JUPYTER_{name}_DIR": str(path) for name, path in folders.items()}
    others = {"HOME": str(home), "IPYTHONDIR": str(home / "ipython"), "JUPYTER_TOKEN": "known"}
    return {**os.environ, **jupyter, **others}


def start(root, home, *, hostile=False, stdin=subprocess.DEVNULL):
    log = home / "log"
    home.mkdir(parents=True, exist_ok=True)
    with log.open("w") as out:
        process = subprocess.Popen(
            [SING, "live", "--no-browser", "--port", "0", "--", "--allow-root"],
            cwd=root / "book",
            env=settings(home, hostile),
            stdin=stdin,
            stdout=out,
            stderr=subprocess.STDOUT,
        )
    until = time.monotonic() + 60
    while "Ctrl-C" not in log.read_text():
        assert process.poll() is None, log.read_text()
        assert time.monotonic() < until, log.read_text()
        time.sleep(0.1)
    found = re.search(r"http://127.0.0.1:(\d+)/book/index.html\?token=(\S+)", log.read_text())
    return Live(process, log, found[2], int(found[1]))


@pytest.fixture(scope="module")
def live(tmp_path_factory):
    """One server for all tests that only look."""
    folder = tmp_path_factory.mktemp("live")
    root = add_real_notebook(make_project(folder / "checkout"))
    running = start(root, folder / "home", hostile=True)
    yield running
    with contextlib.suppress(ProcessLookupError):
        running.process.kill()
        running.process.wait()


# ------------------------------------------------------------------------------- who gets in


def test_it_listens_on_this_machine_only(live):
    found = [c for c in psutil.Process(live.process.pid).net_connections() if c.status == "LISTEN"]
    assert {c.laddr for c in found} == {("127.0.0.1", live.port)}


@pytest.mark.parametrize(
    "path", ["/book/index.html", "/book/", "/book/_static/sing.js", "/lab", "/api/contents"]
)
@pytest.mark.parametrize("given", ["", "?token=", "?token=known", "?token=x"])
def test_without_the_token_nothing_is_served(live, path, given):
    status, headers, body = live.get(path + given, token=False)
    assert status == 403 or (status == 302 and headers["Location"].startswith("/login?")), status
    assert b"Page" not in body


def test_the_address_logs_a_browser_in(live):
    status, headers, _ = live.get(f"/book/index.html?token={live.token}", token=False)
    assert status == 200
    cookie = next(v.split(";")[0] for v in headers.get_all("Set-Cookie") if v.startswith("username-"))
    for path in ("/book/book/intro.html", "/book/_static/sing.js", "/lab"):  # bookmarks: no Referer
        assert live.get(path, token=False, Cookie=cookie)[0] == 200
    assert live.get("/book", token=False, Cookie=cookie)[1]["Location"].startswith("/book/")
    assert live.get("/book/book/intro.html", Host="evil.example")[0] == 403
    assert live.get("/book/book/intro.html", method="POST", body="")[0] == 405
    other = live.get("/api/contents", token=False, Cookie=cookie, Origin="http://evil.example")
    assert "Access-Control-Allow-Origin" not in other[1]


@pytest.mark.parametrize(
    "path",
    [
        "../pyproject.toml",
        "../../pyproject.toml",
        "..%2f..%2fpyproject.toml",
        "%2e%2e/%2e%2e/pyproject.toml",
        "%2e%2e%2f%2e%2e%2fpyproject.toml",
        "..%252f..%252fpyproject.toml",
        "..%5c..%5cpyproject.toml",
        "book/../../../pyproject.toml",
        "{root}/pyproject.toml",
        "/{root}/pyproject.toml",
        "../../evil.html",
        "%2e%2e/%2e%2e/evil.html",
        "{root}/evil.html",
        "../runs/embedded/executed/00_setup.ipynb",
        ".stamp",
        "../html/.stamp",
    ],
)
def test_no_path_leads_out_of_the_book(live, path):
    (live.root / "evil.html").write_text("secret")
    status, _, body = live.get("/book/" + path.replace("{root}", live.root.as_posix()))
    assert status in (400, 403, 404), status
    assert b"secret" not in body
    assert b"ipython" not in body


# --------------------------------------------------------------------------- what is served


@pytest.mark.parametrize(
    ("page", "link"),
    [
        ("notebooks/00_setup.html", "/lab/tree/_build/live/embedded/00_setup.ipynb"),
        ("book/intro.html", "/lab/tree/book/intro.md"),
        ("book/a%20%26%20b.html", "/lab/tree/book/a%20%26%20b.md"),
        ("search.html", "/lab"),
    ],
)
def test_pages_know_their_source_in_jupyterlab(live, page, link):
    status, headers, body = live.get(f"/book/{page}")
    up = "../" * page.count("/")
    plain = PAGE.format(up=up, button=BUTTON)
    assert status == 200
    assert body.decode() == plain.replace("<html ", f'<html data-lab="{link}" ')
    assert headers["Content-Type"] == "text/html; charset=UTF-8"
    assert "sandbox" not in headers["Content-Security-Policy"]
    assert live.get(link)[0] == 200
    if link != "/lab":
        assert live.get(link.replace("/lab/tree", "/api/contents"))[0] == 200
    assert live.get(f"/book/{page}", method="HEAD")[2] == b""


@pytest.mark.parametrize(
    ("name", "kind"), [("_static/bytes.bin", "octet-stream"), ("_static/%3Chtml.js", "javascript")]
)
def test_other_files_are_what_they_are(live, name, kind):
    file = live.root / "_build/html" / name.replace("%3C", "<")
    status, headers, body = live.get(f"/book/{name}?v=1")
    assert (status, body) == (200, file.read_bytes())
    assert kind in headers["Content-Type"]
    assert headers["Cache-Control"] == "no-cache"  # a rebuilt book may keep a page with an old ?v=
    assert headers["Cross-Origin-Resource-Policy"] == "same-origin"


def test_the_button_opens_a_notebook_that_runs_and_takes_a_free_text(live, browser):
    """Its explorer asks Python, and shows what the package says."""
    context = browser.new_context(viewport=DESK)
    asked, wrong = [], []
    context.on("request", lambda r: asked.append(r.url))
    context.on("weberror", lambda e: wrong.append(str(e.error)))
    page = context.new_page()
    page.set_default_timeout(60_000)
    page.goto(f"{live.address}/book/index.html?token={live.token}")
    page.goto(f"{live.address}/book/notebooks/{CLASSES.stem}.html")
    with context.expect_page() as opened:
        page.get_by_role("button", name="Open in JupyterLab").click()
    lab = opened.value
    lab.set_default_timeout(120_000)
    panel = lab.locator(".jp-NotebookPanel")
    panel.locator(".cm-content", has_text="_build/live/embedded").wait_for()
    assert lab.url == f"{live.address}/lab/tree/_build/live/embedded/{CLASSES.name}"
    lab.get_by_text("(ipykernel) | Idle").wait_for()  # before that, Lab runs nothing
    lab.get_by_role("menuitem", name="Run", exact=True).click()
    lab.get_by_role("menuitem", name="Run All Cells", exact=True).click()
    lens = lab.locator("[data-explorer=lens]")
    lens.locator(".sx-prompt:enabled").wait_for(state="attached")  # a kernel has answered
    lens.scroll_into_view_if_needed()
    assert not lens.locator(".sx-needs").is_visible()
    lens.get_by_label("Add any prompt").fill(PROMPT)
    lens.get_by_role("button", name="Ask").click()
    lens.locator(".sx-detail h4", has_text=PROMPT).wait_for()
    assert lens.locator(".sx-status").inner_text() == ""
    shown = next(row for row in Driver(lab, "lens").rows("phrases") if row[0].endswith(PROMPT))
    assert lab.get_by_text("official Jupyter news").count() == 0
    assert page.locator("dialog[open]").count() == 0
    context.close()
    assert wrong == []
    local = (live.address, "data:", "blob:")
    assert [url for url in asked if not url.startswith(local)] == []

    run = few_pictures(live.root)
    text = run.texts(run.classifiers[0], [PROMPT])
    before, after, _ = class_angles(run, run.classifiers[0], run.concept_classes[0], text)
    expected = [float(x.mean()) for x in (before, after, before - after)]
    assert [number(x) for x in shown[1:]] == pytest.approx(expected, abs=0.01)


def test_a_page_without_python_says_what_it_needs(browser, tmp_path):
    page = browser.new_page(viewport={"width": 360, "height": 740})
    wrong = []
    page.on("pageerror", lambda e: wrong.append(str(e)))
    page.on("console", lambda m: m.type == "error" and wrong.append(m.text))
    page.goto((make_project(tmp_path) / "_build/html/notebooks/00_setup.html").as_uri())
    button = page.get_by_role("button", name="Open in JupyterLab")
    for key in ("Enter", "Space"):
        button.focus()
        page.keyboard.press(key)
        dialog = page.get_by_role("dialog", name="JupyterLab needs Python")
        assert "sing live" in dialog.inner_text()
        box = dialog.bounding_box()
        assert box["x"] >= 0
        assert box["x"] + box["width"] <= 360
        page.keyboard.press("Escape")
        assert page.locator("dialog[open]").count() == 0
        assert page.evaluate("document.activeElement.textContent") == "Open in JupyterLab"
    button.click()
    dialog.get_by_role("button", name="Close").click()
    assert page.locator("dialog[open]").count() == 0
    assert wrong == []
    page.close()


def test_every_page_gets_the_button():
    spec = importlib.util.spec_from_file_location("sing_book", ROOT / "book/_ext/sing_book.py")
    extension = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(extension)
    context = {"header_buttons": ["download"]}
    extension.add_lab_button(None, "search", "search.html", context, None)
    added, kept = context["header_buttons"]
    assert kept == "download"
    assert (added["text"], added["tooltip"]) == ("Open in JupyterLab",) * 2
    assert "singOpenLab(this)" in added["javascript"]
    for name in page_names():
        if name != "index.html":  # which only moves on
            assert (HTML / name).read_text(encoding="utf-8").count(added["javascript"]) == 1, name


# ------------------------------------------------------------------------------ how it ends


@pytest.mark.parametrize("terminal", [False, True])
def test_ctrl_c_ends_it_and_its_kernels(tmp_path, live, terminal):
    controller, stdin = os.openpty() if terminal else (None, subprocess.DEVNULL)
    running = start(make_project(tmp_path / "checkout"), tmp_path / "home", stdin=stdin)
    assert running.log.read_text().splitlines() == [
        f"The book:    {running.address}/book/index.html?token={running.token}",
        f"JupyterLab:  {running.address}/lab?token={running.token}",
        "Ctrl-C ends both.",
    ]
    assert running.token != live.token
    assert len(running.token) >= 40
    running.start_kernel()
    assert running.end(signal.SIGINT) == 0
    assert "Shut down this" not in running.log.read_text()  # Jupyter would ask
    left = [p.name for p in (tmp_path / "home" / "runtime").iterdir()]
    assert [name for name in left if name.startswith(("kernel", "jpserver"))] == []
    for end in (controller, stdin) if terminal else ():
        os.close(end)


def test_sigterm_ends_it(live):
    live.start_kernel()
    assert live.end(signal.SIGTERM) == 0


# ----------------------------------------------------------------------------- working copies


@pytest.fixture
def run(tmp_path, monkeypatch):
    """A run's folder; trust in notebooks is kept in the test's own folder."""
    monkeypatch.setenv("JUPYTER_DATA_DIR", str(tmp_path / "data"))
    return make_project(tmp_path / "checkout") / "_build" / "runs" / "embedded"


@pytest.fixture
def copies(run):
    """The folder of the working copies, made once."""
    folder = run.parents[1] / "live" / "embedded"
    assert copy_run(run, folder) == []
    return folder


def test_copies_are_whole_and_keep_to_themselves(run, copies):
    copied = {p.relative_to(copies).as_posix() for p in copies.rglob("*") if p.is_file()}
    noted = "artifacts/features/lite0.json"  # where features are: without it a kernel loads the network
    assert copied == {".copied.json", "00_setup.ipynb", "results/heads.parquet", noted}
    changed = notebook(run_dir="_build/live/embedded")
    assert (copies / "00_setup.ipynb").read_bytes() == changed
    assert changed != (run / "executed" / "00_setup.ipynb").read_bytes()


def test_copies_are_left_alone_while_the_run_is_the_same(run, copies):
    (copies / "00_setup.ipynb").write_bytes(notebook("mine"))
    (copies / "results" / "heads.parquet").write_bytes(b"mine")
    files = [p for p in copies.rglob("[!.]*") if p.is_file()]  # not the record of what was copied
    before = {p: (p.read_bytes(), p.stat().st_mtime_ns) for p in files}
    assert copy_run(run, copies) == []
    assert before == {p: (p.read_bytes(), p.stat().st_mtime_ns) for p in before}


def test_unchanged_copies_follow_the_run(run, copies):
    opened = json.loads((copies / "00_setup.ipynb").read_text())  # and saved by JupyterLab
    opened["cells"][1]["outputs"] = [{"output_type": "stream", "name": "stdout", "text": ["2"]}]
    opened["cells"][1]["source"] = "".join(opened["cells"][1]["source"])
    (copies / "00_setup.ipynb").write_text(json.dumps(opened))
    (copies / "results" / "heads.parquet").write_bytes(b"as run there")
    (run / "executed" / "00_setup.ipynb").write_bytes(notebook("2 + 2"))
    (run / "results" / "heads.parquet").write_bytes(b"new heads")
    (run / "results" / "new.parquet").write_bytes(b"new")
    assert copy_run(run, copies) == []
    assert (copies / "00_setup.ipynb").read_bytes() == notebook("2 + 2", "_build/live/embedded")
    assert (copies / "results" / "heads.parquet").read_bytes() == b"new heads"
    assert (copies / "results" / "new.parquet").read_bytes() == b"new"


@pytest.mark.parametrize("record", ["whole", "lost", "damaged"])
def test_changed_copies_are_kept_with_their_results(run, copies, record):
    (copies / "00_setup.ipynb").write_bytes(notebook("mine"))
    (copies / "results" / "heads.parquet").write_bytes(b"mine")
    (run / "executed" / "00_setup.ipynb").write_bytes(notebook("2 + 2"))
    (run / "executed" / "01_new.ipynb").write_bytes(notebook("new"))
    (run / "results" / "heads.parquet").write_bytes(b"new heads")
    if record == "lost":
        (copies / ".copied.json").unlink()
    elif record == "damaged":
        (copies / ".copied.json").write_text("{")
    for _ in range(2):
        assert copy_run(run, copies) == ["00_setup.ipynb"]
        assert (copies / "00_setup.ipynb").read_bytes() == notebook("mine")
        assert (copies / "results" / "heads.parquet").read_bytes() == b"mine"
        assert (copies / "01_new.ipynb").read_bytes() == notebook("new", "_build/live/embedded")
    (copies / "00_setup.ipynb").unlink()
    assert copy_run(run, copies) == []
    assert (copies / "00_setup.ipynb").read_bytes() == notebook("2 + 2", "_build/live/embedded")


def test_a_book_is_of_the_run_until_that_changes(run):
    """The book adds a cell to a notebook that saves tables."""
    executed, pages = run / "executed" / "00_setup.ipynb", run.parents[1] / "html"
    ran = json.loads(notebook("run.save_table('heads', heads)"))
    table = {"text/html": ["<table><tr><th></th>\n", "<th>AS</th></tr></table>"]}  # its head is mended
    ran["cells"][1]["outputs"] = [{"output_type": "display_data", "data": table, "metadata": {}}]
    executed.write_text(json.dumps(ran))
    pd.DataFrame({"rank": [1000]}).to_parquet(run / "results" / "heads.parquet")
    files = downloads.table_files(downloads.run_results(run.parents[2], run.name))
    staged = shown_notebook(executed, run.name)
    staged["cells"].append(downloads.download_cell(["heads"], files))
    shown = pages / "_sources" / "notebooks" / executed.name
    shown.parent.mkdir(parents=True)
    shown.write_text(json.dumps(staged))
    assert _shows(pages, run)
    executed.write_bytes(notebook("run.save_table('heads', other)"))
    assert not _shows(pages, run)


def test_source_of_what_is_not_there(tmp_path):
    assert source_of("book/intro.html", tmp_path, tmp_path) is None
    (tmp_path / "x.md").mkdir()
    assert source_of("x.html", tmp_path, tmp_path) is None


# ---------------------------------------------------------------------------------- mistakes


def allowed(*options):
    return ["live", "--no-browser", "--port", "0", "--", "--allow-root", *options]


@pytest.mark.parametrize(
    ("missing", "arguments", "words"),
    [
        ("_build/html", ["live"], ["no book in _build/html", "`make book`"]),
        ("", ["live", "--profile", "other"], ["no run 'other'", "one of embedded"]),
        ("", ["live", "--profile", "../runs/other"], ["no run '../runs/other'"]),
        ("_build/runs", ["live"], ["no run 'embedded'", "there is none", "`sing run "]),
        ("", ["live", "list"], ["'list' is no option of JupyterLab", "-- --allow-root"]),
        ("", allowed("--ip=0.0.0.0"), ["ip was set to '0.0.0.0'", "one user of this machine"]),
        ("", allowed("--ServerApp.allow_origin=*"), ["allow_origin was set to '*'"]),
        ("", allowed("book"), ["root_dir was set to"]),
    ],
)
def test_mistakes_are_one_sentence(sing, sing_process, tmp_path, monkeypatch, missing, arguments, words):
    make_project(tmp_path / "checkout")
    monkeypatch.setenv("JUPYTER_CONFIG_DIR", str(tmp_path / "config"))
    if missing:
        shutil.rmtree(tmp_path / "checkout" / missing)
    call = sing_process if "--" in arguments else sing  # Jupyter's settings are of a whole process
    assert_refused(call(*arguments, cwd=tmp_path / "checkout"), *words)
    assert not (tmp_path / "checkout" / "_build" / "live").exists()


@pytest.mark.parametrize(
    ("option", "said"),
    [
        ("--nonsense=4", "JupyterLab has no option --nonsense, "),
        ("--ServerApp.nonsense=3", "JupyterLab has no option --ServerApp.nonsense, "),
        ("--PasswordIdentityProvider.token=", "JupyterLab's token was set to '', "),
    ],
)
def test_options_that_jupyter_warns_of_are_refused(sing_process, tmp_path, option, said):
    result = sing_process(*allowed(option), cwd=make_project(tmp_path / "checkout"))
    assert result.code == 2
    assert result.err.splitlines()[-1].startswith(f"sing: {said}")


@pytest.mark.skipif(getattr(os, "geteuid", lambda: 1)() != 0, reason="not root")
def test_root_has_to_say_so(sing_process, tmp_path):
    root = make_project(tmp_path / "checkout")
    assert_refused(sing_process("live", "--no-browser", cwd=root), "you are root", "-- --allow-root")


def test_without_jupyterlab(sing, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "jupyterlab", None)
    said = "JupyterLab is not installed, expected it here: pip install -e '.[live]'"
    assert_refused(sing("live", cwd=make_project(tmp_path)), said)


def test_copies_of_two_runs_of_one_name_do_not_mix(run, tmp_path):
    root = run.parents[2]
    far = [tmp_path / place / "embedded" for place in "ab"]
    for folder in far:
        shutil.copytree(run, folder)
    places = [_copies(root, _require_book(root, str(folder))[1]) for folder in (run, *far)]
    assert len(set(places)) == 3
    assert places[0] == _copies(root, _require_book(root, "embedded")[1]) == root / "_build/live/embedded"
