"""Tidy tables: one row an observation, angles in degrees, ready for Parquet and charts."""

from __future__ import annotations

import itertools
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
import torch
from pandas.io.formats.style import Styler
from scipy import stats
from torch import Tensor

from sing_utils.evidence.controls import Scores
from sing_utils.evidence.intervals import (
    Sure,
    bootstrap,
    bootstrap_places,
    false_discovery,
    mean_error,
    sure,
    sure_mean,
)
from sing_utils.evidence.translators import Pairs
from sing_utils.method.scores import pairwise_angle
from sing_utils.method.translator import Translator, TranslatorFitter, quality, split_rows
from sing_utils.runs.run import Photos, Run
from sing_utils.show.controls import page

_PLACES = ("place", "place low", "place high")


# ------------------------------------------------------------------------------ 00 set-up


def shown(run: Run, table: pd.DataFrame, digits: int = 2, **more: int) -> Styler:
    """A table for a page, with short names of classifiers; see `sing_utils.show.controls.page`."""
    named = [c for c in ("classifier", "first", "second", "a", "b") if c in table]
    return page(table.replace(dict.fromkeys(named, run.short)), digits, **more)


def photo_counts(run: Run) -> pd.DataFrame:
    """One row a class: photos to fit and to evaluate, and whether they were enlarged."""
    index = run.photos(run.classifiers[0], "all").index
    counts = index.groupby(["class", "evaluation"], sort=False).size().unstack(fill_value=0)
    labels = index.groupby("class", sort=False)["label"].first()
    table = pd.DataFrame({"to fit": counts[False], "to evaluate": counts[True]}).reset_index()
    enlarged = table["class"].map(labels).isin(run.profile.low_resolution)
    return table.assign(**{"enlarged from 64 × 64": enlarged.map({True: "yes", False: ""})})


def low_resolution_note(run: Run) -> str:
    """What a caption adds wherever classes are compared; nothing if all photos are of one kind."""
    names = [run.class_names[x] for x in run.profile.low_resolution if x in run.class_names]
    return (
        f" The photographs of {', '.join(names)} were 64 × 64 pixels before they were enlarged."
        if names
        else ""
    )


# -------------------------------------------------------------------------- 01 translators


def translator_fits(run: Run) -> pd.DataFrame:
    """One row a classifier and method: how well its translator does on evaluation photos.

    left out: the encoder's towers that did not judge it, since it is built on them.
    """
    return pd.DataFrame(
        _fit_row(name, run.translator(name, method), run.photos(name))
        | {"left out": ", ".join(run.judge(name).left_out)}
        for name in run.classifiers
        for method in ("ridge", "adamw")
    )


def translator_cosines(run: Run) -> pd.DataFrame:
    """One row a classifier and evaluation photo: class, path, cosine of T f and z."""
    frames = []
    for name in run.classifiers:
        new, T = run.photos(name), run.translator(name)
        cosine = torch.cosine_similarity(T(new.f), new.z, dim=-1).numpy()
        frames.append(new.index[["class", "path"]].assign(classifier=name, cosine=cosine))
    return pd.concat(frames, ignore_index=True)


def compare_losses(run: Run, name: str) -> tuple[pd.DataFrame, pd.DataFrame]:
    """The paper's three losses for one classifier: final quality, and the curves (Figure 7).

    The row "exact" is the minimiser of the squared error, in closed form. The others stand beside it: gain,
    mean difference of the cosines; ratio, of the mean squared errors; each with its interval over evaluation
    photos. converged: training stopped by itself, before the profile's last epoch.
    """
    p, fit, evaluation = run.profile, run.photos(name, "fit"), run.photos(name)
    options: dict[str, Any] = {"held_out": p.held_out, "seed": p.seed, "epochs": p.adamw_epochs}
    fits = {"exact": run.translator(name), "mse": run.translator(name, "adamw")}
    for loss in ("cosine", "both"):
        fits[loss] = Translator.fit(fit.f, fit.z, method="adamw", loss=loss, **options)
    cosines, errors = _photo_fits(fits["exact"], evaluation)
    rows, curves = [], []
    for loss, T in fits.items():
        assert T.report is not None
        row = _fit_row(name, T, evaluation) | {"loss": loss, "converged": True}
        if loss != "exact":
            curves.append(pd.DataFrame(T.report.history).assign(loss=loss))
            cosine, error = _photo_fits(T, evaluation)
            row |= ends(_bootstrap(run, lambda x: x.mean(-1), cosine - cosines), "gain")
            row |= ends(_bootstrap(run, lambda x, y: y.mean(-1) / x.mean(-1), errors, error), "ratio")
            row["converged"] = curves[-1]["epoch"].max() < p.adamw_epochs
        rows.append(row)
    return pd.DataFrame(rows), pd.concat(curves, ignore_index=True)


