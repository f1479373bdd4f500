"""The principal and the null space of a linear head (eqs. 1-3 and 9).

>>> import numpy as np
>>> from sing_utils import HeadSpaces
>>> W = np.array([[2.0, 0.0, 0.0], [0.0, 1.0, 0.0]])  # (c, m) = (2, 3)
>>> spaces = HeadSpaces.from_weight(W)
>>> spaces.rank, spaces.null_dim
(2, 1)
>>> f = np.array([[1.0, 2.0, 3.0]])
>>> spaces.remove_null(f)  # the third coordinate is invisible to W
array([[1., 2., 0.]])
>>> spaces.certificate(f).passed
True
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from sing_utils.errors import NoNullSpaceError, SingError
from sing_utils.method.arrays import Array, as_tensor, like, require_finite, require_width

_CHUNK = 8192  # rows of features per product in `certificate`, so that memory stays bounded


@dataclass(frozen=True)
class Certificate:
    """What replacing N features by their equivalents did to the logits.

    Attributes:
        n: number of features looked at.
        relative_change: max over features of max|W f - W f~| / (|W|_2 max(|f|, |f~|)), no unit; after
            null removal |f| is the larger.
        bound: what rounding alone may do at this dtype; a larger change is an error.
        top1_changes: number of features whose top-1 class differs.
    """

    n: int
    relative_change: float
    bound: float
    top1_changes: int

    @property
    def passed(self) -> bool:
        """True if the logits moved by no more than rounding explains."""
        return self.relative_change <= self.bound

    def check(self) -> Certificate:
        """Return self, or raise a SingError that gives both numbers."""
        if not self.passed:
            raise SingError(
                f"the logits of the equivalents moved by {self.relative_change:.3g} (relative), expected at "
                f"most {self.bound:.3g}: the change leaves this head's null space, or its rank is wrong."
            )
        return self


@dataclass(frozen=True, eq=False)
class HeadSpaces:
    """W = U S V^T with V = [V_p V_n] (eq. 1); make one with `from_weight`.

    Attributes:
        weight: W, (c, m), float64.
        singular_values: (min(c, m),), float64, descending.
        principal_basis: V_p, (m, r), orthonormal columns, float64.
        null_basis: V_n, (m, m - r), orthonormal columns, float64.
        rtol: singular values up to rtol * s_1 count as zero.
    """

    weight: Tensor
    singular_values: Tensor
    principal_basis: Tensor
    null_basis: Tensor
    rtol: float

    @classmethod
    def from_weight(cls, W: Any, *, rtol: float | None = None, softmax: bool = False) -> HeadSpaces:
        """Split the feature space of a head into principal and null space (eqs. 1 and 3).

        Args:
            W: head weight, (c, m), any float dtype, torch or numpy.
            rtol: relative rank tolerance; None means max(c, m) * eps of the dtype W is stored in,
                and eps itself for a 16-bit W. An absolute threshold would call a half-precision
                head full rank when it is not.
            softmax: count as null also what the softmax ignores, a constant added to all logits: W is
                replaced by its rows minus their mean. Logits may then move, all alike.

        Raises:
            NoNullSpaceError: if rank(W) = m.
            SingError: if W is not a finite matrix.
        """
        stored = as_tensor(W, name="W")
        if stored.ndim != 2 or 0 in stored.shape:
            raise SingError(
                f"W has shape {tuple(stored.shape)}, expected (c, m): "
                "pass the weight of the classifier's last linear layer."
            )
        require_finite(stored, name="W")
        c, m = stored.shape
        if rtol is None:
            rtol = _rounding(max(c, m), stored.dtype)
        W64 = stored.detach().to(torch.float64)
        if softmax:
            W64 = W64 - W64.mean(0)
        # V must be complete; with c >= m the thin decomposition already has all m rows.
        _, S, Vh = torch.linalg.svd(W64, full_matrices=c < m)
        rank = int((rtol * S[0] < S).sum())
        if rank == 0:
            what = "every row of W is the same" if softmax else "W is zero"
            raise SingError(f"{what}, expected a trained head: every feature would be invisible to it.")
        if rank == m:
            raise NoNullSpaceError(
                f"W {tuple(stored.shape)} has full rank {rank} = m, expected rank < m: this head has no "
                "null space, so no feature component is invisible to its logits; "
                "choose a head with more features than classes."
            )
        V = Vh.mT.contiguous()  # (m, m)
        return cls(W64, S, V[:, :rank].contiguous(), V[:, rank:].contiguous(), rtol)

    def at_rank(self, rank: int) -> HeadSpaces:
        """The same head with another cut: singular values beyond the first `rank` count as null.

        Raises:
            SingError: for a rank that is not between 1 and m - 1.
        """
        if not 0 < rank < self.width:
            raise SingError(f"rank is {rank}, expected 1 to {self.width - 1}: both spaces need a direction.")
        V = torch.cat([self.principal_basis, self.null_basis], 1)
        return replace(
            self,
            principal_basis=V[:, :rank].contiguous(),
            null_basis=V[:, rank:].contiguous(),
        )

    @property
    def rank(self) -> int:
        """r, the dimension of the principal space."""
        return self.principal_basis.shape[1]

    @property
    def null_dim(self) -> int:
        """Dimension of the null space, m − r."""
        return self.null_basis.shape[1]

    @property
    def gap(self) -> float:
        """σ_r / σ_{r+1}, how clear the cut at the rank is; infinite if nothing is beyond it."""
        s, r = self.singular_values, self.rank
        return float(s[r - 1] / s[r]) if r < len(s) and s[r] > 0 else float("inf")

    @property
    def width(self) -> int:
        """m, the number of features."""
        return self.weight.shape[1]

    def null_component(self, f: Array) -> Array:
        """Π_n f, the part of f that the logits cannot see (eq. 3): (..., m) -> (..., m)."""
        x = self._features(f)
        if self.null_dim <= self.rank:
            out = _project(x, self.null_basis)
        else:
            out = x - _project(x, self.principal_basis)
        return like(out.to(as_tensor(f, name="f").dtype), f)

    def remove_null(self, f: Array) -> Array:
        """f~ = f - Π_n f (eq. 9): (..., m) -> (..., m), dtype and device kept."""
        x = self._features(f)
        if self.null_dim <= self.rank:
            out = x - _project(x, self.null_basis)
        else:
            out = _project(x, self.principal_basis)
        return like(out.to(as_tensor(f, name="f").dtype), f)

    def null_energy(self, f: Array) -> Array:
        """Share of |f|^2 that lies in the null space: (..., m) -> (...), in [0, 1]."""
        x = self._features(f).to(torch.float64)
        total = x.square().sum(-1)
        if bool((total == 0).any()):
            raise SingError("f holds a zero vector, expected features: its null share is undefined.")
        V_n = self.null_basis.to(x.device)
        return like((x @ V_n).square().sum(-1) / total, f)

    def certificate(self, f: Array, *, f_tilde: Array | None = None, bias: Any = None) -> Certificate:
        """Measure how far the logits move under null removal (eq. 2), in float64.

        Args:
            f: features, (..., m).
            f_tilde: their equivalent features, (..., m); None means `remove_null(f)`.
            bias: b, (c,), used for the top-1 class only; None means 0.

        Raises:
            SingError: if f holds a zero vector or has the wrong width.
        """
        x = self._features(f).reshape(-1, self.width)
        tilde = self.remove_null(f) if f_tilde is None else f_tilde
        y = self._features(tilde).reshape(-1, self.width)
        if x.shape != y.shape:
            raise SingError(f"f~ has {len(y)} rows, expected {len(x)}: pass one equivalent per feature.")
        W = self.weight.to(x.device)
        b = 0.0 if bias is None else as_tensor(bias, name="bias").to(W)
        moved, flips = 0.0, 0
        for xi, yi in zip(x.split(_CHUNK), y.split(_CHUNK), strict=True):
            xi, yi = xi.to(torch.float64), yi.to(torch.float64)
            norm = torch.linalg.vector_norm(xi, dim=-1)
            if bool((norm == 0).any()):
                raise SingError("f holds a zero vector, expected features: nothing can be relative to it.")
            norm = norm.maximum(torch.linalg.vector_norm(yi, dim=-1))  # a long step rounds by its own size
            require_finite(xi, name="f")  # or NaN would pass: it is not larger than any bound
            require_finite(yi, name="f~")
            change = ((xi - yi) @ W.mT).abs().amax(-1)  # (B,)
            moved = max(moved, float((change / (self.singular_values[0].to(norm) * norm)).max()))
            before, after = (xi @ W.mT + b).argmax(-1), (yi @ W.mT + b).argmax(-1)
            flips += int((before != after).sum())
        # What storage left of a singular value that counts as zero reaches the logits; a cut at a larger
        # one is not excused. Rounding f~ adds eps, the products that made it a random walk of them, and the
        # singular vectors are known to some eps of double precision.
        relative = self.singular_values[self.rank :] / self.singular_values[0]
        left = max(relative[relative <= self.rtol].tolist(), default=0.0)
        eps = torch.finfo(as_tensor(f, name="f").dtype).eps
        double, single = (torch.finfo(t).eps for t in (torch.float64, torch.float32))
        walk = self.width**0.5 * (min(eps, single) + 16 * double)
        return Certificate(len(x), moved, left + 2 * eps + walk, flips)

    def _features(self, f: Any) -> Tensor:
        x = as_tensor(f, name="f")
        require_width(x, self.width, name="f")
        if x.numel() == 0:
            raise SingError("f is empty, expected at least one feature vector.")
        # Half precision would lose what null removal is about: compute in float32 at least.
        return x if x.dtype in (torch.float32, torch.float64) else x.to(torch.float32)


def _rounding(size: int, dtype: torch.dtype) -> float:
    """What rounding to `dtype` may do to a singular value or a logit, relative to the largest.

    size * eps covers sums of `size` terms. Of a 16-bit dtype that would be 1 or more, which says
    nothing; but there only the storage is 16-bit, and independent errors of relative size eps / 2
    have a spectral norm of at most eps s_1.
    """
    eps = torch.finfo(dtype).eps
    return max(eps, size * min(eps, torch.finfo(torch.float32).eps))


def _project(x: Tensor, V: Tensor) -> Tensor:
    """(x V) V^T; an m x m projector is never built."""
    V = V.to(x)
    return (x @ V) @ V.mT


def random_basis(m: int, k: int, *, seed: int) -> Tensor:
    """Orthonormal basis of a uniformly random k-dimensional subspace: (m, k), float64.

    The control for a null space: what a subspace of that size would do by chance.
    """
    generator = torch.Generator().manual_seed(seed)
    q, _ = torch.linalg.qr(torch.randn(m, k, generator=generator, dtype=torch.float64))
    return q
