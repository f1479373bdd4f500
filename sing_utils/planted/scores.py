"""What the scores say of a planted head, beside what is planted: one world, one head at a time.

>>> from sing_utils.planted.scores import build_world, measure
>>> from sing_utils.planted.heads import HEADS
>>> world = build_world(0, scenes=400, evaluation=50)
>>> head = world.plant("clean", **HEADS["clean"])
>>> table = measure(world, head).set_index("factor")
>>> bool(table.loc["background", "planted"] == 1.0), bool(table.loc["shape", "planted"] == 0.0)
(True, True)
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pandas as pd
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from sing_utils.errors import SingError
from sing_utils.evidence.controls import Scores
from sing_utils.method.beyond import BeyondLogits
from sing_utils.method.scores import contrast, image_score, pairwise_angle
from sing_utils.method.translator import Translator
from sing_utils.planted import heads as planted_heads
from sing_utils.planted.heads import Planted, Recoding, plant, unread
from sing_utils.planted.networks import (
    BACKBONES,
    PlantedEncoder,
    load_backbone,
    load_planted_encoder,
    pooled,
)
from sing_utils.planted.scenes import FACTORS, GIVEN, WORDINGS, Scenes, phrase

LEVELS = [(f, v) for f, levels in FACTORS.items() for v in levels]  # 34 rows of every table of texts
MEASURED = ["|AS|", "contrast", "IS"]  # columns of `measure`, also beyond the logits
LEAST = 400  # scenes to fit on


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
class ScenePhotos:
    """Scenes as a planted head sees them, in the words of `sing_utils.runs.run.Photos`.

    Attributes:
        f: features, (N, m).
        z: the encoder's embeddings, (N, n).
        own: number of each scene's shape, (N,).
    """

    f: Tensor
    z: Tensor
    own: Tensor


@dataclass(frozen=True, eq=False)
class World:
    """One draw of everything: scenes, backbone, directions. The encoders are the same in all worlds.

    Attributes:
        seed: of the world.
        fit: scenes to fit heads and translators on.
        evaluation: scenes that nothing is fitted on.
        recoding: of the backbone, fitted on `fit`.
        encoders: name -> encoder.
    """

    seed: int
    fit: Sample
    evaluation: Sample
    recoding: Recoding
    encoders: dict[str, PlantedEncoder]
    _texts: dict[tuple[str, ...], Tensor] = field(default_factory=dict, repr=False)

    def plant(
        self, name: str, *, seed: int | None = None, basis: str = GIVEN, shift: float = 0.0, **options: Any
    ) -> Planted:
        """A planted head of this world; see `sing_utils.planted.heads.plant`.

        Args:
            name: for tables.
            seed: of the head; None: the world's own.
            basis: in which its feature is written, one of `sing_utils.planted.scenes.BASES`.
            shift: length of a constant that is added to its feature, in a random direction.
            options: of `plant`.
        """
        own = 100 * self.seed + 17 if seed is None else seed
        head = plant(self.recoding, self.fit.h, self.fit.levels, name=name, seed=own, **options)
        if basis == GIVEN and not shift:
            return head
        M = planted_heads.basis(basis, head, self.fit.h, seed=own)
        drawn = torch.randn(len(M), generator=torch.Generator().manual_seed(own)).double()
        return head.rewritten(M, shift * drawn / drawn.norm())

    def photos(self, head: Planted, part: Literal["evaluation", "fit"] = "evaluation") -> ScenePhotos:
        """The scenes as a head sees them: those that nothing is fitted on, or those to fit on."""
        own: Sample = getattr(self, part)
        shapes = torch.from_numpy(own.levels[:, 0]).long()
        return ScenePhotos(head.features(own.h), own.z["planted"], shapes)

    @property
    def prompts(self) -> list[str]:
        """The prompt of each shape, the classes of this world."""
        return level_prompts()[: len(FACTORS["shape"])]

    def texts(self, prompts: Sequence[str], encoder: str = "planted") -> Tensor:
        """Embeddings of K texts, (K, n)."""
        key = (encoder, *prompts)
        if key not in self._texts:
            self._texts[key] = self.encoders[encoder].encode_text(prompts).double()
        return self._texts[key]


def level_prompts(wording: str = WORDINGS[0]) -> list[str]:
    """The prompts of all factors' levels, 34, in the order of `LEVELS`."""
    return [phrase(f, v, wording) for f, v in LEVELS]


