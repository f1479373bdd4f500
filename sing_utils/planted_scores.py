"""What the scores say of a planted head, beside what is planted: one world, one head at a time.

>>> from sing_utils.planted_scores import build_world, measure
>>> from sing_utils.planted_heads import HEADS
>>> world = build_world(0, scenes=400, evaluation=50)
>>> head = world.plant("clean", **HEADS["clean"])
>>> table = measure(world, head).set_index("factor")
>>> bool(table.loc["background", "planted"] == 1.0), bool(table.loc["shape", "planted"] == 0.0)
(True, True)
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from sing_utils.errors import SingError
from sing_utils.planted import FACTORS, WORDINGS, Scenes, phrase
from sing_utils.planted_heads import Planted, Recoding, plant
from sing_utils.planted_models import (
    BACKBONES,
    PlantedEncoder,
    load_backbone,
    load_planted_encoder,
    pooled,
)
from sing_utils.scores import attribute_score, image_score
from sing_utils.translator import Translator

LEVELS = [(f, v) for f, levels in FACTORS.items() for v in levels]  # 34 rows of every table of texts
LEAST = 400  # scenes to fit on
COUNTERFACTUALS = 60  # scenes in which one factor at a time is changed


@dataclass(frozen=True, eq=False)
class Sample:
    """Scenes of a world as its networks see them.

    Attributes:
        scenes: N of them.
        h: the backbone's pooled features, (N, 128).
        z: embeddings by each encoder, name -> (N, n).
    """

    scenes: Scenes
    h: Tensor
    z: dict[str, Tensor]

    @property
    def levels(self) -> np.ndarray:
        """(N, 8), the number of each factor's level."""
        return self.scenes.levels


@dataclass(frozen=True, eq=False)
class World:
    """One draw of everything: scenes, backbone, directions. The encoders are the same in all worlds.

    Attributes:
        seed: of the world.
        fit: scenes to fit heads and translators on.
        evaluation: scenes that nothing is fitted on.
        recoding: of the backbone, fitted on `fit`.
        pairs: (factor, mean h of scenes that all have one level of it, mean h of the same scenes with another
            level), (1, 128) each: everything else is the same in both.
        encoders: name -> encoder.
    """

    seed: int
    fit: Sample
    evaluation: Sample
    recoding: Recoding
    pairs: list[tuple[str, Tensor, Tensor]]
    encoders: dict[str, PlantedEncoder]
    _texts: dict[tuple[str, str], Tensor] = field(default_factory=dict, repr=False)

    def plant(self, name: str, *, seed: int | None = None, **options: Any) -> Planted:
        """A planted head of this world; see `sing_utils.planted_heads.plant`."""
        own = 100 * self.seed + 17 if seed is None else seed
        return plant(self.recoding, self.fit.h, self.fit.levels, name=name, seed=own, **options)

    def texts(self, encoder: str = "planted", wording: str = WORDINGS[0]) -> Tensor:
        """Embeddings of all levels' prompts, (34, n), in the order of `LEVELS`."""
        if (encoder, wording) not in self._texts:
            prompts = [phrase(f, v, wording) for f, v in LEVELS]
            self._texts[encoder, wording] = self.encoders[encoder].encode_text(prompts).double()
        return self._texts[encoder, wording]


def build_world(
    seed: int, *, scenes: int = 3000, evaluation: int = 500, encoders: Sequence[str] = ("planted",)
) -> World:
    """Draw the scenes of a world and run its networks on them.

    Args:
        seed: of the world; it also chooses one of the trained backbones.
        scenes: to fit on.
        evaluation: scenes that nothing is fitted on.
        encoders: names for `load_planted_encoder`.
    """
    if scenes < LEAST:
        raise SingError(f"scenes is {scenes}, expected at least {LEAST} to fit a feature of 96 numbers on.")
    backbone = load_backbone(seed % BACKBONES)
    loaded = {name: load_planted_encoder(name) for name in encoders}

    def sample(count: int, own_seed: int) -> Sample:
        drawn = Scenes(count, seed=own_seed)
        pictures = drawn.pictures()
        z = {name: e.encode_pictures(pictures).double() for name, e in loaded.items()}
        return Sample(drawn, pooled(backbone, pictures), z)

    fit, held = sample(scenes, 20_000 + seed), sample(evaluation, 30_000 + seed)
    few = [held.scenes[i] for i in range(min(COUNTERFACTUALS, evaluation))]
    rng, pairs = np.random.default_rng(seed), []
    for factor, levels in FACTORS.items():
        before, after = (
            pooled(backbone, np.stack([np.asarray(s.changed(factor, v).picture()) for s in few]))
            for v in rng.choice(levels, 2, replace=False)
        )
        pairs.append((factor, before.double().mean(0, keepdim=True), after.double().mean(0, keepdim=True)))
    return World(seed, fit, held, Recoding.fit(fit.h, fit.levels), pairs, loaded)


