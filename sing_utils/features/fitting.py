"""Fitting a translator on feature stores of any size, shard by shard (eq. 4).

The sums that the closed form needs add up (`TranslatorFitter`), so memory does not grow with the number
of pictures, and shards may be summed anywhere: merged in their order, the result is the same to the bit.

>>> f = torch.randn(60, 4, generator=torch.Generator().manual_seed(0))
>>> z = f @ torch.arange(8.0).reshape(2, 4).mT
>>> shards = list(zip(f.split(40), z.split(40)))
>>> one, other = gram_of_shards(shards[:1]), gram_of_shards(shards[1:])
>>> one.merge(other)
>>> one.n_rows, torch.equal(one.ff, gram_of_shards(shards).ff)
(60, True)
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor

from sing_utils.errors import SingError
from sing_utils.features.store import FeatureStore
from sing_utils.method.translator import (
    RIDGES,
    FitReport,
    Translator,
    TranslatorFitter,
    choose_ridge,
    split_rows,
)
from sing_utils.models.encoders import judge_of_stores
from sing_utils.models.judges import OTHER_ENCODER, Encoder, Judge
from sing_utils.models.weights import contains

Mapper = Callable[[Callable[..., Any], Iterable[Any]], Iterable[Any]]  # like the built-in map, in order


@dataclass(frozen=True)
class Shard:
    """Rows of one shard: features f (B, m), targets z (B, n), and which are held out, bool (B,)."""

    f: Tensor
    z: Tensor
    held: Tensor

    def pair(self, held: bool) -> tuple[Tensor, Tensor]:
        """The rows to fit on, or those held out."""
        own = self.held if held else ~self.held
        return self.f[own], self.z[own]


def gram_of_shards(pairs: Iterable[tuple[Tensor, Tensor]]) -> TranslatorFitter:
    """The sums over shards of (f (B, m), z (B, n)), each summed alone and merged in order.

    So merging the results of single shards, in order, gives the same bits as one call with all: the sums
    of one shard may be computed by any worker that computes alike.

    Raises:
        SingError: without a shard, or for rows that do not pair up.
    """
    total: TranslatorFitter | None = None
    for f, z in pairs:
        one = TranslatorFitter(f.shape[-1], z.shape[-1], device=f.device)
        one.update(f, z)
        if total is None:
            total = one
        else:
            total.merge(one)
    if total is None:
        raise SingError("got no shard, expected at least one with rows: extract some pictures.")
    return total


def grams_of_shard(shard: Shard) -> tuple[TranslatorFitter, TranslatorFitter]:
    """The sums of one shard: of its rows to fit on, and of those held out."""
    return gram_of_shards([shard.pair(False)]), gram_of_shards([shard.pair(True)])


def fit_stores(
    features: FeatureStore,
    targets: FeatureStore,
    *,
    encoder: Encoder | Judge | None = None,
    rows: Any = None,
    held_out: float = 0.1,
    seed: int = 0,
    ridges: Sequence[float] = RIDGES,
    mapper: Mapper = map,
) -> Translator:
    """Fit T by ridge on two stores of the same pictures, never holding more than a shard of each.

    Up to rounding it is `Translator.fit(f[rows], z[rows], held_out=held_out, seed=seed)`.

    Args:
        features: a classifier's store, with the tensor "features".
        targets: an encoder's store.
        encoder: whose store `targets` is; the classifier is then judged by it without its own tower.
            None: `targets` must hold one tensor, taken as it is.
        rows: bool, one a row of `features.index`: which to fit and hold out from; None: all.
        held_out: share of the rows that chooses the ridge and is reported on.
        seed: of the split.
        ridges: candidates, relative to the mean squared feature entry.
        mapper: applies a function to every `Shard` and gives the results in order, such as one that
            spreads them over a cluster.

    Raises:
        SingError: for stores of different pictures, fewer than 2 rows, or several towers without `encoder`.
    """
    mask = _held_out_mask(features, targets, rows, held_out, seed)
    combine = _combination(features, targets, encoder)
    shards = partial(_shards, features, targets, combine, mask)
    fitter, judge = _merged(mapper(grams_of_shard, shards()))
    weight, details = choose_ridge(fitter, judge.mse, ridges)
    weight = weight.to(torch.float32)
    score = _Agreement.of(mapper(partial(_agreement_of_shard, weight), shards()))
    report = FitReport(
        method="ridge",
        n_fit=fitter.n_rows,
        n_held_out=judge.n_rows,
        held_out_cosine=score.cosine,
        held_out_r2=score.r2,
        held_out=held_out,
        seed=seed,
        **details,
    )
    return Translator(weight, report, _meta(features, targets, _judge(features, targets, encoder)))


def _merged(
    grams: Iterable[tuple[TranslatorFitter, TranslatorFitter]],
) -> tuple[TranslatorFitter, TranslatorFitter]:
    found = iter(grams)
    fitter, judge = next(found)  # there is one: the stores have rows
    for more_fit, more_held in found:
        fitter.merge(more_fit)
        judge.merge(more_held)
    return fitter, judge


def _meta(features: FeatureStore, targets: FeatureStore, judge: Judge | None) -> dict[str, str]:
    names = {"classifier": features, "encoder": targets}
    meta = {kind: str(store.manifest["extractor"].get("name", "")) for kind, store in names.items()}
    if features.network:
        meta["network"] = features.network
    if judge is not None and judge.left_out:
        meta["left out"] = ", ".join(judge.left_out)
    return meta


def _judge(features: FeatureStore, targets: FeatureStore, encoder: Encoder | Judge | None) -> Judge | None:
    if encoder is None or isinstance(encoder, Judge):
        return encoder
    return judge_of_stores(encoder, features, targets)


# ------------------------------------------------------------------------------ the rows


def _held_out_mask(
    features: FeatureStore, targets: FeatureStore, rows: Any, held_out: float, seed: int
) -> tuple[Tensor, Tensor]:
    """Which rows are used, and which of them are held out: bool (N,) each."""
    if not features.index["sha256"].equals(targets.index["sha256"]):
        raise SingError(
            f"{features.path} and {targets.path} hold different pictures, expected the same in the same "
            "order: extract both from one source."
        )
    n = len(features)
    used = torch.ones(n, dtype=torch.bool) if rows is None else torch.from_numpy(np.array(rows, dtype=bool))
    if len(used) != n or int(used.sum()) < 2:
        raise SingError(
            f"{int(used.sum())} of {len(used)} rows are to be used, expected at least 2 of the {n} of "
            f"{features.path}: one to fit, one to hold out."
        )
    _, test = split_rows(int(used.sum()), held_out=held_out, seed=seed)
    held = torch.zeros(n, dtype=torch.bool)
    held[used.nonzero()[:, 0][test]] = True
    return used, held


def _combination(
    features: FeatureStore, targets: FeatureStore, encoder: Encoder | Judge | None
) -> tuple[tuple[str, ...], Callable[[dict[str, Tensor]], Tensor]]:
    """Names of the towers to read, and how they become one embedding."""
    judge = _judge(features, targets, encoder)
    if judge is None:
        if len(targets.names) != 1:
            raise SingError(
                f"{targets.path} holds {', '.join(targets.names)}, expected one tensor: say which encoder "
                "(--encoder NAME) made them, so that they are combined as it does."
            )
        own, encoders = (s.manifest["extractor"] for s in (features, targets))
        if contains(own.get("signs", ""), encoders.get("signs", "")):
            raise SingError(
                f"the encoder of {targets.path} is built on the network of {features.path}, expected another "
                f"one to judge it: {OTHER_ENCODER}"
            )
        return tuple(targets.names), lambda towers: next(iter(towers.values()))
    return judge.encoder.towers, judge.encoder.combine


def _shards(
    features: FeatureStore,
    targets: FeatureStore,
    combination: tuple[tuple[str, ...], Callable[[dict[str, Tensor]], Tensor]],
    mask: tuple[Tensor, Tensor],
) -> Iterator[Shard]:
    """The shards of `features`, with as many rows of `targets`, whose shards may be of another size."""
    (names, combine), (used, held) = combination, mask
    batches = zip(*(targets.batches(name) for name in names), strict=True)
    embeddings = (combine(dict(zip(names, parts, strict=True))) for parts in batches)
    rest, start = torch.empty(0), 0
    for f in features.batches("features"):
        while len(rest) < len(f):
            rest = torch.cat([rest, next(embeddings)]) if len(rest) else next(embeddings)
        own = used[start : start + len(f)]
        yield Shard(f[own], rest[: len(f)][own], held[start : start + len(f)][own])
        rest, start = rest[len(f) :], start + len(f)


# ------------------------------------------------------------------ quality on held-out rows


@dataclass(frozen=True)
class _Agreement:
    """Sums over held-out rows: N, cosine, |T f - z|^2, |z|^2, and z itself (n,)."""

    n: int
    cosines: float
    residual: float
    squares: float
    total: Tensor

    @classmethod
    def of(cls, parts: Iterable[_Agreement]) -> _Agreement:
        """The sums of all shards."""
        found = list(parts)
        sums = {k: sum(getattr(p, k) for p in found) for k in ("n", "cosines", "residual", "squares")}
        return cls(**sums, total=torch.stack([p.total for p in found]).sum(0))

    @property
    def cosine(self) -> float:
        """Mean cosine of T f to z."""
        return self.cosines / self.n

    @property
    def r2(self) -> float:
        """As `sing_utils.method.translator.quality` has it; NaN for a single row."""
        spread = self.squares - float(self.total.square().sum()) / self.n
        return 1 - self.residual / spread if spread > 1e-12 * self.squares else float("nan")


def _agreement_of_shard(weight: Tensor, shard: Shard) -> _Agreement:
    f, z = shard.pair(held=True)
    z, Tf = z.double(), (f @ weight.to(f).mT).double()
    cosines = torch.cosine_similarity(Tf, z, dim=-1).sum()
    residual, squares = (Tf - z).square().sum(), z.square().sum()
    return _Agreement(len(f), float(cosines), float(residual), float(squares), z.sum(0))
