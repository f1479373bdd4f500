"""Tidy tables of the controls, one row an observation, angles in degrees (notebooks 02b and 04).

What each control does is in `sing_utils.controls` and `sing_utils.controls_translator`; here they meet a
run's classifiers, photos and texts.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import numpy as np
import pandas as pd
from scipy import stats
from torch import Tensor

from sing_utils.cases import Case, cases, open_case
from sing_utils.controls import (
    SOFTMAX,
    STATISTICS,
    SUBSPACES,
    Removed,
    energy_share,
    other_names,
    rank_rules,
    remove_null,
    remove_random,
    score_wordings,
)
from sing_utils.controls_translator import (
    blind_scores,
    correlation,
    half_translators,
    shuffled_scores,
    translator_noise,
    translator_parts,
)
from sing_utils.encoders import Judge
from sing_utils.findings import between
from sing_utils.intervals import (
    bootstrap,
    bootstrap_means,
    chance_p,
    false_discovery,
    percentile,
    permutation_p,
    sign_flip_test,
)
from sing_utils.profiles import worded
from sing_utils.run import Run
from sing_utils.scores import text_angles
from sing_utils.translator import quality

UNITS = {
    "|AS|": "median |AS| (°)",
    "AS": "mean AS (°)",
    "contrast": "mean contrast (°)",
    "IS": "median IS (°)",
}


# ------------------------------------------------------------------------------ at a glance


def summary(
    run: Run,
    *,
    differences: pd.DataFrame,
    subspaces: pd.DataFrame | None,
    translators: pd.DataFrame | None,
    prompts: pd.DataFrame | None,
    encoders: pd.DataFrame | None,
    ranks: pd.DataFrame | None,
    classes: pd.DataFrame,
    planted: pd.DataFrame | None = None,
) -> pd.DataFrame:
    """One row a control that was run: what it asks, what it says, the verdict, and that of the planted world.

    Args:
        run: whose classifiers.
        differences, subspaces, translators, prompts, encoders, ranks, classes: the tables of this module;
            None for a control that is turned off.
        planted: of `sing_utils.controls_planted.planted_controls`.
    """
    k, rows = len(run.classifiers), []

    def add(control: str, asks: str, says: str, verdict: str, known: str = "") -> None:
        rows.append(
            {"control": control, "asks": asks, "says": says, "verdict": verdict, "planted world": known}
        )

    if "low by class" in differences:
        own = differences[differences["statistic"] == "mean contrast (°)"]
        apart = int(((own["low by class"] > 0) | (own["high by class"] < 0)).sum())
        verdict = f"{apart} of {len(own)} pairs differ"
        add(
            "other classes",
            "Would other classes part the classifiers in contrast?",
            between(own["difference"], digits=2, sign=True),
            verdict,
        )
    if subspaces is not None:
        for kind in SUBSPACES:
            own = subspaces[subspaces["kind"] == kind]
            for statistic in ("IS", "contrast"):
                one = own[own["statistic"] == statistic].dropna(subset="percentile")
                if one.empty:  # a single class has no contrast
                    continue
                asks = f"Is {statistic} higher than by random subspaces?"
                says = f"percentile {_list(one['percentile'], '.0f')}"
                add(kind, asks, says, _beside_chance(one), _planted(planted, kind, statistic))
    if translators is not None:
        agree = translators["all photos: correlation of AS"]
        known = int((agree > 0.8).sum())
        add("halves", "Would other photos give a photo the same AS?", f"r = {between(agree, '')}",
            f"reliable for {known} of {k}", _planted(planted, "halves", "AS"))  # fmt: skip
        what = f"IS {between(translators['blind: median IS (°)'], digits=1)} by the translator alone"
        leaks = int((translators["q of contrast"] < 0.05).sum())
        verdict = f"contrast differs from 0 for {leaks} of {k}"
        add("blind worlds", "What is found where nothing is?", what, verdict)
    if prompts is not None:
        least, most = prompts["mean AS (°), least"], prompts["mean AS (°), most"]
        flips = int(((least < 0) & (most > 0)).sum())
        says = between([*least, *most], sign=True)
        add(
            "other words",
            "Does the sign of mean AS hang on the wording?",
            says,
            f"it does for {flips} of {k}",
        )
        if "p of the names" in prompts:
            p = prompts["p of the names"]
            verdict = f"they would not for {int((p < 0.05).sum())} of {k}"
            add(
                "other names",
                "Would other classes' names give the same AS?",
                f"p = {_list(p, '.3f')}",
                verdict,
            )
    if encoders is not None:
        first = encoders.groupby("classifier")["encoder"].transform("first")
        rho = encoders.loc[encoders["encoder"] != first, "rank correlation of classes"].dropna()
        if len(rho):
            verdict = f"much the same for {int((rho > 0.8).sum())} of {len(rho)}"
            asks = "Is the order of classes by |AS| the same?"
            add("other encoders", asks, f"ρ = {between(rho, '')}", verdict)
    if ranks is not None:
        soft, book = ranks[ranks["rule"] == SOFTMAX], ranks.groupby("classifier", sort=False).first()
        says = f"energy {between(soft['energy (%)'], ' %', 0)}, IS {between(soft['median IS (°)'], digits=1)}"
        more = int((soft["energy (%)"].to_numpy() > book["energy (%)"].to_numpy() + 1).sum())
        asks = "How much is ignored with that direction counted in?"
        add("what softmax ignores", asks, says, f"clearly more for {more} of {k}")
    tested = classes.dropna(subset="q")
    if len(tested):
        verdict = f"{int((tested['q'] < 0.05).sum())} of {len(tested)}"
        says = between(tested["contrast"], sign=True)
        add("class by class", "Which classes' contrasts differ from 0?", says, verdict)
    return pd.DataFrame(rows, columns=["control", "asks", "says", "verdict", "planted world"])


def _list(values: Iterable[float], number: str) -> str:
    return ", ".join(f"{x:{number}}" for x in values)


def _beside_chance(own: pd.DataFrame) -> str:
    apart = own[own["q"] < 0.05]
    more = int((apart["null space"] > apart["chance"]).sum())
    parts = {"higher": more, "lower": len(apart) - more, "indistinguishable": len(own) - len(apart)}
    return ", ".join(f"{word} for {n}" for word, n in parts.items() if n)


def _planted(planted: pd.DataFrame | None, control: str, score: str) -> str:
    """What a control says of two heads that ignore nothing and part of the shape: medians over worlds."""
    if planted is None:
        return ""
    own = planted[(planted["control"] == control) & (planted["score"] == score)]
    places = own["percentile"].fillna(own["value"]).groupby(own["head"], sort=False).median()
    number = ".0f" if own["percentile"].notna().all() else ".2f"
    return ", ".join(f"{head} {x:{number}}" for head, x in places.items())


# ------------------------------------------------------------------------ random subspaces


def subspace_draws(run: Run) -> pd.DataFrame:
    """Scores after removing random subspaces, and after null removal (draw -1): one row a draw.

    classifier, kind, draw, |AS|, AS, contrast, IS (degrees), energy (percent of |f|² that was removed).
    """
    frames = []
    for case in cases(run):
        null = remove_null(case.f, case.T, case.spaces, case.texts, case.own).statistics()
        energy = energy_share(case.f.double(), case.spaces.null_basis)
        options: dict[str, Any] = {"dim": case.spaces.null_dim, "draws": run.profile.control_draws}
        options["seed"] = run.profile.seed
        given = (case.f, case.T, case.texts, case.own)
        uniform = remove_random(*given, **options)
        matched = remove_random(*given, **options, like=case.fit[0], energy=energy)
        for kind, drawn in zip(SUBSPACES, (uniform, matched), strict=True):
            both = pd.concat([pd.DataFrame([{"draw": -1, **null}]), drawn], ignore_index=True)
            frames.append(both.assign(classifier=case.name, kind=kind))
    return pd.concat(frames, ignore_index=True)


def subspace_control(draws: pd.DataFrame, statistics: Sequence[str] = STATISTICS) -> pd.DataFrame:
    """Where the null space stands among random subspaces: one row a classifier, kind and statistic.

    Columns: null space, chance (median over draws), low and high (their middle 95 %), percentile, draws, p
    (two-sided), and q, corrected for the number of classifiers (false discovery rate).

    Args:
        draws: of `subspace_draws`, or of `sing_utils.tables_steering.subspace_steering`.
        statistics: which of its columns.
    """
    rows = []
    for (name, kind), own in draws.groupby(["classifier", "kind"], sort=False):
        null, chance = own[own["draw"] < 0].iloc[0], own[own["draw"] >= 0]
        for statistic in statistics:
            drawn = chance[statistic].dropna()
            low, middle, high = drawn.quantile([0.025, 0.5, 0.975])
            known = len(drawn) > 0 and np.isfinite(null[statistic])
            rows.append(
                {
                    "classifier": name,
                    "kind": kind,
                    "statistic": statistic,
                    "null space": null[statistic],
                    "chance": middle,
                    "low": low,
                    "high": high,
                    "percentile": percentile(null[statistic], drawn) if known else np.nan,
                    "p": chance_p(null[statistic], drawn) if known else np.nan,
                    "draws": len(drawn),
                }
            )
    table = pd.DataFrame(rows)
    return table.assign(q=table.groupby(["kind", "statistic"])["p"].transform(false_discovery))


# ---------------------------------------------------------------------------- the translator


def translator_control(run: Run, blind: pd.DataFrame) -> pd.DataFrame:
    """What each translator knows of null directions, and how far its scores can be trusted.

    One row a classifier: R² by parts (`translator_parts`); two translators that share no photo: correlation
    of their photos' AS, median difference of AS (degrees), correlation of the classes' median |AS| (ranks),
    and what both correlations would be for translators of all photos (Spearman and Brown's 2 r / (1 + r));
    translators fitted on shuffled photos: medians of |AS| and IS, and the largest contrast; the noise floor;
    and, of translators in worlds where null directions mean nothing, what they find by themselves.

    Args:
        run: whose classifiers.
        blind: of `blind_draws`.
    """
    rows = []
    for case in cases(run):
        row: dict[str, Any] = {"classifier": case.name, "photos to fit": len(case.fit[0])}
        row |= translator_parts(case.T, case.spaces, case.fit, case.held_out)
        row |= _halves(case, run) | _shuffled(case, run) | _blind(case, blind)
        noise = translator_noise(
            case.T, case.ridge, case.spaces, case.fit, case.held_out, case.texts[case.own]
        )
        row["noise floor of AS (°)"] = float(noise.floor.quantile(0.5))
        row["error of the angle to the prompt (°)"] = float(noise.angle.quantile(0.5))
        rows.append(row)
    table = pd.DataFrame(rows)
    return table.assign(**{"q of contrast": false_discovery(table["p of contrast"])})


def blind_draws(run: Run) -> pd.DataFrame:
    """What translators find where null directions mean nothing (`blind_scores`).

    One row a classifier, draw and class ("all" for all photos): mean AS and contrast, medians of |AS| and IS,
    degrees.
    """
    frames = []
    for case in cases(run):
        given = (case.T, case.ridge, case.spaces, case.fit, case.held_out, case.texts, case.own)
        found = blind_scores(*given, draws=max(19, run.profile.control_draws // 3), seed=run.profile.seed)
        names = np.array(case.classes)[case.own.numpy()]
        for draw, scores in enumerate(found):
            photos = pd.DataFrame(
                {"class": names, "AS": scores.AS, "contrast": scores.contrast, "IS": scores.IS}
            )
            grouped = pd.concat([photos.assign(**{"class": "all"}), photos]).groupby("class", sort=False)
            table = grouped[["AS", "contrast"]].mean()
            table["|AS|"] = grouped["AS"].agg(lambda x: x.abs().median())
            table["IS"] = grouped["IS"].median()
            frames.append(table.reset_index().assign(classifier=case.name, draw=draw))
    return pd.concat(frames, ignore_index=True)


def _blind(case: Case, blind: pd.DataFrame) -> dict[str, float]:
    own = blind[(blind["classifier"] == case.name) & (blind["class"] == "all")]
    seen = remove_null(case.f, case.T, case.spaces, case.texts, case.own).statistics()
    return {
        "blind: median |AS| (°)": own["|AS|"].median(),
        "blind: median IS (°)": own["IS"].median(),
        "blind: mean contrast (°)": own["contrast"].mean(),
        "blind: sd of contrast (°)": own["contrast"].std(),
        "blind worlds": len(own),
        "p of contrast": chance_p(seen["contrast"], own["contrast"] - own["contrast"].mean()),
    }


def _halves(case: Case, run: Run) -> dict[str, float]:
    pair = half_translators(case.fit, case.ridge, seed=run.profile.seed)
    a, b = (remove_null(case.f.double(), T, case.spaces, case.texts, case.own).AS for T in pair)
    photos = correlation(a, b)
    classes = rank_correlation(class_medians(a.abs(), case.own), class_medians(b.abs(), case.own))
    return {
        "halves: correlation of AS": photos,
        "halves: median difference of AS (°)": float((a - b).abs().quantile(0.5)),
        "halves: rank correlation of classes": classes,
        "all photos: correlation of AS": _lengthened(photos),
        "all photos: rank correlation of classes": _lengthened(classes),
    }


def _lengthened(r: float) -> float:
    """The correlation of wholes from that of halves (Spearman and Brown)."""
    return 2 * r / (1 + r) if r > -1 else float("nan")


def _shuffled(case: Case, run: Run) -> dict[str, float]:
    given = (case.fit, case.ridge, case.spaces, case.f, case.texts, case.own)
    found = shuffled_scores(*given, shuffles=_shuffles(run), seed=run.profile.seed)
    table = pd.DataFrame([r.statistics() for r in found])
    return {
        "shuffled: median |AS| (°)": table["|AS|"].median(),
        "shuffled: median IS (°)": table["IS"].median(),
        "shuffled: largest |contrast| (°)": table["contrast"].abs().max(),
        "shuffles": len(table),
    }


def _shuffles(run: Run) -> int:
    return min(run.profile.control_draws, 20)  # each is a fit


def class_medians(values: Tensor, own: Tensor) -> np.ndarray:
    """Median of each class: (N,), (N,) -> (C,)."""
    return pd.Series(values.numpy()).groupby(own.numpy()).median().to_numpy()


def rank_correlation(x: np.ndarray, y: np.ndarray) -> float:
    """Spearman's; NaN for fewer than 3 classes."""
    return float(stats.spearmanr(x, y).statistic) if len(x) > 2 else float("nan")


# ------------------------------------------------------------------------------- the prompts


def wording_scores(run: Run) -> pd.DataFrame:
    """One row a classifier, wording and class ("all" for all photos): AS and contrast.

    Columns: median |AS|, mean AS, mean contrast (degrees), photos.
    """
    frames = []
    for case in cases(run):
        texts = wording_texts(run, case.judge, case.classes)  # (R, C, n)
        AS, contrasts = score_wordings(case.Tf, case.Tf_tilde, texts, case.own)  # (N, R) each
        for r, wording in enumerate(run.profile.wordings):
            photos = pd.DataFrame(
                {"AS": AS[:, r], "contrast": contrasts[:, r], "class": [case.classes[i] for i in case.own]}
            )
            whole = photos.assign(**{"class": "all"})
            grouped = pd.concat([whole, photos]).groupby("class", sort=False)
            table = pd.DataFrame(
                {
                    "median |AS| (°)": grouped["AS"].agg(lambda x: x.abs().median()),
                    "mean AS (°)": grouped["AS"].mean(),
                    "mean contrast (°)": grouped["contrast"].mean(),
                    "photos": grouped.size(),
                }
            ).reset_index()
            frames.append(table.assign(classifier=case.name, wording=wording))
    return pd.concat(frames, ignore_index=True)


def wording_texts(run: Run, judge: Judge, names: list[str]) -> Tensor:
    """Embeddings of names in all wordings of the prompt, (R, K, n)."""
    wordings = run.profile.wordings
    flat = judge.encode_text([worded(w, n) for w in wordings for n in names])
    return flat.reshape(len(wordings), len(names), -1)


def prompt_control(run: Run, wordings: pd.DataFrame) -> pd.DataFrame:
    """The profile's prompt against other wordings and other names: one row a classifier.

    Each score with its least and largest value over the wordings; mean AS if each class is called by the
    name of a random other one (median and middle 95 % of the exchanges), and the p value of the true names.
    """
    rows = []
    every = wordings[wordings["class"] == "all"]
    for case in cases(run):
        own = every[every["classifier"] == case.name]
        row: dict[str, Any] = {"classifier": case.name, "wordings": len(own)}
        for what in ("median |AS| (°)", "mean AS (°)", "mean contrast (°)"):
            row |= {
                what: own[what].iloc[0],
                f"{what}, least": own[what].min(),
                f"{what}, most": own[what].max(),
            }
        rows.append(row | _exchanged(case, run))
    return pd.DataFrame(rows)


def _exchanged(case: Case, run: Run) -> dict[str, float]:
    if len(case.classes) < 2:
        return {}
    AS = text_angles(case.Tf, case.texts) - text_angles(case.Tf_tilde, case.texts)  # (N, C)
    options = {"permutations": run.profile.permutations, "seed": run.profile.seed}
    drawn = other_names(AS, case.own, **options).numpy()
    low, middle, high = np.quantile(drawn, [0.025, 0.5, 0.975])
    true = float(AS.gather(1, case.own[:, None]).mean())
    return {
        "mean AS, other names (°)": float(middle),
        "other names, low": float(low),
        "other names, high": float(high),
        "p of the names": permutation_p(true, drawn),
        "exchanges": len(drawn),
    }


# ---------------------------------------------------------------------------- other encoders


def encoder_control(run: Run) -> pd.DataFrame:
    """The same scores read by other encoders: one row a classifier and encoder.

    The profile's encoder first; each of its towers alone, where it has several that may judge the
    classifier; and the profile's second encoder. Each has a translator of its own.
    """
    rows = []
    for name in run.profile.classifiers:
        first: np.ndarray | None = None
        for label, case in _read_by(run, name):
            found = remove_null(case.f, case.T, case.spaces, case.texts, case.own)
            medians = class_medians(found.AS.abs(), case.own)
            first = medians if first is None else first
            rows.append(
                {
                    "classifier": name,
                    "encoder": label,
                    "cosine of Tf and z": quality(case.Tf, case.z).cosine,
                    "R²": quality(case.Tf, case.z).r2,
                    **named_statistics(found),
                    "rank correlation of classes": rank_correlation(first, medians),
                }
            )
    return pd.DataFrame(rows)


def _read_by(run: Run, name: str) -> Iterator[tuple[str, Case]]:
    judge, p = run.judge(name), run.profile
    yield f"{p.encoder} (the profile's)", open_case(run, name, judge, run.translator(name))
    for tower, alone in judge.towers_alone().items():
        yield f"{tower} alone", open_case(run, name, alone)
    if p.second_encoder is not None:
        other = run.with_encoder(p.second_encoder)
        yield p.second_encoder, open_case(other, name, other.judge(name))


def named_statistics(found: Removed) -> dict[str, float]:
    """`Removed.statistics` under the names of columns, with units."""
    return {UNITS[k]: v for k, v in found.statistics().items() if k in UNITS}


# ------------------------------------------------------------------------- the rule of rank


def rank_control(run: Run) -> pd.DataFrame:
    """Scores by several rules of where the null space begins: one row a classifier and rule.

    gap: σ_r / σ_{r+1}, infinite where the head has no further singular value. logits moved: see
    `Certificate.relative_change`; with what softmax ignores, of the logits about their mean.
    """
    rows = []
    for case in cases(run):
        bias, known = run.head(case.name).bias, {}
        for rule, spaces in rank_rules(case.spaces).items():
            key = (spaces.rank, rule == SOFTMAX)
            if key not in known:  # most rules agree
                found = remove_null(case.f, case.T, spaces, case.texts, case.own)
                proof = spaces.certificate(case.f, bias=bias)
                known[key] = {
                    "rank": spaces.rank,
                    "null dimension": spaces.null_dim,
                    "gap": spaces.gap,
                    "energy (%)": found.statistics()["energy"],
                    **named_statistics(found),
                    "logits moved": proof.relative_change,
                    "top-1 changes": proof.top1_changes,
                }
            rows.append({"classifier": case.name, "rule": rule, **known[key]})
    return pd.DataFrame(rows)


# ------------------------------------------------------------------- classes and classifiers


def class_scores(
    run: Run, scores: pd.DataFrame, wordings: pd.DataFrame | None, blind: pd.DataFrame | None
) -> pd.DataFrame:
    """AS and contrast of each classifier and class, with intervals, wordings and p values.

    Intervals are over photos, given the translator. p: "the mean contrast is 0", with the spread over
    blind worlds as the translator's error, which all photos share; without them by flipping the signs of
    photos, given the translator. q: corrected for all rows (false discovery rate).

    Args:
        run: whose settings are used.
        scores: of `sing_utils.tables.photo_scores`.
        wordings: of `wording_scores`; None: without the spread over wordings.
        blind: of `blind_draws`; None: test by the signs of photos.
    """
    rows = [
        {"classifier": name, "class": c, "photos": len(own)}
        | _with_intervals(own, run)
        | _spread(wordings, name, c)
        | {"p": _class_p(own, run, blind, name, c)}
        for (name, c), own in scores.groupby(["classifier", "class"], sort=False)
    ]
    test = "signs of photos, given the translator" if blind is None else BLIND_TEST
    table = pd.DataFrame(rows)
    return table.assign(q=false_discovery(table["p"]), test=test, permutations=run.profile.permutations)


BLIND_TEST = "against 0, with the translator's error from blind worlds"


def _with_intervals(own: pd.DataFrame, run: Run) -> dict[str, float]:
    p = run.profile
    row: dict[str, float] = {}
    for what in ("AS", "contrast"):
        values = own[[what]].to_numpy()
        row |= {what: float(values.mean()), f"{what} low": np.nan, f"{what} high": np.nan}
        if len(own) > 1 and np.isfinite(values).all():
            ci = bootstrap_means(values, level=p.confidence, draws=p.bootstrap_draws, seed=p.seed)
            row |= {f"{what} low": ci.low[0], f"{what} high": ci.high[0]}
    return row


def _spread(wordings: pd.DataFrame | None, name: str, c: str) -> dict[str, float]:
    if wordings is None:
        return {}
    also = wordings[(wordings["classifier"] == name) & (wordings["class"] == c)]
    row: dict[str, float] = {}
    for what, column in (("AS", "mean AS (°)"), ("contrast", "mean contrast (°)")):
        row |= {f"{what} least": also[column].min(), f"{what} most": also[column].max()}
    return row


def _class_p(own: pd.DataFrame, run: Run, blind: pd.DataFrame | None, name: str, c: str) -> float:
    values = own[["contrast"]].to_numpy()
    if not np.isfinite(values).all():
        return float("nan")  # a single class has no contrast
    if blind is not None:
        drawn = blind[(blind["classifier"] == name) & (blind["class"] == c)]["contrast"]
        return chance_p(float(values.mean()), drawn - drawn.mean())
    if len(values) < 2:
        return float("nan")
    return float(sign_flip_test(values, permutations=run.profile.permutations, seed=run.profile.seed)[0])


DIFFERENCES: dict[str, tuple[tuple[str, ...], Any]] = {
    "mean |AS| (°)": (("AS",), lambda a: np.abs(a).mean(-1)),
    "mean contrast (°)": (("contrast",), lambda c: c.mean(-1)),
    "mean IS (°)": (("IS",), lambda i: i.mean(-1)),
    "log of mean IS / mean |AS|": (("IS", "AS"), lambda i, a: np.log(i.mean(-1) / np.abs(a).mean(-1))),
}


def classifier_differences(run: Run, scores: pd.DataFrame) -> pd.DataFrame:
    """First minus second classifier on the same photos, with intervals by photo and by class.

    One row a pair and statistic. By class: whole classes are drawn, which says what other classes
    might have shown; for fewer than 5 of them there is no such column. Both are given the translators.
    """
    p, rows = run.profile, []
    wide = scores.pivot(index=["path", "class"], columns="classifier", values=["AS", "contrast", "IS"])
    groups = wide.index.get_level_values("class").to_numpy()
    for first, second in itertools.combinations(run.profile.classifiers, 2):
        for statistic, (columns, f) in DIFFERENCES.items():
            samples = [wide[what][name].to_numpy() for name in (first, second) for what in columns]
            if not all(np.isfinite(s).all() for s in samples):
                continue  # a single class has no contrast

            def difference(*x: np.ndarray, f: Any = f) -> np.ndarray:
                half = len(x) // 2
                found: np.ndarray = f(*x[:half]) - f(*x[half:])
                return found

            options: dict[str, Any] = {"level": p.confidence, "draws": p.bootstrap_draws, "seed": p.seed}
            ci = bootstrap(difference, *samples, **options)
            row = {"first": first, "second": second, "statistic": statistic, "photos": len(wide)}
            row |= {"difference": ci.value, "low": ci.low, "high": ci.high}
            if len(set(groups)) >= 5:
                by = bootstrap(difference, *samples, **options, groups=groups)
                row |= {"low by class": by.low, "high by class": by.high}
            rows.append(row)
    return pd.DataFrame(rows)
