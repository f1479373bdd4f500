r"""Where pictures come from: folders, lists of labels, ImageNet, tar shards, data sets by name.

>>> import tempfile
>>> from PIL import Image
>>> from sing_utils.sources import open_source
>>> folder = Path(tempfile.mkdtemp())
>>> (folder / "cat").mkdir()
>>> Image.new("RGB", (2, 2)).save(folder / "cat" / "a.png")
>>> source = open_source(folder)
>>> source.index.astype(str).to_dict("records")
[{'path': 'cat/a.png', 'label': 'cat', 'split': ''}]
>>> source.read(0)[:4]
b'\x89PNG'

A source is a list of pictures and a way to get the bytes of each. It is small (it holds no picture),
can be sent to another process, and writes nothing.
"""

from __future__ import annotations

import difflib
import hashlib
import os
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Any, Protocol, Self

import numpy as np
import pandas as pd
import pyarrow as pa

from sing_utils.errors import SingError

SUFFIXES = {
    *(".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff"),
    *(".avif", ".ppm", ".pgm"),
}
SPLITS = {"train", "val", "valid", "validation", "test", "fit", "evaluate"}
_CHUNK = 8192  # rows that are Python objects at one time


class PictureSource(Protocol):
    """Pictures in an order, with their labels. Every kind of source can be pickled."""

    @property
    def name(self) -> str:
        """What `open_source` was called with."""
        ...

    @property
    def index(self) -> pd.DataFrame:
        """One row a picture, in the order of the tensors: path, label, split ("" if unknown)."""
        ...

    @property
    def files(self) -> Iterable[Path]:
        """The files behind it, each once: what its content depends on."""
        ...

    @property
    def file_is_picture(self) -> bool:
        """Whether the i-th of `files` is picture i."""
        ...

    def __len__(self) -> int:
        """Number of pictures, N."""
        ...

    def read(self, i: int) -> bytes:
        """The bytes of picture i as they were stored, not decoded.

        Raises:
            OSError: if they can't be read.
        """
        ...

    def select(
        self,
        labels: Collection[str] | None = None,
        per_label: int | None = None,
        splits: Collection[str] | None = None,
    ) -> Self:
        """Only some labels and splits; at most `per_label` pictures of each label in each split.

        Which ones does not depend on the others: those whose paths have the smallest SHA-256.

        Raises:
            SingError: for a label or split that the source does not have, or if nothing is left.
        """
        ...


# ------------------------------------------------------------------------- what sources share


def picture_table(rows: Iterable[tuple[str, str, str]]) -> pd.DataFrame:
    """Rows of path, label and split as a compact table; never many as Python objects at one time.

    >>> picture_table([("a.png", "cat", "train")]).dtypes.astype(str).tolist()
    ['str', 'category', 'category']
    """
    rows, tables = iter(rows), []
    while chunk := list(islice(rows, _CHUNK)):
        path, label, split = zip(*chunk, strict=True)
        try:
            columns = {
                "path": pa.array(path, pa.large_string()),
                "label": pa.array(label, pa.large_string()).dictionary_encode(),
                "split": pa.array(split, pa.large_string()).dictionary_encode(),
            }
        except UnicodeEncodeError as error:
            raise SingError(
                f"the file name {os.fsencode(error.object)!r} is not valid UTF-8, expected names that are: "
                "rename it."
            ) from None
        tables.append(pa.table(columns))
    if not tables:
        return pd.DataFrame({"path": [], "label": [], "split": []}, dtype="str")
    return pa.concat_tables(tables).unify_dictionaries().combine_chunks().to_pandas()


@dataclass(frozen=True, eq=False)
class Source:
    """What all kinds share; see `PictureSource`. A kind adds `files`, `read` and `_take`."""

    name: str
    index: pd.DataFrame

    def __len__(self) -> int:
        return len(self.index)

    def select(
        self,
        labels: Collection[str] | None = None,
        per_label: int | None = None,
        splits: Collection[str] | None = None,
    ) -> Self:
        """As `PictureSource.select` says."""
        keep = np.ones(len(self), dtype=bool)
        for column, wanted in (("label", labels), ("split", splits)):
            if wanted is not None:
                self._require_known(column, wanted)
                keep &= self.index[column].isin(list(wanted)).to_numpy()
        rows = np.flatnonzero(keep)
        if per_label is not None:
            rows = _first_by_hash(self.index.iloc[rows], per_label, rows)
        if not len(rows):
            raise SingError(
                f"no picture of {self.name} is left, expected some: choose more labels or splits."
            )
        return self._take(rows)

    def _take(self, rows: np.ndarray[Any, Any]) -> Self:
        index = self.index.iloc[rows].reset_index(drop=True)
        for column in ("label", "split"):
            index[column] = index[column].astype("category").cat.remove_unused_categories()
        return replace(self, index=index)

    def _require_known(self, column: str, wanted: Collection[str]) -> None:
        known = [str(x) for x in self.index[column].unique()]
        for name in wanted:
            if name not in known:
                near = difflib.get_close_matches(name, known, n=1, cutoff=0.0)[0]
                raise SingError(
                    f"{self.name} has no {column} {name!r}, expected some of "
                    f"{', '.join(sorted(known)[:20])}; did you mean {near!r}?"
                )


