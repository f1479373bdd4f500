"""Measure the embedded encoder on held-out photos and print the card's tables.

    python data/embedded/build/evaluate_encoder.py --photos PHOTOS --work WORK

PHOTOS and WORK as for train_encoder.py. Angles in degrees, accuracies in percent.
"""

from __future__ import annotations

import argparse
import itertools
from pathlib import Path

import torch
from photos import TOWERS, Rows, split_rows, stores_of
from torch import Tensor
from torch.nn.functional import normalize

from sing_utils.features.store import FeatureStore
from sing_utils.method.head import HeadSpaces
from sing_utils.method.scores import attribute_score, image_score
from sing_utils.models.classifiers import load_classifier
from sing_utils.models.encoders import EmbeddedEncoder, load_embedded
from sing_utils.models.networks import imagenet_labels

PROMPT = "a photo of a {}."
CONCEPTS = (
    "desert", "forest", "ocean", "beach", "mountain", "snow", "river", "grass", "sky", "clouds",
    "night", "sunset", "city", "street", "house", "kitchen", "office", "garden", "farm", "road",
    "stadium", "bridge", "water", "fire", "sand", "rocks", "flowers", "people",
)  # fmt: skip
RIDGES = (0.001, 0.01, 0.1, 1.0)
CAMEL = 354  # Arabian camel


def percent_top(z: Tensor, t: Tensor, y: Tensor, *k: int) -> list[str]:
    """Share of rows of z (B, n) whose own text y (B,) is among the k nearest of t (K, n)."""
    ranked = (z @ t.mT).topk(max(k), -1).indices
    return [f"{100 * float((ranked[:, :i] == y[:, None]).any(1).double().mean()):.1f}" for i in k]


def row(*cells: object) -> None:
    """Print a row of a Markdown table."""
    print("|", " | ".join(str(c) for c in cells), "|", flush=True)


def main() -> None:
    """Print zero-shot, retrieval, concept and translator tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--photos", type=Path, required=True)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--weights", type=Path, default=None, help="default: the shipped ones")
    args = parser.parse_args()
    encoder = load_embedded(args.weights) if args.weights else load_embedded()
    stores = {t: stores_of(t, args.photos, args.work) for t in TOWERS}
    rows = split_rows(stores[TOWERS[0]], args.photos)
    features = {t: {s: store.read("features") for s, store in stores[t].items()} for t in TOWERS}
    z = {
        s: {t: encoder.embed_features(t, features[t][s]) for t in TOWERS}
        for s in ("flickr", "sample", "analysed")
    }
    split = (stores[TOWERS[0]]["analysed"].index.split == "val").to_numpy()
    val = torch.tensor(split).nonzero().squeeze(1)
    accuracy(encoder, z, rows, val)
    classifiers_own(features, rows, val)
    concepts(encoder, z, rows, val)
    translators(encoder, features, z, stores, rows, val)


def accuracy(encoder: EmbeddedEncoder, z: dict[str, dict[str, Tensor]], rows: Rows, val: Tensor) -> None:
    """Zero-shot classification and text-to-image retrieval, for each set of towers."""
    names = encoder.encode_text([PROMPT.format(n) for n in imagenet_labels()])  # (1000, n)
    captions = encoder.encode_text([rows.caption_texts[i] for i in rows.captions[rows.flickr_test].flatten()])
    own = torch.arange(len(rows.flickr_test)).repeat_interleave(rows.captions.shape[1])
    y = rows.labels["analysed"][val]
    sixteen = y.unique()
    row("towers", f"1000-way, sample (N={len(rows.sample_test)}): top-1", "top-5",
        f"16-way, analysed (N={len(val)}): top-1", "1000-way, analysed: top-1", "top-5",
        f"recall@1 ({len(own)} captions, 200 photos)", "@5", "@10")  # fmt: skip
    row(*["---"] * 9)
    pairs = [[t for t in TOWERS if t != own_tower] for own_tower in TOWERS]
    for kept in [*([t] for t in TOWERS), *pairs, list(TOWERS)]:
        part = encoder.only(*kept)
        x = {s: part.combine(z[s]) for s in z}
        row(", ".join(t[-5:] for t in kept),
            *percent_top(x["sample"][rows.sample_test], names, rows.labels["sample"][rows.sample_test], 1, 5),
            *percent_top(x["analysed"][val], names[sixteen], torch.searchsorted(sixteen, y), 1),
            *percent_top(x["analysed"][val], names, y, 1, 5),
            *percent_top(captions, x["flickr"][rows.flickr_test], own, 1, 5, 10))  # fmt: skip


def classifiers_own(features: dict[str, dict[str, Tensor]], rows: Rows, val: Tensor) -> None:
    """The classifiers' top-1 on the same photos."""
    print()
    row("classifier", "1000-way, sample: top-1", "16-way, analysed: top-1", "1000-way, analysed: top-1")
    row(*["---"] * 4)
    y = rows.labels["analysed"][val]
    sixteen = y.unique()
    for t in TOWERS:
        W, b = load_classifier(t).head.weight, load_classifier(t).head.bias
        sample = features[t]["sample"][rows.sample_test] @ W.mT + b
        analysed = features[t]["analysed"][val] @ W.mT + b
        hits = (
            sample.argmax(-1) == rows.labels["sample"][rows.sample_test],
            sixteen[analysed[:, sixteen].argmax(-1)] == y,
            analysed.argmax(-1) == y,
        )
        row(t, *(f"{100 * float(h.double().mean()):.1f}" for h in hits))


