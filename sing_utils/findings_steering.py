"""What steering showed: words from the numbers of notebooks 04 and 05, by stated rules."""

from __future__ import annotations

import pandas as pd

from sing_utils import findings
from sing_utils.findings import Finding, Verdict
from sing_utils.tables_steering import DIRECTIONS

PAPER_TABLE_1 = "5.0 to 12.4° over five models"  # Table 1: DINO-ViT 5.0, EfficientNet 12.38
PAPER_IS, PAPER_AS = 10.0, 3.0  # appendix C: where the paper sees a change, degrees


def table_1(table: pd.DataFrame) -> Finding:
    """|AS| toward the target at one IS, beside chance (Table 1)."""
    wide = table.pivot(index="classifier", columns="direction", values="|AS| mean")
    sd = table.pivot(index="classifier", columns="direction", values="|AS| sd")
    text, random = DIRECTIONS
    parts = [
        f"{name} {wide.loc[name, text]:.2f} ± {sd.loc[name, text]:.2f}° (random null directions "
        f"{wide.loc[name, random]:.2f} ± {sd.loc[name, random]:.2f}°)"
        for name in table["classifier"].unique()
    ]
    first = table.iloc[0]
    return Finding(
        f"At IS = 40° from Sports Car toward a jellyfish |AS| is {PAPER_TABLE_1} (Table 1); no control.",
        f"At IS = {first['IS']:g}° toward “{first['target']}”: " + "; ".join(parts) + ". "
        "Mean ± standard deviation over steps.",
        "not comparable",
        "These are other classifiers, another encoder and fewer photos; only the protocol is the paper's.",
    )


def steerable(table: pd.DataFrame) -> Finding:
    """Does a directed step move toward the text more than a random one of the same IS?"""
    claim = "Semantics can be steered inside the null space while the logits stay (Section 4.4)."
    rule = (
        "Agrees if for every classifier the mean AS of directed steps exceeds that of random ones by two "
        "standard deviations of the latter and no top-1 class changed; differs if for none; else undecided."
    )
    text, random = DIRECTIONS
    wide = table.pivot(index="classifier", columns="direction", values="AS mean").dropna()
    if wide.empty or wide.shape[1] < 2:
        return Finding(claim, "No photo reaches this IS in both ways.", "not run", rule)
    spread = table.pivot(index="classifier", columns="direction", values="AS sd")[random][wide.index]
    clear = (wide[text] - wide[random]) > 2 * spread
    flips = int(table["flips"].sum())
    verdict: Verdict = "undecided"
    if bool(clear.all()) and flips == 0:
        verdict = "agrees"
    elif not clear.any():
        verdict = "differs"
    parts = [f"{n}: {wide.loc[n, text]:+.1f}° against {wide.loc[n, random]:+.2f}°" for n in wide.index]
    return Finding(
        claim,
        "Mean AS toward the text, directed against random steps: "
        + "; ".join(parts)
        + f". {flips} top-1 classes changed.",
        verdict,
        rule,
    )


def certificate(table: pd.DataFrame) -> Finding:
    """Did every step leave the logits alone? (eq. 2)"""
    claim = "A step in the null space leaves the logits unchanged, whatever its length (eqs. 2 and 13)."
    return findings.certificate(table.rename(columns={"steps": "photos"}), claim=claim)


def whole_gradient(table: pd.DataFrame) -> Finding:
    """What staying in the null space costs, and what it spares."""
    parts = [
        f"{r['classifier']}: AS {r['AS along the whole gradient']:.1f}° against "
        f"{r['AS in the null space']:.1f}° in the null space, and {r['top-1 changes']} of {r['photos']} "
        "photos change their top-1 class"
        for r in table[table["photos"] > 0].to_dict("records")
    ]
    return Finding(
        "The paper does not compare with steps that leave the null space.",
        f"Steps of IS = {table['IS'].iloc[0]:g}° along the whole text gradient: " + "; ".join(parts) + ".",
        "not in the paper" if parts else "not run",
        "Photos that reach this IS both ways; only the projection (eq. 12) is left out.",
    )


