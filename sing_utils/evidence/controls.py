"""Controls: what the scores of null removal would be by chance, or with another choice (eqs. 7-9).

A score says something about the *null* space only as far as other subspaces of its size do not give the
same. Everything here works on features, a translator and texts, without a run:

    >>> from sing_utils.evidence.intervals import percentile
    >>> g = torch.Generator().manual_seed(0)
    >>> W, f, T, texts = (torch.randn(*s, generator=g) for s in ((6, 20), (50, 20), (8, 20), (6, 8)))
    >>> own = torch.arange(50) % 6
    >>> spaces = HeadSpaces.from_weight(W)
    >>> null = remove_null(f, T, spaces, texts, own)
    >>> draws = remove_random(f, T, texts, own, dim=spaces.null_dim, draws=50)
    >>> 0 <= percentile(null.statistics()["IS"], draws["IS"]) <= 100
    True
"""

from __future__ import annotations

import contextlib
import itertools
import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from sing_utils.errors import SingError
from sing_utils.evidence import SOFTMAX
from sing_utils.method.head import HeadSpaces
from sing_utils.method.scores import contrast, image_score, pairwise_angle

STATISTICS = ("|AS|", "AS", "contrast", "IS")
SUBSPACES = ("same dimension", "same dimension and energy")  # kinds of random subspaces
_BISECTIONS = 12  # of a power between -4 and 4


@dataclass(frozen=True, eq=False)
class Scores:
    """How two embeddings of each photo differ, such as T f and T f~: the one vocabulary of all controls.

    Attributes:
        AS: toward the prompt of each photo's own class, (N,), degrees.
        contrast: see `sing_utils.method.scores.contrast`, (N,), degrees.
        IS: (N,), degrees.
        toward: AS toward every text, (N, P), degrees.
        energy: share of |f|^2 that was removed, (N,), where something was.
    """

    AS: Tensor
    contrast: Tensor
    IS: Tensor
    toward: Tensor
    energy: Tensor | None = None

    @classmethod
    def of(
        cls,
        before: Tensor,
        after: Tensor,
        texts: Tensor,
        own: Tensor,
        *,
        classes: int | None = None,
        angles: Tensor | None = None,
        energy: Tensor | None = None,
    ) -> Scores:
        """Compare embeddings.

        Args:
            before: T f, or what stands in its place, (N, n).
            after: T f~, or what stands in its place, (N, n).
            texts: embeddings of all classes' prompts, and of any texts after them, (P, n).
            own: number of each photo's class, (N,).
            classes: how many of the texts are prompts of classes; None: all.
            angles: those of `before` to the texts, (N, P), if they are known.
            energy: see above.
        """
        angles = pairwise_angle(before, texts) if angles is None else angles
        toward = angles - pairwise_angle(after, texts)  # eq. 7
        own = torch.as_tensor(own, dtype=torch.long)
        mine = toward.gather(1, own[:, None])[:, 0]
        return cls(mine, contrast(toward[:, :classes], own), image_score(before, after), toward, energy)

    def columns(self, tail: str = "") -> dict[str, np.ndarray]:
        """AS, contrast and IS as columns of a table of photos."""
        return {f"{k}{tail}": getattr(self, k).numpy() for k in ("AS", "contrast", "IS")}

    def statistics(self) -> dict[str, float]:
        """Median |AS|, mean AS, mean contrast, median IS (degrees), and the removed energy (percent)."""
        found = {
            "|AS|": float(self.AS.abs().quantile(0.5)),
            "AS": float(self.AS.mean()),
            "contrast": float(self.contrast.mean()),
            "IS": float(self.IS.quantile(0.5)),
        }
        return found if self.energy is None else found | {"energy": 100 * float(self.energy.mean())}


def remove_null(f: Tensor, T: Any, spaces: HeadSpaces, texts: Tensor, own: Tensor) -> Scores:
    """Null removal itself (eq. 9): f (N, m), T (n, m), texts (C, n), own (N,)."""
    Q, weight = spaces.null_basis.to(f), _weight(T).to(f)
    inside, z = f @ Q, f @ weight.mT  # (N, m - r), (N, n)
    energy = inside.square().sum(-1) / f.square().sum(-1)
    return Scores.of(z, z - inside @ (weight @ Q).mT, texts, own, energy=energy)


