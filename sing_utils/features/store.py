"""The feature store: sharded, checksummed, read a shard at a time.

A store is a folder:

    manifest.json            what was extracted, by what, the checksums; written last
    index.parquet            one row a picture: path, label, split, sha256
    rejects.parquet          pictures that could not be read, with the reason
    shard-00000.safetensors  named tensors (rows, d) of consecutive pictures

A shard is written to a temporary name, synced and renamed, and carries the key of its
extraction, so that an interrupted run resumes after its last whole shard (`sing_utils.features.extraction`).
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import cached_property
from itertools import islice, repeat
from pathlib import Path
from types import MappingProxyType
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from safetensors import safe_open
from safetensors.torch import save
from torch import Tensor

from sing_utils.errors import SingError
from sing_utils.features.digests import digest_file, digest_files
from sing_utils.features.shards import FORMAT, pack, require_dtype, shard_name, tensor_names
from sing_utils.files import locked, write_bytes, written
from sing_utils.method.arrays import as_tensor, require_finite
from sing_utils.sources.folders import clean_split, label_text

_INDEX = ("path", "label", "split", "sha256")
_REJECTS = ("path", "reason")
_ROW_GROUP = 8192  # rows of a table that are in memory at one time


@dataclass(frozen=True)
class FeatureStore:
    """An extracted store, opened with `FeatureStore.open`; shards are verified before use."""

    path: Path
    manifest: dict[str, Any]

    @classmethod
    def open(cls, path: str | Path) -> FeatureStore:
        """Open a store and check that its manifest and index belong together.

        Raises:
            SingError: if there is no complete store, or the index was changed.
        """
        path = Path(path)
        manifest = read_manifest(path)
        store = cls(path, manifest)
        store._verify("index.parquet", manifest["index_sha256"])
        return store

    @classmethod
    def from_arrays(
        cls,
        out: str | Path,
        arrays: Any,
        index: pd.DataFrame,
        *,
        name: str,
        dtype: str = "float32",
        shard_rows: int = 1024,
        identity: Mapping[str, str] = MappingProxyType({}),
    ) -> FeatureStore:
        """Write a store of what was computed elsewhere, for `sing fit`, `sing run` and `sing analyze`.

        Args:
            out: folder of the new store; must not hold one.
            arrays: features of a classifier, (N, m); or tensor's name -> (N, d), such as {"embeddings": z}
                of an encoder. Arrays of a memory-mapped file are read a shard at a time.
            index: N rows: path, each once; where known label, split and sha256 (of the picture). Two stores
                are of the same pictures if their rows have the same sha256; without it the path stands in.
            name: of the model that computed them; the tower's, if it was fine-tuned from an encoder's tower,
                since no encoder may judge its own network.
            dtype: as in `extract`.
            shard_rows: rows a shard.
            identity: what else is known of the model, as `Extractor.identity` says it.

        Raises:
            SingError: for arrays that are not (N, d) and finite, an index of other rows, or an unwritable
                `out`, or one that holds a store.

        >>> import tempfile
        >>> rows = pd.DataFrame({"path": ["a.png", "b.png"], "label": ["cat", "dog"]})
        >>> store = FeatureStore.from_arrays(tempfile.mkdtemp(), torch.eye(2), rows, name="mine")
        >>> store.names, store.read("features").shape, store.index["label"].tolist()
        (['features'], torch.Size([2, 2]), ['cat', 'dog'])
        """
        out, tensors = Path(out), arrays if isinstance(arrays, Mapping) else {"features": arrays}
        index = _rows_of(index)
        for key, x in tensors.items():
            if len(x.shape) != 2 or len(x) != len(index) or 0 in x.shape:
                raise SingError(
                    f"{key} has shape {tuple(x.shape)} for {len(index)} rows of the index, expected (N, d), "
                    "one row each: give the table that belongs to it."
                )
        require_dtype(dtype)
        if (out / "manifest.json").exists():
            raise SingError(
                f"{out} holds a store already, expected a new folder: delete it or choose another."
            )
        with locked(out):
            files: list[Path] = []
            for start in range(0, len(index), shard_rows):
                packed: dict[str, Tensor] = {}
                for key, x in tensors.items():
                    part = as_tensor(x[start : start + shard_rows], name=key).detach().to(torch.float32)
                    require_finite(part, name=f"{key}, rows {start} to {start + len(part) - 1},")
                    packed |= pack(key, part, dtype)
                files.append(out / shard_name(len(files)))
                write_bytes(files[-1], save(packed))
            write_tables(out, index, iter(index["sha256"]), repeat(""))
            identity = {"library": "from arrays", **identity, "name": name}
            digests = [digest_file(file).hex() for file in (out / "index.parquet", *files)]
            write_manifest(
                out,
                key=hashlib.sha256(json.dumps([identity, dtype, digests]).encode()).hexdigest(),
                identity=identity,
                dtype=dtype,
                rows=len(index),
                rejected=0,
                files=files,
            )
        return cls.open(out)

    @property
    def network(self) -> str:
        """SHA-256 of the weights of the network that it was extracted with; "" if it does not say."""
        return str(self.manifest["extractor"].get("weights", ""))

    @property
    def unsaid(self) -> str:
        """What to know of features that do not say which network made them; "" of others."""
        if self.network or "features" not in self.names:
            return ""
        return (
            f"{self.path} does not say which network made it (called "
            f"{self.manifest['extractor'].get('name')!r}): it is compared with the encoder's towers, but if "
            "it was fine-tuned from one, say so: `sing pack --name`, such as efficientnet_lite0."
        )

    @cached_property
    def index(self) -> pd.DataFrame:
        """path, label, split, sha256: one row a picture, in the order of the tensors."""
        return pd.read_parquet(self.path / "index.parquet")

    @cached_property
    def rejects(self) -> pd.DataFrame:
        """path, reason: pictures that could not be read."""
        return pd.read_parquet(self.path / "rejects.parquet")

    def __len__(self) -> int:
        return int(self.manifest["rows"])

    @property
    def names(self) -> list[str]:
        """Names of the tensors that can be read."""
        return list(self.manifest["tensors"])

    def width(self, name: str) -> int:
        """Columns of the tensor `name`."""
        return next(self.batches(name)).shape[1]

    def batches(self, name: str) -> Iterator[Tensor]:
        """Yield the tensor `name` shard by shard, (rows, d) float32, so memory stays bounded."""
        if name not in self.names:
            raise SingError(f"{self.path} holds {', '.join(self.names)}, not {name!r}: extract that first.")
        for shard in self.manifest["shards"]:
            file = self._verify(shard["file"], shard["sha256"])
            with safe_open(file, "pt") as tensors:
                if name not in tensors.keys():  # noqa: SIM118  (not a dict)
                    continue  # no picture of this shard could be read
                x = tensors.get_tensor(name)
                if x.dtype == torch.uint8:
                    x = x * tensors.get_tensor(f"{name}.scale") + tensors.get_tensor(f"{name}.low")
                yield x.to(torch.float32)

    def read(self, name: str) -> Tensor:
        """The whole tensor `name`, (N, d) float32, one row per row of `index`."""
        return torch.cat(list(self.batches(name)))

    def is_whole(self) -> bool:
        """Whether every file is as it was written; files that did not change are not read again."""
        expected = {"index.parquet": self.manifest["index_sha256"]}
        expected |= {s["file"]: s["sha256"] for s in self.manifest["shards"]}
        if "rejects_sha256" in self.manifest:
            expected["rejects.parquet"] = self.manifest["rejects_sha256"]
        found = digest_files(self.path / name for name in expected)
        return all(a.hex() == b for a, b in zip(found, expected.values(), strict=True))

    def _verify(self, file: str, sha256: str) -> Path:
        path = self.path / file
        digest = digest_file(path).hex() or "no file"
        if digest != sha256:
            raise SingError(
                f"{path} has SHA-256 {digest[:12]}, expected {sha256[:12]}: the file was changed or "
                "cut short; run `sing extract` again with the same arguments, it is made anew."
            )
        return path


def feature_cache(root: Path) -> Path:
    """Where runs keep extracted stores, shared by all: `SING_FEATURES_DIR`, else `_build/features`."""
    return Path(os.environ.get("SING_FEATURES_DIR") or root / "_build" / "features")


def open_stored(folder: Path, *names: str) -> FeatureStore:
    """The store in a folder of stores that has the first of these names that is there.

    Raises:
        SingError: if there is none, or it is not complete.
    """
    found = next((name for name in names if (folder / name / "manifest.json").exists()), names[0])
    return FeatureStore.open(folder / found)


def require_one_network(parts: Mapping[str, str]) -> list[str]:
    """Refuse to combine what comes of different networks, whose widths may well be the same.

    Args:
        parts: a name for people -> SHA-256 of the weights of the network it was made with; "" where it does
            not say.

    Returns:
        Those that don't say, if there are others to compare with.

    >>> require_one_network({"the head": "ab", "the features": "ab", "the translator": ""})
    ['the translator']
    """
    known = {part: sha for part, sha in parts.items() if sha}
    if len(set(known.values())) > 1:
        (one, a), (other, b) = next((x, y) for x in known.items() for y in known.items() if x[1] != y[1])
        raise SingError(
            f"{one} is of the network {a[:12]}… (SHA-256 of its weights) and {other} of {b[:12]}…, expected "
            "one network: its head, its features, and a translator that was fitted on them belong together."
        )
    return [part for part in parts if part not in known]


def read_manifest(path: Path) -> dict[str, Any]:
    """The manifest of a finished store.

    Raises:
        SingError: if there is none, it is damaged, or of another format.
    """
    try:
        manifest = json.loads((path / "manifest.json").read_text())
        assert isinstance(manifest["shards"], list)
        assert {"key", "extractor", "tensors", "rows", "index_sha256"} <= manifest.keys()
    except FileNotFoundError:
        raise SingError(
            f"{path} holds no manifest.json, expected a finished feature store: "
            "run `sing extract` again with the same arguments, it resumes."
        ) from None
    except (ValueError, KeyError, TypeError, AssertionError):
        raise SingError(
            f"{path / 'manifest.json'} is damaged, expected a feature store's manifest: "
            "delete it and run `sing extract` again with the same arguments."
        ) from None
    if manifest.get("format") != FORMAT:
        raise SingError(
            f"{path} has store format {manifest.get('format')}, expected {FORMAT}: extract it anew."
        )
    return manifest


def write_manifest(
    out: Path,
    *,
    key: str,
    identity: dict[str, str],
    dtype: str,
    rows: int,
    rejected: int,
    files: Sequence[Path],
    **more: Any,
) -> None:
    """Finish a store: the manifest is written when all other files are there.

    Raises:
        SingError: if the disk is full.
    """
    names = {name for file in files for name in tensor_names(file)}
    tables = [digest_file(out / name).hex() for name in ("index.parquet", "rejects.parquet")]
    manifest = {
        "format": FORMAT,
        "key": key,
        "extractor": identity,
        "tensors": sorted(names),
        "dtype": dtype,
        "rows": rows,
        "rejected": rejected,
        "index_sha256": tables[0],
        "rejects_sha256": tables[1],
        "shards": [{"file": f.name, "sha256": digest_file(f).hex()} for f in files],
        **more,
    }
    write_bytes(out / "manifest.json", json.dumps(manifest, indent=1).encode())


def write_tables(out: Path, index: pd.DataFrame, hashes: Iterator[str], reasons: Iterator[str]) -> None:
    """index.parquet and rejects.parquet, some rows at a time.

    Args:
        out: folder of the store.
        index: path, label, split of each picture.
        hashes: SHA-256 of each.
        reasons: why it could not be read; "" if it could.

    Raises:
        SingError: if the disk is full.
    """
    with _table(out / "index.parquet", _INDEX) as good, _table(out / "rejects.parquet", _REJECTS) as bad:
        for start in range(0, len(index), _ROW_GROUP):
            rows = index.iloc[start : start + _ROW_GROUP].astype("str")
            rows["sha256"] = list(islice(hashes, len(rows)))
            rows["reason"] = list(islice(reasons, len(rows)))
            good(rows[rows["reason"] == ""])
            bad(rows[rows["reason"] != ""])


@contextmanager
def _table(path: Path, columns: Sequence[str]) -> Iterator[Callable[[pd.DataFrame], None]]:
    """A function that appends rows to a Parquet file, which appears when all are there."""
    schema = pa.schema([(name, pa.large_string()) for name in columns])
    with written(path) as file:
        writer = pq.ParquetWriter(file, schema)

        def append(rows: pd.DataFrame) -> None:
            if len(rows):
                writer.write_table(pa.Table.from_pandas(rows[list(columns)], schema, preserve_index=False))

        try:
            yield append
        except BaseException:
            with suppress(OSError):  # it would like to finish the file, later
                writer.close()
            raise
        writer.close()


def _rows_of(index: pd.DataFrame) -> pd.DataFrame:
    """path, label, split, sha256 as text; empty if unknown, but a picture is then known by its path."""
    if "path" not in index or index["path"].isna().any() or index["path"].duplicated().any():
        raise SingError(
            f"the index has the columns {', '.join(map(str, index))}, expected `path` among them, different "
            "in each row: name what each row shows."
        )
    rows = pd.DataFrame({"path": index["path"].astype(str)})
    for key, clean in (("label", label_text), ("split", lambda x: clean_split(label_text(x)))):
        rows[key] = [clean(x) for x in index[key]] if key in index else ""
    by_path = [hashlib.sha256(path.encode()).hexdigest() for path in rows["path"]]
    rows["sha256"] = index["sha256"].astype(str) if "sha256" in index else by_path
    return rows.reset_index(drop=True)
