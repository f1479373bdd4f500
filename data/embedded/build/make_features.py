"""Make data/embedded/features from photographs, and measure what its storage costs in accuracy.

    python data/embedded/build/make_features.py --photos FOLDER --work FOLDER

FOLDER of photos is laid out as train/<wnid>/ and val/<wnid>/. Whole-precision stores are extracted
into the work folder first (an interrupted run resumes), then packed.
"""

from __future__ import annotations

import argparse
import shutil
from pathlib import Path

import pandas as pd
import torch
from torch import Tensor

from sing_utils.features.extraction import extract
from sing_utils.features.store import FeatureStore
from sing_utils.method.head import HeadSpaces
from sing_utils.method.scores import attribute_score, image_score
from sing_utils.method.translator import Translator
from sing_utils.models.classifiers import load_classifier
from sing_utils.models.encoders import load_embedded
from sing_utils.models.networks import PACKAGED
from sing_utils.runs.profiles import load_profile

OUT = Path(__file__).parents[1] / "features"


def main() -> None:
    """Extract, pack, measure."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--photos", type=Path, required=True)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--dtype", default="uint8", help="of the classifiers' features")
    args = parser.parse_args()
    names = sorted(PACKAGED)
    stores = [extract(load_classifier(n), args.photos, args.work / n) for n in names]
    if OUT.exists():
        shutil.rmtree(OUT)
    for name, store in zip(names, stores, strict=True):
        pack(name, {"features": store.read("features")}, store, args.dtype, store.manifest["extractor"])
    # The towers see the very features that are stored, so no picture is decoded a second time.
    encoder, given = load_embedded(), dict(zip(names, stores, strict=True))
    towers = {t: encoder.embed_features(t, given[t].read("features")) for t in encoder.towers}
    pack(encoder.name, towers, stores[0], "float16", encoder.identity)
    table = pd.DataFrame([effect(n, s) for n, s in zip(names, stores, strict=True)])
    print(table.to_markdown(index=False, floatfmt=".4f"))


def pack(name: str, arrays: dict[str, Tensor], like: FeatureStore, dtype: str, said: dict[str, str]) -> None:
    """A store of what was computed of the pictures of another one."""
    FeatureStore.from_arrays(OUT / name, arrays, like.index, name=name, dtype=dtype, identity=said)


def effect(name: str, whole: FeatureStore) -> dict[str, object]:
    """How far the stored numbers move the scores of the evaluation photos, degrees."""
    encoder = load_embedded()
    judge, names = encoder.judge_of(name), load_profile("embedded").classes or {}
    rows = torch.from_numpy((whole.index["split"] == "val").to_numpy(copy=True))
    texts = judge.encode_text([f"an image of a {names[x]}" for x in whole.index["label"][rows.numpy()]])
    spaces = HeadSpaces.from_weight(load_classifier(name).head.weight)
    exact = judge.encoder.combine(
        {
            t: encoder.embed_features(t, FeatureStore.open(whole.path.parent / t).read("features"))
            for t in judge.encoder.towers
        }
    )
    stored = FeatureStore.open(OUT / name).read("features")
    scores = []
    for f, z in (
        (whole.read("features"), exact),
        (stored, judge.targets(FeatureStore.open(OUT / encoder.name))),
    ):
        T = Translator.fit(f[~rows], z[~rows])
        a, b = T(f[rows]), T.after_null_removal(spaces)(f[rows])
        scores.append((image_score(a, b), attribute_score(a, b, texts)))
    (is_0, as_0), (is_1, as_1) = scores
    return {
        "classifier": name,
        "rms change of IS (°)": float((is_1 - is_0).square().mean().sqrt()),
        "mean IS (°)": float(is_0.mean()),
        "rms change of AS (°)": float((as_1 - as_0).square().mean().sqrt()),
        "mean abs AS (°)": float(as_0.abs().mean()),
    }


if __name__ == "__main__":
    main()