def remove_random(
    f: Tensor,
    T: Any,
    texts: Tensor,
    own: Tensor,
    *,
    dim: int,
    draws: int,
    seed: int = 0,
    like: Tensor | None = None,
    energy: float | None = None,
) -> pd.DataFrame:
    """Remove random subspaces instead of the null space: one row a draw, `Scores.statistics`.

    Uniformly random ones by default. The null space of a trained head is not like them: it lies where
    features have little energy. With `energy`, subspaces of the same dimension are drawn that lean as far
    away from where the features' energy is as it takes to hold no more of it than the null space does.

    Args:
        f: features, (N, m).
        T: a translator, or its weight (n, m).
        texts: embeddings of all classes' prompts, (C, n).
        own: number of each photo's class, (N,).
        dim: of the subspaces.
        draws: how many.
        seed: of the draws.
        like: features that say where the energy is, (M, m), such as those that T was fitted on; None: f.
        energy: mean share of |f|^2 in the subspace, between 0 and 1; None: whatever a uniform draw holds.

    Raises:
        SingError: for a dimension that is not below m, or fewer than 1 draw.
    """
    # Single precision is enough for chance, and several times as fast.
    vectors, spans = random_spans(f, dim=dim, draws=draws, seed=seed, like=like, energy=energy)
    x, weight = f.float(), _weight(T).float()
    if vectors is not None:
        x, weight = x @ vectors, weight @ vectors
    z, total = (x @ weight.mT).double(), x.square().sum(-1)
    rows: list[dict[str, float]] = []
    angles = pairwise_angle(z, texts)
    for Q in spans:
        inside = x @ Q  # (N, dim)
        share = inside.square().sum(-1) / total
        found = Scores.of(z, z - inside @ (weight @ Q).mT, texts, own, angles=angles, energy=share)
        rows.append({"draw": len(rows), **found.statistics()})
    return pd.DataFrame(rows)


def at_energy(draws: pd.DataFrame, energy: float) -> pd.DataFrame:
    """Statistics of random subspaces as they would be at one energy, by a line through the draws.

    Args:
        draws: of `remove_random`.
        energy: percent of |f|².
    """
    off = draws["energy"] - draws["energy"].mean()
    if len(draws) < 3 or not float(off.abs().max()) > 0:
        return draws
    columns = [c for c in STATISTICS if draws[c].notna().all()]
    slope = draws[columns].mul(off, axis=0).sum() / (off**2).sum()
    return draws.assign(**{c: draws[c] - slope[c] * (draws["energy"] - energy) for c in columns})


def random_spans(
    f: Tensor,
    *,
    dim: int,
    draws: int,
    seed: int = 0,
    like: Tensor | None = None,
    energy: float | None = None,
) -> tuple[Tensor | None, Iterator[Tensor]]:
    """The subspaces of `remove_random`, in single precision, which is enough for chance and much faster.

    Returns:
        Axes (m, m), None for the features' own, and orthonormal bases in their coordinates, (m, dim) each.
    """
    m = f.shape[1]
    if not 0 < dim < m or draws < 1:
        raise SingError(f"dim is {dim} of {m} and draws {draws}, expected 0 < dim < m and at least 1 draw.")
    vectors, weights = None, torch.ones(m)
    if energy is not None:
        vectors, scale = _axes(f if like is None else like)
        weights = scale ** -_tilt(f.float() @ vectors, scale, dim, energy, seed)
    generator = torch.Generator().manual_seed(seed)
    return vectors, (_span(weights, dim, generator) for _ in range(draws))


def energy_share(f: Tensor, Q: Tensor) -> float:
    """Mean share of |f|^2 in the span of Q's columns: (N, m), (m, k) -> between 0 and 1."""
    return float(((f @ Q).square().sum(-1) / f.square().sum(-1)).mean())


