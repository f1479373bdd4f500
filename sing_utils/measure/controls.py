"""Tidy tables of the controls, one row an observation, angles in degrees (notebooks 02b and 04).

What each control does is in `sing_utils.evidence`; here they meet a run's classifiers, photos and texts.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from sing_utils.evidence import SOFTMAX
from sing_utils.evidence.controls import (
    STATISTICS,
    SUBSPACES,
    Scores,
    at_energy,
    energy_share,
    other_names,
    rank_rules,
    remove_null,
    remove_random,
)
from sing_utils.evidence.intervals import chance_p, false_discovery, percentile, permutation_p, sure_mean
from sing_utils.evidence.refits import scored
from sing_utils.evidence.translators import blind_scores, translator_parts
from sing_utils.measure.tables import ends, fitted, refitted
from sing_utils.method.head import HeadSpaces
from sing_utils.method.translator import Translator, quality
from sing_utils.runs.profiles import worded
from sing_utils.runs.run import Photos, Run
from sing_utils.show.findings import SIGNIFICANCE, between

ALL = "all photos"  # of the column `of`, which holds no name of a user's
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
        planted: of `sing_utils.measure.planted_controls.planted_controls`.
    """
    k, rows = len(run.classifiers), []

    def add(control: str, asks: str, says: str, verdict: str, known: str = "") -> None:
        rows.append(
            {"control": control, "asks": asks, "says": says, "verdict": verdict, "planted world": known}
        )

    if "q by class" in differences:
        own = differences[differences["statistic"] == "mean contrast (°)"]
        add(
            "other classes",
            "Would other classes and translators part the classifiers in contrast?",
            between(own["difference"], digits=2, sign=True),
            f"{int((own['q by class'] < SIGNIFICANCE).sum())} of {len(own)} pairs differ",
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
        IS, nothing = (translators[f"{x}median IS (°)"] for x in ("", "blind: "))
        contrasts = between(translators["blind: mean contrast (°)"], sign=True)
        says = f"IS {between(nothing, digits=1)}, contrast {contrasts}"
        verdict = f"IS is {between(IS / nothing, '', 1)} times that"
        add("blind worlds", "What is found where nothing is?", says, verdict)
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
        if "q of the names" in prompts:
            says = f"p = {_list(prompts['q of the names'], '.2f')}, corrected"
            asks = "Would other classes' names give the same AS?"
            known = int((prompts["q of the names"] < SIGNIFICANCE).sum())
            add("other names", asks, says, f"they would not for {known} of {k}")
    if encoders is not None:
        first = encoders.groupby("classifier")["encoder"].transform("first")
        rho = encoders.loc[encoders["encoder"] != first, "rank correlation of classes"].dropna()
        if len(rho):
            verdict = f"above 0.8 for {int((rho > 0.8).sum())} of {len(rho)}"
            asks = "Is the order of classes by |AS| the same?"
            add("other encoders", asks, f"ρ = {between(rho, '')}", verdict)
    if ranks is not None:
        soft, book = ranks[ranks["rule"] == SOFTMAX], ranks.groupby("classifier", sort=False).first()
        says = f"energy {between(soft['energy (%)'], ' %', 0)}, IS {between(soft['median IS (°)'], digits=1)}"
        more = int((soft["energy (%)"].to_numpy() > book["energy (%)"].to_numpy() + 1).sum())
        asks = "How much is ignored with that direction counted in?"
        add("what softmax ignores", asks, says, f"clearly more for {more} of {k}")
    for tail, where in (("", ""), (" beyond", ", beyond the logits")):
        tested = classes.dropna(subset=f"q{tail}")
        if len(tested):
            asks = f"Which classes' contrasts differ from 0{where}?"
            apart = tested[tested[f"q{tail}"] < SIGNIFICANCE]
            says = between(tested[f"contrast{tail}"], sign=True)
            if 0 < len(apart) < 5:
                names = (f"{r['class']} ({run.short[r['classifier']]})" for _, r in apart.iterrows())
                says += f"; {', '.join(names)}"
            add(f"class by class{where}", asks, says, f"{len(apart)} of {len(tested)}")
    return pd.DataFrame(rows, columns=["control", "asks", "says", "verdict", "planted world"])


def _list(values: Iterable[float], number: str) -> str:
    return ", ".join(f"{x:{number}}" for x in values)


def _beside_chance(own: pd.DataFrame) -> str:
    apart = own[own["q"] < SIGNIFICANCE]
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


def removed(run: Run, name: str, spaces: HeadSpaces | None = None) -> Scores:
    """Scores of null removal of a classifier's evaluation photos, by its own spaces or by others."""
    photos, texts = run.photos(name), run.texts(name, run.prompts)
    return remove_null(photos.f, run.translator(name), spaces or run.spaces(name), texts, photos.own)


def subspace_draws(run: Run) -> pd.DataFrame:
    """Scores after removing random subspaces, and after null removal (draw -1): one row a draw.

    classifier, kind, draw, |AS|, AS, contrast, IS (degrees), energy (percent of |f|² that was removed). Those
    of the same energy hold about as much of it as the null space; their scores are moved to just as much.
    """
    frames = []
    for name in run.classifiers:
        photos, spaces, null = run.photos(name), run.spaces(name), removed(run, name).statistics()
        given = photos.f, run.translator(name), run.texts(name, run.prompts), photos.own
        draws = run.profile.control_draws
        options: dict[str, Any] = {"dim": spaces.null_dim, "draws": draws, "seed": run.seed}
        energy, like = energy_share(photos.f.double(), spaces.null_basis), fitted(run, name)[0][0]
        uniform = remove_random(*given, **options)
        matched = at_energy(remove_random(*given, **options, like=like, energy=energy), null["energy"])
        for kind, drawn in zip(SUBSPACES, (uniform, matched), strict=True):
            both = pd.concat([pd.DataFrame([{"draw": -1, **null}]), drawn], ignore_index=True)
            frames.append(both.assign(classifier=name, kind=kind))
    return pd.concat(frames, ignore_index=True)


def subspace_control(draws: pd.DataFrame) -> pd.DataFrame:
    """Where the null space stands among random subspaces: one row a classifier, kind and statistic.

    Columns: null space, chance (median over draws), low and high (their middle 95 %), percentile, draws and p
    (two-sided).

    Args:
        draws: of `subspace_draws`.
    """
    rows = []
    for (name, kind), own in draws.groupby(["classifier", "kind"], sort=False):
        null, chance = own[own["draw"] < 0].iloc[0], own[own["draw"] >= 0]
        for statistic in STATISTICS:
            drawn = chance[statistic].dropna()
            low, middle, high = drawn.quantile([0.025, 0.5, 0.975])
            row = {"classifier": name, "kind": kind, "statistic": statistic, "null space": null[statistic]}
            row |= {"chance": middle, "low": low, "high": high, "percentile": np.nan, "p": np.nan}
            if len(drawn) and np.isfinite(value := null[statistic]):
                row |= {"percentile": percentile(value, drawn), "p": chance_p(value, drawn)}
            rows.append(row | {"draws": len(drawn)})
    return pd.DataFrame(rows)


# ---------------------------------------------------------------------------- the translator


def translator_control(run: Run) -> pd.DataFrame:
    """What each translator knows of null directions, and what one finds where they mean nothing.

    One row a classifier: R² by parts (`translator_parts`), and beyond the logits; medians of |AS| and IS and
    the mean contrast, here and in worlds where null directions mean nothing (`blind_scores`), degrees.
    """
    rows = []
    for name in run.classifiers:
        photos, (fit, _), B = run.photos(name), fitted(run, name), run.beyond(name)
        row: dict[str, Any] = {"classifier": name, "photos to fit": len(fit[0])}
        row |= translator_parts(run.translator(name), run.spaces(name), fit, (photos.f, photos.z))
        z_whole, z_logits = B(photos.f)
        left, error = ((photos.z - x).square().sum() for x in (z_logits, z_whole))
        row["beyond the logits, share of the rest"] = float(1 - error / left) if B.gamma.shape[1] else np.nan
        worlds = named_statistics(blind(run, name, draws=_BLIND))
        row |= named_statistics(removed(run, name).statistics())
        rows.append(row | {f"blind: {k}": v for k, v in worlds.items()} | {"blind worlds": _BLIND})
    return pd.DataFrame(rows)


def blind(run: Run, name: str, *, draws: int) -> dict[str, float]:
    """Means over worlds where null directions mean nothing (`blind_scores`), of `Scores.statistics`."""
    photos, texts = run.photos(name), run.texts(name, run.prompts)
    given = run.translator(name), run.spaces(name), fitted(run, name)[0], (photos.f, photos.z)
    worlds = blind_scores(*given, texts, photos.own, draws=draws, seed=run.seed)
    return pd.DataFrame([world.statistics() for world in worlds]).mean().to_dict()


_BLIND = 5  # worlds, each with a fit: their means are sure enough


def photo_curve(run: Run, *, parts: Sequence[int] = (8, 4, 2, 1)) -> pd.DataFrame:
    """Scores by translators that were fitted on fewer photos: means over the parts of a random division.

    One row a classifier, number of photos to fit on, and score; also beyond the logits, where the photos are
    more than the features' numbers. The ridges are those of all photos; the shrinkage is chosen each time.

    Args:
        run: whose classifiers.
        parts: into how many parts the photos are divided.
    """
    rows = []
    for name in run.classifiers:
        halves, new, texts = run.halves(name), run.photos(name), run.texts(name, run.prompts)
        x, every = new.f.double() @ halves.basis, torch.arange(len(halves.x_held))
        for count in parts:
            found = [
                scored(maps(x), halves.shrinkages(maps, every), texts, new.own, len(texts))
                for maps in halves.parts(count, seed=run.seed)
            ]
            by_parts = [s.statistics() for s, _, _ in found]
            scores = {
                "median IS": [s["IS"] for s in by_parts],
                "median |AS|": [s["|AS|"] for s in by_parts],
                "mean contrast": [s["contrast"] for s in by_parts],
                "median IS, beyond the logits": [b.statistics()["IS"] if b else np.nan for _, b, _ in found],
            }
            known = {"classifier": name, "photos": len(halves.x) // count}
            rows += [known | {"score": k, "value": float(np.mean(v))} for k, v in scores.items()]
    return pd.DataFrame(rows).dropna(subset="value").reset_index(drop=True)


# ------------------------------------------------------------------------------- the prompts


def wording_scores(run: Run) -> pd.DataFrame:
    """One row a classifier, wording and class, and one of all its photos: AS and contrast.

    Columns: of ("class" or "all photos"; class is then missing: no name may mean all), median |AS|, mean AS,
    mean contrast (degrees), photos.
    """
    frames = []
    for name in run.classifiers:
        photos, T = run.photos(name), run.translator(name)
        pair = T(photos.f), T.after_null_removal(run.spaces(name))(photos.f)
        for wording in run.profile.wordings:
            texts = run.texts(name, [worded(wording, c) for c in run.classes])
            own = photos.index[["class"]].assign(of="class", **Scores.of(*pair, texts, photos.own).columns())
            whole = own.assign(**{"class": None}, of=ALL)
            keys = ["of", "class"]
            grouped = pd.concat([whole, own]).groupby(keys, sort=False, dropna=False)
            table = pd.DataFrame(
                {
                    "median |AS| (°)": grouped["AS"].agg(lambda x: x.abs().median()),
                    "mean AS (°)": grouped["AS"].mean(),
                    "mean contrast (°)": grouped["contrast"].mean(),
                    "photos": grouped.size(),
                }
            ).reset_index()
            frames.append(table.assign(classifier=name, wording=wording))
    return pd.concat(frames, ignore_index=True)


def prompt_control(run: Run, wordings: pd.DataFrame) -> pd.DataFrame:
    """The profile's prompt against other wordings and other names: one row a classifier.

    Each score with its least and largest value over the wordings; mean AS if each class is called by the
    name of a random other one (median and middle 95 % of the exchanges), and the p value of the true names.
    """
    rows = []
    every = wordings[wordings["of"] == ALL]
    for name in run.classifiers:
        own = every[every["classifier"] == name]
        row: dict[str, Any] = {"classifier": name, "wordings": len(own)}
        for what in ("median |AS| (°)", "mean AS (°)", "mean contrast (°)"):
            row |= {
                what: own[what].iloc[0],
                f"{what}, least": own[what].min(),
                f"{what}, most": own[what].max(),
            }
        rows.append(row | _exchanged(run, name))
    return pd.DataFrame(rows)


def _exchanged(run: Run, name: str) -> dict[str, float]:
    if len(run.classes) < 2:
        return {}
    found, own = removed(run, name), run.photos(name).own
    drawn = other_names(found.toward, own, permutations=run.profile.permutations, seed=run.seed).numpy()
    low, middle, high = np.quantile(drawn, [0.025, 0.5, 0.975])
    return {
        "mean AS, other names (°)": float(middle),
        "other names, low": float(low),
        "other names, high": float(high),
        "p of the names": permutation_p(float(found.AS.mean()), drawn),
        "exchanges": len(drawn),
    }


# ---------------------------------------------------------------------------- other encoders


def encoder_control(run: Run) -> pd.DataFrame:
    """The same scores read by other encoders: one row a classifier and encoder.

    The profile's encoder first; each of its towers alone, where it has several that may judge the
    classifier; and the profile's second encoder. Each has a translator of its own.
    """
    rows = []
    for name in run.classifiers:
        first: pd.Series | None = None
        for label, photos, T, texts in _read_by(run, name):
            found = remove_null(photos.f, T, run.spaces(name), texts, photos.own)
            fit = quality(T(photos.f), photos.z)
            medians = pd.Series(found.AS.abs().numpy()).groupby(photos.own.numpy()).median()
            first = medians if first is None else first
            row = {"classifier": name, "encoder": label, "cosine of Tf and z": fit.cosine, "R²": fit.r2}
            row |= named_statistics(found.statistics())
            rho = first.corr(medians, "spearman") if len(first) > 2 else np.nan
            rows.append(row | {"rank correlation of classes": rho})
    return pd.DataFrame(rows)


def _read_by(run: Run, name: str) -> Iterator[tuple[str, Photos, Translator, Tensor]]:
    """Encoders that read a classifier: label, evaluation photos, translator, embeddings of class prompts."""
    p, judge, every = run.profile, run.judge(name), run.photos(name, "all")
    texts = run.texts(name, run.prompts)
    yield f"{p.encoder} (the profile's)", run.photos(name), run.translator(name), texts
    for tower, alone in judge.towers_alone().items():
        store = run.store(p.encoder)
        chosen = store.index["label"].isin(list(run.class_names)).to_numpy(copy=True)
        photos = replace(every, z=alone.targets(store)[torch.from_numpy(chosen)])
        new = every.index["evaluation"]
        fit = photos.rows(~new)
        T = Translator.fit(fit.f, fit.z, method="ridge", held_out=p.held_out, seed=p.seed)
        yield f"{tower} alone", photos.rows(new), T, texts
    if p.second_encoder is not None:
        other = run.with_encoder(p.second_encoder)
        yield p.second_encoder, other.photos(name), other.translator(name), other.texts(name, run.prompts)


def named_statistics(found: dict[str, float]) -> dict[str, float]:
    """`Scores.statistics` under the names of columns, with units."""
    return {UNITS[k]: v for k, v in found.items() if k in UNITS}


# ------------------------------------------------------------------------- the rule of rank


def rank_control(run: Run) -> pd.DataFrame:
    """Scores by several rules of where the null space begins: one row a classifier and rule.

    gap: σ_r / σ_{r+1}, infinite where the head has no further singular value. logits moved: see
    `Certificate.relative_change`; with what softmax ignores, of the logits about their mean.
    """
    rows = []
    for name in run.classifiers:
        bias, known = run.head(name).bias, {}
        for rule, spaces in rank_rules(run.spaces(name)).items():
            key = (spaces.rank, rule == SOFTMAX)
            if key not in known:  # most rules agree
                found = removed(run, name, spaces).statistics()
                proof = spaces.certificate(run.photos(name).f, bias=bias)
                known[key] = {
                    "rank": spaces.rank,
                    "null dimension": spaces.null_dim,
                    "gap": spaces.gap,
                    "energy (%)": found["energy"],
                    **named_statistics(found),
                    "logits moved": proof.relative_change,
                    "top-1 changes": proof.top1_changes,
                }
            rows.append({"classifier": name, "rule": rule, **known[key]})
    return pd.DataFrame(rows)


# ------------------------------------------------------------------- classes and classifiers


def class_scores(run: Run, scores: pd.DataFrame, wordings: pd.DataFrame | None) -> pd.DataFrame:
    """AS and contrast of each classifier and class, with intervals and p values.

    Intervals and p ("the mean contrast is 0"; p beyond: beyond the logits) hold the errors of photos and of
    the translator.

    Args:
        run: whose settings are used.
        scores: of `sing_utils.measure.tables.photo_scores`.
        wordings: of `wording_scores`; None: without the spread over wordings.
    """
    rows = [
        {"classifier": name, "class": c, "photos": len(own)}
        | _with_intervals(run, str(name), own)
        | _spread(wordings, name, c)
        for (name, c), own in scores.groupby(["classifier", "class"], sort=False)
    ]
    return pd.DataFrame(rows)


def _with_intervals(run: Run, name: str, own: pd.DataFrame) -> dict[str, float]:
    row: dict[str, float] = {}
    halves = refitted(run, name, own)
    for what in ("AS", "contrast", "contrast beyond"):
        found = sure_mean(own[what], halves[what], level=run.profile.confidence)
        row |= ends(found, what)
        row |= {what.replace("contrast", "p"): found.p} if what != "AS" else {}
    return row


def _spread(wordings: pd.DataFrame | None, name: str, c: str) -> dict[str, float]:
    if wordings is None:
        return {}
    also = wordings[(wordings["classifier"] == name) & (wordings["class"] == c)]
    row: dict[str, float] = {}
    for what, column in (("AS", "mean AS (°)"), ("contrast", "mean contrast (°)")):
        row |= {f"{what} least": also[column].min(), f"{what} most": also[column].max()}
    return row


# What classifiers may differ in: means of these columns of scores, of AS its size.
DIFFERENCES = {
    "mean |AS| (°)": "AS",
    "mean contrast (°)": "contrast",
    "mean IS (°)": "IS",
    "contrast, beyond the logits (°)": "contrast beyond",
    "IS, beyond the logits (°)": "IS beyond",
}


def classifier_differences(run: Run, scores: pd.DataFrame) -> pd.DataFrame:
    """First minus second classifier on the same photos, with intervals by photo and by class.

    One row a pair and statistic. By class: whole classes are drawn, which says what other classes
    might have shown; for fewer than 5 of them there is no such column. Both hold the translators' errors,
    refitted on the same halves. p by class: "they do not differ".
    """
    rows, level = [], run.profile.confidence
    wide = scores.pivot(index=["path", "class"], columns="classifier", values=list(DIFFERENCES.values()))
    photos = wide.index.to_frame(index=False)
    halves = {name: refitted(run, name, photos) for name in run.classifiers}
    for first, second in itertools.combinations(run.classifiers, 2):
        for statistic, column in DIFFERENCES.items():
            size = np.abs if column == "AS" else np.asarray
            x = size(wide[column][first].to_numpy()) - size(wide[column][second].to_numpy())
            spread = size(halves[first][column]) - size(halves[second][column])
            if not np.isfinite(x).all():
                continue  # a single class has no contrast
            found = sure_mean(x, spread, level=level)
            row = {"first": first, "second": second, "statistic": statistic, "photos": len(wide)}
            row |= ends(found, "difference", "")
            if photos["class"].nunique() >= 5:
                by = sure_mean(x, spread, level=level, groups=photos["class"])
                row |= {"low by class": by.low, "high by class": by.high, "p by class": by.p}
            rows.append(row)
    columns = ("first", "second", "statistic", "photos", "difference", "low", "high")
    return pd.DataFrame(rows) if rows else pd.DataFrame(columns=list(columns))


def corrected(*tables: pd.DataFrame | None) -> list[Any]:
    """Tables with their p values corrected for all tests of all of them: a column q beside each column p.

    None stays None. False discovery rate (Benjamini and Hochberg): one family a page.
    """
    given = [t for t in tables if t is not None]
    family = [(i, c) for i, t in enumerate(given) for c in t if c.split()[0] == "p"]
    q = false_discovery(np.concatenate([given[i][c].to_numpy() for i, c in family]))
    found = list(given)
    for i, c in family:
        own, q = q[: len(given[i])], q[len(given[i]) :]
        found[i] = found[i].assign(**{c.replace("p", "q", 1): own})
    rest = iter(found)
    return [None if t is None else next(rest) for t in tables]
