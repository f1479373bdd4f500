"""What a source of pictures is, and pictures in folders: labels and splits by where they lie.

A source is a list of pictures and a way to get the bytes of each. It is small (it holds no picture),
can be sent to another process, and writes nothing.
"""

from __future__ import annotations

import hashlib
import os
import re
import unicodedata
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from itertools import islice
from pathlib import Path
from typing import Any, ClassVar, Self

import numpy as np
import pandas as pd
import pyarrow as pa

from sing_utils.errors import SingError, unknown

SUFFIXES = {
    *(".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff"),
    *(".avif", ".ppm", ".pgm", ".jp2"),
}
UNREAD = {  # pictures that are not decoded here
    *(".heic", ".heif", ".jxl", ".jxr", ".psd", ".svg", ".eps", ".pdf", ".exr", ".hdr", ".tga", ".dcm"),
    *(".dng", ".cr2", ".cr3", ".nef", ".arw", ".raf", ".orf", ".rw2"),
}
_ARCHIVES = (".tar", ".tgz", ".gz", ".bz2", ".xz", ".zst", ".zip", ".7z", ".rar")
_TABLES = (".csv", ".tsv", ".jsonl", ".parquet", ".arrow")
SPLITS = {"train", "val", "valid", "validation", "test", "fit", "evaluate"}
_OTHER_SPLITS = {"training": "train", "testing": "test", "dev": "val", "eval": "evaluate"}
_SPLIT = re.compile(
    rf"({'|'.join(sorted([*SPLITS, *_OTHER_SPLITS], reverse=True))})([ _-]?(set|images|imgs|data))?(20\d\d)?"
)
_WRAPPERS = {
    *("archive", "data", "dataset", "images", "image", "imgs", "img", "pictures", "photos", "jpg"),
    "jpegimages",
}
_THUMBNAILS = {"@eaDir", "__MACOSX"}  # of a Synology disk, of a zip file's maker
_CHUNK = 8192  # rows that are Python objects at one time


# ------------------------------------------------------------------------- what sources share


def clean_label(text: str) -> str:
    """A label without blanks around it, its letters composed: two spellings that look alike are one."""
    return unicodedata.normalize("NFC", text).strip()


def label_text(value: Any) -> str:
    """A label that is no text yet; whole numbers have no point, which tables add where some are missing.

    >>> [label_text(x) for x in ("cat", 3, 3.0, None, float("nan"))]
    ['cat', '3', '3', '', '']
    """
    if value is None or value != value:
        return ""
    return clean_label(str(int(value) if isinstance(value, float) and value.is_integer() else value))


def clean_split(text: str) -> str:
    """The name of a split however it was written; other text only without blanks around it.

    >>> [clean_split(x) for x in (" Train", "VAL", "testing", "test_set", "invalid")]
    ['train', 'val', 'test', 'test', 'invalid']
    """
    return split_name(text) or text.strip()


def split_name(text: str) -> str:
    """As `clean_split`, and "" if it is the name of no split."""
    match = _SPLIT.fullmatch(text.strip().lower())
    return _OTHER_SPLITS.get(match[1], match[1]) if match else ""


def described(source: PictureSource) -> str:
    """What was read, in one line: classes, pictures, splits, by which rule, and what was left aside."""
    counts = source.index["label"].astype("str").value_counts()
    unlabelled = int(counts.get("", 0))
    classes = sorted(name for name in counts.index if name)
    shown = ", ".join(repr(x) if "," in x else x for x in classes[:5]) + (", ..." if len(classes) > 5 else "")
    parts = [f"{source.name}: {len(source)} pictures"]
    parts.append(f"{len(classes)} classes ({shown})" if len(classes) != 1 else f"1 class ({shown})")
    if not classes:
        parts[-1] = "no labels"
    elif unlabelled:
        parts.append(f"{unlabelled} pictures without a label")
    splits = source.index["split"].astype("str").value_counts(sort=False)
    named = [f"{name} {n}" if name else f"{n} of none" for name, n in splits.items()]
    parts.append("no splits" if set(splits.index) <= {""} else f"splits: {', '.join(named)}")
    line = ", ".join(parts) + (f"; read as {source.rule}" if source.rule else "") + "."
    alike = [k for k, n in Counter(x.casefold() for x in classes).items() if n > 1]
    if alike:
        pair = " and ".join(x for x in classes if x.casefold() == alike[0])
        line += f" {pair} are taken as different classes."
    if classes and all(x.isdecimal() for x in classes):
        line += " Labels are numbers, which texts would name: a run takes names as classes={0: cat, 1: dog}."
    return f"{line} {source.aside}".rstrip()


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
class PictureSource:
    """Pictures in an order, with their labels. A kind of source adds `files`, `read` and `_take`.

    Attributes:
        name: what `open_source` was called with.
        index: one row a picture, in the order of the tensors: path, label, split ("" if unknown).
        rule: how labels and splits were found.
        aside: what was left aside, and how to ask for it; "" if nothing was.
    """

    name: str
    index: pd.DataFrame
    rule: str = field(default="", kw_only=True)
    aside: str = field(default="", kw_only=True)
    file_is_picture: ClassVar[bool] = False  # whether the i-th of `files` is picture i

    @property
    def files(self) -> Iterable[Path]:
        """The files behind it, each once: what its content depends on."""
        raise NotImplementedError

    def read(self, i: int) -> bytes:
        """The bytes of picture i as they were stored, not decoded.

        Raises:
            OSError: if they can't be read.
        """
        raise NotImplementedError

    def __len__(self) -> int:
        return len(self.index)

    def select(
        self,
        labels: Collection[str] | None = None,
        per_label: int | None = None,
        splits: Collection[str] | None = None,
    ) -> Self:
        """Only some labels and splits; at most `per_label` pictures of each label in each split.

        Which ones depends neither on the others nor on where the folder lies: those whose names within
        their class have the smallest SHA-256.

        Raises:
            SingError: for a label or split that the source does not have, or if nothing is left.
        """
        keep = np.ones(len(self), dtype=bool)
        for column, wanted in (("label", labels), ("split", splits)):
            known = sorted(str(x) for x in self.index[column].unique())
            for name in wanted or ():
                if name not in known:
                    raise unknown(column, name, known, where=self.name)
            if wanted is not None:
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


