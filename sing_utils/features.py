"""The feature store: sharded, resumable, checksummed; and extraction into it.

A store is a folder:

    manifest.json            what was extracted, by what, the checksums; written last
    index.parquet            one row a picture: path, label, split, sha256
    rejects.parquet          pictures that could not be read, with the reason
    shard-00000.safetensors  named tensors (rows, d) of consecutive pictures

A shard is written to a temporary name, synced and renamed, and carries the key of its
extraction, so that an interrupted run resumes after its last whole shard.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import pandas as pd
import torch
from PIL import Image, ImageOps
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor
from torch.utils.data import DataLoader, Dataset
from tqdm import tqdm

from sing_utils.errors import SingError

FORMAT = 1
SUFFIXES = {".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff"}
SPLITS = {"train", "val", "valid", "validation", "test", "fit", "evaluate"}
DTYPES = {"float32": torch.float32, "float16": torch.float16, "uint8": torch.uint8}


class Extractor(Protocol):
    """What `extract` needs of a model: a classifier's features or an encoder's embeddings."""

    @property
    def identity(self) -> dict[str, str]:
        """Name, weights' checksum and transform: what the numbers depend on."""
        ...

    def prepare(self, image: Image.Image) -> Any:
        """One picture as tensors that can be stacked."""
        ...

    def compute(self, batch: Any) -> dict[str, Tensor]:
        """A batch of prepared pictures -> named tensors, (B, d) each."""
        ...


# ------------------------------------------------------------------------- reading a store


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
        store = cls(path, manifest)
        store._verify("index.parquet", manifest["index_sha256"])
        return store

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

    def _verify(self, file: str, sha256: str) -> Path:
        path = self.path / file
        digest = _sha256(path) if path.is_file() else "no file"
        if digest != sha256:
            raise SingError(
                f"{path} has SHA-256 {digest[:12]}, expected {sha256[:12]}: the file was changed or "
                "cut short; delete it and run `sing extract` again with the same arguments."
            )
        return path


# ------------------------------------------------------------------------- finding pictures


def list_pictures(folder: str | Path) -> pd.DataFrame:
    """Pictures below a folder, sorted: path (relative), label, split.

    Understood layouts: SPLIT/CLASS/picture, CLASS/picture, and a flat folder (label "").
    SPLIT is one of train, val, valid, validation, test, fit, evaluate; else split is "".

    Raises:
        SingError: if the folder does not exist or holds no picture.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise SingError(f"{folder} is not a folder, expected a folder of pictures: check the path.")
    rows = []
    for file in sorted(p for p in folder.rglob("*") if p.suffix.lower() in SUFFIXES and p.is_file()):
        parts = file.relative_to(folder).parts
        split = parts[0] if len(parts) > 1 and parts[0] in SPLITS else ""
        inner = parts[1:-1] if split else parts[:-1]
        rows.append(("/".join(parts), inner[0] if inner else "", split))
    if not rows:
        raise SingError(
            f"{folder} holds no picture, expected files ending in {', '.join(sorted(SUFFIXES))}, "
            "flat or in one folder a class."
        )
    return pd.DataFrame(rows, columns=["path", "label", "split"])


def read_picture(path: str | Path) -> Image.Image:
    """A picture as a person would see it: first frame, upright, RGB."""
    with Image.open(path) as image:
        upright = ImageOps.exif_transpose(image)
        if upright.mode.startswith("I;16"):  # Pillow would cut it off at 255, not scale it
            upright = Image.fromarray((np.asarray(upright) // 257).astype(np.uint8))
        return upright.convert("RGB")


class _Pictures(Dataset[Any]):
    """Decoded and prepared pictures; one that can't be read is its reason instead."""

    def __init__(self, folder: Path, paths: list[str], prepare: Callable[[Image.Image], Any]) -> None:
        self.folder, self.paths, self.prepare = folder, paths, prepare

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, i: int) -> tuple[str, str, Any]:
        path = self.folder / self.paths[i]
        try:
            return _sha256(path), "", self.prepare(read_picture(path))
        except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
            reason = " ".join(str(error).replace(str(self.folder), "").split())
            return "", f"{type(error).__name__}: {reason}", None


def _collate(items: list[tuple[str, str, Any]]) -> tuple[list[str], list[str], Any]:
    hashes, reasons, prepared = zip(*items, strict=True)
    good = [p for p in prepared if p is not None]
    batch = torch.utils.data.default_collate(good) if good else None
    return list(hashes), list(reasons), batch


# ------------------------------------------------------------------------- extracting


