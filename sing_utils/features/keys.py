"""The key of an extraction: everything that its numbers depend on.

>>> import tempfile
>>> from pathlib import Path
>>> from sing_utils.features.computing import Compute
>>> from sing_utils.sources.folders import FileSource, picture_table
>>> source = FileSource("x", picture_table([("a.png", "cat", "")]), Path(tempfile.mkdtemp()))
>>> model, cpu = {"name": "model", "weights": "1"}, Compute("cpu", "float32")
>>> made = made_of(model, source, Content.of(source), dtype="float32", shard_rows=8, compute=cpu)
>>> other = made_of(model, source, Content.of(source), dtype="float16", shard_rows=8, compute=cpu)
>>> key_of(made) == key_of(other), differences(made, other)
(False, ['dtype'])
"""

from __future__ import annotations

import hashlib
import json
import platform
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import numpy as np
from tqdm import tqdm

from sing_utils.features.computing import Compute
from sing_utils.features.digests import digest_files
from sing_utils.features.shards import FORMAT
from sing_utils.sources.decoding import DECODING
from sing_utils.sources.folders import PictureSource

_LIBRARIES = ("torch", "torchvision", "pillow")
_CHUNK = 8192


def made_of(
    identity: dict[str, str],
    source: PictureSource,
    content: Content,
    *,
    dtype: str,
    shard_rows: int,
    compute: Compute,
) -> dict[str, Any]:
    """The parts of a key, each under a name that a person understands."""
    return {
        "format": FORMAT,
        "decoding": DECODING,
        "extractor": identity,
        "list of pictures": _list_digest(source),
        "content of pictures": content.sha256,
        "dtype": dtype,
        "shard_rows": shard_rows,
        "compute": asdict(compute),
        "libraries": {name: _version(name) for name in _LIBRARIES} | {"machine": platform.machine()},
    }


def key_of(made: dict[str, Any]) -> str:
    """SHA-256 over all parts."""
    return hashlib.sha256(json.dumps(made, sort_keys=True).encode()).hexdigest()


def differences(made: dict[str, Any], other: dict[str, Any]) -> list[str]:
    """Names of the parts in which two keys differ."""
    return [name for name in {**made, **other} if made.get(name) != other.get(name)]


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


def _version(library: str) -> str:
    try:
        return version(library)
    except PackageNotFoundError:
        return ""
