"""The numbers of the pair explorer: a handful of inner products a photo, and the page knows every angle.

With a = T f and b = T Π_n f, the feature f - α Π_n f is translated to a - α b, so its angles to a text
u and to the original need only a·u, b·u, |a|², a·b and |b|² (eqs. 5, 7 and 8).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import pandas as pd
import torch
from PIL import Image
from torch import Tensor
from torch.nn.functional import normalize

from sing_utils.encoders import Judge
from sing_utils.explorers import (
    features,
    logits_of,
    pack,
    pack_cosines,
    pack_pictures,
    photo_list,
    shown_classes,
    webp,
)
from sing_utils.pictures import restore_norm
from sing_utils.run import Run

ALPHAS = (-1.0, 0.0, 1.0, 2.0)  # how much of the null component is taken away in a drawn picture

Encode = Callable[[Judge], Tensor]


def pair_vectors(run: Run, name: str, f: Tensor) -> tuple[Tensor, Tensor]:
    """A = T f and b = T Π_n f: (P, m) -> (P, n) each, float64."""
    T = run.translator(name)
    return T(f), T(run.spaces(name).null_component(f))


def pair_numbers(run: Run, photos: pd.DataFrame) -> dict[str, Any]:
    """All that the pair explorer needs; K classifiers, P photos, C class prompts, J phrases.

    `norms` (K, P, 3): |a|², a·b, |b|². `products` (K, P, C + J, 2): cosines of a and of b to each
    text. `logits` (K, P, 5): the largest, their classes, and what the null component adds to them.
    """
    names, prompts = run.profile.classifiers, shown_classes(run)
    return {
        "classifiers": names,
        "texts": [*map(run.profile.prompt, prompts), *run.profile.phrases],
        "norms": pack(torch.stack([_pair_norms(run, name, photos) for name in names]).numpy()),
        "products": pack_cosines(
            pair_products(run, photos, lambda judge: _texts(run, judge, run.profile.phrases))
        ),
        "logits": logits_of(run, photos),
        "alphas": list(ALPHAS),
        "frames": pack_pictures(webp(i) for name in names for i in _pair_frames(run, name, photos)),
        **photo_list(run, photos),
    }


def pair_products(run: Run, photos: pd.DataFrame, encode: Encode) -> Tensor:
    """Cosines of a and of b to texts: (K, P, J, 2), float64.

    Args:
        run: whose classifiers, translators and judges are used.
        photos: some of its evaluation photos.
        encode: gives a judge's embeddings of J texts, (J, n).
    """
    parts = []
    for name in run.profile.classifiers:
        u = normalize(encode(run.judge(name)).double(), dim=-1)  # (J, n)
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


def _pair_frames(run: Run, name: str, photos: pd.DataFrame) -> list[Image.Image]:
    z = pair_embeddings(run, name, features(run, name, photos), ALPHAS)
    return run.decoder(name)(z.flatten(0, 1).float(), seed=run.profile.seed)


def _texts(run: Run, judge: Judge, phrases: Sequence[str]) -> Tensor:
    """Embeddings of all class prompts, then of phrases."""
    prompts = [run.profile.prompt(c) for c in shown_classes(run)]
    return judge.encode_text([*prompts, *phrases])
