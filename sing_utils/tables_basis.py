"""Tables of notebook 07: the same network, with the same logits, written in other bases. Angles in degrees.

A change of basis that is diagonal in some coordinates turns the sums of a translator's fit into those of the
changed features, so that no photo is read again.
"""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from sing_utils.beyond import BeyondLogits
from sing_utils.controls_translator import blind_scores
from sing_utils.errors import SingError
from sing_utils.run import Photos, Run
from sing_utils.scores import contrast, image_score, text_angles
from sing_utils.translator import TranslatorFitter, quality, split_rows

MOST = 3.0  # a rescaling's largest entry over its smallest
GIVEN = "as given"


@dataclass(frozen=True, eq=False)
class _Coordinates:
    """A classifier's photos in coordinates in which they are then stretched.

    Attributes:
        fitter, judge: sums of the rows to fit, and of those that choose the ridge.
        f: features of the evaluation photos, (N, m).
        null: basis of the null space, (m, m - r).
        ridge: chosen for these features, relative to their mean square.
        texts: embeddings of all classes' prompts, (C, n).
        own: number of each evaluation photo's class, (N,).
    """

    fitter: TranslatorFitter
    judge: TranslatorFitter
    f: Tensor
    null: Tensor
    ridge: float
    texts: Tensor
    own: Tensor

    @classmethod
    def of(cls, run: Run, name: str, axes: Tensor | None = None) -> _Coordinates:
        """Those of a classifier; `axes`: an orthonormal basis (m, m) to write its features in first."""
        fit, new, report = run.photos(name, "fit"), run.photos(name), run.translator(name).report
        assert report is not None
        turn = torch.eye(fit.f.shape[1], dtype=torch.float64) if axes is None else axes
        sums = []
        for rows in split_rows(len(fit), held_out=report.held_out, seed=report.seed):
            sums.append(TranslatorFitter(fit.f.shape[1], fit.z.shape[1]))
            sums[-1].update(fit.f[rows].double() @ turn, fit.z[rows])
        null = turn.mT @ run.spaces(name).null_basis
        unit = sums[0].mean_square()
        texts = run.texts(name, run.prompts)
        return cls(sums[0], sums[1], new.f.double() @ turn, null, report.ridge / unit, texts, new.own)

    def stretched(self, d: Tensor) -> dict[str, float]:
        """Median IS and |AS| and mean contrast of the features d * f, whose head is W / d: d (m,)."""
        fitter, judge = (_scaled(sums, d) for sums in (self.fitter, self.judge))
        unit = self.ridge * fitter.mean_square()

        def attempt(place: int) -> tuple[float, Tensor]:
            T = fitter.solve(ridge=unit * 10 ** (place / 2)).weight
            return judge.mse(T), T

        place, (error, T) = 0, attempt(0)
        for onward in (-1, 1):  # as far from the ridge that was chosen in the given basis as it helps
            while (tried := attempt(place + onward))[0] < error:
                place, (error, T) = place + onward, tried
        return _statistics(*self._removed(d, T), self.texts, self.own)

    def slopes(self) -> dict[str, Tensor]:
        """How mean |AS| and mean contrast change with the logarithm of each coordinate's scale: (m,) each."""
        power = torch.zeros(self.f.shape[1], dtype=torch.float64, requires_grad=True)
        fitter = _scaled(self.fitter, power.exp())
        unit = fitter.ff.diagonal().mean() / fitter.n_rows
        lhs = fitter.ff / fitter.n_rows + self.ridge * unit * torch.eye(len(power), dtype=torch.float64)
        T = torch.linalg.solve(lhs, fitter.fz / fitter.n_rows).mT  # eq. 4
        before, after = self._removed(power.exp(), T)
        AS = text_angles(before, self.texts) - text_angles(after, self.texts)
        means = {
            "|AS|": AS.gather(1, self.own[:, None]).abs().mean(),
            "contrast": contrast(AS, self.own).mean(),
        }
        return {k: torch.autograd.grad(v, power, retain_graph=True)[0] for k, v in means.items()}

    def _removed(self, d: Tensor, T: Tensor) -> tuple[Tensor, Tensor]:
        """T f and T f~ of the features d * f, whose head is W / d."""
        Q, _ = torch.linalg.qr(d[:, None] * self.null)  # the null space goes along: (m, m - r)
        f = self.f * d
        Tf = f @ T.mT
        return Tf, Tf - (f @ Q) @ (T @ Q).mT  # eq. 9


def _scaled(sums: TranslatorFitter, d: Tensor) -> TranslatorFitter:
    """The sums of d * f instead of f."""
    out = TranslatorFitter(*sums.fz.shape)
    out.n_rows, out.f_sum, out.z_sum, out.zz = sums.n_rows, d * sums.f_sum, sums.z_sum, sums.zz
    out.ff, out.fz = d[:, None] * sums.ff * d, d[:, None] * sums.fz
    return out


