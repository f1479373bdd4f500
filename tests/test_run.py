"""What a run hands to a notebook: photos, texts, translators by key, findings kept once."""

from __future__ import annotations

import pandas as pd
import pytest
import torch
from small_run import CLASSES, NAMES, small_run

from sing_utils import SingError, Translator
from sing_utils.findings import Finding


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


def test_a_finding_is_one_row_however_often_it_is_said(run):
    run.say(Finding("One."), opening="setup")
    run.say(Finding("Logits of efficientnet_lite0 stay.", "holds", "900 photos"), claim="equation-2")
    run.say(Finding("Two."), opening="setup")
    rows = pd.read_parquet(run.folder / "results" / "findings.parquet").set_index("id")
    assert rows["measured"].to_dict() == {"equation-2": "Logits of Lite0 stay.", "setup": "Two."}
    assert rows.loc["equation-2", "verdict"] == "holds"
    with pytest.raises(SingError, match=r"no claim 'equation-1', .*did you mean 'equation-"):
        run.say(Finding("x"), claim="equation-1")
