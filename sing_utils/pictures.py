"""From an embedding to a picture: a decoder (mini UnCLIP, Karlo), or the nearest photographs.

All are called alike: embeddings (B, n) in, B pictures out.

    >>> import torch
    >>> from sing_utils.pictures import load_pictures, restore_norm
    >>> decoder = load_pictures("mini")
    >>> z = torch.nn.functional.normalize(torch.ones(2, decoder.dim), dim=-1)  # (B, n)
    >>> pictures = decoder(z, seed=0)
    >>> pictures[0].size, pictures[0] == pictures[1]  # same embedding and noise, same picture
    ((64, 64), True)

A comparison is honest only if noise and norm are shared: `shared_noise` starts every picture of a
call from the same noise, and `restore_norm` (eq. 14) gives an equivalent the length of its original.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any, Protocol

import pandas as pd
import torch
from PIL import Image
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor
from torch.linalg import vector_norm

from sing_utils.arrays import as_tensor, like, require_finite, require_width
from sing_utils.encoders import Encoder
from sing_utils.errors import SingError
from sing_utils.features import FeatureStore, extract, list_pictures, read_picture
from sing_utils.scores import pairwise_angle

MINI_WEIGHTS = Path(__file__).parents[1] / "data" / "embedded" / "decoder"
KARLO_WIDTH = 768  # of CLIP ViT-L/14, for which the published Karlo was trained
_CHUNK = 256  # embeddings a product in the search, so that memory stays bounded


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


# ------------------------------------------------------------------------------ mini UnCLIP


@dataclass(frozen=True, eq=False)
class MiniUnCLIP:
    """The embedded profile's decoder: a small rectified flow, 64 x 64 pixels (data/embedded).

    Attributes:
        name: "mini".
        dim: n.
        unet: velocity network; its channels are components of patches of p x p pixels.
        mean, basis: a patch from its components, mean (3 p p,) and basis (3 p p, channels).
        scheduler: of the flow.
        steps: Euler steps from noise to picture.
        guidance: how far the velocity is pushed away from the one without an embedding; 1 is none.
        batch_size: pictures a forward pass.
    """

    name: str
    dim: int
    unet: Any = field(repr=False)
    mean: Tensor = field(repr=False)
    basis: Tensor = field(repr=False)
    scheduler: Any = field(repr=False)
    steps: int = 24
    guidance: float = 2.0
    batch_size: int = 64

    @classmethod
    def load(cls, folder: str | Path = MINI_WEIGHTS, *, name: str = "mini", **options: Any) -> MiniUnCLIP:
        """Load the weights of `folder`; `options` replace steps, guidance or batch size.

        Raises:
            SingError: if diffusers is missing, or the weights are missing or damaged.
        """
        diffusers = require_diffusers()
        folder = Path(folder)
        bars = diffusers.utils.logging
        shown = bars.is_progress_bar_enabled()
        bars.disable_progress_bar()  # four small files
        try:
            patches = load_file(folder / "patches.safetensors")
            unet = diffusers.UNet2DConditionModel.from_pretrained(folder / "unet", dtype=torch.float32)
            scheduler = diffusers.FlowMatchEulerDiscreteScheduler.from_pretrained(folder / "scheduler")
        except (OSError, ValueError, SafetensorError) as error:
            raise SingError(
                f"no mini UnCLIP in {folder} ({str(error).splitlines()[0][:120]}), expected unet, scheduler "
                "and patches.safetensors: restore data/embedded/decoder from the repository, or train one "
                "with data/embedded/build/train_decoder.py."
            ) from None
        finally:
            if shown:
                bars.enable_progress_bar()
        unet = unet.to(_device()).eval().requires_grad_(False)
        mean, basis = (patches[k].to(unet.device) for k in ("mean", "basis"))
        width = unet.config.projection_class_embeddings_input_dim
        return cls(name, width, unet, mean, basis, scheduler, **options)

    @torch.inference_mode()
    def __call__(self, z: Any, *, seed: int = 0, shared_noise: bool = True) -> list[Image.Image]:
        """Embeddings (B, n) -> B pictures of 64 x 64 pixels; see `Pictures`."""
        x = require_embeddings(z, self.dim, self.name)
        seeds = noise_seeds(len(x), seed, shared_noise)
        starts = range(0, len(x), self.batch_size)
        parts = [self._draw(x[s : s + self.batch_size], seeds[s : s + self.batch_size]) for s in starts]
        pixels = torch.cat(parts).add(1).mul(127.5).clamp(0, 255).round().byte()
        return [Image.fromarray(p.permute(1, 2, 0).cpu().numpy()) for p in pixels]

    def _draw(self, z: Tensor, seeds: list[int]) -> Tensor:
        """One batch: (B, n) -> (B, 3, H, W), about -1..1."""
        config = self.unet.config
        shape = (config.in_channels, config.sample_size, config.sample_size)
        x = draw_noise(shape, seeds).to(self.unet.device)  # (B, channels, H / p, W / p)
        given = z.to(x) * self.dim**0.5  # the network was trained on entries of about 1
        given = torch.cat([given, torch.zeros_like(given)])
        self.scheduler.set_timesteps(self.steps)
        for t in self.scheduler.timesteps:
            both = self.unet(torch.cat([x, x]), t, encoder_hidden_states=None, class_labels=given).sample
            with_z, without = both.chunk(2)
            velocity = without + self.guidance * (with_z - without)
            x = self.scheduler.step(velocity, t, x).prev_sample
        patches = torch.einsum("bchw,pc->bphw", x, self.basis) + self.mean[:, None, None]
        return torch.nn.functional.pixel_shuffle(patches, round((len(self.mean) / 3) ** 0.5))


def draw_noise(shape: tuple[int, ...], seeds: list[int]) -> Tensor:
    """Gaussian noise (B, *shape), each row from its own seed and always drawn on the CPU."""
    rows = {s: torch.randn(shape, generator=torch.Generator().manual_seed(s)) for s in set(seeds)}
    return torch.stack([rows[s] for s in seeds])


def require_diffusers() -> Any:
    """The module diffusers, or a SingError that says how to get it."""
    try:
        import diffusers
    except ImportError:
        raise SingError(
            "diffusers is not installed, expected it for pictures: run `pip install 'sing_utils[pictures]'`."
        ) from None
    return diffusers


def _device() -> torch.device:
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


# ---------------------------------------------------------------------- nearest photographs


@dataclass(frozen=True, eq=False)
class NearestPhotos:
    """The photographs of a collection whose embeddings have the smallest angle; exact search.

    Attributes:
        name: of the collection.
        embeddings: (N, n).
        index: N rows with at least the column path.
        folder: where the pictures are; None: they can be named but not shown.
    """

    name: str
    embeddings: Tensor = field(repr=False)
    index: pd.DataFrame = field(repr=False)
    folder: Path | None = None

    @classmethod
    def of_store(cls, store: FeatureStore, encoder: Encoder, folder: Path | None = None) -> NearestPhotos:
        """The pictures of a store that `extract(encoder, ...)` made."""
        z = encoder.combine({tower: store.read(tower) for tower in encoder.towers})
        return cls(f"photos:{folder or store.path}", z, store.index.reset_index(drop=True), folder)

    @classmethod
    def of_folder(cls, folder: Path, encoder: Encoder, store: Path) -> NearestPhotos:
        """The pictures below `folder`, embedded into `store` on first use."""
        return cls.of_store(extract(encoder, folder, store, dtype="float16"), encoder, folder)

    @property
    def dim(self) -> int:
        """Width n of the embeddings."""
        return self.embeddings.shape[1]

    def search(self, z: Any, *, k: int = 5) -> pd.DataFrame:
        """The k nearest photographs of each embedding: (B, n) -> B k rows.

        Returns:
            query (row of z), place (from 1), path, angle (degrees), and the index's other columns.

        Raises:
            SingError: for embeddings of another width, or k outside 1 to N.
        """
        x = require_embeddings(z, self.dim, self.name)
        if not 1 <= k <= len(self.index):
            raise SingError(f"k is {k}, expected 1 to {len(self.index)}, the number of photographs.")
        best = [pairwise_angle(q, self.embeddings.to(q)).topk(k, largest=False) for q in x.split(_CHUNK)]
        angles = torch.cat([b.values for b in best]).flatten()  # (B k,)
        rows = torch.cat([b.indices for b in best]).flatten().tolist()
        found = self.index.iloc[rows].reset_index(drop=True)
        query = torch.arange(len(x)).repeat_interleave(k).numpy()
        place = torch.arange(1, k + 1).repeat(len(x)).numpy()
        return found.assign(query=query, place=place, angle=angles.cpu().numpy())

    def __call__(self, z: Any, *, seed: int = 0, shared_noise: bool = True) -> list[Image.Image]:
        """The nearest photograph of each embedding; there is no noise, so the options do nothing."""
        if self.folder is None:
            raise SingError(
                f"{self.name} has features but no pictures to show, expected a folder: use photos:FOLDER, "
                "or `search`, which names the photographs."
            )
        return [read_picture(self.folder / path) for path in self.search(z, k=1)["path"]]


def _photos(folder: Path, encoder: Encoder, base: Path) -> NearestPhotos:
    """The photographs of a folder, or of a feature store, which can be named but not shown.

    A folder's embeddings are kept under _build until a file of it changes.
    """
    if (folder / "manifest.json").is_file():
        return NearestPhotos.of_store(FeatureStore.open(folder), encoder)
    paths = list_pictures(folder)["path"].tolist()
    stats = [(s.st_size, s.st_mtime_ns) for s in ((folder / p).stat() for p in paths)]
    text = json.dumps([encoder.identity, paths, stats])
    key = hashlib.sha256(text.encode()).hexdigest()[:16]
    return NearestPhotos.of_folder(folder, encoder, base / "_build" / "nearest" / key)


# ------------------------------------------------------------------------------ by name


@cache
def _decoder(kind: str, source: str, **options: Any) -> Pictures:
    """A generative decoder, loaded once a process."""
    if kind == "mini":
        name = f"mini:{source}" if source else "mini"
        return MiniUnCLIP.load(source or MINI_WEIGHTS, name=name, **options)
    from sing_utils.karlo import REPOSITORY, Karlo

    return Karlo.load(source or REPOSITORY, **options)


def require_backend(name: str) -> str:
    """`name`, or a SingError if there is no such way to pictures."""
    kind, _, source = name.partition(":")
    if kind not in ("mini", "karlo") and not (kind == "photos" and source):
        raise SingError(
            f"unknown picture backend {name!r}, expected mini or karlo (with :FOLDER for weights of your "
            "own), or photos:FOLDER."
        )
    return name


def load_pictures(
    name: str, *, encoder: Encoder | None = None, base: Path | None = None, **options: Any
) -> Pictures:
    """Load a way from embeddings to pictures by name.

    Args:
        name: "mini" (the embedded profile's decoder), "karlo" (UnCLIP, fetched from the model hub or
            found in its cache), either with ":FOLDER" for weights of your own, or "photos:FOLDER".
        encoder: whose embeddings will be given; must fit in width; needed for photos.
        base: folder that a relative FOLDER starts from; None: the working folder.
        options: of `MiniUnCLIP.load` or `Karlo.load`, such as steps or save_memory.

    Raises:
        SingError: for an unknown name or option, missing weights, or a decoder of another width.
    """
    kind, source = _split(name, base or Path.cwd())
    if encoder is not None:
        require_fit(name, encoder, base=base)  # before gigabytes are loaded
    if kind == "photos":
        if encoder is None:
            raise SingError(f"{name} needs an encoder, expected the one whose embeddings will be given.")
        return _photos(Path(source), encoder, base or Path.cwd())
    try:
        return _decoder(kind, source, **options)
    except TypeError as error:
        raise SingError(f"{name} takes no such options: {error}.") from None


def require_fit(name: str, encoder: Encoder, *, base: Path | None = None) -> None:
    """Raise a SingError if a backend's folder is missing, or says that it needs another width.

    Looks at settings only, so that a long run does not find out in its last notebook.
    """
    kind, source = _split(name, base or Path.cwd())
    if kind == "photos":
        if not (Path(source) / "manifest.json").is_file():
            list_pictures(source)
        return
    width = KARLO_WIDTH if kind == "karlo" and not source else None
    folder = Path(source) if source else MINI_WEIGHTS
    if kind == "mini" or folder.is_dir():
        width = width or _width_of(kind, folder)
    if width is not None and width != encoder.dim:
        raise SingError(
            f"the decoder {name!r} takes embeddings of width {width}, but the encoder {encoder.name!r} "
            f"gives {encoder.dim}: choose the decoder that belongs to the encoder."
        )


def _split(name: str, base: Path) -> tuple[str, str]:
    """Kind and source of a backend; a relative folder becomes absolute, a repository stays."""
    kind, _, source = require_backend(name).partition(":")
    is_folder = kind != "karlo" or (base / source).is_dir()
    return kind, str(base / source) if source and is_folder else source


def _width_of(kind: str, folder: Path) -> int:
    """The width that the settings in a decoder's folder name."""
    file, key = {
        "mini": (folder / "unet" / "config.json", "projection_class_embeddings_input_dim"),
        "karlo": (folder / "text_proj" / "config.json", "clip_embeddings_dim"),
    }[kind]
    try:
        return int(json.loads(file.read_text())[key])
    except (OSError, ValueError, KeyError):
        what = "mini UnCLIP" if kind == "mini" else "whole UnCLIP pipeline"
        mend = (
            "restore data/embedded/decoder from the repository, or train one with "
            "data/embedded/build/train_decoder.py"
            if kind == "mini"
            else "write it with `pipeline.save_pretrained`"
        )
        raise SingError(
            f"no {what} in {folder} ({file.relative_to(folder)} is missing or damaged), expected its "
            f"weights and settings: {mend}."
        ) from None