def extract(
    extractor: Extractor,
    folder: str | Path,
    out: str | Path,
    *,
    dtype: str = "float32",
    batch_size: int = 32,
    shard_rows: int = 1024,
    workers: int = 1,
    progress: bool = True,
) -> FeatureStore:
    """Run `extractor` over every picture below `folder` and keep the results in `out`.

    A call with the same arguments resumes after the last whole shard; a finished store is
    opened and nothing is computed.

    Args:
        extractor: a model; see `Extractor`.
        folder: pictures, laid out as `list_pictures` says.
        out: folder of the store; made if needed.
        dtype: how tensors are stored: "float32", "float16", or "uint8" (256 levels a column and
            shard, between that column's extremes).
        batch_size: pictures a forward pass.
        shard_rows: pictures a shard.
        workers: processes that decode pictures; 0 decodes in this one.
        progress: show a progress bar with rate and time left.

    Raises:
        SingError: for an empty folder, no readable picture, an unwritable `out`, or an `out` that
            holds another extraction.
    """
    if dtype not in DTYPES:
        raise SingError(f"dtype {dtype!r} is unknown, expected one of {', '.join(DTYPES)}.")
    folder, out = Path(folder), Path(out)
    pictures = list_pictures(folder)
    key = _key(extractor, pictures, dtype, shard_rows)
    _make_writable(out)
    if (out / "manifest.json").exists():
        return _finished(out, key)

    starts = range(0, len(pictures), shard_rows)
    files = [out / f"shard-{i:05d}.safetensors" for i in range(len(starts))]
    done = [_shard_record(file, key) is not None for file in files]
    todo = [p for s, d in zip(starts, done, strict=True) if not d for p in pictures.path[s : s + shard_rows]]
    with tqdm(total=len(todo), unit="picture", disable=not progress, desc="extract") as bar:
        for start, file, have in zip(starts, files, done, strict=True):
            if not have:
                paths = pictures.path[start : start + shard_rows].tolist()
                data = _compute_shard(extractor, folder, paths, key, dtype, batch_size, workers, bar)
                _write(file, data)
    return _finish(out, key, extractor, pictures, files, dtype)


def derive(
    stores: Sequence[FeatureStore],
    out: str | Path,
    *,
    identity: dict[str, str] | None = None,
    compute: Callable[[dict[str, Tensor]], dict[str, Tensor]] | None = None,
    dtype: str = "float32",
) -> FeatureStore:
    """Write a store computed from others of the same pictures, without decoding them again.

    Args:
        stores: of the same pictures in the same shards.
        out: folder of the new store; must not hold one.
        identity: of what `compute` does; None: the first store's, for another dtype.
        compute: {extractor name: (rows, d)} -> named tensors; None: the first store's own.
        dtype: as in `extract`.

    Raises:
        SingError: if the stores do not belong together, or `out` holds a store.
    """
    first, out = stores[0], Path(out)
    if any(s.manifest["index_sha256"] != first.manifest["index_sha256"] for s in stores):
        raise SingError("the stores hold different pictures, expected the same: extract them again.")
    _make_writable(out)
    if (out / "manifest.json").exists():
        raise SingError(f"{out} holds a store already, expected a new folder: delete it or choose another.")
    identity = identity or first.manifest["extractor"]
    key = hashlib.sha256(json.dumps([s.manifest["key"] for s in stores] + [identity, dtype]).encode())
    names = [next(iter(s.names)) for s in stores]
    files = []
    for i, parts in enumerate(zip(*(s.batches(n) for s, n in zip(stores, names, strict=True)), strict=True)):
        given = {s.manifest["extractor"]["name"]: x for s, x in zip(stores, parts, strict=True)}
        values = compute(given) if compute else {names[0]: parts[0]}
        tensors: dict[str, Tensor] = {}
        for name, value in values.items():
            tensors |= _pack(name, value, dtype)
        files.append(out / f"shard-{i:05d}.safetensors")
        _write(files[-1], save(tensors, {"key": key.hexdigest()}))
    for name in ("index.parquet", "rejects.parquet"):
        _write(out / name, (first.path / name).read_bytes())
    _write_manifest(out, key.hexdigest(), identity, dtype, len(first), len(first.rejects), files)
    return FeatureStore.open(out)


