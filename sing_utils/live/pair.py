"""The numbers of the pair explorer: a handful of inner products a photo, and the page knows every angle.

With a = T f and b = T Π_n f, the feature f - α Π_n f is translated to a - α b, so its angles to a text
u and to the original need only a·u, b·u, |a|², a·b and |b|² (eqs. 5, 7 and 8).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pandas as pd
import torch
from torch import Tensor
from torch.nn.functional import normalize

from sing_utils.live.explorers import (
    features,
    pack,
    pack_cosines,
    pack_pictures,
    photo_numbers,
    shown_classes,
    webp,
)
from sing_utils.method.scores import image_score
from sing_utils.pictures.base import restore_norm
from sing_utils.runs.run import Run

ALPHAS = (-1.0, 0.0, 1.0, 2.0)  # how much of the null component is taken away in a drawn picture


def pair_vectors(run: Run, name: str, f: Tensor) -> tuple[Tensor, Tensor]:
    """Of each photo a = T f and b = T Π_n f: (P, m) -> (P, n) each, float64."""
    T = run.translator(name)
    return T(f), T(run.spaces(name).null_component(f))


def pair_numbers(run: Run, photos: pd.DataFrame) -> dict[str, Any]:
    """All that the pair explorer needs; K classifiers, P photos, C class prompts, J phrases.

    `norms` (K, P, 3): |a|², a·b, |b|². `products` (K, P, C + J, 2): cosines of a and of b to each
    text. `frames`: P x 4 pictures, by the first classifier.
    """
    texts = [*map(run.prompt, shown_classes(run)), *run.profile.phrases]
    first = run.classifiers[0]
    z = pair_embeddings(run, first, features(run, first, photos), ALPHAS)
    return {
        "texts": texts,
        "norms": pack(torch.stack([_pair_norms(run, name, photos) for name in run.classifiers]).numpy()),
        "products": pack_cosines(pair_products(run, photos, texts)),
        "alphas": list(ALPHAS),
        "frames": pack_pictures(map(webp, run.draw(first, z.flatten(0, 1).float(), noise=run.seed))),
        **photo_numbers(run, photos),
    }


def pair_products(run: Run, photos: pd.DataFrame, texts: Sequence[str]) -> Tensor:
    """Cosines of a and of b of some evaluation photos to J texts: (K, P, J, 2), float64."""
    parts = []
    for name in run.classifiers:
        u = normalize(run.texts(name, texts).double(), dim=-1)  # (J, n)
        both = torch.stack(pair_vectors(run, name, features(run, name, photos)), dim=1)  # (P, 2, n)
        parts.append((normalize(both, dim=-1) @ u.mT).transpose(1, 2))  # (P, J, 2)
    return torch.stack(parts)


def pair_embeddings(run: Run, name: str, f: Tensor, alphas: Sequence[float]) -> Tensor:
    """T(f - α Π_n f) with the norm of T f restored (eq. 14): (P, m) -> (P, A, n)."""
    a, b = pair_vectors(run, name, f)
    z = a[:, None] - torch.tensor(alphas, dtype=a.dtype)[:, None] * b[:, None]
    return restore_norm(z, a[:, None].expand_as(z))


def _pair_norms(run: Run, name: str, photos: pd.DataFrame) -> Tensor:
    a, b = pair_vectors(run, name, features(run, name, photos))
    return torch.stack([(a * a).sum(-1), (a * b).sum(-1), (b * b).sum(-1)], dim=-1)


def telling_photo(run: Run, photos: pd.DataFrame) -> int:
    """The photo that null removal turns most, by the first classifier; if it can, one that is recognised."""
    name = run.classifiers[0]
    f, head = features(run, name, photos), run.head(name)
    a, b = pair_vectors(run, name, f)
    top = [head.label(i) for i in head.logits(f).argmax(-1).tolist()]
    known = torch.tensor([label == c for label, c in zip(top, photos["class"], strict=True)])
    return int((image_score(a, a - b) + 180 * known).argmax())
