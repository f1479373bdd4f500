"""What a run hands to a notebook: photos, texts, translators by key, findings kept once."""

from __future__ import annotations

import shutil
import threading
import time
from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest
import torch
from fakes import Fake
from filelock import FileLock
from small_run import CLASSES, NAMES, small_run

from sing_utils import SingError, Translator
from sing_utils.features.store import FeatureStore
from sing_utils.runs.profiles import load_profile, save_profile
from sing_utils.runs.run import Run, _once, claim_folder, open_run, run_folder
from sing_utils.show.findings import Finding
from sing_utils.sources.folders import list_pictures

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return small_run(tmp_path_factory.mktemp("run"), classifiers=NAMES)


def test_photos_of_both_parts_and_of_one_class(run):
    new, fit, whole = (run.photos(NAMES[0], part) for part in ("evaluation", "fit", "all"))
    assert len(new) + len(fit) == len(whole) == len(whole.index)
    assert not set(new.index["path"]) & set(fit.index["path"])
    assert [run.classes[i] for i in new.own] == new.index["class"].tolist()
    cars = new.of("sports car")
    assert set(cars.index["class"]) == {"sports car"}
    assert torch.equal(cars.f, new.f[new.own == CLASSES.index("sports car")])
    assert run.photos(NAMES[0]) is new  # no file is read twice
    with pytest.raises(SingError, match="no photo of 'sport car', expected one of"):
        new.of("sport car")


def test_no_text_is_read_twice(run, monkeypatch):
    read: list[str] = []
    encode = type(run.encoder).encode_text

    def watched(self, texts):
        read.extend(texts)
        return encode(self, texts)

    monkeypatch.setattr(type(run.encoder), "encode_text", watched)
    first = run.texts(NAMES[0], ["a spoon", "a fork", "a spoon"])
    again = run.texts(NAMES[1], ["a fork", "a knife"])
    assert sorted(read) == ["a fork", "a knife", "a spoon"]
    assert torch.equal(first[1], again[0])
    assert torch.allclose(first, run.judge(NAMES[0]).encode_text(["a spoon", "a fork", "a spoon"]), atol=1e-6)


def test_a_translator_is_fitted_once_for_what_it_depends_on(run, monkeypatch):
    T = run.translator(NAMES[0])
    fit = run.photos(NAMES[0], "fit")
    expected = Translator.fit(fit.f, fit.z, held_out=run.profile.held_out, seed=run.seed)
    assert torch.equal(T.weight, expected.weight)
    other = small_run(run.folder.parent / "other", seed=1)
    assert not torch.equal(other.translator(NAMES[0]).weight, T.weight)
    again = small_run(run.folder)
    monkeypatch.setattr(Translator, "fit", lambda *_, **__: pytest.fail("it was fitted again"))
    assert torch.equal(again.translator(NAMES[0]).weight, T.weight)


@pytest.mark.parametrize(
    ("what", "method", "inputs"),
    [
        ("translator", ["ridge"], ["f", "z", "held_out", "seed"]),
        ("translator", ["adamw"], ["f", "z", "held_out", "seed", "adamw_epochs"]),
        ("beyond", [], ["f", "z", "W", "held_out", "seed"]),
        ("refits", [], ["f", "z", "W", "held_out", "seed", "refits", "texts"]),
    ],
)
def test_what_is_kept_is_kept_for_all_that_it_depends_on(run, monkeypatch, what, method, inputs):
    """Or another encoder, for one, would be read through this one's translator."""
    photos = {part: run.photos(NAMES[0], part) for part in ("fit", "evaluation")}
    head, files = run.head(NAMES[0]), []

    def asked(path, _make):
        files.append(path.name)
        raise InterruptedError

    monkeypatch.setattr("sing_utils.runs.run._once", asked)
    for changed in [None, *inputs]:
        by = dict.fromkeys(("f", "z", "W", "texts"), 1.0) | {changed: 2.0}
        own = {k: replace(x, f=by["f"] * x.f, z=by["z"] * x.z) for k, x in photos.items()}
        monkeypatch.setattr(Run, "photos", lambda _, _name, part="evaluation", own=own: own[part])
        weight = by["W"] * head.weight
        monkeypatch.setattr(Run, "head", lambda *_, weight=weight: replace(head, weight=weight))
        monkeypatch.setattr(Run, "texts", lambda *_, x=by["texts"]: torch.tensor([x]))
        values = {k: v + 0.01 for k, v in run.profile if k == changed}
        other = replace(run, profile=run.profile.model_copy(update=values), _texts={}, _kept={})
        with pytest.raises(InterruptedError):
            getattr(other, what)(NAMES[0], *method)
    assert len(set(files)) == 1 + len(inputs)


