"""What a run found in at most 90 words: the first sentences of three notebooks' openings."""

from __future__ import annotations

import re

from sing_utils.book.claims_page import said_by
from sing_utils.runs.results import Results

OPENINGS = ("setup", "comparison", "planted")
MOST = 30  # words a sentence
_SENTENCE = re.compile(r"(?<=[.!?])\s+(?=[A-Z])")


def summary(results: Results) -> str:
    """The introduction's “In short”, as Markdown.

    Args:
        results: of the run; a rehearsal has nothing to say.
    """
    if results.record.get("rehearsal"):
        return "This run is a rehearsal: its weights are random, so it found nothing."
    said = said_by(results)
    found = [_first(said[name].measured) for name in OPENINGS if name in said]
    return " ".join(found) or "This run has said nothing yet: its notebooks come first."


def _first(words: str) -> str:
    """The first sentence, cut where it is too long."""
    sentence = _SENTENCE.split(words.strip(), maxsplit=1)[0].split()
    return " ".join(sentence) if len(sentence) <= MOST else f"{' '.join(sentence[:MOST])} …"