def _statistics(before: Tensor, after: Tensor, texts: Tensor, own: Tensor) -> dict[str, float]:
    AS = text_angles(before, texts) - text_angles(after, texts)  # (N, C), eq. 7
    return {
        "IS": float(image_score(before, after).quantile(0.5)),
        "|AS|": float(AS.gather(1, own[:, None]).abs().quantile(0.5)),
        "contrast": float(contrast(AS, own).mean()),
    }


def stretches(run: Run, scales: Sequence[float]) -> pd.DataFrame:
    """The null part of every feature times s, W as it is: one row a classifier and s.

    Median IS and |AS| and mean contrast, of null removal and beyond the logits, and how far a logit moved
    (relative to the largest).
    """
    rows = []
    for name in run.classifiers:
        spaces, new = run.spaces(name), run.photos(name)
        axes = torch.cat([spaces.principal_basis, spaces.null_basis], 1)
        photos = _Coordinates.of(run, name, axes)
        logits = new.f.double() @ spaces.weight.mT
        beyond = _statistics(*run.beyond(name)(new.f), photos.texts, new.own)
        for s in scales:
            d = torch.ones(spaces.width, dtype=torch.float64)
            d[spaces.rank :] = s
            moved = ((photos.f * d) @ axes.mT) @ spaces.weight.mT - logits
            rows.append(
                {
                    "classifier": name,
                    "s": s,
                    **photos.stretched(d),
                    **{f"{k} beyond": v for k, v in beyond.items()},
                    "logits moved": float(moved.abs().max() / logits.abs().max()),
                }
            )
    return pd.DataFrame(rows)


def some_logits(run: Run, scales: Sequence[float], *, count: int = 5) -> pd.DataFrame:
    """The largest logits of one photo of each classifier at every s: classifier, s, class, logit."""
    rows = []
    for name in run.classifiers:
        head, spaces, f = run.head(name), run.spaces(name), run.photos(name).f[:1].double()
        for s in scales:
            logits = head.logits(f + (s - 1) * spaces.null_component(f))[0]
            for i in logits.argsort(descending=True)[:count].tolist():
                rows.append({"classifier": name, "s": s, "class": head.label(i), "logit": float(logits[i])})
    return pd.DataFrame(rows)


def rescalings(run: Run, *, draws: int = 12) -> pd.DataFrame:
    """Each classifier's features times a diagonal whose largest entry is `MOST` times its smallest.

    One row a classifier and basis: as given; random diagonals; and those that follow the slope of mean |AS|,
    or of mean contrast, down and up, each coordinate as far as it may, or a little way.
    """
    rows = []
    for number, name in enumerate(run.classifiers):
        photos, spaces = _Coordinates.of(run, name), run.spaces(name)
        bases = {GIVEN: torch.zeros(spaces.width, dtype=torch.float64)}
        for score, slope in photos.slopes().items():
            bases |= {f"slope of {score}, {t:+g}": t * slope.sign() for t in (-0.5, -0.03, 0.5)}
        g = torch.Generator().manual_seed(run.seed + number)
        for i in range(draws):
            bases[f"random {i + 1}"] = torch.rand(spaces.width, generator=g, dtype=torch.float64) - 0.5
        for basis, power in bases.items():
            rows.append({"classifier": name, "basis": basis, **photos.stretched(MOST**power)})
    return pd.DataFrame(rows)


def extremes(table: pd.DataFrame) -> pd.DataFrame:
    """One row a classifier and score: as given, and the least and most over all bases of `rescalings`."""
    long = table.melt(["classifier", "basis"], ["IS", "|AS|", "contrast"], "score")
    given = long[long["basis"] == GIVEN].drop(columns="basis").rename(columns={"value": GIVEN})
    ends = long.groupby(["classifier", "score"], sort=False)["value"].agg(least="min", most="max")
    return given.merge(ends.reset_index())


def orders(table: pd.DataFrame) -> pd.DataFrame:
    """One row a score: in how many of the random bases the classifiers keep the order they are given in.

    Args:
        table: of `rescalings`; each classifier has random bases of its own.
    """
    rows = []
    for score in ("IS", "|AS|", "contrast"):
        wide = table.pivot(index="basis", columns="classifier", values=score)
        ranks = wide.rank(axis=1)
        drawn = ranks[ranks.index.str.startswith("random")]
        kept = int((drawn == ranks.loc[GIVEN]).all(axis=1).sum())
        chance = len(drawn) / float(np.prod(np.arange(1, wide.shape[1] + 1)))
        rows.append({"score": score, "order kept": kept, "of": len(drawn), "by chance": chance})
    return pd.DataFrame(rows)


