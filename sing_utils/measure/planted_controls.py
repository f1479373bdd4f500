"""Tables of notebook 06b: what else moves the scores of planted heads; what controls and steering say.

Toward the shape, the clean head ignores nothing and the leaky one the planted share. A control that is
worth its name tells them apart: against random subspaces the clean head's null space should hold less of the
shape than chance, and the leaky head's as much as its planted share beside its share of the dimensions says.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

import numpy as np
import pandas as pd
import torch

from sing_utils.evidence.controls import SUBSPACES, at_energy, remove_null, remove_random
from sing_utils.evidence.intervals import chance_p, percentile
from sing_utils.evidence.translators import translator_parts
from sing_utils.measure.planted import SCORES, means, named, over_worlds, random_heads, roc_area, survey
from sing_utils.method.steering import largest_image_score, null_direction, random_null_direction, steer
from sing_utils.method.translator import Translator
from sing_utils.planted.heads import REST, Planted
from sing_utils.planted.networks import load_reader
from sing_utils.planted.scenes import BASES, FACTORS, GIVEN, HEADS, WORDINGS
from sing_utils.planted.scores import World, fit_translator, level_prompts

COMPARED = ("clean", "leaky")
CONFOUNDS: dict[str, dict[str, Any]] = {
    "as it should be": {},
    **{name: {"plant": {"basis": name}} for name in BASES if name != GIVEN},
    "a constant added": {"plant": {"shift": 4.0}},  # about as long as a feature
    "null dimension × 0.5": {"plant": {"m": 64}},
    "null dimension × 1.5": {"plant": {"m": 128}},
    "translator: 100 scenes": {"rows": 100},
    "translator: 300 scenes": {"rows": 300},
    "translator: null part unseen": {"without_null": True},
    "ridge × 100": {"ridge": 100.0},
    "weak encoder": {"encoder": "planted:weak"},
    "reworded: “a scene with …”": {"wording": WORDINGS[4]},
    "reworded: no opening": {"wording": WORDINGS[6]},
    "reworded: “in the picture is …”": {"wording": "in the picture is {}"},  # never trained with
    "rest × 5": {"plant": {"rest": 5 * REST}},
    "rest × 5, 100 scenes": {"plant": {"rest": 5 * REST}, "rows": 100},
}

NOTHING = 0.01  # degrees: a smaller difference of two scores is none
# Ways to conclude, most of them the paper's, about heads whose truth is known here; and their short names.
CONCLUSIONS = {
    "the leaky head has the larger |AS| toward its class than the clean one": "leaky by |AS|",
    "the leaky head has the lower IS/|AS| than the clean one": "leaky by IS/|AS|",
    "the leaky head has the lower contrast toward its class than the clean one": "leaky by contrast",
    "the leaky head has the lower contrast beyond the logits than the clean one": "leaky by contrast beyond",
    "|AS| tells ignored factors from seen ones (ROC area above 0.9)": "ignored by |AS|",
    "contrast tells ignored factors from seen ones (ROC area above 0.9)": "ignored by contrast",
    "contrast beyond the logits tells ignored from seen (ROC area above 0.9)": "ignored by contrast beyond",
    "the head that sees all has the smallest IS": "sees-all by IS",
}


def confounds(worlds: Sequence[World], *, heads: int = 8) -> pd.DataFrame:
    """Each condition: scores of the named heads and of `heads` random ones, in every world."""
    frames = []
    for condition, given in CONFOUNDS.items():
        options = {k: v for k, v in given.items() if k != "plant"}
        for some in (partial(random_heads, count=heads), named):
            own = survey(worlds, partial(some, **given.get("plant", {})), **options)
            frames.append(own.assign(condition=condition))
    return pd.concat(frames, ignore_index=True)


def confound_summary(table: pd.DataFrame, *, level: float) -> pd.DataFrame:
    """One row a condition and quantity, with its interval over worlds."""
    rows = []
    for condition, own in table.groupby("condition", sort=False):
        worlds = [g for _, g in own[own["head"].str.startswith("head ")].groupby("seed")]
        shape = own[own["factor"] == "shape"]
        found = {f"ROC area by {score}": [roc_area(g, score) for g in worlds] for score in SCORES}
        for score in SCORES:
            for name in COMPARED:
                found[f"{score} of “{name}” toward the shape (°)"] = shape.loc[shape["head"] == name, score]
        clean = shape[shape["head"] == "clean"]
        found |= {"median IS of “clean” (°)": clean["IS"], "cosine of Tf and z": clean["cosine"]}
        rows += [
            {"condition": condition, "quantity": q, **over_worlds(v, level=level)} for q, v in found.items()
        ]
    return pd.DataFrame(rows)


def conclusions(table: pd.DataFrame) -> pd.DataFrame:
    """Which of the paper's ways to conclude hold under each condition: in how many of the worlds.

    Columns: condition, conclusion, short (its name in charts), worlds (in which it holds), of (worlds).
    """
    rows = []
    for condition, own in table.groupby("condition", sort=False):
        answers = pd.DataFrame([_concluded(world) for _, world in own.groupby("seed")])
        found = pd.DataFrame({"conclusion": CONCLUSIONS.keys(), "short": CONCLUSIONS.values()})
        found["worlds"] = found["short"].map(answers.sum())
        rows.append(found.assign(condition=condition, of=len(answers)))
    return pd.concat(rows, ignore_index=True)[["condition", "conclusion", "short", "worlds", "of"]]


def _concluded(world: pd.DataFrame) -> dict[str, bool]:
    """One world's answers, by their short names."""
    shape = world[world["factor"] == "shape"].set_index("head")
    clean, leaky = shape.loc["clean"], shape.loc["leaky"]
    random = world[world["head"].str.startswith("head ")]
    turned = shape.loc[list(HEADS), "IS"]
    answers = (
        leaky["|AS|"] > clean["|AS|"] + NOTHING,
        _ratio(leaky) < _ratio(clean),
        leaky["contrast"] < clean["contrast"] - NOTHING,
        leaky["contrast beyond"] < clean["contrast beyond"] - NOTHING,
        *(roc_area(random, score) > 0.9 for score in ("|AS|", "contrast", "contrast beyond")),
        turned.idxmin() == "sees-all" and turned.max() > NOTHING,
    )
    return dict(zip(CONCLUSIONS.values(), map(bool, answers), strict=True))


