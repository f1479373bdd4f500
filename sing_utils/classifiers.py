"""Any classifier that ends in a linear head: features, W, b and logits in one pass.

>>> from sing_utils.classifiers import load_classifier
>>> classifier = load_classifier("efficientnet_lite0")
>>> classifier.head.weight.shape, classifier.head.bias.shape
(torch.Size([1000, 1280]), torch.Size([1000]))
>>> out = classifier(torch.zeros(2, 3, 224, 224))
>>> out.features.shape, out.logits.shape
(torch.Size([2, 1280]), torch.Size([2, 1000]))

The head is found by what it does: it is the last linear layer (or 1 x 1 convolution) whose output
is the logits. So a network of any library will do; `sing_utils.model_sources` lists their names.
"""

from __future__ import annotations

import json
import re
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import cache, wraps
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from timm.data import ImageNetInfo
from torch import Tensor, nn

from sing_utils.errors import SingError
from sing_utils.model_sources import BUILDING, PACKAGED, Network, imagenet_labels, load_network, parse_source

IDENTITY_TOLERANCE = 1e-4  # max|W f + b - logits| relative to max|logits|, float32


@dataclass(frozen=True)
class Output:
    """What one forward pass gives: features (B, m), logits (B, c)."""

    features: Tensor
    logits: Tensor


@dataclass(frozen=True, eq=False)
class LinearHead:
    """The last linear layer of a classifier: logits = W f + b.

    Attributes:
        weight: W, (c, m).
        bias: b, (c,); zeros if the layer has none.
        labels: names of the classes in the order of the logits, or None.
        sha256: of the whole network's weights; "" for a head that came without one.
        identity_error: max|W f + b - logits| / max|logits| on random input; NaN without a network.
    """

    weight: Tensor
    bias: Tensor
    labels: tuple[str, ...] | None = None
    sha256: str = ""
    identity_error: float = float("nan")

    def logits(self, f: Tensor) -> Tensor:
        """W f + b: (..., m) -> (..., c), in the dtype of f."""
        return f @ self.weight.to(f).mT + self.bias.to(f)

    def label(self, i: int) -> str:
        """Name of the i-th logit."""
        return self.labels[i] if self.labels is not None else f"class {i}"

    def save(self, path: str | Path) -> None:
        """Write `weight` and `bias` as a safetensors file, everything else in its header."""
        meta = {
            "labels": json.dumps(self.labels),
            "sha256": self.sha256,
            "identity_error": repr(self.identity_error),
        }
        save_file({"weight": self.weight.contiguous(), "bias": self.bias.contiguous()}, path, metadata=meta)

    @classmethod
    def load(cls, path: str | Path) -> LinearHead:
        """Read what `save` wrote, or any safetensors file with `weight` (c, m) and perhaps `bias` (c,).

        Raises:
            SingError: if the file is missing, damaged, or holds no head.
        """
        try:
            with safe_open(path, "pt") as tensors:
                meta, names = dict(tensors.metadata() or {}), set(tensors.keys())
                weight = tensors.get_tensor("weight")
                bias = tensors.get_tensor("bias") if "bias" in names else torch.zeros(len(weight))
            if meta.get("format") == "sing":
                raise KeyError("it is a translator")
            if weight.ndim != 2 or bias.shape != weight.shape[:1]:
                raise KeyError(f"weight {tuple(weight.shape)}, bias {tuple(bias.shape)}")
        except (OSError, SafetensorError, KeyError) as error:
            raise SingError(
                f"{path} holds no head ({' '.join(str(error).split())[:80]}), expected a safetensors file "
                "with `weight` (c, m) and perhaps `bias` (c,): `sing export-head` writes one."
            ) from None
        try:
            labels = json.loads(meta.get("labels", "null"))
        except ValueError:
            labels = None  # another program's, in its own form
        measured = float(meta.get("identity_error", "nan"))
        return cls(
            weight, bias.to(weight), tuple(labels) if labels else None, meta.get("sha256", ""), measured
        )


