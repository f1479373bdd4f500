"""Heads whose null space is planted: for each factor, the share that the logits cannot say is known.

A trained backbone's pooled features h are recoded, by one linear layer, into a *code* for each factor
(its best linear prediction from h), a constant, and a *rest* that is uncorrelated with every factor. A
feature f lays these along orthonormal directions, some of which the head reads (its principal space) and
some of which it does not (its null space). Of a factor with the planted share a there are two copies:

    sqrt(1 - a) code + sqrt(a) noise    in the principal space,
    sqrt(a) code                        in the null space.

The noise is a part of the rest, so it too follows from the picture. It lies nowhere else in f, and spreads
as the code does. So the share a of the code's variance is what no map of the logits gives back linearly:

    a = 1 - R²(code | logits).

This is no matter of the basis: `Planted.rewritten` writes the same network in any other.

>>> import torch
>>> h, levels = torch.randn(500, 128), Scenes(500).levels
>>> recoding = Recoding.fit(h, levels)
>>> planted = plant(recoding, h, levels, ignored={"background": 0.25})
>>> f = planted.features(h)  # (B, m)
>>> f.shape, planted.spaces().null_dim
(torch.Size([500, 96]), 64)
>>> share = unread(recoding.codes_of(h), planted.logits(f))
>>> abs(share["background"] - 0.25) < 0.05, share["shape"] < 1e-9
(True, True)
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import cache

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from sing_utils.errors import SingError
from sing_utils.method.head import HeadSpaces
from sing_utils.planted.networks import load_backbone, pooled, prepare_scene
from sing_utils.planted.scenes import BASES, FACTORS, GIVEN, HEADS, Scenes

CLASSES = 32  # c: ten shapes, and outputs for things that no scene is labelled with
OTHERS = CLASSES - len(FACTORS["shape"])
FEATURES = 96  # m
_MEAN = 2.0  # length of the constant part; each factor's code has about unit variance
REST = 0.1  # standard deviation of each direction of the rest
_SPURIOUS = 0.9  # how often the background follows the shape where it is made to


def contrasts(levels: np.ndarray) -> Tensor:
    """Each factor's levels as a centred simplex of unit variance: (N, 8) -> (N, 26), float64."""
    parts = []
    for k, names in enumerate(FACTORS.values()):
        n = len(names)
        centred = np.eye(n) - 1 / n
        basis = np.linalg.svd(centred)[2][: n - 1]  # (n - 1, n): an orthonormal basis of the contrasts
        simplex = centred @ basis.T * np.sqrt(n / (n - 1))  # (n, n - 1), mean square row 1
        parts.append(simplex[levels[:, k]])
    return torch.from_numpy(np.concatenate(parts, axis=1))


DIMS = {f: len(v) - 1 for f, v in FACTORS.items()}  # of each factor's code


@dataclass(frozen=True, eq=False)
class Recoding:
    """h -> codes and rest, affine: codes = h A + a, rest = h B + b.

    Attributes:
        codes: A with a as its last row, (129, 26).
        rest: B with b as its last row, (129, rest).
    """

    codes: Tensor
    rest: Tensor

    @classmethod
    def fit(cls, h: Tensor, levels: np.ndarray) -> Recoding:
        """Least squares of the factors on h, and what of h is uncorrelated with them, whitened.

        Args:
            h: pooled features, (N, 128).
            levels: of the same scenes, (N, 8).
        """
        x = _with_one(h)  # (N, 129)
        codes = torch.linalg.lstsq(x, contrasts(levels), driver="gelsd").solution  # (129, 26)
        u = _with_one(x @ codes)
        back = torch.linalg.lstsq(u, x, driver="gelsd").solution  # (27, 129): what the codes say of h
        # residual = x - [x codes, 1] back, again affine in h
        onward = torch.cat([codes, torch.zeros(len(codes), 1, dtype=codes.dtype)], 1)
        onward[-1, -1] = 1.0  # the 1 of u is the 1 of x
        residual = torch.eye(x.shape[1], dtype=x.dtype) - onward @ back  # (129, 129)
        e = x @ residual
        values, vectors = torch.linalg.eigh(e.mT @ e / len(e))
        kept = values > 1e-6 * values[-1]
        whiten = (vectors[:, kept] / values[kept].sqrt()).flip(1)  # largest first
        return cls(codes, residual @ whiten)

    def codes_of(self, h: Tensor) -> dict[str, Tensor]:
        """Factor -> its code: (N, 128) -> (N, levels - 1)."""
        codes = _with_one(h) @ self.codes
        return dict(zip(DIMS, codes.split(list(DIMS.values()), dim=1), strict=True))


