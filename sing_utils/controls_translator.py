"""Controls of the translator: what it knows of null directions, and how far its scores can be trusted.

A translator that learned nothing about null directions makes every score of null removal meaningless.

    >>> g = torch.Generator().manual_seed(0)
    >>> W, f, true = (torch.randn(*s, generator=g) for s in ((3, 8), (400, 8), (5, 8)))
    >>> spaces, z = HeadSpaces.from_weight(W), f @ true.mT
    >>> T = Translator.fit(f, z, method="ridge")
    >>> found = translator_parts(T, spaces, (f[:300], z[:300]), (f[300:], z[300:]))
    >>> round(found["R², whole"], 2), 0 < found["R², null part alone"] < 1
    (1.0, True)
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import normalize

from sing_utils.controls import Removed, remove_null
from sing_utils.head import HeadSpaces
from sing_utils.scores import angle
from sing_utils.translator import Translator, TranslatorFitter, quality

Pairs = tuple[Tensor, Tensor]  # f (N, m) and z (N, n) of the same photos


def translator_parts(T: Translator, spaces: HeadSpaces, fit: Pairs, held_out: Pairs) -> dict[str, float]:
    """R² on photos that nothing was fitted on, for the two parts of a feature.

    - whole: of T f.
    - principal part alone, null part alone: of translators that are fitted anew on Π_p f or Π_n f, with
      an intercept, so that the mean picture counts for nothing. Their sum exceeds the whole where both
      parts know the same.
    - null part, share of the rest: of what T Π_p f, with the null part's mean, leaves of z, the share that
      T f explains; and the same for the principal part. T is the given one. Below 0: that part does harm.

    Args:
        T: the translator that the scores use, (n, m).
        spaces: of the head.
        fit: features and embeddings to fit on, (N, m) and (N, n).
        held_out: features and embeddings that T never saw.
    """
    f, z = held_out
    weight = T.weight.double()
    whole = f.double() @ weight.mT
    null = (f.double() @ spaces.null_basis) @ (weight @ spaces.null_basis).mT
    principal = whole - null
    error = (z - whole).square().sum()
    return {
        "R², whole": quality(whole, z).r2,
        "R², principal part alone": _refit(spaces.principal_basis, fit, held_out),
        "R², null part alone": _refit(spaces.null_basis, fit, held_out),
        "null part, share of the rest": float(1 - error / (z - principal - null.mean(0)).square().sum()),
        "principal part, share of the rest": float(1 - error / (z - null - principal.mean(0)).square().sum()),
    }


def _refit(V: Tensor, fit: Pairs, held_out: Pairs) -> float:
    """Held-out R² of a ridge fit on the coordinates f V, with an intercept."""
    f, z = fit[0].double() @ V, fit[1].double()
    T = Translator.fit(f - f.mean(0), z - z.mean(0), method="ridge")
    f_new, z_new = held_out
    return quality(T(f_new.double() @ V - f.mean(0)) + z.mean(0), z_new).r2


def half_translators(fit: Pairs, ridge: float, *, seed: int = 0) -> tuple[Translator, Translator]:
    """Two translators that share no photo, each fitted on half of them with the given ridge.

    Args:
        fit: features and embeddings, (N, m) and (N, n).
        ridge: as `TranslatorFitter.solve` takes it.
        seed: of the division.
    """
    order = torch.randperm(len(fit[0]), generator=torch.Generator().manual_seed(seed))
    first, second = order[: len(order) // 2], order[len(order) // 2 :]
    return _solve(fit, first, ridge), _solve(fit, second, ridge)


def _solve(fit: Pairs, rows: Tensor, ridge: float) -> Translator:
    fitter = TranslatorFitter(fit[0].shape[1], fit[1].shape[1])
    fitter.update(fit[0][rows], fit[1][rows])
    return fitter.solve(ridge=ridge)


def shuffled_scores(
    fit: Pairs,
    ridge: float,
    spaces: HeadSpaces,
    f: Tensor,
    texts: Tensor,
    own: Tensor,
    *,
    shuffles: int,
    seed: int = 0,
) -> list[Removed]:
    """Scores by translators that were fitted on photos and embeddings that do not belong together.

    Such a translator still knows the mean embedding, and nothing else: what it finds is not semantics.

    Args:
        fit: features and embeddings, (N, m) and (N, n), exchanged at random before each fit.
        ridge: as `TranslatorFitter.solve` takes it.
        spaces: of the head.
        f: features to score, (M, m).
        texts: embeddings of all classes' prompts, (C, n).
        own: number of each scored photo's class, (M,).
        shuffles: how many.
        seed: of the exchanges.
    """
    x, z = fit
    lhs = x.double().mT @ x.double() / len(x)
    lhs.diagonal().add_(ridge)
    factor, generator = torch.linalg.cholesky(lhs), torch.Generator().manual_seed(seed)
    found = []
    for _ in range(shuffles):
        exchanged = z[torch.randperm(len(z), generator=generator)].to(x)
        T = torch.cholesky_solve((x.mT @ exchanged).double() / len(x), factor).mT  # (n, m)
        found.append(remove_null(f.double(), T, spaces, texts, own))
    return found


def blind_scores(
    T: Translator,
    ridge: float,
    spaces: HeadSpaces,
    fit: Pairs,
    held_out: Pairs,
    texts: Tensor,
    own: Tensor,
    *,
    draws: int,
    seed: int = 0,
) -> list[Removed]:
    """Scores in worlds where null directions mean nothing: what a fit makes of them by itself.

    The embeddings are drawn anew, as T Π_p f plus a residual of another photo, and a translator is fitted
    on them. Whatever it finds in the null space comes from noise, from the ridge, and from what the two
    spaces share in the photos. All photos are scored by one translator, so its error does not average out
    over them, and a bootstrap over photos does not see it: the spread of these scores is that error. Their
    mean is no null hypothesis, since where both spaces hold the same class it is not 0 either.

    Args:
        T: fitted with `ridge`, (n, m).
        ridge: as `TranslatorFitter.solve` takes it.
        spaces: of the head.
        fit: what T was fitted on, (N, m) and (N, n).
        held_out: photos to score, (M, m) and (M, n); residuals are made as large as they are on these.
        texts: embeddings of all classes' prompts, (C, n).
        own: number of each scored photo's class, (M,).
        draws: how many worlds.
        seed: of the residuals.
    """
    x, z = fit
    lhs = x.double().mT @ x.double() / len(x)
    lhs.diagonal().add_(ridge)
    factor, generator = torch.linalg.cholesky(lhs), torch.Generator().manual_seed(seed)
    principal = T.after_null_removal(spaces)(x)
    residual = z.to(x) - T(x)
    unseen = held_out[1] - T(held_out[0]).to(held_out[1])
    residual = residual * float((unseen.square().mean() / residual.square().mean()).sqrt())
    found = []
    for _ in range(draws):
        drawn = principal + residual[torch.randperm(len(x), generator=generator)]
        blind = torch.cholesky_solve((x.mT @ drawn).double() / len(x), factor).mT  # (n, m)
        found.append(remove_null(held_out[0].double(), blind, spaces, texts, own))
    return found


@dataclass(frozen=True, eq=False)
class Noise:
    """How far a translator's own errors move a score, photo by photo.

    Attributes:
        floor: standard error of AS that is due to fitting T on this sample of photos, (N,), degrees.
        angle: |angle(T f, text) - angle(z, text)|, how far T misses a photo's angle to its prompt, (N,),
            degrees. In AS, which compares two translated features, most of it cancels.
    """

    floor: Tensor
    angle: Tensor


def translator_noise(
    T: Translator, ridge: float, spaces: HeadSpaces, fit: Pairs, held_out: Pairs, texts: Tensor
) -> Noise:
    """The noise floor of AS from the translator's residual.

    Other photos to fit on would have given another T. Its rows covary like the residual of z, and along a
    feature f its variance is |F A⁻¹ f|², with A = FᵀF + N ridge. AS depends on T f and T Π_p f; its
    standard error follows from their gradients, to first order. What the ridge shrinks away is not in it.

    Args:
        T: fitted with `ridge`, (n, m).
        ridge: as `TranslatorFitter.solve` takes it.
        spaces: of the head.
        fit: what T was fitted on, (N, m) and (N, n).
        held_out: photos that T never saw, (M, m) and (M, n); their residuals are taken.
        texts: embedding of each of these photos' own prompt, (M, n).
    """
    x = fit[0].double()
    gram = x.mT @ x
    lhs = gram.clone()
    lhs.diagonal().add_(len(x) * ridge)
    factor = torch.linalg.cholesky(lhs)
    f, z, weight = held_out[0].double(), held_out[1].double(), T.weight.double()
    tilde = spaces.remove_null(f)
    p, q = (torch.cholesky_solve(v.mT, factor).mT for v in (f, tilde))  # A⁻¹ f and A⁻¹ f~, (M, m) each
    a, b = f @ weight.mT, tilde @ weight.mT  # (M, n) each
    residual = z - a
    covariance = residual.mT @ residual / len(f)  # (n, n)
    g, h = _angle_gradient(a, texts), _angle_gradient(b, texts)  # (M, n) each
    variance = (
        _form(g, covariance, g) * _form(p, gram, p)
        - 2 * _form(g, covariance, h) * _form(p, gram, q)
        + _form(h, covariance, h) * _form(q, gram, q)
    )
    missed = angle(a, texts) - angle(z, texts)
    return Noise(torch.rad2deg(variance.clamp_min(0).sqrt()), missed.abs())


def _angle_gradient(z: Tensor, texts: Tensor) -> Tensor:
    """Gradient of angle(z, text) with respect to z, radians: (N, n), (N, n) -> (N, n)."""
    unit, u = normalize(z, dim=-1), normalize(texts.double(), dim=-1)
    cosine = (unit * u).sum(-1, keepdim=True)
    across = u - cosine * unit
    return -across / (torch.linalg.vector_norm(z, dim=-1, keepdim=True) * (1 - cosine**2).sqrt())


def _form(x: Tensor, A: Tensor, y: Tensor) -> Tensor:
    """Xᵀ A y row by row: (N, n), (n, n), (N, n) -> (N,)."""
    return ((x @ A) * y).sum(-1)


def correlation(x: Tensor, y: Tensor) -> float:
    """Pearson's correlation over rows; NaN where one of them does not vary."""
    if float(x.std()) == 0 or float(y.std()) == 0:
        return float("nan")
    return float(np.corrcoef(x.numpy(), y.numpy())[0, 1])
