"""One function a claim: steering, translators, pictures, the appendices and the later version.

Each takes the run's facts and the tables it names, and follows the rule in data/published/claims.yaml.
"""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import pandas as pd
import torch

from sing_utils import findings, findings_steering
from sing_utils.findings import Verdict, span
from sing_utils.pictures import restore_norm
from sing_utils.reproduction_facts import RunFacts
from sing_utils.reproduction_judging import (
    Judgement,
    compare,
    counted,
    from_finding,
    judges,
    share,
    spans,
    step_means,
    with_interval,
)
from sing_utils.reproduction_rules import FIVE
from sing_utils.reproduction_rules_classes import median_ranges
from sing_utils.scores import angle
from sing_utils.tables_steering import DIRECTIONS

# --------------------------------------------------------------- steering (Section 4.4, Table 1, Figure 6)


@judges("steering-logits", "step_certificates")
def _steering_logits(run: RunFacts, proof: pd.DataFrame) -> Judgement:
    return from_finding(findings_steering.certificate(proof), f"{int(proof['steps'].sum())} steps")


@judges("steerable", "steering")
def _steerable(run: RunFacts, steering: pd.DataFrame) -> Judgement:
    found = from_finding(findings_steering.steerable(steering), _steps(steering))
    own = spans(step_means(steering, run, "AS"))
    return replace(found, measured=f"{found.measured} Directed, with the interval over photos: {own}.")


@judges("figure-6", "steering_grid")
def _figure_6(run: RunFacts, grid: pd.DataFrame) -> Judgement:
    limit = run.published.numbers["visible"].values["AS"]
    means = _over_classes(grid, run)
    parts = [
        f"{name}: " + ", ".join(f"{r['target']} {_reached(r)}" for r in own.to_dict("records"))
        for name, own in means.groupby("classifier", sort=False)
    ]
    below = (means["high"] < limit).groupby(means["classifier"]).any()
    verdict: Verdict = "undecided"
    if (means["low"] > limit).all():  # a target without an interval is none that is clearly reached
        verdict = "agrees"
    elif below.all():
        verdict = "differs"
    words = f"Mean AS toward each target at IS = {grid['IS'].iloc[0]:g}°: {'; '.join(parts)}."
    return Judgement(words, counted(means["photos"], "photos a target"), verdict)


def _reached(row: dict[str, Any]) -> str:
    return span(row, digits=1) if row["photos"] else "by no photo"


def _over_classes(grid: pd.DataFrame, run: RunFacts) -> pd.DataFrame:
    """Mean AS over all photos with its interval, from the means of their classes: a row a target."""
    n = grid["reached"]
    cells = grid.assign(n=n, sum=n * grid["AS"], squares=(n - 1).clip(0) * grid["AS sd"].fillna(0) ** 2)
    cells["squares"] += cells["sum"] * grid["AS"].fillna(0)  # sum of AS² over the photos of a class
    total = cells.groupby(["classifier", "target"], sort=False)[["n", "sum", "squares"]].sum().reset_index()
    mean = total["sum"] / total["n"]
    variance = (total["squares"] - total["n"] * mean**2).clip(0) / (total["n"] - 1)
    own = with_interval(mean, np.sqrt(variance), total["n"], run)
    return own.assign(classifier=total["classifier"], target=total["target"], photos=total["n"])


@judges("table-1", "steering")
def _table_1(run: RunFacts, steering: pd.DataFrame) -> Judgement:
    own = step_means(run.of(steering, FIVE), run)
    words = (
        f"Mean |AS| at IS = {steering['IS'].iloc[0]:g}° toward {steering['target'].iloc[0]}: {spans(own)}."
    )
    if not run.named:
        return Judgement(words, _steps(steering), "not comparable")
    verdict, compared, _ = compare(own, "classifier", run.published.numbers["table-1"])
    return Judgement(f"{words} Classifiers: {compared}.", _steps(steering), verdict)


@judges("table-1-order", "steering")
def _table_1_order(run: RunFacts, steering: pd.DataFrame) -> Judgement:
    own = step_means(run.of(steering, FIVE), run).sort_values("value")
    words = f"Mean |AS|, smallest first: {spans(own)}."
    if not run.named:
        return Judgement(words, _steps(steering), "not comparable")
    dino, others = own[own["classifier"] == "DINO-ViT"].iloc[0], own[own["classifier"] != "DINO-ViT"]
    verdict: Verdict = "undecided"
    if (others["high"] < dino["low"]).any():
        verdict = "differs"
    elif (others["low"] > dino["high"]).all() and set(own["classifier"][-2:]) == {"EfficientNet", "ResNet50"}:
        verdict = "agrees"
    return Judgement(words, _steps(steering), verdict)


