"""How long a model takes on this machine: operations counted, rates measured.

>>> Rates("a machine", 1e12, 2e12, 500.0).seconds(Work("net", 512, 4e9, 2e9))
0.005

Operations are counted on the architecture without its weights. A network whose convolutions are many
and small (depthwise ones) runs slower than the rate says, by a factor of two or three.
"""

from __future__ import annotations

import io
import logging
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torchvision
from PIL import Image
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from sing_utils.models.networks import Network, load_network, parse_source
from sing_utils.runs.profiles import Profile
from sing_utils.sources.decoding import read_picture

_COUNTED = ("package", "timm", "torchvision")  # sources whose architecture is known without a download


@dataclass(frozen=True)
class Work:
    """Operations that one picture costs in one network, floating-point operations.

    Attributes:
        name: of the classifier, or "encoder".
        width: numbers kept of each picture.
        convolutions, products: of the two kinds, whose speeds differ.
    """

    name: str
    width: int
    convolutions: float
    products: float


@dataclass(frozen=True)
class Rates:
    """What this machine does, measured: operations a second of both kinds, pictures decoded a second."""

    device: str
    convolutions: float
    products: float
    decoded: float

    def seconds(self, work: Work) -> float:
        """For one picture, without decoding."""
        return work.convolutions / self.convolutions + work.products / self.products


def blank_network(spec: str) -> Network:
    """The architecture without memory for its weights."""
    with torch.device("meta"):
        return load_network(spec, rehearse=True)


def blank_clip(model: str) -> Any:
    """A CLIP without memory for its weights."""
    import open_clip

    logging.disable(logging.WARNING)  # that it has no weights, which is what is wanted
    try:
        with torch.device("meta"):
            return open_clip.create_model(model, pretrained=None, device="meta").eval()
    finally:
        logging.disable(logging.NOTSET)


def work_of(profile: Profile) -> list[Work]:
    """Operations and widths of each classifier, and of the encoder's image tower."""
    work = []
    for name in profile.classifiers:
        if parse_source(profile.source_of(name)).kind in _COUNTED:
            network = blank_network(profile.source_of(name))
            work.append(_count(name, network.model, network.transform))
    if profile.encoder.partition(":")[0] not in ("embedded", "planted"):
        model = "ViT-L-14"  # Karlo's own CLIP has its shape
        if profile.encoder.startswith("open_clip:"):
            model = profile.encoder.removeprefix("open_clip:").partition("/")[0]
        work.append(_clip_work(model))
    return work


def _clip_work(model: str) -> Work:
    clip = blank_clip(model)
    size = clip.visual.image_size
    side = size if isinstance(size, int) else size[0]
    return _flops("encoder", clip.visual, side)


def _count(name: str, model: nn.Module, transform: Callable[[Image.Image], Any]) -> Work:
    return _flops(name, model, transform(Image.new("RGB", (64, 64))).shape[-1])


def _flops(name: str, model: nn.Module, side: int) -> Work:
    counter = FlopCounterMode(display=False)
    with counter, torch.inference_mode(), torch.device("meta"):
        out = model(torch.empty(1, 3, side, side))
    by_kind = {str(op): n for op, n in counter.get_flop_counts()["Global"].items()}
    convolutions = sum(n for op, n in by_kind.items() if "conv" in op)
    is_clip = name == "encoder"
    width = out.shape[-1] if is_clip else _last_weight(model).shape[1]
    return Work(name, int(width), float(convolutions), float(sum(by_kind.values()) - convolutions))


def _last_weight(model: nn.Module) -> Tensor:
    return [x.weight for x in model.modules() if isinstance(x, nn.Linear | nn.Conv2d)][-1]


def head_bytes(spec: str) -> int:
    """About how large a classifier's head is as float32, if that is known before its weights are; else 0."""
    if parse_source(spec).kind not in _COUNTED:
        return 0
    return 4 * _last_weight(blank_network(spec).model).numel()


def measure(seconds: float = 10.0) -> Rates:
    """Measure this machine for about `seconds`, with networks of random weights."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    name = torch.cuda.get_device_name() if device == "cuda" else f"CPU, {torch.get_num_threads()} threads"
    convolutional, transformer = torchvision.models.resnet50(), torchvision.models.vit_b_16()
    batch = 64 if device == "cuda" else 4
    conv, prod = (
        _speed(m.eval().to(device), torch.rand(batch, 3, 224, 224, device=device), 0.4 * seconds)
        for m in (convolutional, transformer)
    )
    return Rates(name, conv, prod, _decoding_speed(0.2 * seconds))


@torch.inference_mode()
def _speed(model: nn.Module, images: torch.Tensor, seconds: float) -> float:
    """Operations a second of a network on a batch."""
    with FlopCounterMode(display=False) as counter:
        model(images[:1])
    model.to(memory_format=torch.channels_last)
    images = images.contiguous(memory_format=torch.channels_last)
    autocast = torch.autocast(images.device.type, enabled=images.is_cuda)
    count, end = 0, time.perf_counter() + seconds
    start = time.perf_counter()
    with autocast:
        while count < 2 or time.perf_counter() < end:
            float(model(images).flatten()[0])  # read, so that a GPU has finished
            count += 1
    return float(counter.get_total_flops()) * len(images) * count / (time.perf_counter() - start)


def _decoding_speed(seconds: float) -> float:
    """Pictures decoded a second by one process; of ImageNet's usual 500 x 375."""
    noise = np.random.default_rng(0).integers(0, 256, (47, 63, 3), dtype=np.uint8)
    file = io.BytesIO()
    Image.fromarray(noise).resize((500, 375)).save(file, "JPEG", quality=90)
    count, start = 0, time.perf_counter()
    while count < 2 or time.perf_counter() - start < seconds:
        read_picture(file.getvalue()).resize((256, 256))
        count += 1
    return count / (time.perf_counter() - start)
