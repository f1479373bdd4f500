"""Measure the mini UnCLIP on held-out photos, and draw its contact sheets.

    python data/embedded/build/evaluate_decoder.py --photos FOLDER

FOLDER holds val/WNID/*: the photos whose embeddings are stored in data/embedded/features and on
which nothing was trained. The guidance is chosen with training photos' embeddings (--choose), which
need no photo; --twins FOLDER64 looks for held-out photos among the 64 x 64 training pictures.
Pictures that are generated may be shown; the photos are only measured.

The witness who says what a picture shows is EfficientNet-Lite2. It is a tower of the encoder, so
pictures are drawn once from its judge's embeddings, in which it has no part, and once from all.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from PIL import Image, ImageOps
from torch import Tensor

from sing_utils.features.store import FeatureStore
from sing_utils.method.scores import angle
from sing_utils.models.classifiers import load_classifier
from sing_utils.models.encoders import EmbeddedEncoder, load_embedded
from sing_utils.models.networks import imagenet_classes
from sing_utils.pictures.base import MINI_WEIGHTS
from sing_utils.pictures.mini import MiniUnCLIP
from sing_utils.runs.profiles import load_profile

FEATURES = Path(__file__).parents[1] / "features"
WITNESS = "efficientnet_lite2"
BATCH = 32


def main() -> None:
    """Choose the guidance, look for twins, or measure and draw."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--photos", type=Path, help="only needed for the rows about photos")
    parser.add_argument("--weights", type=Path, default=MINI_WEIGHTS)
    parser.add_argument("--per-class", type=int, default=20, help="held-out photos of each class")
    parser.add_argument("--choose", action="store_true", help="compare guidance on training photos")
    parser.add_argument("--twins", type=Path, help="64 x 64 training pictures to compare with")
    args = parser.parse_args()
    if args.twins is not None:
        print(nearest_twins(args.photos, args.twins))
        return
    whole = load_embedded()
    judge = whole.only(*whole.judge_of(WITNESS).encoder.towers)
    store = FeatureStore.open(FEATURES / whole.name)
    towers = {t: store.read(t) for t in whole.towers}
    if args.choose:
        table = compare_guidance(args.weights, judge, towers, store.index)
        print(table.to_markdown(index=False, floatfmt=".1f"))
        return
    held_out = store.index[store.index["split"] == "val"].sort_values("path", kind="stable")
    held_out = held_out.groupby("label").head(args.per_class)
    labels = held_out["label"].reset_index(drop=True)
    towers = {t: x[held_out.index.to_numpy(copy=True)] for t, x in towers.items()}
    decoder, rows = MiniUnCLIP.load(args.weights), []
    for what, encoder in (("the witness's judge", judge), ("the whole encoder", whole)):
        z = encoder.combine(towers)
        pictures = decoder(z, shared_noise=False)
        logits, seen = witness(pictures), encoder.encode_images(pictures)
        rows.append({"drawn from embeddings by": what, "N": len(z), **figures(logits, seen, z, labels)})
        if encoder is judge:
            print(by_class(logits, seen, z, labels), "\n")
            sheet(pictures, labels, args.weights / "contact_sheet.jpg")
            failures(pictures, logits, labels, args.weights / "failures.jpg")
    if args.photos is not None:
        small, z = [shrink(args.photos / p) for p in held_out["path"]], judge.combine(towers)
        found = figures(witness(small), judge.encode_images(small), z, labels)
        rows.append({"drawn from embeddings by": "(the photos, shrunk to 64 × 64)", "N": len(z), **found})
    print("\n", pd.DataFrame(rows).to_markdown(index=False, floatfmt=".1f"), sep="")
    z = judge.combine(towers)
    chance = angle(z, z[torch.randperm(len(z), generator=torch.Generator().manual_seed(0))])
    print(f"\nangle between the embeddings of two photos at random: median {float(chance.median()):.1f}°")


def nearest_twins(photos: Path, small: Path) -> str:
    """Distance of held-out and of fitting photos to the nearest training picture, as 8 x 8 thumbnails."""
    training = torch.stack([thumbnail(p) for p in sorted(small.rglob("*.jpg"))])  # (N, 192)
    lines = []
    for split in ("val", "train"):
        own = torch.stack([thumbnail(p) for p in sorted((photos / split).rglob("*")) if p.is_file()])
        nearest = torch.cdist(own, training).min(-1).values / training.shape[1] ** 0.5
        lines.append(f"{split}: nearest {float(nearest.min()):.1f}, farthest {float(nearest.max()):.1f}")
    return "rms distance of 255 levels; " + "; ".join(lines)


def thumbnail(path: Path) -> Tensor:
    """The centre of a picture, averaged to 8 x 8: (192,)."""
    image = ImageOps.fit(Image.open(path).convert("RGB"), (8, 8), Image.Resampling.BOX)
    return torch.from_numpy(np.asarray(image, dtype=np.float32)).flatten()


def compare_guidance(
    weights: Path, encoder: EmbeddedEncoder, towers: dict[str, Tensor], index: pd.DataFrame
) -> pd.DataFrame:
    """Recognition and angle for some scales of guidance, on 160 training photos' embeddings."""
    fit = index[index["split"] == "train"]
    rows = fit.groupby("label", sort=True).head(10).index
    z = encoder.combine({t: x[rows] for t, x in towers.items()})
    table = []
    for guidance in (1.0, 2.0, 4.0):
        for steps in (5, 10, 20):
            decoder = MiniUnCLIP.load(weights, guidance=guidance, steps=steps)
            pictures = decoder(z, shared_noise=False)
            seen = encoder.encode_images(pictures)
            found = figures(witness(pictures), seen, z, index["label"].loc[rows])
            table.append({"guidance": guidance, "steps": steps, **found})
    return pd.DataFrame(table)


def witness(pictures: list[Image.Image]) -> Tensor:
    """EfficientNet-Lite2's logits of the 16 classes, in the order of `classes()`: (N, 16)."""
    classifier = load_classifier(WITNESS)
    columns = [list(imagenet_classes()).index(w) for w in classes()]
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