def _compute_shard(
    extractor: Extractor,
    folder: Path,
    paths: list[str],
    key: str,
    dtype: str,
    batch_size: int,
    workers: int,
    bar: Any,
) -> bytes:
    loader: DataLoader[Any] = DataLoader(
        _Pictures(folder, paths, extractor.prepare),
        batch_size=batch_size,
        num_workers=min(workers, -(-len(paths) // batch_size)),
        collate_fn=_collate,
    )
    chunks: dict[str, list[Tensor]] = {}
    hashes: list[str] = []
    reasons: list[str] = []
    for batch_hashes, batch_reasons, batch in loader:
        if batch is not None:
            for name, value in extractor.compute(batch).items():
                chunks.setdefault(name, []).append(value.to(torch.float32).cpu())
        hashes += batch_hashes
        reasons += batch_reasons
        bar.update(len(batch_hashes))
    tensors: dict[str, Tensor] = {}
    for name, values in chunks.items():
        tensors |= _pack(name, torch.cat(values), dtype)
    # safetensors wants at least one tensor; a shard of rejects alone has none otherwise.
    tensors["kept"] = torch.tensor([not r for r in reasons])
    # One entry, because safetensors writes several in an order that changes from call to call.
    return save(tensors, {"record": json.dumps({"key": key, "hashes": hashes, "reasons": reasons})})


def _pack(name: str, x: Tensor, dtype: str) -> dict[str, Tensor]:
    if dtype != "uint8":
        return {name: x.to(DTYPES[dtype])}
    low, high = x.amin(0), x.amax(0)  # (d,)
    scale = ((high - low) / 255).clamp_min(torch.finfo(torch.float32).tiny)
    levels = ((x - low) / scale).round().clamp(0, 255).to(torch.uint8)
    return {name: levels, f"{name}.scale": scale, f"{name}.low": low}


def _finish(
    out: Path,
    key: str,
    extractor: Extractor,
    pictures: pd.DataFrame,
    files: list[Path],
    dtype: str,
) -> FeatureStore:
    records = [_shard_record(file, key) for file in files]
    hashes = [h for r in records if r for h in r["hashes"]]
    reasons = [x for r in records if r for x in r["reasons"]]
    kept = [not r for r in reasons]
    if not any(kept):
        for file in files:  # else a second try, with mended pictures, would keep these
            file.unlink()
        raise SingError(
            f"none of {len(pictures)} pictures could be read, expected at least one; "
            f"the first: {pictures.path[0]}: {reasons[0]}."
        )
    index = pictures.assign(sha256=hashes)[kept]
    rejects = pd.DataFrame({"path": pictures.path, "reason": reasons})[[not k for k in kept]]
    _write(out / "index.parquet", index.to_parquet(index=False))
    _write(out / "rejects.parquet", rejects.to_parquet(index=False))
    _write_manifest(out, key, extractor.identity, dtype, len(index), len(rejects), files)
    return FeatureStore.open(out)


def _write_manifest(
    out: Path,
    key: str,
    identity: dict[str, str],
    dtype: str,
    rows: int,
    rejected: int,
    files: list[Path],
) -> None:
    manifest = {
        "format": FORMAT,
        "key": key,
        "extractor": identity,
        "tensors": sorted({k for f in files for k in _tensor_names(f)}),
        "dtype": dtype,
        "rows": rows,
        "rejected": rejected,
        "index_sha256": _sha256(out / "index.parquet"),
        "shards": [{"file": f.name, "sha256": _sha256(f)} for f in files],
    }
    _write(out / "manifest.json", json.dumps(manifest, indent=1).encode())


def _finished(out: Path, key: str) -> FeatureStore:
    store = FeatureStore.open(out)
    if store.manifest["key"] != key:
        raise SingError(
            f"{out} holds an extraction of {store.manifest['extractor']['name']} with other pictures, "
            "weights or settings, expected this one: choose another --out, or delete that folder."
        )
    for shard in store.manifest["shards"]:
        store._verify(shard["file"], shard["sha256"])
    return store


def _key(extractor: Extractor, pictures: pd.DataFrame, dtype: str, shard_rows: int) -> str:
    what = [FORMAT, extractor.identity, dtype, shard_rows, pictures.to_csv(index=False)]
    return hashlib.sha256(json.dumps(what, sort_keys=True).encode()).hexdigest()


def _shard_record(file: Path, key: str) -> dict[str, Any] | None:
    """Key, hashes and reasons of a whole shard of this extraction, else None."""
    try:
        with safe_open(file, "pt") as tensors:
            record = json.loads((tensors.metadata() or {}).get("record", "{}"))
    except (FileNotFoundError, SafetensorError, ValueError):
        return None
    return record if record.get("key") == key else None


def _tensor_names(file: Path) -> list[str]:
    with safe_open(file, "pt") as tensors:
        return [k for k in tensors.keys() if "." not in k and k != "kept"]  # noqa: SIM118


def _make_writable(out: Path) -> None:
    try:
        out.mkdir(parents=True, exist_ok=True)
        probe = out / ".writable"
        probe.touch()
        probe.unlink()
    except OSError as error:
        raise SingError(
            f"cannot write to {out} ({error.strerror}), expected a writable folder: choose another."
        ) from None


def _write(path: Path, data: bytes) -> None:
    """All of the file or nothing: temporary name, sync, rename."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with open(temporary, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except OSError as error:
        temporary.unlink(missing_ok=True)
        raise SingError(
            f"cannot write {path} ({error.strerror}): free some space or choose another."
        ) from None


def _sha256(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