def _ratio(row: pd.Series) -> float:
    """IS / |AS|; NaN where |AS| is about 0, of which no order follows."""
    return float(row["IS"] / row["|AS|"]) if row["|AS|"] > NOTHING else float("nan")


# ------------------------------------------------------------------------------------ controls


def planted_controls(worlds: Sequence[World], *, draws: int) -> pd.DataFrame:
    """One row a world, head and control; the shape is what the head names.

    Columns: planted (share of the shape that the head ignores), score, value of the null space, percentile
    among the draws and p (two-sided); of "translator" the R².

    Args:
        worlds: of `sing_utils.measure.planted.build_worlds`.
        draws: random subspaces of each kind.
    """
    rows = [row for world in worlds for name in COMPARED for row in _controls(world, name, draws)]
    return pd.DataFrame(rows)


def _controls(world: World, name: str, draws: int) -> list[dict[str, Any]]:
    head = world.plant(name, **HEADS[name])
    T, spaces = fit_translator(world, head), head.spaces()
    photos, fit, texts = world.photos(head), world.photos(head, "fit"), world.texts(world.prompts)
    known = {"seed": world.seed, "head": name, "planted": head.ignored["shape"]}
    found, rows = remove_null(photos.f, T, spaces, texts, photos.own).statistics(), []
    for kind, energy in zip(SUBSPACES, (None, found["energy"]), strict=True):
        options: dict[str, Any] = {"dim": spaces.null_dim, "draws": draws, "seed": world.seed, "like": fit.f}
        share = None if energy is None else energy / 100
        drawn = remove_random(photos.f, T, texts, photos.own, **options, energy=share)
        drawn = drawn if energy is None else at_energy(drawn, energy)
        for score in ("|AS|", "contrast", "IS"):
            value, chance = found[score], drawn[score]
            place = {"percentile": percentile(value, chance), "p": chance_p(value, chance)}
            rows.append(known | {"control": kind, "score": score, "value": value} | place)
    R2 = translator_parts(T, spaces, (fit.f, fit.z), (photos.f, photos.z))["R², null part alone"]
    return [*rows, known | {"control": "translator", "score": "R²", "value": R2}]


def shown_controls(table: pd.DataFrame) -> pd.DataFrame:
    """Medians over worlds, a row a control and score, a column a head."""
    table = table.assign(shown=table["percentile"].fillna(table["value"]))
    keys = {"index": ["control", "score"], "columns": "head", "values": "shown"}
    wide = table.pivot_table(**keys, aggfunc="median", sort=False).reset_index().rename_axis(columns=None)
    whole = wide["control"] != "translator"  # percentiles
    wide.insert(2, "what", np.where(whole, "percentile", "value"))
    for head in COMPARED:
        wide[head] = [f"{x:.0f}" if w else f"{x:.2f}" for x, w in zip(wide[head], whole, strict=True)]
    return wide


# ------------------------------------------------------------------------------------ steering


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
