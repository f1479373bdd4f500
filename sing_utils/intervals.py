"""How sure a number is: bootstrap intervals, permutation tests, and the correction for many of them.

Whatever resamples works on rows: photos, or whole groups of them (classes) where a claim is about those.

>>> x = np.random.default_rng(0).normal(1.0, 1.0, size=(200, 3))  # (N, K): K statistics of N photos
>>> means = bootstrap_means(x, draws=500)
>>> bool(((means.low < means.value) & (means.value < means.high)).all())
True
>>> sign_flip_test(x, permutations=999)
array([0.001, 0.001, 0.001])
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy import stats

from sing_utils.errors import SingError

_CHUNK = 2**22  # numbers held at once by a resampling: 32 MB


@dataclass(frozen=True)
class Interval:
    """A statistic of a sample with its percentile bootstrap interval."""

    value: float
    low: float
    high: float
    level: float
    draws: int


@dataclass(frozen=True, eq=False)
class Means:
    """Means over rows with their percentile bootstrap intervals: (K,) each."""

    value: np.ndarray
    low: np.ndarray
    high: np.ndarray


def bootstrap(
    statistic: Callable[..., np.ndarray],
    *samples: Any,
    level: float = 0.95,
    draws: int = 2000,
    seed: int = 0,
    groups: Any = None,
) -> Interval:
    """Percentile bootstrap interval of `statistic(*samples)`, resampling rows jointly.

    Args:
        statistic: maps arrays (..., N) (one per sample, resampled alike) to (...,); it must reduce over
            the last axis.
        samples: arrays (N,) each, paired by row.
        level: coverage, between 0 and 1.
        draws: number of bootstrap draws.
        seed: of the resampling.
        groups: (N,) labels, such as classes, to resample whole instead of single rows: what would come out
            with other classes, not only with other photos of these.

    Raises:
        SingError: for fewer than 2 rows or groups, or samples of different lengths.
    """
    arrays = [np.asarray(s, dtype=np.float64) for s in samples]
    n = len(arrays[0])
    if n < 2 or any(len(a) != n for a in arrays):
        lengths = ", ".join(str(len(a)) for a in arrays)
        raise SingError(f"bootstrap got {lengths} rows, expected one length of at least 2.")
    rng = np.random.default_rng(seed)
    value = float(statistic(*(a[None] for a in arrays))[0])
    if groups is not None:
        rows = _group_rows(groups, n)
        chosen = (np.concatenate([rows[i] for i in draw]) for draw in _draws(rng, len(rows), draws))
        found = np.array([statistic(*(a[None, r] for a in arrays))[0] for r in chosen])
        low, high = np.quantile(found, [(1 - level) / 2, (1 + level) / 2])
        return Interval(value, float(low), float(high), level, draws)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", stats.DegenerateDataWarning)  # then the interval is NaN
        ci = _percentile_bootstrap(arrays, statistic, level, draws, rng)
    return Interval(value, ci[0], ci[1], level, draws)


def _percentile_bootstrap(
    arrays: list[np.ndarray], statistic: Any, level: float, draws: int, rng: np.random.Generator
) -> tuple[float, float]:
    ci = stats.bootstrap(
        arrays,
        lambda *a, axis: statistic(*a),
        paired=True,
        vectorized=True,
        method="percentile",
        confidence_level=level,
        n_resamples=draws,
        batch=max(1, _CHUNK // len(arrays[0])),
        random_state=rng,
    ).confidence_interval
    return float(ci.low), float(ci.high)


def bootstrap_means(
    x: Any, *, level: float = 0.95, draws: int = 2000, seed: int = 0, groups: Any = None
) -> Means:
    """Percentile bootstrap intervals of the means of many columns, in bounded memory.

    A resampled mean is a product with the counts of the rows, so that all columns of a draw cost one
    row of a matrix product. (`scipy.stats.bootstrap` gathers every resampled value instead.)

    Args:
        x: (N, K), one row a photo.
        level: coverage, between 0 and 1.
        draws: number of bootstrap draws.
        seed: of the resampling.
        groups: (N,) labels to resample whole, see `bootstrap`.

    Raises:
        SingError: for fewer than 2 rows or groups.
    """
    x = _matrix(x)
    found = _resampled_means(x, draws, seed, groups)
    low, high = np.quantile(found, [(1 - level) / 2, (1 + level) / 2], axis=0)
    return Means(x.mean(0), low, high)


def bootstrap_places(x: Any, *, level: float = 0.95, draws: int = 2000, seed: int = 0) -> Means:
    """Place of each column's mean among all columns' means, 1 for the smallest, with bootstrap intervals.

    Ties share the best place. Arguments and what is raised: as for `bootstrap_means`.

    >>> places = bootstrap_places([[0.0, 5.0, 9.0], [1.0, 9.0, 5.0]])
    >>> [p.tolist() for p in (places.value, places.low, places.high)]
    [[1.0, 2.0, 2.0], [1.0, 2.0, 2.0], [1.0, 3.0, 3.0]]
    """
    x = _matrix(x)
    found = stats.rankdata(_resampled_means(x, draws, seed, None), method="min", axis=-1)
    # Places are whole: so are the ends of their intervals.
    low, high = np.quantile(found, [(1 - level) / 2, (1 + level) / 2], axis=0, method="inverted_cdf")
    return Means(*(np.asarray(v, float) for v in (stats.rankdata(x.mean(0), method="min"), low, high)))


def student_margin(sd: Any, n: Any, *, level: float = 0.95) -> np.ndarray:
    """Half width of Student's t interval of a mean: of n values with that standard deviation; NaN for one.

    >>> student_margin(1.0, [4, 1]).round(3)
    array([1.591,   nan])
    """
    sd, n = np.asarray(sd, dtype=np.float64), np.asarray(n, dtype=np.float64)
    with np.errstate(divide="ignore", invalid="ignore"):
        return sd / np.sqrt(n) * stats.t.ppf((1 + level) / 2, n - 1)


def _resampled_means(x: np.ndarray, draws: int, seed: int, groups: Any) -> np.ndarray:
    """Means over resampled rows: (N, K) -> (draws, K)."""
    sums, sizes = _by_group(x, groups)  # (G, K), (G,)
    rng = np.random.default_rng(seed)
    found = np.empty((draws, x.shape[1]))
    step = max(1, _CHUNK // len(sums))
    for start in range(0, draws, step):
        stop = min(start + step, draws)
        counts = np.stack(
            [np.bincount(d, minlength=len(sums)) for d in _draws(rng, len(sums), stop - start)]
        ).astype(np.float64)
        found[start:stop] = (counts @ sums) / (counts @ sizes)[:, None]
    return found


def sign_flip_test(x: Any, *, permutations: int = 9999, seed: int = 0, groups: Any = None) -> np.ndarray:
    """Two-sided p values of "the mean is 0", by flipping the signs of rows at random: (N, K) -> (K,).

    Exact if rows are independent and symmetric about 0 under the hypothesis. The least p is
    1 / (permutations + 1).

    Args:
        x: (N, K), one row a photo.
        permutations: number of random flips.
        seed: of the flips.
        groups: (N,) labels; rows of a group flip together.

    Raises:
        SingError: for fewer than 2 rows or groups.
    """
    x = _matrix(x)
    sums, _ = _by_group(x, groups)
    # Rounding must not make a permutation that gives the same mean look larger.
    seen = np.abs(sums.sum(0)) * (1 - 1e-12)
    rng = np.random.default_rng(seed)
    larger = np.zeros(x.shape[1])
    step = max(1, _CHUNK // len(sums))
    for start in range(0, permutations, step):
        signs = rng.choice([-1.0, 1.0], size=(min(step, permutations - start), len(sums)))
        larger += (np.abs(signs @ sums) >= seen).sum(0)
    return (1 + larger) / (1 + permutations)


def false_discovery(p: Any) -> np.ndarray:
    """Adjusted p values of many tests (Benjamini and Hochberg); NaN is no test and stays NaN.

    Of the tests that an adjusted p below 0.05 calls significant, at most one in twenty is expected to be
    wrong.

    >>> false_discovery([0.01, 0.04, float("nan")])
    array([0.02, 0.04,  nan])
    """
    p = np.asarray(p, dtype=np.float64)
    out, tested = np.full(p.shape, np.nan), ~np.isnan(p)
    if tested.any():
        out[tested] = stats.false_discovery_control(p[tested])
    return out


def percentile(value: float, draws: Any) -> float:
    """Where a value stands among draws of chance: percent of them below it, ties counted half.

    >>> percentile(2.0, [1.0, 2.0, 3.0])
    50.0
    """
    return float(stats.percentileofscore(np.asarray(draws, dtype=np.float64), value, kind="mean"))


def chance_p(value: float, draws: Any) -> float:
    """Two-sided p value of a value among draws of chance that are about normally distributed.

    By Student's t for one more draw, so that few draws cost certainty but do not rule out a small p, as
    counting them would.

    >>> round(chance_p(2.0, [1.0, 2.0, 3.0]), 2), round(chance_p(9.0, [1.0, 2.0, 3.0]), 2)
    (1.0, 0.03)
    """
    d = np.asarray(draws, dtype=np.float64)
    spread = d.std(ddof=1) * np.sqrt(1 + 1 / len(d)) if len(d) > 1 else np.nan
    with np.errstate(divide="ignore", invalid="ignore"):
        return float(2 * stats.t.sf(abs(value - d.mean()) / spread, len(d) - 1))


def permutation_p(value: float, draws: Any) -> float:
    """Two-sided p value of a value that is one of the equally likely outcomes, as the draws are.

    The least is 2 / (draws + 1), and 1 where all outcomes are the same.

    >>> permutation_p(9.0, [1.0, 2.0, 3.0])
    0.5
    """
    d = np.asarray(draws, dtype=np.float64)
    near = 1e-12 * np.abs(np.append(d, value)).max()  # rounding makes no difference
    tail = min(int((d <= value + near).sum()), int((d >= value - near).sum()))
    return min(1.0, 2 * (1 + tail) / (1 + len(d)))


def _draws(rng: np.random.Generator, n: int, count: int) -> Iterator[np.ndarray]:
    """`count` times n numbers below n, with replacement; one draw at a time, so memory stays bounded."""
    return (rng.integers(0, n, size=n) for _ in range(count))


def _matrix(x: Any) -> np.ndarray:
    x = np.asarray(x, dtype=np.float64)
    if x.ndim != 2 or len(x) < 2:
        raise SingError(f"the sample has shape {x.shape}, expected (N, K) with N of at least 2 photos.")
    return x


def _group_rows(groups: Any, n: int) -> list[np.ndarray]:
    """The rows of each group."""
    labels, codes = np.unique(np.asarray(groups), return_inverse=True)
    if len(codes) != n or len(labels) < 2:
        raise SingError(
            f"{len(codes)} labels of {len(labels)} group(s) for {n} rows, expected one label a row and at "
            "least 2 groups."
        )
    return np.split(np.argsort(codes, kind="stable"), np.cumsum(np.bincount(codes))[:-1])


def _by_group(x: np.ndarray, groups: Any) -> tuple[np.ndarray, np.ndarray]:
    """Sums (G, K) and sizes (G,) of the groups; without any, each row is one."""
    if groups is None:
        return x, np.ones(len(x))
    rows = _group_rows(groups, len(x))
    return np.stack([x[r].sum(0) for r in rows]), np.array([len(r) for r in rows], dtype=np.float64)