def _span(weights: Tensor, dim: int, generator: torch.Generator) -> Tensor:
    """Orthonormal basis of a random subspace, (m, k), that leans toward axes of large weight, (m,)."""
    return torch.linalg.qr(weights[:, None] * torch.randn(len(weights), dim, generator=generator))[0]


def _axes(f: Tensor) -> tuple[Tensor, Tensor]:
    """Axes of the features' second moment, (m, m), and the root mean square along each, (m,), above 0."""
    f = f.double()
    values, vectors = torch.linalg.eigh(f.mT @ f / len(f))
    return vectors.float(), values.clamp_min(1e-9 * float(values.mean())).sqrt().float()


def _tilt(f: Tensor, scale: Tensor, dim: int, energy: float, seed: int) -> float:
    """The power of 1 / scale by which subspaces must lean away for `energy` to be removed, by bisection."""
    low, high = -4.0, 4.0  # energy falls as the power grows
    trials = 3 + 2000 // len(scale)  # in small spaces subspaces vary more
    for _ in range(_BISECTIONS):
        middle, generator = (low + high) / 2, torch.Generator().manual_seed(seed)
        spans = [_span(scale**-middle, dim, generator) for _ in range(trials)]
        found = sum(energy_share(f, Q) for Q in spans) / trials
        low, high = (middle, high) if found > energy else (low, middle)
    return (low + high) / 2


def other_names(AS: Tensor, own: Tensor, *, permutations: int, seed: int = 0) -> Tensor:
    """Mean AS if the classes exchanged their names at random: (permutations,), degrees.

    Every prompt is used as often as before. A class may keep its own name, as it must if the true
    assignment is to be one of the equally likely ones; where there are few classes, all exchanges are taken.

    Args:
        AS: toward every class's prompt, (N, C).
        own: number of each photo's class, (N,).
        permutations: how many exchanges of names, at most; there are C! in all.
        seed: of the exchanges.

    Raises:
        SingError: if there are fewer than 2 classes.
    """
    C = AS.shape[1]
    if C < 2:
        raise SingError("there is one class only, expected at least 2: no other name could be tried.")
    sums = torch.zeros(C, C, dtype=torch.float64).index_add_(0, own, AS.double())  # by class, by prompt
    if math.factorial(C) <= permutations + 1:
        orders = [list(o) for o in itertools.permutations(range(C))][1:]  # the first is the true one
    else:
        generator = torch.Generator().manual_seed(seed)
        orders = [torch.randperm(C, generator=generator).tolist() for _ in range(permutations)]
    found = [sums[torch.arange(C), torch.tensor(order)].sum() for order in orders]
    return torch.stack(found) / len(AS)


def rank_rules(spaces: HeadSpaces) -> dict[str, HeadSpaces]:
    """The spaces of a head by several rules of rank, and with the direction that softmax ignores.

    Rules that leave no null space are left out.

    Args:
        spaces: of the head by this book's rule.
    """
    S = spaces.singular_values
    eps = torch.finfo(torch.float64).eps
    thresholds = {
        "ε of double precision instead": max(spaces.weight.shape) * eps * float(S[0]),
        "the paper's public code: σ > 0.00001": 1e-5,
        "σ > 0.001 σ₁": 1e-3 * float(S[0]),
        "σ > 0.01 σ₁": 1e-2 * float(S[0]),
        "σ > 0.03 σ₁": 3e-2 * float(S[0]),
    }
    found = {"this book: σ > max(c, m) ε σ₁": spaces}
    for rule, least in thresholds.items():
        rank = int((least < S).sum())
        if 0 < rank < spaces.width:
            found[rule] = spaces.at_rank(rank)
    with contextlib.suppress(SingError):  # all rows of W alike: softmax ignores every feature
        found[SOFTMAX] = HeadSpaces.from_weight(spaces.weight, rtol=spaces.rtol, softmax=True)
    return found


def _weight(T: Any) -> Tensor:
    return T if isinstance(T, Tensor) else T.weight