def _with_one(h: Tensor) -> Tensor:
    return torch.cat([h.double(), torch.ones(len(h), 1, dtype=torch.float64)], 1)


def unread(
    codes: Mapping[str, Tensor], logits: Tensor, *, new: tuple[Mapping[str, Tensor], Tensor] | None = None
) -> dict[str, float]:
    """Factor -> 1 - R²(code | logits): the share of a code that least squares on the logits does not give.

    Args:
        codes: of `Recoding.codes_of`, (N, levels - 1) each.
        logits: of the same scenes, (N, c).
        new: codes and logits of other scenes to judge on; None: those that it was fitted on.
    """
    A = torch.linalg.lstsq(_with_one(logits), torch.cat([*codes.values()], 1), driver="gelsd").solution
    judged, logits = new or (codes, logits)
    guessed = (_with_one(logits) @ A).split([c.shape[1] for c in codes.values()], dim=1)
    return {
        factor: float((code - guess).square().sum() / (code - code.mean(0)).square().sum())
        for (factor, code), guess in zip(judged.items(), guessed, strict=True)
    }


@dataclass(frozen=True, eq=False)
class Planted:
    """A head and the layer before it, with what is known about them.

    Attributes:
        name: for tables.
        ignored: factor -> planted share of its code that the logits do not say, 0..1.
        layer: (129, m): h with a 1 behind it -> f.
        weight: W, (32, m), float64.
        bias: b, (32,).
    """

    name: str
    ignored: Mapping[str, float]
    layer: Tensor
    weight: Tensor
    bias: Tensor

    def features(self, h: Tensor) -> Tensor:
        """Pooled features (B, 128) -> f (B, m), float64."""
        return _with_one(h) @ self.layer

    def logits(self, f: Tensor) -> Tensor:
        """(B, m) -> (B, 32)."""
        return f @ self.weight.mT + self.bias

    def spaces(self) -> HeadSpaces:
        """Principal and null space, found from W as for any head."""
        return HeadSpaces.from_weight(self.weight)

    def rewritten(self, M: Tensor, shift: Tensor | None = None) -> Planted:
        """The same network with the features M f + shift: every logit of every picture stays.

        Args:
            M: invertible, (m, m).
            shift: (m,); None: 0.
        """
        layer, weight = self.layer @ M.mT, torch.linalg.solve(M, self.weight, left=False)
        if shift is None:
            return replace(self, layer=layer, weight=weight)
        layer[-1] += shift
        return replace(self, layer=layer, weight=weight, bias=self.bias - weight @ shift)


CONDITION = 10.0  # of a stretch: the largest factor by the smallest


def basis(name: str, head: Planted, h: Tensor, *, seed: int = 0) -> Tensor:
    """M of one of `BASES`, for `Planted.rewritten`: (m, m).

    "null part freed" takes from the null part what the logits say of it by least squares. "features
    stretched" multiplies each entry of f by a factor of its own, from 1 to 10; "features mixed" does so in
    random directions.

    Args:
        name: of the basis.
        head: to be written in it.
        h: pooled features of scenes to free the null part on, (N, 128).
        seed: of what is random.

    Raises:
        SingError: for an unknown name.
    """
    m = head.layer.shape[1]
    one, generator = torch.eye(m, dtype=torch.float64), torch.Generator().manual_seed(seed)
    factors = torch.logspace(0, math.log10(CONDITION), m, dtype=torch.float64)
    stretch = factors[torch.randperm(m, generator=generator)].diag()
    V_p, V_n = head.spaces().principal_basis, head.spaces().null_basis
    if name == GIVEN:
        return one
    if name == "null part × 3":
        return one + 2 * V_n @ V_n.mT
    if name == "null part freed":
        f = head.features(h)
        f = f - f.mean(0)
        said = torch.linalg.lstsq(f @ V_p, f @ V_n, driver="gelsd").solution  # (r, m - r)
        return one - V_n @ said.mT @ V_p.mT
    if name == "features stretched":
        return stretch
    if name == "features mixed":
        left, right = (torch.linalg.qr(torch.randn(m, m, generator=generator).double())[0] for _ in "ab")
        return left @ stretch @ right
    raise SingError(f"there is no basis {name!r}, expected one of {', '.join(BASES)}.")


