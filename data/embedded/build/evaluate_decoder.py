"""Measure the mini UnCLIP on held-out photos, and draw its contact sheets.

    python data/embedded/build/evaluate_decoder.py --photos FOLDER

FOLDER holds val/WNID/*: the photos whose embeddings are stored in data/embedded/features and on
which nothing was trained. The guidance is chosen with training photos' embeddings (--choose), which
need no photo. Pictures that are generated may be shown; the photos are only measured.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import pandas as pd
import torch
from PIL import Image, ImageOps
from torch import Tensor

from sing_utils.classifiers import imagenet_wnids, load_classifier
from sing_utils.encoders import load_embedded
from sing_utils.features import FeatureStore
from sing_utils.pictures import MINI_WEIGHTS, MiniUnCLIP
from sing_utils.profiles import load_profile
from sing_utils.scores import angle

FEATURES = Path(__file__).parents[1] / "features"
WITNESS = "efficientnet_lite2"
BATCH = 32


def main() -> None:
    """Choose the guidance, or measure and draw."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--photos", type=Path, help="only needed for the rows about photos")
    parser.add_argument("--weights", type=Path, default=MINI_WEIGHTS)
    parser.add_argument("--choose", action="store_true", help="compare guidance on training photos")
    args = parser.parse_args()
    encoder = load_embedded()
    store = FeatureStore.open(FEATURES / encoder.name)
    z = encoder.combine({t: store.read(t) for t in encoder.towers})
    if args.choose:
        print(compare_guidance(args.weights, z, store.index).to_markdown(index=False, floatfmt=".1f"))
        return
    val = store.index[store.index["split"] == "val"].reset_index(drop=True)
    z = z[torch.from_numpy((store.index["split"] == "val").to_numpy(copy=True))]
    pictures = MiniUnCLIP.load(args.weights)(z, shared_noise=False)
    logits = witness(pictures)
    measured = {"drawn from held-out embeddings": (logits, encoder.encode_images(pictures))}
    if args.photos is not None:
        small = [shrink(args.photos / p) for p in val["path"]]
        measured["the photos themselves, shrunk to 64 x 64"] = (witness(small), encoder.encode_images(small))
    rows = [{"pictures": k, "N": len(z), **figures(x, y, z, val["label"])} for k, (x, y) in measured.items()]
    chance = angle(z, z[torch.randperm(len(z), generator=torch.Generator().manual_seed(0))])
    print(pd.DataFrame(rows).to_markdown(index=False, floatfmt=".1f"))
    print(f"\nangle between embeddings of two photos at random: median {float(chance.median()):.1f}°\n")
    print(by_class(logits, measured["drawn from held-out embeddings"][1], z, val["label"]))
    sheet(pictures, val["label"], args.weights / "contact_sheet.jpg")
    failures(pictures, logits, val["label"], args.weights / "failures.jpg")


def compare_guidance(weights: Path, z: Tensor, index: pd.DataFrame) -> pd.DataFrame:
    """Recognition and angle for some scales of guidance, on 160 training photos' embeddings."""
    encoder = load_embedded()
    fit = index[index["split"] == "train"]
    rows = fit.groupby("label", sort=True).head(10).index
    table = []
    for guidance in (1.0, 1.5, 2.0, 3.0):
        for steps in (16, 32):
            decoder = MiniUnCLIP.load(weights, guidance=guidance, steps=steps)
            pictures = decoder(z[rows], shared_noise=False)
            seen = encoder.encode_images(pictures)
            found = figures(witness(pictures), seen, z[rows], index["label"].loc[rows])
            table.append({"guidance": guidance, "steps": steps, **found})
    return pd.DataFrame(table)


def witness(pictures: list[Image.Image]) -> Tensor:
    """EfficientNet-Lite2's logits of the 16 classes, in the order of `classes()`: (N, 16)."""
    classifier = load_classifier(WITNESS)
    columns = [imagenet_wnids().index(w) for w in classes()]
    parts = []
    for start in range(0, len(pictures), BATCH):
        batch = torch.stack([classifier.prepare(p) for p in pictures[start : start + BATCH]])
        parts.append(classifier(batch).logits[:, columns])
    return torch.cat(parts)


def classes() -> list[str]:
    """Labels of the 16 classes, sorted."""
    return sorted(load_profile("embedded").classes or {})


def figures(logits: Tensor, seen: Tensor, z: Tensor, labels: pd.Series) -> dict[str, float]:
    """Top-1 and top-5 within the 16 classes (percent), and the angle to the embedding asked for."""
    truth = torch.tensor([classes().index(x) for x in labels])
    ranked = logits.argsort(-1, descending=True)
    hit = ranked == truth[:, None]
    turned = angle(seen, z)
    return {
        "top-1 of 16 (%)": 100 * float(hit[:, 0].double().mean()),
        "top-5 of 16 (%)": 100 * float(hit[:, :5].any(-1).double().mean()),
        "median angle (°)": float(turned.median()),
        "90th percentile (°)": float(turned.quantile(0.9)),
    }


def by_class(logits: Tensor, seen: Tensor, z: Tensor, labels: pd.Series) -> str:
    """The same for each class, as a table in markdown."""
    names = load_profile("embedded").classes or {}
    rows = []
    for label in classes():
        mask = torch.from_numpy((labels == label).to_numpy(copy=True))
        found = figures(logits[mask], seen[mask], z[mask], labels[labels == label])
        rows.append({"class": names[label], "N": int(mask.sum()), **found})
    return pd.DataFrame(rows).to_markdown(index=False, floatfmt=".0f")


def shrink(path: Path) -> Image.Image:
    """A photo's centre at 64 x 64, as the training pictures were made."""
    image = Image.open(path).convert("RGB")
    return ImageOps.fit(image, (64, 64), Image.Resampling.LANCZOS)


def sheet(pictures: list[Image.Image], labels: pd.Series, path: Path, *, columns: int = 12) -> None:
    """A row a class: the pictures of its first held-out embeddings, not chosen."""
    rows = [[pictures[i] for i in labels.index[labels == c][:columns]] for c in classes()]
    paste(rows, path)


def failures(
    pictures: list[Image.Image], logits: Tensor, labels: pd.Series, path: Path, *, columns: int = 12
) -> None:
    """Two rows: the pictures that the witness was most certain to be of another class."""
    truth = torch.tensor([classes().index(x) for x in labels])
    own = logits.gather(1, truth[:, None])[:, 0]
    worst = (logits.max(-1).values - own).argsort(descending=True)[: 2 * columns].tolist()
    print("\nFailures, row by row (asked for -> taken for):\n")
    names = [(load_profile("embedded").classes or {})[c] for c in classes()]
    print("; ".join(f"{names[truth[i]]} -> {names[int(logits[i].argmax())]}" for i in worst))
    paste([[pictures[i] for i in worst[:columns]], [pictures[i] for i in worst[columns:]]], path)


def paste(rows: list[list[Image.Image]], path: Path, *, gap: int = 2) -> None:
    """Write a grid of 64 x 64 pictures."""
    step = 64 + gap
    out = Image.new("RGB", (step * len(rows[0]) - gap, step * len(rows) - gap), "white")
    for y, row in enumerate(rows):
        for x, picture in enumerate(row):
            out.paste(picture, (x * step, y * step))
    out.save(path, quality=88)


if __name__ == "__main__":
    main()
