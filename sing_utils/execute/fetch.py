"""Downloading what a profile needs, while there is a network, and pinning what was got.

Everything goes into the usual caches (the hub's, torch's), where later runs find it without a network
(`HF_HUB_OFFLINE=1`).

>>> pinned("timm:resnet18.a1_in1k@v1", "0" * 40)
'timm:resnet18.a1_in1k@0000000000000000000000000000000000000000'
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from pathlib import Path

from sing_utils.errors import SingError
from sing_utils.execute.needs import Need, needs
from sing_utils.models.classifiers import load_classifier
from sing_utils.models.clip import REPOSITORY, find_weights
from sing_utils.models.encoders import load_encoder
from sing_utils.models.networks import parse_source
from sing_utils.runs.profiles import Profile, save_profile


def fetch(profile: Profile) -> Iterator[str]:
    """Load everything that a run of the profile loads; yields one line a thing.

    Raises:
        SingError: if something is missing and can't be fetched.
    """
    failed = []
    for need in needs(profile):
        try:
            yield f"{need.what}: {need.source}: {_loader(need)()}"
        except SingError as error:
            failed.append(need.what)
            yield f"{need.what}: {error}"
    if failed:
        raise SingError(f"{', '.join(failed)} could not be fetched, expected all: see above.")


def _loader(need: Need) -> Callable[[], str]:
    if need.source == "embedded" or need.what == "encoder":
        return lambda: fetch_encoder(need.source)
    if need.what == "pictures":
        return lambda: _fetch_pictures(need)
    return lambda: fetch_classifier(need.source)


def fetch_classifier(spec: str) -> str:
    """Load a classifier, downloading it if needed; says what it is."""
    if spec.startswith("head:"):
        return "a file of your own"
    classifier = load_classifier(spec)
    c, m = classifier.head.weight.shape
    return f"here; {m} features, {c} classes, weights {classifier.sha256[:12]}"


def fetch_encoder(name: str) -> str:
    """Load an encoder, downloading it if needed; says what it is."""
    encoder = load_encoder(name)
    return f"here; {encoder.dim} dimensions"


def _fetch_pictures(need: Need) -> str:
    if need.repository == REPOSITORY:
        find_weights(REPOSITORY)
    return "here"


def pinned(spec: str, commit: str) -> str:
    """A classifier's name with the commit of its repository."""
    return f"{spec.partition('@')[0]}@{commit}"


def pin(profile: Profile, path: Path) -> list[str]:
    """Write the profile with classifiers of the hub, and open_clip's encoder, pinned to cached commits.

    torchvision's weights need none: their file's name carries their checksum. Karlo can't be pinned.

    Returns:
        The names that were pinned.
    """
    sources, done = {}, []
    for need in needs(profile)[: len(profile.classifiers)]:
        commit = cached_commit(need.repository) if need.repository else None
        kind = parse_source(need.source).kind
        is_pinned = commit is not None and kind in ("timm", "hf")
        sources[need.what] = pinned(need.source, str(commit)) if is_pinned else need.source
        done += [need.what] if is_pinned else []
    values: dict[str, object] = {"classifier_sources": sources}
    encoder = next(n for n in needs(profile) if n.what == "encoder")
    commit = cached_commit(encoder.repository) if encoder.repository else None
    if commit is not None and encoder.source.startswith("open_clip:"):
        values["encoder"] = pinned(encoder.source, commit)
        done.append("the encoder")
    if profile.picture_backend.startswith("photos:"):
        values["picture_backend"] = "photos"  # those of whoever runs it
    save_profile(profile.model_copy(update=values), path)
    return done


def cached_commit(repository: str) -> str | None:
    """The commit of a repository whose files are in the hub's cache, or None."""
    from huggingface_hub import scan_cache_dir
    from huggingface_hub.errors import CacheNotFound

    try:
        repositories = scan_cache_dir().repos
    except CacheNotFound:
        return None
    found = [r for repo in repositories if repo.repo_id == repository for r in repo.revisions]
    if not found:
        return None
    # The one that a name without a commit means; else what was last fetched.
    newest = max(found, key=lambda r: ("main" in r.refs, r.last_modified))
    return newest.commit_hash if re.fullmatch(r"[0-9a-f]{40}", newest.commit_hash) else None
