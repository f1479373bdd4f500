"""WebDataset shards: pictures inside .tar files, read in place; nothing is ever unpacked.

>>> expand_braces("x-{008..010}.tar")
['x-008.tar', 'x-009.tar', 'x-010.tar']

Members whose names agree up to the first dot belong together: `0017.jpg` with `0017.cls` (its label
as text) or `0017.json` (with a "label"). Only uncompressed tars can be read at any place.
"""

from __future__ import annotations

import glob
import json
import os
import re
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath
from typing import Any, Self

import numpy as np
import pandas as pd

from sing_utils.errors import SingError
from sing_utils.sources.folders import (
    PictureSource,
    by_folders,
    is_picture,
    label_text,
    picture_table,
    split_name,
)

_LABEL_SIZE = 1 << 20  # bytes; a longer label file is none
_LABELS = (".cls", ".json")
_KEYS = ("label", "cls", "class")  # of a .json, in the order in which they count
_BRACES = re.compile(r"\{([^{}]*)\}")
_MANY = 1_000_000  # shards; more is a mistyped range


@dataclass(frozen=True, eq=False)
class TarSource(PictureSource):
    """Pictures inside tars: picture i is `size[i]` bytes from `offset[i]` of `tars[tar[i]]`."""

    tars: tuple[Path, ...]
    tar: np.ndarray[Any, Any]
    offset: np.ndarray[Any, Any]
    size: np.ndarray[Any, Any]

    @property
    def files(self) -> Iterator[Path]:
        """The tars that hold a picture."""
        return (self.tars[i] for i in np.unique(self.tar))

    def read(self, i: int) -> bytes:
        """The bytes of picture i."""
        with open(self.tars[self.tar[i]], "rb") as file:
            file.seek(int(self.offset[i]))
            data = file.read(int(self.size[i]))
        if len(data) != self.size[i]:
            raise OSError(f"{self.tars[self.tar[i]].name} was cut short")
        return data

    def _take(self, rows: np.ndarray[Any, Any]) -> Self:
        kept = super()._take(rows)
        return replace(kept, tar=self.tar[rows], offset=self.offset[rows], size=self.size[rows])


def looks_like_shards(spec: str) -> bool:
    """Whether a name means tar shards: it ends in .tar, or in a compressed kind that is refused."""
    return re.search(r"\.(tar|tgz)(\.\w+)?$", spec.lower()) is not None


def open_shards(spec: str) -> TarSource:
    """Index the pictures of tar shards, without reading them.

    Args:
        spec: a tar, a pattern such as folder/*.tar, or a range such as x-{000..009}.tar.

    Raises:
        SingError: for missing, compressed, damaged or unsafe tars, or without any picture.
    """
    tars = _find(spec)
    folder = Path(os.path.commonpath([t.parent for t in tars]))
    places: list[np.ndarray[Any, Any]] = []
    labelled: set[bool] = set()
    splits = _splits([t.relative_to(folder).as_posix() for t in tars])

    def rows() -> Iterator[tuple[str, str, str]]:
        for number, tar in enumerate(tars):
            name = tar.relative_to(folder).as_posix()
            samples, told = _samples(tar)
            labelled.add(told)
            place = [(number, s.offset, s.size) for s in samples]
            places.append(np.array(place, np.int64).reshape(-1, 3))
            yield from ((f"{name}/{s.path}", s.label, splits[name]) for s in samples)

    index = picture_table(rows())
    if index.empty:
        raise SingError(f"{spec} holds no picture, expected members such as 0017.jpg beside 0017.cls.")
    tar, offset, size = np.concatenate(places).T.copy()
    rule = "shards with .cls or .json beside each picture"
    if labelled == {False}:  # a tar of folders
        names = list(splits)
        inner = [p[len(names[t]) + 1 :].rpartition("/")[0] for p, t in zip(index["path"], tar, strict=True)]
        by_tar = index["split"]
        index, rule = by_folders(index, pd.Series(inner), Path(spec))
        if any(splits.values()):
            index["split"] = by_tar
        rule = f"{rule} inside the tar" if any(inner) else "shards without labels"
    return TarSource(spec, index, tuple(tars), tar.astype(np.int32), offset, size, rule=rule)


def _splits(names: list[str]) -> dict[str, str]:
    """The split that each tar's name says, such as train-000.tar; "" for all if none does."""
    words = {name: re.split(r"[^a-z]+", name.lower()) for name in names}
    found = {name: next((s for w in own if (s := split_name(w))), "") for name, own in words.items()}
    if any(found.values()) and not all(found.values()):
        with_split, without = (
            next(n for n, s in found.items() if bool(s) is known) for known in (True, False)
        )
        raise SingError(
            f"{with_split} names a split and {without} does not, expected one in each shard's name or in "
            "none: rename them, or give only some of them."
        )
    return found


def expand_braces(spec: str) -> list[str]:
    """A name with {000..009} or {a,b} as all the names it stands for, in order."""
    match = _BRACES.search(spec)
    if match is None:
        return [spec]
    ends = re.fullmatch(r"(\d+)\.\.(\d+)", match[1])
    if ends is None and "," not in match[1]:
        raise SingError(f"{spec} has {match[0]}, expected a range such as {{000..009}} or a list {{a,b}}.")
    if ends is not None:
        first, last = int(ends[1]), int(ends[2])
        if not first <= last < first + _MANY:
            raise SingError(f"{spec} has the range {match[0]}, expected at most {_MANY} shards, upwards.")
        inner = [f"{i:0{len(ends[1])}d}" for i in range(first, last + 1)]
    else:
        inner = match[1].split(",")
    return [rest for x in inner for rest in expand_braces(spec[: match.start()] + x + spec[match.end() :])]


