"""Any classifier that ends in a linear head: features, W, b and logits in one pass.

>>> from sing_utils.models.classifiers import load_classifier
>>> classifier = load_classifier("efficientnet_lite0")
>>> classifier.head.weight.shape, classifier.head.bias.shape
(torch.Size([1000, 1280]), torch.Size([1000]))
>>> out = classifier(torch.zeros(2, 3, 224, 224))
>>> out.features.shape, out.logits.shape
(torch.Size([2, 1280]), torch.Size([2, 1000]))

The head is found by what it does: it is the last linear layer (or 1 x 1 convolution) whose output
is the logits. So a network of any library will do; `sing_utils.models.networks` lists their names.
"""

from __future__ import annotations

import json
import random
import re
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import cache, wraps
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from PIL import Image
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from sing_utils.errors import SingError, reason
from sing_utils.models.networks import (
    BUILDING,
    Network,
    load_network,
    own_labels,
    parse_source,
)
from sing_utils.models.weights import noise_picture

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
                f"{path} holds no head ({reason(error, most=100)}), expected a safetensors file "
                "with `weight` (c, m) and perhaps `bias` (c,): `sing export-head` writes one."
            ) from None
        try:
            held = json.loads(meta.get("labels", "null"))
        except ValueError:
            held = None  # another program's, in its own form
        labels = own_labels(held) if isinstance(held, list | dict) and held else None
        require_labels(str(path), labels, len(weight))
        measured = float(meta.get("identity_error", "nan"))
        return cls(weight, bias.to(weight), labels, meta.get("sha256", ""), measured)


@dataclass(frozen=True, eq=False)
class Classifier:
    """A network that ends in a linear head, with its own evaluation transform.

    Attributes:
        name: what `load_classifier` was called with.
        model: the whole network, in evaluation mode.
        found: its head: a linear layer, or a 1 x 1 convolution on pooled features.
        stored: type of number in which its weights were stored; the network computes in float32.
        transform: PIL image -> (3, H, W).
        sha256: of the weights.
        labels: names of the classes, or None.
        library: that built the network, with its version.
        signs: of its weights: see `weights.signs_of`.
        head: W and b, on the CPU.
    """

    name: str
    model: nn.Module
    found: Found
    stored: torch.dtype
    transform: Callable[[Image.Image], Tensor]
    sha256: str
    labels: tuple[str, ...] | None = None
    library: str = ""
    signs: str = ""
    head: LinearHead = field(init=False)

    def __post_init__(self) -> None:
        W, b = self.found.weight, self.found.bias
        if W is None or b is None:
            # Its rank depends on how it was rounded: a float64 was rounded to float32, a 16-bit one stays
            # exact. One that was measured is not rounded again.
            stored = self.stored if self.stored.itemsize < 4 else torch.float32
            W, b = (x.to(stored) for x in _matrix(self.layer))
        head = LinearHead(W, b, self.labels, self.sha256, self.identity_error)
        object.__setattr__(self, "head", head)

    @property
    def layer(self) -> nn.Module:
        """Whose input is the feature."""
        return self.found.layer

    @property
    def identity_error(self) -> float:
        """max|W f + b - logits| / max|logits| on random input, measured at load."""
        return self.found.error

    @classmethod
    def of(cls, name: str, network: Network) -> Classifier:
        """Find the head of a network and check that W f + b is its logits.

        Raises:
            SingError: if it does not end in a linear head.
        """
        model, size = network.model, _prepared(name, network.transform).shape
        require_finite_weights(name, model)
        stored = _in_float32(model)
        images = torch.randn(2, *size, generator=torch.Generator().manual_seed(0))
        try:
            found = find_head(model, images, name=name)
            _require_alone_as_together(name, model, images)
        except SingError:
            raise
        except Exception as error:
            raise SingError(
                f"{name} stops on a picture of shape {tuple(size)}, as its transform makes it "
                f"({reason(error, most=200)}), expected logits: let the model and its transform fit."
            ) from error
        classes = len(_matrix(found.layer)[0] if found.weight is None else found.weight)
        require_labels(name, network.labels, classes)
        rest = (network.transform, network.sha256, network.labels, network.library)
        return cls(name, model, found, stored[found.layer], *rest, network.signs)

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
            images = images.to(
                self.device, torch.float32, non_blocking=True, memory_format=torch.channels_last
            )
            logits = _logits(self.model(images), len(images))
        finally:
            hook.remove()
        if len(caught) != 1:
            raise SingError(
                f"{self.name}: the head was called {len(caught)} times in one pass, expected once: "
                "choose a classifier whose last layer is one linear layer on pooled features."
            )
        f = _pooled(caught[0], self.layer)
        return Output(f, self.head.logits(f) if self.found.ending else logits)

    @property
    def identity(self) -> dict[str, str]:
        """What its features depend on; part of a feature store's key."""
        return {
            "name": self.name,
            "weights": self.sha256,
            # Without the address in memory that a function's text has, which is another in each process.
            "transform": re.sub(r" at 0x[0-9a-fA-F]+", "", str(self.transform)),
            "library": self.library,
            **({"signs": self.signs} if self.signs else {}),
        }

    def prepare(self, image: Image.Image) -> Tensor:
        """One picture as the model wants it, (3, H, W)."""
        return self.transform(image)

    def compute(self, batch: Tensor) -> dict[str, Tensor]:
        """Prepared pictures (B, 3, H, W) -> {"features": (B, m)}."""
        return {"features": self(batch).features}


