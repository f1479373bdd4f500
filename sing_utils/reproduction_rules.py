"""One function a claim: method, set-up and models (Sections 1, 3, 4.1 and 4.2).

Each takes the run's facts and the tables it names, and follows the rule in data/published/claims.yaml.
"""

from __future__ import annotations

import numpy as np
import pandas as pd

from sing_utils import findings, findings_planted, findings_steering
from sing_utils.findings import Verdict, span
from sing_utils.reproduction_facts import RunFacts
from sing_utils.reproduction_judging import (
    Judgement,
    above,
    between,
    counted,
    deviation,
    from_finding,
    judges,
    median_of_size,
    opposite,
    spans,
)

FIVE = ["ResNet50", "DINO-ViT", "EfficientNet", "ResNeXt101", "BiTResNet"]
PAIR = ["ResNet50", "DINO-ViT"]
_IDENTITY = "|Wf + b − logits|, relative"


# ------------------------------------------------------------------------------- method (Sections 1, 3)


@judges("figure-1", "pair_logits", "pairs")
def _figure_1(run: RunFacts, logits: pd.DataFrame, pairs: pd.DataFrame) -> Judgement:
    found = from_finding(findings_steering.same_logits(logits), f"{len(pairs)} pairs of one classifier")
    parts = [
        f"{kind} pairs: IS {between(own['IS'], 1)}, |AS| toward their class {between(own['AS'].abs(), 2)}"
        for kind, own in pairs.groupby("kind")
    ]
    words = f"{found.measured} Chosen by score, {'; '.join(parts)}."
    return Judgement(words, found.n, found.verdict, rule=found.rule)


@judges("abstract-resnet50", "photo_scores")
def _abstract(run: RunFacts, scores: pd.DataFrame) -> Judgement:
    own = median_of_size(run.of(scores, PAIR), run)
    words, n = f"Median |AS| over photos: {spans(own)}.", counted(own["photos"])
    if not run.named:
        return Judgement(words, n, "not comparable")
    rows = own.set_index("classifier")
    gap = _gap(rows.loc["ResNet50"], rows.loc["DINO-ViT"])
    return Judgement(words, n, gap)


def _gap(a: pd.Series, b: pd.Series) -> Verdict:
    """Does the interval of a lie above that of b?"""
    return "agrees" if a["low"] > b["high"] else "differs" if a["high"] < b["low"] else "undecided"


@judges("spurious-invariants", "concepts")
def _spurious(run: RunFacts, concepts: pd.DataFrame) -> Judgement:
    still = int((concepts["AS"].abs() <= concepts["margin"]).sum())
    words = (
        f"Of {len(concepts)} mean AS (of a class's photos toward a phrase), {still} have an interval that "
        f"holds 0°; the largest is {concepts['AS'].abs().max():.2f}°."
    )
    n = counted(concepts["photos"], "photos a mean")
    return Judgement(words, n, "not comparable", "no photograph says which attribute is spurious")


@judges("figure-2", "heads", "translator_fits", "certificates", "photo_scores")
def _figure_2(
    run: RunFacts, heads: pd.DataFrame, fits: pd.DataFrame, certificates: pd.DataFrame, scores: pd.DataFrame
) -> Judgement:
    proof = findings.certificate(certificates)
    dims, cosine = heads["null dimension"], fits[fits["method"] == "ridge"]["cosine"]
    words = (
        f"Heads of {len(heads)} classifiers with null spaces of {counted(dims, 'dimensions')}; translators "
        f"with a cosine of {cosine.min():.3f} to {cosine.max():.3f} on photos that they never saw; "
        f"{int(certificates['photos'].sum())} equivalents; {len(scores)} pairs of AS and IS."
    )
    why = "the four steps as the figure draws them"
    n = counted(scores.groupby("classifier").size())
    return Judgement(words, n, proof.verdict, why, "Of the logits: " + proof.rule)


