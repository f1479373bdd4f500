"""Tables of notebook 07: the same network, with the same logits, written in other bases. Angles in degrees.

A change of basis that is diagonal in some coordinates turns the sums of a translator's fit into those of the
changed features, so that no photo is read again. Translators have the ridge that `Translator.fit` would
choose for the changed features.
"""

from __future__ import annotations

import contextlib
import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from sing_utils.errors import SingError
from sing_utils.evidence.controls import Scores
from sing_utils.measure.controls import blind
from sing_utils.measure.tables import fitted, worlds_by_chance
from sing_utils.method.beyond import BeyondLogits
from sing_utils.method.translator import RIDGES, TranslatorFitter, least, quality, split_rows
from sing_utils.planted.heads import Planted
from sing_utils.planted.scenes import FACTORS
from sing_utils.planted.scores import World
from sing_utils.runs.run import Photos, Run
from sing_utils.show.findings import number

MOST = 3.0  # a rescaling's largest entry over its smallest
SCALES = tuple(10 ** (k / 6) for k in range(-6, 7))  # of the null component, from a tenth to ten
GIVEN = "as given"
SCORES = ("IS", "|AS|", "contrast")


@dataclass(frozen=True, eq=False)
class _Photos:
    """A classifier's photos in some coordinates, to be written in bases that rescale each of them.

    Attributes:
        fitter: sums of the rows to fit.
        held: the rows that choose the ridge: (H, m) and (H, n).
        f: features of the evaluation photos, (N, m).
        null: basis of the null space, (m, m - r).
        ridge: chosen for these features, relative to their mean square.
        texts: embeddings of all classes' prompts, (C, n).
        own: number of each evaluation photo's class, (N,).
    """

    fitter: TranslatorFitter
    held: tuple[Tensor, Tensor]
    f: Tensor
    null: Tensor
    ridge: float
    texts: Tensor
    own: Tensor

    @classmethod
    def of(cls, run: Run, name: str, axes: Tensor | None = None) -> _Photos:
        """Those of a classifier, in the coordinates of orthonormal axes (m, m); None: as given."""
        (fit, held), new, report = fitted(run, name), run.photos(name), run.translator(name).report
        assert report is not None
        axes = torch.eye(new.f.shape[1], dtype=torch.float64) if axes is None else axes
        sums = _sums(fit[0].double() @ axes, fit[1])
        f, null = new.f.double() @ axes, axes.mT @ run.spaces(name).null_basis
        chosen, ridge = (held[0].double() @ axes, held[1].double()), report.ridge / sums.mean_square()
        return cls(sums, chosen, f, null, ridge, run.texts(name, run.prompts), new.own)

    def rescaled(self, d: Tensor) -> dict[str, float]:
        """Median IS and |AS| and mean contrast of the features d * f, whose head is W / d: d (m,)."""
        fitter, (f, z), tried = _scaled(self.fitter, d), self.held, dict[int, Tensor]()
        unit, start = fitter.mean_square(), int(np.abs(np.log(np.array(RIDGES) / self.ridge)).argmin())

        def error(place: int) -> float:
            tried[place] = fitter.solve(ridge=unit * RIDGES[place]).weight
            return float(((f * d) @ tried[place].mT - z).square().sum())

        T = tried[least(error, [start], len(RIDGES))]
        return Scores.of(*self._removed(d, T), self.texts, self.own).statistics()

    def slopes(self) -> dict[str, Tensor]:
        """How mean |AS| and mean contrast change with the logarithm of each coordinate's scale: (m,) each."""
        power = torch.zeros(self.f.shape[1], dtype=torch.float64, requires_grad=True)
        fitter = _scaled(self.fitter, power.exp())
        unit = fitter.ff.diagonal().mean() / fitter.n_rows
        lhs = fitter.ff / fitter.n_rows + self.ridge * unit * torch.eye(len(power), dtype=torch.float64)
        T = torch.linalg.solve(lhs, fitter.fz / fitter.n_rows).mT  # eq. 4
        before, after = self._removed(power.exp(), T)
        found = Scores.of(before, after, self.texts, self.own)
        means = {"|AS|": found.AS.abs().mean(), "contrast": found.contrast.mean()}
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


