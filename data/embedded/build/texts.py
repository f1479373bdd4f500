"""The texts the embedded encoder is trained on: class names, definitions and captions."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import pandas as pd
from timm.data import ImageNetInfo

TEMPLATES = (
    "{}",
    "a {}",
    "a photo of a {}.",
    "a close-up photo of a {}.",
    "a small, blurry photo of a {}.",
    "there is a {} in the scene.",
)


@dataclass(frozen=True)
class ClassText:
    """One text about one class; `row` is the class's place among the logits."""

    row: int
    kind: str  # "name" (first lemma), "lemma" (another one) or "definition"
    text: str


def class_texts() -> list[ClassText]:
    """Every template with the first lemma, one with each other lemma, and the definition."""
    info = ImageNetInfo("imagenet-1k")
    out = []
    for row in range(info.num_classes()):
        lemmas = [s.strip() for s in info.index_to_description(row).split(",")]
        definition = info.index_to_description(row, detailed=True).split(": ", 1)[-1]
        out += [ClassText(row, "name", t.format(lemmas[0])) for t in TEMPLATES]
        out += [ClassText(row, "lemma", TEMPLATES[2].format(lemma)) for lemma in lemmas[1:]]
        out += [ClassText(row, "lemma", lemma) for lemma in lemmas[1:]]
        out += [ClassText(row, "definition", definition)]
        out += [ClassText(row, "definition", f"{lemmas[0]}: {definition}")]
    return out


def read_captions(file: Path) -> pd.DataFrame:
    """image, caption; five rows a picture, tidied of the space before the full stop."""
    captions = pd.read_csv(file)
    captions["caption"] = captions.caption.str.replace(" .", ".", regex=False).str.strip()
    return captions
