"""Tidy tables: one row an observation, angles in degrees, ready for Parquet and charts."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
import torch
from pandas.io.formats.style import Styler
from scipy import stats
from torch import Tensor

from sing_utils.intervals import (
    bootstrap,
    bootstrap_places,
    false_discovery,
    sign_flip_test,
    student_margin,
)
from sing_utils.run import Photos, Run
from sing_utils.scores import attribute_score, contrast, image_score, pairwise_angle
from sing_utils.shown_controls import page
from sing_utils.translator import Translator, TranslatorFitter, quality, split_rows

_PLACES = ("place", "place low", "place high")


# ------------------------------------------------------------------------------ 00 set-up


def shown(run: Run, table: pd.DataFrame, digits: int = 2, **more: int) -> Styler:
    """A table for a page, with short names of classifiers; see `sing_utils.shown_controls.page`."""
    named = [c for c in ("classifier", "first", "second", "a", "b") if c in table]
    return page(table.replace(dict.fromkeys(named, run.short)), digits, **more)


def networks(run: Run) -> pd.DataFrame:
    """One row a classifier: the gap at its head's rank, how W f + b meets its logits, which weights."""
    rows = []
    for name in run.classifiers:
        head, spaces = run.head(name), run.spaces(name)
        rows.append(
            {
                "classifier": name,
                "largest σ": float(spaces.singular_values[0]),
                "smallest σ kept": float(spaces.singular_values[spaces.rank - 1]),
                "|Wf + b − logits|, relative": head.identity_error,
                "weights (SHA-256)": head.sha256[:12],
            }
        )
    return pd.DataFrame(rows)


def spectra(run: Run) -> pd.DataFrame:
    """classifier, index (from 1), singular value of its head."""
    frames = []
    for name in run.profile.classifiers:
        s = run.spaces(name).singular_values.numpy()
        frames.append(
            pd.DataFrame({"classifier": name, "index": np.arange(1, len(s) + 1), "singular value": s})
        )
    return pd.concat(frames, ignore_index=True)


def null_energy(run: Run) -> pd.DataFrame:
    """Share of each evaluation photo's feature energy in the null space: percent."""
    frames = []
    for name in run.profile.classifiers:
        data = run.photos(name)
        share = 100 * run.spaces(name).null_energy(data.f).numpy()
        frames.append(data.index[["class", "path"]].assign(classifier=name, share=share, space="null space"))
    return pd.concat(frames, ignore_index=True)


