"""Files of numbers to analyse without a model, read in pieces.

>>> import tempfile
>>> from safetensors.torch import save_file
>>> folder = Path(tempfile.mkdtemp())
>>> np.save(folder / "features.npy", np.ones((3, 2), np.float16))
>>> [(f.shape, f.dtype) for f in open_features(folder / "features.npy").pieces()]
[(torch.Size([3, 2]), torch.float32)]
>>> header = {"texts": '["a cat"]'}
>>> save_file({"embeddings": torch.ones(1, 2)}, folder / "texts.safetensors", metadata=header)
>>> read_embeddings(folder / "texts.safetensors")
{'a cat': tensor([1., 1.])}
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from pickle import UnpicklingError
from typing import Any
from zipfile import BadZipFile

import numpy as np
import pandas as pd
import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from sing_utils.errors import SingError
from sing_utils.features.store import FeatureStore
from sing_utils.method.arrays import as_tensor, require_plain
from sing_utils.sources.csv_labels import _COLUMNS, column_numbers, read_lines

_ROWS = 8192  # rows at a time of a single file


@dataclass(frozen=True, eq=False)
class FeatureRows:
    """Features from a file or a store, in pieces.

    Attributes:
        path: where they are.
        read: yields them in order, (B, m) each.
        index: path and label of each row, where a store says so.
        network: SHA-256 of the weights of the network they are of; "" where nothing says so.
    """

    path: Path
    read: Callable[[], Iterator[Any]] = field(repr=False)
    index: pd.DataFrame | None = None
    network: str = ""

    def pieces(self) -> Iterator[Tensor]:
        """All rows in order, (B, m) each, of at least 32 bits.

        Raises:
            SingError: for a row that is zero, NaN or infinite; the message says which.
        """
        start = 0
        for f in self.read():
            f = as_tensor(f, name=f"f of {self.path}").detach()
            f = f if f.dtype in (torch.float32, torch.float64) else f.to(torch.float32)
            self._require_directions(f, start)
            yield f
            start += len(f)

    def _require_directions(self, f: Tensor, start: int) -> None:
        finite = f.isfinite().all(-1)
        bad = ~finite | (f == 0).all(-1)
        if bad.any():
            i = int(bad.nonzero()[0])
            row = f"row {start + i}" + (
                "" if self.index is None else f" ({self.index['path'].iloc[start + i]})"
            )
            what = "is a zero vector" if finite[i] else "holds NaN or infinite values"
            more = f", as do {int(bad.sum()) - 1} of the next {len(f) - i - 1}" if bad.sum() > 1 else ""
            raise SingError(
                f"{row} of {self.path} {what}{more}, expected finite numbers, not all 0, which alone have a "
                "direction: leave such rows out."
            )


def open_features(path: str | Path) -> FeatureRows:
    """A feature store, or a file that `open_array` reads.

    A safetensors file may say in its header, as `network`, the SHA-256 of the network's weights.

    Raises:
        SingError: for anything else.
    """
    path = Path(path)
    if path.is_dir():
        store = FeatureStore.open(path)
        index = store.index[["path", "label"]]
        return FeatureRows(path, lambda: store.batches("features"), index, store.network)
    array, network = open_array(path), ""
    if path.suffix.lower() == ".safetensors":
        with safe_open(path, "pt") as tensors:
            network = (tensors.metadata() or {}).get("network", "")
    starts = range(0, len(array), _ROWS)
    return FeatureRows(path, lambda: (array[i : i + _ROWS] for i in starts), network=network)


def open_array(path: Path, name: str = "features") -> Any:
    """The array (N, m) of a .npy, .npz, .pt or .safetensors file; where arrays have names, that one.

    Nothing in it is run: pickled objects are refused. Only .npz is read as a whole, the others as sliced.

    Raises:
        SingError: for another file, or one with several arrays of which none has the name.
    """
    kind = path.suffix.lower()
    if kind not in _READERS:
        raise SingError(
            f"{path} is no folder, .npy, .npz, .pt or .safetensors file, expected a feature store (`sing "
            "extract` or `sing pack` makes one) or such a file."
        )
    try:
        held = _READERS[kind](path, name)
    except (
        OSError,
        ValueError,
        EOFError,
        RuntimeError,
        SafetensorError,
        UnpicklingError,
        BadZipFile,
    ) as error:
        pickled = isinstance(error, UnpicklingError) or "allow_pickle" in str(error)
        reason = (
            "it holds pickled objects, which can run code" if pickled else " ".join(str(error).split())[:100]
        )
        raise SingError(
            f"{path} holds no {name} ({reason}), expected a 2-D array of numbers, (N, m): save it alone, "
            "with numpy.save or as safetensors."
        ) from None
    arrays = dict(held) if isinstance(held, Mapping) else {name: held}
    if list(arrays) == ["arr_0"]:
        arrays = {name: arrays["arr_0"]}  # numpy's own name for one that was given none
    found: Any = arrays.get(name)
    if not hasattr(found, "shape"):
        listed = ", ".join(f"{k} {tuple(x.shape)}" for k, x in arrays.items() if hasattr(x, "shape"))
        raise SingError(
            f"{path} holds no {name} (its arrays: {listed or 'none'}), expected one of that name or a file "
            "of one array alone: save it so."
        )
    require_plain(found, name=f"{name} of {path}")
    if len(found.shape) != 2:
        raise SingError(
            f"{path} holds {name} of shape {tuple(found.shape)}, expected (N, m): one row a picture."
        )
    return found


def _npz(path: Path, name: str) -> dict[str, Any]:
    with np.load(path, allow_pickle=False) as held:
        return {key: held[key] for key in ([name] if name in held else held.files)}


def _safetensors(path: Path, name: str) -> dict[str, Tensor]:
    with safe_open(path, "pt") as tensors:
        names = tensors.keys()
        return {key: tensors.get_tensor(key) for key in ([name] if name in names else names)}


_READERS: dict[str, Callable[[Path, str], Any]] = {
    ".npy": lambda path, _: np.load(path, mmap_mode="c", allow_pickle=False),
    ".npz": _npz,
    ".pt": lambda path, _: torch.load(path, map_location="cpu", weights_only=True, mmap=True),
    ".safetensors": _safetensors,
}
_READERS[".pth"] = _READERS[".pt"]


def read_rows(file: Path) -> pd.DataFrame:
    """What each row of an array shows: path, and perhaps label and split, of a .csv, .tsv or .parquet file.

    Raises:
        SingError: for another file.
    """
    try:
        if file.suffix.lower() == ".parquet":
            rows = pd.read_parquet(file)
        else:
            (_, columns), *lines = read_lines(file) or [(1, [])]
            rows = pd.DataFrame([x for _, x in lines], columns=columns, dtype=str)
    except SingError:
        raise
    except (OSError, ValueError) as error:
        reason = " ".join(str(error).split())[:100]
        raise SingError(
            f"{file} can't be read as a table ({reason}), expected columns path, label."
        ) from None
    rows.columns = list(column_numbers(file, [str(c) for c in rows]))
    for name, others in _COLUMNS.items():
        if found := next((c for c in others if c in rows), None):
            rows[name] = rows[found]
    if "path" not in rows or rows.empty:
        raise SingError(
            f"{file} has {len(rows)} rows of {', '.join(rows) or 'no column'}, expected `path` among them "
            "and a row for each of the array's: name the columns in its first line."
        )
    return rows


def rows_like(rows: pd.DataFrame, store: FeatureStore) -> np.ndarray[Any, Any]:
    """Numbers of the rows that show a store's pictures, in its order.

    Paths may begin elsewhere: those of the store are looked for as they are, else below one folder.

    Raises:
        SingError: if one is not there.
    """
    wanted, given = store.index["path"], rows["path"].astype(str).str.replace("\\", "/")
    first = next(
        (p for p in given if p == wanted.iloc[0] or p.endswith(f"/{wanted.iloc[0]}")), wanted.iloc[0]
    )
    folder = first[: len(first) - len(wanted.iloc[0])]
    numbers = dict(zip(given, range(len(given)), strict=True))
    missing = [p for p in wanted if folder + p not in numbers]
    if missing:
        raise SingError(
            f"{len(missing)} of {len(wanted)} pictures of {store.path} are not in the table, such as "
            f"{folder}{missing[0]}, expected all of them (it has {given.iloc[0]} and others): name each by "
            "its path."
        )
    return np.array([numbers[folder + p] for p in wanted])


def read_embeddings(path: str | Path) -> dict[str, Tensor]:
    """Embeddings of texts: a safetensors file with `embeddings` (K, n), and `texts` in its header.

    `texts` is a JSON list of K different texts; without it they are called "text 0" and so on.

    Raises:
        SingError: for another file.
    """
    try:
        with safe_open(path, "pt") as tensors:
            z, meta = tensors.get_tensor("embeddings"), tensors.metadata() or {}
        names = json.loads(meta.get("texts", "null")) or [f"text {i}" for i in range(len(z))]
        if z.ndim != 2 or len(z) != len(names) or len(set(names)) < len(names):
            raise ValueError(f"embeddings {tuple(z.shape)} and {len(set(names))} different texts")
    except (OSError, SafetensorError, ValueError, TypeError) as error:
        raise SingError(
            f"{path} holds no embeddings of texts ({' '.join(str(error).split())[:100]}), expected a "
            "safetensors file with `embeddings` (K, n) and in its header `texts`, a JSON list of K texts."
        ) from None
    return dict(zip(map(str, names), z, strict=True))
