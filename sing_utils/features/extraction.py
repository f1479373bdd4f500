"""Extraction: a model over pictures, into a feature store that survives whatever happens to the run.

>>> import tempfile
>>> from PIL import Image
>>> class Red:
...     identity = {"name": "red"}
...     def prepare(self, image):
...         return torch.tensor(image.getpixel((0, 0)))  # (3,)
...     def compute(self, batch):
...         return {"features": batch[:, :1] / 255}  # (B, 1)
>>> folder = Path(tempfile.mkdtemp())
>>> Image.new("RGB", (2, 2), "red").save(folder / "a.png")
>>> store = extract(Red(), folder, folder / "store", workers=0, progress=False)
>>> store.read("features")
tensor([[1.]])

Shards are written the moment they are whole, the manifest last. A run that ended early resumes after
its last whole shard and ends with the bytes that an undisturbed one would have written.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import platform
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from sing_utils.errors import SingError
from sing_utils.features.batches import Batch, BatchResult, Engine, Extractor, plan
from sing_utils.features.digests import digest_files
from sing_utils.features.engine import Compute, fitting_batch_size, local_engine
from sing_utils.features.shards import (
    FORMAT,
    Record,
    is_whole,
    pack,
    read_record,
    require_dtype,
    shard_name,
    write_shard,
)
from sing_utils.features.store import FeatureStore, read_manifest, write_manifest, write_tables
from sing_utils.files import locked, write_bytes
from sing_utils.sources.by_name import open_source
from sing_utils.sources.decoding import DECODING
from sing_utils.sources.folders import PictureSource

_BEGUN = "begun.json"  # which extraction, in batches of how many; gone when the store is finished
_CHUNK = 8192  # rows of a table that are in memory at one time


@dataclass(frozen=True, kw_only=True)
class Options:
    """How `extract` and `extract_cached` work.

    Attributes:
        dtype: how tensors are stored: "float32", "float16", or "uint8" (256 levels a column and
            shard, between that column's extremes).
        batch_size: pictures a forward pass; None: that of the begun store, else 32 on a CPU and as
            many as fit on a GPU. It may change the last bits of the results.
        shard_rows: pictures a shard.
        workers: processes that decode pictures; 0 decodes in this one; None: one a core, less one.
        precision: of the model's products: "auto" (float32 on a CPU, 16 bits on a GPU), "float32",
            "bfloat16" or "float16".
        device: kind of device on which the engine computes, "cpu" or "cuda"; None: the extractor's.
        progress: show a progress bar with rate and time left.
        engine: what computes; None: `local_engine`. See `sing_utils.features.on_ray` for many machines.
    """

    dtype: str = "float32"
    batch_size: int | None = None
    shard_rows: int = 1024
    workers: int | None = None
    precision: str = "auto"
    device: str | None = None
    progress: bool = True
    engine: Engine | None = None


def extract(
    extractor: Extractor, source: PictureSource | str | Path, out: str | Path, **options: Any
) -> FeatureStore:
    """Run `extractor` over every picture of `source` and keep the results in `out`.

    A call with the same arguments resumes after the last whole shard, and mends a damaged one; a
    finished store is opened and nothing is computed. Two processes may do so at the same time: one
    waits for the other.

    Args:
        extractor: a model; see `Extractor`.
        source: pictures, or what `open_source` understands.
        out: folder of the store; made if needed.
        **options: see `Options`.

    Raises:
        SingError: for no picture, none that is readable, an unwritable `out` or a full disk, an `out`
            that holds another extraction, or pictures that change while they are read.
    """
    return _Job.of(extractor, source, Options(**options)).run(Path(out))


def extract_cached(
    extractor: Extractor, source: PictureSource | str | Path, root: str | Path, **options: Any
) -> FeatureStore:
    """As `extract`, in a folder of `root` that is named after the model and all that counts.

    So whatever changes (weights, transform, pictures, dtype, libraries), the result is in another
    folder; and what did not change is found at once.
    """
    job = _Job.of(extractor, source, Options(**options))
    name = re.sub(r"[^A-Za-z0-9_.-]+", "-", extractor.identity["name"]).strip("-.")[:60] or "model"
    return job.run(Path(root) / f"{name}-{job.key[:16]}")


# ---------------------------------------------------------------------------------- one extraction


@dataclass(frozen=True, eq=False)
class _Job:
    """What is computed and how, apart from where it goes."""

    extractor: Extractor
    source: PictureSource
    options: Options
    compute: Compute
    content: Content
    made: dict[str, Any]
    key: str

    @classmethod
    def of(cls, extractor: Extractor, source: PictureSource | str | Path, options: Options) -> _Job:
        require_dtype(options.dtype)
        if isinstance(source, str | Path):
            source = open_source(source)
        compute = Compute.of(extractor, options.precision, device=options.device)
        content = Content.of(source, progress=options.progress)
        made = {
            "format": FORMAT,
            "decoding": DECODING,
            "extractor": extractor.identity,
            "list of pictures": _list_digest(source),
            "content of pictures": content.sha256,
            "dtype": options.dtype,
            "shard_rows": options.shard_rows,
            "compute": asdict(compute),
            "libraries": software(),
        }
        key = hashlib.sha256(json.dumps(made, sort_keys=True).encode()).hexdigest()
        return cls(extractor, source, options, compute, content, made, key)

    @property
    def shards(self) -> list[str]:
        """File names of all shards."""
        return [shard_name(i) for i in range(-(-len(self.source) // self.options.shard_rows))]

    def run(self, out: Path) -> FeatureStore:
        """The finished store, computing what is missing."""
        if store := self._finished(out):
            return store
        with locked(out):
            if store := self._finished(out):  # by the process that was waited for
                return store
            size = self.options.batch_size or self._begun_batch_size(out)
            size = size or fitting_batch_size(self.extractor, self.compute)
            write_bytes(out / _BEGUN, json.dumps({"key": self.key, "batch_size": size}).encode())
            (out / "manifest.json").unlink(missing_ok=True)  # of a damaged store, which is begun anew
            try:
                self._compute_missing(out, size)
            except SingError:
                if not any((out / name).exists() for name in self.shards):
                    (out / _BEGUN).unlink(missing_ok=True)  # so that other settings can begin here
                raise
            self._finish(out, size)
            (out / _BEGUN).unlink(missing_ok=True)
            return FeatureStore.open(out)

    def _finished(self, out: Path) -> FeatureStore | None:
        """A whole store of this extraction; None if there is none, or a damaged one."""
        if not (out / "manifest.json").exists():
            self._require_own_beginning(out)
            return None
        store = FeatureStore(out, read_manifest(out))
        if store.manifest["key"] != self.key:
            then = store.manifest.get("made_of", {})
            differ = [name for name in {**self.made, **then} if self.made.get(name) != then.get(name)]
            raise SingError(
                f"{out} holds an extraction of {store.manifest['extractor']['name']} with other pictures, "
                f"weights or settings (another {', '.join(differ)}), expected this one: choose another "
                "--out, or delete that folder."
            )
        if not store.is_whole():
            return None
        with contextlib.suppress(OSError):  # of a run that was killed after its very last write
            (out / _BEGUN).unlink(missing_ok=True)
        return store

    def _require_own_beginning(self, out: Path) -> None:
        """What another extraction began is not taken over without a word."""
        if _noted(out / _BEGUN).get("key", self.key) != self.key:
            raise SingError(
                f"{out} holds the beginning of another extraction (other pictures, weights or settings), "
                "expected this one's: choose another --out, or delete that folder."
            )

    def _begun_batch_size(self, out: Path) -> int | None:
        """That of an earlier run of this extraction, so that resuming gives the same bytes."""
        noted = (_noted(out / file) for file in (_BEGUN, "manifest.json"))
        return next((x.get("batch_size") for x in noted if x.get("key") == self.key), None)

    # --- computing ------------------------------------------------------------------------

    def _compute_missing(self, out: Path, batch_size: int) -> None:
        missing = {i for i, name in enumerate(self.shards) if not is_whole(out / name, self.key)}
        shard_rows, total = self.options.shard_rows, len(self.source)
        batches = plan(total, shard_rows=shard_rows, batch_size=batch_size, shards=missing)
        if not batches:
            return
        local = partial(local_engine, workers=self.options.workers, compute=self.compute)
        engine, waiting = self.options.engine or local, Waiting(batches)
        done, quiet = total - sum(len(b.rows) for b in batches), not self.options.progress
        with tqdm(total=total, initial=done, unit="picture", disable=quiet, desc="extract") as bar:
            for result in engine(self.extractor, self.source, batches):
                bar.update(len(result.batch.rows))
                if parts := waiting.add(result):
                    self._write(out, parts)
        waiting.require_none_left()

    def _write(self, out: Path, parts: list[BatchResult]) -> None:
        hashes, reasons = [h for p in parts for h in p.hashes], [r for p in parts for r in p.reasons]
        tensors: dict[str, Tensor] = {}
        for name in sorted({n for p in parts for n in p.tensors}):
            tensors |= pack(
                name, torch.cat([p.tensors[name] for p in parts if p.tensors]), self.options.dtype
            )
        write_shard(out / shard_name(parts[0].batch.shard), tensors, Record(self.key, hashes, reasons))

    # --- finishing ------------------------------------------------------------------------

    def _records(self, out: Path) -> Iterator[Record]:
        for name in self.shards:
            record = read_record(out / name, self.key)
            assert record is not None  # it was whole a moment ago, and this process holds the lock
            yield record

    def _require_unchanged(self, out: Path) -> None:
        changed = self.content.changed_rows(self.source, (h for r in self._records(out) for h in r.hashes))
        if not changed:
            return
        for shard in {row // self.options.shard_rows for row in changed}:
            (out / shard_name(shard)).unlink()
        first = self.source.index["path"].array[changed[0]]
        raise SingError(
            f"{len(changed)} pictures of {self.source.name}, such as {first}, changed or could not be read "
            "while they were extracted, expected files that stay as they are: run again with the same "
            "arguments, which does those anew."
        )

    def _finish(self, out: Path, batch_size: int) -> None:
        self._require_unchanged(out)
        kept = sum(r.reasons.count("") for r in self._records(out))
        if not kept:
            first = next(self._records(out)).reasons[0]
            for name in (*self.shards, _BEGUN):
                (out / name).unlink()
            raise SingError(
                f"none of {len(self.source)} pictures could be read, expected at least one; "
                f"the first: {self.source.index['path'].array[0]}: {first}."
            )
        hashes = (h for r in self._records(out) for h in r.hashes)
        reasons = (x for r in self._records(out) for x in r.reasons)
        write_tables(out, self.source.index, hashes, reasons)
        write_manifest(
            out,
            key=self.key,
            identity=self.extractor.identity,
            dtype=self.options.dtype,
            rows=kept,
            rejected=len(self.source) - kept,
            files=[out / name for name in self.shards],
            batch_size=batch_size,
            made_of=self.made,
        )


def _noted(file: Path) -> dict[str, Any]:
    """What a small file of a store says; {} without one that is whole."""
    with contextlib.suppress(OSError, ValueError):
        if isinstance(noted := json.loads(file.read_text()), dict):
            return noted
    return {}


class Waiting:
    """Results of shards that are not whole yet."""

    def __init__(self, batches: Sequence[Batch]) -> None:
        self.left = Counter(batch.shard for batch in batches)
        self.parts: dict[int, dict[int, BatchResult]] = {}

    def add(self, result: BatchResult) -> list[BatchResult] | None:
        """Keep a result; all of its shard's, in order, if it was the last one.

        A result that came before (of a worker that was thought dead) is left out.

        Raises:
            SingError: if it has not one entry a picture.
        """
        batch = result.batch
        if not len(result.hashes) == len(result.reasons) == len(batch.rows):
            raise SingError(
                f"an engine gave {len(result.hashes)} hashes and {len(result.reasons)} reasons for "
                f"{len(batch.rows)} pictures, expected one of each a picture."
            )
        if batch.shard not in self.left:
            return None
        parts = self.parts.setdefault(batch.shard, {})
        parts.setdefault(batch.number, result)
        if len(parts) < self.left[batch.shard]:
            return None
        del self.left[batch.shard], self.parts[batch.shard]
        return [parts[number] for number in sorted(parts)]

    def require_none_left(self) -> None:
        """Raise a SingError if a shard is not whole."""
        if self.left:
            raise SingError(
                f"an engine ended without all batches of shard {min(self.left)} and {len(self.left) - 1} "
                "others: run again with the same arguments, it resumes."
            )


# -------------------------------------------------------------- what its numbers depend on: its key


def software() -> dict[str, str]:
    """Versions of what changes the numbers."""
    libraries = {name: version(name) for name in ("torch", "torchvision", "pillow")}
    return libraries | {"machine": platform.machine()}


@dataclass(frozen=True)
class Content:
    """What the files behind a source held when they were looked at.

    Attributes:
        sha256: over all of them.
        digests: (N, 32) bytes, of each picture; None where files are not pictures.
    """

    sha256: str
    digests: np.ndarray[Any, Any] | None

    @classmethod
    def of(cls, source: PictureSource, *, progress: bool = False) -> Content:
        """Look at every file, reading those that changed since they were last looked at."""
        total, digests = hashlib.sha256(), bytearray()
        count = len(source) if source.file_is_picture else None
        bar = tqdm(total=count, unit="file", desc="checksums", disable=not progress, delay=2.0, leave=False)
        with bar:
            for digest in digest_files(source.files):
                digest = digest or bytes(32)  # of a file that can't be read
                total.update(digest)
                if source.file_is_picture:
                    digests += digest
                bar.update()
        table = np.frombuffer(digests, np.uint8).reshape(-1, 32) if source.file_is_picture else None
        return cls(total.hexdigest(), table)

    def changed_rows(self, source: PictureSource, hashes: Iterable[str]) -> Sequence[int]:
        """Rows that were read with other bytes than the files held when they were looked at.

        Args:
            source: that this is the content of.
            hashes: SHA-256 of each picture as it was read; "" for one that could not be.

        Returns:
            Row numbers; all of them if files hold many pictures and one of the files changed.
        """
        if self.digests is None:
            return range(len(source)) if Content.of(source).sha256 != self.sha256 else ()
        pairs = zip(hashes, self.digests, strict=True)
        return [
            i for i, (now, then) in enumerate(pairs) if (bytes.fromhex(now) or bytes(32)) != then.tobytes()
        ]


def _list_digest(source: PictureSource) -> str:
    digest, index = hashlib.sha256(), source.index
    for start in range(0, len(index), _CHUNK):
        rows = index.iloc[start : start + _CHUNK].astype("str")
        digest.update(rows.to_csv(index=False, header=False, lineterminator="\n").encode())
    return digest.hexdigest()