@judges("table-1-caption", "steering")
def _table_1_caption(run: RunFacts, steering: pd.DataFrame) -> Judgement:
    published = run.published.numbers["table-1"].values
    higher = [f"{n} ({v:g}°)" for n, v in published.items() if v > published["ResNeXt101"]]
    why = f"in the paper's own table {' and '.join(higher)} stand above it ({published['ResNeXt101']:g}°)"
    own = step_means(run.of(steering, FIVE), run).sort_values("value", ascending=False)
    words = f"Mean |AS|, largest first: {spans(own)}."
    if not run.named:
        return Judgement(words, _steps(steering), "not comparable", why)
    row = own[own["classifier"] == "ResNeXt101"].iloc[0]
    verdict: Verdict = "undecided"
    if (own["low"] > row["high"]).any():
        verdict = "differs"
    elif own["classifier"].iloc[0] == "ResNeXt101":
        verdict = "agrees"
    return Judgement(words, _steps(steering), verdict, why)


@judges("security", "step_certificates", "steering")
def _security(run: RunFacts, proof: pd.DataFrame, steering: pd.DataFrame) -> Judgement:
    own = steering[steering["direction"] == DIRECTIONS[0]]
    words = (
        f"{int(proof['top-1 changes'].sum())} of {int(proof['steps'].sum())} steps in feature space changed "
        f"the top-1 class. The steps to IS = {own['IS'].iloc[0]:g}° are {own['length'].min():.2f} to "
        f"{own['length'].max():.2f} times as long as the features themselves."
    )
    return Judgement(words, f"{int(proof['steps'].sum())} steps", "not comparable", "an interpretation")


def _steps(steering: pd.DataFrame) -> str:
    own = steering[steering["direction"] == DIRECTIONS[0]]
    return counted(own["reached"], "photos a classifier")


# --------------------------------------------------------------------------- translators (Appendix B)


@judges("figure-7", "losses")
def _figure_7(run: RunFacts, losses: pd.DataFrame) -> Judgement:
    return from_finding(findings.losses(losses), counted(losses["photos to evaluate"], "photos"))


@judges("adamw", "translator_fits")
def _adamw(run: RunFacts, fits: pd.DataFrame) -> Judgement:
    words, n = findings.methods(fits).measured, counted(fits["photos to evaluate"])
    means = with_interval(fits["cosine"], fits["cosine sd"], fits["photos to evaluate"], run)
    means = means.assign(classifier=fits["classifier"] + " by " + fits["method"])
    words += f" Mean cosines: {spans(means, unit='', digits=3)}."
    return Judgement(words, n, "not comparable", "the paper gives nothing to compare with")


@judges("figure-8", "translator_cosines")
def _figure_8(run: RunFacts, cosines: pd.DataFrame) -> Judgement:
    own = cosines.groupby("classifier", sort=False)["cosine"].agg(["mean", "std", "count"]).reset_index()
    table = own.join(with_interval(own["mean"], own["std"], own["count"], run))
    words = f"Mean cosine on photos held out: {spans(table, unit='', digits=3)}."
    why = "the figure mixes training and validation photos"
    return Judgement(words, counted(own["count"]), "not comparable", why)


# ------------------------------------------------------------------------- pictures (Appendices C and D)


@judges("figure-9", "picture_changes")
def _figure_9(run: RunFacts, changes: pd.DataFrame) -> Judgement:
    finding = findings_steering.visible_change(changes)
    words, n = finding.measured, counted(changes["pictures"], "pictures at each IS")
    counted_up = changes.assign(k=(changes["changed"] / 100 * changes["pictures"]).round())
    counts = counted_up.iloc[1:].to_dict("records")
    shares = [f"{share(r['k'], r['pictures'], run)} at IS = {r['IS']:g}°" for r in counts]
    words += f" Seen as another class: {', '.join(shares)}."
    return Judgement(words, n, finding.verdict, "the paper judged by eye", finding.rule)


@judges("equation-14")
def _equation_14(run: RunFacts) -> Judgement:
    generator = torch.Generator().manual_seed(0)
    z, z_tilde, text = torch.randn(3, 1000, 768, generator=generator, dtype=torch.float64)
    restored = restore_norm(z_tilde * 3, z)
    moved = max(float((angle(restored, x) - angle(z_tilde, x)).abs().max()) for x in (z, text))
    norm = torch.linalg.vector_norm(z, dim=-1)
    off = float(((torch.linalg.vector_norm(restored, dim=-1) - norm) / norm).abs().max())
    words = f"Angles moved by at most {moved:.1e}°, lengths are off by at most {off:.1e} of themselves."
    return Judgement(
        words, "1000 pairs of drawn vectors", "agrees" if moved < 1e-6 and off < 1e-9 else "differs"
    )


