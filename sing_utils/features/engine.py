"""The local engine: one model in this process, pictures decoded in others, a few batches ahead.

>>> import tempfile, torch
>>> from pathlib import Path
>>> from PIL import Image
>>> from sing_utils.features.batches import plan
>>> from sing_utils.sources.by_name import open_source
>>> class Red:
...     identity = {"name": "red"}
...     def prepare(self, image):
...         return torch.tensor(image.getpixel((0, 0)))  # (3,)
...     def compute(self, batch):
...         return {"features": batch[:, :1] / 255}  # (B, 1)
>>> folder = Path(tempfile.mkdtemp())
>>> Image.new("RGB", (2, 2), "red").save(folder / "a.png")
>>> [result] = local_engine(Red(), open_source(folder), plan(1, shard_rows=8, batch_size=4), workers=0)
>>> result.reasons, result.tensors["features"]
([''], tensor([[1.]]))

"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from sing_utils.errors import SingError
from sing_utils.features.batches import Batch, BatchResult, Decoded, Extractor, decode_batch
from sing_utils.features.computing import Compute, collect, launch
from sing_utils.sources.folders import PictureSource

_PREFETCH = 3  # batches a decoding process is ahead; what they hold is all that memory depends on
_MOST_WORKERS = 16
_ENDED = re.compile(
    "exited unexpectedly|killed by signal|shared memory|unable to (allocate|write|mmap)|ancdata"
)


class _Batches(Dataset[Decoded | SingError]):
    """One item a batch, decoded in whichever process asks for it."""

    def __init__(self, source: PictureSource, batches: Sequence[Batch], prepare: Callable[..., Any]) -> None:
        self.source, self.batches, self.prepare = source, batches, prepare

    def __len__(self) -> int:
        return len(self.batches)

    def __getitem__(self, i: int) -> Decoded | SingError:
        try:
            return decode_batch(self.source, self.batches[i], self.prepare)
        except SingError as error:
            return error  # raised in another process, it would come with that one's traceback in its text


def local_engine(
    extractor: Extractor,
    source: PictureSource,
    batches: Sequence[Batch],
    *,
    workers: int | None = None,
    compute: Compute | None = None,
) -> Iterator[BatchResult]:
    """The model in this process, decoding in others; results come in order.

    Args:
        extractor: the model.
        source: the pictures.
        batches: of `plan`.
        workers: processes that decode, 0 decodes in this one; None: one a core, less one.
        compute: None: as the model wants it.

    Raises:
        SingError: if a decoding process dies; and as `compute_batch`.
    """
    compute = compute or Compute.of(extractor)
    pending: tuple[Decoded, dict[str, Tensor]] | None = None
    for decoded in decoded_batches(extractor, source, batches, workers=workers, pin=compute.device == "cuda"):
        launched = decoded, launch(extractor, decoded, compute)
        if compute.device == "cuda":  # fetch the results of one batch while the next is computed
            launched, pending = pending, launched  # type: ignore[assignment]
        if launched is not None:
            yield collect(*launched, extractor)
    if pending is not None:
        yield collect(*pending, extractor)


def decoded_batches(
    extractor: Extractor,
    source: PictureSource,
    batches: Sequence[Batch],
    *,
    workers: int | None = None,
    pin: bool = False,
) -> Iterator[Decoded]:
    """All batches through one set of decoding processes, a few ahead of who takes them."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    wanted = min(max(1, cores - 1), _MOST_WORKERS) if workers is None else workers
    wanted = min(wanted, len(batches))
    loader = DataLoader(
        _Batches(source, batches, extractor.prepare),
        batch_size=None,  # an item is a batch already
        num_workers=wanted,
        prefetch_factor=_PREFETCH if wanted else None,
        pin_memory=pin,
        collate_fn=_as_it_is,
    )
    try:
        for item in loader:
            if isinstance(item, SingError):
                raise item
            yield item
    except (RuntimeError, OSError) as error:  # an OSError where processes or their queues can't be made
        if isinstance(error, RuntimeError) and not _ENDED.search(str(error)):
            raise
        reason = str(error).strip().splitlines()[-1][:150]  # above it a worker's own traceback
        raise SingError(
            f"a process that decodes pictures ended ({reason}), expected it to live: memory, also /dev/shm, "
            "may be full; run again with fewer --workers (or 0) or a smaller --batch-size, it resumes."
        ) from None


def _as_it_is(item: Any) -> Any:
    return item
