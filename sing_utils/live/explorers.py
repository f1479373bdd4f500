"""What the live explorers have in common: photos to choose from, and numbers as a page reads them.

>>> import numpy as np
>>> packed = pack(np.array([[1.0, 2.0]]))
>>> packed["dtype"], packed["shape"], len(packed["data"])  # little-endian bytes, as pages read them
('float64', [1, 2], 16)
"""

from __future__ import annotations

import io
from collections.abc import Iterable
from typing import Any

import numpy as np
import pandas as pd
import torch
from PIL import Image
from torch import Tensor

from sing_utils.runs.run import Run

TOP = 5  # logits shown
_QUALITY = 55  # of WebP; these pictures are small


# ------------------------------------------------------------------------------ for the page


def pack(values: Any) -> dict[str, Any]:
    """An array as a page reads it: dtype, shape and little-endian bytes."""
    array = np.ascontiguousarray(values)
    little = array.astype(array.dtype.newbyteorder("<"), copy=False)
    return {"dtype": array.dtype.name, "shape": list(array.shape), "data": little.tobytes()}


def pack_steps(values: Tensor, largest: float = 1.0) -> dict[str, Any]:
    """Numbers up to `largest`, of either sign, in 16 bits each; a page multiplies them by `unit`.

    As a cosine that is exact to 0.001 degrees of a right angle, 0.01 of one of 5 degrees.
    """
    unit = largest / 32767
    return pack((values.clamp(-largest, largest) / unit).round().to(torch.int16)) | {"unit": unit}


def pack_pictures(pictures: Iterable[bytes]) -> dict[str, Any]:
    """Picture files one after another: their bytes and where each one ends."""
    files = list(pictures)
    return {"ends": np.cumsum([len(f) for f in files], dtype=int).tolist(), "data": b"".join(files)}


def webp(image: Image.Image, side: int = 256) -> bytes:
    """A small picture as a WebP file, at most `side` pixels high and wide."""
    small, out = image.convert("RGB"), io.BytesIO()
    small.thumbnail((side, side))
    small.save(out, "WEBP", quality=_QUALITY, method=6)
    return out.getvalue()


# ------------------------------------------------------------------------------------ photos


def first_photos(run: Run, count: int) -> pd.DataFrame:
    """The first `count` evaluation photos of each class by file name: class and path; index: rows."""
    index = run.photos(run.classifiers[0]).index.sort_values("path", kind="stable")
    return index.groupby("class", sort=False).head(count)[["class", "path"]]


def shown_classes(run: Run) -> list[str]:
    """The classes that have evaluation photos, in the profile's order."""
    present = set(run.photos(run.classifiers[0]).index["class"])
    return [c for c in run.classes if c in present]


def photo_names(photos: pd.DataFrame) -> list[str]:
    """Their file names."""
    return [str(path).rsplit("/", 1)[-1] for path in photos["path"]]


def features(run: Run, name: str, photos: pd.DataFrame) -> Tensor:
    """Features of some evaluation photos, (P, m), float64."""
    return run.photos(name).f[photos.index.to_list()].double()


def thumbnails(run: Run) -> pd.DataFrame:
    """Small pictures of the first evaluation photos of each class: path, picture (a WebP file).

    The photos themselves where the run has them; else each is drawn from its own embedding.
    """
    photos = first_photos(run, run.profile.thumbnails)
    name = run.classifiers[0]
    if len(photos) and run.profile.pictures is None:
        images = run.draw(name, run.photos(name).z[photos.index.to_list()], noise=run.seed)
    else:
        images = [i for path in photos["path"] if (i := run.original(path)) is not None]
    return pd.DataFrame({"path": photos["path"].to_list(), "picture": [webp(i, 128) for i in images]})


def thumbnail_note(run: Run) -> str:
    """What to say of the small pictures of photos."""
    offered = f"the first {run.profile.thumbnails} of each class by file name"
    if run.profile.pictures is not None:
        return f"Pictures: {offered}."
    if run.profile.picture_backend.startswith("photos:"):
        return f"Pictures stand for {offered}: of each, the photograph whose embedding is nearest to its own."
    return (
        f"Pictures stand for {offered}. The photographs are not part of this book: what is shown was drawn "
        "by the decoder from each photo's own embedding."
    )


# ------------------------------------------------------------------------------------ logits


def top_logits(run: Run, name: str, f: Tensor) -> pd.DataFrame:
    """The largest logits of one feature (1, m): class, logit."""
    head = run.head(name)
    logits = head.logits(f.double())[0]
    top = logits.topk(min(TOP, len(logits)))
    return pd.DataFrame({"class": [head.label(i) for i in top.indices.tolist()], "logit": top.values.numpy()})


def logits_of(run: Run, photos: pd.DataFrame) -> dict[str, Any]:
    """The largest logits of f, and what Π_n f adds to these and, at most, to any logit."""
    labels, values, drifts, most = [], [], [], []
    shown = min(TOP, *(len(run.head(name).weight) for name in run.classifiers))
    for name in run.classifiers:
        head, f = run.head(name), features(run, name, photos)
        logits = head.logits(f)  # (P, c)
        drift = run.spaces(name).null_component(f) @ head.weight.to(f).mT  # zero, but for rounding
        top = logits.topk(shown, dim=-1)
        labels.append([[head.label(i) for i in row] for row in top.indices.tolist()])
        values.append(top.values)
        drifts.append(drift.gather(-1, top.indices))
        most.append(drift.abs().amax(-1))
    # By name: another classifier may list its classes in another order.
    places, known = pd.factorize(np.ravel(labels), sort=True)
    return {
        "labels": known.tolist(),
        "classes": pack(places.reshape(np.shape(labels)).astype(np.uint16)),
        "values": pack(torch.stack(values)),
        "drifts": pack(torch.stack(drifts)),
        "most": pack(torch.stack(most)),
    }
