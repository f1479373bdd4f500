"""Beyond the logits: scores of what a feature says that its logits do not, in whatever basis it is written.

A network with features M f and head W M⁻¹ computes the same function for every invertible M, and yet its
null component is another one: IS, AS and contrast of null removal (eqs. 7-9) belong to a basis. The logits do
not. So ẑ, the best prediction of the embedding from the logits, stands in the place of T f~, and ẑ plus what
the rest of the feature adds to it in the place of T f. This score is the book's, not the paper's.

    >>> from sing_utils import angle
    >>> g = torch.Generator().manual_seed(0)
    >>> f, W, true = (torch.randn(*s, generator=g) for s in ((900, 8), (3, 8), (5, 8)))
    >>> z = f @ true.mT  # the embedding reads directions that the head does not
    >>> B = BeyondLogits.fit(f, z, W)
    >>> z_whole, z_logits = B(f[:4])  # (4, n) each
    >>> bool((angle(z_whole, z[:4]) < angle(z_logits, z[:4])).all())
    True
    >>> M = torch.diag(torch.arange(1.0, 9.0))  # the same network in another basis
    >>> again, _ = BeyondLogits.fit(f @ M, z, W @ M.inverse())(f[:4] @ M)
    >>> bool(angle(again, z_whole).max() < 1e-4)  # single precision
    True
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from sing_utils.errors import SingError
from sing_utils.method.arrays import as_tensor, like, require_width
from sing_utils.method.head import HeadSpaces
from sing_utils.method.translator import RIDGES, TranslatorFitter, pairs, split_rows

_NOTHING = 1e-10  # of the largest variance: what is left below it is rounding


@dataclass(frozen=True, eq=False)
class BeyondLogits:
    """Two affine maps from features to embeddings; call it on features.

    Attributes:
        mean: μ, the mean feature that was fitted on, (m,), float64.
        z_mean: the mean embedding, (n,).
        by_logits: A, (n, m), with ẑ(f) = z_mean + A (f - μ); A sees f by its logits only.
        white: U, (d, m): u = U (f - μ) is what is left of f once its logits are known, in d uncorrelated
            numbers of variance 1. d is m - r, or less where features do not vary. It is 0 where photos are no
            more than m: then only a choice of basis could say what lies beyond.
        gamma: Γ, (n, d), the mean of (z - ẑ) uᵀ.
        shrinkage: s, between 0 and 1: how much of Γ u helps on photos set aside.
        ridge: of ẑ, on the logits' squared error, isotropic in the logits.
        held_out_r2: of z_whole, over photos set aside.
        held_out_r2_logits: of z_logits.
        n_fit: number of photos fitted on.
    """

    mean: Tensor
    z_mean: Tensor
    by_logits: Tensor
    white: Tensor
    gamma: Tensor
    shrinkage: float
    ridge: float
    held_out_r2: float
    held_out_r2_logits: float
    n_fit: int

    def __call__(self, f: Any) -> tuple[Any, Any]:
        """What stands in the place of T f and of T f~: (..., m) -> (..., n) twice, float64.

        z_logits = ẑ, and z_whole = ẑ + s Γ u.

        Raises:
            SingError: for features of another width.
        """
        x = self._centred(f)
        z_logits = self.z_mean.to(x) + x @ self.by_logits.to(x).mT
        z_whole = z_logits + self.shrinkage * self.rest(x + self.mean.to(x)) @ self.gamma.to(x).mT
        return like(z_whole, f), like(z_logits, f)

    def rest(self, f: Any) -> Any:
        """The number u of each white direction beyond the logits: (..., m) -> (..., d), no unit."""
        x = self._centred(f)
        return like(x @ self.white.to(x).mT, f)

    def _centred(self, f: Any) -> Tensor:
        x = as_tensor(f, name="f").to(torch.float64)
        require_width(x, len(self.mean), name="f")
        return x - self.mean.to(x)

    @classmethod
    def fit(
        cls,
        f: Any,
        z: Any,
        W: Any,
        *,
        held_out: float = 0.1,
        seed: int = 0,
        ridges: Sequence[float] = RIDGES,
    ) -> BeyondLogits:
        """Fit both maps on pairs (f, z), holding out the same rows as `Translator.fit`.

        Args:
            f: features, (N, m).
            z: embeddings, (N, n).
            W: head weight, (c, m).
            held_out: share of the rows that chooses the ridge and the shrinkage, between 0 and 1.
            seed: of the split.
            ridges: candidates, relative to the mean variance of a logit; 0 is least squares.

        Raises:
            NoNullSpaceError: if rank(W) = m: then the logits say all that f does.
            SingError: for rows that do not pair up, NaN, or fewer than 2 rows.
        """
        x, y = pairs(f, z)
        train, test = split_rows(len(x), held_out=held_out, seed=seed)
        offset = x[train].double().mean(0)  # sums of centred numbers lose nothing to a large mean
        fitter, judge = (TranslatorFitter(x.shape[1], y.shape[1], device=x.device) for _ in range(2))
        fitter.update(x[train].double() - offset, y[train])
        judge.update(x[test].double() - offset, y[test])
        found = cls.from_sums(fitter, judge, W, ridges=ridges)
        return replace(found, mean=found.mean + offset)

    @classmethod
    def from_sums(
        cls, fitter: TranslatorFitter, judge: TranslatorFitter, W: Any, *, ridges: Sequence[float] = RIDGES
    ) -> BeyondLogits:
        """The same from streamed sums: of the rows to fit, and of the rows that choose.

        Args:
            fitter: of the rows to fit.
            judge: of the rows set aside.
            W: head weight, (c, m).
            ridges: as in `fit`.
        """
        if not ridges or min(ridges) < 0:
            raise SingError(f"ridges are {list(ridges)}, expected numbers of at least 0.")
        spaces = HeadSpaces.from_weight(W)
        r, V_n = spaces.rank, spaces.null_basis.to(fitter.ff)
        # q = (V_p S)ᵀ (f - μ) are the logits about their mean in orthonormal coordinates: as long as they
        # are, and as many as the rank.
        logits = spaces.principal_basis.to(V_n) * spaces.singular_values[:r].to(V_n)  # (m, r)
        mu, z_mean = fitter.f_sum / fitter.n_rows, fitter.z_sum / fitter.n_rows
        ff, fz, _ = _moments(fitter, mu, z_mean)
        ff_new, fz_new, zz_new = _moments(judge, mu, z_mean)

        values, vectors = torch.linalg.eigh(logits.mT @ ff @ logits)  # of the logits' covariance
        kept = values > _NOTHING * values[-1]
        values, axes = values[kept], logits @ vectors[:, kept]  # (k,), (m, k)
        cross = axes.mT @ fz  # (k, n)
        seen, seen_z = axes.mT @ ff_new @ axes, axes.mT @ fz_new  # on the rows set aside
        unit = float(values.sum()) / len(spaces.weight)
        fits = [cross / (values + by * unit)[:, None] for by in ridges]  # ẑ = Cᵀ q, one C a ridge
        errors = [float(((seen @ C) * C).sum() - 2 * (C * seen_z).sum()) for C in fits]
        best = errors.index(min(errors))
        A = (axes @ fits[best]).mT  # (n, m)

        within = V_n.mT @ ff @ V_n
        known = (axes.mT @ ff @ V_n) / values[:, None]  # least squares of V_nᵀ f on the logits, (k, m - r)
        rest = V_n - axes @ known  # (m, m - r): the residual of V_nᵀ f
        spread, turn = torch.linalg.eigh(rest.mT @ ff @ rest)
        real = spread > _NOTHING * float(torch.linalg.eigvalsh(within)[-1])
        real &= fitter.n_rows > len(mu)  # fewer photos leave directions open, which only a basis would choose
        U = (rest @ (turn[:, real] / spread[real].sqrt())).mT  # (d, m)
        gamma = (U @ fz).mT  # (n, d): u is uncorrelated with ẑ, so z stands for z - ẑ

        G = gamma @ U  # (n, m)
        gain = float((G * fz_new.mT).sum() - ((G @ ff_new) * A).sum())  # of z - ẑ along Γ u
        size = float(((G @ ff_new) * G).sum())
        s = min(max(gain / size, 0.0), 1.0) if size > 0 else 0.0
        error = float(zz_new) + errors[best]
        shift = judge.z_sum / judge.n_rows - z_mean
        total = float(zz_new - shift.square().sum())  # about the mean of the rows set aside
        share = 1 / total if total > 0 else float("nan")
        return cls(
            mean=mu,
            z_mean=z_mean,
            by_logits=A.contiguous(),
            white=U.contiguous(),
            gamma=gamma.contiguous(),
            shrinkage=s,
            ridge=ridges[best] * unit,
            held_out_r2=1 - share * (error - 2 * s * gain + s**2 * size),
            held_out_r2_logits=1 - share * error,
            n_fit=fitter.n_rows,
        )

    def by_chance(
        self, f: Any, z: Any, *, draws: int, held_out: float = 0.1, seed: int = 0
    ) -> Iterator[BeyondLogits]:
        """The same fit in worlds where nothing is beyond the logits: what it finds there is its zero.

        Each world exchanges what the logits leave of the embeddings, z - ẑ, among photos. Γ and s are found
        anew; ẑ stays.

        Args:
            f, z, held_out, seed: as they were given to `fit`.
            draws: how many worlds.
        """
        x, y = pairs(f, z)
        train, test = split_rows(len(x), held_out=held_out, seed=seed)
        left = y.double() - self(x)[1]
        u, generator = self.rest(x), torch.Generator().manual_seed(seed)
        for _ in range(draws):
            drawn = [rows[torch.randperm(len(rows), generator=generator)] for rows in (train, test)]
            gamma = left[drawn[0]].mT @ u[train] / len(train)
            added, wanted = u[test] @ gamma.mT, left[drawn[1]]
            size = float(added.square().sum())
            s = float((added * wanted).sum()) / size if size > 0 else 0.0
            yield replace(self, gamma=gamma, shrinkage=min(max(s, 0.0), 1.0))

    def save(self, path: str | Path) -> None:
        """Write a safetensors file; the plain numbers stand in its header."""
        values = asdict(self)
        tensors = {k: v.contiguous() for k, v in values.items() if isinstance(v, Tensor)}
        numbers = {k: v for k, v in values.items() if k not in tensors}
        save_file(tensors, path, metadata={"numbers": json.dumps(numbers)})

    @classmethod
    def load(cls, path: str | Path) -> BeyondLogits:
        """Read what `save` wrote."""
        with safe_open(path, "pt") as tensors:
            numbers = json.loads(tensors.metadata()["numbers"])
            return cls(**{k: tensors.get_tensor(k) for k in tensors.keys()}, **numbers)  # noqa: SIM118


def _moments(sums: TranslatorFitter, mu: Tensor, z_mean: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Second moments about (μ, z_mean): of f, (m, m); of f and z, (m, n); and of z, the trace."""
    N, f_sum, z_sum = sums.n_rows, sums.f_sum, sums.z_sum
    ff = sums.ff - torch.outer(mu, f_sum) - torch.outer(f_sum, mu) + N * torch.outer(mu, mu)
    fz = sums.fz - torch.outer(mu, z_sum) - torch.outer(f_sum, z_mean) + N * torch.outer(mu, z_mean)
    zz = sums.zz - 2 * z_sum @ z_mean + N * z_mean @ z_mean
    return ff / N, fz / N, zz / N
