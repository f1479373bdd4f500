r"""Pictures that a .csv file beside them lists with their labels.

>>> import tempfile
>>> folder = Path(tempfile.mkdtemp())
>>> _ = (folder / "a.png").write_bytes(b"")
>>> _ = (folder / "labels.csv").write_text("file,label\na.png,cat\n")
>>> read_label_table(folder / "labels.csv").index["label"].tolist()
['cat']
"""

from __future__ import annotations

import csv
import unicodedata
from collections import Counter
from pathlib import Path, PurePosixPath

from sing_utils.errors import SingError
from sing_utils.sources.folders import FileSource, clean_label, clean_split, picture_table

_COLUMNS = {
    "path": ("path", "file", "filename", "file_name", "image"),
    "label": ("label", "class"),
}


def read_label_table(file: Path) -> FileSource:
    """The pictures that a .csv (or .tsv) file lists, with paths relative to its own folder.

    Columns: path (or file, filename, file_name, image), label (or class), and perhaps split.

    Raises:
        SingError: for other columns, missing files, a picture listed twice, or a path that leaves
            the folder.
    """
    lines = read_lines(file)
    names = column_numbers(file, lines[0][1] if lines else [])
    for options in _COLUMNS.values():
        if not any(name in names for name in options):
            raise SingError(
                f"{file} has the columns {', '.join(names) or '(none)'}, expected {' or '.join(options)} "
                "among them: name them in its first line, with commas between."
            )
    path_at, label_at = (next(names[n] for n in options if n in names) for options in _COLUMNS.values())
    split_at = names.get("split")
    rows = [
        (
            _inside(x[path_at], file),
            clean_label(x[label_at]),
            clean_split("" if split_at is None else x[split_at]),
        )
        for _, x in lines[1:]
    ]
    _require_listed([path for path, _, _ in rows], file)
    return FileSource(str(file), picture_table(rows), file.parent, rule=f"the columns of {file.name}")


def column_numbers(file: Path, columns: list[str]) -> dict[str, int]:
    """Name -> number of each column, in small letters.

    Raises:
        SingError: if two have one name.
    """
    names = [name.strip().lower() for name in columns]
    name, times = Counter(names).most_common(1)[0] if names else ("", 1)
    if name and times > 1:
        raise SingError(f"{file} has {times} columns {name!r}, expected one: rename the others.")
    return {name: i for i, name in enumerate(names)}


def read_lines(file: Path) -> list[tuple[int, list[str]]]:
    """Number and fields of each line that is not empty; all have as many fields as the first."""
    try:
        with open(file, newline="", encoding="utf-8-sig") as text:
            reader = csv.reader(text, delimiter="\t" if file.suffix.lower() == ".tsv" else ",", strict=True)
            lines = [(reader.line_num, fields) for fields in reader if fields]
    except (OSError, ValueError, csv.Error) as error:
        raise SingError(
            f"{file} can't be read as a table ({error}), expected UTF-8 and columns path, label."
        ) from None
    for number, fields in lines:
        if len(fields) != len(lines[0][1]):
            raise SingError(
                f"{file}, line {number}, has {len(fields)} fields, expected {len(lines[0][1])}, as its first "
                'line has: put text that has a comma between quotes, "like, this".'
            )
    return lines


def _inside(path: str, file: Path) -> str:
    pure = PurePosixPath(path.strip().replace("\\", "/"))
    if not pure.parts or pure.is_absolute() or ".." in pure.parts or ":" in pure.parts[0]:
        raise SingError(f"{file} lists {path!r}, expected paths relative to its own folder, and inside it.")
    forms = (unicodedata.normalize(form, str(pure)) for form in ("NFC", "NFD"))  # é in one letter or two
    return next((name for name in (str(pure), *forms) if (file.parent / name).is_file()), str(pure))


def _require_listed(paths: list[str], file: Path) -> None:
    if not paths:
        raise SingError(f"{file} lists no picture, expected one a line below the columns' names.")
    path, times = Counter(paths).most_common(1)[0]
    if times > 1:
        raise SingError(f"{file} lists {path!r} {times} times, expected each picture once.")
    missing = [p for p in paths if not (file.parent / p).is_file()]
    if missing:
        raise SingError(
            f"{file} lists {len(missing)} of {len(paths)} pictures that are not there, such as "
            f"{missing[0]!r}, expected paths relative to the folder of {file.name}."
        )
