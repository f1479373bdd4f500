"""A run whose head, translator and texts are known, for the tables."""

from __future__ import annotations

from types import SimpleNamespace

import pandas as pd
import torch

from sing_utils import BeyondLogits, HeadSpaces, Translator
from sing_utils.evidence.refits import Refits
from sing_utils.method.translator import FitReport
from sing_utils.models.classifiers import LinearHead
from sing_utils.runs.profiles import worded
from sing_utils.runs.run import Photos, Run


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
            phrases=["east", "north"],
            low_resolution=["l1"],
            refits=20,
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
        self.class_names, self.fits = {"l0": "zero", "l1": "first"}, {}
        self.classifiers, self.seed = self.profile.classifiers, 0
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

    def head(self, name):
        W = torch.tensor([[2.0, 0.0, 0.0, 0.0], [0.0, 1.0, 0.0, 0.0]], dtype=torch.float64)
        bias = torch.tensor([0.0, 0.5], dtype=torch.float64)
        return LinearHead(W, bias, ("tench", "goldfish"), "abcdef" * 9, 1e-7)

    def classifier(self, name):
        return SimpleNamespace(head=self.head(name))

    def spaces(self, name):
        return HeadSpaces.from_weight(self.head(name).weight)

    @property
    def targets(self):
        return self.profile.targets

    @property
    def concepts(self):
        return self.profile.concepts

    @property
    def classes(self):
        return list(self.class_names.values())

    @property
    def prompts(self):
        return [self.prompt(c) for c in self.classes]

    def prompt(self, what):
        return worded("an image of a {}", what)

    def disturbed(self, noise):
        """This run with noise in its embeddings, and with translators that were fitted on them."""
        noise = noise * torch.randn(40, 3, generator=torch.Generator().manual_seed(5), dtype=torch.float64)
        exact = self.embeddings
        self.embeddings = lambda name: exact(name) + noise
        self.fits = {n: Translator.fit((p := self.photos(n, "fit")).f, p.z, held_out=0.2) for n in self.maps}
        return self

    def embeddings(self, name):
        """Embeddings of the photos, (N, n)."""
        return self.f @ self.maps[name].mT

    def photos(self, name, part="evaluation"):
        own = torch.tensor([self.classes.index(c) for c in self.index["class"]])
        whole = Photos(self.f, self.embeddings(name), own, self.index)
        evaluation = self.index["evaluation"]
        return {"all": whole, "fit": whole.rows(~evaluation), "evaluation": whole.rows(evaluation)}[part]

    def beyond(self, name):
        fit = self.photos(name, "fit")
        return BeyondLogits.fit(fit.f, fit.z, self.head(name).weight, held_out=self.profile.held_out)

    def translator(self, name, method="ridge"):
        if method == "ridge":
            return self.fits.get(name) or Translator(
                self.maps[name], FitReport("ridge", 0.0, "mse", 16, 4, 1.0, 1.0)
            )
        fit = self.photos(name, "fit")
        return Translator.fit(fit.f, fit.z, method=method, epochs=self.profile.adamw_epochs)

    halves = Run.halves

    def refits(self, name):
        new, texts = self.photos(name), self.texts(name, [*self.prompts, *self.profile.phrases])
        options = {"classes": len(self.classes), "count": self.profile.refits}
        return Refits.fit(self.halves(name), new.f, texts, new.own, **options)

    def judge(self, name):
        return SimpleNamespace(encode_text=lambda phrases: self.texts(name, phrases), left_out=())

    def texts(self, name, phrases):
        known = [*self.prompts, "an image of a third", *self.concepts]  # a concept is a prompt's direction
        return torch.eye(3, dtype=torch.float64)[[known.index(p) % 3 for p in phrases]]

    def artifact(self, name):
        path = self.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        return path
