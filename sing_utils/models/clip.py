"""An encoder with one image tower and one text tower, as CLIP is; whichever library computes them.

>>> encoder = ClipEncoder(
...     "toy", 3, {"name": "toy"}, lambda image: torch.ones(3, 2, 2), lambda x: x.mean((2, 3)),
...     lambda texts: torch.tensor([[len(t)] for t in texts]), lambda ids: ids * torch.ones(3),
...     torch.device("cpu"),
... )
>>> encoder.encode_images([Image.new("RGB", (9, 9))]) @ encoder.encode_text(["a cat"]).mT
tensor([[1.]])

`sing_utils.models.open_clip_towers` and `sing_utils.models.karlo_towers` make such encoders.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch
from PIL import Image
from torch import Tensor
from torch.nn.functional import normalize

from sing_utils.errors import SingError, reason
from sing_utils.method.arrays import require_width
from sing_utils.models.judges import Judge, is_tower_of
from sing_utils.models.minilm import require_texts

_BATCH = 32  # pictures or texts a forward pass


@dataclass(frozen=True, eq=False)
class ClipEncoder:
    """An encoder of one piece: it judges every classifier but those that are built on its image tower.

    Attributes:
        name: what `load_encoder` was called with.
        dim: n, the width of the shared space.
        identity: library and version, model, weights' origin and digest, transform, and `signs` of the
            image tower (`weights.signs_of`).
        transform: PIL image -> (3, H, W).
        image_tower: (B, 3, H, W) -> (B, n), any length.
        tokenize: K texts -> (K, L); one that does not fit is a SingError.
        text_tower: (K, L) -> (K, n), any length.
        device: where both towers are.
    """

    name: str
    dim: int
    identity: dict[str, str] = field(repr=False)
    transform: Callable[[Image.Image], Tensor] = field(repr=False)
    image_tower: Callable[[Tensor], Tensor] = field(repr=False)
    tokenize: Callable[[list[str]], Tensor] = field(repr=False)
    text_tower: Callable[[Tensor], Tensor] = field(repr=False)
    device: torch.device
    _seen: dict[str, Tensor] = field(default_factory=dict, repr=False)

    @property
    def towers(self) -> tuple[str, ...]:
        """The one tower: named after the encoder, but so that no classifier's name contains it.

        Without dots, which a feature store keeps for itself.
        """
        return ("encoder-" + self.name.replace(".", "_"),)

    def prepare(self, image: Image.Image) -> Tensor:
        """One picture as the model wants it, (3, H, W)."""
        return self.transform(image.convert("RGB"))

    @torch.inference_mode()
    def compute(self, batch: Tensor) -> dict[str, Tensor]:
        """Prepared pictures (B, 3, H, W) -> {tower: (B, n)}, normalised, on the encoder's device."""
        z = self.image_tower(batch.to(self.device))  # not waited for: a GPU computes while others decode
        return {self.towers[0]: normalize(z.float(), dim=-1)}

    def encode_images(self, images: Sequence[Image.Image]) -> Tensor:
        """B pictures -> (B, n), normalised."""
        if not images:
            raise SingError("got no picture, expected at least one: pass a list of PIL images.")
        out = []
        for start in range(0, len(images), _BATCH):
            batch = torch.stack([self.prepare(i) for i in images[start : start + _BATCH]])
            out.append(self.combine(self.compute(batch)).cpu())
        return torch.cat(out)

    def encode_text(self, texts: Sequence[str]) -> Tensor:
        """K texts -> (K, n), normalised; each text is computed once.

        Raises:
            SingError: for a text of more word pieces than the model reads, or what is no text.
        """
        texts = require_texts(texts)
        new = [t for t in dict.fromkeys(texts) if t not in self._seen]
        for start in range(0, len(new), _BATCH):
            chunk = new[start : start + _BATCH]
            self._seen.update(zip(chunk, self._embed(chunk), strict=True))
        return torch.stack([self._seen[t] for t in texts])

    @torch.inference_mode()
    def _embed(self, texts: list[str]) -> Tensor:
        z = self.text_tower(self.tokenize(texts).to(self.device))  # (K, n)
        return normalize(z.float(), dim=-1).cpu()

    def combine(self, embeddings: Mapping[str, Tensor]) -> Tensor:
        """{tower: (B, n)} -> (B, n), normalised: its own tower's; others are ignored."""
        own = self.towers[0]
        if own not in embeddings:
            raise SingError(
                f"got embeddings of {', '.join(embeddings) or 'no tower'}, expected also {own}: "
                f"extract with the encoder {self.name!r}."
            )
        require_width(embeddings[own], self.dim, name=f"the embedding of {own}")
        return normalize(embeddings[own], dim=-1)

    def own_towers(self, classifier: str | Mapping[str, str]) -> tuple[str, ...]:
        """Its one tower, if the classifier is built on it."""
        signs = self.identity.get("signs", "")
        return tuple(t for t in self.towers if is_tower_of(t, classifier, signs))

    def judge_of(self, classifier: str | Mapping[str, str]) -> Judge:
        """Itself, whole; a SingError if the classifier is built on its image tower."""
        return Judge(classifier, self)


def default_device() -> torch.device:
    """A GPU if there is one."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def refuse_long(texts: Sequence[str], long: Sequence[bool], limit: int, name: str) -> None:
    """CLIP's tokenisers cut a text off without a word; that would answer another question."""
    for text, cut in zip(texts, long, strict=True):
        if cut:
            raise SingError(
                f"the text that begins {text[:40]!r} has more word pieces than the {limit} (its start and "
                f"end marks included) that {name} reads: shorten it."
            )


def missing_weights(name: str, error: Exception) -> SingError:
    """What to say when the hub's cache lacks an encoder's weights and the hub can't be reached."""
    from huggingface_hub.constants import HF_HUB_CACHE

    return SingError(
        f"the weights of {name} are not in {HF_HUB_CACHE} and can't be fetched now ({reason(error)}): "
        f"run `sing fetch --encoder {name}` where there is a network, or check the name."
    )


def hub_commit(path: Path) -> str:
    """The revision that a path in the hub's cache belongs to."""
    found = re.search(r"/snapshots/([0-9a-f]{40})(/|$)", path.as_posix())
    return found[1] if found else "unknown"
