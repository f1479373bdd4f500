"""The translator's error: scores by translators that are refitted on random halves of the fit photos.

All photos are scored by one translator, so its error does not average out over them, and what resamples
photos does not see it. Refits on halves do: the spread of their scores is the standard error of the whole's
(delete-half jackknife), for whatever is made of these scores. The same halves serve all classifiers whose
fit photos are the same, so differences between classifiers are paired.

    >>> g = torch.Generator().manual_seed(0)
    >>> W, f, true = (torch.randn(*s, generator=g) for s in ((3, 8), (400, 8), (5, 8)))
    >>> z = f @ true.mT + torch.randn(400, 5, generator=g)
    >>> T, B = Translator.fit(f, z), BeyondLogits.fit(f, z, W)
    >>> halves = Halves.of(f, z, T, B, HeadSpaces.from_weight(W))
    >>> texts, own = torch.eye(5)[:3], torch.arange(50) % 3
    >>> refits = Refits.fit(halves, f[:50], texts, own, classes=3, count=10)
    >>> refits.AS.shape, refits.toward.shape  # (K, N), and (K, C, P) of classes and texts
    (torch.Size([10, 50]), torch.Size([10, 3, 3]))
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, fields
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from sing_utils.evidence.controls import Scores
from sing_utils.method.beyond import BeyondLogits
from sing_utils.method.head import HeadSpaces
from sing_utils.method.scores import pairwise_angle
from sing_utils.method.translator import Translator, split_rows

_NOTHING = 1e-10  # of the mean variance: added to what is inverted, so that no direction of nothing counts


@dataclass(frozen=True, eq=False)
class Halves:
    """Fit photos in the coordinates of a head: first its principal directions, then its null directions.

    There the orthogonal translator's ridge is the same in all directions, and that of ẑ, which is isotropic
    in the logits, is ρ / σ² along each principal direction.

    Attributes:
        x: features, (N, m), float64.
        z: embeddings, (N, n), float64.
        basis: [V_p V_n], (m, m).
        sigma: singular values of the head, (r,).
        ridge: of T, as chosen on all photos.
        ridge_beyond: of ẑ, as chosen on all photos.
        x_held, z_held: of the photos set aside, by which the shrinkage is chosen, (H, m) and (H, n).
    """

    x: Tensor
    z: Tensor
    basis: Tensor
    sigma: Tensor
    ridge: float
    ridge_beyond: float
    x_held: Tensor
    z_held: Tensor

    @classmethod
    def of(cls, f: Tensor, z: Tensor, T: Translator, B: BeyondLogits, spaces: HeadSpaces) -> Halves:
        """Of the photos that T and B were fitted on: features (N, m) and embeddings (N, n).

        Both held out the same rows, which are left out here as well.
        """
        assert T.report is not None
        fit, held = split_rows(len(f), held_out=T.report.held_out, seed=T.report.seed)
        basis = torch.cat([spaces.principal_basis, spaces.null_basis], 1).double()
        sigma = spaces.singular_values[: spaces.rank].double()
        x, z = f.double() @ basis, z.double()
        return cls(x[fit], z[fit], basis, sigma, T.report.ridge, B.ridge, x[held], z[held])

    def whole(self) -> Maps:
        """The fit on all of them."""
        return self._solve(_Sums.over(self.x, self.z))

    def pairs(self, count: int, *, seed: int = 0) -> Iterator[Maps]:
        """`count` refits: of random halves of the photos, each followed by that of the other photos."""
        whole = _Sums.over(self.x, self.z)
        generator = torch.Generator().manual_seed(seed)
        for _ in range(count // 2):
            rows = torch.randperm(len(self.x), generator=generator)[: len(self.x) // 2]
            half = _Sums.over(self.x[rows], self.z[rows])
            yield self._solve(half)
            yield self._solve(whole.without(half))

    def parts(self, count: int, *, seed: int = 0) -> Iterator[Maps]:
        """Refits on the parts of one random division of the photos into `count` parts."""
        order = torch.randperm(len(self.x), generator=torch.Generator().manual_seed(seed))
        for rows in order.tensor_split(count):
            yield self._solve(_Sums.over(self.x[rows], self.z[rows]))

    def shrinkages(self, maps: Maps, rows: Tensor) -> Tensor:
        """The shrinkage of Γ u that some of the photos set aside choose, rows (..., H) -> (...)."""
        _, _, known, added = maps(self.x_held)
        along, size = (added * (self.z_held - known)).sum(-1), added.square().sum(-1)  # (H,)
        return (along[rows].sum(-1) / size[rows].sum(-1)).nan_to_num(0.0).clamp(0.0, 1.0)

    @property
    def nearness(self) -> float:
        """By what a half's distance from the whole counts beyond the logits; NaN: too few photos to say.

        1 if errors were as 1 / N. But least squares of m numbers has errors as 1 / (N - m), which leaves
        halves farther away than that. (The ridge of T keeps that from happening to it.)
        """
        N, m = self.x.shape
        return (1 - 2 * m / N) ** 0.5 if 2 * m < N else float("nan")

    def _solve(self, sums: _Sums) -> Maps:
        N, r = sums.rows, len(self.sigma)
        T = _solve(sums.xx / N, sums.xz / N, self.ridge)  # (m, n)
        mu, z_mean = sums.x / N, sums.z / N
        if len(mu) >= N:  # too few photos for least squares
            return Maps(T, mu, z_mean, torch.full_like(T[:r], torch.nan), torch.full_like(T, torch.nan))
        C = sums.xx / N - torch.outer(mu, mu)  # (m, m)
        cross = sums.xz / N - torch.outer(mu, z_mean)  # (m, n)
        tiny = _NOTHING * float(C.diagonal().mean())
        A = _solve(C[:r, :r], cross[:r], self.ridge_beyond / self.sigma**2 + tiny)  # ẑ, (r, n)
        known = _solve(C[:r, :r], C[:r, r:], tiny)  # least squares of y on p, (r, m - r)
        rest = C[r:, r:] - known.mT @ C[:r, r:]
        more = _solve(rest, cross[r:] - known.mT @ cross[:r], tiny)  # (m - r, n)
        return Maps(T, mu, z_mean, A, torch.cat([-known @ more, more]))


@dataclass(frozen=True, eq=False)
class _Sums:
    """What a fit needs of photos; those of a part, taken away, leave those of the other photos."""

    rows: int
    x: Tensor
    z: Tensor
    xx: Tensor
    xz: Tensor

    @classmethod
    def over(cls, x: Tensor, z: Tensor) -> _Sums:
        a = x.numpy()
        xx = torch.from_numpy(a.T @ a)  # numpy knows that it is symmetric: half the time
        return cls(len(x), x.sum(0), z.sum(0), xx, x.mT @ z)

    def without(self, part: _Sums) -> _Sums:
        return _Sums(*(getattr(self, k.name) - getattr(part, k.name) for k in fields(self)))


@dataclass(frozen=True, eq=False)
class Maps:
    """One fit, in the coordinates of `Halves`: x = (p, y), p of the logits and y of the null space.

    Attributes:
        T: (m, n).
        mean, z_mean: of the photos, (m,) and (n,).
        by_logits: of ẑ, from p about its mean, (r, n).
        more: Γ u, from x about its mean, (m, n).
    """

    T: Tensor
    mean: Tensor
    z_mean: Tensor
    by_logits: Tensor
    more: Tensor

    def __call__(self, x: Tensor) -> Tensor:
        """T f, T f~, ẑ and Γ u of features in these coordinates: (N, m) -> (4, N, n)."""
        r = len(self.by_logits)
        after, centred = x[:, :r] @ self.T[:r], x - self.mean
        z_logits = self.z_mean + centred[:, :r] @ self.by_logits
        return torch.stack([after + x[:, r:] @ self.T[r:], after, z_logits, centred @ self.more])


def _solve(A: Tensor, b: Tensor, ridge: float | Tensor) -> Tensor:
    """(A + ridge)⁻¹ b for a symmetric A (k, k), b (k, n) and a ridge of one value or of (k,)."""
    lhs = A.clone()
    lhs.diagonal().add_(ridge)
    return torch.cholesky_solve(b, torch.linalg.cholesky(lhs))


@dataclass(frozen=True, eq=False)
class Refits:
    """Scores of photos by each refit, degrees, float32. NaN beyond the logits: too few photos to say.

    Attributes:
        AS, AS_beyond: toward each photo's own class, (K, N).
        contrast, contrast_beyond: among the classes' prompts, (K, N).
        IS, IS_beyond: (K, N).
        toward: mean AS toward every text over each class's photos, (K, C, P).
        shared: the variance of that mean which the photos' own error holds as well, (C, P); see `sure`.
        before: mean angle of T f to every text over each class's photos, (K, C, P).
    """

    AS: Tensor
    contrast: Tensor
    IS: Tensor
    AS_beyond: Tensor
    contrast_beyond: Tensor
    IS_beyond: Tensor
    toward: Tensor
    shared: Tensor
    before: Tensor

    @classmethod
    def fit(
        cls, halves: Halves, f: Tensor, texts: Tensor, own: Tensor, *, classes: int, count: int, seed: int = 0
    ) -> Refits:
        """Refit, and score photos that nothing was fitted on.

        Args:
            halves: the fit photos.
            f: features to score, (N, m).
            texts: embeddings of the classes' prompts and of any other texts, (P, n).
            own: number of each photo's class, (N,).
            classes: how many of the texts are prompts of classes, C.
            count: how many refits, even.
            seed: of the halves.
        """
        x, given = f.double() @ halves.basis, (texts, own, classes)
        maps, near, H = halves.whole(), halves.nearness, len(halves.x_held)
        # The shrinkage as other photos set aside would have chosen it.
        rows = torch.randint(H, (count, H), generator=torch.Generator().manual_seed(seed))
        whole, shrinkages = maps(x), halves.shrinkages(maps, rows)
        distance = torch.tensor([1.0, 1.0, near, near]).double()[:, None, None]
        member = torch.nn.functional.one_hot(own, classes).double()  # (N, C)
        photos = member.sum(0)[:, None]
        total, squares, scores = torch.zeros(()), torch.zeros(()), []
        for half, shrinkage in zip(halves.pairs(count, seed=seed), shrinkages, strict=True):
            found, beyond, angles = scored(whole + distance * (half(x) - whole), shrinkage, *given)
            toward = member.mT @ found.toward / photos  # (C, P)
            one = found.toward - toward[own]  # what this refit adds to one photo only
            total, squares = total + one, squares + one**2
            row = {k: getattr(found, k) for k in ("AS", "contrast", "IS")}
            row |= {f"{k}_beyond": getattr(beyond, k, torch.full_like(v, torch.nan)) for k, v in row.items()}
            scores.append(row | {"toward": toward, "before": member.mT @ angles / photos})
        spread = squares / count - (total / count) ** 2  # (N, P)
        stacked = {k: torch.stack([s[k] for s in scores]).float() for k in scores[0]}
        return cls(**stacked, shared=(member.mT @ spread / photos / (photos - 1)).float())

    def columns(self) -> dict[str, np.ndarray]:
        """Scores as columns of photos: (K, N) each."""
        names = ("AS", "contrast", "IS", "AS_beyond", "contrast_beyond", "IS_beyond")
        return {k.replace("_", " "): getattr(self, k).double().numpy() for k in names}

    def save(self, path: str | Path) -> None:
        """Write a safetensors file."""
        save_file({k.name: getattr(self, k.name).contiguous() for k in fields(self)}, path)

    @classmethod
    def load(cls, path: str | Path) -> Refits:
        """Read what `save` wrote."""
        return cls(**load_file(path))


def scored(
    z: Tensor, shrinkage: Tensor, texts: Tensor, own: Tensor, classes: int
) -> tuple[Scores, Scores | None, Tensor]:
    """Scores of what `Maps` gives, (4, N, n): toward every text, and beyond the logits toward the classes'.

    Beyond the logits there are none where photos were too few. Last come the angles of T f, (N, P).
    """
    angles, nothing = pairwise_angle(z[0], texts), bool(z[2].isnan().any())
    found = Scores.of(z[0], z[1], texts, own, classes=classes, angles=angles)
    beyond = None if nothing else Scores.of(z[2] + shrinkage * z[3], z[2], texts[:classes], own)
    return found, beyond, angles