def stretches(run: Run, scales: Sequence[float] = SCALES) -> pd.DataFrame:
    """The null part of every feature times s, W as it is: one row a classifier and s.

    Median IS and |AS| and mean contrast, of null removal and beyond the logits (fitted once, in the given
    basis); how far a logit moved, relative to the largest; how many directions lie beyond the logits.
    """
    rows = []
    for name in run.classifiers:
        new, spaces, B = run.photos(name), run.spaces(name), run.beyond(name)
        f, axes = new.f.double(), torch.cat([spaces.principal_basis, spaces.null_basis], 1)
        drift = float((spaces.null_component(f) @ spaces.weight.mT).abs().max())
        drift /= float((f @ spaces.weight.mT).abs().max())
        beyond = Scores.of(*B(f), run.texts(name, run.prompts), new.own).statistics()
        known = {f"{k} beyond": beyond[k] for k in SCORES} | {"directions beyond": len(B.white)}
        photos, d = _Photos.of(run, name, axes), torch.ones(spaces.width, dtype=torch.float64)
        for s in scales:
            d[spaces.rank :] = s
            found = photos.rescaled(d)
            row = {"classifier": name, "s": s, **{k: found[k] for k in SCORES}, **known}
            rows.append(row | {"logits moved": abs(s - 1) * drift})
    return pd.DataFrame(rows)


def rescalings(run: Run, *, draws: int = 12) -> pd.DataFrame:
    """Each classifier's features times a diagonal whose largest entry is `MOST` times its smallest.

    One row a classifier and basis: as given; random diagonals; and those that follow the slope of mean |AS|,
    or of mean contrast, down and up, each coordinate as far as it may, or a little way.
    """
    rows = []
    for i, name in enumerate(run.classifiers):
        photos, spaces = _Photos.of(run, name), run.spaces(name)
        bases = {GIVEN: torch.zeros(spaces.width, dtype=torch.float64)}
        for score, slope in photos.slopes().items():
            bases |= {f"slope of {score}, {t:+g}": t * slope.sign() for t in (-0.5, -0.03, 0.5)}
        g = torch.Generator().manual_seed(run.seed + i)
        for j in range(draws):
            bases[f"random {j + 1}"] = torch.rand(spaces.width, generator=g, dtype=torch.float64) - 0.5
        for basis, power in bases.items():
            found = photos.rescaled(MOST**power)
            rows.append({"classifier": name, "basis": basis, **{k: found[k] for k in SCORES}})
    return pd.DataFrame(rows)


def orders(table: pd.DataFrame) -> pd.DataFrame:
    """One row a score: how often the classifiers keep the order they are given in, each in a random basis.

    Columns: score; order kept, the share of all combinations of the random bases; by chance; combinations.

    Args:
        table: of `rescalings`; each classifier has random bases of its own.
    """
    rows = []
    for score in SCORES:
        wide = table.pivot(index="basis", columns="classifier", values=score)
        given = wide.loc[GIVEN].sort_values().index
        drawn = wide.loc[wide.index.str.startswith("random"), given].to_numpy()  # (draws, K), K ascending
        ways = np.ones(len(drawn))  # of ascending values so far that end in each draw
        for below, above in itertools.pairwise(drawn.T):
            ways = ways @ (below[:, None] < above)
        total = len(drawn) ** len(given)
        kept = float(ways.sum() / total) if wide.loc[GIVEN].notna().all() else float("nan")
        chance = 1 / math.factorial(len(given))
        rows.append({"score": score, "order kept": kept, "by chance": chance, "combinations": total})
    return pd.DataFrame(rows)


def readings(run: Run, *, draws: int = 5) -> pd.DataFrame:
    """Three ways to compare a feature with what its logits know: one row a classifier and way.

    As given: null removal in the network's basis, and the translator with its ridge. Least squares: f~ = μ +
    ΣWᵀ(WΣWᵀ)⁺W(f - μ), with Σ the features' covariance, and T and an intercept by least squares; the same in
    every basis, and left out where photos are too few for it. Beyond the logits. Median IS and |AS|, mean
    contrast, mean IS over mean |AS|, R² of what stands in the place of T f on evaluation photos, and, where
    it is known, the same scores in worlds where null directions mean nothing ("zero").

    Args:
        run: whose classifiers.
        draws: how many such worlds.
    """
    rows = []
    for name in run.classifiers:
        new, T, spaces = run.photos(name), run.translator(name), run.spaces(name)
        f, texts = new.f.double(), run.texts(name, run.prompts)
        ways = {GIVEN: (T(f), T.after_null_removal(spaces)(f), blind(run, name, draws=draws))}
        with contextlib.suppress(SingError):  # too few photos
            ways["least squares"] = (*_least_squares(run, name, f), {})
        nothing = pd.DataFrame([w.statistics() for w in worlds_by_chance(run, name, draws=draws)]).mean()
        ways["beyond the logits"] = (*run.beyond(name)(f), nothing)
        for way, (before, after, zero) in ways.items():
            scores = Scores.of(before, after, texts, new.own)
            found, size = scores.statistics(), float(scores.AS.abs().mean())
            row = {"classifier": name, "way": way, **{k: found[k] for k in SCORES}}
            row["IS / |AS|"] = float(scores.IS.mean()) / size if size else np.nan
            row["R²"] = quality(before, new.z).r2
            rows.append(row | {f"zero of {k}": zero.get(k, np.nan) for k in SCORES})
    return pd.DataFrame(rows)


