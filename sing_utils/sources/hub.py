"""Pictures of a Hugging Face data set, by name or from a folder; `pip install -e '.[hub]'`.

>>> parse_dataset("hf:org/flowers@1a2b3c#train")
DatasetName(name='org/flowers', revision='1a2b3c', split='train')

No code of a data set is run. What was downloaded before works offline, with HF_HUB_OFFLINE=1.
"""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple, Self

import numpy as np

from sing_utils.errors import SingError, reason
from sing_utils.sources.folders import (
    PictureSource,
    clean_label,
    clean_split,
    label_text,
    picture_table,
    split_name,
)

FILES = {".parquet": "parquet", ".arrow": "arrow"}  # what a single file is read as
_LABELS = ("label", "labels", "class", "fine_label", "wnid")


class DatasetName(NamedTuple):
    """What is between `hf:` and the end."""

    name: str
    revision: str | None
    split: str | None


@dataclass(frozen=True, eq=False)
class HubSource(PictureSource):
    """Pictures of one or more splits: picture i is row `row[i]` of `parts[part[i]]`."""

    parts: tuple[Any, ...]  # of datasets.Dataset, each with the picture's column alone, not decoded
    part: np.ndarray[Any, Any]
    row: np.ndarray[Any, Any]
    roots: tuple[str, ...]  # folders that rows may point into

    @property
    def files(self) -> Iterator[Path]:
        """The Arrow files that hold the rows, and pictures that those only point to."""
        used = np.unique(self.part)
        for p in used:
            yield from (Path(f["filename"]) for f in self.parts[p].cache_files)
        if self._path(0) is not None:
            paths = (path for i in range(len(self)) if (path := self._path(i)))
            yield from (self._allowed(path) for path in paths if self._is_allowed(path))

    def read(self, i: int) -> bytes:
        """The bytes of picture i."""
        picture = self._cell(i)
        if picture["bytes"] is not None:
            return bytes(picture["bytes"])
        return self._allowed(picture["path"]).read_bytes()

    def _is_allowed(self, path: str) -> bool:
        with contextlib.suppress(OSError):
            return self._allowed(path).is_file()
        return False

    def _allowed(self, path: str) -> Path:
        """A data set may not make us read other files of this machine."""
        path = os.path.abspath(path)
        if not any(os.path.commonpath([path, root]) == root for root in self.roots):
            raise OSError("it points outside of its data set")
        return Path(path)

    def _cell(self, i: int) -> dict[str, Any]:
        part = self.parts[self.part[i]]
        cell = part[int(self.row[i])][part.column_names[0]]
        return cell or {"bytes": b"", "path": None}  # an empty cell is an empty picture

    def _path(self, i: int) -> str | None:
        """Of a picture that is a file of its own, such as in a folder."""
        cell = self._cell(i)
        return cell["path"] if cell["bytes"] is None else None

    def _take(self, rows: np.ndarray[Any, Any]) -> Self:
        return replace(super()._take(rows), part=self.part[rows], row=self.row[rows])


def parse_dataset(spec: str) -> DatasetName:
    """hf:NAME[@REVISION][#SPLIT] in its parts; NAME may be a folder, or a Parquet or Arrow file.

    Raises:
        SingError: if it is not like that.
    """
    match = re.fullmatch(r"hf:([^@#]+)(?:@([^@#]+))?(?:#([^@#]+))?", spec)
    if match is None:
        raise SingError(f"{spec!r} is no data set's name, expected hf:NAME[@REVISION][#SPLIT].")
    return DatasetName(*match.groups())


def open_dataset(spec: str) -> HubSource:
    """Open a data set's pictures, downloading it if it is not in the cache.

    Args:
        spec: hf:NAME[@REVISION][#SPLIT]; without a split, all of them in order.

    Raises:
        SingError: without the library `datasets`, for an unknown data set, revision or split, or one
            without pictures.
    """
    parts = _load(parse_dataset(spec), spec)
    tables, part, row, columns = [], [], [], set()
    for number, (split, data) in enumerate(parts.items()):
        column = _label_column(data)
        columns |= {column or ""}
        labels = _labels(data, column, spec)
        name = clean_split(split)
        tables += [(f"{split or 'rows'}/{i:08d}", clean_label(x), name) for i, x in enumerate(labels)]
        part.append(np.full(len(labels), number, np.int32))
        row.append(np.arange(len(labels), dtype=np.int64))
    if not tables:
        raise SingError(f"{spec} holds no picture, expected at least one: choose another split.")
    raw = tuple(_pictures(data, spec) for data in parts.values())
    index, name = picture_table(tables), parse_dataset(spec).name
    places = np.concatenate(part), np.concatenate(row)
    named = " and ".join(sorted(columns - {""}))
    rule = (
        f"the data set's own splits, labels of its column {named}" if named else "the data set's own splits"
    )
    return HubSource(spec, index, raw, *places, _roots(name), rule=rule)