# ------------------------------------------------------------------------- finding the head


class Found(NamedTuple):
    """A head that `find_head` found.

    Attributes:
        layer: whose input is the feature.
        error: max|W f + b - logits| relative to max|logits|.
        weight: W, (c, m), where it is not the layer's own: of an adapter, a temperature, several heads.
        bias: then b, (c,).
        ending: what follows the logits and is looked through: "softmax", "log-softmax", "sigmoid" or "".
    """

    layer: nn.Module
    error: float
    weight: Tensor | None = None
    bias: Tensor | None = None
    ending: str = ""


def find_head(model: nn.Module, images: Tensor, *, name: str = "the model") -> Found:
    """The last linear layer, or 1 x 1 convolution, whose W f + b is the logits; and how exactly it is.

    If no layer's own weights are those, but the logits are linear in the input of one with as many outputs
    (a temperature, an adapter, the mean of heads), W and b are measured there. A softmax, log-softmax or
    sigmoid after a layer is looked through: its logits are those of the layer.

    Args:
        model: in evaluation mode.
        images: (B, 3, H, W), as its transform makes them.
        name: for the message.

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
            logits = _logits(model(images), len(images))
    finally:
        for hook in hooks:
            hook.remove()
    for _, module, x in reversed(calls):
        error = _identity_error(*_matrix(module), _pooled(x, module), logits)
        if error <= IDENTITY_TOLERANCE:
            return Found(module, error)
    endings = [ending for ending, matches in _ENDINGS.items() if matches(logits)]
    for _, module, x in reversed(calls):
        for ending in endings:
            if found := _before(ending, module, _pooled(x, module), logits):
                return found
    heads = [m for _, m, _ in reversed(calls) if len(_matrix(m)[0]) == logits.shape[1]]
    for module in dict.fromkeys(heads):
        if found := _linear_in(module, model, images):
            return found
    sizes = {path or "itself": _matrix(module)[0].shape for path, module, _ in calls}
    listed = ", ".join(f"{path} ({m} to {c})" for path, (c, m) in sizes.items())
    raise SingError(
        f"{name} ends in no linear head: its {logits.shape[-1]} logits are not W f + b of any of the last "
        f"linear layers that it calls ({listed or 'it calls none'}), expected one as its last step: choose "
        "another, return the logits as they leave the layer, or, where the head is computed without a layer "
        "(F.linear, @), make it an nn.Linear on what it is linear in: see the page on your own classifier."
    )


# What may follow the logits, told by their look: it leaves the order of classes as it is, and can be undone.
_ENDINGS: dict[str, Callable[[Tensor], bool]] = {
    "softmax": lambda y: y.shape[1] > 1 and bool((y >= 0).all()) and _is_one(y.sum(1)),
    "log-softmax": lambda y: y.shape[1] > 1 and _is_one(y.exp().sum(1)),
    "sigmoid": lambda y: bool(((y > 0) & (y < 1)).all()),
}


def _is_one(x: Tensor) -> bool:
    return bool((x - 1).abs().max() < 1e-3)


def _before(ending: str, module: nn.Module, f: Tensor, out: Tensor) -> Found | None:
    """The head if an ending of a multiple of the layer's W f + b is what the model returns."""
    W, b = _matrix(module)
    if len(W) != out.shape[1] or len(f) != len(out):
        return None
    y = {"softmax": out.log(), "log-softmax": out, "sigmoid": out.logit()}[ending].double()
    x = (f @ W.to(f).mT + b.to(f)).double()
    keep = y.isfinite()  # a probability may have been rounded to 0
    if ending != "sigmoid":  # a softmax ignores what all logits have in common
        x, y = (t - (t * keep).nan_to_num().sum(1, keepdim=True) / keep.sum(1, keepdim=True) for t in (x, y))
    x, y = x[keep], y[keep]
    if not len(y) or not bool(x.any()) or not bool(y.any()):
        return None
    scale = float((x @ y) / (x @ x))
    error = float((scale * x - y).abs().max() / y.abs().max())
    if error > 10 * IDENTITY_TOLERANCE:  # the logarithm of a rounded number near 1 is less exact
        return None
    if abs(scale - 1) <= 10 * IDENTITY_TOLERANCE:
        return Found(module, error, ending=ending)
    return Found(module, error, scale * W, scale * b, ending)