@judges("equation-2", "certificates")
def _equation_2(run: RunFacts, certificates: pd.DataFrame) -> Judgement:
    return from_finding(findings.certificate(certificates), counted(certificates["photos"]))


@judges("scores", "photo_scores")
def _scores(run: RunFacts, scores: pd.DataFrame) -> Judgement:
    excess = scores["AS"].abs() - scores["IS"]
    over = int((excess > 1e-6).sum())
    words = (
        f"|AS| exceeds IS for {over} of {len(scores)} pairs. AS from {scores['AS'].min():+.2f} to "
        f"{scores['AS'].max():+.2f}°, IS from {scores['IS'].min():.2f} to {scores['IS'].max():.2f}°."
    )
    n = counted(scores.groupby("classifier").size())
    return Judgement(words, n, "differs" if over else "agrees")


@judges("as-finds-leakage", "planted_agreement")
def _as_finds_leakage(run: RunFacts, agreement: pd.DataFrame) -> Judgement:
    found = from_finding(
        findings_planted.recovered(agreement), counted(agreement["worlds"], "planted worlds")
    )
    return Judgement(found.measured, found.n, found.verdict, "in the planted world", found.rule)


@judges("ratio-finds-leakage", "planted_conclusions")
def _ratio_finds_leakage(run: RunFacts, conclusions: pd.DataFrame) -> Judgement:
    own = conclusions[conclusions["short"] == "leaky by IS/|AS|"].iloc[0]  # as it should be comes first
    held, of = int(own["worlds"]), int(own["of"])
    verdict: Verdict = "agrees" if held == of else "undecided" if held else "differs"
    words = f"The leaky head has the lower IS/|AS| in {held} of {of} worlds."
    return Judgement(words, f"{of} planted worlds", verdict, "in the planted world")


# --------------------------------------------------------------------------------------------- set-up


@judges("set-up", "photos")
def _set_up(run: RunFacts, photos: pd.DataFrame) -> Judgement:
    fit, evaluate = int(photos["to fit"].sum()), int(photos["to evaluate"].sum())
    wanted = run.published.numbers["set-up"].values["features a classifier"]
    words = (
        f"{len(run.sources)} classifiers, {len(photos)} classes, {fit + evaluate} features of each: "
        f"{fit} to fit and {evaluate} to evaluate."
    )
    return Judgement(words, f"{fit + evaluate} photos", "agrees" if fit + evaluate >= wanted else "differs")


@judges("null-dimensions", "heads")
def _null_dimensions(run: RunFacts, heads: pd.DataFrame) -> Judgement:
    own = run.of(heads, FIVE)
    words = "; ".join(
        f"{r['classifier']} {r['null dimension']} (m = {r['m']}, rank {r['rank']})"
        for r in own.to_dict("records")
    )
    published = run.published.numbers["null-dimension"].values
    equal = (own["null dimension"] == own["classifier"].map(published)).all()
    return Judgement(f"Null dimensions: {words}.", f"{len(own)} heads", "agrees" if equal else "differs")


@judges("dino-name")
def _dino_name(run: RunFacts) -> Judgement:
    name = run.named.get("DINO-ViT")
    words = f"{run.published.classifiers['DINO-ViT'].source} is what the paper cites. "
    words += f"This run loads it as {name}." if name else "This run has no classifier from it."
    return Judgement(words, "1 checkpoint", "not comparable", "the paper says two things")


@judges("head-identity", "heads")
def _head_identity(run: RunFacts, heads: pd.DataFrame) -> Judgement:
    off = heads[_IDENTITY].dropna()
    if off.empty:
        return Judgement("No network was loaded, only heads.", "0 classifiers", "undecided")
    words = f"W f + b differs from the networks' own logits by at most {off.max():.1e} of the largest."
    return Judgement(
        words, f"{len(off)} classifiers, 2 random pictures each", "agrees" if off.max() <= 1e-3 else "differs"
    )


