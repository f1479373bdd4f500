"""The local engine: one model in this process, pictures decoded in others, a few batches ahead.

>>> import tempfile
>>> from pathlib import Path
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
from dataclasses import dataclass
from typing import Any

import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, default_collate

from sing_utils.errors import SingError
from sing_utils.features.batches import Batch, BatchResult, Decoded, Extractor, decode_batch, map_tensors
from sing_utils.sources.folders import PictureSource

CPU_BATCH, GPU_BATCH = 32, 256  # pictures a forward pass where nobody says how many
_PREFETCH = 3  # batches a decoding process is ahead; what they hold is all that memory depends on
_MOST_WORKERS = 16
_ENDED = re.compile(
    "exited unexpectedly|killed by signal|shared memory|unable to (allocate|write|mmap)|ancdata"
)


# ------------------------------------------------------------------------------------ the model


@dataclass(frozen=True)
class Compute:
    """On what kind of device, in which precision: part of a store's key.

    >>> Compute.of(object())
    Compute(device='cpu', precision='float32')
    """

    device: str
    precision: str  # float32, bfloat16 or float16: of autocast, the weights stay as they are

    @classmethod
    def of(cls, extractor: Any, precision: str = "auto", *, device: str | None = None) -> Compute:
        """What `extractor` uses: "auto" is float32 on a CPU and 16 bits on a GPU.

        Args:
            extractor: the model.
            precision: "auto", "float32", "bfloat16" or "float16".
            device: "cpu" or "cuda", where that is not the extractor's own; None: it is.

        Raises:
            SingError: for an unknown precision.
        """
        device = device or torch.device(getattr(extractor, "device", "cpu")).type
        if precision not in ("auto", "float32", "bfloat16", "float16"):
            raise SingError(
                f"precision {precision!r} is unknown, expected auto, float32, bfloat16 or float16."
            )
        if precision == "auto" and device == "cuda":
            precision = "bfloat16" if torch.cuda.is_bf16_supported(including_emulation=False) else "float16"
        return cls(device, "float32" if precision == "auto" else precision)

    def autocast(self) -> torch.autocast:
        """The context in which a model runs."""
        dtype = torch.float16 if self.precision == "float16" else torch.bfloat16
        return torch.autocast(self.device, dtype, enabled=self.precision != "float32")


def compute_batch(extractor: Extractor, decoded: Decoded, compute: Compute | None = None) -> BatchResult:
    """Run the model over a decoded batch; one that does not fit into memory is halved.

    Raises:
        SingError: if the model gives another number of rows, or numbers that are not finite.
    """
    return collect(decoded, launch(extractor, decoded, compute or Compute.of(extractor)), extractor)


def launch(extractor: Extractor, decoded: Decoded, compute: Compute) -> dict[str, Tensor]:
    """Named tensors where the model left them; on a GPU they may still be computed."""
    if decoded.prepared is None:
        return {}
    device = torch.device(getattr(extractor, "device", "cpu"))
    with torch.inference_mode(), compute.autocast():
        x = map_tensors(lambda x: x.to(device, non_blocking=True), decoded.prepared)
        return _halving(extractor, x, decoded.reasons.count(""))


def _halving(extractor: Extractor, x: Any, rows: int) -> dict[str, Tensor]:
    try:
        return extractor.compute(x)
    except torch.OutOfMemoryError:
        if rows == 1:
            raise SingError(
                f"{_name(extractor)} does not fit into the GPU's memory even with one picture: "
                "free some, or hide the GPU (CUDA_VISIBLE_DEVICES=)."
            ) from None
    torch.cuda.empty_cache()  # outside of the handler, which would keep what did not fit alive
    cut = rows // 2
    first = _halving(extractor, map_tensors(lambda t: t[:cut], x), cut)
    second = _halving(extractor, map_tensors(lambda t: t[cut:], x), rows - cut)
    return {name: torch.cat([first[name], second[name]]) for name in first}


def collect(decoded: Decoded, tensors: dict[str, Tensor], extractor: Extractor) -> BatchResult:
    """What `launch` gave, once it is computed, checked and on the CPU."""
    # Without the rest of a tensor that it is a view of: the result may travel.
    kept = {name: x.to("cpu", torch.float32).contiguous() for name, x in tensors.items()}
    readable = decoded.reasons.count("")
    for name, x in kept.items():
        if x.ndim != 2 or len(x) != readable:
            raise SingError(
                f"{_name(extractor)} gave {name} of shape {tuple(x.shape)} for {readable} pictures, "
                f"expected ({readable}, d): one row a picture."
            )
        if not bool(x.isfinite().all()):
            raise SingError(
                f"{_name(extractor)} gave {name} that are not finite, expected numbers: extract with "
                "precision float32, and if that gives the same, check the model's weights."
            )
    return BatchResult(decoded.batch, decoded.hashes, decoded.reasons, kept)


def _name(extractor: Extractor) -> str:
    return extractor.identity.get("name", "the model")


def fitting_batch_size(extractor: Extractor, compute: Compute) -> int:
    """Pictures a forward pass where nobody says how many: on a GPU as many as fit, at most 256."""
    if compute.device != "cuda":
        return CPU_BATCH
    one = default_collate([extractor.prepare(Image.new("RGB", (64, 64)))])
    size = GPU_BATCH
    while size > 1 and not _fits(extractor, one, size, compute):
        size //= 2
        torch.cuda.empty_cache()
    return size


def _fits(extractor: Extractor, one: Any, size: int, compute: Compute) -> bool:
    try:
        x = map_tensors(lambda t: t.expand(size, *t.shape[1:]).contiguous().cuda(), one)
        with torch.inference_mode(), compute.autocast():
            extractor.compute(x)
    except torch.OutOfMemoryError:
        return False
    return True


# ------------------------------------------------------------------------- pictures ahead of it


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
    wanted = min(max(1, cores() - 1), _MOST_WORKERS) if workers is None else workers
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


def cores() -> int:
    """Processor cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _as_it_is(item: Any) -> Any:
    return item
