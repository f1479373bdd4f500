"""Steering: steps in the null space toward a text (eqs. 10-13). All angles in degrees.

The logits stay where they are, whatever the step, since it never leaves the null space.

    >>> import torch
    >>> from sing_utils import HeadSpaces, Translator, steer
    >>> W = torch.eye(3, 8, dtype=torch.float64)  # (c, m): sees three of eight coordinates
    >>> g = torch.Generator().manual_seed(0)
    >>> f = torch.randn(5, 8, dtype=torch.float64, generator=g)  # (B, m)
    >>> T = Translator(torch.randn(4, 8, dtype=torch.float64, generator=g))  # (n, m)
    >>> text = torch.randn(4, dtype=torch.float64, generator=g)  # (n,)
    >>> result = steer(f, text, T, HeadSpaces.from_weight(W), degrees=20.0)
    >>> result.IS.round(decimals=6)
    tensor([20., 20., 20., 20., 20.], dtype=torch.float64)
    >>> bool((result.AS > 0).all()), result.certificate.top1_changes
    (True, 0)
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.linalg import vector_norm
from torch.nn.functional import normalize

from sing_utils.errors import SingError, UnreachableWarning
from sing_utils.method.arrays import as_tensor, like, require_finite, require_width
from sing_utils.method.head import Certificate, HeadSpaces
from sing_utils.method.scores import angle, attribute_score, image_score
from sing_utils.method.translator import Translator

# A step that turns T f to within 0.06 degrees of its limit is a thousand times as long as T f. Longer
# ones, also in terms of f itself, count as out of reach: f + ε d in float32 would lose f in rounding.
_LONGEST = 1e3


@dataclass(frozen=True, eq=False)
class Steered:
    """B features after a step in the null space.

    Rows where the wanted IS can't be reached are NaN in `f_eps`, `epsilon`, `IS` and `AS`.

    Attributes:
        f_eps: the equivalents f_ε (eq. 13), (B, m), like the features.
        epsilon: length of the step, (B,).
        IS: angle(T f, T f_ε), degrees, (B,).
        AS: angle(T f, z_text) - angle(T f_ε, z_text), degrees, (B,); positive: closer to the text.
        largest: the IS that a step along the direction approaches and never reaches, degrees, (B,).
        reason: one sentence on the rows that are NaN; empty if there are none.
        certificate: how far the logits moved over the rows that were reached; None if there are none.
    """

    f_eps: Any
    epsilon: Any
    IS: Any
    AS: Any
    largest: Any
    reason: str
    certificate: Certificate | None


def text_gradient(f: Any, z_text: Any, T: Translator) -> Any:
    """Gradient of cos(T f, z_text) in f (eq. 11), analytic: (B, m), (n,) or (B, n) -> (B, m).

    g = Tᵀ (u - s v) / |T f| with the unit vectors u of z_text and v of T f, and s = <u, v> (eq. 10).

    Raises:
        SingError: for a zero vector, NaN, or widths that do not fit T.
    """
    x, u, weight = _inputs(f, z_text, T)
    return like(_gradient(x, u, weight), f)


def null_direction(f: Any, z_text: Any, T: Translator, spaces: HeadSpaces) -> Any:
    """Unit vectors in the null space toward the text (eq. 12): (B, m), (n,) or (B, n) -> (B, m).

    Raises:
        SingError: also where the text gradient has no null component to follow.
    """
    x, u, weight = _inputs(f, z_text, T)
    return like(_direction(x, u, weight, spaces), f)


def random_null_direction(count: int, spaces: HeadSpaces, *, seed: int) -> Tensor:
    """Unit vectors drawn uniformly from the null space, the control of steering: (count, m)."""
    generator = torch.Generator().manual_seed(seed)
    draw = torch.randn(count, spaces.null_dim, generator=generator, dtype=torch.float64)
    return normalize(draw @ spaces.null_basis.to(draw).mT, dim=-1)


def largest_image_score(f: Any, d: Any, T: Translator) -> Any:
    """The IS that steps along d approach but never reach: (B, m), (B, m) -> (B,), degrees.

    T(f + ε d) turns from T f toward T d, so this is angle(T f, T d). Raises a SingError where
    T d = 0, since there no step turns anything.
    """
    a, b = _translate(f, d, T)
    return like(angle(a, b), f)


def step_for_image_score(f: Any, d: Any, T: Translator, *, degrees: Any = 40.0) -> Any:
    """The step ε > 0 at which IS = angle(T f, T(f + ε d)) is `degrees`, in closed form.

    In the plane of T f and T d the law of sines gives ε = |Tf| sin θ / (|Td| sin(φ - θ)), where θ
    is the wanted and φ = `largest_image_score` the largest IS.

    Args:
        f: features, (B, m).
        d: directions, (B, m).
        T: the translator.
        degrees: the wanted IS, at least 0 and less than 180; one for all, or (B,).

    Returns:
        (B,), float64; NaN where `degrees` can't be reached (by a step of up to a thousand times |Tf|),
        with an `UnreachableWarning` that says how far one gets.

    Raises:
        SingError: for degrees outside 0 to 180, or T d = 0.
    """
    a, b = _translate(f, d, T)
    epsilon = _straight_step(a, b, _radians(degrees, a))
    reason = _reason(epsilon, angle(a, b), degrees)
    if reason:
        warnings.warn(reason, UnreachableWarning, stacklevel=2)
    return like(epsilon, f)


def steer(
    f: Any,
    z_text: Any,
    T: Translator,
    spaces: HeadSpaces,
    *,
    degrees: Any = 40.0,
    direction: Any = None,
    bias: Any = None,
) -> Steered:
    """Step from f in the null space toward a text until IS = `degrees` (eqs. 12 and 13).

    Args:
        f: features, (B, m).
        z_text: text embedding, one a row (B, n) or one for all (n,).
        T: the translator, (n, m).
        spaces: of the head whose features are steered.
        degrees: the wanted IS, at least 0 and less than 180; one for all, or (B,).
        direction: (B, m) unit vectors in the null space to follow instead of the text gradient,
            such as `random_null_direction`.
        bias: b of the head, (c,), for the certificate's top-1 class; None means 0.

    Returns:
        The equivalents with their scores. Rows out of reach, or reached only by a step over a
        thousand times as long as the feature, are NaN, never a wrong number; `reason` says so.

    Raises:
        SingError: for degrees outside 0 to 180, widths that do not fit, a text gradient without a
            null component, or logits that moved.
    """
    x, u, weight = _inputs(f, z_text, T)
    theta = _radians(degrees, x)  # (B,)
    origin = x @ weight.mT  # (B, n)
    d = _given(direction, x) if direction is not None else _direction(x, u, weight, spaces)
    b = d @ weight.mT  # (B, n)
    largest, epsilon = angle(origin, b), _straight_step(origin, b, theta)
    epsilon = torch.where(epsilon <= _LONGEST * vector_norm(x, dim=-1), epsilon, torch.nan)
    lost = epsilon.isnan()
    out = (x + epsilon[:, None] * d).to(as_tensor(f, name="f").dtype)  # eq. 13
    scores = x.new_full((2, len(x)), torch.nan)
    certificate = None
    if not bool(lost.all()):
        kept = ~lost
        z = out[kept].to(weight) @ weight.mT
        scores[0, kept] = image_score(origin[kept], z)
        scores[1, kept] = attribute_score(origin[kept], z, u[kept])
        same = as_tensor(f, name="f")[kept]
        certificate = spaces.certificate(same, f_tilde=out[kept], bias=bias).check()
    return Steered(
        f_eps=like(out, f),
        epsilon=like(epsilon, f),
        IS=like(scores[0], f),
        AS=like(scores[1], f),
        largest=like(largest, f),
        reason=_reason(epsilon, largest, degrees),
        certificate=certificate,
    )


# ------------------------------------------------------------------------------- the maths


def _gradient(x: Tensor, u: Tensor, weight: Tensor) -> Tensor:
    """Eq. 11 with unit u; two thin products: (B, m), (B, n), (n, m) -> (B, m)."""
    z = x @ weight.mT  # (B, n)
    norm = vector_norm(z, dim=-1, keepdim=True)
    if bool((norm == 0).any()):
        raise SingError("T f is zero for some features, expected directions: they have no gradient.")
    v = z / norm
    s = (u * v).sum(-1, keepdim=True)  # eq. 10, (B, 1)
    return ((u - s * v) / norm) @ weight  # eq. 11, (B, m)


def _direction(x: Tensor, u: Tensor, weight: Tensor, spaces: HeadSpaces) -> Tensor:
    """Eq. 12: (B, m) unit vectors."""
    g = _gradient(x, u, weight)
    d = spaces.null_component(g)  # eq. 12, (B, m)
    norm = vector_norm(d, dim=-1, keepdim=True)
    # What rounding leaves of a gradient that lies in the principal space is no direction.
    lost = norm <= g.shape[-1] * torch.finfo(g.dtype).eps * vector_norm(g, dim=-1, keepdim=True)
    if bool(lost.any()):
        raise SingError(
            f"the text gradient of {int(lost.sum())} of {len(x)} features has no null component, expected "
            "one to follow: T maps the null space nowhere that matters for this text, or the feature "
            "points at the text already; leave those features out or choose another prompt."
        )
    return d / norm  # eq. 12, at unit length


def _straight_step(a: Tensor, b: Tensor, theta: Tensor) -> Tensor:
    """The ε with angle(a, a + ε b) = theta by the law of sines; NaN out of reach: (B,), radians."""
    beyond = torch.deg2rad(angle(a, b)) - theta
    length = vector_norm(a, dim=-1)
    moved = length * theta.sin() / beyond.sin()  # ε |b|
    epsilon = moved / vector_norm(b, dim=-1)
    epsilon = torch.where((beyond > 0) & (moved <= _LONGEST * length), epsilon, torch.nan)
    return torch.where(theta == 0, 0.0, epsilon)


def _reason(epsilon: Tensor, largest: Tensor, degrees: Any) -> str:
    """Why some steps are NaN, and how far one gets along the direction; empty if none is."""
    lost = epsilon.isnan()
    if not bool(lost.any()):
        return ""
    low, high = float(largest[lost].min()), float(largest[lost].max())
    span = f"{low:.1f}°" if high - low < 0.05 else f"{low:.1f}° to {high:.1f}°"
    wanted = f"{degrees:g}°" if isinstance(degrees, int | float) else "the wanted angle"
    return (
        f"IS = {wanted} can't be reached for {int(lost.sum())} of {len(lost)} features: steps of up to a "
        f"thousand times the feature's length only approach {span}; ask for fewer degrees or leave "
        "those features out."
    )


# ------------------------------------------------------------------------------ the inputs


def _inputs(f: Any, z_text: Any, T: Translator) -> tuple[Tensor, Tensor, Tensor]:
    """Features (B, m), unit texts (B, n) and T's weight (n, m), in one float dtype and device."""
    weight = T.weight
    x = _features(f, weight.shape[1], name="f")
    u = as_tensor(z_text, name="z_text").to(x)
    require_width(u, len(weight), name="z_text")
    require_finite(u, name="z_text")
    if u.ndim > 2 or (u.ndim == 2 and len(u) not in (1, len(x))):
        raise SingError(
            f"z_text has shape {tuple(u.shape)}, expected ({len(weight)},) or ({len(x)}, {len(weight)}): "
            "one text for all features, or one for each."
        )
    norm = vector_norm(u, dim=-1, keepdim=True)
    if bool((norm == 0).any()):
        raise SingError("z_text holds a zero vector, expected the embedding of a prompt.")
    return x, (u / norm).expand(len(x), -1), weight.to(x)


