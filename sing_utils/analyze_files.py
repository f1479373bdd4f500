"""Files of numbers to analyse without a model, read and written in pieces.

>>> import tempfile
>>> folder = Path(tempfile.mkdtemp())
>>> np.save(folder / "features.npy", np.ones((3, 2), np.float16))
>>> [(start, f.shape, f.dtype) for start, f in open_features(folder / "features.npy").pieces()]
[(0, torch.Size([3, 2]), torch.float32)]
>>> save_embeddings(folder / "texts.safetensors", {"a cat": torch.ones(2)})
>>> read_embeddings(folder / "texts.safetensors")
{'a cat': tensor([1., 1.])}
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from sing_utils.arrays import as_tensor
from sing_utils.errors import SingError
from sing_utils.features import FeatureStore
from sing_utils.shards import written

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
    read: Callable[[], Iterator[Tensor]] = field(repr=False)
    index: pd.DataFrame | None = None
    network: str = ""

    def pieces(self) -> Iterator[tuple[int, Tensor]]:
        """(number of the first row, rows (B, m) of at least 32 bits)."""
        start = 0
        for f in self.read():
            f = as_tensor(f, name=f"f of {self.path}")
            yield start, f if f.dtype in (torch.float32, torch.float64) else f.to(torch.float32)
            start += len(f)


def open_features(path: str | Path) -> FeatureRows:
    """A feature store, a safetensors file with one 2-D tensor `features`, or a .npy file.

    A safetensors file may say in its header, as `network`, the SHA-256 of the network's weights.

    Raises:
        SingError: for anything else. Pickled arrays are not read: they can run code.
    """
    path = Path(path)
    if path.is_dir():
        store = FeatureStore.open(path)
        index = store.index[["path", "label"]]
        return FeatureRows(path, lambda: store.batches("features"), index, store.network)
    try:
        if path.suffix == ".npy":
            array = np.load(path, mmap_mode="r", allow_pickle=False)
            _require_matrix(path, array.shape)
            return FeatureRows(path, lambda: (array[i : i + _ROWS].copy() for i in _starts(len(array))))
        if path.suffix == ".safetensors":
            with safe_open(path, "pt") as tensors:
                _require_matrix(path, tuple(tensors.get_slice("features").get_shape()))
                network = (tensors.metadata() or {}).get("network", "")
            return FeatureRows(path, lambda: _slices(path), network=network)
    except SingError:
        raise
    except (OSError, ValueError, EOFError, SafetensorError) as error:
        reason = " ".join(str(error).split())[:100]
        raise SingError(
            f"{path} holds no features ({reason}), expected a 2-D array of numbers, (N, m), in .npy, or "
            "named `features` in .safetensors."
        ) from None
    raise SingError(
        f"{path} is no folder, .npy or .safetensors file, expected a feature store (`sing extract` makes "
        "one) or such a file."
    )


def _starts(n: int) -> range:
    return range(0, n, _ROWS)


def _slices(path: Path) -> Iterator[Tensor]:
    with safe_open(path, "pt") as tensors:
        part = tensors.get_slice("features")
        for start in _starts(part.get_shape()[0]):
            yield part[start : start + _ROWS]


def _require_matrix(path: Path, shape: tuple[int, ...]) -> None:
    if len(shape) != 2:
        raise SingError(f"{path} holds features of shape {tuple(shape)}, expected (N, m): one row a picture.")


def read_embeddings(path: str | Path) -> dict[str, Tensor]:
    """Embeddings of texts: a safetensors file with `embeddings` (K, n), and `texts` in its header.

    `texts` is a JSON list of K different texts; without it they are called "text 0" and so on.
    `save_embeddings` writes such a file.

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


def save_embeddings(path: str | Path, texts: Mapping[str, Tensor]) -> None:
    """Write embeddings (n,) of texts as `read_embeddings` reads them."""
    header = {"texts": json.dumps(list(texts))}
    save_file({"embeddings": torch.stack(list(texts.values()))}, path, metadata=header)


class Sink:
    """Parquet files that grow piece by piece, and appear when the stack closes without an error."""

    def __init__(self, folder: Path, stack: contextlib.ExitStack) -> None:
        self.folder, self.stack = folder, stack
        self.writers: dict[str, Any] = {}
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise SingError(f"cannot make the folder {folder} ({error.strerror}): choose another.") from None

    def add(self, name: str, frame: pd.DataFrame) -> None:
        """Append rows to NAME.parquet."""
        table = pa.Table.from_pandas(frame, preserve_index=False)
        if name not in self.writers:
            file = self.stack.enter_context(written(self.folder / f"{name}.parquet"))
            self.writers[name] = self.stack.enter_context(pq.ParquetWriter(file, table.schema))
        self.writers[name].write_table(table)
