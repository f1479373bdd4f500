"""Angles, Attribute Score, Image Score and their intervals (eqs. 5-8). All angles in degrees."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from sing_utils.arrays import as_tensor, like, require_finite, require_width
from sing_utils.errors import SingError


def angle(x: Any, y: Any) -> Any:
    """The angle between x and y (eq. 5), in degrees: (..., n), (..., n) -> (...), float64.

    Computed as 2 atan2(|x^ - y^|, |x^ + y^|) (Kahan), which is accurate for all angles. The
    arc cosine of eq. 5, in float32, reports up to 0.03 degrees between identical vectors.

    Raises:
        SingError: for a zero vector, NaN, or widths that differ.

    >>> float(angle(np.array([1.0, 0.0]), np.array([1.0, 1.0])))
    45.0
    """
    a, b = _unit(x, name="x"), _unit(y, name="y")
    require_width(b, a.shape[-1], name="y")
    half = torch.atan2(torch.linalg.vector_norm(a - b, dim=-1), torch.linalg.vector_norm(a + b, dim=-1))
    return like(torch.rad2deg(2 * half), x)


def pairwise_angle(x: Any, y: Any) -> Any:
    """The angle of each x to each y, in degrees: (N, n), (K, n) -> (N, K), float64.

    The same formula as `angle`, without a (N, K, n) intermediate.
    """
    a, b = _unit(x, name="x"), _unit(y, name="y")
    require_width(b, a.shape[-1], name="y")
    mode = "donot_use_mm_for_euclid_dist"  # the matmul form cancels for small angles
    half = torch.atan2(torch.cdist(a, b, compute_mode=mode), torch.cdist(a, b.neg(), compute_mode=mode))
    return like(torch.rad2deg(2 * half), x)


def image_score(z: Any, z_tilde: Any) -> Any:
    """IS = angle(T f, T f~) (eq. 8), degrees: (..., n), (..., n) -> (...).

    >>> float(image_score(np.array([3.0, 0.0]), np.array([0.0, 1.0])))
    90.0
    """
    return angle(z, z_tilde)


def attribute_score(z: Any, z_tilde: Any, z_text: Any) -> Any:
    """AS = angle(T f, z_text) - angle(T f~, z_text) (eq. 7), degrees: (..., n) each -> (...).

    Positive: the equivalent is closer to the text than the original.

    >>> z, z_tilde, text = np.array([1.0, 0.0]), np.array([1.0, 1.0]), np.array([0.0, 1.0])
    >>> float(attribute_score(z, z_tilde, text))  # 90 degrees before, 45 after
    45.0
    """
    return angle(z, z_text) - angle(z_tilde, z_text)


@dataclass(frozen=True)
class Interval:
    """A statistic of a sample with its percentile bootstrap interval."""

    value: float
    low: float
    high: float
    level: float
    draws: int


def bootstrap(
    statistic: Callable[..., np.ndarray],
    *samples: Any,
    level: float = 0.95,
    draws: int = 2000,
    seed: int = 0,
) -> Interval:
    """Percentile bootstrap interval of `statistic(*samples)`, resampling rows jointly.

    Args:
        statistic: maps arrays (draws, N) (one per sample, resampled alike) to (draws,); it must
            reduce over the last axis.
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
    rows = rng.integers(0, n, size=(draws, n))
    stats = statistic(*(a[rows] for a in arrays))
    value = statistic(*(a[None] for a in arrays))[0]
    low, high = np.quantile(stats, [(1 - level) / 2, (1 + level) / 2])
    return Interval(float(value), float(low), float(high), level, draws)


def _unit(x: Any, *, name: str) -> Tensor:
    """X / |x| in float64; a zero vector has no direction."""
    v = as_tensor(x, name=name).to(torch.float64)
    require_finite(v, name=name)
    norm = torch.linalg.vector_norm(v, dim=-1, keepdim=True)
    zeros = int((norm == 0).sum())
    if zeros:
        raise SingError(
            f"{name} holds {zeros} zero vector(s) of {norm.numel()}, expected directions: "
            "the angle to a zero vector is undefined; remove those rows."
        )
    return v / norm