@judges("norm-quality", "norm_effect")
def _norm_quality(run: RunFacts, effect: pd.DataFrame) -> Judgement:
    found = from_finding(findings_steering.norm_effect(effect), f"{len(effect)} pictures")
    more = _mean_difference(effect, "turned, as it comes (°)", "turned, restored (°)", run)
    return replace(found, measured=f"{found.measured} The latter less the former: {more}.")


def _mean_difference(table: pd.DataFrame, a: str, b: str, run: RunFacts) -> str:
    """Mean of column a less column b over rows, with its interval."""
    x = table[a] - table[b]
    return span(with_interval([x.mean()], [x.std()], [len(x)], run).iloc[0], digits=1)


@judges("same-noise", "picture_changes")
def _same_noise(run: RunFacts, changes: pd.DataFrame) -> Judgement:
    start = changes[changes["IS"] == 0].iloc[0]
    words = f"Drawn twice from one noise, the pictures' embeddings differ by {start['turned']:.2g}° (median)."
    verdict: Verdict = "agrees" if start["turned"] < 0.1 else "differs"
    return Judgement(words, f"{int(start['pictures'])} pictures", verdict)


@judges("noise-attribution", "noise_effect")
def _noise(run: RunFacts, noise: pd.DataFrame) -> Judgement:
    found = from_finding(findings_steering.noise_effect(noise), f"{len(noise)} photos")
    if found.verdict == "not comparable":
        return found
    more = _mean_difference(noise, "noise alone (°)", "step alone (°)", run)
    return replace(found, measured=f"{found.measured} By noise less by the step: {more}.")


@judges("decoder", "picture_changes")
def _decoder(run: RunFacts, changes: pd.DataFrame) -> Judgement:
    backend = str(run.parameters.get("picture_backend") or "")
    karlo = backend.partition(":")[0] == "karlo"
    words = f"Pictures come from {backend or 'a decoder that is not recorded'}."
    why = "" if karlo else f"another decoder ({backend or 'not recorded'})"
    return Judgement(
        words,
        counted(changes["pictures"], "pictures at each IS"),
        "agrees" if karlo else "not comparable",
        why,
    )


# ------------------------------------------------------------------- complete results (Appendices F and G)


def _violins(name: str, run: RunFacts, medians: pd.DataFrame) -> Judgement:
    own = run.of(medians, [name])
    why = "the figure's values have not been read"
    return Judgement(median_ranges(own), counted(own["photos"], "photos a class"), "not comparable", why)


def _concepts(name: str, run: RunFacts, concepts: pd.DataFrame) -> Judgement:
    own = run.of(concepts, ["DINO-ViT"])
    own = own[own["class"] == name]
    if own.empty:
        return Judgement("", "0 photos", "not run", f"concepts of {name} were not analysed")
    parts = []
    for classifier, table in own.groupby("classifier", sort=False):
        value, margin = table["before"], table["before margin"]
        angles = table.assign(value=value, low=value - margin, high=value + margin).sort_values("value")
        ends = [f"“{r['concept']}” {span(r, digits=1)}" for r in (angles.iloc[0], angles.iloc[-1])]
        most = table.loc[table["AS"].abs().idxmax()]
        p = "" if np.isnan(most["q"]) else f", corrected p = {most['q']:.2g}"  # one photo has none
        parts.append(
            f"{classifier}: nearest {ends[0]}, farthest {ends[1]}, largest AS {most['AS']:+.2f}° "
            f"(“{most['concept']}”{p})"
        )
    n = f"{own['concept'].nunique()} phrases, {counted(own['photos'], 'photos')}"
    why = "the list is not printed and the figure's values have not been read"
    return Judgement(f"{'; '.join(parts)}.", n, "not comparable", why)


for _claim, _name in (("figure-10", "BiTResNet"), ("figure-11", "ResNeXt101"), ("figure-12", "EfficientNet")):
    judges(_claim, "class_medians")(partial(_violins, _name))
for _claim, _name in (("figure-13", "Arabian camel"), ("figure-14", "jellyfish")):
    judges(_claim, "concepts")(partial(_concepts, _name))


# --------------------------------------------------------------------------------- the later version


@judges("later-ratios", "ratios", "spreads")
def _later(run: RunFacts, ratios: pd.DataFrame, spreads: pd.DataFrame) -> Judgement:
    published = run.published.numbers["ratio"]
    own, n = run.of(ratios, list(published.values)), counted(spreads["photos"])
    tables = dict(iter(own.groupby("definition", sort=False)))
    if not run.named:
        name, table = next(iter(tables.items()))
        return Judgement(f"By {name}: {spans(table, '', 1)}.", n, "not comparable")
    compared = {name: compare(table, "classifier", published) for name, table in tables.items()}
    best = max(compared, key=lambda name: compared[name][2])
    verdict, words, _ = compared[best]
    return Judgement(f"By {best}: {spans(tables[best], '', 1)}. Classifiers: {words}.", n, verdict)