def photo_counts(run: Run) -> pd.DataFrame:
    """One row a class: photos to fit and to evaluate, and whether they were enlarged."""
    index = run.photos(run.profile.classifiers[0], "all").index
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
    """One row a classifier and method: how well its translator does on evaluation photos."""
    return pd.DataFrame(
        _fit_row(name, run.translator(name, method), run.photos(name))
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
    exact = _photo_fits(fits["exact"], evaluation)
    rows, curves = [], []
    for loss, T in fits.items():
        assert T.report is not None
        row = _fit_row(name, T, evaluation) | {"loss": loss, "converged": True}
        if loss != "exact":
            curve = pd.DataFrame(T.report.history).assign(loss=loss)
            curves.append(curve)
            row |= _fits_apart(run, exact, _photo_fits(T, evaluation)) | {
                "converged": curve["epoch"].max() < p.adamw_epochs
            }
        rows.append(row)
    return pd.DataFrame(rows), pd.concat(curves, ignore_index=True)


def exact_minimum(run: Run, name: str) -> dict[str, float]:
    """Error and cosine of a classifier's closed-form translator on the photos that its fit set aside."""
    T, fit = run.translator(name), run.photos(name, "fit")
    assert T.report is not None
    _, held = split_rows(len(fit), held_out=T.report.held_out, seed=T.report.seed)
    error = (T(fit.f[held]) - fit.z[held]).square().sum(-1).mean()
    return {"mse": float(error), "cosine": T.report.held_out_cosine}


def _photo_fits(T: Translator, evaluation: Photos) -> tuple[np.ndarray, np.ndarray]:
    """Cosine and squared error of each photo: (N,) each."""
    Tf = T(evaluation.f)
    cosine = torch.cosine_similarity(Tf, evaluation.z, dim=-1)
    return cosine.numpy(), (Tf - evaluation.z).square().sum(-1).numpy()


def _fits_apart(
    run: Run, one: tuple[np.ndarray, np.ndarray], other: tuple[np.ndarray, np.ndarray]
) -> dict[str, float]:
    """How much the second of two fits gains in cosine, and its squared error relative to the first's."""
    gain = _bootstrap(run, lambda x: x.mean(-1), other[0] - one[0])
    ratio = _bootstrap(run, lambda x, y: y.mean(-1) / x.mean(-1), one[1], other[1])
    found = {"gain": gain, "ratio": ratio}
    ends = {f"{k} {end}": getattr(v, end) for k, v in found.items() for end in ("low", "high")}
    return {k: v.value for k, v in found.items()} | ends


def _fit_row(name: str, T: Translator, evaluation: Photos) -> dict[str, Any]:
    assert T.report is not None
    score = quality(T(evaluation.f), evaluation.z)
    cosines, errors = _photo_fits(T, evaluation)
    return {
        "classifier": name,
        "method": T.report.method,
        "loss": T.report.loss,
        "photos to fit": T.report.n_fit,
        "photos to evaluate": len(evaluation.f),
        "cosine": score.cosine,
        "cosine sd": float(cosines.std(ddof=1)) if len(cosines) > 1 else math.nan,
        "R²": score.r2,
        "squared error": float(errors.mean()),
    }


# ------------------------------------------------------------------------ 02 and 03 scores


def photo_scores(run: Run) -> pd.DataFrame:
    """AS toward the true class prompt, its contrast to the other classes' prompts, and IS: degrees.

    The same beyond the logits. One row a classifier and evaluation photo.
    """
    frames = []
    for name in run.profile.classifiers:
        data, T, spaces = run.photos(name), run.translator(name), run.spaces(name)
        texts = run.texts(name, run.prompts)  # (C, n)
        Tf, Tf_tilde = T(data.f), T.after_null_removal(spaces)(data.f)  # (N, n) each
        frames.append(
            data.index[["class", "label", "path"]].assign(
                classifier=name,
                **_scores(Tf, Tf_tilde, texts, data.own),
                **_scores(*run.beyond(name)(data.f), texts, data.own, " beyond"),
                cosine=torch.cosine_similarity(Tf, data.z, dim=-1).numpy(),
            )
        )
    return pd.concat(frames, ignore_index=True)


def _scores(before: Tensor, after: Tensor, texts: Tensor, own: Tensor, tail: str = "") -> dict[str, Any]:
    """AS toward the own class, its contrast, and IS of pairs (N, n), with texts (C, n) and own (N,)."""
    AS = pairwise_angle(before, texts) - pairwise_angle(after, texts)  # (N, C), eq. 7
    return {
        f"AS{tail}": AS.gather(1, own[:, None])[:, 0].numpy(),
        f"contrast{tail}": contrast(AS, own).numpy(),
        f"IS{tail}": image_score(before, after).numpy(),
    }


def beyond_by_chance(run: Run, *, draws: int = 10) -> pd.DataFrame:
    """What is found beyond the logits where nothing is: means over worlds, one row a classifier.

    Mean IS, |AS| and contrast over evaluation photos, degrees.
    """
    rows = []
    for name in run.classifiers:
        fit, new, B = run.photos(name, "fit"), run.photos(name), run.beyond(name)
        worlds = B.by_chance(fit.f, fit.z, draws=draws, held_out=run.profile.held_out, seed=run.seed)
        given = run.texts(name, run.prompts), new.own
        found = pd.concat([pd.DataFrame(_scores(*world(new.f), *given)) for world in worlds])
        row = {"IS (°)": found["IS"], "|AS| (°)": found["AS"].abs(), "contrast (°)": found["contrast"]}
        rows.append({"classifier": name, **{k: v.mean() for k, v in row.items()}})
    return pd.DataFrame(rows)


def ridge_sensitivity(run: Run, *, factors: Sequence[float] = (0.01, 0.1, 1, 10, 100)) -> pd.DataFrame:
    """Median IS and |AS| (degrees) and cosine on evaluation photos, had the ridge been another.

    One row a classifier and factor on the chosen ridge: what a score owes to that choice. Fitted on
    the rows that the kept translator was fitted on, so that factor 1 repeats its scores.
    """
    rows = []
    for name in run.profile.classifiers:
        new, chosen = run.photos(name), run.translator(name).report
        assert chosen is not None
        fit = run.photos(name, "fit")
        own, _ = split_rows(len(fit.f), held_out=chosen.held_out, seed=chosen.seed)
        fitter = TranslatorFitter(fit.f.shape[1], fit.z.shape[1])
        fitter.update(fit.f[own], fit.z[own])
        texts, f = run.texts(name, run.prompts)[new.own], new.f
        for factor, weight in zip(
            factors, fitter.solve_many([chosen.ridge * x for x in factors]), strict=True
        ):
            T = Translator(weight.to(f))
            Tf, Tf_tilde = T(f), T.after_null_removal(run.spaces(name))(f)
            rows.append(
                {
                    "classifier": name,
                    "ridge, × chosen": factor,
                    "cosine of Tf and z": quality(Tf, new.z).cosine,
                    "median IS (°)": float(np.median(image_score(Tf, Tf_tilde))),
                    "median |AS| (°)": float(np.median(attribute_score(Tf, Tf_tilde, texts).abs())),
                }
            )
    return pd.DataFrame(rows)


def spreads(scores: pd.DataFrame, run: Run) -> pd.DataFrame:
    """One row a classifier: means, medians, contrast, mean IS / mean |AS| and log(Var IS / Var AS).

    The last three with intervals over photos.

    Above 0 the confidence ellipse of Figure 3 is taller than wide.
    """
    rows = []
    for name, own in scores.groupby("classifier", sort=False):
        with np.errstate(divide="ignore", invalid="ignore"):  # a draw of one photo again and again
            ci = _bootstrap(run, lambda i, a: np.log(i.var(-1) / a.var(-1)), own["IS"], own["AS"])
        own_class = _bootstrap(run, lambda c: c.mean(-1), own["contrast"])
        ratio = _bootstrap(run, lambda i, a: i.mean(-1) / np.abs(a).mean(-1), own["IS"], own["AS"])
        rows.append(
            {
                "classifier": name,
                "photos": len(own),
                "mean AS (°)": own["AS"].mean(),
                "mean contrast (°)": own_class.value,
                "contrast low": own_class.low,
                "contrast high": own_class.high,
                "median |AS| (°)": own["AS"].abs().median(),
                "median IS (°)": own["IS"].median(),
                "sd AS (°)": own["AS"].std(),
                "sd IS (°)": own["IS"].std(),
                "IS / |AS|": ratio.value,
                "ratio low": ratio.low,
                "ratio high": ratio.high,
                "log variance ratio": ci.value,
                "low": ci.low,
                "high": ci.high,
            }
        )
    return pd.DataFrame(rows)


def class_medians(scores: pd.DataFrame, run: Run) -> pd.DataFrame:
    """Median |AS| of each classifier and class with its bootstrap interval, degrees."""
    rows = []
    for (name, c), own in scores.groupby(["classifier", "class"], sort=False):
        size = own["AS"].abs()
        one = {"value": float(size.iloc[0]), "low": float("nan"), "high": float("nan")}  # has no interval
        interval = one if len(own) < 2 else _interval(_bootstrap(run, lambda a: np.median(a, -1), size))
        low_resolution = own["label"].iloc[0] in run.profile.low_resolution
        rows.append(
            {
                "classifier": name,
                "class": c,
                "photos": len(own),
                **interval,
                "enlarged": low_resolution,
            }
        )
    return pd.DataFrame(rows)


def rank_correlations(scores: pd.DataFrame, run: Run) -> pd.DataFrame:
    """Spearman correlation of the classes' median |AS| for each pair of classifiers.

    The interval is a bootstrap over photos within their classes. p tests rho = 0 by exchanging the classes
    of one classifier; q is corrected for all pairs (false discovery rate).
    """
    rng = np.random.default_rng(run.profile.seed)
    draws = run.profile.bootstrap_draws
    medians: dict[str, np.ndarray] = {}  # (draws + 1, classes), row 0 without resampling
    for name, own in scores.groupby("classifier", sort=False):
        columns = []
        for _, values in own.groupby("class")["AS"]:
            a = values.abs().to_numpy()
            rows = rng.integers(0, len(a), size=(draws, len(a)))
            columns.append(np.concatenate([[np.median(a)], np.median(a[rows], -1)]))
        medians[str(name)] = np.stack(columns, -1)
    tail = 50 * (1 - run.profile.confidence)
    out = []
    for first, second in itertools.combinations(medians, 2):
        rho = _row_spearman(medians[first], medians[second])
        p = _order_p(run, medians[first][0], medians[second][0])
        low, high = np.percentile(rho[1:], [tail, 100 - tail])
        classes = medians[first].shape[1]
        out.append(
            {"a": first, "b": second, "rho": rho[0], "low": low, "high": high, "p": p, "classes": classes}
        )
    table = pd.DataFrame(out, columns=["a", "b", "rho", "low", "high", "p", "classes"])
    return table.assign(q=false_discovery(table["p"]), permutations=run.profile.permutations)


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
        random_state=np.random.default_rng(run.profile.seed),
    )
    return float(np.squeeze(test.pvalue))


