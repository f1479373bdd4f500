"""The model's half of an engine: precision, memory, and tensors that are what they should be.

>>> from sing_utils.features.batches import Batch, Decoded
>>> class Mean:
...     identity = {"name": "mean"}
...     def compute(self, batch):
...         return {"features": batch.mean(1, keepdim=True)}
>>> decoded = Decoded(Batch(0, 0, range(2)), ["…", "…"], ["", "the file is empty"], torch.ones(1, 3))
>>> compute_batch(Mean(), decoded).tensors
{'features': tensor([[1.]])}
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import default_collate

from sing_utils.errors import SingError
from sing_utils.features.batches import BatchResult, Decoded, Extractor, map_tensors

CPU_BATCH, GPU_BATCH = 32, 256  # pictures a forward pass where nobody says how many


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
        return _halving(extractor, map_tensors(lambda x: x.to(device, non_blocking=True), decoded.prepared))


def _halving(extractor: Extractor, x: Any) -> dict[str, Tensor]:
    try:
        return extractor.compute(x)
    except torch.OutOfMemoryError:
        rows = len(_first(x))
        if rows == 1:
            raise SingError(
                f"{_name(extractor)} does not fit into the GPU's memory even with one picture: "
                "free some, or hide the GPU (CUDA_VISIBLE_DEVICES=)."
            ) from None
    torch.cuda.empty_cache()  # outside of the handler, which would keep what did not fit alive
    cut = rows // 2
    first = _halving(extractor, map_tensors(lambda t: t[:cut], x))
    second = _halving(extractor, map_tensors(lambda t: t[cut:], x))
    return {name: torch.cat([first[name], second[name]]) for name in first}


def collect(decoded: Decoded, tensors: dict[str, Tensor], extractor: Extractor) -> BatchResult:
    """What `launch` gave, once it is computed, checked and on the CPU."""
    kept = {name: x.to("cpu", torch.float32) for name, x in tensors.items()}
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


def _first(x: Any) -> Tensor:
    """Any tensor of a prepared batch; all have a row a picture."""
    found: list[Tensor] = []

    def keep(t: Tensor) -> Tensor:
        found.append(t)
        return t

    map_tensors(keep, x)
    return found[0]


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
