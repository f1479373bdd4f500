"""Vision-language encoders: the embedded one, others by name, and the judge of a classifier.

>>> from PIL import Image
>>> from sing_utils.models.encoders import load_encoder
>>> encoder = load_encoder("embedded")
>>> encoder.encode_text(["a cat", "a rocket"]).shape  # (K, n)
torch.Size([2, 320])
>>> encoder.encode_images([Image.new("RGB", (64, 64))]).shape  # (B, n)
torch.Size([1, 320])
>>> judge = encoder.judge_of("efficientnet_lite0")  # does not see what it judges
>>> judge.encoder.towers
('efficientnet_lite1', 'efficientnet_lite2')
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cache
from pathlib import Path
from pkgutil import resolve_name
from typing import TYPE_CHECKING

import torch
from PIL import Image
from safetensors.torch import load
from torch import Tensor
from torch.nn.functional import normalize

from sing_utils.checkout import DATA
from sing_utils.errors import SingError, misnamed
from sing_utils.method.arrays import as_tensor, require_finite, require_width
from sing_utils.models.classifiers import load_classifier
from sing_utils.models.clip import load_karlo_clip, load_open_clip, parse_open_clip
from sing_utils.models.judges import Encoder, Judge
from sing_utils.models.minilm import embed_minilm, read_checked

if TYPE_CHECKING:
    from sing_utils.features.store import FeatureStore

EMBEDDED_WEIGHTS = DATA / "embedded" / "encoder"
_COMPARED = 256  # pictures that tell a tower's features from others


def judge_of_stores(encoder: Encoder, features: FeatureStore, embeddings: FeatureStore) -> Judge:
    """The encoder without the towers that the network of `features` is built on.

    Where a store does not say which network made it (`FeatureStore.from_arrays`), its features are compared
    with what each tower made of the same pictures.

    Args:
        encoder: whole.
        features: of a classifier.
        embeddings: of the encoder, of the same pictures.
    """
    identity = features.manifest["extractor"]
    if not features.network:
        f, towers = next(features.batches("features"))[:_COMPARED], set(encoder.towers) & {*embeddings.names}
        found = {t: next(embeddings.batches(t))[:_COMPARED] for t in sorted(towers)}
        own = [t for t, z in found.items() if _comes_from(encoder, t, f, z)]
        identity = identity | {"holds": ", ".join(own)}
    return encoder.judge_of(identity)


def _comes_from(encoder: Encoder, tower: str, f: Tensor, z: Tensor) -> bool:
    """Whether features (B, m) give a tower's embeddings (B, n) of the same pictures, whatever their scale.

    On photographs the towers' own features give 1.00, with noise of half their spread 0.9, and those of other
    networks at most 0.5.
    """
    f, z = f[: len(z)].double(), normalize(z[: len(f)].double(), dim=-1)
    basis = [f] if f.shape[1] == z.shape[1] else []  # the embedding itself, before it was normalised
    if isinstance(encoder, EmbeddedEncoder) and f.shape[1] == encoder.heads[tower].weight.shape[1]:
        A, a = encoder.heads[tower].weight.double(), encoder.heads[tower].bias.double()
        basis = [f @ A.mT, a.expand_as(z)]
    if not basis:
        return False
    Q = torch.linalg.qr(torch.stack(basis, -1)).Q  # (B, n, 1 or 2)
    return float((Q.mT @ z[..., None]).norm(dim=1).mean()) > 0.8


# ------------------------------------------------------------------------- the embedded encoder


@dataclass(frozen=True, eq=False)
class ImageHead:
    """A tower's pooled features into the shared space, z = A f + a: weight (n, m), bias (n,)."""

    weight: Tensor
    bias: Tensor

    def __call__(self, f: Tensor) -> Tensor:
        """(B, m) -> (B, n), not normalised."""
        return f @ self.weight.mT + self.bias


