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
from types import SimpleNamespace

import pandas as pd
import pytest
import torch

from sing_utils.models.networks import imagenet_classes

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


def test_nothing_that_is_analysed_or_held_out_is_trained_on(tmp_path, monkeypatch):
    folder = ROOT / "data" / "embedded" / "build"
    monkeypatch.syspath_prepend(folder)
    script = runpy.run_path(str(folder / "photos.py"), run_name="imported")
    wnids = list(imagenet_classes())
    paths = {
        "flickr": [f"{i}.jpg" for i in range(210)],
        "sample": [f"{w}_name.JPEG" for w in wnids],
        "tiny": [f"{w}/{i}.JPEG" for w in wnids[:200] for i in range(2)],
        "analysed": [f"val/{w}/0.JPEG" for w in wnids[5:400:99]],
    }
    stores = {}
    for number, (source, names) in enumerate(paths.items()):
        index = pd.DataFrame({"path": names, "label": [p.split("/")[-2:][0] for p in names]})
        index["sha256"] = source + index["path"]
        x = torch.randn(len(names), 64, generator=torch.Generator().manual_seed(number))
        stores[source] = SimpleNamespace(index=index, read={"features": x}.__getitem__)
    (tmp_path / "flickr8k-1000").mkdir()
    captions = [f"{p},This is {p} .\n" for _ in range(5) for p in paths["flickr"]]
    (tmp_path / "flickr8k-1000" / "captions.csv").write_text("image,caption\n" + "".join(captions))

    rows = script["split_rows"](stores, tmp_path)
    held = {"flickr": rows.flickr_test.tolist(), "sample": rows.sample_test.tolist(), "tiny": []}
    assert [len(h) for h in held.values()] == [200, 500, 0]
    analysed = set(rows.labels["analysed"].tolist())
    assert analysed == {wnids.index(w) for w in wnids[5:400:99]}
    for source, own in held.items():
        used = rows.fit[source].tolist()
        left = {i for i, c in enumerate(rows.labels[source].tolist()) if c in analysed}
        assert sorted({*used, *own, *left}) == list(range(len(paths[source])))
        assert not set(used) & {*own, *left}
    assert {rows.caption_texts[i] for i in rows.captions[7].tolist()} == {"This is 7.jpg."}

    check = script["check_no_duplicates"]
    assert check(stores, rows) < script["DUPLICATE"]
    used, shown = stores["tiny"], stores["analysed"]
    row = int(rows.fit["tiny"][3])
    used.index.loc[row, "sha256"] = shown.index["sha256"][0]
    with pytest.raises(SystemExit, match="1 photos are trained on and analysed"):
        check(stores, rows)
    used.index.loc[row, "sha256"] = "another"
    used.read("features")[row] = 2 * shown.read("features")[0]  # the same picture in another file
    with pytest.raises(SystemExit, match=r"nearest pair: cosine 1\.000"):
        check(stores, rows)