def concept_angles(run: Run) -> pd.DataFrame:
    """Mean angle of each concept to the chosen classes' photos before and after, degrees.

    AS is their difference (eq. 7): positive where null removal brings the photos closer. margin, before
    margin: half widths of the intervals of AS and before. place: among the concepts by `before`, 1 for the
    nearest, from place low to place high under resampled photos. p: "AS is 0", by flipping the signs of
    photos; q: corrected for all rows of the table (false discovery rate).
    """
    p = run.profile
    phrases = run.profile.concepts
    frames = []
    for name in run.profile.classifiers:
        texts = run.texts(name, phrases)  # (K, n)
        for c in run.concept_classes:
            x, y, paths = class_angles(run, name, c, texts)  # (N, K) each
            columns = {
                "before": x.mean(0),
                "before margin": half_width(x, p.confidence),
                "after": y.mean(0),
                "AS": (x - y).mean(0),
                "margin": half_width(x - y, p.confidence),
            }
            frame = pd.DataFrame({k: v.numpy() for k, v in columns.items()})
            frame[list(_PLACES)] = np.nan  # a single photo has no interval
            if len(paths) > 1:
                frame["p"] = sign_flip_test(x - y, permutations=p.permutations, seed=p.seed)
                places = bootstrap_places(x, level=p.confidence, draws=p.bootstrap_draws, seed=p.seed)
                frame[list(_PLACES)] = np.stack([places.value, places.low, places.high], axis=-1)
            frames.append(frame.assign(classifier=name, concept=phrases, photos=len(paths), **{"class": c}))
    table = pd.concat(frames, ignore_index=True)
    return table.assign(q=false_discovery(table["p"]) if "p" in table else np.nan)