@dataclass(frozen=True, eq=False)
class EmbeddedEncoder(Encoder):
    """The project's own small vision-language model (see data/embedded/README.md).

    Its image towers are classifiers, each with a linear head of its own; its text tower is
    all-MiniLM-L6-v2 with one fixed linear map; they return unit vectors.

    Attributes:
        name: "embedded".
        dim: n, the width of the shared space.
        towers: names of classifiers, as `load_classifier` knows them.
        heads: one `ImageHead` a tower.
        text_mean: (384,), subtracted from a text's MiniLM embedding.
        text_weight: (n, 384), then applied to it.
        sha256: of the weights.
    """

    name: str
    dim: int
    towers: tuple[str, ...]
    heads: Mapping[str, ImageHead] = field(repr=False)
    text_mean: Tensor = field(repr=False)
    text_weight: Tensor = field(repr=False)
    sha256: str = field(repr=False)

    @property
    def identity(self) -> dict[str, str]:
        """What its embeddings depend on; part of a feature store's key."""
        towers = {f"tower {t}": json.dumps(load_classifier(t).identity) for t in self.towers}
        return {"name": self.name, "weights": self.sha256, **towers}

    @property
    def device(self) -> torch.device:
        """Where its towers are; its heads are small and stay on the CPU."""
        return load_classifier(self.towers[0]).device

    def prepare(self, image: Image.Image) -> dict[str, Tensor]:
        """One picture as each tower wants it: {tower: (3, H, W)}."""
        return {t: load_classifier(t).prepare(image) for t in self.towers}

    @torch.inference_mode()
    def compute(self, batch: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Prepared pictures {tower: (B, 3, H, W)} -> {tower: (B, n)}, normalised."""
        features = {t: load_classifier(t)(batch[t]).features.cpu() for t in self.towers}
        return {t: self.embed_features(t, f) for t, f in features.items()}

    @torch.inference_mode()
    def encode_text(self, texts: Sequence[str]) -> Tensor:
        """K texts -> (K, n); any English phrase or sentence of at most 256 word pieces.

        Raises:
            SingError: for a longer text, or what is no text.
        """
        t = embed_minilm(texts)  # (K, 384)
        return normalize((t - self.text_mean) @ self.text_weight.mT, dim=-1)

    @torch.inference_mode()
    def embed_features(self, tower: str, f: Tensor) -> Tensor:
        """Pooled features of one tower's classifier, (B, m) -> (B, n), normalised.

        Raises:
            SingError: for a tower this encoder does not have, or features of another width.
        """
        head = self.heads[self._require_tower(tower)]
        x = as_tensor(f, name="f").to(torch.float32)
        require_width(x, head.weight.shape[1], name="f")
        require_finite(x, name="f")
        return normalize(head(x), dim=-1)

    def only(self, *towers: str) -> EmbeddedEncoder:
        """The same encoder with some of its towers."""
        return replace(self, towers=tuple(self._require_tower(t) for t in towers))

    def _require_tower(self, tower: str) -> str:
        if tower not in self.towers:
            raise SingError(f"unknown tower {tower!r}, expected one of {', '.join(self.towers)}.")
        return tower


# ------------------------------------------------------------------------- loading by name


def load_embedded(folder: str | Path = EMBEDDED_WEIGHTS) -> EmbeddedEncoder:
    """Load the embedded encoder's weights from `folder`, checked against its manifest.json.

    Raises:
        SingError: if a file is missing or was changed.
    """
    folder = Path(folder)
    try:
        manifest = json.loads((folder / "manifest.json").read_text())
        files, towers = dict(manifest["files"]), tuple(manifest["towers"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise SingError(
            f"{folder / 'manifest.json'} can't be read ({type(error).__name__}), expected the list of "
            "the embedded encoder's weights: restore it from the repository."
        ) from None
    again = "restore it from the repository, or rebuild it with data/embedded/build"
    tensors = {}
    for file, digest in files.items():
        data = load(read_checked(folder / file, digest, again))
        tensors[Path(file).stem] = {k: v.to(torch.float32) for k, v in data.items()}
    heads = {t: ImageHead(tensors[t]["weight"], tensors[t]["bias"]) for t in towers}
    text = tensors["text"]
    sha256 = hashlib.sha256(json.dumps(files, sort_keys=True).encode()).hexdigest()
    n = len(text["weight"])
    return EmbeddedEncoder("embedded", n, towers, heads, text["mean"], text["weight"], sha256)


_PLANTED = ("planted", "planted:weak")
_KINDS = ("embedded", *_PLANTED, "karlo", "karlo:FOLDER", "open_clip:MODEL/PRETRAINED")


def require_encoder(name: str) -> None:
    """Raise a SingError that names the nearest known encoder unless `name` is one; nothing is loaded."""
    kind, _, source = name.partition(":")
    if kind == "open_clip":
        parse_open_clip(name)
    elif kind != "karlo" or not source:
        if name not in ("embedded", *_PLANTED, "karlo"):
            raise misnamed("encoder", name, _KINDS)
    elif not Path(source).is_dir() and not re.fullmatch(r"[\w.-]+/[\w.-]+", source):
        raise SingError(
            f"encoder {name!r}: {source} is no folder, expected one with image_encoder, text_encoder, "
            "tokenizer and feature_extractor in it: check the path."
        )


def load_encoder(name: str, *, rehearse: bool = False) -> Encoder:
    """Load a vision-language encoder by name, once a process.

    Args:
        name: embedded; planted or planted:weak; karlo or karlo:FOLDER; open_clip:MODEL/TAG[@REVISION] or
            open_clip:MODEL/FILE.
        rehearse: the same architecture with random weights, and nothing is downloaded. The embedded
            encoder and the planted ones stay as they are: they come with the book.

    Raises:
        SingError: for an unknown name, weights that were changed, that are missing and can't be fetched,
            or that would run code when they are read.
    """
    require_encoder(name)
    return _loaded(name, rehearse and name not in ("embedded", *_PLANTED))


@cache
def _loaded(name: str, rehearse: bool) -> Encoder:
    if name == "embedded":
        return load_embedded()
    if name in _PLANTED:
        encoder: Encoder = resolve_name("sing_utils.planted.networks:load_planted_encoder")(name)
        return encoder
    load = load_open_clip if name.startswith("open_clip:") else load_karlo_clip
    return load(name, rehearse=rehearse)