def exact_minimum(run: Run, name: str) -> dict[str, float]:
    """Error and cosine of a classifier's closed-form translator on the photos that its fit set aside."""
    T, (_, (f, z)) = run.translator(name), fitted(run, name)
    assert T.report is not None
    return {"mse": float((T(f) - z).square().sum(-1).mean()), "cosine": T.report.held_out_cosine}


def fitted(run: Run, name: str) -> tuple[Pairs, Pairs]:
    """Features (N, m) and embeddings (N, n) of the photos a translator was fitted on, and that chose λ."""
    fit, report = run.photos(name, "fit"), run.translator(name).report
    assert report is not None
    rows, held = split_rows(len(fit), held_out=report.held_out, seed=report.seed)
    return (fit.f[rows], fit.z[rows]), (fit.f[held], fit.z[held])


def _photo_fits(T: Translator, photos: Photos) -> tuple[np.ndarray, np.ndarray]:
    """Cosine and squared error of each photo: (N,) each."""
    Tf = T(photos.f)
    cosine = torch.cosine_similarity(Tf, photos.z, dim=-1)
    return cosine.numpy(), (Tf - photos.z).square().sum(-1).numpy()


def _fit_row(name: str, T: Translator, photos: Photos) -> dict[str, Any]:
    assert T.report is not None
    score, (cosines, errors) = quality(T(photos.f), photos.z), _photo_fits(T, photos)
    row: dict[str, Any] = {"classifier": name, "method": T.report.method, "loss": T.report.loss}
    row |= {"photos to fit": T.report.n_fit, "photos to evaluate": len(photos), "cosine": score.cosine}
    spread = float(cosines.std(ddof=1)) if len(cosines) > 1 else math.nan
    return row | {"cosine sd": spread, "R²": score.r2, "squared error": float(errors.mean())}


# ------------------------------------------------------------------------ 02 and 03 scores


def photo_scores(run: Run) -> pd.DataFrame:
    """AS toward the true class prompt, its contrast to the other classes' prompts, and IS: degrees.

    The same beyond the logits. One row a classifier and evaluation photo.
    """
    frames = []
    for name in run.classifiers:
        photos, T = run.photos(name), run.translator(name)
        given, Tf = (run.texts(name, run.prompts), photos.own), T(photos.f)
        removed = Scores.of(Tf, T.after_null_removal(run.spaces(name))(photos.f), *given)
        beyond = Scores.of(*run.beyond(name)(photos.f), *given)
        cosine = torch.cosine_similarity(Tf, photos.z, dim=-1).numpy()
        known = photos.index[["class", "label", "path"]].assign(classifier=name)
        frames.append(known.assign(**removed.columns(), **beyond.columns(" beyond"), cosine=cosine))
    return pd.concat(frames, ignore_index=True)


def worlds_by_chance(run: Run, name: str, *, draws: int) -> list[Scores]:
    """Scores beyond the logits of the evaluation photos in worlds where nothing is beyond them."""
    fit, new, p = run.photos(name, "fit"), run.photos(name), run.profile
    worlds = run.beyond(name).by_chance(fit.f, fit.z, draws=draws, held_out=p.held_out, seed=p.seed)
    return [Scores.of(*world(new.f), run.texts(name, run.prompts), new.own) for world in worlds]


def beyond_by_chance(run: Run, *, draws: int = 10) -> pd.DataFrame:
    """What is found beyond the logits where nothing is: means over worlds, one row a classifier.

    Mean IS, |AS| and contrast over evaluation photos, degrees.
    """
    rows = []
    for name in run.classifiers:
        found = pd.concat([pd.DataFrame(w.columns()) for w in worlds_by_chance(run, name, draws=draws)])
        row = {"IS (°)": found["IS"], "|AS| (°)": found["AS"].abs(), "contrast (°)": found["contrast"]}
        rows.append({"classifier": name, **{k: v.mean() for k, v in row.items()}})
    return pd.DataFrame(rows)


