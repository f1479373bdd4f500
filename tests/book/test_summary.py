"""The introduction's “In short”: first sentences of openings, at most 90 words."""

from __future__ import annotations

import json

import pandas as pd
import pytest

from sing_utils.book.summary import MOST, OPENINGS, summary
from sing_utils.runs.results import Results


@pytest.fixture
def make(tmp_path):
    def write(said, **record):
        table = pd.DataFrame([{"id": i, "measured": m, "verdict": "", "n": "", "why": ""} for i, m in said])
        table.to_parquet(tmp_path / "findings.parquet")
        (tmp_path / "run.json").write_text(json.dumps(record))
        return Results(tmp_path)

    return write


def test_first_sentences_in_the_order_of_the_book(make):
    said = [("planted", "P is 0.9. More."), ("comparison", "C (0.5 to 1.0) turns. More?"), ("setup", "S!")]
    assert summary(make([*said, ("classes", "Not here.")])) == "S! C (0.5 to 1.0) turns. P is 0.9."
    assert summary(make(said[:1])) == "P is 0.9."


def test_at_most_90_words_whatever_is_said(make):
    long = " ".join(f"word{i}" for i in range(200)) + ". Second."
    short = summary(make([(i, long) for i in OPENINGS]))
    assert short.count(" …") == 3
    assert len(short.replace(" …", "").split()) == len(OPENINGS) * MOST == 90


def test_a_run_that_has_nothing_to_say(make, tmp_path):
    assert "has said nothing yet" in summary(Results(tmp_path / "none"))
    assert "rehearsal" in summary(make([("setup", "S.")], rehearsal=True))
