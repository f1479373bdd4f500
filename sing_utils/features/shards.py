"""Files of a feature store on the disk, each with what it says of itself and a checksum.

>>> import tempfile, torch
>>> out = Path(tempfile.mkdtemp())
>>> record = Record("some key", ["…"], [""])
>>> digest = write_shard(out / shard_name(0), {"features": torch.ones(1, 3)}, record)
>>> read_record(out / shard_name(0), "some key") == record
True
>>> read_record(out / shard_name(0), "another key") is None
True
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from sing_utils.errors import SingError
from sing_utils.files import write_bytes
from sing_utils.models.weights import feed_tensor

FORMAT = 1  # of a store; another one can't be read
DTYPES = {"float32": torch.float32, "float16": torch.float16, "uint8": torch.uint8}


@dataclass(frozen=True)
class Record:
    """What a shard says of itself.

    Attributes:
        key: of the extraction it belongs to.
        hashes: SHA-256 of each of its pictures.
        reasons: why a picture could not be read; "" if it could.
    """

    key: str
    hashes: list[str]
    reasons: list[str]


def shard_name(i: int) -> str:
    """File name of the i-th shard."""
    return f"shard-{i:05d}.safetensors"


def require_dtype(dtype: str) -> None:
    """Raise a SingError unless `dtype` is one that a store can have."""
    if dtype not in DTYPES:
        raise SingError(f"dtype {dtype!r} is unknown, expected one of {', '.join(DTYPES)}.")


def pack(name: str, x: Tensor, dtype: str) -> dict[str, Tensor]:
    """A tensor (rows, d) as it is stored; uint8 is 256 levels between each column's extremes.

    Raises:
        SingError: for a number that is finite and would be stored as infinite.
    """
    if dtype != "uint8":
        stored = x.to(DTYPES[dtype]).contiguous()  # columns or a transposed array are not
        if not bool(stored.isfinite().all()) and bool(x.isfinite().all()):
            raise SingError(
                f"{name} go up to {float(x.abs().max()):.3g}, which --dtype {dtype} can't hold (at most "
                f"{torch.finfo(stored.dtype).max:g}), expected smaller ones: store them as float32 or uint8."
            )
        return {name: stored}
    low, high = x.amin(0), x.amax(0)  # (d,)
    scale = ((high - low) / 255).clamp_min(torch.finfo(torch.float32).tiny)
    levels = ((x - low) / scale).round().clamp(0, 255).to(torch.uint8).contiguous()
    return {name: levels, f"{name}.scale": scale, f"{name}.low": low}


# --------------------------------------------------------------------------------- whole shards


def write_shard(file: Path, tensors: Mapping[str, Tensor], record: Record) -> str:
    """Write a shard; returns the file's SHA-256.

    Raises:
        SingError: if the disk is full, or the file can't be written.
    """
    # safetensors wants at least one tensor; a shard of rejects alone has none otherwise.
    tensors = {**tensors, "kept": torch.tensor([not r for r in record.reasons])}
    # One entry, because safetensors writes several in an order that changes from call to call.
    entry = json.dumps({**asdict(record), "checksum": _checksum(tensors, record)})
    data = save(tensors, {"record": entry})
    write_bytes(file, data)
    return hashlib.sha256(data).hexdigest()


def read_record(file: Path, key: str) -> Record | None:
    """The record of a shard, read from the start of the file; None without a whole one of this key."""
    entry = _entry(file)
    return Record(key, entry["hashes"], entry["reasons"]) if entry.get("key") == key else None


def is_whole(file: Path, key: str) -> bool:
    """Whether a shard of this key is there with every bit as it was written."""
    entry = _entry(file)
    if entry.get("key") != key:
        return False
    with safe_open(file, "pt") as tensors:
        values = {k: tensors.get_tensor(k) for k in tensors.keys()}  # noqa: SIM118  (not a dict)
    return _checksum(values, Record(key, entry["hashes"], entry["reasons"])) == entry.get("checksum")


def tensor_names(file: Path) -> list[str]:
    """Names of the tensors that a shard holds for its pictures."""
    with safe_open(file, "pt") as tensors:
        return [k for k in tensors.keys() if "." not in k and k != "kept"]  # noqa: SIM118


def _entry(file: Path) -> dict[str, Any]:
    try:
        with safe_open(file, "pt") as tensors:
            entry = json.loads((tensors.metadata() or {}).get("record", "{}"))
    except (OSError, SafetensorError, ValueError):
        return {}
    good = isinstance(entry, dict) and {"hashes", "reasons"} <= entry.keys()
    return entry if good else {}


def _checksum(tensors: Mapping[str, Tensor], record: Record) -> str:
    digest = hashlib.sha256(json.dumps(asdict(record), sort_keys=True).encode())
    for name, x in sorted(tensors.items()):
        feed_tensor(digest, x, f"{name} ")
    return digest.hexdigest()
