"""What a vision-language encoder is, and which of them may judge a classifier.

An encoder has one or more image towers. A tower may be the very network that is analysed; a
`Judge` is an encoder that shares no tower with the classifier it judges, and can't be made
otherwise, so that no classifier is ever judged on its own features.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Protocol

from PIL import Image
from torch import Tensor

from sing_utils.errors import SingError
from sing_utils.models.networks import PACKAGED, packaged_signs
from sing_utils.models.weights import contains

if TYPE_CHECKING:
    from sing_utils.features.store import FeatureStore


class Encoder(Protocol):
    """What the book needs of a vision-language model; also an `Extractor` of `features`."""

    @property
    def name(self) -> str:
        """What `load_encoder` was called with."""
        ...

    @property
    def dim(self) -> int:
        """n, the width of the shared space."""
        ...

    @property
    def towers(self) -> tuple[str, ...]:
        """Names of the image towers; an encoder of one piece has one, named like itself."""
        ...

    @property
    def identity(self) -> dict[str, str]:
        """As `features.Extractor` wants it."""
        ...

    def prepare(self, image: Image.Image) -> Any:
        """As `features.Extractor` wants it."""
        ...

    def compute(self, batch: Any) -> dict[str, Tensor]:
        """A batch of prepared pictures -> {tower: (B, n)}, normalised."""
        ...

    def encode_images(self, images: Sequence[Image.Image]) -> Tensor:
        """B pictures -> (B, n), normalised."""
        ...

    def encode_text(self, texts: Sequence[str]) -> Tensor:
        """K texts -> (K, n), normalised."""
        ...

    def combine(self, embeddings: Mapping[str, Tensor]) -> Tensor:
        """{tower: (B, n)} -> (B, n), normalised; other towers are ignored."""
        ...

    def own_towers(self, classifier: str | Mapping[str, str]) -> tuple[str, ...]:
        """The towers that a classifier is built on: see `is_tower_of`."""
        ...

    def judge_of(self, classifier: str | Mapping[str, str]) -> Judge:
        """The encoder without those."""
        ...


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
        if len(self.encoder.towers) < 2:
            return {}
        only: Callable[[str], Encoder] = self.encoder.only  # type: ignore[attr-defined]
        return {t: replace(self, encoder=only(t)) for t in self.encoder.towers}

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
    if name_of(identity).partition(":")[0] in ("file", "head"):
        return False
    plain_tower, plain = (re.sub(r"[^a-z0-9]", "", s.lower()) for s in (tower, name_of(identity)))
    return re.search(plain_tower + r"(?!\d)", plain) is not None  # lite1 is not lite10


def name_of(classifier: str | Mapping[str, str]) -> str:
    """A classifier's name, from itself or its identity."""
    return classifier if isinstance(classifier, str) else str(classifier.get("name", ""))
