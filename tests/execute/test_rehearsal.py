"""Rehearsals: generated pictures, a few classes; and a whole run of the paper's profile, made small."""

from __future__ import annotations

import nbformat
import numpy as np
import pandas as pd
import pytest
import yaml
from PIL import Image
from typer.testing import CliRunner

from sing_utils.cli import app
from sing_utils.execute import rehearsal
from sing_utils.execute.rehearsal import generate_pictures, rehearsal_classes, rehearsal_parameters
from sing_utils.runs.profiles import load_profile
from sing_utils.sources.folders import list_pictures


def test_the_classes_that_a_profile_names_elsewhere_are_kept(root):
    classes = load_profile("paper", root=root).classes
    chosen = rehearsal_classes(classes, ["sports car", "jellyfish", "Arabian camel"])
    assert list(chosen.values()) == ["jellyfish", "Arabian camel", "sports car"]  # in the profile's order
    assert list(rehearsal_classes(classes, ["sports car"]).values())[:2] == ["goldfish", "great white shark"]
    assert len(rehearsal_classes(classes, list(classes.values())[:5])) == 5


def test_generated_pictures_are_the_same_each_time_and_differ_from_each_other(tmp_path):
    folders = [generate_pictures(tmp_path / str(i), ["cat", "dog"]) for i in range(2)]
    first, second = (
        {p.relative_to(f).as_posix(): np.asarray(Image.open(p)) for p in sorted(f.rglob("*.png"))}
        for f in folders
    )
    assert first.keys() == second.keys()
    assert len(first) == 8
    assert {p.split("/")[0] for p in first} == {"fit", "evaluate"}
    assert all(np.array_equal(first[p], second[p]) for p in first)
    assert len({x.tobytes() for x in first.values()}) == 8


@pytest.mark.parametrize(
    "labels", [["Mine", "mine"], ["a/b", "../a"], ["x" * 240, "x" * 239 + "y"], ["CON.", " 猫", "猫"]]
)
def test_classes_whatever_they_are_called_are_rehearsed(root, tmp_path, labels):
    profile = load_profile("embedded", root=root, classes={x: f"name {i}" for i, x in enumerate(labels)})
    values = rehearsal_parameters(tmp_path, profile)
    found = list_pictures(tmp_path / values["images"])
    assert sorted(found["label"].unique()) == sorted(values["classes"])
    assert len({x.casefold() for x in found["path"]}) == 4 * len(labels)
    assert list(values["classes"].values()) == list(profile.classes.values())


@pytest.mark.parametrize("name", ["embedded", "paper", "planted", "laptop"])
def test_every_profile_can_be_rehearsed(name, root, tmp_path):
    values = rehearsal_parameters(tmp_path, load_profile(name, root=root))
    rehearsed = load_profile(name, root=root, **values)
    assert rehearsed.rehearse
    assert rehearsed.planted_scenes < 1000
    if name == "planted":
        assert rehearsed.pictures == "planted:150"
        return
    assert (tmp_path / rehearsed.pictures).is_dir()
    labels = {p.name for p in (tmp_path / rehearsed.pictures / "fit").iterdir()}
    assert labels == set(rehearsed.classes)
    if rehearsed.source_class is not None:
        assert rehearsed.source_class in rehearsed.classes.values()


def test_the_papers_profile_is_rehearsed_from_the_command_line(root, tmp_path, monkeypatch):
    """One of its classifiers and one notebook; all five are built in test_model_sources.

    Of two pictures a class, because CLIP ViT-L/14 takes seconds for each.
    """
    folder, generate = tmp_path / "run", rehearsal.generate_pictures
    monkeypatch.setattr(rehearsal, "COUNTS", {"fit": 1, "evaluate": 1})
    monkeypatch.setattr(
        rehearsal, "generate_pictures", lambda place, classes: generate(place.with_name("two"), classes)
    )
    given = ["run", "--profile", "paper", "--rehearse", "--run-dir", str(folder)]
    given += ["--only", "02", "-p", "classifiers=[BiTResNet]"]
    result = CliRunner().invoke(app, given)
    assert result.exit_code == 0, (result.output, result.exception)
    assert "1 of 1 notebooks ran" in result.output
    profile = yaml.safe_load((folder / "profile.yaml").read_text())
    assert profile["rehearse"] is True
    scores = pd.read_parquet(folder / "results" / "photo_scores.parquet")
    assert set(scores["classifier"]) == {"BiTResNet"}
    assert (scores["IS"] > 0).all()
    (page,) = (folder / "executed").glob("*.ipynb")
    assert "rehearsal" in str(nbformat.read(page, 4))  # it says so
