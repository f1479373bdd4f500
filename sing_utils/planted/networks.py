"""The networks of the planted world: backbones, the encoder, and the renderer that reads embeddings.

All are small and were trained on scenes by data/planted/build/train.py; weights are in data/planted.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from safetensors.torch import load_file
from timm.models.byobnet import ByoBlockCfg, ByobNet, ByoModelCfg
from torch import Tensor, nn
from torch.nn.functional import normalize

from sing_utils.checkout import DATA
from sing_utils.errors import SingError
from sing_utils.models.judges import Encoder
from sing_utils.models.weights import file_digest
from sing_utils.pictures.base import require_embeddings
from sing_utils.planted.scenes import CENTRE, COLOURS, FACTORS, HEIGHT, RADIUS, SIDE, Look, draw, words

WEIGHTS = DATA / "planted" / "weights"
BACKBONES = 5
WIDTH = 128  # of the pooled features
DIM = 48  # n, of the shared space
_LENGTH = 24  # words of a text, at most
_BATCH = 256


def build_backbone(channels: Sequence[int] = (16, 32, 48, 64)) -> nn.Module:
    """A small residual network: scenes (B, 3, 48, 48) -> pooled features (B, 128)."""
    stages = tuple(
        ByoBlockCfg(type="basic", d=1, c=c, s=s, gs=0) for c, s in zip(channels, (1, 2, 2, 2), strict=True)
    )
    config = ByoModelCfg(blocks=stages, stem_chs=channels[0], stem_pool=None, num_features=WIDTH)
    return ByobNet(config, num_classes=0)


def prepare_scene(image: Image.Image) -> Tensor:
    """A picture -> (3, 48, 48), entries -1..1."""
    pixels = np.asarray(image.convert("RGB").resize((SIDE, SIDE)), dtype=np.float32)
    return torch.from_numpy(pixels).permute(2, 0, 1) / 127.5 - 1


def as_batch(pictures: np.ndarray) -> Tensor:
    """Pictures (N, 48, 48, 3), uint8 -> (N, 3, 48, 48), entries -1..1."""
    return torch.from_numpy(pictures).permute(0, 3, 1, 2).float() / 127.5 - 1


@torch.inference_mode()
def pooled(model: nn.Module, pictures: np.ndarray) -> Tensor:
    """A network on many pictures: (N, 48, 48, 3), uint8 -> (N, outputs)."""
    return torch.cat([model(as_batch(pictures[i : i + _BATCH])) for i in range(0, len(pictures), _BATCH)])


@cache
def load_backbone(number: int) -> nn.Module:
    """One of the trained backbones, in evaluation mode."""
    if not 0 <= number < BACKBONES:
        raise SingError(f"backbone {number} does not exist, expected 0 to {BACKBONES - 1}.")
    model = build_backbone()
    _load(model, f"backbone{number}")
    return model


def _load(model: nn.Module, name: str, folder: Path = WEIGHTS) -> None:
    file = folder / f"{name}.safetensors"
    if not file.is_file():
        raise SingError(f"{file} is missing, expected weights: restore it from the repository.")
    tensors = {k: v.float() if v.is_floating_point() else v for k, v in load_file(file).items()}
    model.load_state_dict(tensors)
    model.eval().requires_grad_(False)


# ---------------------------------------------------------------------------------- the encoder


class TextTower(nn.Module):
    """Words of the planted world -> (B, n). A word that the world does not use is an error."""

    def __init__(self, dim: int, width: int = 64) -> None:
        super().__init__()
        self.vocabulary = {word: i + 1 for i, word in enumerate(words())}
        self.embed = nn.Embedding(len(self.vocabulary) + 1, width, padding_idx=0)
        self.place = nn.Parameter(0.02 * torch.randn(_LENGTH, width))
        layer = nn.TransformerEncoderLayer(width, 4, 128, 0.0, "gelu", batch_first=True, norm_first=True)
        self.layers = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)
        self.out = nn.Linear(width, dim)

    def tokens(self, texts: Sequence[str]) -> Tensor:
        """K texts -> (K, 24) word numbers, 0 where there is none."""
        if isinstance(texts, str):
            raise SingError(f"got one string, expected a list of texts: pass [{texts!r}].")
        rows = torch.zeros(len(texts), _LENGTH, dtype=torch.long)
        for i, text in enumerate(texts):
            said = text.lower().replace(",", " ").replace(".", " ").split()
            unknown = [w for w in said if w not in self.vocabulary]
            if unknown or not 0 < len(said) <= _LENGTH:
                raise SingError(
                    f"the planted encoder can't read {text!r}"
                    + (f" (it does not know {unknown[0]!r})" if unknown else "")
                    + f", expected 1 to {_LENGTH} of its words: {', '.join(self.vocabulary)}."
                )
            rows[i, : len(said)] = torch.tensor([self.vocabulary[w] for w in said])
        return rows

    def forward(self, tokens: Tensor) -> Tensor:
        """Word numbers (B, 24) -> (B, n), not normalised."""
        there = tokens > 0  # (B, 24)
        x = self.layers(self.embed(tokens) + self.place, src_key_padding_mask=~there)  # (B, 24, width)
        mean = (x * there[..., None]).sum(1) / there.sum(1, keepdim=True)  # (B, width)
        return self.out(mean)


class TwoTowers(nn.Module):
    """An image and a text tower with one shared space, trained on scenes and their captions."""

    def __init__(self, channels: Sequence[int], dim: int = DIM) -> None:
        super().__init__()
        self.image = nn.Sequential(build_backbone(channels), nn.Linear(WIDTH, dim))
        self.text = TextTower(dim)
        self.log_scale = nn.Parameter(torch.tensor(2.66))  # CLIP's 1 / 0.07


STRONG, WEAK = (24, 48, 64, 96), (8, 8, 8, 8)
TOWER = "scenes-and-captions"  # its own network, not a backbone
ENCODERS = {"planted": STRONG, "planted:weak": WEAK}


@dataclass(frozen=True, eq=False)
class PlantedEncoder(Encoder):
    """The planted world's vision-language model; see `sing_utils.models.judges.Encoder`.

    Attributes:
        name: "planted", or "planted:weak", which has a smaller image tower and was trained less.
        model: its towers.
        sha256: of the weights.
    """

    name: str
    model: TwoTowers = field(repr=False)
    sha256: str = field(repr=False)
    dim: int = DIM
    BATCH = _BATCH

    @property
    def towers(self) -> tuple[str, ...]:
        """One: no classifier of the planted world has a part in it."""
        return (TOWER,)

    @property
    def identity(self) -> dict[str, str]:
        """As `features.Extractor` wants it."""
        return {"name": self.name, "weights": self.sha256}

    def prepare(self, image: Image.Image) -> Tensor:
        """A picture -> (3, 48, 48)."""
        return prepare_scene(image)

    @torch.inference_mode()
    def compute(self, batch: Tensor) -> dict[str, Tensor]:
        """Prepared pictures (B, 3, 48, 48) -> {tower: (B, n)}, normalised."""
        return {TOWER: normalize(self.model.image(batch), dim=-1)}

    def encode_pictures(self, pictures: np.ndarray) -> Tensor:
        """(N, 48, 48, 3), uint8 -> (N, n), normalised."""
        return normalize(pooled(self.model.image, pictures), dim=-1)

    @torch.inference_mode()
    def encode_text(self, texts: Sequence[str]) -> Tensor:
        """K texts -> (K, n), normalised.

        Raises:
            SingError: for a word that the planted world does not use.
        """
        return normalize(self.model.text(self.model.text.tokens(texts)), dim=-1)

    def combine(self, embeddings: Mapping[str, Tensor]) -> Tensor:
        """{tower: (B, n)} -> (B, n)."""
        return embeddings[TOWER]


@cache
def load_planted_encoder(name: str = "planted") -> PlantedEncoder:
    """The encoder "planted" or "planted:weak".

    Raises:
        SingError: for another name.
    """
    if name not in ENCODERS:
        raise SingError(f"unknown planted encoder {name!r}, expected one of {', '.join(ENCODERS)}.")
    model = TwoTowers(ENCODERS[name])
    file = name.replace("planted", "encoder").replace(":", "-")
    _load(model, file)
    return PlantedEncoder(name, model, file_digest(WEIGHTS / f"{file}.safetensors"))


# --------------------------------------------------------------------------- reading embeddings


@dataclass(frozen=True, eq=False)
class Reader:
    """Reads the factors off an embedding: one softmax regression a factor, on the unit vector.

    Attributes:
        weight: (34, n), the factors' levels one after the other.
        bias: (34,).
    """

    weight: Tensor
    bias: Tensor

    def __call__(self, z: Tensor) -> dict[str, Tensor]:
        """Embeddings (B, n) -> {factor: probabilities of its levels (B, levels)}."""
        logits = normalize(z.float(), dim=-1) @ self.weight.mT + self.bias
        parts = logits.split([len(v) for v in FACTORS.values()], dim=-1)
        return {f: part.softmax(-1) for f, part in zip(FACTORS, parts, strict=True)}


@cache
def load_reader() -> Reader:
    """The reader of the encoder "planted"."""
    tensors = load_file(WEIGHTS / "reader.safetensors")
    return Reader(tensors["weight"].float(), tensors["bias"].float())


@dataclass(frozen=True, eq=False)
class Renderer:
    """Draws what a `Reader` reads: a picture backend that is exact about what it knows.

    Colours, sizes and places are mixed by their probabilities, and patterns are as strong as theirs:
    what an embedding does not say becomes grey, faint and in the middle. Only the shape is the likeliest.
    """

    name: str = "planted"
    dim: int = DIM

    def __call__(self, z: Any, *, seed: int = 0, shared_noise: bool = True) -> list[Image.Image]:
        """Embeddings (B, n) -> B pictures. What counts as noise is the turn and where patterns begin."""
        x = require_embeddings(z, self.dim, self.name)
        read = {f: p.numpy() for f, p in load_reader()(x).items()}
        return [
            draw(self._look({f: p[i] for f, p in read.items()}, seed if shared_noise else seed + i))
            for i in range(len(x))
        ]

    def _look(self, p: dict[str, np.ndarray], seed: int) -> Look:
        rng = np.random.default_rng(seed)
        turn, phase = float(rng.uniform(-10, 10)), rng.uniform(0, 12, 2)

        def mixed(factor: str) -> tuple[float, float, float]:
            return tuple(p[factor] @ np.array([COLOURS[v] for v in FACTORS[factor]], dtype=float))

        return Look(
            shape=FACTORS["shape"][int(p["shape"].argmax())],
            colour=mixed("colour"),
            radius=float(p["size"] @ list(RADIUS.values())),
            centre=(float(p["position"] @ list(CENTRE.values())), HEIGHT),
            turn=turn,
            spots=float(p["texture"][1]),
            stripes=float(p["texture"][2]),
            ground=mixed("background"),
            checks=float(p["pattern"][1]),
            waves=float(p["pattern"][2]),
            cloud=float(p["cloud"][1]),
            phase=(float(phase[0]), float(phase[1])),
        )