@dataclass(frozen=True, eq=False)
class Classifier:
    """A network that ends in a linear head, with its own evaluation transform.

    Attributes:
        name: what `load_classifier` was called with.
        model: the whole network, in evaluation mode.
        layer: its head: a linear layer, or a 1 x 1 convolution on pooled features.
        transform: PIL image -> (3, H, W).
        sha256: of the weights.
        labels: names of the classes, or None.
        library: that built the network, with its version.
        identity_error: max|W f + b - logits| / max|logits| on random input, measured at load.
        holds: names of the packaged networks that it contains: see `model_sources.held`.
        head: W and b, on the CPU.
    """

    name: str
    model: nn.Module
    layer: nn.Module
    transform: Callable[[Image.Image], Tensor]
    sha256: str
    labels: tuple[str, ...] | None = None
    library: str = ""
    identity_error: float = float("nan")
    holds: tuple[str, ...] = ()
    head: LinearHead = field(init=False)

    def __post_init__(self) -> None:
        W, b = _matrix(self.layer)
        head = LinearHead(W, b, self.labels, self.sha256, self.identity_error)
        object.__setattr__(self, "head", head)

    @classmethod
    def of(cls, name: str, network: Network) -> Classifier:
        """Find the head of a network and check that W f + b is its logits.

        Raises:
            SingError: if it does not end in a linear head.
        """
        layer, error = find_head(network.model, _random_images(network.transform), name=name)
        if network.labels is not None and len(network.labels) != len(_matrix(layer)[0]):
            raise SingError(
                f"{name} has {len(network.labels)} labels for {len(_matrix(layer)[0])} classes, expected one "
                "each: mend `labels`, or leave it out."
            )
        rest = (network.transform, network.sha256, network.labels, network.library)
        return cls(name, network.model, layer, *rest, error, network.holds)

    @property
    def device(self) -> torch.device:
        """Where the network is."""
        return next(self.model.parameters()).device

    @torch.inference_mode()
    def __call__(self, images: Tensor) -> Output:
        """Run the model once: images (B, 3, H, W) -> features (B, m), logits (B, c), on its device."""
        return self.forward(images)

    def forward(self, images: Tensor) -> Output:
        """The same, open to gradients in `images`."""
        caught: list[Tensor] = []
        # Cloned, because an in-place operation after the hook would change the features.
        hook = self.layer.register_forward_pre_hook(lambda _, args: caught.append(args[0].clone()))
        try:
            images = images.to(self.device, non_blocking=True, memory_format=torch.channels_last)
            logits = _logits(self.model(images))
        finally:
            hook.remove()
        if len(caught) != 1:
            raise SingError(
                f"{self.name}: the head was called {len(caught)} times in one pass, expected once: "
                "choose a classifier whose last layer is one linear layer on pooled features."
            )
        return Output(_pooled(caught[0], self.layer), logits)

    @property
    def identity(self) -> dict[str, str]:
        """What its features depend on; part of a feature store's key."""
        return {
            "name": self.name,
            "weights": self.sha256,
            # Without the address in memory that a function's text has, which is another in each process.
            "transform": re.sub(r" at 0x[0-9a-f]+", "", str(self.transform)),
            "library": self.library,
            **({"holds": ", ".join(self.holds)} if self.holds else {}),
        }

    def prepare(self, image: Image.Image) -> Tensor:
        """One picture as the model wants it, (3, H, W)."""
        return self.transform(image)

    def compute(self, batch: Tensor) -> dict[str, Tensor]:
        """Prepared pictures (B, 3, H, W) -> {"features": (B, m)}."""
        return {"features": self(batch).features}


# ------------------------------------------------------------------------- finding the head


def find_head(model: nn.Module, images: Tensor, *, name: str = "the model") -> tuple[nn.Module, float]:
    """The last linear layer, or 1 x 1 convolution, whose W f + b is the logits; and how exactly it is.

    Args:
        model: in evaluation mode.
        images: (B, 3, H, W), as its transform makes them.
        name: for the message.

    Returns:
        The layer, and max|W f + b - logits| relative to max|logits|.

    Raises:
        SingError: if there is none; the message says what was found instead.

    >>> model = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Conv2d(3, 8, 1), nn.ReLU(), nn.Conv2d(8, 5, 1))
    >>> find_head(model.eval(), torch.rand(2, 3, 4, 4))[0]
    Conv2d(8, 5, kernel_size=(1, 1), stride=(1, 1))
    """
    calls: deque[tuple[str, nn.Module, Tensor]] = deque(maxlen=4)  # a head is among the last ones
    hooks = [
        module.register_forward_pre_hook(
            lambda module, args, path=path: calls.append((path, module, args[0].clone()))
        )
        for path, module in model.named_modules()
        if _is_linear(module)
    ]
    try:
        with torch.inference_mode():
            logits = _logits(model(images))
    finally:
        for hook in hooks:
            hook.remove()
    for _, module, x in reversed(calls):
        error = _identity_error(*_matrix(module), _pooled(x, module), logits)
        if error <= IDENTITY_TOLERANCE:
            return module, error
    sizes = {path or "itself": _matrix(module)[0].shape for path, module, _ in calls}
    found = ", ".join(f"{path} ({m} to {c})" for path, (c, m) in sizes.items())
    raise SingError(
        f"{name} ends in no linear head: its {logits.shape[-1]} logits are not W f + b of any of the last "
        f"linear layers that it calls ({found or 'it calls none'}), expected one as its last step: "
        "choose another, or wrap yours so that the head comes last."
    )


