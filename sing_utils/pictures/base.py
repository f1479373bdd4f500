"""What turns embeddings into pictures, and what all ways to do so share: noise, norms, widths."""

from __future__ import annotations

from typing import Any, Protocol

import torch
from PIL import Image
from torch import Tensor
from torch.linalg import vector_norm

from sing_utils.checkout import DATA
from sing_utils.errors import SingError
from sing_utils.method.arrays import as_tensor, like, require_finite, require_width

MINI_WEIGHTS = DATA / "embedded" / "decoder"


class Pictures(Protocol):
    """Anything that turns embeddings into pictures."""

    @property
    def name(self) -> str:
        """What `load_pictures` was called with."""
        ...

    @property
    def dim(self) -> int:
        """n, the width of the embeddings it takes."""
        ...

    def __call__(self, z: Any, *, seed: int = 0, shared_noise: bool = True) -> list[Image.Image]:
        """Embeddings (B, n) -> B pictures.

        Args:
            z: embeddings; what is compared should have one norm, see `restore_norm`.
            seed: of all noise; the same seed gives the same pictures.
            shared_noise: one noise for all B pictures, so that a difference can only come from
                the embedding; else each picture has its own.
        """
        ...


def restore_norm(z_tilde: Any, z: Any) -> Any:
    """Give each equivalent's embedding the norm of its original's (eq. 14): (B, n), (B, n) -> (B, n).

    >>> import numpy as np
    >>> restore_norm(np.array([[3.0, 4.0]]), np.array([[0.0, 10.0]]))
    array([[6., 8.]])
    """
    x, y = as_tensor(z_tilde, name="z_tilde"), as_tensor(z, name="z")
    require_width(y, x.shape[-1], name="z")
    norm = vector_norm(x, dim=-1, keepdim=True)
    if bool((norm == 0).any()):
        raise SingError("z_tilde holds a zero vector, expected embeddings: it has no norm to restore.")
    return like(x * (vector_norm(y.to(x), dim=-1, keepdim=True) / norm), z_tilde)


def require_embeddings(z: Any, dim: int, name: str) -> Tensor:
    """`z` as (B, dim), or a SingError that says whose width does not fit."""
    x = as_tensor(z, name="z").detach()
    if x.ndim != 2 or not len(x):
        raise SingError(f"z has shape {tuple(x.shape)}, expected (B, {dim}): pass a row an embedding.")
    if x.shape[1] != dim:
        raise SingError(
            f"z has width {x.shape[1]}, expected {dim}, the width that {name!r} was trained for: "
            "choose the decoder that belongs to the encoder of your translator."
        )
    require_finite(x, name="z")
    return x


def noise_seeds(count: int, seed: int, shared: bool) -> list[int]:
    """The seed of each picture's noise: one for all, or one each, whatever the batch size."""
    return [seed if shared else seed + i for i in range(count)]


def draw_noise(shape: tuple[int, ...], seeds: list[int]) -> Tensor:
    """Gaussian noise of B rows, each from its own seed and of the given shape, drawn on the CPU."""
    rows = {s: torch.randn(shape, generator=torch.Generator().manual_seed(s)) for s in set(seeds)}
    return torch.stack([rows[s] for s in seeds])


def require_diffusers() -> Any:
    """The module diffusers, or a SingError that says how to get it."""
    try:
        import diffusers
    except ImportError:
        raise SingError(
            "diffusers is not installed, expected it for pictures: run `pip install -e '.[pictures]'`."
        ) from None
    return diffusers
