"""The sessions without a network: solved, all is right; stripped, all is unwritten, and nobody is stuck."""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from sing_utils.execute.notebooks import find_notebooks
from sing_utils.workshop import check, notebooks, pages, stick

ROOT = Path(__file__).resolve().parents[2]
SOURCES = notebooks.sources(ROOT)
SESSIONS = [notebooks.read(path) for path in SOURCES]
each = pytest.mark.parametrize("session", SESSIONS, ids=[p.stem for p in SOURCES])


def tags(cell):
    return cell["metadata"].get("tags", [])


# What the sources are


@each
def test_an_exercise_has_hints_before_it_a_check_after_it_and_minutes(session):
    cells = session["cells"]
    for i, cell in enumerate(cells):
        if "exercise" in tags(cell):
            before, after = cells[i - 1]["source"], cells[i + 1]["source"]
            assert before.count("<summary>Hint") >= 2
            assert "Guess first" in before or session is SESSIONS[3]
            for name in notebooks.solved_functions({"cells": [cell]}):
                assert f"{name} = check.{name}({name})" in after
            assert cell["metadata"]["part"] == "write"
            assert "solution" in tags(cells[i + 2])


@each
def test_code_fits_a_page(session):
    lines = [x for c in session["cells"] if c["cell_type"] == "code" for x in c["source"].splitlines()]
    assert [line for line in lines if len(line) > 84] == []


def test_minutes_add_up_and_stand_in_the_schedule():
    parts = [m for session in SESSIONS for _, m in notebooks.minutes(session)]
    assert sum(parts) == 180
    lecture = notebooks.read(ROOT / notebooks.FOLDER / "lecture.ipynb")
    assert sum(m for _, m in notebooks.minutes(lecture)) == 45
    for cell in lecture["cells"]:
        if "minutes" in cell["metadata"]:
            assert f"({cell['metadata']['minutes']} minutes)" in cell["source"]
    rows = [line.split("|") for line in pages.schedule(ROOT).splitlines()[2:]]
    assert sum(int(row[2]) for row in rows) == 180
    hours, minutes = rows[-1][1].strip().split(":")
    assert int(hours) * 60 + int(minutes) + int(rows[-1][2]) == 180


def test_they_are_no_part_of_a_run():
    assert not [p for p in find_notebooks(ROOT) if p.parent.name == "workshop"]


# Participants' copies


@each
def test_a_stripped_copy_has_the_signature_and_no_line_of_the_solution(session):
    made = notebooks.stripped(session)
    text = "\n".join(c["source"] for c in made["cells"])
    for solution in notebooks.solved_functions(session).values():
        head, docstring, *body = [line.strip() for line in solution.splitlines()]
        assert head in text
        assert docstring in text
        code = [line.partition("#")[0].strip() for line in body]
        assert not [line for line in code if len(line) > 12 and line in text.replace("`", "")]
    assert "SOLUTION" not in text
    assert not [c for c in session["cells"] if "solution" in tags(c) and c["source"] in text]  # why
    assert text.count("raise NotImplementedError") == len(notebooks.solved_functions(session))


@pytest.fixture(scope="module")
def ran(tmp_path_factory):
    """kind -> notebook -> what it gave, both in a process of its own without a network."""
    folder, found = tmp_path_factory.mktemp("room"), {}
    for kind in ("solved", "stripped"):
        paths = stick.prepare(ROOT, folder / kind, solved=kind == "solved")
        command = [sys.executable, str(ROOT / "tests/tools/offline.py"), *map(str, paths)]
        cut = ["unshare", "--net", "--map-root-user"]
        if shutil.which("unshare") and subprocess.run([*cut, "true"], check=False).returncode == 0:
            command = [*cut, *command]
        alone = os.environ | {"OMP_NUM_THREADS": "1"}  # other tests run beside
        done = subprocess.run(command, capture_output=True, text=True, check=False, env=alone)
        assert done.returncode == 0, done.stderr
        found[kind] = json.loads(done.stdout.splitlines()[-1])
    return found


@pytest.mark.parametrize("path", SOURCES, ids=lambda p: p.stem)
def test_solved_all_is_right_and_the_prose_says_what_was_found(ran, path):
    said = ran["solved"][path.name]
    assert said["error"] == ""
    assert said["seconds"] < 60
    marks = re.findall(r"^([✓✗○]) (\w+):", said["text"], re.MULTILINE)
    assert marks == [(check.RIGHT, name) for name in notebooks.solved_functions(notebooks.read(path))]
    prose = "\n".join(c["source"] for c in notebooks.read(path)["cells"] if c["cell_type"] == "markdown")
    numbers = re.findall(r"\*\*([+-]?\d[\d.e+-]*%?)\*\*", prose)
    assert numbers
    wrong = [x for x in numbers if not re.search(rf"(?<![\d.+-]){re.escape(x)}(?!\d)", said["text"])]
    assert wrong == []


@pytest.mark.parametrize("path", SOURCES, ids=lambda p: p.stem)
def test_stripped_it_runs_to_the_end_and_all_is_unwritten(ran, path):
    said = ran["stripped"][path.name]
    assert said["error"] == ""
    marks = re.findall(r"^([✓✗○]) (\w+):", said["text"], re.MULTILINE)
    assert marks == [(check.EMPTY, name) for name in notebooks.solved_functions(notebooks.read(path))]
    ours = ran["solved"][path.name]["text"]
    rounding = r"^[✓○].*\n|\de-1\d|\d\.\de-1\d"
    both = [re.sub(rounding, "", x, flags=re.MULTILINE) for x in (said["text"], ours)]
    assert both[0] == both[1]  # the net's functions find what the solved ones find


# The book's pages


@each
def test_a_page_shows_exercises_unsolved_and_their_solutions_folded(session):
    page = notebooks.folded(session)
    code = "\n".join(c["source"] for c in page["cells"] if c["cell_type"] == "code")
    words = "\n".join(c["source"] for c in page["cells"] if c["cell_type"] == "markdown")
    for name, solution in notebooks.solved_functions(session).items():
        assert f"def {name}(" in code
        assert solution in words
    assert words.count("<summary>Solution") == sum("exercise" in tags(c) for c in session["cells"])


def test_the_teachers_page_is_filled():
    page = pages.filled((ROOT / "book/teaching.md").read_text(encoding="utf-8"), ROOT)
    assert "<!--" not in page
    for rows in notebooks.answers(ROOT).values():
        for row in rows["wrong"]:
            assert row.get("ask", "").replace("|", r"\|") in page
