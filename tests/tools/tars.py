"""Small tar shards with pictures."""

from __future__ import annotations

import io
import json
import tarfile

import numpy as np
from PIL import Image


def encoded(seed):
    pixels = np.random.default_rng(seed).integers(0, 256, (4, 6, 3), dtype=np.uint8)
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "png")
    return file.getvalue()


def write_tar(path, members, **options):
    """Members are names with bytes, or finished TarInfos."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w", **options) as tar:
        for member, data in members:
            info = member if isinstance(member, tarfile.TarInfo) else tarfile.TarInfo(member)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return path


def shard(folder, number, **options):
    base = 10 * number
    return write_tar(
        folder / f"flowers-train-{number:03d}.tar",
        [
            (f"{base}.cls", b"7\n"),  # before its picture
            (f"{base}.png", encoded(base)),
            (f"sub/{base}.png", encoded(base + 1)),
            (f"sub/{base}.json", json.dumps({"label": "rose", "width": 3}).encode()),
            ("readme.txt", b"hello"),
            ("n01440764_1.seg.PNG", encoded(base + 2)),
            ("n01440764_1.cls", b"n01440764"),
            ("alone.json", b'{"label": 1}'),
            (f"{'long' * 60}.png", encoded(base + 3)),  # longer than a plain header
        ],
        **options,
    )
