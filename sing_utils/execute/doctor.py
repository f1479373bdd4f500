"""What a run of a profile will take, said before anything is downloaded.

>>> from sing_utils.checkout import project_root
>>> from sing_utils.runs.profiles import load_profile
>>> print(report(load_profile("embedded"), project_root()).splitlines()[-1].partition(";")[0])
Disk: weights 0 kB, features 0 kB, book about 50 MB

Times are measured: one batch after another through each architecture, without its weights.
"""

from __future__ import annotations

import io
import os
import shutil
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import nn

from sing_utils.errors import SingError
from sing_utils.execute.needs import COUNTED, Need, ask_sizes, blank_clip, blank_network, last_weight, needs
from sing_utils.models.classifiers import LinearHead, load_classifier
from sing_utils.models.clip import require_open_clip
from sing_utils.models.networks import kind_of, parse_source, path_in
from sing_utils.runs.profiles import Profile, rooted
from sing_utils.runs.run import all_pictures, run_pictures
from sing_utils.sources.decoding import read_picture

# In a report: a run can't be done as things are.
BLOCKERS = ("MISSING", "CAN'T BE LOADED", "NOT ENOUGH")
IMAGENET_CLASS = 1300  # training pictures a class, at most
_IN_BOOK = ("embedded", "planted")


def report(profile: Profile, root: Path, *, seconds: float = 10.0) -> str:
    """What a run of the profile will take, as text.

    Args:
        profile: whose run.
        root: of the checkout, whose disk is looked at.
        seconds: of measuring this machine, about.
    """
    found = ask_sizes(needs(profile))
    missing = [n for n in found if not n.here]
    download = sum(n.size or 0 for n in {n.repository or n.source: n for n in missing}.values())
    lines = [f"Profile {profile.name}: {profile.description}", "", "Weights"]
    lines += [*map(_line, found), *_unloadable(profile, root), *_download_lines(profile, missing, download)]
    lines += ["", _pictures_line(profile, root), ""]
    count, stored = picture_count(profile, root), 0
    if profile.features is None or profile.pictures is not None:
        speeds = measure(profile, seconds)
        lines += _time_lines(profile, speeds, decoding_speed(0.2 * seconds), count)
        stored = sum(4 * s.width * count for s in speeds)
    else:
        lines.append("Time: features are stored already; the notebooks take minutes.")
    free = shutil.disk_usage(root).free
    sizes = f"weights {_bytes(download)}, features {_bytes(stored)}, book about 50 MB; free {_bytes(free)}"
    lines += ["", f"Disk: {sizes}"]
    if download + stored > free:
        lines.append("  NOT ENOUGH: free some space first.")
    return "\n".join(lines)


def picture_count(profile: Profile, root: Path) -> int:
    """Pictures that a run extracts: those that are there, else what the profile's classes say."""
    if profile.pictures is not None:
        try:
            return len(run_pictures(root, profile))
        except SingError:
            pass  # the report says that they are missing
    return (profile.per_class or IMAGENET_CLASS) * len(profile.classes or {"": ""})


def _line(need: Need) -> str:
    size = "?" if need.size is None else _bytes(need.size)
    state = "here" if need.here else f"missing, {size}"
    return f"  {need.what}: {need.source}: {state}; licence: {need.licence}"


def _unloadable(profile: Profile, root: Path) -> Iterator[str]:
    """Which models are there and still no use: of one's own, or of a library that is missing."""
    loads: dict[str, Callable[[], Any]] = {}
    for name in profile.classifiers:
        source = rooted(profile.source_of(name), root)
        kind, place = kind_of(source), path_in(source)
        if place and kind.build is None:
            loads[name] = partial(LinearHead.load, place[1])
        elif place and (Path(place[1]).exists() or not kind.published):
            loads[name] = partial(load_classifier, source, rehearse=profile.rehearse)
    if any((name or "").startswith("open_clip:") for name in (profile.encoder, profile.second_encoder)):
        loads["encoder"] = require_open_clip
    for name, load in loads.items():
        try:
            load()
        except SingError as error:
            yield f"  {name}: CAN'T BE LOADED: {error}"


def _download_lines(profile: Profile, missing: list[Need], download: int) -> list[str]:
    unknown = [n.what for n in missing if n.size is None]
    more = f", and {', '.join(unknown)} (size not known here)" if unknown else ""
    commands = dict.fromkeys(n.fetch for n in missing if n.fetch)
    lines = [f"  to download: about {_bytes(download)}{more}", *(f"    {command}" for command in commands)]
    return [*lines, f"    or all at once: sing fetch --profile {profile.name}"] if missing else lines