def shown_readings(table: pd.DataFrame) -> pd.DataFrame:
    """`readings` as a page shows them, with the zero of a score in brackets."""
    out = table[["classifier", "way"]].rename(columns={"way": "reading"})
    for score, digits in (("IS", 2), ("|AS|", 3), ("contrast", 3)):
        zero = table[f"zero of {score}"].map(lambda x, d=digits: "" if np.isnan(x) else f" ({number(x, d)})")
        out[f"{score} (its zero)"] = table[score].map(lambda x, d=digits: number(x, d)) + zero
    return out.assign(**{"IS / |AS|": table["IS / |AS|"], "R²": table["R²"]})


def _least_squares(run: Run, name: str, f: Tensor) -> tuple[Tensor, Tensor]:
    """T f and T f~ by least squares, with an intercept: (N, m) -> (N, n) twice."""
    sums = _sums(*fitted(run, name)[0])
    if sums.n_rows <= len(sums.ff):
        raise SingError(f"{sums.n_rows} photos to fit on, expected more than {len(sums.ff)}.")
    mu, z_mean = sums.f_sum / sums.n_rows, sums.z_sum / sums.n_rows
    centred = TranslatorFitter(*sums.fz.shape)
    centred.n_rows = sums.n_rows
    centred.ff = sums.ff - sums.n_rows * torch.outer(mu, mu)
    centred.fz = sums.fz - sums.n_rows * torch.outer(mu, z_mean)
    T = centred.solve(ridge=0.0)
    V = run.spaces(name).principal_basis  # W and V_pᵀ read the same of f
    told = torch.linalg.solve(V.mT @ centred.ff @ V, V.mT @ centred.ff)  # (r, m)
    return T(f - mu) + z_mean, T((f - mu) @ V @ told) + z_mean


def _sums(f: Tensor, z: Tensor) -> TranslatorFitter:
    """The sums of photos to fit a translator on: (N, m), (N, n)."""
    sums = TranslatorFitter(f.shape[1], z.shape[1])
    sums.update(f, z)
    return sums


# ------------------------------------------------------------------------------- more outputs


def more_outputs(
    B: BeyondLogits, fit: Photos, new: Photos, ks: Sequence[int], *, held_out: float, seed: int
) -> pd.DataFrame:
    """What k further outputs of a head would tell of the embedding: one row a k.

    The outputs read the k directions beyond the logits that say most (singular vectors of Γ); the old logits
    stay. R²: share of the embeddings' variance on new photos that they tell beyond the old logits. by chance:
    the same where what the logits leave of the embeddings was exchanged among photos. directions: how many
    lie beyond the logits.

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
    return pd.DataFrame({"outputs": list(ks), **found, "directions": len(B.white)})


def factors_told(world: World, head: Planted, B: BeyondLogits, ks: Sequence[int]) -> pd.DataFrame:
    """How much of each planted factor a head's logits and k further outputs tell: factor, outputs, R².

    R² on scenes that nothing was fitted on, of least squares of the factor's levels on logits and outputs.

    Args:
        world: the scenes.
        head: one that ignores some factors.
        B: of that head.
        ks: numbers of outputs, as in `more_outputs`; 0: the logits alone.
    """
    R = torch.linalg.svd(B.gamma, full_matrices=False)[2]
    parts = [(world.photos(head, part).f, getattr(world, part).levels) for part in ("fit", "evaluation")]
    outputs = [B.rest(f) @ R.mT for f, _ in parts]
    rows = []
    for k in ks:
        x, x_new = (
            torch.cat([head.logits(f), u[:, :k]], 1) for (f, _), u in zip(parts, outputs, strict=True)
        )
        mean = x.mean(0)
        inverse = torch.linalg.pinv(x - mean)
        for i, (factor, levels) in enumerate(FACTORS.items()):
            y, y_new = (
                torch.eye(len(levels)).double()[torch.from_numpy(own[:, i]).long()] for _, own in parts
            )
            told = y.mean(0) + (x_new - mean) @ (inverse @ (y - y.mean(0)))
            rows.append({"factor": factor, "outputs": k, "R²": quality(told, y_new).r2})
    return pd.DataFrame(rows)
