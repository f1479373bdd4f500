"""How sure a number is: intervals from photos and from the translator, tests, and many tests at once.

A score has two errors. One is of the photos: other photos would give another number, and so would other
classes where a claim is about those. The other is of the translator, which all photos share; refits on halves
of the fit photos have it (`sing_utils.evidence.refits`). `sure_mean` joins both for a mean, `sure` for any
statistic.

>>> x = np.random.default_rng(0).normal(1.0, 1.0, size=200)  # a score of 200 photos
>>> halves = x + np.random.default_rng(1).normal(0.0, 0.3, size=(60, 1))  # by 60 refits
>>> photos = bootstrap(lambda a: a.mean(-1), x, draws=500)
>>> both = sure_mean(x, halves)
>>> bool(both.low < photos.low < photos.high < both.high < 2)
True
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy import stats

from sing_utils.errors import SingError

_CHUNK = 2**22  # numbers held at once by a resampling: 32 MB


@dataclass(frozen=True)
class Interval:
    """A statistic of a sample with its percentile bootstrap interval and its standard error."""

    value: float
    low: float
    high: float
    error: float


@dataclass(frozen=True, eq=False)
class Sure:
    """Statistics with their intervals, (K,) each or plain numbers.

    Attributes:
        value, low, high: Student's interval from both errors.
        p: of "it is 0", two-sided.
        photos, translator: standard errors.
    """

    value: Any
    low: Any
    high: Any
    p: Any
    photos: Any
    translator: Any


def sure(value: Any, photos: Any, n: Any, halves: Any, *, level: float = 0.95, shared: Any = 0.0) -> Sure:
    """Join the errors of photos and of the translator: standard error √(photos² + translator² − shared).

    The spread over halves is the translator's standard error (delete-half jackknife). Student's degrees of
    freedom are those of Welch and Satterthwaite: n - 1 of the photos, and one a pair of halves.

    Args:
        value: the statistic, of scores by the whole translator, (K,) or a number.
        photos: its standard error over photos (or classes), given the translator.
        n: how many photos (or classes) there are.
        halves: the statistic of scores by each refit, (R, K) or (R,); halves and their complements.
        level: coverage, between 0 and 1.
        shared: variance that both errors hold; where it is not known, the interval is a little too wide.

    Returns:
        NaN where n is 1 or a refit has no number.
    """
    value, a = np.asarray(value, float), np.asarray(photos, float) ** 2
    halves, n, shared = (np.asarray(x, float) for x in (halves, n, shared))
    b = halves.var(0)
    with np.errstate(divide="ignore", invalid="ignore"):
        error = np.where(n > 1, np.sqrt(np.maximum(a + b - shared, np.maximum(a, b))), np.nan)
        degrees = (a + b) ** 2 / (a**2 / (n - 1) + b**2 / (len(halves) / 2))
        degrees = np.where(error == 0, np.inf, degrees)
        half = error * stats.t.ppf((1 + level) / 2, degrees)
        p = 2 * stats.t.sf(np.abs(np.where(value == 0, 0.0, value / error)), degrees) + 0 * error
    return Sure(*(x[()] for x in (value, value - half, value + half, np.asarray(p), np.sqrt(a), np.sqrt(b))))


def sure_mean(x: Any, halves: Any, *, level: float = 0.95, groups: Any = None) -> Sure:
    """`sure` for means of photos: what the translator's error adds photo by photo is not counted twice.

    Args:
        x: scores of photos, (N,) or (N, K).
        halves: the same by each refit, (R, N) or (R, N, K).
        level: coverage, between 0 and 1.
        groups: (N,) labels, such as classes: what would come out with other classes, not only with other
            photos of these.
    """
    x, halves = np.asarray(x, float), np.asarray(halves, float)
    mean, moved = x.mean(0), halves.mean(1)  # (K,), (R, K)
    _, code = np.unique(np.arange(len(x)) if groups is None else np.asarray(groups), return_inverse=True)
    member = np.eye(code.max() + 1)[code]  # (N, G)
    G = member.shape[1]
    each = (halves - halves.mean(0)) - (moved - moved.mean(0))[:, None]  # what a refit adds to one photo only
    with np.errstate(divide="ignore", invalid="ignore"):
        photos, shared = (
            (np.tensordot(v, member, (v.ndim - x.ndim, 0)) ** 2).sum(-1) / len(x) ** 2 * G / np.float64(G - 1)
            for v in (x - mean, each)
        )
    return sure(mean, np.sqrt(photos), G, moved, level=level, shared=shared.mean(0))


def mean_error(x: Any) -> np.ndarray:
    """Standard error of the mean of photos, (N, ...) -> (...); NaN for one."""
    x = np.asarray(x, float)
    return x.std(0, ddof=1) / np.sqrt(len(x)) if len(x) > 1 else np.full(x.shape[1:], np.nan)


def bootstrap(
    statistic: Callable[..., np.ndarray],
    *samples: Any,
    level: float = 0.95,
    draws: int = 2000,
    seed: int = 0,
) -> Interval:
    """Percentile bootstrap interval of `statistic(*samples)`, resampling rows jointly.

    Args:
        statistic: maps arrays (..., N) (one per sample, resampled alike) to (...,); it must reduce over
            the last axis.
        samples: arrays (N,) each, paired by row.
        level: coverage, between 0 and 1.
        draws: number of bootstrap draws.
        seed: of the resampling.

    Raises:
        SingError: for fewer than 2 rows, or samples of different lengths.
    """
    arrays = [np.asarray(s, dtype=np.float64) for s in samples]
    n = len(arrays[0])
    if n < 2 or any(len(a) != n for a in arrays):
        lengths = ", ".join(str(len(a)) for a in arrays)
        raise SingError(f"bootstrap got {lengths} rows, expected one length of at least 2.")
    rng = np.random.default_rng(seed)
    value = float(statistic(*(a[None] for a in arrays))[0])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", stats.DegenerateDataWarning)  # then the interval is NaN
        found = stats.bootstrap(
            arrays,
            lambda *a, axis: statistic(*a),
            paired=True,
            vectorized=True,
            method="percentile",
            confidence_level=level,
            n_resamples=draws,
            batch=max(1, _CHUNK // n),
            random_state=rng,
        )
    low, high = found.confidence_interval
    return Interval(value, float(low), float(high), float(found.standard_error))


def bootstrap_places(
    x: Any, halves: Any, *, level: float = 0.95, draws: int = 2000, seed: int = 0
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Place of each column's mean among all columns' means, 1 for the smallest, and its interval's ends.

    Each draw resamples photos and moves their means as one of the refits does. Ties share the best place.

    Args:
        x: (N, K), one row a photo.
        halves: the means by each refit, (R, K).
        level, draws, seed: as for `bootstrap`.

    Raises:
        SingError: for fewer than 2 rows.

    >>> still = [[0.5, 7.0, 7.0]]
    >>> [p.tolist() for p in bootstrap_places([[0.0, 5.0, 9.0], [1.0, 9.0, 5.0]], still)]
    [[1.0, 2.0, 2.0], [1.0, 2.0, 2.0], [1.0, 3.0, 3.0]]
    """
    x, halves = np.asarray(x, dtype=np.float64), np.asarray(halves, dtype=np.float64)
    if x.ndim != 2 or len(x) < 2:
        raise SingError(f"the sample has shape {x.shape}, expected (N, K) with N of at least 2 photos.")
    rng = np.random.default_rng(seed)
    counts = np.stack([np.bincount(d, minlength=len(x)) for d in rng.integers(0, len(x), (draws, len(x)))])
    found = counts @ x / len(x) + (halves - halves.mean(0))[rng.integers(len(halves), size=draws)]
    # Places are whole: so are the ends of their intervals.
    ends = [(1 - level) / 2, (1 + level) / 2]
    low, high = np.quantile(stats.rankdata(found, "min", axis=-1), ends, axis=0, method="inverted_cdf")
    return stats.rankdata(x.mean(0), method="min").astype(float), low.astype(float), high.astype(float)


def student_margin(sd: Any, n: Any, *, level: float = 0.95) -> np.ndarray:
    """Half width of Student's t interval of a mean: of n values with that standard deviation; NaN for one.

    >>> student_margin(1.0, [4, 1]).round(3)
    array([1.591,   nan])
    """
    sd, n = np.asarray(sd, dtype=np.float64), np.asarray(n, dtype=np.float64)
    with np.errstate(divide="ignore", invalid="ignore"):
        return sd / np.sqrt(n) * stats.t.ppf((1 + level) / 2, n - 1)


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
