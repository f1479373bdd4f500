"""What travels between Ray's processes: batches with every bit, and extractors without their networks.

>>> import torch
>>> from sing_utils.features.batches import Batch
>>> x = torch.rand(2, 3, 4, 4).contiguous(memory_format=torch.channels_last)
>>> decoded = unload(load_up(Decoded(Batch(0, 0, range(2)), ["…", "…"], ["", ""], {"tower": x})))
>>> y = decoded.prepared["tower"]
>>> torch.equal(x, y), x.stride() == y.stride()
(True, True)
"""

from __future__ import annotations

import io
import pickle
import sys
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from sing_utils.errors import SingError
from sing_utils.features.batches import BatchResult, Decoded, Extractor, map_tensors

_Bytes = np.ndarray[Any, np.dtype[np.uint8]]


def load_up(item: Decoded | BatchResult) -> dict[str, Any]:
    """A batch as a row of a Ray data set: the bytes of its tensors, and all the rest.

    Ray keeps an array in memory that processes of a machine share; a tensor it would copy several times.
    """
    data: list[_Bytes] = []

    def take(x: Tensor) -> Tensor:
        if not (x.is_contiguous() or x.is_contiguous(memory_format=torch.channels_last)):
            x = x.contiguous()
        data.append(_bytes(x))
        return torch.empty_strided(x.shape, x.stride(), dtype=x.dtype, device="meta")

    name = _tensors_of(item)
    rest = replace(item, **{name: map_tensors(take, getattr(item, name))})
    return {"rest": rest, "data": np.concatenate([np.empty(0, np.uint8), *data])}


def unload(row: dict[str, Any]) -> Any:
    """The batch that `load_up` was given."""
    item, data, start = row["rest"], row["data"], 0

    def fill(x: Tensor) -> Tensor:
        nonlocal start
        # Its own memory, since a model may write into its input.
        y = torch.empty_strided(x.shape, x.stride(), dtype=x.dtype)
        size = x.numel() * x.element_size()
        _bytes(y)[:] = data[start : start + size]
        start += size
        return y

    name = _tensors_of(item)
    return replace(item, **{name: map_tensors(fill, getattr(item, name))})


def _bytes(x: Tensor) -> _Bytes:
    """The memory of a tensor without gaps, in the order in which it lies there."""
    return x.as_strided((x.numel(),), (1,)).view(torch.uint8).numpy()


def _tensors_of(item: Decoded | BatchResult) -> str:
    return "prepared" if isinstance(item, Decoded) else "tensors"


# ------------------------------------------------------------------ extractors that only prepare


class _NoNetwork:
    """Stands for a network where pictures are only decoded."""

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return self


def without_networks(extractor: Extractor) -> bytes:
    """An extractor that can `prepare` but not `compute`, for processes that decode.

    Networks are left out because a process that decodes has no use for their gigabytes, and tensors on a
    GPU because it may have none.

    Raises:
        SingError: if it can't be sent to another process.

    >>> class Net(nn.Module):
    ...     identity = {"name": "net"}
    ...     big = nn.Linear(1000, 1000)
    ...     def prepare(self, image): return 1
    >>> len(without_networks(Net())) < 10_000
    True
    """
    from ray import cloudpickle

    class Pickler(cloudpickle.CloudPickler):
        def reducer_override(self, x: Any) -> Any:
            is_network = isinstance(x, nn.Module) and x is not extractor and _has_weights(x)
            if is_network or (isinstance(x, Tensor) and x.device.type != "cpu"):
                return _NoNetwork, ()
            return super().reducer_override(x)

    own = [m for name, m in list(sys.modules.items()) if name.startswith("sing_own_")]
    for module in own:  # from `file:PATH.py`: other processes have no such module
        cloudpickle.register_pickle_by_value(module)
    file = io.BytesIO()
    try:
        Pickler(file).dump(extractor)
    except Exception as error:  # whatever an object's own way to be sent raises
        raise SingError(
            f"{extractor.identity.get('name', 'the model')} can't be sent to another process "
            f"({' '.join(str(error).split())[:120]}), expected one that can: make its transform from "
            "functions and classes of a module."
        ) from None
    return file.getvalue()


def _has_weights(module: nn.Module) -> bool:
    return next(module.parameters(), None) is not None


def preparing(data: bytes) -> Any:
    """What `without_networks` made, in another process of the same run."""
    return pickle.loads(data)
