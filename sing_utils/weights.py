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

import contextlib
import hashlib
import os
import re
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Set
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from pickle import UnpicklingError
from types import FunctionType
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn
from torch.nn.functional import normalize

from sing_utils.errors import SingError, reason

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


def state_digest(model: nn.Module, transform: Callable[[Image.Image], Any] | None = None) -> str:
    """What else than saved weights and code the features depend on: plain attributes, and the transform.

    Of the model: attributes such as a power or a list of sizes, buffers that are not saved, and networks kept
    in a list. Of the transform: what it makes of one picture.
    """
    digest = hashlib.sha256()
    for name, module in model.named_modules():
        digest.update(f"{name} {type(module).__qualname__}\n".encode())
        _feed(digest, {k: v for k, v in vars(module).items() if k not in _OF_EVERY_MODULE}, set())
        _feed(digest, dict(module.named_buffers(recurse=False)), set())
    if transform is not None:
        with contextlib.suppress(Exception):  # said where the transform is checked
            _feed(digest, transform(noise_picture()), set())
    return digest.hexdigest()[:16]


_OF_EVERY_MODULE = frozenset(vars(nn.Module()))


def _feed(digest: Any, x: Any, seen: set[int]) -> None:
    """Add a value to a digest, by what it holds and not by where it lies in memory."""
    if id(x) in seen:
        return
    if isinstance(x, nn.Module):
        digest.update(f"{weights_digest(x)} {state_digest(x)}".encode())
    elif isinstance(x, Tensor):
        if not x.is_meta:
            digest.update(f"{x.dtype} {tuple(x.shape)}\n".encode())
            digest.update(x.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().data)
    elif isinstance(x, torch.fx.Graph):  # its nodes are a long chain
        digest.update(str(x).encode())
    elif isinstance(x, np.ndarray):
        digest.update(f"{x.dtype} {x.shape}\n".encode() + x.tobytes())
    elif isinstance(x, Mapping | list | tuple | set | frozenset):
        digest.update(f"{type(x).__name__} {len(x)}\n".encode())
        parts = x.items() if isinstance(x, Mapping) else sorted(x, key=repr) if isinstance(x, Set) else x
        for part in parts:
            _feed(digest, part, seen | {id(x)})
    elif isinstance(x, partial):
        _feed(digest, (x.func, x.args, x.keywords), seen)
    elif isinstance(x, FunctionType):
        held = [cell.cell_contents for cell in x.__closure__ or ()]
        digest.update(x.__qualname__.encode())
        _feed(digest, (x.__defaults__, held), seen | {id(x)})
    elif "__repr__" not in _methods(x) and hasattr(x, "__dict__"):
        digest.update(type(x).__qualname__.encode())
        _feed(digest, vars(x), seen | {id(x)})
    else:
        digest.update(re.sub(r" at 0x[0-9a-fA-F]+", "", repr(x)).encode() + b"\n")


def _methods(x: Any) -> set[str]:
    """Names of what its class and their bases define, but for `object`."""
    return {name for base in type(x).__mro__[:-1] for name in vars(base)}


def noise_picture() -> Image.Image:
    """A picture of noise, 64 x 64, always the same: whatever a transform does to pictures shows in it."""
    return Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8))


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


def _pickled(error: UnpicklingError) -> str:
    """The class that a checkpoint holds beside tensors, as torch's message names it."""
    found = re.search(r"GLOBAL ([\w.]+)|[Cc]lass ([\w.]+)|function ([\w.]+)", str(error))
    return next(filter(None, found.groups())) if found else reason(error, most=100)


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
            f"the checkpoint of {what} holds more than tensors ({_pickled(error)}), expected tensors only, "
            "since anything else can run code: where you trust it, save its state_dict alone, or as "
            "safetensors."
        ) from None
    finally:
        if before is None:
            del os.environ[_FORCE]
        else:
            os.environ[_FORCE] = before
