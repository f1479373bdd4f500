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

import torch
from torch import Tensor

from sing_utils.evidence.controls import Scores, remove_null
from sing_utils.method.head import HeadSpaces
from sing_utils.method.translator import Translator, quality

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


def blind_scores(
    T: Translator,
    spaces: HeadSpaces,
    fit: Pairs,
    held_out: Pairs,
    texts: Tensor,
    own: Tensor,
    *,
    draws: int,
    seed: int = 0,
) -> list[Scores]:
    """Scores in worlds where null directions mean nothing: what a fit makes of them by itself.

    The embeddings are drawn anew, as T Π_p f plus a residual of another photo, and a translator is fitted
    on them. Whatever it finds in the null space comes from noise, from the ridge, and from what the two
    spaces share in the photos.

    Args:
        T: with the report of its fit, whose ridge is taken, (n, m).
        spaces: of the head.
        fit: what T was fitted on, (N, m) and (N, n).
        held_out: photos to score, (M, m) and (M, n); residuals are made as large as they are on these.
        texts: embeddings of all classes' prompts, (C, n).
        own: number of each scored photo's class, (M,).
        draws: how many worlds.
        seed: of the residuals.
    """
    assert T.report is not None
    x, z = fit
    lhs = x.double().mT @ x.double() / len(x)
    lhs.diagonal().add_(T.report.ridge)
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