def _find(spec: str) -> list[Path]:
    found = []
    for name in expand_braces(spec):
        names = sorted(glob.glob(name)) if glob.has_magic(name) and not Path(name).exists() else [name]
        found += [Path(n) for n in names]
    if not found:
        raise SingError(f"{spec} matches no file, expected .tar shards: check the path.")
    for path in found:
        if not path.is_file():
            raise SingError(f"there is no file {path}, expected a .tar shard: check the path.")
    if len(set(found)) < len(found):
        raise SingError(f"{spec} names a shard twice, expected each once.")
    return found


# ------------------------------------------------------------------------------------- one tar


@dataclass
class _Sample:
    """Members of one key."""

    path: str = ""
    offset: int = 0
    size: int = 0
    label: str = ""


def _samples(tar: Path) -> tuple[list[_Sample], bool]:
    """The pictures of a tar in its order, each with the label of its key; and whether files tell labels."""
    samples: dict[str, _Sample] = {}
    told, doubled, loose = False, "", False
    for member in _members(tar):
        key, dot, suffix = _split_name(member.name)
        sample = samples.setdefault(key, _Sample())
        if is_picture(member.name):
            if sample.path:
                doubled = doubled or f"{sample.path} and {member.name}"
                again = samples.setdefault(member.name, _Sample())
                flat = "/" not in member.name.removeprefix("./")
                loose = loose or flat or member.name in (sample.path, again.path)
                sample = again
            sample.path, sample.offset, sample.size = member.name, member.offset_data, member.size
        elif dot + suffix in _LABELS:
            sample.label = _label(tar, member) or sample.label
            told = told or bool(sample.label)
    if doubled and (told or loose):  # in class folders names may have dots: no label goes by them
        raise SingError(
            f"{tar} holds {doubled}, expected one picture a key: keep one of them, or give them different "
            "names before the first dot."
        )
    return [s for s in samples.values() if s.path], told


def _members(tar: Path) -> Iterator[tarfile.TarInfo]:
    """The pictures and labels of a tar; refuses what can't be read in place."""
    end, last, after = tar.stat().st_size, -1, 0
    try:
        with tarfile.open(tar, "r:") as archive:
            for member in archive:
                # A negative size would lead tarfile round in circles.
                if member.size < 0 or member.offset_data <= last or member.offset_data + member.size > end:
                    raise SingError(f"{tar} is damaged or cut short at {member.name!r}: fetch it again.")
                last = member.offset_data
                after = -(-(last + member.size) // 512) * 512
                # As in a folder, hidden files are left out: a Mac's tar puts ._0017.jpg beside 0017.jpg.
                if PurePosixPath(member.name).name.startswith("."):
                    continue
                if is_picture(member.name) or member.name.endswith(_LABELS):
                    _require_plain(tar, member)
                    yield member
        if not _is_ended(tar, after):  # tarfile takes a cut in a header for the end
            raise SingError(f"{tar} is cut short: it has no end-of-archive mark; fetch it again.")
    except SingError:
        raise
    except (tarfile.TarError, EOFError, ValueError, OverflowError) as error:
        compressed = tar.suffix.lower() != ".tar"
        mend = "unpack it to a plain .tar" if compressed else "fetch it again; compressed ones don't work"
        raise SingError(f"{tar} can't be read as a plain .tar ({error}): {mend}.") from None


def _is_ended(tar: Path, after: int) -> bool:
    """Whether a block of zeros follows the last member, as it does in every whole tar."""
    with open(tar, "rb") as file:
        file.seek(after)
        return file.read(512) == bytes(512)


def _require_plain(tar: Path, member: tarfile.TarInfo) -> None:
    pure = PurePosixPath(member.name)
    if not member.isreg() or member.issparse():
        raise SingError(
            f"{tar} holds {member.name!r} as a link, device or sparse file, expected plain files."
        )
    if pure.is_absolute() or ".." in pure.parts:
        raise SingError(f"{tar} holds {member.name!r}, expected names that stay inside: make it anew.")


def _split_name(name: str) -> tuple[str, str, str]:
    folder, _, file = name.rpartition("/")
    stem, dot, suffix = file.partition(".")
    return f"{folder}/{stem}", dot, suffix.lower()


def _label(tar: Path, member: tarfile.TarInfo) -> str:
    if member.size > _LABEL_SIZE:
        return ""
    with open(tar, "rb") as file:
        file.seek(member.offset_data)
        data = file.read(member.size)
    try:
        text = data.decode()
        value = json.loads(text) if member.name.endswith(".json") else text.strip()
    except ValueError:
        raise SingError(f"{tar} holds {member.name!r}, which is no label, expected text or JSON.") from None
    if isinstance(value, dict):
        value = next((value[k] for k in _KEYS if k in value), "")
    return label_text(value) if isinstance(value, str | int | float) else ""