# ------------------------------------------------------------------------- models (Section 4.2, Figure 3)


@judges("figure-3a-pattern", "spreads", "ratios")
def _elongation(run: RunFacts, spreads: pd.DataFrame, ratios: pd.DataFrame) -> Judgement:
    return from_finding(findings.elongation(spreads, ratios), counted(spreads["photos"]))


@judges("figure-3a-models", "spreads")
def _vertical(run: RunFacts, spreads: pd.DataFrame) -> Judgement:
    own = run.of(spreads, FIVE)
    shown = own.assign(**{c: np.exp(own[s]) for c, s in (("value", "log variance ratio"), *_LOGS)})
    words, n = f"Var(IS) / Var(AS): {spans(shown, unit='')}.", counted(own["photos"])
    if not run.named:
        return Judgement(words, n, "not comparable")
    verdicts = [
        v if r["classifier"] == "DINO-ViT" else opposite(v)
        for r in own.to_dict("records")
        for v in [above(r["low"], r["high"], 0.0)]
    ]
    verdict: Verdict = "undecided"
    if "differs" in verdicts:
        verdict = "differs"
    elif set(verdicts) == {"agrees"}:
        verdict = "agrees"
    return Judgement(words, n, verdict)


_LOGS = (("low", "low"), ("high", "high"))


@judges("figure-3b", "ratios", "spreads")
def _ratio_order(run: RunFacts, ratios: pd.DataFrame, spreads: pd.DataFrame) -> Judgement:
    own, n = run.of(ratios, FIVE), counted(spreads["photos"])
    words = findings.ratio_order(own).measured
    if not run.named:
        return Judgement(words, n, "not comparable")
    held, definitions = 0, 0
    for _, table in own.groupby("definition", sort=False):
        ordered = table.sort_values("value")["classifier"].tolist()
        held += (ordered[-1], ordered[0]) == ("DINO-ViT", "ResNeXt101")
        definitions += 1
    verdict: Verdict = "agrees" if held == definitions else "undecided" if held else "differs"
    return Judgement(f"{words} As published by {held} of {definitions} definitions.", n, verdict)


@judges("ratio-definition", "ratios", "spreads")
def _ratio_definition(run: RunFacts, ratios: pd.DataFrame, spreads: pd.DataFrame) -> Judgement:
    parts = [f"{name}: {spans(own, '', 1)}" for name, own in ratios.groupby("definition", sort=False)]
    words = f"{'. '.join(parts)}."
    return Judgement(words, counted(spreads["photos"]), "not comparable", "the paper gives no definition")


@judges("resnext101-variance", "photo_scores")
def _resnext101(run: RunFacts, scores: pd.DataFrame) -> Judgement:
    own = run.of(scores, FIVE)
    medians, sd = median_of_size(own, run), deviation(own, "AS", run)
    words = f"Median |AS|: {spans(medians)}. Standard deviation of AS: {spans(sd)}."
    if not run.named:
        return Judgement(words, counted(medians["photos"]), "not comparable")
    first = [table.loc[table["value"].idxmax(), "classifier"] for table in (medians, sd)]
    hits = first.count("ResNeXt101")
    verdict: Verdict = "agrees" if hits == 2 else "undecided" if hits else "differs"
    return Judgement(words, counted(medians["photos"]), verdict)


@judges("pretraining", "ratios", "spreads")
def _pretraining(run: RunFacts, ratios: pd.DataFrame, spreads: pd.DataFrame) -> Judgement:
    first = ratios[ratios["definition"] == ratios["definition"].iloc[0]]
    best = first.sort_values("value").iloc[-1]
    source = run.sources.get(str(best["classifier"]), "not recorded")
    words = (
        f"The best ratio, {span(best, '', 1)} by {best['definition']}, has {best['classifier']} "
        f"(weights: {source})."
    )
    return Judgement(words, counted(spreads["photos"]), "not comparable", "an interpretation")