def readings(run: Run, *, draws: int = 5) -> pd.DataFrame:
    """Three ways to compare a feature with what its logits know: one row a classifier and way.

    As given: null removal in the network's basis. Least squares: what least squares on the logits leaves of f
    is removed, and T has no ridge, which is the same in every basis; left out where photos are too few for
    that. Beyond the logits. Median IS and |AS|, mean contrast, R² of what
    stands in the place of T f on evaluation photos, and, where it is known, the same scores in worlds where
    null directions mean nothing ("zero").

    Args:
        run: whose classifiers.
        draws: how many such worlds.
    """
    rows = []
    for name in run.classifiers:
        new, T, B = run.photos(name), run.translator(name), run.beyond(name)
        texts = run.texts(name, run.prompts)
        Tf, tilde = T(new.f.double()), T.after_null_removal(run.spaces(name))(new.f.double())
        whole, logits = B(new.f)
        V_n = run.spaces(name).null_basis
        rest = B.rest(new.f.double()) @ torch.linalg.pinv(B.white @ V_n).mT @ V_n.mT  # u as a feature: (N, m)
        ways = {GIVEN: (Tf, tilde, _blind(run, name, draws))}
        with contextlib.suppress(SingError):  # too few photos
            exact = _fitter(run, name).solve(ridge=0.0)
            ways["least squares"] = (exact(new.f.double()), exact(new.f.double() - rest), {})
        ways["beyond the logits"] = (whole, logits, _nothing(run, name, draws))
        for way, (before, after, zero) in ways.items():
            rows.append(
                {"classifier": name, "way": way}
                | _statistics(before, after, texts, new.own)
                | {"R²": quality(before, new.z).r2}
                | {f"zero of {k}": zero.get(k, np.nan) for k in ("IS", "|AS|", "contrast")}
            )
    return pd.DataFrame(rows)


def _fitter(run: Run, name: str) -> TranslatorFitter:
    """The sums of the photos that a classifier's translator was fitted on."""
    fit, p = run.photos(name, "fit"), run.profile
    rows, _ = split_rows(len(fit), held_out=p.held_out, seed=p.seed)
    fitter = TranslatorFitter(fit.f.shape[1], fit.z.shape[1])
    fitter.update(fit.f[rows], fit.z[rows])
    return fitter


def _blind(run: Run, name: str, draws: int) -> dict[str, float]:
    fit, new, T = run.photos(name, "fit"), run.photos(name), run.translator(name)
    assert T.report is not None
    rows, _ = split_rows(len(fit), held_out=T.report.held_out, seed=T.report.seed)
    given = (T, T.report.ridge, run.spaces(name), (fit.f[rows], fit.z[rows]), (new.f, new.z))
    worlds = blind_scores(*given, run.texts(name, run.prompts), new.own, draws=draws, seed=run.seed)
    return pd.DataFrame([w.statistics() for w in worlds]).mean().to_dict()


def _nothing(run: Run, name: str, draws: int) -> dict[str, float]:
    fit, new, p = run.photos(name, "fit"), run.photos(name), run.profile
    worlds = run.beyond(name).by_chance(fit.f, fit.z, draws=draws, held_out=p.held_out, seed=p.seed)
    texts = run.texts(name, run.prompts)
    return pd.DataFrame([_statistics(*w(new.f), texts, new.own) for w in worlds]).mean().to_dict()


# ------------------------------------------------------------------------------- more outputs


def more_outputs(
    B: BeyondLogits, fit: Photos, new: Photos, ks: Sequence[int], *, held_out: float, seed: int
) -> pd.DataFrame:
    """What k further outputs of a head would tell of the embedding: one row a k.

    The outputs read the k directions beyond the logits that say most (singular vectors of Γ); the old logits
    stay. R²: share of the embeddings' variance on new photos that they tell beyond the old logits. by chance:
    the same where what the logits leave of the embeddings was exchanged among photos.

    Args:
        B: of the head.
        fit, new: photos to fit on, and photos to judge by; see `Run.photos`.
        ks: numbers of outputs; larger ones than there are directions count as all.
        held_out, seed: as they were given to `BeyondLogits.fit`.
    """
    worlds = {"R²": B, "by chance": next(B.by_chance(fit.f, fit.z, draws=1, held_out=held_out, seed=seed))}
    _, held = split_rows(len(fit.f), held_out=held_out, seed=seed)
    left, wanted = new.z - B(new.f)[1], fit.z[held] - B(fit.f[held])[1]
    u, u_held = B.rest(new.f), B.rest(fit.f[held])
    total = (new.z - new.z.mean(0)).square().sum()
    found: dict[str, list[float]] = {}
    for what, world in worlds.items():
        L, S, R = torch.linalg.svd(world.gamma, full_matrices=False)
        found[what] = []
        for k in ks:
            G = (L[:, :k] * S[:k]) @ R[:k]  # (n, d)
            adds, tried = u @ G.mT, u_held @ G.mT
            size = float(tried.square().sum())
            s = min(max(float((tried * wanted).sum()) / size, 0.0), 1.0) if size else 0.0
            gain = left.square().sum() - (left - s * adds).square().sum()
            found[what].append(float(gain / total))
    return pd.DataFrame({"outputs": list(ks), **found})