def test_of_two_that_need_one_file_the_second_waits_and_takes_it(tmp_path):
    path, made = tmp_path / "T.safetensors", []
    with FileLock(path.with_suffix(".lock")):
        thread = threading.Thread(target=_once, args=(path, lambda: made.append(1) or Path.touch))
        thread.start()
        thread.join(0.3)
        path.write_bytes(b"whole")
    thread.join()
    assert (made, path.read_bytes()) == ([], b"whole")


def test_a_finding_is_one_row_however_often_it_is_said(run):
    run.say(Finding("One."), opening="setup")
    run.say(Finding("Logits of efficientnet_lite0 stay.", "holds", "900 photos"), claim="equation-2")
    run.say(Finding("Two."), opening="setup")
    rows = pd.read_parquet(run.folder / "results" / "findings.parquet").set_index("id")
    assert rows["measured"].to_dict() == {"equation-2": "Logits of Lite0 stay.", "setup": "Two."}
    assert rows.loc["equation-2", "verdict"] == "holds"
    with pytest.raises(SingError, match=r"no claim 'equation-1', .*did you mean 'equation-"):
        run.say(Finding("x"), claim="equation-1")


def test_of_two_findings_said_at_once_both_are_kept(run):
    """Both have read the table before either writes it, unless one waits for the other."""
    file, told = run.folder / "results" / "findings.parquet", Finding("One.")
    file.parent.mkdir(exist_ok=True)
    with FileLock(run.folder / ".findings.lock"):
        thread = threading.Thread(target=run.say, args=(told,), kwargs={"opening": "here"})
        thread.start()
        thread.join(0.3)
        pd.DataFrame([{"id": "there", **vars(told)}]).to_parquet(file)
    thread.join()
    assert sorted(pd.read_parquet(file)["id"]) == ["here", "there"]


@pytest.mark.parametrize("flat", ["val", "test", "train"])
@pytest.mark.parametrize("stored", [False, True])
def test_a_flat_split_beside_class_folders_is_left_out(tmp_path, make_picture, monkeypatch, flat, stored):
    """Pictures without labels, as in train/cat beside val/: the others are divided anew."""
    labelled = "val" if flat == "train" else "train"
    for i in range(8):
        make_picture(tmp_path / "p" / labelled / f"c{i % 2}" / f"{i}.png", seed=i)
        make_picture(tmp_path / "p" / flat / f"{i}.png", seed=100 + i)
    profile = load_profile("embedded", images=str(tmp_path / "p"), classifiers=[NAMES[0]])
    run = Run(profile, ROOT, tmp_path / "run")
    index = run.pictures.index
    assert set(index["label"]) == {"c0", "c1"}
    if stored:
        index = list_pictures(tmp_path / "p")
    rows = FeatureStore.from_arrays(tmp_path / "f", torch.rand(len(index), 1280), index, name=NAMES[0])
    z = {t: torch.rand(len(index), 320) for t in run.encoder.towers}
    targets = FeatureStore.from_arrays(tmp_path / "z", z, index, name="embedded")
    monkeypatch.setattr(Run, "store", lambda _, name: targets if name == "embedded" else rows)
    photos = run.photos(NAMES[0], "all").index
    assert set(photos["class"]) == {"c0", "c1"}
    assert photos.groupby("class")["evaluation"].agg(["size", "sum"]).to_numpy().tolist() == [[4, 2], [4, 2]]


# ------------------------------------------------------------------------ whose folder it is


def test_of_two_that_begin_at_once_the_second_is_refused(tmp_path):
    """Both have looked and found no note; one waits for the other."""
    first, second = (load_profile("embedded", seed=seed) for seed in (1, 2))
    told = []
    with FileLock(tmp_path / ".parameters.lock"):

        def claim():
            try:
                claim_folder(tmp_path, second)
            except SingError as error:
                told.append(str(error))

        thread = threading.Thread(target=claim)
        thread.start()
        time.sleep(0.3)
        (tmp_path / ".parameters.json").write_text(first.model_dump_json())
    thread.join()
    assert len(told) == 1
    assert "seed 1" in told[0]


def test_parameters_that_begin_alike_have_folders_of_their_own():
    given = [{"concepts": ["a very long phrase about deserts", end]} for end in ("sand", "stone")]
    first, second = (run_folder(load_profile("embedded", **g), g) for g in given)
    assert first != second
    assert first[:-4] == second[:-4]  # what can be read of them is the same