def ridge_sensitivity(run: Run, *, factors: Sequence[float] = (0.01, 0.1, 1, 10, 100)) -> pd.DataFrame:
    """Median IS and |AS| (degrees) and cosine on evaluation photos, had the ridge been another.

    One row a classifier and factor on the chosen ridge: what a score owes to that choice. Fitted on
    the rows that the kept translator was fitted on, so that factor 1 repeats its scores.
    """
    rows = []
    for name in run.classifiers:
        photos, (fit, _), report = run.photos(name), fitted(run, name), run.translator(name).report
        assert report is not None
        fitter = TranslatorFitter(fit[0].shape[1], fit[1].shape[1])
        fitter.update(*fit)
        for factor in factors:
            T = Translator(fitter.solve(ridge=factor * report.ridge).weight.to(photos.f))
            Tf, Tf_tilde = T(photos.f), T.after_null_removal(run.spaces(name))(photos.f)
            found = Scores.of(Tf, Tf_tilde, run.texts(name, run.prompts), photos.own).statistics()
            rows.append(
                {
                    "classifier": name,
                    "ridge, × chosen": factor,
                    "cosine of Tf and z": quality(Tf, photos.z).cosine,
                    "median IS (°)": found["IS"],
                    "median |AS| (°)": found["|AS|"],
                }
            )
    return pd.DataFrame(rows)


def refitted(run: Run, name: str, photos: pd.DataFrame) -> dict[str, np.ndarray]:
    """Scores of some of the evaluation photos by each refit of the translator: column -> (R, N), degrees.

    Args:
        run: whose.
        name: of the classifier.
        photos: rows of `photo_scores`.
    """
    evaluation = run.photos(name)
    rows = pd.Index(evaluation.index["path"]).get_indexer(photos["path"])
    return {k: v[:, rows] for k, v in run.refits(name).columns().items()}


def _sure(run: Run, statistic: Any, photos: pd.DataFrame, halves: Mapping[str, Any], *columns: str) -> Sure:
    """A statistic of columns, None for the mean, with the errors of photos and translator joined."""
    level = run.profile.confidence
    if statistic is None:
        return sure_mean(photos[columns[0]], halves[columns[0]], level=level)
    with np.errstate(divide="ignore", invalid="ignore"):  # a draw of one photo again and again
        if len(photos) < 2:  # has no interval
            value = statistic(*(photos[c].to_numpy()[None] for c in columns))[0]
            return sure(value, np.nan, 1, [np.nan])
        ci = _bootstrap(run, statistic, *(photos[c] for c in columns))
        spread = statistic(*(halves[c] for c in columns))
    return sure(ci.value, ci.error, len(photos), spread, level=level)


def _size(x: Any) -> Any:
    return np.median(np.abs(x), -1)


# Statistics of a classifier's photos that have intervals: name -> how, None for the mean, of which columns.
_STATISTICS: dict[str, tuple[Any, tuple[str, ...]]] = {
    "mean contrast (°)": (None, ("contrast",)),
    "mean contrast, beyond (°)": (None, ("contrast beyond",)),
    "median |AS| (°)": (_size, ("AS",)),
    "median IS (°)": (lambda i: np.median(i, -1), ("IS",)),
    "IS / |AS|": (lambda i, a: i.mean(-1) / np.abs(a).mean(-1), ("IS", "AS")),
    "log variance ratio": (lambda i, a: np.log(i.var(-1) / a.var(-1)), ("IS", "AS")),
}
_ENDS = {"mean contrast (°)": "contrast ", "IS / |AS|": "ratio ", "log variance ratio": ""}


def spreads(scores: pd.DataFrame, run: Run) -> pd.DataFrame:
    """One row a classifier: contrast, |AS|, IS, mean IS / mean |AS| and log(Var IS / Var AS), with intervals.

    Intervals say what other photos of these classes, and as many other photos to fit the translator on, would
    give. Above 0 the confidence ellipse of Figure 3 is taller than wide.
    """
    rows = []
    for name, own in scores.groupby("classifier", sort=False):
        row = {"classifier": name, "photos": len(own), "mean AS (°)": own["AS"].mean()}
        row |= {f"sd {c} (°)": own[c].std() for c in ("AS", "IS")}
        halves = refitted(run, name, own)
        for statistic, (function, columns) in _STATISTICS.items():
            row |= ends(_sure(run, function, own, halves, *columns), statistic, _ENDS.get(statistic))
        rows.append(row)
    return pd.DataFrame(rows)


