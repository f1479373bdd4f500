"""SHA-256 of files, each computed once: remembered until its size or times change.

>>> import tempfile
>>> file = Path(tempfile.mkdtemp()) / "a"
>>> _ = file.write_bytes(b"abc")
>>> [digest.hex()[:8] for digest in digest_files([file, file.parent / "missing"])]
['ba7816bf', '']

The memory is a small database in the user's cache folder (`SING_CACHE_DIR`, else XDG_CACHE_HOME or
~/.cache). It may be deleted at any time; where it can't be written, everything works, slower.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import sqlite3
import time
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from pathlib import Path

_CHUNK = 900  # files a query; older SQLite takes at most 999 values
_THREADS = 4
_SETTLED = 2.0  # seconds; a file may change twice within one tick of its file system's clock
_TABLE = (
    "CREATE TABLE IF NOT EXISTS files "
    "(path BLOB PRIMARY KEY, size INT, mtime INT, ctime INT, sha256 BLOB) WITHOUT ROWID"
)
_Stat = tuple[int, int, int]  # size, mtime_ns, ctime_ns


def cache_folder() -> Path:
    """Where this package may keep what it can make again."""
    own = os.environ.get("SING_CACHE_DIR")
    return (
        Path(own) if own else Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "sing_utils"
    )


def digest_file(file: Path) -> bytes:
    """SHA-256 of a file that is read now, whatever is remembered; b"" if it can't be read."""
    try:
        with open(file, "rb") as data:
            return hashlib.file_digest(data, "sha256").digest()
    except OSError:
        return b""


def digest_files(files: Iterable[Path]) -> Iterator[bytes]:
    """SHA-256 of each file, in order; of files that did not change it costs a look at their times.

    A file that can't be read has the digest b"".
    """
    files = iter(files)
    with _memory() as memory, ThreadPoolExecutor(_THREADS) as threads:
        while chunk := list(islice(files, _CHUNK)):
            paths = [os.fsencode(os.path.abspath(f)) for f in chunk]
            stats, known = [_stat(f) for f in chunk], _recall(memory, paths)
            new = [i for i, p in enumerate(paths) if p not in known or known[p][0] != stats[i]]
            fresh = dict(zip(new, threads.map(digest_file, [chunk[i] for i in new]), strict=True))
            _remember(memory, [(paths[i], stats[i], digest) for i, digest in fresh.items()])
            yield from (fresh[i] if i in fresh else known[p][1] for i, p in enumerate(paths))


def _stat(file: Path) -> _Stat | None:
    try:
        stat = os.stat(file)
    except OSError:
        return None
    return stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns


@contextlib.contextmanager
def _memory() -> Iterator[sqlite3.Connection | None]:
    connection = None
    with contextlib.suppress(OSError, sqlite3.Error):
        cache_folder().mkdir(parents=True, exist_ok=True)
        connection = sqlite3.connect(cache_folder() / "digests.sqlite", timeout=1.0)
        connection.execute(_TABLE)
    try:
        yield connection
    finally:
        if connection is not None:
            connection.close()


def _recall(memory: sqlite3.Connection | None, paths: list[bytes]) -> dict[bytes, tuple[_Stat, bytes]]:
    if memory is None:
        return {}
    marks = ",".join("?" * len(paths))
    try:
        rows = memory.execute(
            f"SELECT path, size, mtime, ctime, sha256 FROM files WHERE path IN ({marks})", paths
        )
        return {path: ((size, mtime, ctime), sha256) for path, size, mtime, ctime, sha256 in rows}
    except sqlite3.Error:
        return {}


def _remember(memory: sqlite3.Connection | None, rows: list[tuple[bytes, _Stat | None, bytes]]) -> None:
    settled = time.time_ns() - int(_SETTLED * 1e9)
    keep = [(p, *s, d) for p, s, d in rows if d and s is not None and max(s[1:]) < settled]
    if memory is not None and keep:
        with contextlib.suppress(sqlite3.Error), memory:
            memory.executemany("INSERT OR REPLACE INTO files VALUES (?, ?, ?, ?, ?)", keep)
