"""Steering planted heads: is what is reached what the head ignores?"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
import torch

from sing_utils.measure.planted import means, named
from sing_utils.method.steering import largest_image_score, null_direction, random_null_direction, steer
from sing_utils.method.translator import Translator
from sing_utils.planted.heads import Planted
from sing_utils.planted.networks import load_reader
from sing_utils.planted.scenes import FACTORS
from sing_utils.planted.scores import World, fit_translator, level_prompts


def steering(worlds: Sequence[World], *, degrees: float = 25.0, scenes: int = 60) -> pd.DataFrame:
    """Steer scenes toward another level of each factor, and read what is reached.

    One row a world, named head, factor and direction ("toward the prompt", or "random": a random null
    direction, to the same IS). `reached`: share of scenes that turn so far in which the factor is then
    read as the wanted level; `before`: the same before the step. `other factors`: share of readings of
    all other factors that are as before. `step`: median length of the step, in lengths of the feature.
    """
    return pd.DataFrame([r for w in worlds for h in named(w) for r in _steer_head(w, h, degrees, scenes)])


def _steer_head(world: World, head: Planted, degrees: float, scenes: int) -> list[dict[str, Any]]:
    T, spaces = fit_translator(world, head), head.spaces()
    f, levels = head.features(world.evaluation.h[:scenes]), world.evaluation.levels[:scenes]
    rng, before = np.random.default_rng(world.seed), _read(T, f)
    texts = world.texts(level_prompts()).split([len(v) for v in FACTORS.values()])
    rows = []
    for k, (factor, names) in enumerate(FACTORS.items()):
        wanted = (levels[:, k] + rng.integers(1, len(names), len(levels))) % len(names)
        u = texts[k][wanted]  # (N, n)
        ways = {
            "toward the prompt": null_direction(f, u, T, spaces),
            "random": random_null_direction(len(f), spaces, seed=world.seed),
        }
        for way, d in ways.items():
            turn = torch.minimum(torch.full((len(f),), degrees).double(), 0.9 * largest_image_score(f, d, T))
            there = steer(f, u, T, spaces, degrees=turn, direction=d)
            ok = ~there.epsilon.isnan()
            after = _read(T, there.f_eps[ok])
            kept = [np.mean(after[g] == before[g][ok.numpy()]) for g in FACTORS if g != factor]
            rows.append(
                {
                    "seed": world.seed,
                    "head": head.name,
                    "factor": factor,
                    "planted": head.ignored[factor],
                    "direction": way,
                    "before": float(np.mean(before[factor] == wanted)),
                    "reached": float(np.mean(after[factor] == wanted[ok.numpy()])),
                    "other factors": float(np.mean(kept)),
                    "IS": float(there.IS[ok].mean()),
                    "step": float((there.epsilon[ok] / f[ok].norm(dim=1)).median()),
                    "scenes": int(ok.sum()),
                }
            )
    return rows


def _read(T: Translator, f: torch.Tensor) -> dict[str, np.ndarray]:
    """Factor -> the level that is read off Tf, (N,)."""
    return {factor: p.argmax(1).numpy() for factor, p in load_reader()(T(f)).items()}


def steering_means(table: pd.DataFrame, *, level: float) -> pd.DataFrame:
    """Mean over worlds of `reached` with its interval: one row a head, factor and direction."""
    keys = ["head", "factor", "planted", "direction"]
    found = means(table, keys, "reached", level=level, bounds=(0.0, 1.0))
    return found.merge(table.groupby(keys, sort=False)[["IS", "step"]].mean().reset_index(), on=keys)