def _linear_in(module: nn.Module, model: nn.Module, images: Tensor) -> Found | None:
    """W and b, by derivatives, if the logits are linear in the input of a layer of another last step."""
    caught: list[Tensor] = []
    hook = module.register_forward_pre_hook(lambda _, args: caught.append(args[0]))
    try:
        with torch.enable_grad():
            # Far apart, so that a bend (of a ReLU) after the head does not pass for a straight line.
            images = torch.cat([s * images + t for s, t in ((1, 0), (-1, 0), (9, 0), (1, 9), (1, -9))])
            images.requires_grad_()
            logits = _logits(model(images), len(images))
            if len(caught) != 1 or not logits.requires_grad:
                return None
            u = torch.randn(logits.shape[1], generator=torch.Generator().manual_seed(0))
            if not _is_alike(_slope(logits @ u.to(logits), caught[0], module)):
                return None  # at once, where each logit alone would take minutes
            each = torch.stack([_slope(y, caught[0], module) for y in logits.unbind(1)], 1)  # (B, c, m)
    except RuntimeError:  # the logits do not come from there, or something was overwritten in place
        return None
    finally:
        hook.remove()
    f = _pooled(caught[0], module).detach()
    if len(each) != len(f) or not _is_alike(each):
        return None
    W = each[0]
    b = (logits.detach() - f @ W.mT).mean(0)
    error = _identity_error(W, b, f, logits.detach())
    return Found(module, error, W, b) if error <= IDENTITY_TOLERANCE and bool(W.any()) else None


def _slope(y: Tensor, x: Tensor, module: nn.Module) -> Tensor:
    """Derivative of each picture's y (B,) by its feature, (B, m), which is pooled from a layer's input x."""
    slope = _pooled(torch.autograd.grad(y.sum(), x, retain_graph=True)[0], module)
    return (slope * x[0].numel() / slope[0].numel()).detach()  # the mean over places, times places


def _is_alike(x: Tensor) -> bool:
    """Whether all rows are one."""
    return float((x - x[0]).abs().max()) <= IDENTITY_TOLERANCE * float(x.abs().max())


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


def _logits(out: Any, pictures: int) -> Tensor:
    """The logits (B, c) in what a model returns: a tensor, or an object or a dict that holds it."""
    logits = out.get("logits", out) if isinstance(out, Mapping) else getattr(out, "logits", out)
    if not isinstance(logits, Tensor):
        holds = f" of {', '.join(map(str, out))}" if isinstance(out, Mapping) else ""
        raise SingError(
            f"the model returned a {type(out).__name__}{holds}, expected logits (B, c), or an object or a "
            "dict with `logits`: return them alone."
        )
    if logits.numel() % pictures:
        raise SingError(
            f"the model returned logits of shape {tuple(logits.shape)} for {pictures} pictures, expected "
            f"({pictures}, c): one row a picture."
        )
    return logits.reshape(pictures, -1)  # one logit may come as (B,)


# ---------------------------------------------------------------------- what a model must be


def require_labels(name: str, labels: tuple[str, ...] | None, classes: int) -> None:
    """Raise a SingError unless there is one label a class, or none at all."""
    if labels is not None and len(labels) != classes:
        raise SingError(
            f"{name} has {len(labels)} labels for {classes} classes, expected one each: mend `labels`, or "
            "leave it out."
        )


