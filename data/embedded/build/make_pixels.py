"""Make data/embedded/pixels: search for pictures near photographs whose features make null steps.

    python data/embedded/build/make_pixels.py --photos FOLDER

FOLDER of photos is laid out as val/<wnid>/, as for make_features.py. No photograph goes into the data:
figures of these photos, and found pictures of those in scikit-image. About half an hour on one core; a
search that was stopped goes on where it was.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import pandas as pd

from sing_utils.measure.pictures import choose_pairs, photo_scores
from sing_utils.measure.pixels import (
    REMOVAL,
    SHOWN,
    STEP,
    VARIED,
    Photographs,
    picture_file,
    searches,
    settings,
)
from sing_utils.pictures.pixels import STEPS, as_image
from sing_utils.runs.run import Run, open_run
from sing_utils.sources.decoding import read_picture

OUT = Path(__file__).parents[1] / "pixels"
FEW = 8  # photos of the side questions


def main() -> None:
    """Search, measure, store."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--photos", type=Path, required=True)
    args = parser.parse_args()
    run = open_run("embedded")
    name, *others = run.classifiers
    OUT.mkdir(exist_ok=True)

    shown = Photographs.of(run, name, {photo: run.photo(photo) for photo in run.profile.photos})
    table, pictures = searches(run, name, shown, steps=STEPS)
    for way in SHOWN:
        for photo, pixels in zip(shown.names, pictures[way], strict=True):
            as_image(pixels).save(OUT / picture_file(photo, way), optimize=True)
    frames = [table.assign(group="pictures")]

    chosen = some_of_each_class(run, name)
    photos, few = (of_files(run, name, index, args.photos) for index in (chosen, chosen[:FEW]))
    frames.append(searches(run, name, photos, steps=STEPS)[0].assign(group="photos"))
    for varied in (*VARIED, {"steps": 4 * STEPS}):
        found, _ = searches(run, name, few, asked=[STEP], **{"steps": STEPS} | varied)
        frames.append(found.assign(group="varied"))
    for kind, pairs in choose_pairs(photo_scores(run, name)).groupby("kind"):
        pair = of_files(run, name, pairs, args.photos)
        frames.append(searches(run, name, pair, steps=STEPS, asked=[REMOVAL])[0].assign(group=kind))
    for other in others:
        again = of_files(run, other, chosen[:FEW], args.photos)
        frames.append(searches(run, other, again, steps=STEPS, asked=[STEP])[0].assign(group="photos"))

    whole = pd.concat(frames, ignore_index=True)
    sha256 = run.photos(name, "all").index.set_index("path")["sha256"]
    whole.insert(2, "sha256", whole["photo"].map(sha256))
    whole.to_parquet(OUT / "searches.parquet", index=False)
    (OUT / "settings.json").write_text(json.dumps(settings(run), indent=1, ensure_ascii=False) + "\n")
    by = ["group", "classifier", "wanted", "budget", "steps", "weight", "seen by"]
    means = whole.groupby(by, sort=False)[["IS", "AS", "step made", "logits moved"]].mean()
    print(means.round(2).to_string())


def some_of_each_class(run: Run, name: str) -> pd.DataFrame:
    """The first evaluation photos by file name of each class but the target: two, one if it was enlarged.

    Those of about 224 pixels come first, one a class.
    """
    index = run.photos(name).index.sort_values("path", kind="stable")
    index = index[index["class"] != run.targets[0]]
    index = index.assign(
        rank=index.groupby("class").cumcount(), low=index["label"].isin(run.profile.low_resolution)
    )
    index = index[index["rank"] < 2 - index["low"]]
    return index.sort_values(["low", "rank", "path"], kind="stable")


def of_files(run: Run, name: str, index: pd.DataFrame, folder: Path) -> Photographs:
    """Photos of the feature stores, from the folder that they were extracted from."""
    images = {path: read_picture(folder / path) for path in index["path"]}
    return Photographs.of(run, name, images, index["class"].tolist())


if __name__ == "__main__":
    main()
