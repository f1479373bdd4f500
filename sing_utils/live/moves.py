"""The numbers of the pair and the steering explorer: how a photo's translated feature moves in a plane.

Pair: with a = T f and b = T Π_n f, the feature f - α Π_n f is translated to a - α b, so its angles to a text
u and to the original need only a·u, b·u, |a|², a·b and |b|² (eqs. 5, 7 and 8).

Steering: the feature at an Image Score of θ is translated to the direction cos θ a + sin θ b, where a and b
are orthogonal unit vectors: T f's direction, and the part of T d across it.
"""

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
    logits_of,
    pack,
    pack_pictures,
    pack_steps,
    photo_names,
    shown_classes,
    webp,
)
from sing_utils.method.scores import angle, image_score
from sing_utils.method.steering import null_direction, random_null_direction, steer
from sing_utils.pictures.base import restore_norm
from sing_utils.runs.run import Run

ALPHAS = (-1.0, 1.0, 2.0)  # how much of the null component is taken away in a drawn picture
FARTHEST = 90  # degrees of the slider
STEPS = (20.0, 40.0, 60.0)  # degrees of IS for which a picture is drawn, where they are reached


def offered_photos(run: Run) -> pd.DataFrame:
    """The photos that both explorers offer, class by class as the profile has them: class and path."""
    photos = first_photos(run, run.profile.explorer_photos)
    return photos.sort_values("class", key=lambda c: c.map(run.classes.index), kind="stable")


def photo_numbers(run: Run, photos: pd.DataFrame, stops: Sequence[float], z: Tensor) -> dict[str, Any]:
    """What the page knows of P photos, whichever way they move; pictures are drawn of embeddings.

    Args:
        run: whose classifiers.
        photos: those that are offered.
        stops: places of the slider that have pictures, besides 0.
        z: embeddings by the first classifier, (P, 1 + W S, n): of the photo as it is, then of each of W ways
            at each stop. NaN: no picture, an empty file.
    """
    classes = shown_classes(run)
    there = ~z.isnan().any(-1).flatten()
    images = iter(run.draw(run.classifiers[0], z.flatten(0, 1)[there].float(), noise=run.seed))
    return {
        "classifiers": run.classifiers,
        "logits": logits_of(run, photos),
        "drawn": not run.profile.picture_backend.startswith("photos:"),
        "pictureNote": drawn_note(run),
        "classes": classes,
        "photoClass": [classes.index(c) for c in photos["class"]],
        "photoName": photo_names(photos),
        "stops": list(stops),
        "ways": (z.shape[1] - 1) // len(stops),
        "frames": pack_pictures(webp(next(images)) if drawn else b"" for drawn in there),
    }


def drawn_note(run: Run) -> str:
    """What to say of pictures that show translated features."""
    kind, _, source = run.profile.picture_backend.partition(":")
    if kind == "photos":
        return (
            f"A picture is the photograph of {source} whose embedding is nearest to the translated feature."
        )
    if kind == "planted":
        return (
            "Pictures are drawn from what is read off a translated feature: colours are mixed by their "
            "probability, and what it does not say is grey and faint. Between two drawn pictures the page "
            "shows a blend."
        )
    return (
        f"Pictures are drawn by the decoder “{kind}” from translated features, all from one noise and at one "
        "length (eq. 14): impressions of what a feature means, not the photograph. Between two drawn "
        "pictures the page shows a blend."
    )


# ---------------------------------------------------------------------------------- pair


def pair_numbers(run: Run, photos: pd.DataFrame) -> dict[str, Any]:
    """All that the pair explorer needs; K classifiers, P photos, C class prompts, J phrases.

    `norms` (K, P, 3): |a|², a·b, |b|². `cosines` (K, P, C + J, 2): of a and of b with each text.
    """
    texts = [*map(run.prompt, shown_classes(run)), *run.profile.phrases]
    norms = []
    for name in run.classifiers:
        a, b = pair_vectors(run, name, features(run, name, photos))
        norms.append(torch.stack([(a * a).sum(-1), (a * b).sum(-1), (b * b).sum(-1)], dim=-1))
    first = run.classifiers[0]
    z = pair_embeddings(run, first, features(run, first, photos), (0.0, *ALPHAS))
    return {
        "texts": texts,
        "norms": pack(torch.stack(norms)),
        **pair_cosines(run, photos, texts),
        **photo_numbers(run, photos, ALPHAS, z),
    }


def pair_vectors(run: Run, name: str, f: Tensor) -> tuple[Tensor, Tensor]:
    """Of each photo a = T f and b = T Π_n f: (P, m) -> (P, n) each, float64."""
    T = run.translator(name)
    return T(f), T(run.spaces(name).null_component(f))


def pair_cosines(run: Run, photos: pd.DataFrame, texts: Sequence[str]) -> dict[str, Any]:
    """What depends on J texts: cosines (K, P, J, 2) of a and of b with each."""
    parts = []
    for name in run.classifiers:
        u = normalize(run.texts(name, texts).double(), dim=-1)  # (J, n)
        both = torch.stack(pair_vectors(run, name, features(run, name, photos)), dim=1)  # (P, 2, n)
        parts.append((normalize(both, dim=-1) @ u.mT).transpose(1, 2))  # (P, J, 2)
    return {"cosines": pack_steps(torch.stack(parts))}