def enlarged_or_not(scores: pd.DataFrame, run: Run) -> pd.DataFrame:
    """`spreads` over all classes, and over those whose photographs were not enlarged (`low_resolution`)."""
    kept = scores[~scores["label"].isin(run.profile.low_resolution)]
    groups = {"all": scores} | ({"not enlarged": kept} if 0 < len(kept) < len(scores) else {})
    found = [
        spreads(own, run).assign(classes=f"{own['class'].nunique()}, {which}")
        for which, own in groups.items()
    ]
    return pd.concat(found, ignore_index=True)


def class_medians(scores: pd.DataFrame, run: Run) -> pd.DataFrame:
    """Median |AS| of each classifier and class with its interval, and beyond the logits, degrees.

    What the intervals say: as for `spreads`.
    """
    rows = []
    for (name, c), own in scores.groupby(["classifier", "class"], sort=False):
        found = _sure(run, _size, own, refitted(run, name, own), "AS")
        beyond, label = own["AS beyond"].abs().median(), own["label"].iloc[0]
        row = {"classifier": name, "class": c, "photos": len(own), **ends(found)}
        rows.append(row | {"beyond the logits": beyond, "enlarged": label in run.profile.low_resolution})
    return pd.DataFrame(rows)


def rank_correlations(scores: pd.DataFrame, run: Run) -> pd.DataFrame:
    """Spearman correlation of the classes' median |AS| for each pair of classifiers.

    The interval (of Fisher's z) joins photos, resampled within their classes, and the translators, refitted
    on the same halves for both. p tests rho = 0 by exchanging the classes of one classifier; q is corrected
    for all pairs (false discovery rate). not enlarged: rho over those classes. (Beyond the logits orders say
    nothing: they agree between classifiers also in worlds where nothing is there.)
    """
    rng = np.random.default_rng(run.seed)
    draws = run.profile.bootstrap_draws
    drawn: dict[str, np.ndarray] = {}  # (draws, classes)
    medians: dict[str, pd.Series] = {}  # by class
    halves: dict[str, np.ndarray] = {}  # (refits, classes)
    sharp: list[str] = []
    for name, own in scores.groupby("classifier", sort=False):
        classes, refits = own.groupby("class"), refitted(run, name, own)["AS"]
        medians[name] = classes["AS"].agg(_size)
        groups = [photos["AS"].to_numpy() for _, photos in classes]
        drawn[name] = np.stack([_size(a[rng.integers(0, len(a), (draws, len(a)))]) for a in groups], -1)
        halves[name] = np.stack([_size(refits[:, (own["class"] == c).to_numpy()]) for c, _ in classes], -1)
        sharp = [c for c, photos in classes if photos["label"].iloc[0] not in run.profile.low_resolution]
    out = []
    for a, b in itertools.combinations(medians, 2):
        one, other = medians[a].to_numpy(), medians[b].to_numpy()
        rho = _row_spearman(one[None], other[None])[0]
        error = _fisher(_row_spearman(drawn[a], drawn[b])).std(ddof=1)
        spread = _fisher(_row_spearman(halves[a], halves[b]))
        found = sure(_fisher(rho), error, len(scores), spread, level=run.profile.confidence)
        row = {"a": a, "b": b, "rho": rho, "low": np.tanh(found.low), "high": np.tanh(found.high)}
        row |= {"p": _order_p(run, one, other), "classes": len(one)}
        row["not enlarged"] = medians[a][sharp].corr(medians[b][sharp], "spearman")
        out.append(row)
    table = pd.DataFrame(out, columns=["a", "b", "rho", "low", "high", "p", "classes", "not enlarged"])
    return table.assign(q=false_discovery(table["p"]), permutations=run.profile.permutations)


def _fisher(rho: Any) -> np.ndarray:
    """Fisher's z of correlations, whose errors are about alike for all; finite at 1."""
    return np.arctanh(np.clip(rho, -1 + 1e-9, 1 - 1e-9))