def fit_translator(
    world: World,
    head: Planted,
    *,
    encoder: str = "planted",
    rows: int | None = None,
    without_null: bool = False,
    ridge: float = 1.0,
) -> Translator:
    """The translator of a head's features, fitted as in notebook 01 (ridge, chosen on held-out rows).

    Args:
        world: whose scenes are fitted on.
        head: whose features are translated.
        encoder: whose embeddings they are translated into.
        rows: how many scenes to fit on; None: all. At most as many as the world has.
        without_null: fit on features from which the null component was removed.
        ridge: factor on the chosen ridge.
    """
    if rows is not None and rows > len(world.fit.h):
        raise SingError(f"rows is {rows}, expected at most the world's {len(world.fit.h)} scenes.")
    f, z = head.features(world.fit.h)[:rows], world.fit.z[encoder][:rows]
    if without_null:
        f = head.spaces().remove_null(f)
    T = Translator.fit(f, z, method="ridge", seed=world.seed)
    if ridge == 1.0:
        return T
    assert T.report is not None
    unit = float(f.square().mean())
    return Translator.fit(f, z, method="ridge", seed=world.seed, ridges=[ridge * T.report.ridge / unit])


def measure(
    world: World,
    head: Planted,
    T: Translator | None = None,
    *,
    encoder: str = "planted",
    wording: str = WORDINGS[0],
) -> pd.DataFrame:
    """Scores of a head toward each factor's prompts, beside the truth; one row a factor.

    Columns:

    - planted: share of the factor's code in the null space, by construction.
    - counterfactual: share of the mean change of f that lies in the null space, when only this factor of
      scenes is changed and the scenes are drawn anew.
    - |AS|: median over scenes of |AS| toward the prompt of the scene's own level, degrees.
    - AS: mean of the same, with its sign; below 0: without the null component, the prompt is farther.
    - contrast: mean over scenes of AS toward the own level minus the mean AS toward the factor's other
      levels, degrees; below 0: the own level lost more than the others.
    - IS: median over scenes, degrees.
    - cosine: mean cosine of T f and z on these scenes, which T never saw.
    """
    T = T or fit_translator(world, head, encoder=encoder)
    spaces, own = head.spaces(), world.evaluation
    f = head.features(own.h)  # (N, m)
    z, z_tilde = T(f), T.after_null_removal(spaces)(f)  # (N, n) each
    texts = world.texts(encoder, wording)  # (34, n)
    AS = attribute_score(z[:, None], z_tilde[:, None], texts).numpy()  # (N, 34)
    turned = float(np.median(image_score(z, z_tilde)))
    cosine = float(torch.cosine_similarity(z, own.z[encoder], dim=-1).mean())
    seen = _counterfactual_shares(world, head)
    rows, start = [], 0
    for k, (factor, levels) in enumerate(FACTORS.items()):
        part = AS[:, start : start + len(levels)]
        start += len(levels)
        at = own.levels[:, k]
        true = part[np.arange(len(at)), at]
        others = (part.sum(1) - true) / (len(levels) - 1)
        rows.append(
            {
                "seed": world.seed,
                "head": head.name,
                "factor": factor,
                "planted": head.ignored[factor],
                "counterfactual": seen[factor],
                "|AS|": float(np.median(np.abs(true))),
                "AS": float(true.mean()),
                "contrast": float((true - others).mean()),
                "IS": turned,
                "cosine": cosine,
            }
        )
    return pd.DataFrame(rows)


def _counterfactual_shares(world: World, head: Planted) -> dict[str, float]:
    """Factor -> share of the mean change of f in the null space, when that factor of scenes is changed."""
    V_n = head.spaces().null_basis
    shares = {}
    for factor, before, after in world.pairs:
        step = head.features(after) - head.features(before)  # (1, m)
        shares[factor] = float((step @ V_n).square().sum() / step.square().sum())
    return shares
