"""Files of a feature store on the disk: all or nothing, checked, by one process at a time.

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

import contextlib
import hashlib
import json
import os
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import IO, Any

import torch
from filelock import FileLock, Timeout
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from sing_utils.errors import SingError
from sing_utils.models.weights import feed_tensor

FORMAT = 1  # of a store; another one can't be read
DTYPES = {"float32": torch.float32, "float16": torch.float16, "uint8": torch.uint8}
_TEMPORARY = ".{}.tmp"
_ROOM = 1 << 20  # bytes that a small file needs at most


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


# ------------------------------------------------------------------------- writing that survives


@contextlib.contextmanager
def written(path: Path) -> Iterator[IO[bytes]]:
    """A file to write: all of it appears under its name, synced, or nothing does.

    Raises:
        SingError: if the disk is full, or the file can't be written.
    """
    temporary = path.with_name(_TEMPORARY.format(f"{path.name}.{os.getpid()}"))  # two may write the same
    try:
        with open(temporary, "wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
        sync_folder(path.parent)
    except (OSError, SafetensorError) as error:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)
        raise _unwritable(path, error) from None
    except BaseException:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)
        raise


def write_bytes(path: Path, data: bytes) -> None:
    """All of the file or nothing; see `written`."""
    with written(path) as file:
        file.write(data)


def write_whole(path: Path, write: Callable[[Path], Any]) -> None:
    """As `written`, for what writes to a path, such as a tensor's or a table's own way to save it."""
    with written(path) as file:
        write(Path(file.name))
        # safetensors puts a file of its own in its place, which nobody else may read.
        os.chmod(file.name, os.fstat(file.fileno()).st_mode)
        with open(file.name, "rb") as made:
            os.fsync(made.fileno())


def require_place(out: Path, *, size: int = _ROOM) -> None:
    """Raise a SingError unless a file of `size` bytes can be written as `out`; asked before the work."""
    parent = out.absolute().parent
    if out.is_dir() or not parent.is_dir():
        raise SingError(
            f"{out} can't be written, expected a file name in an existing folder: choose another."
        )
    try:
        with tempfile.TemporaryFile(dir=parent) as file:  # writing alone finds quotas and read-only disks
            for start in range(0, size, _ROOM):
                file.write(bytes(min(_ROOM, size - start)))
            file.flush()
    except OSError as error:
        raise _unwritable(out, error) from None


def _unwritable(path: Path, error: Exception) -> SingError:
    reason = getattr(error, "strerror", None) or error
    return SingError(
        f"cannot write {path} ({reason}), expected space for it and the right to: free some space or choose "
        "another place, and run again: nothing is half-written, and what was extracted is resumed."
    )


def sync_folder(folder: Path) -> None:
    """Make a rename in a folder survive a power cut, where the system can."""
    if sys.platform != "win32":
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def make_writable(out: Path, *, mend: str = "choose another") -> None:
    """Make the folder if needed.

    Raises:
        SingError: if nothing can be written there.
    """
    try:
        out.mkdir(parents=True, exist_ok=True)
        # A name of its own, which no other process takes or clears away.
        with tempfile.TemporaryFile(dir=out):
            pass
    except OSError as error:
        raise SingError(
            f"cannot write to {out} ({error.strerror}), expected a writable folder: {mend}."
        ) from None


@contextlib.contextmanager
def locked(out: Path, *, wait: bool = True) -> Iterator[None]:
    """Be the only process that writes to `out`; waits for another, and says so.

    What an earlier holder left half written is removed. The system frees the lock of a process that ended,
    however it did.

    Raises:
        SingError: if `out` can't be written, or not be locked; without `wait`, if another has it.
    """
    make_writable(out)
    lock = FileLock(out / ".lock")
    try:
        try:
            lock.acquire(timeout=0.2)
        except Timeout:
            if not wait:
                raise SingError(
                    f"{out} is being written by another process, expected one at a time: wait until it has "
                    "ended, or give this one a folder of its own."
                ) from None
            print(f"{out} is being written by another process: waiting for it.", file=sys.stderr, flush=True)
            lock.acquire()
    except (OSError, NotImplementedError) as error:
        raise SingError(
            f"cannot lock {out} ({error}), expected a folder whose file system has locks: choose another."
        ) from None
    try:
        for left in out.glob(_TEMPORARY.format("*")):
            left.unlink(missing_ok=True)
        yield
    finally:
        with contextlib.suppress(OSError):
            (out / ".lock").unlink()  # still held: one who waits for it finds out, and makes another
        lock.release()
