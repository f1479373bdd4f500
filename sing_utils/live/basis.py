"""The numbers of the basis explorer: one network with its null component stretched, and what that moves."""

from __future__ import annotations

from typing import Any

import pandas as pd

from sing_utils.live.explorers import first_photos, logits_of, pack
from sing_utils.runs.run import Run

SCORES = ("IS", "|AS|", "contrast")


def basis_numbers(run: Run, stretched: pd.DataFrame) -> dict[str, Any]:
    """All that the explorer needs; K classifiers, G stretches.

    `scores` (K, G, 3) holds median IS and |AS| and mean contrast at each stretch, degrees, `beyond` (K, 3)
    the same beyond the logits, `logits` those of one photo, see `logits_of`.

    Args:
        run: whose classifiers.
        stretched: of `sing_utils.measure.basis.stretches`.
    """
    photo = first_photos(run, 1).iloc[:1]
    first = stretched.drop_duplicates("classifier")
    scales = stretched.loc[stretched["classifier"] == run.classifiers[0], "s"]
    return {
        "classifiers": run.classifiers,
        "scales": scales.tolist(),
        "scores": pack(stretched[list(SCORES)].to_numpy().reshape(len(first), len(scales), 3)),
        "beyond": pack(first[[f"{k} beyond" for k in SCORES]].to_numpy()),
        "directions": first["directions beyond"].tolist(),
        "logits": logits_of(run, photo),
        "photo": photo["class"].iloc[0],
        "photos": len(run.photos(run.classifiers[0])),
    }
