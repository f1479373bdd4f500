"""The photos behind the embedded encoder: their features, their labels and who is held out.

PHOTOS is a folder with

    flickr8k-1000/images/*.jpg, flickr8k-1000/captions.csv   image,caption: five captions a photo
    imagenet1k-sample/WNID_name.JPEG                         one photo of each ImageNet-1k class
    tiny200/WNID/*.JPEG                                      a few photos of each of 200 classes
    imagenet16/{train,val}/WNID/*.JPEG                       the photos that the book analyses

Nothing of imagenet16, and no photo of its classes from elsewhere, is trained on.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from texts import read_captions
from torch import Tensor
from torch.nn.functional import normalize

from sing_utils.features.extraction import extract
from sing_utils.features.store import FeatureStore
from sing_utils.models.classifiers import load_classifier
from sing_utils.models.networks import imagenet_classes

TOWERS = ("efficientnet_lite0", "efficientnet_lite1", "efficientnet_lite2")
SOURCES = {
    "flickr": "flickr8k-1000/images",
    "sample": "imagenet1k-sample",
    "tiny": "tiny200",
    "analysed": "imagenet16",
}
DUPLICATE = 0.97  # cosine of features; the nearest two different photos reach 0.88


@dataclass(frozen=True)
class Rows:
    """Which row of which source is for what; the same for every tower.

    Attributes:
        labels: {source: (N,) class row, or -1 for a photo of none}.
        fit: {source: (M,) rows that are trained on}.
        flickr_test: (200,) captioned photos held out.
        sample_test: (500,) photos of imagenet1k-sample held out.
        captions: (1000, 5) places in `caption_texts`, a row a Flickr photo.
        caption_texts: all 5000.
    """

    labels: dict[str, Tensor]
    fit: dict[str, Tensor]
    flickr_test: Tensor
    sample_test: Tensor
    captions: Tensor
    caption_texts: list[str]


def stores_of(tower: str, photos: Path, work: Path) -> dict[str, FeatureStore]:
    """The features of all sources by one classifier; extracted into `work`, or resumed there."""
    classifier = load_classifier(tower)
    return {s: extract(classifier, photos / p, work / f"{s}-{tower}") for s, p in SOURCES.items()}


def split_rows(stores: dict[str, FeatureStore], photos: Path) -> Rows:
    """Labels and hold-outs, fixed by seed 0 and the sorted file names."""
    place = {wnid: i for i, wnid in enumerate(imagenet_classes())}
    index = {s: store.index for s, store in stores.items()}
    wnids = {
        "sample": [p.split("_")[0] for p in index["sample"].path],
        "tiny": list(index["tiny"].label),
        "analysed": list(index["analysed"].label),
    }
    labels = {s: torch.tensor([place[w] for w in names]) for s, names in wnids.items()}
    labels["flickr"] = torch.full((len(index["flickr"]),), -1)

    rng = np.random.default_rng(0)
    flickr_test, flickr_fit = _halve(len(index["flickr"]), 200, rng)
    sample_test, sample_fit = _halve(len(index["sample"]), 500, rng)
    fit = {"flickr": flickr_fit, "sample": sample_fit, "tiny": torch.arange(len(index["tiny"]))}
    analysed = labels["analysed"].unique()
    fit = {s: rows[~torch.isin(labels[s][rows], analysed)] for s, rows in fit.items()}

    captions = read_captions(photos / "flickr8k-1000" / "captions.csv")
    of_image = captions.groupby("image").indices
    places = torch.tensor(np.stack([of_image[p] for p in index["flickr"].path]))  # (1000, 5)
    return Rows(labels, fit, flickr_test, sample_test, places, list(captions.caption))


def check_no_duplicates(stores: dict[str, FeatureStore], rows: Rows) -> float:
    """Stop if a photo that is trained on is also analysed or held out; return the top cosine."""
    seen = {s: set(stores[s].index.sha256.iloc[r.numpy()]) for s, r in rows.fit.items()}
    analysed = set(stores["analysed"].index.sha256)
    shared = sum(len(s & analysed) for s in seen.values())
    x = torch.cat([stores[s].read("features")[r] for s, r in rows.fit.items()])
    held = [stores["analysed"].read("features"), stores["sample"].read("features")[rows.sample_test]]
    top = float((normalize(x, dim=-1) @ normalize(torch.cat(held), dim=-1).mT).max())
    if shared or top > DUPLICATE:
        raise SystemExit(f"{shared} photos are trained on and analysed; nearest pair: cosine {top:.3f}.")
    return top


def _halve(n: int, held: int, rng: np.random.Generator) -> tuple[Tensor, Tensor]:
    order = rng.permutation(n)
    return torch.tensor(np.sort(order[:held])), torch.tensor(np.sort(order[held:]))
