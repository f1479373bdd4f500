"""The numbers of the concept lens: hundreds of phrases against each class, before and after null removal."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
import torch

from sing_utils.live.explorers import (
    pack,
    pack_pictures,
    pack_steps,
    photo_names,
    shown_classes,
    thumbnail_note,
)
from sing_utils.measure.tables import class_angles, sure_phrases
from sing_utils.runs.run import Run

ENDS = 2  # photos shown at either end


def lens_numbers(run: Run, thumbnails: pd.DataFrame) -> dict[str, Any]:
    """All that the lens needs; K classifiers, C classes, J phrases.

    Args:
        run: with fitted translators.
        thumbnails: as `explorers.thumbnails` gives them; the photos at the ends are among these.
    """
    phrases = run.profile.phrases
    counts = run.photos(run.classifiers[0]).index["class"].value_counts()
    return {
        "classifiers": run.classifiers,
        "classes": shown_classes(run),
        "counts": [int(counts[c]) for c in shown_classes(run)],
        "phrases": phrases,
        "confidence": run.profile.confidence,
        "photoName": photo_names(thumbnails),
        "pictures": pack_pictures(thumbnails["picture"]),
        "pictureNote": thumbnail_note(run),
        "drawn": run.profile.pictures is None,
        **lens_table(run, thumbnails, phrases),
    }


def lens_table(run: Run, thumbnails: pd.DataFrame, phrases: Sequence[str]) -> dict[str, Any]:
    """Angles of J phrases to each class of photos, degrees, as a page reads them.

    Returns:
        means (K, C, J, 3), float32: mean angle before, mean AS, half the width of its interval with the
        errors of photos and translator (NaN unless these are the profile's phrases). ends (K, C, J, E),
        uint16: the photos with the lowest and the highest AS, lowest first, as places among the
        thumbnails. endScores (K, C, J, E), int16: their AS, exact to 0.003 degrees.
    """
    place = {path: i for i, path in enumerate(thumbnails["path"])}
    few = _pictures_a_side(run, place)
    means, ends, scores = [], [], []
    for name in run.classifiers:
        texts = run.texts(name, phrases)  # (J, n)
        for c in shown_classes(run):
            before, after, paths = class_angles(run, name, c, texts)  # (N, J) each
            AS = before - after
            margin = torch.full((len(phrases),), torch.nan)
            if phrases == run.profile.phrases:
                turn = sure_phrases(run, name, c, AS)
                margin = torch.from_numpy(turn.high - turn.value)
            means.append(torch.stack([before.mean(0), AS.mean(0), margin], dim=-1))
            rows = [i for i, path in enumerate(paths) if path in place]
            order = AS[rows].argsort(dim=0, stable=True)  # (R, J), lowest first
            order = torch.cat([order[:few], order[len(rows) - few :]])
            known = torch.tensor([place[paths[i]] for i in rows], dtype=torch.int64)
            ends.append(known[order].mT)
            scores.append(AS[rows].gather(0, order).mT)
    shape = (len(run.classifiers), len(shown_classes(run)), len(phrases))
    return {
        "means": pack(torch.stack(means).reshape(*shape, 3).float()),
        "ends": pack(torch.stack(ends).reshape(*shape, 2 * few).numpy().astype(np.uint16)),
        "endScores": pack_steps(torch.stack(scores).reshape(*shape, 2 * few), 180.0),
    }


def _pictures_a_side(run: Run, place: dict[str, int]) -> int:
    """How many photos can stand at each end, where every class has a picture of them."""
    index = run.photos(run.classifiers[0]).index
    drawn = index["path"].isin(list(place)).groupby(index["class"]).sum()
    return min(ENDS, int(drawn.min()) // 2)
