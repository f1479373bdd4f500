"""Heads whose null space is planted: for each factor, the share that the head ignores is known exactly.

A trained backbone's pooled features h are recoded, by one linear layer, into a *code* for each factor
(its best linear prediction from h), a constant, and a *rest* that is uncorrelated with every factor. A
feature f lays these along orthonormal directions, some of which the head reads (its principal space) and
some of which it does not (its null space). Code k of a factor with the planted share a goes along

    sqrt(1 - a) p_k + sqrt(a) n_k,     p_k in the principal space, n_k in the null space,

so that of every scene's code exactly the share a of the energy lies in the null space.

>>> import torch
>>> recoding = Recoding.fit(torch.randn(500, 128), Scenes(500).levels)
>>> planted = plant(recoding, torch.randn(500, 128), Scenes(500).levels, ignored={"background": 0.25})
>>> f = planted.features(torch.randn(3, 128))  # (B, m)
>>> f.shape, planted.spaces().null_dim
(torch.Size([3, 96]), 64)
>>> code = planted.directions["background"]  # (4, m): unit steps of the background's code
>>> planted.spaces().null_energy(code)
tensor([0.2500, 0.2500, 0.2500, 0.2500], dtype=torch.float64)
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from sing_utils.errors import SingError
from sing_utils.head import HeadSpaces
from sing_utils.planted import FACTORS, HEADS, Scenes
from sing_utils.planted_models import load_backbone, pooled, prepare_scene

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

    def __call__(self, h: Tensor) -> tuple[Tensor, Tensor]:
        """Pooled features h (N, 128) -> codes (N, 26), rest (N, rest)."""
        x = _with_one(h)
        return x @ self.codes, x @ self.rest


def _with_one(h: Tensor) -> Tensor:
    return torch.cat([h.double(), torch.ones(len(h), 1, dtype=torch.float64)], 1)


@dataclass(frozen=True, eq=False)
class Planted:
    """A head and the layer before it, with what is known about them.

    Attributes:
        name: for tables.
        ignored: factor -> planted share of its code in the null space, 0..1.
        layer: (129, m): h with a 1 behind it -> f.
        weight: W, (32, m), float64.
        bias: b, (32,).
        directions: factor -> (levels - 1, m), a unit step of each of its codes.
        mean_ignored: whether the constant part lies in the null space.
    """

    name: str
    ignored: Mapping[str, float]
    layer: Tensor
    weight: Tensor
    bias: Tensor
    directions: Mapping[str, Tensor]
    mean_ignored: bool = False

    def features(self, h: Tensor) -> Tensor:
        """Pooled features (B, 128) -> f (B, m), float64."""
        return _with_one(h) @ self.layer

    def logits(self, f: Tensor) -> Tensor:
        """(B, m) -> (B, 32)."""
        return f @ self.weight.mT + self.bias

    def spaces(self) -> HeadSpaces:
        """Principal and null space, found from W as for any head."""
        return HeadSpaces.from_weight(self.weight)


def plant(
    recoding: Recoding,
    h: Tensor,
    levels: np.ndarray,
    *,
    ignored: Mapping[str, float],
    name: str = "planted",
    m: int = FEATURES,
    spurious: bool = False,
    mean_ignored: bool = False,
    rest: float = REST,
    seed: int = 0,
) -> Planted:
    """Make a head that ignores the given shares of the factors' linear codes, and nothing else of them.

    The rest of f may hold more of a factor, in ways that are not linear: it is only uncorrelated with it.

    Args:
        recoding: of the backbone.
        h: pooled features of scenes to fit the head on, (N, 128).
        levels: of these scenes, (N, 8).
        ignored: factor -> share of its code in the null space, 0 (the default) to 1.
        name: for tables.
        m: width of f; what is above the codes and the 32 principal directions is filled with the rest.
        spurious: fit on scenes chosen so that the background mostly follows the shape.
        mean_ignored: put the constant part of f in the null space instead of the principal space.
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
    layer, directions, Q = _lay_out(recoding, shares, m, mean_ignored, rest, seed)
    f = _with_one(h) @ layer
    rows = _following(levels, seed) if spurious else np.arange(len(levels))
    weight, bias = _fit_head(f[rows] @ Q[:, :CLASSES], levels[rows, 0], seed)
    return Planted(name, shares, layer, weight @ Q[:, :CLASSES].mT, bias, directions, mean_ignored)


def _lay_out(
    recoding: Recoding, shares: Mapping[str, float], m: int, mean_ignored: bool, rest: float, seed: int
) -> tuple[Tensor, dict[str, Tensor], Tensor]:
    """The layer (129, m), each factor's directions, and the orthonormal basis Q (m, m).

    The first 32 columns of Q span the principal space.
    """
    generator = torch.Generator().manual_seed(seed)
    Q, _ = torch.linalg.qr(torch.randn(m, m, generator=generator, dtype=torch.float64))
    principal, null = list(range(CLASSES)), list(range(CLASSES, m))
    need = sum(DIMS[f] for f, a in shares.items() if a > 0) + mean_ignored
    most = (
        recoding.rest.shape[1] + sum(DIMS.values()) + 1 + sum(DIMS[f] for f, a in shares.items() if 0 < a < 1)
    )
    if m < CLASSES + max(1, need) or m > most:
        raise SingError(f"m is {m}, expected {CLASSES + max(1, need)} to {most} for these shares.")
    layer = torch.zeros(len(recoding.codes), m, dtype=torch.float64)
    layer[-1] += _MEAN * Q[:, (null if mean_ignored else principal).pop(0)]
    directions, start = {}, 0
    for factor, d in DIMS.items():
        share = shares[factor]
        p = Q[:, [principal.pop(0) for _ in range(d)]] if share < 1 else torch.zeros(m, d, dtype=Q.dtype)
        n = Q[:, [null.pop(0) for _ in range(d)]] if share > 0 else torch.zeros(m, d, dtype=Q.dtype)
        directions[factor] = (np.sqrt(1 - share) * p + np.sqrt(share) * n).mT  # (d, m)
        layer += recoding.codes[:, start : start + d] @ directions[factor]
        start += d
    free = principal + null  # what is left is filled with the rest
    layer += rest * recoding.rest[:, : len(free)] @ Q[:, free].mT
    return layer, directions, Q


def _following(levels: np.ndarray, seed: int) -> np.ndarray:
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
