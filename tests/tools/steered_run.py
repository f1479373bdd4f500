"""A run of twelve features, of which the head sees two."""

from __future__ import annotations

import torch
from planted_run import PlantedRun

from sing_utils.models.classifiers import LinearHead


class SteeredRun(PlantedRun):
    """Twelve features: the head sees two of them. Two targets: one within T's null part, one not."""

    def __init__(self, folder):
        super().__init__(folder)
        self.profile.targets, self.profile.degrees = ["there", "elsewhere"], 8.0
        self.source_class = "zero"
        g = torch.Generator().manual_seed(1)
        self.f = torch.randn(40, 12, generator=g, dtype=torch.float64)
        self.maps = {n: torch.randn(6, 12, generator=g, dtype=torch.float64) for n in ("one", "two")}
        self.goals = torch.randn(2, 6, generator=g, dtype=torch.float64)

    def head(self, name):
        W = torch.eye(2, 12, dtype=torch.float64)
        return LinearHead(W, torch.tensor([0.0, 0.5], dtype=torch.float64), ("tench", "goldfish"))

    def texts(self, name, phrases):
        goals = dict(zip(map(self.prompt, self.targets), self.goals, strict=True))
        return torch.stack([goals.get(p, self.goals[0]) for p in phrases])


def source(run):
    """Features of the evaluation photos of the source class."""
    keep = run.index["evaluation"] & (run.index["class"] == "zero")
    return run.f[torch.from_numpy(keep.to_numpy(copy=True))]
