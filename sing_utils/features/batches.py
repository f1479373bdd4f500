"""Pictures in batches: the parts that a plan, an engine and a store hand to each other.

>>> [batch.rows for batch in plan(5, shard_rows=3, batch_size=2)]
[range(0, 2), range(2, 3), range(3, 5)]

An engine takes batches and gives their results in any order; keeping them is `extraction`'s business.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol

import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import default_collate

from sing_utils.errors import SingError, reason
from sing_utils.sources.decoding import UnreadableError, read_picture
from sing_utils.sources.folders import PictureSource


class Extractor(Protocol):
    """What extraction needs of a model: a classifier's features or an encoder's embeddings.

    It may also have a `device`, where it computes; without one it is taken to be on the CPU.
    """

    @property
    def identity(self) -> dict[str, str]:
        """Name, weights' checksum, transform, library: what the numbers depend on."""
        ...

    def prepare(self, image: Image.Image) -> Any:
        """One picture as tensors that can be stacked."""
        ...

    def compute(self, batch: Any) -> dict[str, Tensor]:
        """A batch of prepared pictures -> named tensors, (B, d) each, on any device."""
        ...


@dataclass(frozen=True)
class Batch:
    """Consecutive pictures of one shard: `number` counts batches within the shard."""

    shard: int
    number: int
    rows: range  # into the source


@dataclass(frozen=True)
class Decoded:
    """A batch before the model.

    Attributes:
        hashes: SHA-256 of each picture's bytes; "" if there were none to read.
        reasons: why a picture can't be used; "" if it can.
        prepared: those that can, stacked; None if there is none.
    """

    batch: Batch
    hashes: list[str]
    reasons: list[str]
    prepared: Any

    def pin_memory(self) -> Decoded:
        """The same in memory that a GPU can fetch by itself; `DataLoader` calls this."""
        return replace(self, prepared=map_tensors(lambda x: x.pin_memory(), self.prepared))


@dataclass(frozen=True)
class BatchResult:
    """A batch after the model: `tensors` are (readable rows, d), float32, on the CPU."""

    batch: Batch
    hashes: list[str]
    reasons: list[str]
    tensors: dict[str, Tensor]


Engine = Callable[[Extractor, PictureSource, Sequence[Batch]], Iterator[BatchResult]]


def plan(
    pictures: int, *, shard_rows: int, batch_size: int, shards: Collection[int] | None = None
) -> list[Batch]:
    """Batches of all shards, or of some. None crosses a shard.

    So what is in a batch, and with it the last bit of every number, does not depend on where an
    interrupted run resumes.

    >>> [b.rows for b in plan(5, shard_rows=3, batch_size=2)]
    [range(0, 2), range(2, 3), range(3, 5)]
    """
    batches = []
    for shard, start in enumerate(range(0, pictures, shard_rows)):
        if shards is None or shard in shards:
            rows = range(start, min(start + shard_rows, pictures))
            cuts = range(0, len(rows), batch_size)
            batches += [Batch(shard, n, rows[cut : cut + batch_size]) for n, cut in enumerate(cuts)]
    return batches


# ------------------------------------------------------------------------------------ decoding


def decode_batch(source: PictureSource, batch: Batch, prepare: Callable[[Image.Image], Any]) -> Decoded:
    """Read, decode and prepare the pictures of a batch; one that can't be is its reason instead."""
    hashes, reasons, prepared = [], [], []
    for row in batch.rows:
        digest, reason, x = _decode(source, row, prepare)
        hashes.append(digest)
        reasons.append(reason)
        if not reason:
            prepared.append(x)
    return Decoded(batch, hashes, reasons, _stack(prepared) if prepared else None)


def _decode(source: PictureSource, row: int, prepare: Callable[[Image.Image], Any]) -> tuple[str, str, Any]:
    try:
        data = source.read(row)
    except OSError as error:
        return "", f"it can't be read: {error.strerror or error}", None
    digest = hashlib.sha256(data).hexdigest()
    try:
        return digest, "", prepare(read_picture(data))
    except UnreadableError as error:
        return digest, str(error), None
    except SingError:
        raise
    except Exception as error:  # such as a picture 1 pixel wide, or a transform that wants another kind
        return digest, f"the model's transform fails on it ({reason(error, most=200)})", None


def _stack(prepared: list[Any]) -> Any:
    """Stacked, pictures with their channels last, which is how models are laid out in memory."""
    shapes = {tuple(x.shape) for x in prepared if isinstance(x, Tensor)}
    if len(shapes) > 1:
        one, other = sorted(shapes)[:2]
        raise SingError(
            f"the model's transform gives pictures of shapes {one} and {other}, expected one shape for all: "
            "let it resize."
        )
    return map_tensors(
        lambda x: x.contiguous(memory_format=torch.channels_last) if x.ndim == 4 else x,
        default_collate(prepared),
    )


def map_tensors(function: Callable[[Tensor], Tensor], x: Any) -> Any:
    """Apply a function to each tensor of what `prepare` returned, stacked or not.

    >>> map_tensors(lambda t: t + 1, {"a": torch.zeros(1)})
    {'a': tensor([1.])}
    """
    if isinstance(x, Mapping):
        return {key: map_tensors(function, value) for key, value in x.items()}
    if isinstance(x, list | tuple):
        return [map_tensors(function, value) for value in x]
    return function(x) if isinstance(x, Tensor) else x
