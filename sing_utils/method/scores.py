"""Angles, Attribute Score and Image Score (eqs. 5-8). All angles in degrees.

How sure a score is, and what it would be by chance, says `sing_utils.evidence`.

"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from sing_utils.errors import SingError
from sing_utils.method.arrays import as_tensor, like, require_finite, require_width

_PARALLEL = 1 - 1e-6  # cosine of 0.08 degrees: with less, a rounding of 1e-16 stays below 1e-11 degrees


def angle(x: Any, y: Any) -> Any:
    """The angle between x and y (eq. 5), in degrees: (..., n), (..., n) -> (...), float64.

    Computed as 2 atan2(|x^ - y^|, |x^ + y^|) (Kahan), which is accurate for all angles. The
    arc cosine of eq. 5, in float32, reports up to 0.03 degrees between identical vectors.

    Raises:
        SingError: for a zero vector, NaN, or widths that differ.

    >>> import numpy as np
    >>> float(angle(np.array([1.0, 0.0]), np.array([1.0, 1.0])))
    45.0
    """
    a, b = _unit(x, name="x"), _unit(y, name="y")
    require_width(b, a.shape[-1], name="y")
    half = torch.atan2(torch.linalg.vector_norm(a - b, dim=-1), torch.linalg.vector_norm(a + b, dim=-1))
    return like(torch.rad2deg(2 * half), x)


def pairwise_angle(x: Any, y: Any) -> Any:
    """The angle of each x to each y, in degrees: (N, n), (K, n) -> (N, K), float64.

    The same formula as `angle`; where x and y are not nearly parallel, from their cosine, in which
    |x^ - y^|² = 2 - 2 cos: one matrix product, as accurate.
    """
    a, b = _unit(x, name="x"), _unit(y, name="y")
    require_width(b, a.shape[-1], name="y")
    cosine = a @ b.mT  # (N, K)
    half = torch.atan2((1 - cosine).sqrt(), (1 + cosine).sqrt())
    near = (cosine.abs() > _PARALLEL).any(-1)  # rows in which the cosine's rounding would show
    if near.any():
        mode = "donot_use_mm_for_euclid_dist"  # which cancels for small angles
        apart = (torch.cdist(a[near], y, compute_mode=mode) for y in (b, b.neg()))
        half[near] = torch.atan2(*apart)
    return like(torch.rad2deg(2 * half), x)


def image_score(Tf: Any, Tf_tilde: Any) -> Any:
    """IS = angle(T f, T f~) (eq. 8), degrees: (..., n), (..., n) -> (...).

    >>> import numpy as np
    >>> float(image_score(np.array([3.0, 0.0]), np.array([0.0, 1.0])))
    90.0
    """
    return angle(Tf, Tf_tilde)


def attribute_score(Tf: Any, Tf_tilde: Any, z_text: Any) -> Any:
    """AS = angle(T f, z_text) - angle(T f~, z_text) (eq. 7), degrees: (..., n) each -> (...).

    Positive: the equivalent is closer to the text than the original.

    >>> import numpy as np
    >>> Tf, Tf_tilde, text = np.array([1.0, 0.0]), np.array([1.0, 1.0]), np.array([0.0, 1.0])
    >>> float(attribute_score(Tf, Tf_tilde, text))  # 90 degrees before, 45 after
    45.0
    """
    return angle(Tf, z_text) - angle(Tf_tilde, z_text)


def contrast(AS: Any, own: Any) -> Any:
    """AS toward the own class's prompt minus the mean AS toward the other classes' prompts, degrees.

    What moves all prompts alike cancels. Below 0: null removal takes the photo away from its own class
    more than from the others, so the null component spoke for that class. It is not in the paper; where
    the answer is planted (notebook 06), it finds what |AS| misses.

    Args:
        AS: toward every class's prompt, (N, C).
        own: the number of each row's class, (N,).

    Returns:
        (N,); NaN if there is only one class.

    >>> contrast(torch.tensor([[-3.0, 1.0, 0.0]]), torch.tensor([0]))
    tensor([-3.5000])
    """
    a, k = as_tensor(AS, name="AS"), torch.as_tensor(own, dtype=torch.long)
    true = a.gather(-1, k[:, None])[:, 0]
    return like(true - (a.sum(-1) - true) / (a.shape[-1] - 1 or torch.nan), AS)


def _unit(x: Any, *, name: str) -> Tensor:
    """Vectors over their lengths, x / |x|, in float64; a zero vector has no direction."""
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