def is_saved(folder: Path) -> bool:
    """Whether a folder is one that `datasets.save_to_disk` wrote, of a data set or of several splits."""
    return any((folder / name).is_file() for name in ("state.json", "dataset_dict.json"))


def _roots(name: str) -> tuple[str, ...]:
    from datasets import config
    from huggingface_hub.constants import HF_HUB_CACHE

    roots = [config.HF_DATASETS_CACHE, config.DOWNLOADED_DATASETS_PATH, HF_HUB_CACHE]
    roots += [name] if Path(name).exists() else []
    return tuple(os.path.abspath(r) for r in roots)


def _load(wanted: DatasetName, spec: str) -> dict[str, Any]:
    """Split -> data set."""
    try:
        import datasets
    except ImportError:
        raise SingError(
            f"{spec} needs the library `datasets`, which is missing: pip install -e '.[hub]'."
        ) from None
    try:
        if is_saved(Path(wanted.name)):
            saved = datasets.load_from_disk(wanted.name)
            parts = dict(saved) if isinstance(saved, dict) else {str(saved.split or ""): saved}
            if wanted.split is not None and wanted.split not in parts:
                raise KeyError(f"it holds the splits {', '.join(parts)}")
            return {k: v for k, v in parts.items() if wanted.split in (None, k)}
        if (file := Path(wanted.name)).is_file() and wanted.split is None:
            data = datasets.load_dataset(FILES[file.suffix.lower()], data_files=str(file), split="train")
            return {split_name(file.stem.partition("-")[0]): data}  # as in train-00000-of-00002.parquet
        data = datasets.load_dataset(wanted.name, revision=wanted.revision, split=wanted.split)
    except (OSError, ValueError, RuntimeError, KeyError, datasets.exceptions.DatasetsError) as error:
        raise SingError(
            f"{spec} can't be loaded ({reason(error, most=200)}), expected a data set of the hub, a revision "
            "and a split of it: check the name, the network, and HF_TOKEN where consent is asked for."
        ) from None
    return {wanted.split: data} if wanted.split else dict(data)


def _pictures(data: Any, spec: str) -> Any:
    """The data set with its column of pictures alone, as bytes."""
    from datasets import Image

    features = data.features.items()
    columns = [name for name, feature in features if isinstance(feature, Image)]
    columns = columns or [name for name, feature in features if _is_bytes(feature)]
    if not columns:
        raise SingError(
            f"{spec} has the columns {', '.join(data.column_names)}, none of pictures, expected one: "
            "choose a data set of pictures, or give a list of files as .csv."
        )
    if len(columns) > 1 and "image" not in columns:
        raise SingError(
            f"{spec} has pictures in {' and '.join(columns)}, expected one such column, or one called image: "
            "rename it, or leave the others out."
        )
    column = "image" if "image" in columns else columns[0]
    return data.select_columns([column]).cast_column(column, Image(decode=False))


def _is_bytes(feature: Any) -> bool:
    """Whether a column may hold pictures, as other programs than `datasets` write them to Parquet."""
    if isinstance(feature, dict):
        return set(feature) == {"bytes", "path"}
    return getattr(feature, "dtype", "") in ("binary", "large_binary")


def _label_column(data: Any) -> str | None:
    """The column of labels: by its name, else the only one whose values have names."""
    from datasets import ClassLabel

    named = [n for n, f in data.features.items() if isinstance(f, ClassLabel)]
    known = [n for n in _LABELS if n in data.column_names]
    return next((n for n in known if n in named), None) or next(iter([*known, *named]), None)


def _labels(data: Any, column: str | None, spec: str) -> list[str]:
    """The label of each row as text: its name where the data set has names, else "" or the value."""
    from datasets import ClassLabel

    if column is None:
        return [""] * len(data)
    if isinstance(data.features[column], ClassLabel):
        names = data.features[column].names
        # -1 and None are how data sets say "unknown"
        return ["" if i is None or i < 0 else names[i] for i in data[column]]
    if any(isinstance(x, list | dict) for x in data[column]):
        raise SingError(
            f"{spec} has more than one label a picture in its column {column}, expected one: make a column "
            "of one each, or leave it out."
        )
    return [label_text(x) for x in data[column]]
