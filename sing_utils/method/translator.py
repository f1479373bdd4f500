"""The translator T, a linear map from features to the encoder's image embeddings (eq. 4).

T has no bias, so that T(f + v) = T(f) + T(v) for every f and v. An imported translator may bring one
(`Translator.from_checkpoint`); it is kept apart, and used only where a call asks for it.

    >>> import torch
    >>> from sing_utils import Translator
    >>> f = torch.randn(500, 8, generator=torch.Generator().manual_seed(0))
    >>> true = torch.arange(24.0).reshape(3, 8)  # (n, m)
    >>> T = Translator.fit(f, f @ true.mT, method="ridge")
    >>> T(f[:2]).shape
    torch.Size([2, 3])
    >>> round(T.report.held_out_cosine, 4)
    1.0
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import cache
from pathlib import Path
from typing import Any, Literal

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from sing_utils.errors import SingError
from sing_utils.method.adamw import fit_adamw
from sing_utils.method.arrays import as_tensor, like, require_finite, require_width
from sing_utils.method.head import HeadSpaces

# Candidate ridges, relative to the mean squared feature entry.
RIDGES = tuple(10.0 ** (k / 2) for k in range(-12, 5))
_BLOCK = 512  # columns of F^T F at once: it is symmetric, so what is above the blocks need not be computed


@dataclass(frozen=True)
class FitReport:
    """How a translator was fitted and how well it does on rows that it never saw.

    Attributes:
        method: "ridge" or "adamw".
        ridge: lambda of eq. 4 on the mean squared error (0 for adamw, whose weight decay is
            decoupled).
        loss: what was minimised.
        n_fit, n_held_out: number of rows.
        held_out_cosine: mean cosine of T f to z on held-out rows.
        held_out_r2: 1 - residual / total sum of squares about the mean, over held-out rows.
        history: tidy rows (epoch, split, mse, cosine) of an iterative fit.
        held_out, seed: what `split_rows` needs to give the same split again.
    """

    method: str
    ridge: float
    loss: str
    n_fit: int
    n_held_out: int
    held_out_cosine: float
    held_out_r2: float
    history: tuple[dict[str, Any], ...] = field(default=(), repr=False)
    held_out: float = 0.1
    seed: int = 0


@dataclass(frozen=True, eq=False)
class Translator:
    """A fitted linear map; call it on features.

    Attributes:
        weight: T, (n, m).
        report: how it was fitted; None for a map that was not fitted here.
        meta: free text pairs kept in the file, such as classifier and encoder.
        bias: (n,), of an imported affine map; None for the paper's. The scores are those of T f without
            it, unless said otherwise: with it T(f + v) is not T(f) + T(v), and IS and AS come out
            different, since they are angles seen from another origin.
    """

    weight: Tensor
    report: FitReport | None = None
    meta: dict[str, str] = field(default_factory=dict)
    bias: Tensor | None = None

    def __call__(self, f: Any, *, with_bias: bool = False) -> Any:
        """T f: (..., m) -> (..., n), in the dtype and on the device of f.

        Args:
            f: features, (..., m).
            with_bias: add the imported bias: T f + bias.

        Raises:
            SingError: for features of another width, or `with_bias` where there is no bias.
        """
        x = as_tensor(f, name="f")
        require_width(x, self.weight.shape[1], name="f")
        z = x @ self.weight.to(x).mT  # (..., n)
        if with_bias:
            if self.bias is None:
                raise SingError("this translator has no bias to add, as the paper's: leave with_bias out.")
            z = z + self.bias.to(x)
        return like(z, f)

    def after_null_removal(self, spaces: HeadSpaces) -> Translator:
        """T Π_p, so that T f~ of a whole data set is one product with f; a bias stays as it is.

        Args:
            spaces: of the head whose features T translates.
        """
        V_n = spaces.null_basis.to(self.weight)
        return replace(self, weight=self.weight - (self.weight @ V_n) @ V_n.mT)  # (n, m)

    @classmethod
    def fit(
        cls,
        f: Any,
        z: Any,
        *,
        method: Literal["ridge", "adamw"] = "ridge",
        held_out: float = 0.1,
        seed: int = 0,
        meta: dict[str, str] | None = None,
        **options: Any,
    ) -> Translator:
        """Fit T on pairs (f, z), holding out a random share to choose and to report with.

        Args:
            f: features, (N, m).
            z: embeddings, (N, n).
            method: "ridge", the exact minimiser of eq. 4; or "adamw", the paper's procedure
                (appendix B): two bias-free linear layers, folded into one map afterwards.
            held_out: share of the rows, between 0 and 1, at least one row.
            seed: of the split, and of adamw's initialisation and batches.
            meta: kept with the translator.
            options: of `ridge`: `ridges` (candidates relative to the mean squared feature entry).
                Of `adamw`: see `fit_adamw`.

        Raises:
            SingError: for fewer than 2 rows, rows that do not pair up, NaN, or an unknown method.
        """
        x, y = pairs(f, z)
        train, test = (rows.to(x.device) for rows in split_rows(len(x), held_out=held_out, seed=seed))
        parts = (x[train], y[train], x[test], y[test])
        if method == "ridge":
            weight, details = _fit_ridge(*parts, **options)
        elif method == "adamw":
            weight, details = fit_adamw(*parts, seed=seed, **options)
        else:
            raise SingError(f"method {method!r} is unknown, expected 'ridge' or 'adamw'.")
        score = quality(parts[2] @ weight.to(x).mT, parts[3])
        report = FitReport(
            method=method,
            n_fit=len(train),
            n_held_out=len(test),
            held_out_cosine=score.cosine,
            held_out_r2=score.r2,
            held_out=held_out,
            seed=seed,
            **details,
        )
        return cls(weight, report, dict(meta or {}))

    def save(self, path: str | Path) -> None:
        """Write a safetensors file with the report and meta in its header."""
        text = dict(self.meta)
        if self.report is not None:
            text["report"] = json.dumps(asdict(self.report))
        tensors = {"weight": self.weight.contiguous()}
        if self.bias is not None:
            tensors["bias"] = self.bias.contiguous()
        save_file(tensors, path, metadata={"format": "sing", **text})

    @classmethod
    def load(cls, path: str | Path) -> Translator:
        """Read what `save` wrote.

        Raises:
            SingError: if the file is missing, cut short, or no translator.
        """
        try:
            with safe_open(path, "pt") as tensors:
                meta = dict(tensors.metadata() or {})
                weight = tensors.get_tensor("weight")
                bias = tensors.get_tensor("bias") if "bias" in tensors.keys() else None  # noqa: SIM118
            if meta.pop("format", "") != "sing" or weight.ndim != 2:
                raise KeyError("format")
            if bias is not None and bias.shape != weight.shape[:1]:
                raise KeyError("bias")
        except (OSError, SafetensorError, KeyError) as error:
            raise SingError(
                f"{path} is no translator ({type(error).__name__}), expected a file written by "
                "Translator.save: fit it again."
            ) from None
        report = json.loads(meta.pop("report", "null"))
        if report is not None:
            report["history"] = tuple(report["history"])
            report = FitReport(**report)
        return cls(weight, report, meta, bias)

    @classmethod
    def from_checkpoint(cls, path: str | Path, *, m: int | None = None, n: int | None = None) -> Translator:
        """Import a translator of the authors' public code: `best.pt` beside its `metadata.yaml`.

        That code has one affine layer, T f + bias, where the paper has a linear map. The bias is kept
        apart in `bias`, its norm in `meta["bias norm"]`; calls leave it out, as the paper's scores do.

        Args:
            path: file with `weight` (n, m) and perhaps `bias` (n,), written by torch.save or as
                safetensors; no code in it is ever run.
            m: expected width of the features, such as the classifier's; None: any.
            n: expected width of the embeddings, such as the encoder's; None: any.

        Raises:
            SingError: for a missing or damaged file, one that holds anything else or would need pickled
                code, and widths that fit neither m and n nor the metadata.
        """
        from sing_utils.method.checkpoints import read_checkpoint

        weight, bias, meta = read_checkpoint(Path(path), m=m, n=n)
        return cls(weight, None, meta, bias)


def split_rows(n_rows: int, *, held_out: float, seed: int) -> tuple[Tensor, Tensor]:
    """The row numbers that `Translator.fit` fits on, and those that it holds out.

    Args:
        n_rows: N, at least 2.
        held_out: share of the rows, between 0 and 1, at least one row and not all.
        seed: of the split.

    Raises:
        SingError: for a share that is not between 0 and 1.

    >>> fit, test = split_rows(10, held_out=0.2, seed=0)
    >>> len(fit), len(test)
    (8, 2)
    """
    if not 0 < held_out < 1:
        raise SingError(f"held_out is {held_out}, expected a share between 0 and 1, such as 0.1.")
    order = torch.randperm(n_rows, generator=torch.Generator().manual_seed(seed))
    cut = min(max(1, round(held_out * n_rows)), n_rows - 1)
    return order[cut:], order[:cut]


# ----------------------------------------------------------------------------- closed form


class TranslatorFitter:
    """Streaming closed-form fit: the sums n, F, Z, F^T F, F^T Z and |Z|^2 add up over batches.

    Memory is O(m^2 + m n), whatever N. k fitters merged give what one gives.

    >>> fitter = TranslatorFitter(2, 1)
    >>> fitter.update(torch.eye(2), torch.tensor([[1.0], [2.0]]))
    >>> fitter.solve(ridge=0.0).weight.round(decimals=6)
    tensor([[1., 2.]], dtype=torch.float64)
    """

    def __init__(self, m: int, n: int, *, device: str | torch.device = "cpu") -> None:
        self.n_rows = 0
        self.f_sum = torch.zeros(m, dtype=torch.float64, device=device)
        self.z_sum = torch.zeros(n, dtype=torch.float64, device=device)
        self.ff = torch.zeros(m, m, dtype=torch.float64, device=device)
        self.fz = torch.zeros(m, n, dtype=torch.float64, device=device)
        self.zz = torch.zeros((), dtype=torch.float64, device=device)

    def update(self, f_batch: Any, z_batch: Any) -> None:
        """Add a batch: (B, m), (B, n)."""
        f, z = _rows(f_batch, z_batch)
        require_width(f, self.fz.shape[0], name="f")
        require_width(z, self.fz.shape[1], name="z")
        f, z = f.to(self.ff), z.to(self.ff)
        self.n_rows += len(f)
        self.f_sum += f.sum(0)
        self.z_sum += z.sum(0)
        for start in range(0, f.shape[1], _BLOCK):
            end = start + _BLOCK
            block = f[:, start:].mT @ f[:, start:end]  # (m - start, BLOCK)
            self.ff[start:, start:end] += block
            self.ff[start:end, end:] += block[end - start :].mT
        self.fz += f.mT @ z
        self.zz += z.square().sum()

    def merge(self, other: TranslatorFitter) -> None:
        """Add another fitter's sums to this one's."""
        if other.fz.shape != self.fz.shape:
            raise SingError(
                f"cannot merge a fitter of widths {tuple(other.fz.shape)} into one of "
                f"{tuple(self.fz.shape)}: both must be of one classifier and one encoder."
            )
        self.n_rows += other.n_rows
        self.f_sum += other.f_sum
        self.z_sum += other.z_sum
        self.ff += other.ff
        self.fz += other.fz
        self.zz += other.zz

    def solve(self, *, ridge: float) -> Translator:
        """The minimiser of |F T^T - Z|^2 / N + ridge |T|^2 (eq. 4, mean over rows).

        Args:
            ridge: lambda, in units of a squared feature entry, at least 0.

        Raises:
            SingError: before the first row, or for a singular system with ridge 0.
        """
        self._require_rows()
        if not ridge >= 0:
            raise SingError(f"ridge is {ridge}, expected a number of at least 0.")
        lhs = self.ff / self.n_rows
        lhs.diagonal().add_(ridge)
        factor, info = torch.linalg.cholesky_ex(lhs)
        if int(info):
            raise SingError(
                f"{self.n_rows} rows do not determine a map of width {len(lhs)} with ridge {ridge:g}: "
                "give more rows, or a ridge above 0."
            )
        T = torch.cholesky_solve(self.fz / self.n_rows, factor).mT  # (n, m)
        return Translator(T.contiguous())

    def mean_square(self) -> float:
        """Mean squared feature entry: the natural unit of a ridge."""
        self._require_rows()
        return float(self.ff.trace() / (self.n_rows * len(self.ff)))

    def mse(self, T: Tensor) -> float:
        """Mean over rows of |T f - z|^2, from the sums alone."""
        self._require_rows()
        T = T.to(self.ff)
        cross = torch.einsum("nm,mn->", T, self.fz)
        return float((((T @ self.ff) * T).sum() - 2 * cross + self.zz) / self.n_rows)

    def _require_rows(self) -> None:
        if self.n_rows == 0:
            raise SingError("the fitter has seen no rows, expected at least one: call update first.")


def _fit_ridge(
    f: Tensor, z: Tensor, f_test: Tensor, z_test: Tensor, *, ridges: Sequence[float] = RIDGES
) -> tuple[Tensor, dict[str, Any]]:
    fitter = TranslatorFitter(f.shape[1], z.shape[1], device=f.device)
    fitter.update(f, z)
    weight, details = choose_ridge(
        fitter, lambda T: float((f_test.to(T) @ T.mT - z_test).square().sum()), ridges
    )
    return weight.to(f.dtype), details


def choose_ridge(
    fitter: TranslatorFitter, error: Callable[[Tensor], float], ridges: Sequence[float] = RIDGES
) -> tuple[Tensor, dict[str, Any]]:
    """The map of the ridge with the least squared error on held-out rows.

    With more than twice as many rows as features that error falls, then rises with the ridge, but for what
    few held-out rows add by chance: three are tried, then those around the best. With fewer rows all are.

    Args:
        fitter: of the rows to fit.
        error: squared error of a map on the held-out rows, up to a factor.
        ridges: candidates, relative to the mean squared feature entry.

    Returns:
        T, (n, m), float64, and the details of the fit.

    Raises:
        SingError: without a candidate above 0, or for features that are all 0.
    """
    unit, candidates = fitter.mean_square(), sorted(ridges)
    if not candidates or min(candidates) * unit <= 0:
        raise SingError(f"ridges are {list(ridges)}, expected numbers above 0 and features that vary.")

    @cache
    def solved(i: int) -> Tensor:
        return fitter.solve(ridge=candidates[i] * unit).weight

    count, enough = len(candidates), fitter.n_rows > 2 * len(fitter.ff)
    starts = range(count // 4, count, max(count // 4, 1)) if enough else range(count)
    best = least(lambda i: error(solved(i)), starts, count)
    return solved(best), {"ridge": candidates[best] * unit, "loss": "mse"}


def least(error: Callable[[int], float], starts: Iterable[int], count: int) -> int:
    """The place, of `count`, from which the error falls to neither side, searched for from the best start.

    >>> least(lambda place: abs(place - 7), [2], 17)
    7
    """
    at = cache(error)
    best = min(starts, key=at)
    for step in (2, 1):
        while (near := min(_around(best, step, count), key=at)) != best:
            best = near
    return best


def _around(place: int, step: int, count: int) -> list[int]:
    return [i for i in (place, place - step, place + step) if 0 <= i < count]


# ----------------------------------------------------------------------------------- shared


@dataclass(frozen=True)
class Quality:
    """Agreement of translated features with embeddings: mean cosine and R^2, no units."""

    cosine: float
    r2: float


def quality(Tf: Tensor, z: Tensor) -> Quality:
    """Mean cosine and R^2 (about the mean of z, over all entries) of Tf (N, n) against z (N, n)."""
    Tf, z = Tf.to(torch.float64), z.to(torch.float64)
    residual = (z - Tf).square().sum()
    total = (z - z.mean(0)).square().sum()
    r2 = float(1 - residual / total) if float(total) > 0 else float("nan")
    return Quality(float(torch.cosine_similarity(Tf, z, dim=-1).mean()), r2)


def _rows(f: Any, z: Any) -> tuple[Tensor, Tensor]:
    x, y = as_tensor(f, name="f"), as_tensor(z, name="z")
    if x.ndim != 2 or y.ndim != 2 or len(x) != len(y):
        raise SingError(
            f"f has shape {tuple(x.shape)} and z {tuple(y.shape)}, expected (N, m) and (N, n) "
            "with one row of z for each row of f."
        )
    require_finite(x, name="f")
    require_finite(y, name="z")
    return x, y


def pairs(f: Any, z: Any) -> tuple[Tensor, Tensor]:
    """Features (N, m) and embeddings (N, n) of the same N photos, at least 2, checked."""
    x, y = _rows(f, z)
    if len(x) < 2:
        raise SingError(f"f has {len(x)} row(s), expected at least 2: one to fit, one to hold out.")
    return x, y.to(x)
