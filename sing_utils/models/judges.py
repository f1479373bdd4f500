"""What a vision-language encoder is, and which of them may judge a classifier.

An encoder has one or more image towers. A tower may be the very network that is analysed; a
`Judge` is an encoder that shares no tower with the classifier it judges, and can't be made
otherwise, so that no classifier is ever judged on its own features.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from PIL import Image
from torch import Tensor
from torch.nn.functional import normalize
from torch.utils.data import default_collate

from sing_utils.errors import SingError
from sing_utils.method.arrays import require_width
from sing_utils.models.networks import PACKAGED, kind_of, packaged_signs
from sing_utils.models.weights import contains

if TYPE_CHECKING:
    from sing_utils.features.store import FeatureStore


class Encoder:
    """A vision-language model, and an `Extractor` of `features`; a kind adds what is not here.

    Attributes:
        name: what `load_encoder` was called with.
        dim: n, the width of the shared space.
    """

    name: str
    dim: int
    BATCH: ClassVar[int] = 32  # pictures a forward pass

    if TYPE_CHECKING:  # fields of some kinds, computed by others

        @property
        def towers(self) -> tuple[str, ...]:
            """Names of the image towers; an encoder of one piece has one."""

        @property
        def identity(self) -> dict[str, str]:
            """What its embeddings depend on; part of a feature store's key."""

    def prepare(self, image: Image.Image) -> Any:
        """One picture as tensors that can be stacked."""
        raise NotImplementedError

    def compute(self, batch: Any) -> dict[str, Tensor]:
        """A batch of prepared pictures -> {tower: (B, n)}, normalised."""
        raise NotImplementedError

    def encode_text(self, texts: Sequence[str]) -> Tensor:
        """K texts -> (K, n), normalised.

        Raises:
            SingError: for a text of more word pieces than the model reads, or what is no text.
        """
        raise NotImplementedError

    def encode_images(self, images: Sequence[Image.Image]) -> Tensor:
        """B pictures -> (B, n), normalised.

        Raises:
            SingError: without a picture.
        """
        if not images:
            raise SingError("got no picture, expected at least one: pass a list of PIL images.")
        prepared = [self.prepare(image.convert("RGB")) for image in images]
        parts = (prepared[start : start + self.BATCH] for start in range(0, len(images), self.BATCH))
        return torch.cat([self.combine(self.compute(default_collate(part))).cpu() for part in parts])

    def combine(self, embeddings: Mapping[str, Tensor]) -> Tensor:
        """{tower: (B, n)} -> (B, n): the normalised mean over this encoder's towers; others are ignored.

        Raises:
            SingError: if a tower's are missing, or of another width.
        """
        for tower in self.towers:
            if tower not in embeddings:
                raise SingError(
                    f"got embeddings of {', '.join(embeddings) or 'no tower'}, expected also {tower}: "
                    f"extract with the encoder {self.name!r} as a whole."
                )
            require_width(embeddings[tower], self.dim, name=f"the embedding of {tower}")
        z = torch.stack([normalize(embeddings[t], dim=-1) for t in self.towers])  # (towers, B, n)
        return normalize(z.mean(0), dim=-1)

    def only(self, *towers: str) -> Encoder:
        """The same encoder with some of its towers; one of one piece stays as it is."""
        return self

    def own_towers(self, classifier: str | Mapping[str, str]) -> tuple[str, ...]:
        """The towers that a classifier is built on: see `is_tower_of`."""
        signs = self.identity.get("signs", "")
        return tuple(t for t in self.towers if is_tower_of(t, classifier, signs))

    def judge_of(self, classifier: str | Mapping[str, str]) -> Judge:
        """The encoder without the classifier's own towers; whole if it has none of them.

        Args:
            classifier: name or identity, as `is_tower_of` takes it.

        Raises:
            SingError: if no tower is left.
        """
        own = self.own_towers(classifier)
        kept = [t for t in self.towers if t not in own]
        return Judge(classifier, self.only(*kept) if own and kept else self, own)


@dataclass(frozen=True)
class Judge:
    """An encoder that shares no tower with the classifier it judges.

    Attributes:
        classifier: name or identity of the judged classifier, as `is_tower_of` takes it.
        encoder: one without that classifier among its towers; anything else is a SingError.
        left_out: the towers of the whole encoder that it lacks, since the classifier is built on them.
    """

    classifier: str | Mapping[str, str]
    encoder: Encoder
    left_out: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if own := self.encoder.own_towers(self.classifier):
            several = len(self.encoder.towers) > len(own)
            raise SingError(
                f"the encoder {self.encoder.name!r} has the tower {own[0]!r}, which is the judged classifier "
                f"{name_of(self.classifier)!r} itself or what it is built on, expected one without it: "
                + ("use encoder.judge_of(...)." if several else OTHER_ENCODER)
            )

    def towers_alone(self) -> dict[str, Judge]:
        """Each of the encoder's towers as a judge of its own; none if it has only one."""
        towers = self.encoder.towers
        return {t: replace(self, encoder=self.encoder.only(t)) for t in towers} if len(towers) > 1 else {}

    def targets(self, store: FeatureStore) -> Tensor:
        """Normalised image embeddings (N, n), in the order of `store.index`.

        Args:
            store: one that `extract(encoder, ...)` made, with one tensor a tower. The classifier's
                own tower is not even read.
        """
        return self.encoder.combine({tower: store.read(tower) for tower in self.encoder.towers})

    def encode_text(self, texts: Sequence[str]) -> Tensor:
        """K texts -> (K, n), normalised."""
        return self.encoder.encode_text(texts)

    def encode_images(self, images: Sequence[Image.Image]) -> Tensor:
        """B pictures -> (B, n), normalised."""
        return self.encoder.encode_images(images)


OTHER_ENCODER = "choose one that was trained apart, such as embedded, or another open_clip:MODEL/TAG."


def is_tower_of(tower: str, classifier: str | Mapping[str, str], signs: str = "") -> bool:
    """Whether a classifier is built on a tower: by the weights that its identity speaks of.

    The name of one's own file says nothing; that of a published network does, however spelled.

    Args:
        tower: its name.
        classifier: name of a published one, or the identity of any (`Classifier.identity`, or "extractor"
            in the manifest of its store), which holds signs of its weights.
        signs: of the tower's weights; those of a packaged network are known.

    >>> is_tower_of("efficientnet_lite0", {"weights": PACKAGED["efficientnet_lite0"].sha256})
    True
    >>> is_tower_of("efficientnet_lite0", "timm/tf_efficientnet-lite0.in1k")
    True
    >>> is_tower_of("efficientnet_lite0", "efficientnet_lite1")
    False
    >>> is_tower_of("efficientnet_lite0", "file:efficientnet_lite0/other.py:build")
    False
    """
    identity = {"name": classifier} if isinstance(classifier, str) else classifier
    if tower in identity.get("holds", "").split(", "):  # found by `judge_of_stores`
        return True
    if own := identity.get("signs"):
        return contains(own, packaged_signs(tower) if tower in PACKAGED else signs)
    if tower in PACKAGED and identity.get("weights") == PACKAGED[tower].sha256:
        return True
    if not kind_of(name_of(identity)).published:
        return False
    plain_tower, plain = (re.sub(r"[^a-z0-9]", "", s.lower()) for s in (tower, name_of(identity)))
    return re.search(plain_tower + r"(?!\d)", plain) is not None  # lite1 is not lite10


def name_of(classifier: str | Mapping[str, str]) -> str:
    """A classifier's name, from itself or its identity."""
    return classifier if isinstance(classifier, str) else str(classifier.get("name", ""))
