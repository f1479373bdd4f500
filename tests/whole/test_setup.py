"""What `make` would install, and what is declared."""

from __future__ import annotations

import ast
import re
import runpy
import subprocess
import sys
import tomllib
from importlib.metadata import packages_distributions
from itertools import chain
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


def planned(*arguments):
    """The commands that `make setup` would run in an environment that is not there yet."""
    command = ["make", "-n", "setup", "VENV=_build/none", *arguments]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)


def test_the_cpu_build_comes_from_pytorchs_index_and_the_rest_from_the_lock(tmp_path):
    plan = planned("TORCH=cpu").stdout
    assert "--torch-backend=cpu" in plan
    assert "--require-hashes --no-deps -r _build/none/others.lock" in plan
    awk = next(line for line in plan.splitlines() if line.startswith("awk")).partition(">")[0]
    kept = subprocess.run(awk, shell=True, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    lock = (ROOT / "requirements.lock").read_text()
    sed = re.search(r"\$\((sed .*)\)", plan)[1]
    taken = subprocess.run(sed, shell=True, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    assert taken.split() == re.findall(r"^(?:torch|torchvision)==[^ ]+", lock, re.MULTILINE)
    names = {line.partition("==")[0] for line in lock.splitlines() if line[:1].isalnum()}
    left = {line.partition("==")[0] for line in kept.splitlines() if line[:1].isalnum()}
    assert {"torch", "torchvision", "triton", "nvidia-cublas"} <= names - left
    assert "timm" in left
    assert kept.count("--hash=") < lock.count("--hash=")  # hashes of what is left out go with it


def test_without_it_the_lock_is_installed_as_it_is():
    plan = planned().stdout
    assert "--require-hashes -r requirements.lock" in plan
    assert "torch-backend" not in plan


@pytest.mark.parametrize("value", ["cuda", "CPU"])
def test_another_build_is_refused(value):
    done = planned(f"TORCH={value}")
    assert done.returncode == 2
    assert "expected cpu" in done.stderr


def test_an_index_that_cannot_be_reached_is_said(tmp_path):
    fake = tmp_path / "bin"
    fake.mkdir()
    for name, code in (("python", 0), ("uv", 1)):
        (fake / name).write_text(f"#!/bin/sh\nexit {code}\n")
        (fake / name).chmod(0o755)
    command = ["make", "setup", f"VENV={tmp_path}", "TORCH=cpu"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "leave TORCH=cpu out" in done.stdout


def test_what_is_imported_is_declared():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    wanted = [*project["dependencies"], *chain(*project["optional-dependencies"].values())]
    declared = {re.match(r"[\w.-]+", w)[0].lower().replace("_", "-") for w in wanted}
    owners = packages_distributions()
    for path in sorted((ROOT / "sing_utils").rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            names = [a.name for a in node.names] if isinstance(node, ast.Import) else []
            names += [node.module] if isinstance(node, ast.ImportFrom) and node.module else []
            for top in {n.partition(".")[0] for n in names} - set(sys.stdlib_module_names) - {"sing_utils"}:
                by = {o.lower().replace("_", "-") for o in owners[top]}
                assert by & declared, f"{path.name} imports {top}, which no dependency declares"


@pytest.mark.parametrize("folder", ["embedded", "planted"])
def test_the_scripts_that_made_the_data_can_be_imported(folder, monkeypatch):
    scripts = sorted((ROOT / "data" / folder / "build").glob("*.py"))
    assert scripts
    monkeypatch.syspath_prepend(scripts[0].parent)
    for script in scripts:
        runpy.run_path(str(script), run_name="imported")