def _features(f: Any, width: int, *, name: str) -> Tensor:
    """Rows of features in float64: what is solved for must not be lost in rounding."""
    x = as_tensor(f, name=name)
    require_width(x, width, name=name)
    require_finite(x, name=name)
    if x.ndim != 2 or not len(x):
        raise SingError(f"{name} has shape {tuple(x.shape)}, expected (B, {width}): pass a row a feature.")
    return x.to(torch.float64)


def _given(direction: Any, x: Tensor) -> Tensor:
    d = _features(direction, x.shape[1], name="direction").to(x.device)
    if d.shape != x.shape:
        raise SingError(f"direction has {len(d)} rows, expected {len(x)}: one for each feature.")
    return d


def _translate(f: Any, d: Any, T: Translator) -> tuple[Tensor, Tensor]:
    x = _features(f, T.weight.shape[1], name="f")
    weight = T.weight.to(x)
    a, b = x @ weight.mT, _given(d, x) @ weight.mT  # (B, n) each
    unseen = int((vector_norm(b, dim=-1) == 0).sum())
    if unseen:
        raise SingError(f"T d is zero for {unseen} of {len(b)} directions: the translator can't see them.")
    return a, b


def _radians(degrees: Any, x: Tensor) -> Tensor:
    """Wanted angles as (B,) radians."""
    try:
        theta = torch.as_tensor(degrees, dtype=torch.float64, device=x.device)
    except (TypeError, ValueError):
        raise SingError(f"degrees is {degrees!r}, expected a number, such as 40.0.") from None
    if theta.ndim > 1 or (theta.ndim == 1 and len(theta) != len(x)):
        raise SingError(f"degrees has shape {tuple(theta.shape)}, expected one angle, or {len(x)}.")
    if not bool(((theta >= 0) & (theta < 180)).all()):
        raise SingError(f"degrees is {degrees}, expected an angle of at least 0 and less than 180.")
    return torch.deg2rad(theta).expand(len(x))
