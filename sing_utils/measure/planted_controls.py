"""The controls of notebook 02b in the planted world, where it is known what they should say.

Toward the shape, the clean head ignores nothing and the leaky one the planted share. A control that is
worth its name tells them apart: against random subspaces the clean head's null space should hold less of the
shape than chance, and the leaky head's as much as its planted share beside its share of the dimensions says.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd

from sing_utils.evidence.controls import SUBSPACES, at_energy, remove_null, remove_random
from sing_utils.evidence.intervals import chance_p, percentile
from sing_utils.evidence.translators import translator_parts
from sing_utils.planted.scenes import HEADS
from sing_utils.planted.scores import World, fit_translator

COMPARED = ("clean", "leaky")


def planted_controls(worlds: Sequence[World], *, draws: int) -> pd.DataFrame:
    """One row a world, head and control; the shape is what the head names.

    Columns: planted (share of the shape that the head ignores), score, value of the null space, percentile
    among the draws and p (two-sided); of "translator" the R².

    Args:
        worlds: of `sing_utils.measure.planted.build_worlds`.
        draws: random subspaces of each kind.
    """
    rows = []
    for world in worlds:
        for name in COMPARED:
            known = {"seed": world.seed, "head": name}
            rows += [known | row for row in _controls(world, name, draws)]
    return pd.DataFrame(rows)


def _controls(world: World, name: str, draws: int) -> list[dict[str, Any]]:
    head = world.plant(name, **HEADS[name])
    T, spaces = fit_translator(world, head), head.spaces()
    photos, to_fit, texts = world.photos(head), world.photos(head, "fit"), world.texts(world.prompts)
    f, own, fit = photos.f, photos.own, (to_fit.f, to_fit.z)
    found = remove_null(f, T, spaces, texts, own).statistics()
    energy = found["energy"] / 100
    rows: list[dict[str, Any]] = []

    def add(control: str, score: str, value: float, **place: float) -> None:
        known = {"planted": head.ignored["shape"], "control": control, "score": score}
        rows.append(known | {"value": value} | place)

    for kind, share in zip(SUBSPACES, (None, energy), strict=True):
        options: dict[str, Any] = {"dim": spaces.null_dim, "draws": draws, "seed": world.seed}
        drawn = remove_random(f, T, texts, own, **options, energy=share, like=fit[0])
        drawn = drawn if share is None else at_energy(drawn, 100 * share)
        for score in ("|AS|", "contrast", "IS"):
            value, chance = found[score], drawn[score]
            add(kind, score, value, percentile=percentile(value, chance), p=chance_p(value, chance))
    add("translator", "R²", translator_parts(T, spaces, fit, (f, photos.z))["R², null part alone"])
    return rows


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