def _first_by_hash(index: pd.DataFrame, per_label: int, rows: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    if per_label < 1:
        raise SingError(f"per_label is {per_label}, expected at least 1 picture a label.")
    pairs = zip(index["path"], index["label"].astype(str), strict=True)
    hashes = pd.Series([hashlib.sha256(_within(*x).encode()).hexdigest() for x in pairs])
    keys = [index[column].astype(str).to_numpy() for column in ("label", "split")]
    by_label = hashes.groupby(keys, observed=True, sort=False)
    return rows[(by_label.rank(method="first") <= per_label).to_numpy()]


def _within(path: str, label: str) -> str:
    """A picture's name below the folder of its class, which is the same wherever that folder lies.

    >>> _within("val/cat/a/1.png", "cat"), _within("images/1.png", "cat")
    ('a/1.png', '1.png')
    """
    _, found, name = f"/{path}".rpartition(f"/{label}/")
    return name if found else path.rpartition("/")[2]


# ------------------------------------------------------------------------------ pictures as files


@dataclass(frozen=True, eq=False)
class FileSource(PictureSource):
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

    Layouts: SPLIT/CLASS/picture, CLASS/picture, CLASS/SPLIT/picture, and a flat folder (label ""), also one
    folder deeper, such as data/train/cat. SPLIT is train, val, test or such, in capitals or not
    (`clean_split`), and only where every folder beside it is one too: "valid" beside "invalid" is a class.
    Hidden files and folders are left out; links are followed.

    Raises:
        SingError: if the folder does not exist, holds no picture, or could be read in two ways.
    """
    return read_folder(Path(folder)).index.astype("str")


def read_folder(folder: Path) -> FileSource:
    """The pictures below a folder, labelled by it: see `list_pictures`."""
    if not folder.is_dir():
        raise SingError(f"{folder} is not a folder, expected a folder of pictures: check the path.")
    left: Counter[str] = Counter()
    index = picture_table((path, path.rpartition("/")[0], "") for path in walk(folder, left=left))
    unread = ", ".join(f"{n} {suffix} files" for suffix, n in sorted(left.items()))
    unread = f"{unread} can't be decoded here: convert them to JPEG or PNG." if unread else ""
    if index.empty:
        wanted = f"files ending in {', '.join(sorted(SUFFIXES))}, flat or in one folder a class."
        raise SingError(f"{folder} holds no picture, expected {wanted} {unread}".rstrip())
    index, rule = by_folders(index, index["label"], folder)
    return FileSource(
        str(folder), index, folder, rule=rule, aside=" ".join(filter(None, [strays(folder), unread]))
    )


def by_folders(index: pd.DataFrame, folders: pd.Series, where: Path) -> tuple[pd.DataFrame, str]:
    """The table with labels and splits by each picture's folder; and by which rule.

    Args:
        index: one row a picture.
        folders: of each, relative, "" for none.
        where: what is read, for messages.
    """
    found, rule = _layout(folders.unique().tolist(), where)
    for i, column in enumerate(("label", "split")):
        index[column] = folders.astype("str").map({f: x[i] for f, x in found.items()}).astype("category")
    return index, rule


def _layout(folders: Sequence[str], where: Path) -> tuple[dict[str, tuple[str, str]], str]:
    """Label and split of each folder that holds pictures, and the rule in words."""
    inside, wrapper = _unwrapped({f: tuple(f.split("/")) for f in folders if f})
    tops: dict[str, list[tuple[str, ...]]] = {}
    for parts in filter(None, inside.values()):
        tops.setdefault(parts[0], []).append(parts[1:])
    splits = [top for top in tops if split_name(top)]
    inner = {  # folders that hold splits, and nothing else
        top: {x[0] for x in below if x}
        for top, below in tops.items()
        if all(x and split_name(x[0]) for x in below)
    }
    found: dict[str, tuple[str, str]] = {}
    if tops and len(splits) == len(tops):
        rule = "SPLIT/CLASS folders"
        for top in tops:
            rest, _ = _unwrapped({f: p[1:] for f, p in inside.items() if p[:1] == (top,)}, beside=top)
            found |= {f: (p[0] if p else "", split_name(top)) for f, p in rest.items()}
        if not any(label for label, _ in found.values()):
            rule = "SPLIT folders without classes"
    elif any(below for top in splits for below in tops[top]):
        other = next(top for top in tops if top not in splits)
        raise SingError(
            f"{where} holds {', '.join(splits)} with folders in them, and {other} beside them, expected "
            f"either splits or classes: give {where / splits[0]} alone, or move {other} elsewhere."
        )
    elif inner and len(inner) == len(tops) and not any(x[1:] for below in tops.values() for x in below):
        rule, found = "CLASS/SPLIT folders", {f: (p[0], split_name(p[1])) for f, p in inside.items() if p}
    elif any(len(names) > 1 for names in inner.values()):
        top = next(top for top, names in inner.items() if len(names) > 1)
        raise SingError(
            f"{where} holds {', '.join(tops)}, and splits in {top} ({', '.join(sorted(inner[top]))}), "
            f"expected one set of pictures: give {where / top}, or list pictures in a .csv with path, label, "
            "split."
        )
    else:
        rule, found = "CLASS folders", {f: (p[0], "") for f, p in inside.items() if p}
    if not any(inside.values()):
        rule = "a flat folder"
    found = dict.fromkeys(folders, ("", "")) | found
    return {f: (clean_label(label), split) for f, (label, split) in found.items()}, rule + wrapper


def _unwrapped(
    inside: dict[str, tuple[str, ...]], beside: str | None = None
) -> tuple[dict[str, tuple[str, ...]], str]:
    """Without outer folders that are neither split nor class: data/train/cat, images/cat, train/train/cat."""
    wrapper = ""
    while len(tops := {p[0] if p else "" for p in inside.values()}) == 1:
        top = next(iter(tops))
        below = [p[1:] for p in inside.values()]
        holds_splits = all(x and split_name(x[0]) for x in below) and any(x[1:] for x in below)
        inner = {x[0] if x else "" for x in below}  # flowers/rose, flowers/tulip: one class would be none
        alone = beside is None and len(inner) > 1 and all(x and not split_name(x) for x in inner)
        named = (alone and not split_name(top)) or top.strip().lower() in _WRAPPERS or top == beside
        if not top or not (named or holds_splits):
            break
        inside, wrapper = {f: p[1:] for f, p in inside.items()}, f"{wrapper or ' in '}{top}/"
    return inside, wrapper


def strays(folder: Path) -> str:
    """What lies beside pictures and could be taken for the source of them."""
    own = {"index.parquet", "rejects.parquet"} if (folder / "manifest.json").exists() else set()
    names = sorted(
        p.name
        for p in folder.iterdir()
        if p.suffix.lower() in (*_ARCHIVES, *_TABLES) and p.is_file() and p.name not in own
    )
    if not names:
        return ""
    readable = next(
        (n for n in names if n.lower().endswith((".tar", *_TABLES)) and not n.endswith(".jsonl")), None
    )
    packed = any(n.lower().endswith(_ARCHIVES) for n in names)
    elsewhere = "unpack it into a folder of its own" if packed else "move it into a folder of its own"
    how = f"give {folder / readable}" if readable else f"{elsewhere} and give that"
    shown = ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")
    return f"Left aside: {shown} beside the pictures; to read it instead, {how}."


def walk(
    folder: Path, above: tuple[tuple[int, int], ...] = (), left: Counter[str] | None = None
) -> Iterator[str]:
    """Relative paths of the pictures below a folder, sorted folder by folder.

    Args:
        folder: where to look.
        above: folders that lead here, by device and number.
        left: counts the pictures that are left out, by suffix.
    """
    stat = folder.stat()
    here = (stat.st_dev, stat.st_ino)
    if here in above:  # a link that leads back up
        return
    with os.scandir(folder) as entries:
        found = sorted((e for e in entries if not e.name.startswith(".")), key=lambda e: e.name)
    for entry in found:
        if entry.is_dir():
            if entry.name in _THUMBNAILS:
                continue
            inner = walk(folder / entry.name, (*above, here), left)
            yield from (f"{entry.name}/{path}" for path in inner)
        elif is_picture(entry.name) and (entry.is_file() or entry.is_symlink()):
            yield entry.name  # a link that leads nowhere is rejected where it is read, with the reason
        elif left is not None and (suffix := os.path.splitext(entry.name)[1].lower()) in UNREAD:
            left[suffix] += 1


def is_picture(name: str) -> bool:
    """Whether a file's name ends as a picture's does."""
    return os.path.splitext(name)[1].lower() in SUFFIXES