def test_tables_are_not_saved_into_a_run_that_another_has_taken(tmp_path):
    run = small_run(tmp_path)
    run.save_table("mine", pd.DataFrame({"a": [1]}))
    claim_folder(tmp_path, load_profile("embedded", seed=7), anew=True)  # `sing run`, while a kernel is open
    with pytest.raises(SingError, match="holds a run with"):
        run.save_table("mine", pd.DataFrame({"a": [2]}))
    assert pd.read_parquet(tmp_path / "results" / "mine.parquet")["a"].tolist() == [1]


def test_a_table_is_saved_whole_or_not_at_all(tmp_path, monkeypatch):
    run = small_run(tmp_path)
    run.save_table("mine", pd.DataFrame({"a": [1]}))

    def half(_table, file, **_options):
        Path(file).write_bytes(b"half")
        raise OSError("the disk is full")

    monkeypatch.setattr(pd.DataFrame, "to_parquet", half)
    with pytest.raises(SingError, match="the disk is full"):
        run.save_table("mine", pd.DataFrame({"a": [2]}))
    assert run.table("mine")["a"].tolist() == [1]
    assert [p.name for p in (tmp_path / "results").iterdir()] == ["mine.parquet"]


@pytest.fixture
def mine(tmp_path, root, monkeypatch):
    """A run with parameters of its own, in a checkout and outside it."""
    (tmp_path / "checkout" / "_build" / "runs").mkdir(parents=True)
    (tmp_path / "checkout" / "data").symlink_to(root / "data")
    monkeypatch.chdir(tmp_path / "checkout")
    folders = [tmp_path / "checkout" / "_build" / "runs" / "mine", tmp_path / "far" / "mine run"]
    return [small_run(folder, seed=5, degrees=12.0) for folder in folders]


@pytest.mark.parametrize(
    ("name", "which"),
    [
        ("mine", 0),
        ("_build/runs/mine", 0),
        ("_build/runs/mine/", 0),
        ("{here}/checkout/_build/runs/mine", 0),
        ("../far/mine run", 1),
        ("{here}/far/mine run", 1),
    ],
)
@pytest.mark.parametrize("note", [".parameters.json", "profile.yaml"])
def test_a_run_is_opened_by_its_folder(mine, tmp_path, name, which, note):
    run = mine[which]
    if note == "profile.yaml":  # a run of an older version
        save_profile(run.profile, run.folder / "profile.yaml")
        (run.folder / ".parameters.json").unlink()
    opened = open_run(name.format(here=tmp_path))
    assert opened.profile == run.profile
    assert opened.folder.resolve() == run.folder.resolve()
    assert open_run(name.format(here=tmp_path), must_exist=True, seed=6).seed == 6  # one who only reads


@pytest.mark.parametrize("must_exist", [False, True])
def test_two_runs_are_never_mixed(mine, must_exist):
    folder = str(mine[1].folder)
    with pytest.raises(SingError, match="holds a run with .*expected one with"):
        open_run("embedded", run_dir=folder, must_exist=must_exist)
    if not must_exist:
        with pytest.raises(SingError, match="holds a run with seed 5, expected one with 6"):
            open_run(folder, seed=6)


@pytest.mark.parametrize("name", ["mien", "../far/nothing"])
def test_a_run_that_is_not_there(mine, name):
    with pytest.raises(SingError, match="did you mean 'mine'|no run in ../far/nothing"):
        open_run(name)
    assert not Path("../far/nothing").exists()


# ----------------------------------------------------------------------- the cache of features


@pytest.mark.parametrize(
    "lose",
    [
        shutil.rmtree,
        lambda store: (store / "manifest.json").unlink(),
        lambda store: (store / "shard-00000.safetensors").unlink(),
        lambda store: (store / "index.parquet").write_bytes(b""),
        lambda store: shutil.rmtree(store.parent),
    ],
    ids=["store", "manifest", "shard", "index", "whole cache"],
)
def test_features_that_somebody_deleted_are_extracted_again(tmp_path, monkeypatch, make_picture, lose):
    for i in range(6):
        make_picture(tmp_path / "photos" / f"c{i % 2}" / f"{i}.png", seed=i)
    monkeypatch.setenv("SING_FEATURES_DIR", str(tmp_path / "cache"))
    monkeypatch.setattr("sing_utils.runs.run.load_classifier", lambda *_, **__: Fake())
    run = small_run(tmp_path / "run", images=str(tmp_path / "photos"), classes=None, concept_classes=None)
    store = run.store(NAMES[0])
    assert store.path.parent == tmp_path / "cache"
    before = store.read("features")
    lose(store.path)
    assert torch.equal(run.store(NAMES[0]).read("features"), before)
    monkeypatch.setattr("sing_utils.runs.run.extract_cached", lambda *_, **__: pytest.fail("it is there"))
    run.store(NAMES[0])
