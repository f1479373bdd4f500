"""The numbers of the steering explorer: the plane in which each step turns the translated feature."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pandas as pd
import torch
from torch import Tensor
from torch.linalg import vector_norm
from torch.nn.functional import normalize

from sing_utils.live.explorers import (
    features,
    first_photos,
    pack,
    pack_cosines,
    pack_pictures,
    photo_numbers,
    shown_classes,
    webp,
)
from sing_utils.method.scores import angle
from sing_utils.method.steering import null_direction, random_null_direction, steer
from sing_utils.pictures.base import restore_norm
from sing_utils.runs.run import Run

FARTHEST = 90  # degrees of the slider
STEPS = (20.0, 40.0, 60.0)  # degrees of IS for which a picture is drawn, where they are reached


def steering_targets(run: Run) -> dict[str, str]:
    """What the explorer steers toward: a short name -> the text that is encoded."""
    words = [*run.targets, *run.classes]
    return {w: run.prompt(w) for w in words} | {p: p for p in run.concepts if p not in words}


def steering_numbers(run: Run, photos: pd.DataFrame) -> dict[str, Any]:
    """All that the steering explorer needs; K classifiers, P photos, J targets.

    The feature at an Image Score of θ is translated to the direction cos θ a + sin θ b, where a and b
    are orthogonal unit vectors: T f's direction, and the part of T d across it.
    """
    targets = steering_targets(run)
    parts = [steering_products(run, name, photos, list(targets.values())) for name in run.classifiers]
    drawn = first_photos(run, 1).index
    return {
        "targets": list(targets),
        "texts": list(targets.values()),
        "prompts": list(map(run.prompt, shown_classes(run))),
        **pack_planes(parts),
        "own": pack_cosines(torch.stack([p["own"] for p in parts])),
        "random": pack(torch.stack([p["random"] for p in parts]).float().numpy()),
        "degrees": list(STEPS),
        "drawnTargets": [list(targets).index(t) for t in run.targets],
        "drawnPhotos": [i for i, row in enumerate(photos.index) if row in drawn],
        "frames": pack_pictures(_frames(run, photos[photos.index.isin(drawn)])),
        **photo_numbers(run, photos),
    }


def steering_products(run: Run, name: str, photos: pd.DataFrame, texts: Sequence[str]) -> dict[str, Tensor]:
    """The plane of every step of one classifier; P photos, J texts.

    Returns:
        cosines (P, J, 4): of a, of b, and of a random direction's b with the target; of b with the
        class prompt. own (P, 2): of a and of the random b with the class prompt. steps (P, J, 3):
        angle(a, T d) in degrees, |T f| / (|T d| |f|), and the most that a unit step moves any logit,
        relative to |f|. random (P, 2): the first two for the random direction.
    """
    T, spaces, f = run.translator(name), run.spaces(name), features(run, name, photos)
    W, norm = run.head(name).weight.double(), vector_norm(f, dim=-1)
    u_all = normalize(run.texts(name, texts).double(), dim=-1)  # (J, n)
    own = run.texts(name, [run.prompt(c) for c in photos["class"]]).double()
    own = normalize(own, dim=-1)  # (P, n)
    a_full = T(f)
    a = normalize(a_full, dim=-1)
    d_random = random_null_direction(len(f), spaces, seed=run.seed)
    r, random = _plane(a_full, T(d_random), norm)
    cosines, steps = [], []
    for u in u_all:
        d = null_direction(f, u, T, spaces)
        b, step = _plane(a_full, T(d), norm)
        moved = (d @ W.mT).abs().amax(-1) * norm
        cosines.append(torch.stack([a @ u, b @ u, r @ u, (b * own).sum(-1)], dim=-1))
        steps.append(torch.cat([step, moved[:, None]], dim=-1))
    return {
        "cosines": torch.stack(cosines, dim=1),
        "own": torch.stack([(a * own).sum(-1), (r * own).sum(-1)], dim=-1),
        "steps": torch.stack(steps, dim=1),
        "random": random,
    }


def pack_planes(parts: list[dict[str, Tensor]]) -> dict[str, Any]:
    """What depends on the target, of all classifiers, as a page reads it."""
    return {
        "cosines": pack_cosines(torch.stack([p["cosines"] for p in parts])),
        "steps": pack(torch.stack([p["steps"] for p in parts]).float().numpy()),
    }


def _plane(a: Tensor, b: Tensor, norm: Tensor) -> tuple[Tensor, Tensor]:
    """The unit vector across a in the plane of a and b; angle(a, b) in degrees and |a| / (|b| |f|)."""
    along = normalize(a, dim=-1)
    across = normalize(b - (b * along).sum(-1, keepdim=True) * along, dim=-1)  # (P, n)
    scale = vector_norm(a, dim=-1) / (vector_norm(b, dim=-1) * norm)
    return across, torch.stack([angle(a, b), scale], dim=-1)


def steered_embeddings(
    run: Run, name: str, f: Tensor, text: Tensor, degrees: float
) -> tuple[list[int], Tensor]:
    """T f_ε with the norm of T f restored (eq. 14), for the photos that reach the IS: (P, m) -> (R, n).

    Returns:
        Which of the photos these R are, and their embeddings.
    """
    T = run.translator(name)
    result = steer(f, text, T, run.spaces(name), degrees=degrees)
    reached = torch.where(~result.epsilon.isnan())[0]
    return reached.tolist(), restore_norm(T(result.f_eps[reached]), T(f[reached]))


def _frames(run: Run, photos: pd.DataFrame) -> list[bytes]:
    """Pictures for the first classifier, photo by photo: the start, then target by target each step.

    A step that is not reached has an empty file.
    """
    name = run.classifiers[0]
    f, targets = features(run, name, photos), run.texts(name, list(map(run.prompt, run.targets)))
    row = 1 + len(targets) * len(STEPS)  # pictures a photo
    wanted: dict[int, Tensor] = dict(zip(range(0, len(f) * row, row), run.translator(name)(f), strict=True))
    for j, text in enumerate(targets):
        for k, degrees in enumerate(STEPS):
            reached, z = steered_embeddings(run, name, f, text, degrees)
            wanted |= {i * row + 1 + j * len(STEPS) + k: z_eps for i, z_eps in zip(reached, z, strict=True)}
    images = run.draw(name, torch.stack(list(wanted.values())).float(), noise=run.seed)
    drawn = dict(zip(wanted, images, strict=True))
    return [webp(drawn[i]) if i in drawn else b"" for i in range(len(f) * row)]