def _order_p(run: Run, x: np.ndarray, y: np.ndarray) -> float:
    """Two-sided p of no rank correlation of classes, by exchanging classes at random."""
    if len(x) < 3:
        return float("nan")
    test = stats.permutation_test(
        (x,),
        lambda a, axis: _row_spearman(np.atleast_2d(a), np.broadcast_to(y, np.atleast_2d(a).shape)),
        permutation_type="pairings",
        vectorized=True,
        n_resamples=run.profile.permutations,
        random_state=np.random.default_rng(run.seed),
    )
    return float(np.squeeze(test.pvalue))


def concept_angles(run: Run) -> pd.DataFrame:
    """Mean angle of each concept to the chosen classes' photos before and after, degrees.

    AS is their difference (eq. 7): positive where null removal brings the photos closer. margin, before
    margin: half widths of the intervals of AS and before, with the errors of photos and of the translator.
    place: among the concepts by `before`, 1 for the nearest, from place low to place high. p: "AS is 0";
    q: corrected for all rows of the table (false discovery rate).
    """
    p, frames = run.profile, []
    for name in run.classifiers:
        texts = run.texts(name, run.concepts)  # (K, n)
        for c in run.concept_classes:
            x, y, paths = class_angles(run, name, c, texts)  # (N, K) each
            near = _of_phrases(run, name, c, run.refits(name).before)[..., : len(texts)]  # (R, K)
            angle = sure(x.mean(0), mean_error(x), len(x), near, level=p.confidence)
            turn = sure_phrases(run, name, c, x - y)
            columns = {
                "before": angle.value,
                "before margin": angle.high - angle.value,
                "after": y.mean(0),
                "AS": turn.value,
                "margin": turn.high - turn.value,
                "p": turn.p,
            }
            frame = pd.DataFrame(columns).assign(classifier=name, concept=run.concepts, photos=len(paths))
            frame[list(_PLACES)] = np.nan  # a single photo has no interval
            if len(paths) > 1:
                places = bootstrap_places(x, near, level=p.confidence, draws=p.bootstrap_draws, seed=p.seed)
                frame[list(_PLACES)] = np.stack(places, axis=-1)
            frames.append(frame.assign(**{"class": c}))
    table = pd.concat(frames, ignore_index=True)
    return table.assign(q=false_discovery(table["p"]))


def concept_sizes(run: Run) -> pd.DataFrame:
    """How much concepts move for a class, toward it or away: root mean square of their mean AS.

    One row a classifier and class: value, low, high (degrees), photos. What errors of photos and translator
    add to the square is taken off, so that chance has the size 0.
    """
    rows = []
    for name in run.classifiers:
        texts = run.texts(name, run.concepts)  # (K, n)
        for c in run.concept_classes:
            x, y, paths = class_angles(run, name, c, texts)  # (N, K) each
            halves = _of_phrases(run, name, c, run.refits(name).toward)[..., : len(texts)]  # (R, K)
            sizes = size_of((x - y).numpy(), halves, level=run.profile.confidence)
            row = {"classifier": name, "class": c, "photos": len(paths)}
            rows.append(row | dict(zip(("value", "low", "high"), sizes, strict=True)))
    return pd.DataFrame(rows)


def sure_phrases(run: Run, name: str, c: str, AS: Tensor) -> Sure:
    """Mean AS of a class's photos toward the first of the profile's phrases, (N, J), with both errors."""
    refits, (N, J) = run.refits(name), AS.shape
    toward, shared = (_of_phrases(run, name, c, x)[..., :J] for x in (refits.toward, refits.shared))
    level = run.profile.confidence
    return sure(AS.double().mean(0), mean_error(AS), N, toward, level=level, shared=shared)


def _of_phrases(run: Run, name: str, c: str, x: Tensor) -> np.ndarray:
    """What refits say of a class's photos and the profile's phrases: (..., C, P) -> (..., J)."""
    return x[..., run.classes.index(c), len(run.classes) :].double().numpy()


