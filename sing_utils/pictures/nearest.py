"""The nearest photographs of an embedding: for users with pictures of their own."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from PIL import Image
from torch import Tensor

from sing_utils.errors import SingError
from sing_utils.features.extraction import extract
from sing_utils.features.store import FeatureStore
from sing_utils.method.scores import pairwise_angle
from sing_utils.models.judges import Encoder
from sing_utils.pictures.base import require_embeddings
from sing_utils.sources.decoding import read_picture
from sing_utils.sources.folders import list_pictures

_CHUNK = 256  # embeddings a product in the search, so that memory stays bounded


@dataclass(frozen=True, eq=False)
class NearestPhotos:
    """The photographs of a collection whose embeddings have the smallest angle; exact search.

    Attributes:
        name: of the collection.
        embeddings: (N, n).
        index: N rows with at least the column path.
        folder: where the pictures are; None: they can be named but not shown.
    """

    name: str
    embeddings: Tensor = field(repr=False)
    index: pd.DataFrame = field(repr=False)
    folder: Path | None = None

    @classmethod
    def of_store(cls, store: FeatureStore, encoder: Encoder, folder: Path | None = None) -> NearestPhotos:
        """The pictures of a store that `extract(encoder, ...)` made."""
        z = encoder.combine({tower: store.read(tower) for tower in encoder.towers})
        return cls(f"photos:{folder or store.path}", z, store.index.reset_index(drop=True), folder)

    @classmethod
    def of_folder(cls, folder: Path, encoder: Encoder, store: Path) -> NearestPhotos:
        """The pictures below `folder`, embedded into `store` on first use."""
        return cls.of_store(extract(encoder, folder, store, dtype="float16"), encoder, folder)

    @property
    def dim(self) -> int:
        """Width n of the embeddings."""
        return self.embeddings.shape[1]

    def search(self, z: Any, *, k: int = 5) -> pd.DataFrame:
        """The k nearest photographs of each embedding: (B, n) -> B k rows.

        Returns:
            query (row of z), place (from 1), path, angle (degrees), and the index's other columns.

        Raises:
            SingError: for embeddings of another width, or k outside 1 to N.
        """
        x = require_embeddings(z, self.dim, self.name)
        if not 1 <= k <= len(self.index):
            raise SingError(f"k is {k}, expected 1 to {len(self.index)}, the number of photographs.")
        best = [pairwise_angle(q, self.embeddings.to(q)).topk(k, largest=False) for q in x.split(_CHUNK)]
        angles = torch.cat([b.values for b in best]).flatten()  # (B k,)
        rows = torch.cat([b.indices for b in best]).flatten().tolist()
        found = self.index.iloc[rows].reset_index(drop=True)
        query = torch.arange(len(x)).repeat_interleave(k).numpy()
        place = torch.arange(1, k + 1).repeat(len(x)).numpy()
        return found.assign(query=query, place=place, angle=angles.cpu().numpy())

    def __call__(self, z: Any, *, seed: int = 0, shared_noise: bool = True) -> list[Image.Image]:
        """The nearest photograph of each embedding; there is no noise, so the options do nothing."""
        if self.folder is None:
            raise SingError(
                f"{self.name} has features but no pictures to show, expected a folder: use photos:FOLDER, "
                "or `search`, which names the photographs."
            )
        return [read_picture(self.folder / path) for path in self.search(z, k=1)["path"]]


def open_photos(folder: Path, encoder: Encoder, base: Path) -> NearestPhotos:
    """The photographs of a folder, or of a feature store, which can be named but not shown.

    A folder's embeddings are kept under `base`/_build until a file of it changes.
    """
    if (folder / "manifest.json").is_file():
        return NearestPhotos.of_store(FeatureStore.open(folder), encoder)
    paths = list_pictures(folder)["path"].tolist()
    stats = [(s.st_size, s.st_mtime_ns) for s in ((folder / p).stat() for p in paths)]
    text = json.dumps([encoder.identity, paths, stats])
    key = hashlib.sha256(text.encode()).hexdigest()[:16]
    return NearestPhotos.of_folder(folder, encoder, base / "_build" / "nearest" / key)