def _is_linear(module: nn.Module) -> bool:
    if isinstance(module, nn.Conv2d):
        return (module.kernel_size, module.stride, module.groups) == ((1, 1), (1, 1), 1)
    return isinstance(module, nn.Linear)


def _matrix(layer: nn.Module) -> tuple[Tensor, Tensor]:
    """W (c, m) and b (c,) of a linear layer or a 1 x 1 convolution, on the CPU."""
    W = layer.weight.detach().flatten(1).cpu()  # type: ignore[operator]
    b = layer.bias
    return W, torch.zeros(len(W), dtype=W.dtype) if b is None else b.detach().cpu()  # type: ignore


def _pooled(x: Tensor, layer: nn.Module) -> Tensor:
    """A layer's input as features (B, m). Its mean over places, where pooling follows the layer."""
    if isinstance(layer, nn.Conv2d):
        return x.flatten(2).mean(-1)  # of one place: that place
    return x if x.ndim == 2 else x.flatten(1, -2).mean(1)


def _identity_error(W: Tensor, b: Tensor, f: Tensor, logits: Tensor) -> float:
    """max|W f + b - logits| / max|logits|; infinite where the shapes differ."""
    if len(W) != logits.shape[-1] or len(f) != len(logits):
        return float("inf")
    difference = float((f @ W.to(f).mT + b.to(f) - logits).abs().max())
    largest = float(logits.abs().max())
    return difference / largest if largest else (float("inf") if difference else 0.0)


def _logits(out: Any) -> Tensor:
    """The logits (B, c) in what a model returns: a tensor, or an object that holds it."""
    logits = getattr(out, "logits", out)
    if not isinstance(logits, Tensor):
        raise SingError(
            f"the model returned a {type(out).__name__}, expected logits (B, c), or an object with `logits`."
        )
    return logits.flatten(1)


def _random_images(transform: Callable[[Image.Image], Tensor]) -> Tensor:
    size = transform(Image.new("RGB", (64, 64))).shape
    return torch.randn(2, *size, generator=torch.Generator().manual_seed(0))


# ---------------------------------------------------------------------------------- by name


def available_classifiers() -> list[str]:
    """The plain names that `load_classifier` knows; for others see `sing_utils.model_sources`."""
    return sorted(PACKAGED)


def require_classifier(name: str) -> None:
    """Raise a SingError that names the nearest known classifier unless `name` may be one."""
    parse_source(name)


def _once(load: Callable[..., Classifier]) -> Any:
    """Load each classifier once a process; but a builder of one's own gets a network that it may change."""
    kept = cache(load)

    @wraps(load)
    def call(name: str, *, rehearse: bool = False) -> Classifier:
        return (load if BUILDING.get() else kept)(name, rehearse=rehearse)

    return call


@_once
def load_classifier(name: str, *, rehearse: bool = False) -> Classifier:
    """Load a classifier by name, on a GPU if there is one.

    Args:
        name: one of `available_classifiers`, or as `sing_utils.model_sources` says, such as
            "timm:resnet18.a1_in1k", "torchvision:resnet50@IMAGENET1K_V1" or "hf:REPO@REVISION".
        rehearse: the same architecture with random weights, and nothing is downloaded.

    Raises:
        SingError: for an unknown name, weights that are missing or were changed, or a model that
            does not end in a linear head.
    """
    network = load_network(name, rehearse=rehearse)
    # channels_last: twice as fast on a CPU, measured with convolutional networks
    network.model.to(memory_format=torch.channels_last)
    classifier = Classifier.of(name, network)
    if rehearse:
        _stir(classifier.layer)
        classifier = replace(classifier, name=f"{name} (rehearsal)")
    if torch.cuda.is_available():
        network.model.cuda()
    return classifier


def _stir(layer: nn.Module) -> None:
    """Give a rehearsed head random weights: some architectures begin with a head of zeros."""
    generator = torch.Generator().manual_seed(0)
    W = layer.weight
    assert isinstance(W, Tensor)
    with torch.no_grad():
        W.copy_(torch.randn(W.shape, generator=generator) / W.shape[1] ** 0.5)


@cache
def imagenet_wnids() -> list[str]:
    """The WordNet ids of ImageNet-1k's classes, in the order of the logits."""
    return list(ImageNetInfo("imagenet-1k").label_names())


def imagenet_names() -> list[str]:
    """A short English name of each ImageNet-1k class, in the order of the logits.

    >>> imagenet_names()[1]
    'goldfish'
    """
    return list(imagenet_labels())