def concept_sizes(run: Run) -> pd.DataFrame:
    """How much concepts move for a class, toward it or away: mean over concepts of the size of AS.

    One row a classifier and class: value, low, high (degrees), photos. The mean of |AS| would be above 0
    by chance alone; here each half of the photos (every other one) counts with the signs that AS has in
    the other half, so that chance has the size 0, and sizes whose sign is not sure come out too small.
    The interval is as wide as Student's t makes it for a half: the halves' estimates are not independent.
    """
    rows = []
    for name in run.profile.classifiers:
        texts = run.texts(name, run.profile.concepts)  # (K, n)
        for c in run.concept_classes:
            x, y, paths = class_angles(run, name, c, texts)  # (N, K) each
            a, b = (x - y)[::2], (x - y)[1::2]
            halves = [(own * other.mean(0).sign()).mean(1, keepdim=True) for own, other in ((a, b), (b, a))]
            value = float(np.mean([h.mean() for h in halves]))
            margin = float(np.mean([half_width(h, run.profile.confidence) for h in halves]))
            row = {"classifier": name, "class": c, "value": value}
            rows.append(row | {"low": value - margin, "high": value + margin, "photos": len(paths)})
    return pd.DataFrame(rows)


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
        outputs = {label.split(",")[0].lower(): i for i, label in enumerate(head.labels or ())}
        true = own["class"].str.lower().map(outputs)
        named = head.logits(run.photos(name).f).argmax(-1).numpy()
        known = true.notna().to_numpy()
        wrong = (named != true)[known].to_numpy()
        if not 0 < wrong.sum() < len(wrong):
            continue  # nothing to tell apart
        for score in ("AS", "IS"):
            ci = _bootstrap(run, _roc_area, own[score].abs()[known], wrong)
            row = {"classifier": name, "score": "|AS|" if score == "AS" else score, **_interval(ci)}
            rows.append(row | {"photos": len(wrong), "misnamed": int(wrong.sum())})
    return pd.DataFrame(rows, columns=["classifier", "score", "value", "low", "high", "photos", "misnamed"])


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


def _interval(ci: Any) -> dict[str, float]:
    return {"value": ci.value, "low": ci.low, "high": ci.high}


def half_width(x: Tensor, level: float) -> Tensor:
    """Half width of the Student t interval of the mean over rows: (N, K) -> (K,)."""
    if len(x) < 2:
        return torch.full(x.shape[1:], math.nan)
    return torch.as_tensor(student_margin(x.std(0).numpy(), len(x), level=level))


def _row_spearman(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Spearman correlation of each row of a with that row of b: (D, K), (D, K) -> (D,)."""
    x, y = (stats.rankdata(v, axis=-1) for v in (a, b))
    x, y = (v - v.mean(-1, keepdims=True) for v in (x, y))
    return (x * y).sum(-1) / np.sqrt((x**2).sum(-1) * (y**2).sum(-1))