def _first_by_hash(index: pd.DataFrame, per_label: int, rows: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    if per_label < 1:
        raise SingError(f"per_label is {per_label}, expected at least 1 picture a label.")
    hashes = pd.Series([hashlib.sha256(p.encode()).hexdigest() for p in index["path"]])
    keys = [index[column].astype(str).to_numpy() for column in ("label", "split")]
    by_label = hashes.groupby(keys, observed=True, sort=False)
    return rows[(by_label.rank(method="first") <= per_label).to_numpy()]


# ------------------------------------------------------------------------------ pictures as files


@dataclass(frozen=True, eq=False)
class FileSource(Source):
    """Pictures that are files below a folder; `index.path` is relative to it."""

    folder: Path
    file_is_picture = True

    @property
    def files(self) -> Iterator[Path]:
        """Each picture's file, in order."""
        return (self.folder / path for path in self.index["path"])

    def read(self, i: int) -> bytes:
        """The bytes of picture i."""
        return (self.folder / self.index["path"].array[i]).read_bytes()


def list_pictures(folder: str | Path) -> pd.DataFrame:
    """Pictures below a folder, sorted: path (relative), label, split.

    Understood layouts: SPLIT/CLASS/picture, CLASS/picture, and a flat folder (label "").
    SPLIT is one of train, val, valid, validation, test, fit, evaluate; else split is "". Hidden
    files and folders are left out; links are followed.

    Raises:
        SingError: if the folder does not exist or holds no picture.
    """
    return _folder_index(Path(folder)).astype("str")


def _folder_index(folder: Path) -> pd.DataFrame:
    if not folder.is_dir():
        raise SingError(f"{folder} is not a folder, expected a folder of pictures: check the path.")
    index = picture_table(_layout(path) for path in walk(folder))
    if index.empty:
        raise SingError(
            f"{folder} holds no picture, expected files ending in {', '.join(sorted(SUFFIXES))}, "
            "flat or in one folder a class."
        )
    return index


def _layout(path: str) -> tuple[str, str, str]:
    parts = path.split("/")
    split = parts[0] if len(parts) > 1 and parts[0] in SPLITS else ""
    inner = parts[1:-1] if split else parts[:-1]
    return path, inner[0] if inner else "", split


def walk(folder: Path, above: tuple[tuple[int, int], ...] = ()) -> Iterator[str]:
    """Relative paths of the pictures below a folder, sorted folder by folder."""
    stat = folder.stat()
    here = (stat.st_dev, stat.st_ino)
    if here in above:  # a link that leads back up
        return
    with os.scandir(folder) as entries:
        found = sorted((e for e in entries if not e.name.startswith(".")), key=lambda e: e.name)
    for entry in found:
        if entry.is_dir():
            yield from (f"{entry.name}/{path}" for path in walk(folder / entry.name, (*above, here)))
        elif is_picture(entry.name) and entry.is_file():
            yield entry.name


def is_picture(name: str) -> bool:
    """Whether a file's name ends as a picture's does."""
    return os.path.splitext(name)[1].lower() in SUFFIXES


# ----------------------------------------------------------------------------------- any of them


def open_source(spec: str | Path) -> PictureSource:
    """Pictures by what a user writes: `--images SPEC`.

    Args:
        spec: one of

            - a folder: SPLIT/CLASS/picture, CLASS/picture or flat; ImageNet as it is distributed
              (`sing_utils.sources_imagenet`); .tar shards; or Parquet files with pictures
            - LABELS.csv beside its pictures (`sing_utils.sources_csv`)
            - WebDataset shards: `x.tar`, `x-{000..009}.tar`, `folder/*.tar` (`sing_utils.sources_tar`)
            - hf:NAME[@REVISION][#SPLIT], a data set by name (`sing_utils.sources_hub`)
            - planted:COUNT[@SEED], drawn scenes of the planted world (`sing_utils.planted`)

    Raises:
        SingError: for anything else, or what can't be read.
    """
    from sing_utils import sources_csv, sources_hub, sources_tar

    text = str(spec)
    if text.startswith("hf:"):
        return sources_hub.open_dataset(text)
    if text == "planted" or text.startswith("planted:"):
        from sing_utils.planted import open_scenes  # it imports this module

        return open_scenes(text)
    if text.startswith("pipe:") or "://" in text:
        raise SingError(
            f"{text} is a command or an address, expected files of this machine: download them first, "
            "or give a data set's name as hf:NAME."
        )
    path = Path(text)
    if path.is_dir():
        return _open_folder(path)
    if path.suffix.lower() in (".csv", ".tsv"):
        return sources_csv.read_label_table(path)
    if sources_tar.looks_like_shards(text):
        return sources_tar.open_shards(text)
    raise SingError(
        f"{text} is not a folder, expected a folder of pictures, a .csv file of labels, .tar shards or "
        "hf:NAME: check the path."
    )


def _open_folder(folder: Path) -> PictureSource:
    from sing_utils import sources_hub, sources_imagenet, sources_tar

    suffixes = {p.suffix.lower() for p in folder.iterdir() if p.is_file()}
    if ".tar" in suffixes and not suffixes & SUFFIXES:
        return sources_tar.open_shards(str(folder / "*.tar"))
    if layout := sources_imagenet.find_imagenet(folder):
        return FileSource(str(folder), layout.index(), layout.root)
    if suffixes & {".parquet", ".arrow"} and not suffixes & SUFFIXES:
        return sources_hub.open_dataset(f"hf:{folder}")
    return FileSource(str(folder), _folder_index(folder), folder)