def _pictures_line(profile: Profile, root: Path) -> str:
    if profile.pictures is not None:
        try:
            all_pictures(root, profile)
        except SingError as error:
            return f"Pictures: {profile.pictures}: MISSING: {error}"
        return f"Pictures: {profile.pictures}: here"
    if profile.features is not None:
        return f"Pictures: none needed, features are in {profile.features}"
    return "Pictures: MISSING: give -p imagenet_dir=FOLDER (ImageNet) or -p images=FOLDER (your own)"


# ------------------------------------------------------------------------------------- time


@dataclass(frozen=True)
class Speed:
    """What one picture costs in one network.

    Attributes:
        name: of the classifier, or "encoder".
        width: numbers kept of each picture.
        seconds: on this machine, without decoding.
    """

    name: str
    width: int
    seconds: float


def measure(profile: Profile, seconds: float = 10.0) -> list[Speed]:
    """Time each classifier and the encoder's image tower, all together for about `seconds`.

    Those whose architecture is not known without a download are left out, and encoders of the book.
    """
    sources = {name: profile.source_of(name) for name in profile.classifiers}
    known = {name: spec for name, spec in sources.items() if parse_source(spec).kind in COUNTED}
    share, found = 0.8 * seconds / (len(known) + 1), []
    for name, spec in known.items():
        network = blank_network(spec)
        side = network.transform(Image.new("RGB", (64, 64))).shape[-1]
        width = last_weight(network.model).shape[1]
        found.append(Speed(name, width, _seconds(network.model, side, share)))
    if profile.encoder.partition(":")[0] not in _IN_BOOK and find_spec("open_clip") is not None:
        model = "ViT-L-14"  # Karlo's own CLIP has its shape
        if profile.encoder.startswith("open_clip:"):
            model = profile.encoder.removeprefix("open_clip:").partition("/")[0]
        clip = blank_clip(model)
        size = clip.visual.image_size
        width = require_open_clip().get_model_config(model)["embed_dim"]
        time_each = _seconds(clip.visual, size if isinstance(size, int) else size[0], share)
        found.append(Speed("encoder", width, time_each))
    return found


@torch.inference_mode()
def _seconds(model: nn.Module, side: int, seconds: float) -> float:
    """Seconds a picture of a network that has no weights yet; any will do."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    model = model.to_empty(device=device).eval().to(memory_format=torch.channels_last)
    for x in (*model.parameters(), *model.buffers()):
        x.fill_(0.01) if x.is_floating_point() else x.zero_()  # buffers may be places in a table
    images = torch.rand(64 if device == "cuda" else 1, 3, side, side, device=device)
    images = images.contiguous(memory_format=torch.channels_last)
    times: list[float] = []
    with torch.autocast(device, enabled=images.is_cuda):
        while sum(times) < seconds:
            start = time.perf_counter()
            float(model(images).flatten()[0])  # read, so that a GPU has finished
            times.append(time.perf_counter() - start)
    counted = times[1:] or times  # the first is a warm-up, unless it took all the time
    return sum(counted) / len(counted) / len(images)


def decoding_speed(seconds: float) -> float:
    """Pictures decoded a second by one process; of ImageNet's usual 500 x 375."""
    noise = np.random.default_rng(0).integers(0, 256, (47, 63, 3), dtype=np.uint8)
    file = io.BytesIO()
    Image.fromarray(noise).resize((500, 375)).save(file, "JPEG", quality=90)
    count, start = 0, time.perf_counter()
    while count < 2 or time.perf_counter() - start < seconds:
        read_picture(file.getvalue()).resize((256, 256))
        count += 1
    return count / (time.perf_counter() - start)


def _time_lines(profile: Profile, speeds: list[Speed], decoded: float, count: int) -> Iterator[str]:
    on = f"CPU, {torch.get_num_threads()} threads"
    on = torch.cuda.get_device_name() if torch.cuda.is_available() else on
    yield f"Time for {count:,} pictures on this machine ({on}; measured just now, rough)"
    if len(speeds) < len(profile.classifiers) + (profile.encoder.partition(":")[0] not in _IN_BOOK):
        yield "  (models of your own, of hf:, of planted: and of libraries that are missing are not counted)"
    for s in speeds:
        yield f"  {s.name}: {_duration(count * s.seconds)}"
    workers = profile.workers or max(1, (os.cpu_count() or 2) - 1)
    decoding = _duration(count * len(speeds) / decoded / workers)
    yield f"  decoding, processes: {workers}, beside that: {decoding}"
    if profile.picture_backend.startswith("karlo"):
        yield "  Karlo draws some tens of pictures for notebooks 04 and 05: without a GPU, hours"


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
