"""Extraction: a model over pictures, into a feature store that survives whatever happens to the run.

>>> import tempfile
>>> import torch
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
import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from tqdm import tqdm

from sing_utils.errors import SingError
from sing_utils.features.assembly import Waiting, write_tables
from sing_utils.features.batches import Batch, BatchResult, Decoded, Engine, Extractor, decode_batch, plan
from sing_utils.features.computing import Compute, compute_batch, fitting_batch_size
from sing_utils.features.engine import local_engine
from sing_utils.features.keys import Content, differences, key_of, made_of
from sing_utils.features.shards import (
    Record,
    is_whole,
    locked,
    pack,
    read_record,
    require_dtype,
    shard_name,
    write_bytes,
    write_shard,
)
from sing_utils.features.store import FeatureStore, read_manifest, write_manifest
from sing_utils.sources.by_name import open_source
from sing_utils.sources.folders import PictureSource

__all__ = [
    "Batch",
    "BatchResult",
    "Compute",
    "Decoded",
    "Engine",
    "Extractor",
    "compute_batch",
    "decode_batch",
    "extract",
    "extract_cached",
    "local_engine",
    "plan",
]
_BEGUN = "begun.json"  # which extraction, in batches of how many; gone when the store is finished


def extract(
    extractor: Extractor,
    source: PictureSource | str | Path,
    out: str | Path,
    *,
    dtype: str = "float32",
    batch_size: int | None = None,
    shard_rows: int = 1024,
    workers: int | None = None,
    precision: str = "auto",
    device: str | None = None,
    progress: bool = True,
    engine: Engine | None = None,
) -> FeatureStore:
    """Run `extractor` over every picture of `source` and keep the results in `out`.

    A call with the same arguments resumes after the last whole shard, and mends a damaged one; a
    finished store is opened and nothing is computed. Two processes may do so at the same time: one
    waits for the other.

    Args:
        extractor: a model; see `Extractor`.
        source: pictures, or what `open_source` understands.
        out: folder of the store; made if needed.
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
        engine: what computes; None: `local_engine`. See `sing_utils.features.ray_engine` for many machines.

    Raises:
        SingError: for no picture, none that is readable, an unwritable `out` or a full disk, an `out`
            that holds another extraction, or pictures that change while they are read.
    """
    job = _Job.of(
        extractor,
        source,
        dtype=dtype,
        shard_rows=shard_rows,
        precision=precision,
        device=device,
        progress=progress,
    )
    return job.run(
        Path(out), batch_size, engine or partial(local_engine, workers=workers, compute=job.compute)
    )


def extract_cached(
    extractor: Extractor,
    source: PictureSource | str | Path,
    root: str | Path,
    *,
    dtype: str = "float32",
    batch_size: int | None = None,
    shard_rows: int = 1024,
    workers: int | None = None,
    precision: str = "auto",
    device: str | None = None,
    progress: bool = True,
    engine: Engine | None = None,
) -> FeatureStore:
    """As `extract`, in a folder of `root` that is named after the model and all that counts.

    So whatever changes (weights, transform, pictures, dtype, libraries), the result is in another
    folder; and what did not change is found at once.
    """
    job = _Job.of(
        extractor,
        source,
        dtype=dtype,
        shard_rows=shard_rows,
        precision=precision,
        device=device,
        progress=progress,
    )
    name = re.sub(r"[^A-Za-z0-9_.-]+", "-", extractor.identity["name"]).strip("-.")[:60] or "model"
    out = Path(root) / f"{name}-{job.key[:16]}"
    return job.run(out, batch_size, engine or partial(local_engine, workers=workers, compute=job.compute))


# ---------------------------------------------------------------------------------- one extraction


@dataclass(frozen=True, eq=False)
class _Job:
    """What is computed, apart from where it goes and who computes."""

    extractor: Extractor
    source: PictureSource
    content: Content
    made: dict[str, Any]
    compute: Compute
    dtype: str
    shard_rows: int
    progress: bool
    key: str

    @classmethod
    def of(
        cls,
        extractor: Extractor,
        source: PictureSource | str | Path,
        *,
        dtype: str,
        shard_rows: int,
        precision: str,
        device: str | None,
        progress: bool,
    ) -> _Job:
        require_dtype(dtype)
        if isinstance(source, str | Path):
            source = open_source(source)
        compute = Compute.of(extractor, precision, device=device)
        content = Content.of(source, progress=progress)
        made = made_of(
            extractor.identity, source, content, dtype=dtype, shard_rows=shard_rows, compute=compute
        )
        return cls(extractor, source, content, made, compute, dtype, shard_rows, progress, key_of(made))

    @property
    def shards(self) -> list[str]:
        """File names of all shards."""
        return [shard_name(i) for i in range(-(-len(self.source) // self.shard_rows))]

    def run(self, out: Path, batch_size: int | None, engine: Engine) -> FeatureStore:
        """The finished store, computing what is missing."""
        if store := self._finished(out):
            return store
        with locked(out):
            if store := self._finished(out):  # by the process that was waited for
                return store
            size = (
                batch_size or self._begun_batch_size(out) or fitting_batch_size(self.extractor, self.compute)
            )
            write_bytes(out / _BEGUN, json.dumps({"key": self.key, "batch_size": size}).encode())
            (out / "manifest.json").unlink(missing_ok=True)  # of a damaged store, which is begun anew
            try:
                self._compute_missing(out, size, engine)
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
            differ = differences(self.made, store.manifest.get("made_of", {}))
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
        try:
            begun = json.loads((out / _BEGUN).read_text())["key"]
        except (OSError, ValueError, KeyError, TypeError):
            return
        if begun != self.key:
            raise SingError(
                f"{out} holds the beginning of another extraction (other pictures, weights or settings), "
                "expected this one's: choose another --out, or delete that folder."
            )

    def _begun_batch_size(self, out: Path) -> int | None:
        """That of an earlier run of this extraction, so that resuming gives the same bytes."""
        for file in (_BEGUN, "manifest.json"):
            try:
                begun = json.loads((out / file).read_text())
                if begun["key"] == self.key:
                    return int(begun["batch_size"])
            except (OSError, ValueError, KeyError, TypeError):
                continue
        return None

    # --- computing ------------------------------------------------------------------------

    def _compute_missing(self, out: Path, batch_size: int, engine: Engine) -> None:
        missing = {i for i, name in enumerate(self.shards) if not is_whole(out / name, self.key)}
        batches = plan(len(self.source), shard_rows=self.shard_rows, batch_size=batch_size, shards=missing)
        if not batches:
            return
        waiting = Waiting(batches)
        total, done = len(self.source), len(self.source) - sum(len(b.rows) for b in batches)
        with tqdm(
            total=total, initial=done, unit="picture", disable=not self.progress, desc="extract"
        ) as bar:
            for result in engine(self.extractor, self.source, batches):
                bar.update(len(result.batch.rows))
                if parts := waiting.add(result):
                    self._write(out, parts)
        waiting.require_none_left()

    def _write(self, out: Path, parts: list[BatchResult]) -> None:
        hashes, reasons = [h for p in parts for h in p.hashes], [r for p in parts for r in p.reasons]
        tensors: dict[str, Tensor] = {}
        for name in sorted({n for p in parts for n in p.tensors}):
            tensors |= pack(name, torch.cat([p.tensors[name] for p in parts if p.tensors]), self.dtype)
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
        for shard in {row // self.shard_rows for row in changed}:
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
            dtype=self.dtype,
            rows=kept,
            rejected=len(self.source) - kept,
            files=[out / name for name in self.shards],
            batch_size=batch_size,
            made_of=self.made,
        )
