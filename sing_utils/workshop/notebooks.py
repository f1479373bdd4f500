"""The workshop's notebooks: their sources hold the solutions, participants' copies and pages are made."""

from __future__ import annotations

import ast
import copy
import hashlib
import json
import os
import re
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import yaml

from sing_utils.errors import SingError
from sing_utils.files import locked, write_bytes

Notebook = dict[str, Any]

FOLDER = "notebooks/workshop"
BUNDLE = "bundle.safetensors"
LECTURE = "lecture"
_BEGIN, _END = "### BEGIN SOLUTION", "### END SOLUTION"
_SOLUTION = re.compile(rf"^( *){_BEGIN}\n(.*?)^ *{_END}\n?", re.MULTILINE | re.DOTALL)
_YOURS = "raise NotImplementedError  # your code\n"


def sources(root: Path, *, lecture: bool = False) -> list[Path]:
    """The solved notebooks of the six sessions, in order, and the lecture's if asked for."""
    found = sorted((root / FOLDER).glob("[0-9]_*.ipynb"))
    if not found:
        raise SingError(f"{FOLDER}/ holds no session, expected 1_*.ipynb: restore it from the repository.")
    return found + ([root / FOLDER / f"{LECTURE}.ipynb"] if lecture else [])


def read(path: Path) -> Notebook:
    """A notebook, with each cell's source as one text."""
    notebook: Notebook = json.loads(path.read_text(encoding="utf-8"))
    for cell in notebook["cells"]:
        cell["source"] = "".join(cell["source"])
    return notebook


def solved_functions(notebook: Notebook) -> dict[str, str]:
    """Name -> source of each function that a session asks for, with its solution."""
    found: dict[str, str] = {}
    for cell in _tagged(notebook, "exercise"):
        code = _SOLUTION.sub(r"\2", cell["source"])
        nodes = [n for n in ast.parse(code).body if isinstance(n, ast.FunctionDef)]
        found |= {n.name: str(ast.get_source_segment(code, n)) for n in nodes}
    return found


def stripped(notebook: Notebook) -> Notebook:
    """A participant's copy: what stands between the markers, and what explains it, is gone."""
    made = copy.deepcopy(notebook)
    made["cells"] = [c for c in made["cells"] if "solution" not in _tags(c)]
    for cell in made["cells"]:
        cell["source"] = _SOLUTION.sub(rf"\1{_YOURS}", cell["source"])
        if cell["cell_type"] == "code":
            cell |= {"outputs": [], "execution_count": None}
    return made


def without_markers(notebook: Notebook) -> Notebook:
    """The solved notebook, without the marks of where a solution begins and ends."""
    made = copy.deepcopy(notebook)
    for cell in made["cells"]:
        cell["source"] = _SOLUTION.sub(r"\2", cell["source"])
    return made


def folded(executed: Notebook) -> Notebook:
    """A page of the book: exercises as participants get them, solutions folded, outputs of the solved."""
    made, cells, waiting = copy.deepcopy(executed), [], ""
    for cell in made["cells"]:
        source = "".join(cell["source"])
        if "exercise" in _tags(cell):
            waiting = _SOLUTION.sub(r"\2", source).strip()
            source = _SOLUTION.sub(rf"\1{_YOURS}", source)
        elif "solution" in _tags(cell):
            source = (
                f"<details><summary>Solution</summary>\n\n```python\n{waiting}\n```\n\n{source}\n</details>"
            )
        cells.append(cell | {"source": source})
    made["cells"] = cells
    return made


def minutes(notebook: Notebook) -> Iterator[tuple[str, int]]:
    """What the minutes of a session are for, and how many, in order."""
    for cell in notebook["cells"]:
        if "minutes" in cell["metadata"]:
            yield cell["metadata"]["part"], cell["metadata"]["minutes"]


def title(notebook: Notebook) -> str:
    """A session's first heading, without its number."""
    return str(notebook["cells"][0]["source"].splitlines()[0].lstrip("# ")).split(" ", 1)[1]


def answers(root: Path) -> dict[str, dict[str, list[dict[str, str]]]]:
    """Function -> its other right answers and its wrong ones, from one table."""
    text = (root / FOLDER / "answers.yaml").read_text(encoding="utf-8")
    table: dict[str, dict[str, list[dict[str, str]]]] = yaml.safe_load(text)
    return table


def made_bundle(root: Path) -> Path:
    """The bundle, made where it is not or where what it is made of has changed."""
    digest = hashlib.sha256()
    stores = sorted((root / "data/embedded/features").glob("*/manifest.json"))
    rooms = (root / "sing_utils" / room for room in ("workshop/bundle.py", "planted"))
    code = sorted(p for room in rooms for p in ([room] if room.is_file() else room.glob("*.py")))
    for path in (*stores, *code):
        digest.update(path.read_bytes())
    folder = root / "_build/workshop"
    made = folder / f"bundle-{digest.hexdigest()[:16]}.safetensors"
    folder.mkdir(parents=True, exist_ok=True)
    with locked(folder):
        if not made.exists():
            for old in folder.glob("bundle-*.safetensors"):
                old.unlink()
            from sing_utils.workshop.bundle import write_bundle  # PyTorch, and half a minute

            write_bundle(made)
    return made


def executed(root: Path) -> dict[str, Path]:
    """Name -> executed copy of each solved session and of the lecture, in _build/workshop; run if needed."""
    made, folder = made_bundle(root), root / "_build/workshop"
    checks = Path(__file__).with_name("check.py").read_bytes()
    found = {}
    with locked(folder):
        waiting = {}
        for source in sources(root, lecture=True):
            text = source.read_bytes()
            key = hashlib.sha256(text + made.name.encode() + checks).hexdigest()
            stamp = folder / "executed" / f".{source.stem}.key"
            found[source.stem] = folder / "executed" / source.name
            if not (stamp.exists() and stamp.read_text() == key and found[source.stem].exists()):
                write_bytes(folder / source.name, text)
                waiting[folder / source.name] = key
        if waiting:
            from sing_utils.execute.notebooks import execute

            write_bytes(folder / BUNDLE, made.read_bytes())
            os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
            os.environ.setdefault("OMP_NUM_THREADS", "1")
            run = partial(execute, folder=folder, parameters={}, force=False, progress=True)
            with ThreadPoolExecutor(2) as pool:
                list(pool.map(run, waiting, waiting.values()))
    return found


def _tags(cell: dict[str, Any]) -> list[str]:
    return list(cell["metadata"].get("tags", []))


def _tagged(notebook: Notebook, tag: str) -> list[dict[str, Any]]:
    return [c for c in notebook["cells"] if tag in _tags(c)]