def pair_embeddings(run: Run, name: str, f: Tensor, alphas: Sequence[float]) -> Tensor:
    """T(f - α Π_n f) with the norm of T f restored (eq. 14): (P, m) -> (P, A, n)."""
    a, b = pair_vectors(run, name, f)
    z = a[:, None] - torch.tensor(alphas, dtype=a.dtype)[:, None] * b[:, None]
    return restore_norm(z, a[:, None].expand_as(z))


def telling_photo(run: Run, photos: pd.DataFrame) -> int:
    """The photo that null removal turns most, by the first classifier; if it can, one that is recognised."""
    name = run.classifiers[0]
    f, head = features(run, name, photos), run.head(name)
    a, b = pair_vectors(run, name, f)
    top = [head.label(i) for i in head.logits(f).argmax(-1).tolist()]
    known = torch.tensor([label == c for label, c in zip(top, photos["class"], strict=True)])
    return int((image_score(a, a - b) + 180 * known).argmax())


# ------------------------------------------------------------------------------ steering


def steering_targets(run: Run) -> dict[str, str]:
    """What the explorer steers toward, the run's targets first: a short name -> the text that is encoded."""
    words = [*run.targets, *run.classes]
    return {w: run.prompt(w) for w in words} | {p: p for p in run.concepts if p not in words}


def steering_numbers(run: Run, photos: pd.DataFrame) -> dict[str, Any]:
    """All that the steering explorer needs; K classifiers, P photos, J targets, see `steering_planes`.

    Pictures are drawn of the first photo of each class and the run's targets.
    """
    targets, first = steering_targets(run), run.classifiers[0]
    planes = [steering_planes(run, name, photos, list(targets.values())) for name in run.classifiers]
    drawn = photos.index.isin(first_photos(run, 1).index)
    f = features(run, first, photos[drawn])
    texts = run.texts(first, [targets[t] for t in dict.fromkeys(run.targets)])
    steered = [steered_embeddings(run, first, f, text, x) for text in texts for x in STEPS]
    z_drawn = torch.stack([run.translator(first)(f), *steered], dim=1)  # (D, 1 + W S, n)
    z = z_drawn.new_full((len(photos), *z_drawn.shape[1:]), torch.nan)
    z[torch.from_numpy(drawn)] = z_drawn
    return {
        "names": list(targets),
        "texts": list(targets.values()),
        "prompts": list(map(run.prompt, shown_classes(run))),
        **pack_planes(planes),
        "own": pack_steps(torch.stack([p["own"] for p in planes])),
        "random": pack(torch.stack([p["random"] for p in planes]).float()),
        **photo_numbers(run, photos, STEPS, z),
    }


def steering_planes(run: Run, name: str, photos: pd.DataFrame, texts: Sequence[str]) -> dict[str, Tensor]:
    """The plane of every step of one classifier; P photos, J texts.

    Returns:
        cosines (P, J, 4): of a, of b, and of a random direction's b with the target; of b with the
        class prompt. own (P,): of a with the class prompt. steps (P, J, 3): angle(a, T d) in degrees,
        |T f| / (|T d| |f|), and the most that a unit step moves any logit, relative to |f|.
        random (P, 2): the first two for the random direction.
    """
    T, spaces, f = run.translator(name), run.spaces(name), features(run, name, photos)
    W, norm = run.head(name).weight.double(), vector_norm(f, dim=-1)
    own = normalize(run.texts(name, [run.prompt(c) for c in photos["class"]]).double(), dim=-1)  # (P, n)
    a_full = T(f)
    a = normalize(a_full, dim=-1)
    r, random = _plane(a_full, T(random_null_direction(len(f), spaces, seed=run.seed)), norm)
    cosines, steps = [], []
    for u in normalize(run.texts(name, texts).double(), dim=-1):
        d = null_direction(f, u, T, spaces)
        b, step = _plane(a_full, T(d), norm)
        moved = (d @ W.mT).abs().amax(-1) * norm
        cosines.append(torch.stack([a @ u, b @ u, r @ u, (b * own).sum(-1)], dim=-1))
        steps.append(torch.cat([step, moved[:, None]], dim=-1))
    return {
        "cosines": torch.stack(cosines, dim=1),
        "own": (a * own).sum(-1),
        "steps": torch.stack(steps, dim=1),
        "random": random,
    }


def pack_planes(planes: list[dict[str, Tensor]]) -> dict[str, Any]:
    """What depends on the target, of all classifiers, as a page reads it."""
    return {
        "cosines": pack_steps(torch.stack([p["cosines"] for p in planes])),
        "steps": pack(torch.stack([p["steps"] for p in planes]).float()),
    }


def _plane(a: Tensor, b: Tensor, norm: Tensor) -> tuple[Tensor, Tensor]:
    """The unit vector across a in the plane of a and b; angle(a, b) in degrees and |a| / (|b| |f|)."""
    along = normalize(a, dim=-1)
    across = normalize(b - (b * along).sum(-1, keepdim=True) * along, dim=-1)  # (P, n)
    scale = vector_norm(a, dim=-1) / (vector_norm(b, dim=-1) * norm)
    return across, torch.stack([angle(a, b), scale], dim=-1)


def steered_embeddings(run: Run, name: str, f: Tensor, text: Tensor, degrees: float) -> Tensor:
    """T f_ε with the norm of T f restored (eq. 14): (P, m) -> (P, n), NaN where the IS is not reached."""
    T = run.translator(name)
    return restore_norm(T(steer(f, text, T, run.spaces(name), degrees=degrees).f_eps), T(f))