def require_finite_weights(name: str, model: nn.Module) -> None:
    """Raise a SingError that names the tensor if a weight or a batch norm's statistic is NaN or infinite."""
    norms = ("running_mean", "running_var")  # other buffers may be infinite, such as an attention mask
    wrong = {}
    for key, x in [*model.named_parameters(), *model.named_buffers()]:
        if x.is_floating_point() and not x.is_meta:
            buffer = not isinstance(x, nn.Parameter) and not key.endswith(norms)
            if count := int((x.isnan() if buffer else ~x.isfinite()).sum()):
                wrong[key] = count
    if wrong:
        key, count = next(iter(wrong.items()))
        others = f" and {len(wrong) - 1} other tensors" if len(wrong) > 1 else ""
        raise SingError(
            f"the weights of {name} hold NaN or infinity ({count} in {key}{others}), expected numbers: its "
            "training diverged or the file is damaged; take an earlier checkpoint."
        )


def _in_float32(model: nn.Module) -> dict[nn.Module, torch.dtype]:
    """Make a model compute in float32; returns of each linear layer what its weights were stored in."""
    stored = {m: m.weight.dtype for m in model.modules() if _is_linear(m)}
    model.float()
    return stored  # type: ignore[return-value]


def _prepared(name: str, transform: Callable[[Image.Image], Tensor]) -> Tensor:
    """A test picture as the transform makes it, (3, H, W), after a look at what that is.

    Raises:
        SingError: for no tensor of numbers in three dimensions, or another one at the next call.
    """
    picture = noise_picture()
    with torch.random.fork_rng(devices=[]):
        before = _random_states()
        try:
            x = transform(picture.copy())
            again = [transform(picture.copy()) for _ in range(3)]
            if _random_states() != before:  # it drew numbers, which may seldom change the picture
                again += [transform(picture.copy()) for _ in range(60)]
        except SingError:
            raise
        except Exception as error:
            raise SingError(
                f"the transform of {name} stops on a picture of 64 x 64 ({reason(error)}), expected a tensor "
                "(3, H, W): it gets an RGB picture of PIL."
            ) from None
    if not isinstance(x, Tensor):
        raise SingError(
            f"the transform of {name} gives a {type(x).__name__}, expected a tensor (3, H, W): end it with "
            "torchvision's ToTensor(), or torch.from_numpy(...)."
        )
    if x.ndim != 3:
        raise SingError(
            f"the transform of {name} gives a tensor of shape {tuple(x.shape)}, expected (3, H, W): pictures "
            "are put into batches later, so leave out a batch dimension."
        )
    if not x.is_floating_point():
        raise SingError(
            f"the transform of {name} gives {str(x.dtype).removeprefix('torch.')}, expected floating-point "
            "numbers: use ToTensor(), or ToDtype(torch.float32, scale=True) after PILToTensor()."
        )
    if not bool(x.isfinite().all()):
        raise SingError(
            f"the transform of {name} gives NaN or infinity, expected numbers: check what it divides by."
        )
    if any(y.shape != x.shape or not torch.equal(x, y) for y in again):
        raise SingError(
            f"the transform of {name} is random: one picture came out in two ways, expected the same each "
            "time; give the evaluation transform, without the augmentation of training."
        )
    return x


def _random_states() -> tuple[Any, ...]:
    state: Any = np.random.get_state()
    return torch.get_rng_state().numpy().tobytes(), random.getstate(), state[1].tobytes(), state[2]


def _require_alone_as_together(name: str, model: nn.Module, images: Tensor) -> None:
    """Raise a SingError if a picture's logits are others at the next call, or beside other pictures."""
    with torch.inference_mode():
        both, alone = (_logits(model(x), len(x)) for x in (images, images[:1]))
    if float((both[:1] - alone).abs().max()) > 1e-2 * float(both.abs().max()):
        raise SingError(
            f"{name} gives other logits for a picture alone than beside another, expected the same: mend a "
            "dropout that is always on (F.dropout needs training=self.training), or a batch norm that uses "
            "the batch's statistics."
        )


# ---------------------------------------------------------------------------------- by name


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
        name: as `sing_utils.models.networks` says, such as "efficientnet_lite0",
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
        if classifier.found.weight is None:
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
