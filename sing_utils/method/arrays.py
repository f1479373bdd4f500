"""One boundary between numpy and torch, so that the maths below is written once."""

from __future__ import annotations

import math
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor

from sing_utils.errors import SingError

Array = TypeVar("Array", np.ndarray, Tensor)


def as_tensor(x: Any, *, name: str) -> Tensor:
    """`x` as a floating-point tensor on its own device, sharing memory where it can.

    Raises:
        SingError: if `x` is not a real floating-point or integer array.
    """
    if not isinstance(x, Tensor):
        try:
            a = np.ascontiguousarray(x)
            x = torch.from_numpy(a.astype(a.dtype.newbyteorder("="), copy=False))  # files may be big-endian
        except (TypeError, ValueError):
            raise SingError(
                f"{name} is a {type(x).__name__}, expected an array of numbers: pass a tensor or numpy array."
            ) from None
    require_plain(x, name=name)
    if x.is_complex() or x.dtype == torch.bool:
        raise SingError(f"{name} has dtype {x.dtype}, expected real numbers: convert it to float32.")
    return x if x.is_floating_point() else x.to(torch.float64)


def require_plain(x: Any, *, name: str) -> None:
    """Raise a SingError for a tensor that is sparse, quantised, or on the device meta."""
    if isinstance(x, Tensor) and (x.is_meta or x.is_quantized or x.layout != torch.strided):
        raise SingError(
            f"{name} is sparse, quantised or without values, expected plain numbers: use to_dense() or "
            "dequantize() before it is saved."
        )


def like(x: Tensor, original: Any) -> Any:
    """`x` in the array library of `original`."""
    return x if isinstance(original, Tensor) else x.cpu().numpy()


def require_finite(x: Tensor, *, name: str) -> None:
    """Raise a SingError that counts the NaN and infinite entries of `x`, if there are any."""
    if math.isfinite(x.detach().sum()):  # quicker, and only where all are finite
        return
    if bad := int((~torch.isfinite(x)).sum()):  # else the sum was too large
        raise SingError(
            f"{name} holds {bad} NaN or infinite values, expected finite numbers: "
            "check where it was computed or loaded."
        )


def require_width(x: Tensor, width: int, *, name: str) -> None:
    """Raise a SingError unless the last axis of `x` has length `width`."""
    got = x.shape[-1] if x.ndim else None
    if got != width:
        raise SingError(
            f"{name} has width {got} (shape {tuple(x.shape)}), expected {width}: "
            "it must come from the same model."
        )