def size_of(AS: np.ndarray, halves: np.ndarray, *, level: float) -> list[float]:
    """Root mean square over concepts of the mean AS of photos (N, K), without its errors; low and high.

    Args:
        AS: of each photo toward each concept, (N, K).
        halves: mean AS by each refit, (R, K).
        level: coverage of the interval.
    """
    mean = AS.mean(0)  # (K,)
    noise = (mean_error(AS) ** 2 + halves.var(0)).mean()
    # To first order the mean of squares is a mean over photos, of their products with the mean.
    along = 2 * (AS * mean).mean(1)  # (N,)
    found = sure((mean**2).mean() - noise, mean_error(along), len(AS), (halves**2).mean(1), level=level)
    return [float(np.sqrt(np.maximum(x, 0.0))) for x in (found.value, found.low, found.high)]


def class_angles(run: Run, name: str, c: str, texts: Tensor) -> tuple[Tensor, Tensor, list[str]]:
    """Angles of a class's evaluation photos to K texts before and after null removal, degrees.

    Returns:
        (N, K) each, and the photos' paths.
    """
    evaluation, T = run.photos(name), run.translator(name)
    own = evaluation.of(c)
    after = T.after_null_removal(run.spaces(name))
    return (
        pairwise_angle(T(own.f), texts),
        pairwise_angle(after(own.f), texts),
        own.index["path"].to_list(),
    )


def failures(run: Run, scores: pd.DataFrame) -> pd.DataFrame:
    """Do |AS| and IS tell the photos that a classifier misnames from those that it names rightly?

    One row a classifier and score: ROC area (0.5 is chance) with its interval over photos, photos, misnamed.
    Classes that the head has no output for, by its labels, are left out; a head without labels wholly.

    Args:
        run: whose classifiers.
        scores: of `photo_scores`.
    """
    rows = []
    for name, own in scores.groupby("classifier", sort=False):
        head = run.head(name)
        outputs = _outputs(head.labels or ())
        true = own["class"].str.lower().map(outputs)
        named = head.logits(run.photos(name).f).argmax(-1).numpy()
        known = true.notna().to_numpy()
        wrong = (named != true)[known].to_numpy()
        if not 0 < wrong.sum() < len(wrong):
            continue  # nothing to tell apart
        for score in ("AS", "IS"):
            ci = _bootstrap(run, _roc_area, own[score].abs()[known], wrong)
            row = {"classifier": name, "score": "|AS|" if score == "AS" else score, **ends(ci)}
            rows.append(row | {"photos": len(wrong), "misnamed": int(wrong.sum())})
    return pd.DataFrame(rows, columns=["classifier", "score", "value", "low", "high", "photos", "misnamed"])


def _outputs(labels: Sequence[str]) -> dict[str, int]:
    """Output of each label in small letters; also of its first synonym, where no other has that.

    >>> _outputs(["tench, Tinca tinca", "Washington, D.C.", "Washington, state"])["tench"]
    0
    """
    names = [label.lower() for label in labels]
    firsts = [name.split(",")[0] for name in names]
    times = Counter(firsts)
    return {f: i for i, f in enumerate(firsts) if times[f] == 1} | {n: i for i, n in enumerate(names)}


def _roc_area(score: np.ndarray, positive: np.ndarray) -> np.ndarray:
    """Area under the ROC curve, by ranks: (..., N) twice -> (...,); NaN where all are of one kind."""
    ranks, n = stats.rankdata(score, axis=-1), positive.sum(-1)
    with np.errstate(divide="ignore", invalid="ignore"):
        area: np.ndarray = ((ranks * positive).sum(-1) - n * (n + 1) / 2) / (n * (score.shape[-1] - n))
    return area


# --------------------------------------------------------------------------------- shared


def _bootstrap(run: Run, statistic: Any, *samples: Any) -> Any:
    p = run.profile
    return bootstrap(statistic, *samples, level=p.confidence, draws=p.bootstrap_draws, seed=p.seed)


def ends(found: Any, value: str = "value", tail: str | None = None) -> dict[str, float]:
    """A statistic and its interval as columns of a row: value, and low and high after `tail`."""
    tail = ("" if value == "value" else f"{value} ") if tail is None else tail
    return {value: found.value, f"{tail}low": found.low, f"{tail}high": found.high}


def _row_spearman(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Spearman correlation of each row of a with that row of b: (D, K), (D, K) -> (D,)."""
    x, y = (stats.rankdata(v, axis=-1) for v in (a, b))
    x, y = (v - v.mean(-1, keepdims=True) for v in (x, y))
    return (x * y).sum(-1) / np.sqrt((x**2).sum(-1) * (y**2).sum(-1))
