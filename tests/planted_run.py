"""A run whose head, translator and texts are known, for the tables."""

from __future__ import annotations

from types import SimpleNamespace

import pandas as pd
import torch

from sing_utils import HeadSpaces, Translator
from sing_utils.classifiers import LinearHead
from sing_utils.run import Data


class PlantedRun:
    """What the tables ask of a run, with a head, a translator and texts that are known.

    Features (x, y, u, v); the head sees x and y, so (u, v) is the null space. The translator of
    "one" keeps everything; "two" sends u to the text's direction.
    """

    def __init__(self, folder):
        self.folder = folder
        self.profile = SimpleNamespace(
            classifiers=["one", "two"],
            encoder="planted",
            concepts=["east", "north"],
            low_resolution=["l1"],
            bootstrap_draws=200,
            adamw_epochs=2,
            held_out=0.2,
            confidence=0.9,
            permutations=199,
            control_draws=19,
            wordings=["an image of a {}", "a {}"],
            second_encoder=None,
            seed=0,
        )
        self.class_names = {"l0": "zero", "l1": "first"}
        self.concept_classes = ["zero"]
        g = torch.Generator().manual_seed(0)
        self.f = torch.randn(40, 4, generator=g, dtype=torch.float64)
        self.index = pd.DataFrame(
            {
                "path": [f"{i}.png" for i in range(40)],
                "label": ["l0", "l1"] * 20,
                "class": ["zero", "first"] * 20,
                "evaluation": [i % 4 < 2 for i in range(40)],
            }
        )
        self.maps = {name: torch.randn(3, 4, generator=g, dtype=torch.float64) for name in ("one", "two")}
        self.texts = {
            "zero": torch.tensor([1.0, 0.0, 0.0], dtype=torch.float64),
            "first": torch.tensor([0.0, 1.0, 0.0], dtype=torch.float64),
        }

    def head(self, name):
        W = torch.tensor([[2.0, 0.0, 0.0, 0.0], [0.0, 1.0, 0.0, 0.0]], dtype=torch.float64)
        bias = torch.tensor([0.0, 0.5], dtype=torch.float64)
        return LinearHead(W, bias, ("tench", "goldfish"), "abcdef" * 9, 1e-7)

    def classifier(self, name):
        return SimpleNamespace(head=self.head(name))

    def translator_file(self, name):
        return self.artifact(f"translators/{name}.safetensors")

    def spaces(self, name):
        return HeadSpaces.from_weight(self.head(name).weight)

    def data(self, name):
        return Data(self.f, self.f @ self.maps[name].mT, self.index)

    def translator(self, name):
        return Translator(self.maps[name])

    def judge(self, name):
        return SimpleNamespace(encode_text=lambda phrases: torch.eye(3, dtype=torch.float64)[: len(phrases)])

    def prompts(self, judge):
        return self.texts

    def artifact(self, name):
        path = self.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        return path
