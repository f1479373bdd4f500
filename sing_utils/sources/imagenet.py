"""ImageNet's 2012 classification set, as it is distributed, unpacked or on Kaggle.

::

    train/nXXXXXXXX/*.JPEG           or ILSVRC2012_img_train/, or below ILSVRC/Data/CLS-LOC/
    val/nXXXXXXXX/*.JPEG             or flat: val/ILSVRC2012_val_00000001.JPEG, or ILSVRC2012_img_val/

A flat val/ needs one file that says what its pictures show, beside it or above:
`LOC_val_solution.csv`, the devkit (`ILSVRC2012_validation_ground_truth.txt` and `meta.mat`),
`imagenet_2012_validation_synset_labels.txt`, or a `val.txt` of "name number" where numbers count the
WordNet ids in alphabetical order. Labels are WordNet ids; the unlabelled test pictures are left out.

>>> find_imagenet(Path("sing_utils")) is None
True
"""

from __future__ import annotations

import csv
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from sing_utils.errors import SingError
from sing_utils.sources.folders import picture_table, walk

_WNID = re.compile(r"n\d{8}")
_VAL = re.compile(r"ILSVRC2012_val_(\d{8})\.JPEG")
_TRAIN_NAMES = ("train", "ILSVRC2012_img_train")
_VAL_NAMES = ("val", "ILSVRC2012_img_val")
_INSIDE = (".", "ILSVRC/Data/CLS-LOC", "Data/CLS-LOC")
_DEVKIT = ("ILSVRC2012_devkit_t12/data", "devkit/data", "data")
_CLASSES = 1000


@dataclass(frozen=True)
class ImageNet:
    """Where the parts of an ImageNet folder are."""

    root: Path
    train: Path | None
    val: Path | None
    val_is_flat: bool

    def index(self) -> pd.DataFrame:
        """path, label (WordNet id), split: train, then val."""
        return picture_table(self._rows())

    def is_unlabelled(self) -> bool:
        """Whether it is a flat folder of pictures alone, and no list says what they show."""
        return self.val == self.root and self.train is None and _find_list(self.root, self.root) is None

    def _rows(self) -> Iterator[tuple[str, str, str]]:
        if self.train is not None:
            yield from _class_folders(self.root, self.train, "train")
        if self.val is not None and not self.val_is_flat:
            yield from _class_folders(self.root, self.val, "val")
        elif self.val is not None:
            labels = read_val_labels(self.val, self.root)
            for path in walk(self.val):
                match = _VAL.fullmatch(path)
                if match is None or int(match[1]) not in labels:
                    raise SingError(
                        f"{self.val} holds {path}, for which there is no label, expected "
                        "ILSVRC2012_val_00000001.JPEG and so on: move it elsewhere."
                    )
                yield _relative(self.root, self.val, path), labels[int(match[1])], "val"


def find_imagenet(folder: Path) -> ImageNet | None:
    """The ImageNet layout at a folder, or None if it is another kind of folder."""
    if _is_flat_val(folder):
        return ImageNet(folder, None, folder, True)
    for inside in _INSIDE:
        root = folder / inside
        train = next((root / n for n in _TRAIN_NAMES if _has_classes(root / n)), None)
        val = next((root / n for n in _VAL_NAMES if _has_classes(root / n) or _is_flat_val(root / n)), None)
        if train or val:
            return ImageNet(folder, train, val, val is not None and _is_flat_val(val))
    return None


def read_val_labels(val: Path, root: Path) -> dict[int, str]:
    """Number of each validation picture -> WordNet id, from whichever list is there.

    Raises:
        SingError: if there is no list, or it is damaged.
    """
    file = _find_list(val, root)
    if file is None:
        raise SingError(
            f"{val} is flat and nothing says what its pictures show, expected one of {', '.join(_READERS)} "
            f"in {root} or beside it: copy it there."
        )
    return _checked(file, _READERS[file.name])


def _find_list(val: Path, root: Path) -> Path | None:
    for place in dict.fromkeys([val, root, *val.parents[:4]]):
        for name in _READERS:
            for file in (place / name, *(place / d / name for d in _DEVKIT)):
                if file.is_file():
                    return file
    return None


def _checked(file: Path, read: Callable[[Path], dict[int, str]]) -> dict[int, str]:
    try:
        labels = read(file)
    except SingError:
        raise
    except (OSError, ValueError, KeyError, IndexError, TypeError) as error:
        raise SingError(
            f"{file} can't be read as ImageNet's validation labels ({type(error).__name__}: {error}), "
            "expected the file as it is distributed: fetch it again."
        ) from None
    wrong = next((w for w in labels.values() if not _WNID.fullmatch(w)), None)
    if wrong is not None or not labels:
        raise SingError(f"{file} has the label {wrong!r}, expected WordNet ids such as n01440764.")
    return labels


# ------------------------------------------------------------------------------ lists of labels


def _read_solution(file: Path) -> dict[int, str]:
    with open(file, newline="") as lines:
        rows = csv.DictReader(lines)
        return {_number(r["ImageId"]): r["PredictionString"].split()[0] for r in rows}


def _read_devkit(file: Path) -> dict[int, str]:
    from scipy.io import loadmat

    synsets = loadmat(file.parent / "meta.mat", squeeze_me=True)["synsets"]
    leaves = synsets[synsets["num_children"] == 0]
    wnids = {int(s["ILSVRC2012_ID"]): str(s["WNID"]) for s in leaves}
    return {i: wnids[int(n)] for i, n in enumerate(file.read_text().split(), start=1)}


def _read_wnids(file: Path) -> dict[int, str]:
    return dict(enumerate(file.read_text().split(), start=1))


def _read_numbers(file: Path) -> dict[int, str]:
    from timm.data import ImageNetInfo

    wnids = sorted(ImageNetInfo("imagenet-1k").label_names())
    pairs = (line.split() for line in file.read_text().splitlines() if line.strip())
    numbers = {_number(name): int(n) for name, n in pairs}
    if any(not 0 <= n < _CLASSES for n in numbers.values()):
        raise ValueError("a class number outside 0 to 999")
    return {i: wnids[n] for i, n in numbers.items()}


_READERS = {
    "LOC_val_solution.csv": _read_solution,
    "ILSVRC2012_validation_ground_truth.txt": _read_devkit,
    "imagenet_2012_validation_synset_labels.txt": _read_wnids,
    "val.txt": _read_numbers,
}


def _number(name: str) -> int:
    match = re.fullmatch(r"(?:.*/)?ILSVRC2012_val_(\d{8})(?:\.JPEG)?", name)
    if match is None:
        raise ValueError(f"the name {name!r}")
    return int(match[1])


# ------------------------------------------------------------------------------------- folders


def _class_folders(root: Path, part: Path, split: str) -> Iterator[tuple[str, str, str]]:
    for path in walk(part):
        label, inside, _ = path.partition("/")
        if inside:  # a class of one's own beside ImageNet's is one too
            yield _relative(root, part, path), label, split


def _relative(root: Path, part: Path, path: str) -> str:
    inside = part.relative_to(root).as_posix()
    return path if inside == "." else f"{inside}/{path}"


def _has_classes(folder: Path) -> bool:
    """Whether most folders in it are WordNet ids; else it is somebody's own layout."""
    if not folder.is_dir():
        return False
    names = [p.name for p in folder.iterdir() if p.is_dir() and not p.name.startswith(".")]
    return 2 * sum(_WNID.fullmatch(name) is not None for name in names) > len(names)


def _is_flat_val(folder: Path) -> bool:
    return folder.is_dir() and any(_VAL.fullmatch(p.name) for p in folder.iterdir())
