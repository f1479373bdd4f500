"""The numbers of the null-space dial: what a head would ignore if more directions counted as null."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.linalg import vector_norm

from sing_utils.live.explorers import pack
from sing_utils.method.scores import image_score, pairwise_angle
from sing_utils.runs.run import Run


def dial_numbers(run: Run) -> dict[str, Any]:
    """All that the dial needs; K classifiers, G ranks kept, J phrases.

    `spectrum` holds each head's singular values, `ranks` the ranks that the dial stops at, from the
    exact one (where the certificate is zero, but for rounding) downward, and for each of these
    `costs` (G, 5) and `concepts` (G, J), see `dial_table`.
    """
    heads = []
    for name in run.classifiers:
        spaces = run.spaces(name)
        ranks = dial_ranks(spaces.rank)
        costs, concepts = dial_table(run, name, ranks)
        heads.append(
            {
                "width": spaces.width,
                "ranks": ranks,
                "spectrum": pack(spaces.singular_values.float()),
                "costs": pack(costs),
                "concepts": pack(concepts.float()),
            }
        )
    photos = len(run.photos(run.classifiers[0]).index)
    return {
        "classifiers": run.classifiers,
        "heads": heads,
        "phrases": run.profile.phrases,
        "photos": photos,
    }


def dial_ranks(rank: int, *, stops: int = 32) -> list[int]:
    """Ranks to stop at, descending: close together below the exact rank, then evenly spaced.

    >>> dial_ranks(100)[:6], dial_ranks(100)[-1]
    ([100, 99, 98, 97, 96, 94], 3)
    """
    near = {rank - d for d in (0, 1, 2, 4, 8, 16)}
    even = np.linspace(rank, rank / stops, stops).round().astype(int)
    return sorted({int(r) for r in (*near, *even) if r >= 1}, reverse=True)


def dial_table(run: Run, name: str, ranks: list[int]) -> tuple[Tensor, Tensor]:
    """What happens to the evaluation photos if only the first `rank` directions of the head are kept.

    Returns:
        costs (G, 5), float64: the share of the features' energy that is taken away (mean, percent);
        the largest |W f - W f'| relative to |W| |f|, as in the certificate; the median over photos
        of the largest change of a logit; photos whose top-1 class changes, percent; median IS,
        degrees. concepts (G, J), float64: mean AS toward each phrase, degrees.
    """
    head, spaces, T = run.head(name), run.spaces(name), run.translator(name)
    f = run.photos(name).f.double()
    W, V = spaces.weight, spaces.principal_basis  # columns by falling singular value
    coordinates = f @ V  # (N, r)
    logits = f @ W.mT  # (N, c)
    top1 = (logits + head.bias.to(logits)).argmax(-1)
    WV, TV = W @ V, T(V.mT)  # (c, r), (r, n)
    texts = run.texts(name, run.profile.phrases)
    z = T(f)
    before = pairwise_angle(z, texts)  # (N, J)
    norm = vector_norm(f, dim=-1)
    costs, concepts = [], []
    logits_kept, z_kept, last = coordinates @ WV.mT, coordinates @ TV, coordinates.shape[1]
    for rank in ranks:  # they fall: each takes some more away
        kept, gone = coordinates[:, :rank], slice(rank, last)
        logits_kept = logits_kept - coordinates[:, gone] @ WV[:, gone].mT
        z_kept, last = z_kept - coordinates[:, gone] @ TV[gone], rank
        change = (logits - logits_kept).abs().amax(-1)  # (N,)
        changed = ((logits_kept + head.bias.to(logits)).argmax(-1) != top1).double()
        ignored = 1 - kept.square().sum(-1) / norm.square()
        costs.append(
            [
                100 * float(ignored.mean()),
                float((change / (spaces.singular_values[0] * norm)).max()),
                float(change.median()),
                100 * float(changed.mean()),
                float(image_score(z, z_kept).median()),
            ]
        )
        concepts.append((before - pairwise_angle(z_kept, texts)).mean(0))
    return torch.tensor(costs, dtype=torch.float64), torch.stack(concepts)
