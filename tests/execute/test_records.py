"""run.json and the citation: complete where a run is, honest where it is not, nothing of the machine."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
from pathlib import Path

import nbformat
import pandas as pd
import pytest
import torch
from fakes import Fake
from nbformat.v4 import new_notebook
from PIL import Image

from sing_utils.execute import records
from sing_utils.features.extraction import extract
from sing_utils.models.classifiers import LinearHead
from sing_utils.planted.networks import WEIGHTS
from sing_utils.runs.profiles import Profile

FAKE = Fake(weights="0" * 64, transform="Compose(\n    Resize\n)")
RUN = Path("_build/runs/small")
PROFILE = Profile(
    name="small",
    classifiers=["efficientnet_lite0"],
    concepts=["a", "b"],
    features="features",
    classes={"cat": "tabby cat"},
)


@pytest.fixture
def root(tmp_path):
    """A checkout with stores and one run of two notebooks and a table."""
    for i, label in enumerate(("cat", "dog")):
        (tmp_path / "photos" / label).mkdir(parents=True)
        Image.new("RGB", (4, 4), (i, 0, 0)).save(tmp_path / "photos" / label / "x.png")
    for name in ("efficientnet_lite0", "embedded"):
        extract(FAKE, tmp_path / "photos", tmp_path / "features" / name, workers=0, progress=False)
    for name in ("executed", "results", "artifacts/heads"):
        (tmp_path / RUN / name).mkdir(parents=True)
    for i, name in enumerate(("00_one", "01_two")):
        noted = {"duration": 1.5 + i, "end_time": f"2026-11-25T0{8 + i}:56:37.821797+01:00"}
        nbformat.write(
            new_notebook(metadata={"papermill": noted}), tmp_path / RUN / "executed" / f"{name}.ipynb"
        )
    save_numbers(tmp_path, 0.5, torch.eye(2))
    return tmp_path


def save_numbers(root, AS, weight):
    """A table and a head of the run."""
    pd.DataFrame({"class": ["cat"], "AS": [AS]}).to_parquet(root / RUN / "results" / "scores.parquet")
    head = LinearHead(weight, torch.zeros(2), sha256="1" * 64)
    head.save(root / RUN / "artifacts" / "heads" / f"efficientnet_lite0-{'a' * 16}.safetensors")


def write(root, profile=PROFILE, **options):
    given = {"current": {"00_one": True, "01_two": False}, "versions": {"torch": "2"}} | options
    return records.write_record(root, profile, root / RUN, **given)


def test_a_record_says_what_made_the_numbers(root):
    record = write(root)
    results = root / RUN / "results"
    assert json.loads((results / "run.json").read_text()) == record
    assert record["parameters"] == PROFILE.model_dump()
    assert (record["run"], record["profile"], record["rehearsal"]) == ("small", "small", False)
    assert record["date"] == "2026-11-25T08:56:37Z"
    assert record["stages"]["01_two"] == {"seconds": 2.5, "ended": "2026-11-25T08:56:37Z", "current": False}
    assert record["total_seconds"] == 4.0
    assert record["code"]["commit"] is None
    assert record["versions"]["torch"] == "2"
    assert record["versions"]["Python"].startswith("3.")
    assert record["hardware"]["cores"] >= 1
    one = record["revisions"]["classifiers"]["efficientnet_lite0"]
    assert one["weights"] == "1" * 64
    assert len(one["head"]) == 64
    assert one["extractor"]["weights"] == "0" * 64
    assert len(one["extractor"]["transform"]) == 64  # a long text as its digest
    assert record["revisions"]["pictures"]["number"] == 1  # of the profile's classes
    table = record["results"]["scores"]
    assert (table["rows"], table["columns"]) == (1, ["class", "AS"])


def test_the_digests_change_with_what_they_are_of(root):
    before = write(root)
    save_numbers(root, 0.6, 2 * torch.eye(2))
    after = write(root)
    assert before["results"]["scores"]["sha256"] != after["results"]["scores"]["sha256"]
    heads = [r["revisions"]["classifiers"]["efficientnet_lite0"]["head"] for r in (before, after)]
    assert heads[0] != heads[1]


def test_the_second_encoder_is_told_too(root):
    assert write(root)["revisions"]["second encoder"] is None
    (root / "features" / "embedded").rename(root / "features" / "planted-weak")
    profile = PROFILE.model_copy(update={"second_encoder": "planted:weak"})
    second = write(root, profile)["revisions"]["second encoder"]
    assert second["name"] == "planted:weak"
    assert second["extractor"]["weights"] == "0" * 64


def test_the_decoder_is_told_by_its_files_not_by_its_card(root):
    folder = root / "drawn by"
    (folder / "unet").mkdir(parents=True)
    weights = folder / "unet" / "w.safetensors"
    weights.write_bytes(b"one")
    profile = PROFILE.model_copy(update={"picture_backend": "mini:drawn by"})

    def decoder():
        return write(root, profile)["revisions"]["decoder"]

    first = decoder()
    assert first["name"] == "mini:drawn by"
    assert len(first["weights"]) == 64
    (folder / "README.md").write_text("a card")
    assert decoder() == first
    weights.write_bytes(b"two")
    second = decoder()
    assert second["weights"] != first["weights"]
    weights.rename(folder / "w.safetensors")
    assert decoder()["weights"] not in (first["weights"], second["weights"])


def test_the_planted_decoder_is_its_reader(root):
    planted = PROFILE.model_copy(update={"picture_backend": "planted"})
    name = hashlib.sha256(b"reader.safetensors\0")
    name.update(hashlib.sha256((WEIGHTS / "reader.safetensors").read_bytes()).digest())
    found = write(root, planted)["revisions"]["decoder"]
    assert found == {"name": "planted", "weights": name.hexdigest()}


def test_the_decoder_of_the_hub_is_told_by_its_commit(root, tmp_path, monkeypatch):
    profile = PROFILE.model_copy(update={"picture_backend": "karlo"})
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "no cache"))
    assert write(root, profile)["revisions"]["decoder"] == {"name": "karlo", "weights": None}
    asked = []
    monkeypatch.setattr(records, "cached_commit", lambda repository: asked.append(repository) or "c" * 40)
    assert write(root, profile)["revisions"]["decoder"]["weights"] == "c" * 40
    assert asked == ["kakaobrain/karlo-v1-alpha-image-variations"]


def test_heads_of_names_that_begin_alike_are_not_mixed(root):
    folder = root / RUN / "artifacts" / "heads"
    other = LinearHead(torch.eye(3), torch.zeros(3), sha256="2" * 64)
    file = folder / f"efficientnet_lite0-mine-{'b' * 16}.safetensors"
    other.save(file)
    os.utime(file, (4e9, 4e9))  # the newest
    assert write(root)["revisions"]["classifiers"]["efficientnet_lite0"]["weights"] == "1" * 64


def test_a_run_that_has_just_begun_has_a_record_too(tmp_path):
    folder = tmp_path / "_build" / "runs" / "new"
    record = records.write_record(tmp_path, PROFILE, folder, current={}, versions={})
    assert record["date"] is None
    assert record["stages"] == record["results"] == {}
    assert record["revisions"]["pictures"] is None
    assert record["revisions"]["classifiers"]["efficientnet_lite0"] == {
        "source": "efficientnet_lite0",
        "weights": None,
        "head": None,
        "extractor": None,
    }
    assert records.is_current(folder)


@pytest.mark.parametrize(
    "damage", ["executed/01_two.ipynb", "results/scores.parquet", "features/manifest.json"]
)
def test_damage_is_left_out_not_stopped_at(root, damage):
    run = root / RUN
    file = run / damage if not damage.startswith("features") else root / "features/embedded/manifest.json"
    file.write_bytes(b"{")
    record = write(root)
    assert len(record["results"]) == (0 if "scores" in damage else 1)
    assert record["stages"]["01_two"]["seconds"] == (None if "two" in damage else 2.5)
    assert (record["revisions"]["encoder"]["extractor"] is None) == damage.startswith("features")


def test_no_folder_of_this_machine_is_in_a_record(root, tmp_path_factory, monkeypatch):
    home = tmp_path_factory.mktemp("home") / "jane-doe"
    home.mkdir()
    monkeypatch.setattr(Path, "home", lambda: home)
    (home / "net.py").write_text("def build():\n    return 1\n")
    profile = PROFILE.model_copy(
        update={
            "images": f"{home}/my photos",
            "imagenet_dir": str(root / "imagenet"),
            "classifiers": ["mine"],
            "classifier_sources": {"mine": f"file:{home}/net.py:build"},
            "description": f"kept in {home}/notes",
            "encoder": f"open_clip:ViT-B-32/{home}/b32.pt",
            "photos": ["~/cat.png", "../jane-doe/dog.png", "chelsea"],
        }
    )
    write(root, profile)
    text = (root / RUN / "results" / "run.json").read_text()
    for secret in (str(root), str(home), "jane-doe", str(root.parent)):
        assert secret not in text
    made = json.loads(text)["parameters"]
    assert made["images"] == "…/my photos"
    assert made["imagenet_dir"] == "imagenet"
    assert made["classifier_sources"] == {"mine": "file:…/net.py:build"}
    assert made["encoder"] == "open_clip:ViT-B-32/…/b32.pt"
    assert made["photos"] == ["…/cat.png", "…/dog.png", "chelsea"]


def test_the_commit_and_whether_files_differ_from_it(root):
    def git(*arguments):
        who = ["-c", "user.name=x", "-c", "user.email=x@example.org"]
        subprocess.run(["git", "-C", str(root), *who, *arguments], check=True, capture_output=True)

    git("init")
    (root / ".gitignore").write_text("_build\n")
    git("add", "-A")
    git("commit", "-m", "all")
    code = write(root)["code"]
    assert len(code["commit"]) == 40
    assert code["dirty"] is False
    (root / "new.py").write_text("x")
    assert write(root)["code"]["dirty"] is True


def test_a_record_is_current_only_whole_and_of_this_format(root):
    folder = root / RUN
    assert not records.is_current(folder)
    write(root)
    assert records.is_current(folder)
    assert not list((folder / "results").glob("*.tmp*"))
    (folder / "results" / "citation.bib").unlink()
    assert not records.is_current(folder)
    write(root)
    text = (folder / "results" / "run.json").read_text()
    for bad in ("{", "[]", text.replace('"format": 1', '"format": 0')):
        (folder / "results" / "run.json").write_text(bad)
        assert not records.is_current(folder)


def test_the_citation_names_paper_book_run_and_commit(root):
    project = Path(__file__).resolve().parents[2]
    record = write(root) | {"run": "my_run", "rehearsal": True}
    record["code"] = {"sing_utils": "0.1.0", "commit": "abc", "dirty": True}
    text = records.citation(project, record)
    assert text.startswith("@inproceedings{makeitsing,")
    assert "@misc{singbook-my_run,\n" in text
    assert "author  = {{The SING Book authors}}" in text
    assert "year    = {2026}" in text
    assert "Run my\\_run of the profile small, made on 2026-11-25, at commit abc with changes, a re" in text
    assert text.count("{") == text.count("}")
    alone = records.citation(root, record)  # no references, no CITATION.cff
    assert alone.startswith("@misc{singbook-my_run,")


def test_a_machine_without_anything_to_ask(monkeypatch):
    monkeypatch.setattr(records.os, "sysconf", lambda _name: (_ for _ in ()).throw(ValueError()))
    monkeypatch.setattr(records.torch.cuda, "device_count", lambda: (_ for _ in ()).throw(RuntimeError()))
    found = records.hardware()
    assert found["memory_gb"] is None
    assert found["gpus"] == []
