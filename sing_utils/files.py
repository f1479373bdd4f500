"""Files and folders that are written whole or not at all, by one process at a time."""

from __future__ import annotations

import contextlib
import os
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, Any

from filelock import FileLock, Timeout
from safetensors import SafetensorError

from sing_utils.errors import SingError

_TEMPORARY = ".{}.tmp"
_ROOM = 1 << 20  # bytes that a small file needs at most


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