def concepts(encoder: EmbeddedEncoder, z: dict[str, dict[str, Tensor]], rows: Rows, val: Tensor) -> None:
    """Which backgrounds a class's photos are nearest to, each concept's mean over classes removed."""
    print()
    row("class", *(f"rank {i}" for i in range(1, 5)), "desert's rank, plain cosine")
    row(*["---"] * 6)
    t = encoder.encode_text(CONCEPTS)  # (28, n)
    x = encoder.combine(z["analysed"])[val]
    y = rows.labels["analysed"][val]
    plain = torch.stack([(x[y == c] @ t.mT).mean(0) for c in y.unique()])  # (16, 28)
    lift = plain - plain.mean(0)
    for c, own, raw in zip(y.unique().tolist(), lift, plain, strict=True):
        best = [CONCEPTS[i] for i in own.argsort(descending=True)[:4]]
        rank = 1 + int((raw > raw[CONCEPTS.index("desert")]).sum()) if c == CAMEL else ""
        row(imagenet_labels()[c], *best, rank)


def translators(
    encoder: EmbeddedEncoder,
    features: dict[str, dict[str, Tensor]],
    z: dict[str, dict[str, Tensor]],
    stores: dict[str, dict[str, FeatureStore]],
    rows: Rows,
    val: Tensor,
) -> None:
    """A bias-free ridge translator, fitted on analysed/train, measured on analysed/val.

    Ridge strengths are relative to the mean diagonal of F^T F.
    """
    print()
    row("classifier", "target", "ridge", "fit cosine", "held-out cosine", "mean IS", "mean abs. AS")
    row(*["---"] * 7)
    fit = torch.tensor((stores[TOWERS[0]]["analysed"].index.split == "train").to_numpy())
    t = encoder.encode_text([PROMPT.format(n) for n in imagenet_labels()])
    own_text = t[rows.labels["analysed"][val]]  # (N, n)
    for tower in TOWERS:
        f = features[tower]["analysed"].double()
        f_tilde = HeadSpaces.from_weight(load_classifier(tower).head.weight).remove_null(f[val])
        energy, axes = torch.linalg.eigh(f[fit].mT @ f[fit])  # one decomposition for all strengths
        targets = {"its judge": encoder.judge_of(tower).encoder, "its own tower": encoder.only(tower)}
        for (name, who), strength in itertools.product(targets.items(), RIDGES):
            target = who.combine(z["analysed"]).double()
            damped = energy + strength * energy.mean()
            T = axes @ ((axes.mT @ (f[fit].mT @ target[fit])) / damped[:, None])  # (m, n)
            cosine = (normalize(f @ T, dim=-1) * target).sum(-1)
            a, b = f[val] @ T, f_tilde @ T
            score = attribute_score(a, b, own_text).abs()
            row(tower, name, strength, f"{cosine[fit].mean():.3f}", f"{cosine[val].mean():.3f}",
                f"{image_score(a, b).mean():.2f}°", f"{score.mean():.2f}°")  # fmt: skip


if __name__ == "__main__":
    main()