def grid(shares: pd.DataFrame) -> Finding:
    """Does AS at a fixed IS depend on where one starts, or on where one goes?"""
    parts = [
        f"{r['classifier']} {r['target (%)']:.0f} % and {r['source class (%)']:.0f} %"
        for r in shares.to_dict("records")
    ]
    if shares.empty:
        parts = ["no classifier has two classes that reach two targets"]
    return Finding(
        "Steering probes a class's sensitivity to concepts of other classes (Section 3, null perturbations).",
        "Of the variance between the cells of the grid, the target and the source class account for: "
        + "; ".join(parts)
        + ".",
        "not in the paper",
        "Two-way sums of squares over cell means. If nearly all goes with the target, the AS at a fixed IS "
        "says more about the prompt and the translator than about the class that is steered.",
    )


def same_logits(table: pd.DataFrame) -> Finding:
    """Do the pairs' largest logits and their order agree? (Figure 1)"""
    moved = float((table["logit"] - table["its logit"]).abs().max())
    swapped = int((table["original"] != table["equivalent"]).sum())
    return Finding(
        "Each pair yields the same logits after passing through the linear head (Figure 1).",
        f"Over the largest logits of {table['pair'].nunique()} pairs, {swapped} places hold another class "
        f"and no logit differs by more than {moved:.1e}.",
        "agrees" if swapped == 0 and moved < 1e-3 * table["logit"].abs().max() else "differs",
        "Agrees if every place holds the same class and no logit differs by a thousandth of the largest.",
    )


def visible_change(table: pd.DataFrame) -> Finding:
    """At which IS do pictures change? (appendix C, Figure 9)"""
    claim = (
        f"A change of meaning shows at about {PAPER_AS:g}° AS and {PAPER_IS:g}° IS (appendix C, Figure 9)."
    )
    rule = (
        "Not comparable: the paper judged by eye, with a decoder of 256 × 256 pixels. Here a picture counts "
        "as changed where the judge sees another class than at the start, and as another picture where its "
        "embedding lies farther from the start's than other noise alone would put it."
    )
    half, noise = table[table["changed"] >= 50], float(table["noise"].iloc[0])
    words = (
        f"Half of the {table['pictures'].iloc[0]} pictures are first recognised as another class at IS = "
        f"{half['IS'].iloc[0]:g}°, mean AS {half['AS'].iloc[0]:.1f}°"
        if len(half)
        else f"Up to IS = {table['IS'].max():g}° fewer than half of the pictures are seen as another class"
    )
    past = table[table["turned"] > noise]
    if noise == 0:
        words += "; there is no noise to compare with."
    elif len(past):
        words += (
            f"; the median picture first turns by more than other noise does ({noise:.0f}°) at IS = "
            f"{past['IS'].iloc[0]:g}°."
        )
    else:
        words += f"; the median picture never turns by more than other noise does ({noise:.0f}°)."
    return Finding(claim, words, "not comparable", rule)


def norm_effect(table: pd.DataFrame) -> Finding:
    """How much of a picture's change is the length's doing?"""
    ratio, restored, plain = (
        table[c] for c in ("norm, × original", "turned, restored (°)", "turned, as it comes (°)")
    )
    return Finding(
        "Restoring the norm prevents distortions of the pictures by radial drift (appendix D, eq. 14).",
        f"The steps make the translated features {ratio.min():.2f} to {ratio.max():.2f} times as long. With "
        f"the norm restored the pictures turn by {restored.mean():.1f}° on average, without by "
        f"{plain.mean():.1f}°.",
        "agrees" if (plain > restored).all() else "undecided" if (plain > restored).any() else "differs",
        "Agrees if every picture turns farther without the norm restored, differs if none does.",
    )


def noise_effect(table: pd.DataFrame) -> Finding:
    """Can a step be told from noise that is not shared?"""
    step, noise, both = (table[f"{what} (°)"] for what in ("step alone", "noise alone", "both"))
    more = noise > step
    claim = "Sharing the noise makes visual differences solely attributable to the feature (appendix D)."
    rule = (
        "Agrees if other noise alone changes every picture more than this step does, so that only shared "
        "noise lets one see the step; differs if it does for none."
    )
    if not noise.any():
        return Finding(claim, "These pictures are made without noise.", "not comparable", rule)
    verdict: Verdict = "agrees" if more.all() else "undecided" if more.any() else "differs"
    return Finding(
        claim,
        f"On average over {len(table)} photos the step alone turns the picture by {step.mean():.1f}°, other "
        f"noise alone by {noise.mean():.1f}°, both by {both.mean():.1f}°; noise alone turns "
        f"{int(more.sum())} of the {len(table)} farther than the step does.",
        verdict,
        rule,
    )
