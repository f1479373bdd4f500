"""One function a claim: classes and concepts (Section 4.3, Figures 4 and 5).

Each takes the run's facts and the tables it names, and follows the rule in data/published/claims.yaml.
"""

from __future__ import annotations

import pandas as pd
from scipy import stats

from sing_utils import findings
from sing_utils.findings import Verdict, span
from sing_utils.reproduction_facts import RunFacts
from sing_utils.reproduction_judging import (
    Judgement,
    above,
    compare,
    counted,
    deviation,
    from_finding,
    judges,
    median_of_size,
    opposite,
    share,
    spans,
)
from sing_utils.reproduction_rules import PAIR


def _class_medians(run: RunFacts, medians: pd.DataFrame, name: str) -> Judgement:
    """Figure 4 of one classifier: class medians beside those read off the figure."""
    own = run.of(medians, [name])
    words, n = median_ranges(own), counted(own["photos"], "photos a class")
    if not run.named:
        return Judgement(words, n, "not comparable")
    verdict, compared, _ = compare(own, "class", run.published.numbers[f"figure-4-{name.lower()}"])
    return Judgement(f"{words} Classes: {compared}.", n, verdict)


def median_ranges(medians: pd.DataFrame) -> str:
    """Of each classifier the classes with the smallest and the largest median |AS|."""
    parts = []
    for name, own in medians.groupby("classifier", sort=False):
        ordered = own.sort_values("value")
        ends = [f"{span(r)} ({r['class']})" for r in (ordered.iloc[0], ordered.iloc[-1])]
        parts.append(f"{name} from {ends[0]} to {ends[1]}")
    return f"Class medians of |AS|: {'; '.join(parts)}."


@judges("figure-4-resnet50", "class_medians")
def _figure_4_resnet50(run: RunFacts, medians: pd.DataFrame) -> Judgement:
    return _class_medians(run, medians, "ResNet50")


@judges("figure-4-dino-vit", "class_medians")
def _figure_4_dino(run: RunFacts, medians: pd.DataFrame) -> Judgement:
    return _class_medians(run, medians, "DINO-ViT")


@judges("dino-typical", "photo_scores")
def _dino_typical(run: RunFacts, scores: pd.DataFrame) -> Judgement:
    limit = run.published.numbers["dino-typical"].values["DINO-ViT"]
    chosen = run.of(scores, ["DINO-ViT"])
    own = median_of_size(chosen, run)
    small = (chosen["AS"].abs() < limit).groupby(chosen["classifier"], sort=False).agg(["sum", "size"])
    shares = "; ".join(f"{r.Index} {share(r.sum, r.size, run)}" for r in small.itertuples())
    words = f"Median |AS| over photos: {spans(own)}. Below {limit:g}°: {shares} of the photos."
    if not run.named:
        return Judgement(words, counted(own["photos"]), "not comparable")
    row = own.iloc[0]
    return Judgement(words, counted(own["photos"]), opposite(above(row["low"], row["high"], limit)))


@judges("resnet50-varies", "class_medians")
def _resnet50_varies(run: RunFacts, medians: pd.DataFrame) -> Judgement:
    own = run.of(medians, PAIR)
    n = f"{own['class'].nunique()} classes, {counted(own['photos'], 'photos each')}"
    spread = deviation(own, "value", run)
    sd = spread.set_index("classifier")["value"]
    words = f"Standard deviation of the class medians of |AS|, roughly over classes: {spans(spread)}."
    if not run.named:
        return Judgement(words, n, "not comparable")
    a, b = (own[own["classifier"] == name].set_index("class") for name in PAIR)
    up, down = int((a["low"] > b["high"]).sum()), int((a["high"] < b["low"]).sum())
    words += f" ResNet50's interval lies above DINO-ViT's in {up} of {len(a)} classes, below in {down}."
    more = bool(sd["ResNet50"] > sd["DINO-ViT"])
    verdict: Verdict = "undecided"
    if 2 * down > len(a) or not more:
        verdict = "differs"
    elif 2 * up > len(a):
        verdict = "agrees"
    return Judgement(words, n, verdict)


@judges("figure-4-caption", "class_medians")
def _figure_4_caption(run: RunFacts, medians: pd.DataFrame) -> Judgement:
    own = run.of(medians, ["ResNet50"])
    words, n = median_ranges(own), counted(own["photos"], "photos a class")
    if not run.named:
        return Judgement(words, n, "not comparable")
    ordered = own.sort_values("value", ascending=False)["class"].tolist()
    places = {c: ordered.index(c) + 1 for c in ("porcupine", "sports car")}
    hits = sum(place <= len(ordered) / 4 for place in places.values())
    named = ", ".join(f"{c} has place {place} of {len(ordered)}" for c, place in places.items())
    verdict: Verdict = "agrees" if hits == 2 else "undecided" if hits else "differs"
    return Judgement(f"{words} By size of the median, {named}.", n, verdict)


@judges("class-order", "rank_correlations")
def _class_order(run: RunFacts, correlations: pd.DataFrame) -> Judgement:
    own = correlations
    if set(PAIR) <= set(run.named):
        pair = {run.named[name] for name in PAIR}
        own = own[own["a"].isin(pair) & own["b"].isin(pair)]
    a, b = (run.published.numbers[f"figure-4-{name.lower()}"].values for name in PAIR)
    rho, p = stats.spearmanr(list(a.values()), [b[c] for c in a])
    why = f"the medians read off Figure 4 give ρ = {rho:.2f}, p = {p:.2f} over {len(a)} classes"
    found = from_finding(findings.class_order(own), counted(own["classes"], "classes"))
    return Judgement(found.measured, found.n, found.verdict, why, found.rule)


@judges("figure-5-desert", "concepts")
def _desert(run: RunFacts, concepts: pd.DataFrame) -> Judgement:
    own = run.of(concepts, ["DINO-ViT"])
    finding = findings.nearest_concept(own, "Arabian camel", "desert")
    return from_finding(finding, _photos_of(own, ["Arabian camel"]))


@judges("figure-5-jellyfish", "concepts", "concept_sizes")
def _jellyfish(run: RunFacts, concepts: pd.DataFrame, sizes: pd.DataFrame) -> Judgement:
    finding = findings.quieter_class(run.of(sizes, ["DINO-ViT"]), "Arabian camel", "jellyfish")
    return from_finding(finding, _photos_of(run.of(concepts, ["DINO-ViT"]), ["Arabian camel", "jellyfish"]))


def _photos_of(concepts: pd.DataFrame, classes: list[str]) -> str:
    own = concepts[concepts["class"].isin(classes)]
    return f"{own['concept'].nunique()} phrases, {counted(own['photos'], 'photos a class')}"
