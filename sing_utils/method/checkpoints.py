"""Translators of the authors' public code: read without running anything that a file brings.

A checkpoint is `best.pt` (or the same as safetensors) with `weight` (n, m) and perhaps `bias` (n,), and
beside it, where it was published whole, `metadata.yaml` with `model_name`, `in_dim` (m), `out_dim` (n).

>>> import tempfile
>>> from sing_utils import Translator
>>> path = Path(tempfile.mkdtemp()) / "best.pt"
>>> torch.save({"weight": torch.eye(2, 3), "bias": torch.tensor([3.0, 4.0])}, path)
>>> T = Translator.from_checkpoint(path, m=3)
>>> T.weight.shape, T.meta["bias norm"]  # (n, m)
(torch.Size([2, 3]), '5')
>>> T(torch.zeros(3)), T(torch.zeros(3), with_bias=True)
(tensor([0., 0.]), tensor([3., 4.]))
"""

from __future__ import annotations

import hashlib
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch
import yaml
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from sing_utils.errors import SingError
from sing_utils.method.arrays import require_finite

_FLOATS = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
OTHERS = "is that of the classifier or encoder"


def read_checkpoint(
    path: Path, *, m: int | None = None, n: int | None = None
) -> tuple[Tensor, Tensor | None, dict[str, str]]:
    """Weight (n, m), bias (n,) or None, and what is known of them: see `Translator.from_checkpoint`."""
    weight, bias = _check_tensors(path, _read_tensors(path))
    metadata = _read_metadata(path.with_name("metadata.yaml"))
    check_widths(path, tuple(weight.shape), (n, m), OTHERS)
    declared = (metadata.get("out_dim"), metadata.get("in_dim"))
    check_widths(path, tuple(weight.shape), declared, "its metadata.yaml gives")
    meta = {"source": path.name, "sha256": hashlib.sha256(path.read_bytes()).hexdigest()}
    if "model_name" in metadata:
        meta["classifier"] = metadata["model_name"]
    if bias is not None:
        meta["bias norm"] = f"{float(torch.linalg.vector_norm(bias.double())):.6g}"
    return weight, bias, meta


def _read_tensors(path: Path) -> Any:
    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        # mmap: only what is used is read, and a file of an older format, which is one pickle, is refused.
        return torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except (FileNotFoundError, IsADirectoryError, PermissionError) as error:
        reason = error.strerror or type(error).__name__
        raise SingError(f"{path} can't be read ({reason}), expected a checkpoint: check the path.") from None
    except UnpicklingError:
        raise SingError(
            f"{path} holds pickled objects beside tensors, expected tensors only: reading them would run "
            "code; save `weight` and `bias` alone where you trust it."
        ) from None
    except (OSError, RuntimeError, SafetensorError, EOFError, ValueError) as error:
        script = "TorchScript" in str(error)
        what = "is a TorchScript archive, which is a program" if script else "is damaged or no checkpoint"
        raise SingError(
            f"{path} {what}, expected `weight` and `bias` written by torch.save or as safetensors."
        ) from None


def _check_tensors(path: Path, held: Any) -> tuple[Tensor, Tensor | None]:
    """The weight and the bias, copied: what was mapped goes when the file does."""
    known = isinstance(held, dict) and {"weight"} <= held.keys() <= {"weight", "bias"}
    if not known or not all(isinstance(x, Tensor) and x.dtype in _FLOATS for x in held.values()):
        found = ", ".join(map(str, list(held)[:6])) if isinstance(held, dict) else type(held).__name__
        raise SingError(
            f"{path} holds {found or 'nothing'}, expected one linear layer: floating-point tensors `weight` "
            "(n, m) and perhaps `bias` (n,)."
        )
    weight, bias = held["weight"], held.get("bias")
    if weight.ndim != 2 or 0 in weight.shape or (bias is not None and bias.shape != weight.shape[:1]):
        shapes = ", ".join(f"{k} {tuple(x.shape)}" for k, x in held.items())
        raise SingError(f"{path} holds {shapes}, expected weight (n, m) and bias (n,): no linear layer.")
    for name, x in held.items():
        require_finite(x, name=f"{name} of {path.name}")
    return weight.clone(), None if bias is None else bias.clone()


def _read_metadata(path: Path) -> dict[str, Any]:
    """What metadata.yaml says of model_name, in_dim and out_dim; nothing without one."""
    try:
        held = yaml.safe_load(path.read_text(encoding="utf-8"))
        known = {"model_name": str, "in_dim": int, "out_dim": int}
        found = {key: held[key] for key in known if key in held} if isinstance(held, dict) else None
        if found is None or not all(isinstance(found[key], known[key]) for key in found):
            raise TypeError
    except FileNotFoundError:
        return {}
    except (OSError, UnicodeDecodeError, yaml.YAMLError, TypeError):
        raise SingError(
            f"{path} is no metadata of a translator, expected model_name (text), in_dim and out_dim (whole "
            "numbers): mend it, or move it away."
        ) from None
    return found


def check_widths(path: Path, got: tuple[int, ...], wanted: tuple[Any, Any], who: str) -> None:
    """Raise a SingError unless a weight of shape `got` (n, m) has the wanted widths; None: any."""
    for what, have, want in zip(("gives embeddings", "takes features"), got, wanted, strict=True):
        if want is not None and have != want:
            raise SingError(
                f"{path} {what} of width {have}, expected {want}, which {who}: choose the translator that "
                "was fitted for them."
            )