def plant(
    recoding: Recoding,
    h: Tensor,
    levels: np.ndarray,
    *,
    ignored: Mapping[str, float],
    name: str = "planted",
    m: int = FEATURES,
    spurious: bool = False,
    rest: float = REST,
    seed: int = 0,
) -> Planted:
    """Make a head whose logits lack the given shares of the factors' linear codes, and nothing else of them.

    The rest of f may hold more of a factor, in ways that are not linear: it is only uncorrelated with it.

    Args:
        recoding: of the backbone.
        h: pooled features of scenes to fit the head on, (N, 128).
        levels: of these scenes, (N, 8).
        ignored: factor -> share of its code that the logits do not say, 0 (the default) to 1.
        name: for tables.
        m: width of f; what is above the codes and the 32 principal directions is filled with the rest.
        spurious: fit on scenes chosen so that the background mostly follows the shape.
        rest: standard deviation of each direction of the rest; a factor's code has about 1 in all.
        seed: of the directions and of the outputs for other things.

    Raises:
        SingError: for an unknown factor, a share outside 0..1, or an m that is too small or too large.
    """
    for factor, share in ignored.items():
        if factor not in FACTORS or not 0 <= share <= 1:
            raise SingError(
                f"ignored[{factor!r}] is {share}, expected one of {', '.join(FACTORS)} and a share between "
                "0 and 1."
            )
    shares = {f: float(ignored.get(f, 0.0)) for f in FACTORS}
    layer, Q = _lay_out(recoding, h, shares, m, rest, seed)
    f = _with_one(h) @ layer
    rows = following(levels, seed) if spurious else np.arange(len(levels))
    weight, bias = _fit_head(f[rows] @ Q[:, :CLASSES], levels[rows, 0], seed)
    return Planted(name, shares, layer, weight @ Q[:, :CLASSES].mT, bias)


def _lay_out(
    recoding: Recoding, h: Tensor, shares: Mapping[str, float], m: int, rest: float, seed: int
) -> tuple[Tensor, Tensor]:
    """The layer (129, m), and the orthonormal basis Q (m, m), whose first 32 columns the head reads."""
    generator = torch.Generator().manual_seed(seed)
    Q, _ = torch.linalg.qr(torch.randn(m, m, generator=generator, dtype=torch.float64))
    principal, null = list(range(CLASSES)), list(range(CLASSES, m))
    need = sum(DIMS[f] for f, a in shares.items() if a > 0)
    least, rests = CLASSES + max(1, need), m - 1 - sum(DIMS.values())  # of the rest, noise included
    if m < least or rests > recoding.rest.shape[1]:
        most = recoding.rest.shape[1] + 1 + sum(DIMS.values())
        raise SingError(f"m is {m}, expected {least} to {most} for these shares.")
    rest_of = list(recoding.rest[:, :rests].mT)  # the last ones become noise, the others fill f
    layer = torch.zeros(len(recoding.codes), m, dtype=torch.float64)
    layer[-1] += _MEAN * Q[:, principal.pop(0)]
    maps = recoding.codes.split(list(DIMS.values()), dim=1)  # (129, d) each
    for code, (factor, seen) in zip(maps, recoding.codes_of(h).items(), strict=True):
        share, d = shares[factor], code.shape[1]
        if share < 1:
            read = np.sqrt(1 - share) * code
            if share > 0:
                spread = torch.linalg.cholesky(seen.mT.cov(correction=0).reshape(d, d))
                read = read + np.sqrt(share) * torch.stack([rest_of.pop() for _ in range(d)], 1) @ spread.mT
            layer += read @ Q[:, [principal.pop(0) for _ in range(d)]].mT
        if share > 0:
            layer += np.sqrt(share) * code @ Q[:, [null.pop(0) for _ in range(d)]].mT
    layer += rest * torch.stack(rest_of, 1) @ Q[:, principal + null].mT  # fills what is left
    return layer, Q


