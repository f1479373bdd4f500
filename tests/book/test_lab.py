"""JupyterLab, as `sing live` opens it: a notebook of the book runs, and its explorer asks Python."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from contextlib import contextmanager
from pathlib import Path

import pytest
from browser import DESK
from explorer_page import Driver, number

from sing_utils.method.scores import pairwise_angle
from sing_utils.runs.run import open_run

ROOT = Path(__file__).resolve().parents[2]
NOTEBOOK = ROOT / "_build" / "runs" / "embedded" / "executed" / "03_class_analysis.ipynb"
PROMPT = "a lighthouse at night"


@contextmanager
def live(home):
    """`sing live` on the checkout with settings of its own; yields JupyterLab's address and token."""
    command = [sys.executable, "-m", "sing_utils.cli", "live", "--no-browser", "--port", "0"]
    root = getattr(os, "geteuid", lambda: 1)() == 0
    process = subprocess.Popen(
        [*command, *(["--", "--allow-root"] if root else [])],
        cwd=ROOT,
        env={**os.environ, "HOME": str(home), "JUPYTER_CONFIG_DIR": str(home / "jupyter")},
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        lines = iter(process.stdout.readline, "")
        found = (re.search(r"(http\S+/)lab\?token=(\S+)", line) for line in lines)
        yield next(match for match in found if match).groups()
    finally:
        process.send_signal(signal.SIGINT)
        assert process.wait(timeout=30) == 0


@pytest.mark.skipif(not NOTEBOOK.is_file(), reason="no embedded run in _build/runs")
@pytest.mark.skipif(not (ROOT / "_build/html/index.html").is_file(), reason="no built book in _build/html")
def test_a_notebook_runs_and_takes_a_free_text(browser, tmp_path):
    context = browser.new_context(viewport=DESK)
    page = context.new_page()
    page.set_default_timeout(120_000)
    left = []
    page.on("request", lambda r: r.url.startswith(("http:", "https:")) and left.append(r.url))
    with live(tmp_path) as (address, token):
        page.goto(f"{address}lab/tree/_build/live/embedded/{NOTEBOOK.name}?token={token}")
        page.locator(".jp-NotebookPanel .jp-Cell").first.wait_for()
        page.get_by_text("Python 3 (ipykernel) | Idle").wait_for()  # before that, Lab runs nothing
        page.get_by_role("menuitem", name="Run", exact=True).click()
        page.get_by_role("menuitem", name="Run All Cells", exact=True).click()
        lens = page.locator("[data-explorer=lens]")
        lens.locator(".sx-prompt:enabled").wait_for(state="attached")  # a kernel has answered
        lens.scroll_into_view_if_needed()
        assert not lens.locator(".sx-needs").is_visible()
        lens.get_by_label("Add any prompt").fill(PROMPT)
        lens.get_by_role("button", name="Ask").click()
        lens.locator(".sx-detail h4", has_text=PROMPT).wait_for()
        assert lens.locator(".sx-status").inner_text() == ""
        driver = Driver(page, "lens")
        shown = next(row for row in driver.rows("phrases") if row[0].endswith(PROMPT))
        assert all(url.startswith(address) for url in left)
        context.close()

    run = open_run("embedded", must_exist=True)
    name, c = run.profile.classifiers[0], run.concept_classes[0]
    evaluation, T = run.photos(name), run.translator(name)
    own = evaluation.rows(evaluation.index["class"] == c)
    text = run.texts(name, [PROMPT])
    before = pairwise_angle(T(own.f), text).mean().item()
    after = pairwise_angle(T(run.spaces(name).remove_null(own.f)), text).mean().item()
    assert [number(x) for x in shown[1:]] == pytest.approx([before, after, before - after], abs=0.01)
