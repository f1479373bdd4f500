"""Weights of a model: their digest, and loading them without running code that is pickled with them.

>>> from torch import nn
>>> layer = nn.Linear(2, 1)
>>> digest = weights_digest(layer)
>>> with torch.no_grad():
...     _ = layer.weight.add_(1.0)
>>> len(digest), digest == weights_digest(layer)
(64, False)
"""

from __future__ import annotations

import hashlib
import os
from collections import defaultdict
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from pickle import UnpicklingError

import torch
from torch import Tensor, nn
from torch.nn.functional import normalize

from sing_utils.errors import SingError

_FORCE = "TORCH_FORCE_WEIGHTS_ONLY_LOAD"


def weights_digest(model: nn.Module) -> str:
    """SHA-256 over names, dtypes, shapes and bytes of every parameter and buffer that is saved.

    Two models of one digest compute the same, whatever file or library the weights came from.
    """
    digest = hashlib.sha256()
    for name, x in model.state_dict().items():
        # A library may keep settings there too; on the meta device there are no bytes.
        if isinstance(x, torch.Tensor) and not x.is_meta:
            digest.update(f"{name} {x.dtype} {tuple(x.shape)}\n".encode())
            digest.update(x.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().data)
    return digest.hexdigest()


def holds(model: nn.Module, weights: Mapping[str, Tensor]) -> bool:
    """Whether a network contains another one, given by its weights: under any names, with another head.

    Filters are compared one by one, by their cosine, so that it is found also where it was fine-tuned,
    rounded, or scaled by a batch norm that was folded into it. Filters of networks that were trained apart
    have nothing to do with each other.

    Args:
        model: that may contain it.
        weights: its tensors; only convolutions (4-D) count.
    """
    own: dict[tuple[int, ...], list[Tensor]] = defaultdict(list)
    for x in model.state_dict().values():
        if isinstance(x, Tensor) and x.ndim == 4 and not x.is_meta:
            own[tuple(x.shape)].append(x)
    wanted = [x for x in weights.values() if x.ndim == 4]
    found = sum(x.numel() for x in wanted if any(_alike(x, y) for y in own[tuple(x.shape)]))
    return found > sum(x.numel() for x in wanted) / 2


def _alike(x: Tensor, y: Tensor) -> bool:
    """Whether the filters of two convolutions point the same way: mean |cosine| above 0.9."""
    x, y = (normalize(t.detach().cpu().float().flatten(1), dim=1) for t in (x, y))  # (out, in * h * w)
    return float((x * y).sum(1).abs().mean()) > 0.9


def file_digest(path: Path) -> str:
    """SHA-256 of a file."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@contextmanager
def tensors_only(what: str) -> Iterator[None]:
    """Inside, no checkpoint is unpickled beyond tensors, whatever a library asks of `torch.load`.

    Some libraries still load with `weights_only=False`, which runs any code that a file brings.

    Args:
        what: the model's name, for the message.

    Raises:
        SingError: if a checkpoint holds more than tensors.
    """
    before = os.environ.get(_FORCE)
    os.environ[_FORCE] = "1"
    try:
        yield
    except UnpicklingError as error:
        raise SingError(
            f"the checkpoint of {what} holds more than tensors ({str(error).splitlines()[0][:100]}), "
            "expected tensors only, since anything else can run code: convert it to safetensors where you "
            "trust it."
        ) from None
    finally:
        if before is None:
            del os.environ[_FORCE]
        else:
            os.environ[_FORCE] = before