def following(levels: np.ndarray, seed: int) -> np.ndarray:
    """Rows chosen so that nine in ten have the background that goes with their shape."""
    follows = levels[:, list(FACTORS).index("background")] == levels[:, 0] % len(FACTORS["background"])
    rng = np.random.default_rng(seed)
    own, others = np.flatnonzero(follows), np.flatnonzero(~follows)
    kept = rng.permutation(others)[: round(len(own) * (1 - _SPURIOUS) / _SPURIOUS)]
    return np.sort(np.concatenate([own, kept]))


def _fit_head(x: Tensor, shape: np.ndarray, seed: int) -> tuple[Tensor, Tensor]:
    """Least squares for the shapes' outputs; outputs of other things read random principal directions."""
    # The ridge matters where rows are few: the spurious head's.
    targets = torch.eye(len(FACTORS["shape"]), dtype=torch.float64)[shape]
    own = torch.linalg.solve(x.mT @ x + 1e-3 * len(x) * torch.eye(x.shape[1]).double(), x.mT @ targets).mT
    generator = torch.Generator().manual_seed(seed + 1)
    other, _ = torch.linalg.qr(torch.randn(x.shape[1], OTHERS, generator=generator, dtype=torch.float64))
    weight = torch.cat([own, 0.5 * own.norm(dim=1).mean() * other.mT])  # (32, 32)
    bias = torch.cat([torch.zeros(len(own)), torch.full((OTHERS,), -5.0)]).double()  # never the largest
    return weight, bias


# ------------------------------------------------------------------- as a classifier of pictures

_FIT_SCENES = 3000


class SceneClassifier(nn.Module):
    """A backbone, the recoding layer, and a planted head: scenes (B, 3, 48, 48) -> logits (B, 32)."""

    def __init__(self, backbone: nn.Module, planted: Planted) -> None:
        super().__init__()
        self.backbone = backbone
        self.recode = nn.Linear(len(planted.layer) - 1, planted.layer.shape[1])
        self.head = nn.Linear(planted.layer.shape[1], CLASSES)
        for linear, weight, bias in (
            (self.recode, planted.layer[:-1].mT, planted.layer[-1]),
            (self.head, planted.weight, planted.bias),
        ):
            linear.weight.data.copy_(weight)
            linear.bias.data.copy_(bias)
        self.labels = (*FACTORS["shape"], *(f"other thing {i + 1}" for i in range(OTHERS)))

    def forward(self, images: Tensor) -> Tensor:
        """(B, 3, 48, 48) -> (B, 32)."""
        return self.head(self.recode(self.backbone(images)))


@cache
def _fit_sample() -> tuple[Tensor, np.ndarray]:
    """Pooled features and levels of the scenes that the book's heads are fitted on."""
    scenes = Scenes(_FIT_SCENES, seed=42)
    return pooled(load_backbone(0), scenes.pictures()), scenes.levels


def build_classifier(name: str) -> tuple[SceneClassifier, Callable[[Image.Image], Tensor]]:
    """The network and transform of one of `HEADS`, on the first backbone; the head is fitted here.

    Raises:
        SingError: for an unknown head.
    """
    if name not in HEADS:
        raise SingError(f"there is no planted head {name!r}, expected one of {', '.join(HEADS)}.")
    h, levels = _fit_sample()
    seed = int(hashlib.sha256(name.encode()).hexdigest()[:6], 16)
    planted = plant(Recoding.fit(h, levels), h, levels, name=name, seed=seed, **HEADS[name])
    return SceneClassifier(load_backbone(0), planted).eval(), prepare_scene