def build_world(
    seed: int,
    *,
    scenes: int = 3000,
    evaluation: int = 500,
    encoders: Sequence[str] = ("planted",),
    kept: Path | None = None,
) -> World:
    """Draw the scenes of a world and run its networks on them.

    Args:
        seed: of the world; it also chooses one of the trained backbones.
        scenes: to fit on.
        evaluation: scenes that nothing is fitted on.
        encoders: names for `load_planted_encoder`.
        kept: file with what the networks saw of these scenes; made if it isn't there. None: no file.
    """
    if scenes < LEAST:
        raise SingError(f"scenes is {scenes}, expected at least {LEAST} to fit a feature of 96 numbers on.")
    loaded = {name: load_planted_encoder(name) for name in encoders}
    drawn = {"fit": Scenes(scenes, seed=20_000 + seed), "evaluation": Scenes(evaluation, seed=30_000 + seed)}
    seen = load_file(kept) if kept and kept.exists() else _look(seed, drawn, loaded)
    if kept and not kept.exists():
        save_file(seen, fresh := kept.with_suffix(f".{os.getpid()}"))
        fresh.replace(kept)  # whole, also where two notebooks make it at once
    fit, held = (
        Sample(own, seen[f"{part} h"], {name: seen[f"{part} {name}"].double() for name in encoders})
        for part, own in drawn.items()
    )
    return World(seed, fit, held, Recoding.fit(fit.h, fit.levels), loaded)


def _look(seed: int, drawn: dict[str, Scenes], encoders: dict[str, PlantedEncoder]) -> dict[str, Tensor]:
    """What a world's networks see: pooled features and embeddings."""
    backbone, seen = load_backbone(seed % BACKBONES), {}
    for part, scenes in drawn.items():
        pictures = scenes.pictures()
        seen[f"{part} h"] = pooled(backbone, pictures)
        seen |= {f"{part} {name}": e.encode_pictures(pictures) for name, e in encoders.items()}
    return seen


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


def beyond(
    world: World, head: Planted, *, encoder: str = "planted", rows: int | None = None
) -> tuple[Tensor, Tensor]:
    """What stands in the place of T f and T f~ beyond the logits, on the evaluation scenes: (N, n) twice.

    Args:
        world, head, encoder, rows: as in `fit_translator`.
    """
    f, z = head.features(world.fit.h)[:rows], world.fit.z[encoder][:rows]
    z_whole, z_logits = BeyondLogits.fit(f, z, head.weight, seed=world.seed)(
        head.features(world.evaluation.h)
    )
    return z_whole, z_logits


def measure(
    world: World,
    head: Planted,
    T: Translator | None = None,
    *,
    pair: tuple[Tensor, Tensor] | None = None,
    encoder: str = "planted",
    wording: str = WORDINGS[0],
) -> pd.DataFrame:
    """Scores of a head toward each factor's prompts, beside the truth; one row a factor.

    Args:
        world: whose evaluation scenes are scored.
        head: of this world.
        T: its translator; None: `fit_translator`.
        pair: its `beyond`; None: found here.
        encoder: whose embeddings are scored.
        wording: of the prompts.

    Columns:

    - planted: share of the factor's code that the logits do not say, by construction.
    - |AS|: median over scenes of |AS| toward the prompt of the scene's own level, degrees.
    - contrast: mean over scenes of AS toward the own level minus the mean AS toward the factor's other
      levels, degrees; below 0: the own level lost more than the others.
    - IS: median over scenes, degrees.
    - |AS| beyond, contrast beyond, IS beyond: the same of what f says and its logits do not.
    - cosine: mean cosine of Tf and z on these scenes, which T never saw.
    """
    T = T or fit_translator(world, head, encoder=encoder)
    f, z = head.features(world.evaluation.h), world.evaluation.z[encoder]  # (N, m), (N, n)
    removed = T(f), T.after_null_removal(head.spaces())(f)  # (N, n) each
    texts = world.texts(level_prompts(wording), encoder)  # (34, n)
    scores = _by_factor(world, removed, texts)
    other = _by_factor(world, pair or beyond(world, head, encoder=encoder), texts)
    return pd.DataFrame(
        {
            "seed": world.seed,
            "head": head.name,
            "factor": list(FACTORS),
            "planted": [head.ignored[f] for f in FACTORS],
            **scores,
            **{f"{column} beyond": values for column, values in other.items()},
            "cosine": float(torch.cosine_similarity(removed[0], z, dim=-1).mean()),
        }
    )


def _by_factor(world: World, pair: tuple[Tensor, Tensor], texts: Tensor) -> dict[str, list[float]]:
    """Median |AS|, mean contrast and median IS of a pair (N, n) toward each factor's levels: degrees.

    As lists: a survey asks thousands of times, and frames would take most of its time.
    """
    toward = pairwise_angle(pair[0], texts) - pairwise_angle(pair[1], texts)  # eq. 7: (N, 34)
    IS = image_score(*pair)
    own = torch.from_numpy(world.evaluation.levels).mT.long()  # (8, N)
    parts = zip(toward.split([len(v) for v in FACTORS.values()], 1), own, strict=True)
    scores = [Scores(AS.gather(1, at[:, None])[:, 0], contrast(AS, at), IS, AS) for AS, at in parts]
    rows = [s.statistics() for s in scores]
    return {column: [row[column] for row in rows] for column in MEASURED}


def truth(world: World, head: Planted) -> dict[str, float]:
    """Factor -> 1 - R²(code | logits) on scenes that nothing is fitted on: what is planted, measured."""
    (codes, logits), new = (
        (world.recoding.codes_of(s.h), head.logits(head.features(s.h))) for s in (world.fit, world.evaluation)
    )
    return unread(codes, logits, new=new)
