"""The record of a run: what made its numbers (`run.json`), and how to cite them (`citation.bib`).

Both lie beside the tables in `_build/runs/<name>/results/` and may be published: no path of a machine
and no user's name is in them. No network is loaded to write them.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import platform
import re
import subprocess
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import torch
import yaml
from safetensors import SafetensorError, safe_open

from sing_utils import __version__
from sing_utils.errors import SingError
from sing_utils.execute.needs import cached_commit
from sing_utils.features.digests import digest_file, digest_files
from sing_utils.features.store import FeatureStore, feature_cache, open_stored
from sing_utils.files import write_bytes
from sing_utils.models.clip import REPOSITORY
from sing_utils.pictures.by_name import weights_files
from sing_utils.runs.profiles import Profile, rooted, safe_name

FORMAT = 1
_LONG = 200  # characters of a text that is kept as it is, not as its SHA-256
_KEY = "[0-9a-f]" * 16  # how artifacts end that depend on what was loaded
_UNREADABLE = (OSError, ValueError, KeyError, TypeError, SingError, SafetensorError)
# A path that does not start in the checkout: at the beginning, or after a kind such as `file:`.
_OUTSIDE = re.compile(r"(?:^|(?<=:)|(?<=[^:/]/))(?:[A-Za-z]:)?(?:~|\.\.)?[/\\](?!/)[^:#]+")


def write_record(
    root: Path,
    profile: Profile,
    folder: Path,
    *,
    current: Mapping[str, bool],
    versions: Mapping[str, str],
) -> dict[str, Any]:
    """Write `results/run.json` and `results/citation.bib` of a run, each whole or not at all.

    Args:
        root: of the checkout.
        profile: as it was resolved for the run.
        folder: of the run.
        current: notebook -> whether its executed copy belongs to the inputs as they are now.
        versions: library -> its version.

    Returns:
        dict: what run.json says; whatever a part of a run has not made yet is null or absent in it.
    """
    stages = _stages(folder / "executed", current)
    record = {
        "format": FORMAT,
        "run": folder.name,
        "profile": profile.name,
        "rehearsal": profile.rehearse,
        "date": max((s["ended"] for s in stages.values() if s["ended"]), default=None),
        "code": {"sing_utils": __version__, **_git(root)},
        "versions": {"Python": platform.python_version(), **versions},
        "hardware": hardware(),
        "parameters": public(profile.model_dump(mode="json"), root),
        "revisions": public(_revisions(root, profile, folder), root),
        "stages": stages,
        "total_seconds": round(sum(s["seconds"] or 0.0 for s in stages.values()), 2),
        "results": _results(folder / "results"),
    }
    text = _without_home(json.dumps(record, indent=1, ensure_ascii=False, allow_nan=False), root)
    results = folder / "results"
    results.mkdir(parents=True, exist_ok=True)
    write_bytes(results / "run.json", f"{text}\n".encode())
    write_bytes(results / "citation.bib", citation(root, record).encode())
    return record


def is_current(folder: Path) -> bool:
    """Whether a run has a record that this version of the code can read, and a citation."""
    with contextlib.suppress(*_UNREADABLE):
        record = json.loads((folder / "results" / "run.json").read_text(encoding="utf-8"))
        return record["format"] == FORMAT and (folder / "results" / "citation.bib").exists()
    return False


def public(value: Any, root: Path) -> Any:
    """Parameters without folders of this machine: of a path outside the checkout only its end is kept.

    >>> public({"images": "/home/me/my photos", "x": ["file:/book/net.py:build", 3]}, Path("/book"))
    {'images': '…/my photos', 'x': ['file:net.py:build', 3]}
    >>> public("open_clip:ViT-B-32//home/me/b32.pt", Path("/book")), public("hf:../me/set#val", Path("/book"))
    ('open_clip:ViT-B-32/…/b32.pt', 'hf:…/set#val')
    >>> public(["an image of a {}", "yes/no", "https://example.org/x"], Path("/book"))
    ['an image of a {}', 'yes/no', 'https://example.org/x']
    """
    if isinstance(value, Mapping):
        return {public(k, root): public(v, root) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [public(v, root) for v in value]
    if isinstance(value, str):
        return _OUTSIDE.sub(lambda found: _ending(found[0], root), value)
    return value


def _ending(path: str, root: Path) -> str:
    with contextlib.suppress(ValueError):
        return Path(path).relative_to(root).as_posix()
    return "…/" + re.split(r"[/\\]", path.rstrip("/\\"))[-1]


def _without_home(text: str, root: Path) -> str:
    """The last net: neither the checkout's folder nor the user's, wherever they may stand."""
    for folder, short in ((root.resolve(), "."), (Path.home(), "~")):
        if len(folder.parts) > 2:  # "/root" and "/" are no one's
            text = text.replace(json.dumps(str(folder), ensure_ascii=False)[1:-1], short)
    return text


# ------------------------------------------------------------------------------------- code, hardware


def _git(root: Path) -> dict[str, Any]:
    """The commit of the checkout and whether files differ from it; None outside a git checkout."""
    nothing = {"commit": None, "dirty": None}
    if not (root / ".git").exists():
        return nothing
    with contextlib.suppress(OSError, subprocess.SubprocessError):
        commit = _ask("git", "-C", str(root), "rev-parse", "HEAD")
        return {"commit": commit, "dirty": bool(_ask("git", "-C", str(root), "status", "--porcelain"))}
    return nothing


def _ask(*command: str) -> str:
    done = subprocess.run(
        command, check=True, capture_output=True, text=True, timeout=20, stdin=subprocess.DEVNULL
    )
    return done.stdout.strip()


def hardware() -> dict[str, Any]:
    """Processor, cores that may be used, memory (GB), GPUs that torch sees, and the operating system."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    memory = None
    with contextlib.suppress(AttributeError, ValueError, OSError):  # no sysconf on Windows
        memory = round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 1e9, 1)
    gpus: list[str] = []
    with contextlib.suppress(RuntimeError, AssertionError):
        gpus = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
    return {
        "processor": _processor(),
        "cores": cores,
        "memory_gb": memory,
        "gpus": gpus,
        "system": f"{platform.system()} {platform.release()} {platform.machine()}".strip(),
    }


def _processor() -> str | None:
    with contextlib.suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    with contextlib.suppress(OSError, subprocess.SubprocessError):
        return _ask("sysctl", "-n", "machdep.cpu.brand_string")
    return platform.processor() or platform.machine() or None


# ------------------------------------------------------------------------------------- what was made


def _stages(executed: Path, current: Mapping[str, bool]) -> dict[str, Any]:
    """Notebook -> seconds, when it ended (UTC), whether it belongs to the inputs as they are now."""
    stages = {}
    for file in sorted(executed.glob("[0-9][0-9]*_*.ipynb")):
        noted: dict[str, Any] = {}
        with contextlib.suppress(*_UNREADABLE):
            noted = dict(json.loads(file.read_text(encoding="utf-8"))["metadata"]["papermill"])
        stages[file.stem] = {
            "seconds": _seconds(noted.get("duration")),
            "ended": _utc(noted.get("end_time")),
            "current": current.get(file.stem),
        }
    return stages


def _seconds(value: Any) -> float | None:
    return round(float(value), 2) if isinstance(value, int | float) else None


def _utc(time: Any) -> str | None:
    """A moment as ISO in UTC, to the second.

    >>> _utc("2026-11-25T09:56:37.8+01:00")
    '2026-11-25T08:56:37Z'
    """
    with contextlib.suppress(ValueError, TypeError):
        return datetime.fromisoformat(time).astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    return None


def _results(folder: Path) -> dict[str, Any]:
    """Table -> rows, columns, and the SHA-256 of its Parquet file."""
    tables = {}
    for file in sorted(folder.glob("*.parquet")):
        with contextlib.suppress(*_UNREADABLE):
            meta = pq.read_metadata(file)
            columns = meta.schema.to_arrow_schema().names
            made = {"rows": meta.num_rows, "columns": columns, "sha256": digest_file(file).hex()}
            tables[file.stem] = made
    return tables


# ------------------------------------------------------------------------------------- revisions


def _revisions(root: Path, profile: Profile, folder: Path) -> dict[str, Any]:
    """Which weights and pictures the numbers come from, as far as the run has noted it."""
    models = (*profile.classifiers, profile.encoder, profile.second_encoder)
    stores = {name: _store(root, profile, folder, name) for name in models if name is not None}
    classifiers = {
        name: {
            "source": profile.source_of(name),
            **_head(folder, rooted(profile.source_of(name), root), name),
            "extractor": _extractor(stores[name]),
        }
        for name in profile.classifiers
    }
    encoder, second = (
        None if name is None else {"name": name, "extractor": _extractor(stores[name])}
        for name in (profile.encoder, profile.second_encoder)
    )
    return {
        "classifiers": classifiers,
        "encoder": encoder,
        "second encoder": second,
        "decoder": {"name": profile.picture_backend, "weights": _decoder(root, profile.picture_backend)},
        "pictures": _pictures(profile, next((s for s in stores.values() if s is not None), None)),
    }


def _store(root: Path, profile: Profile, folder: Path, name: str) -> FeatureStore | None:
    """The feature store of a model that this run used; None where it has none yet."""
    with contextlib.suppress(*_UNREADABLE):
        if profile.pictures is None:
            source = profile.source_of(name)
            return open_stored(root / str(profile.features), safe_name(name), safe_name(source))
        note = _newest(folder / "artifacts" / "features", f"{safe_name(name)}-{_KEY}.json")
        if note is not None:
            return FeatureStore.open(feature_cache(root) / json.loads(note.read_text())["store"])
    return None


def _newest(folder: Path, pattern: str) -> Path | None:
    return max(folder.glob(pattern), key=lambda p: p.stat().st_mtime_ns, default=None)


def _extractor(store: FeatureStore | None) -> dict[str, str] | None:
    """What a store's features were computed by; long texts, such as transforms, as their SHA-256."""
    if store is None:
        return None
    return {k: _short(str(v)) for k, v in store.manifest["extractor"].items()}


def _short(text: str) -> str:
    return text if len(text) <= _LONG and "\n" not in text else hashlib.sha256(text.encode()).hexdigest()


def _head(folder: Path, source: str, name: str) -> dict[str, str | None]:
    """SHA-256 of the network's weights and of its head (W and b), from what the run keeps."""
    file = _newest(folder / "artifacts" / "heads", f"{safe_name(name)}-{_KEY}.safetensors")
    if source.startswith("head:"):
        file = Path(source.removeprefix("head:"))
    with contextlib.suppress(*_UNREADABLE):
        with safe_open(str(file), "pt") as tensors:
            weights = (tensors.metadata() or {}).get("sha256") or None
            digest = hashlib.sha256()
            for key in sorted(tensors.keys()):
                x = tensors.get_tensor(key)
                digest.update(f"{key} {x.dtype} {tuple(x.shape)}\n".encode())
                digest.update(x.contiguous().flatten().view(torch.uint8).numpy().data)
        return {"weights": weights, "head": digest.hexdigest()}
    return {"weights": None, "head": None}


def _decoder(root: Path, name: str) -> str | None:
    """What draws the pictures: SHA-256 of its files and their names, or its commit in the hub's cache."""
    with contextlib.suppress(*_UNREADABLE):
        folder, files = weights_files(name, root)
        if not files:
            return cached_commit(name.partition(":")[2] or REPOSITORY)
        digest = hashlib.sha256()
        for file, content in zip(files, digest_files(files), strict=True):
            digest.update(f"{file.relative_to(folder).as_posix()}\0".encode() + content)
        return digest.hexdigest()
    return None


def _pictures(profile: Profile, store: FeatureStore | None) -> dict[str, Any] | None:
    """How many pictures of the run's classes there are, and the digest of the store's whole list."""
    if store is None:
        return None
    number = len(store)
    if profile.classes is not None:
        number = int(store.index["label"].isin(list(profile.classes)).sum())
    return {"number": number, "sha256": store.manifest["index_sha256"]}


# ------------------------------------------------------------------------------------- citation


def citation(root: Path, record: Mapping[str, Any]) -> str:
    """BibTeX of the paper, and of this book with the run whose numbers are cited."""
    about: dict[str, Any] = {}
    with contextlib.suppress(OSError, yaml.YAMLError):
        about = yaml.safe_load((root / "CITATION.cff").read_text(encoding="utf-8"))
    title = about.get("title", "SING Book")
    authors = " and ".join(f"{{{a['name']}}}" for a in about.get("authors", []) if "name" in a)
    commit = record["code"]["commit"]
    day = (record["date"] or "")[:10]
    said = [
        f"Run {record['run']} of the profile {record['profile']}",
        f"made on {day}" if day else "",
        f"at commit {commit}{' with changes' if record['code']['dirty'] else ''}" if commit else "",
        "a rehearsal: its numbers mean nothing" if record["rehearsal"] else "",
    ]
    fields = {
        "author": authors or f"{{{title}}}",
        "title": f"{{{title}}}",
        "year": day[:4],
        "version": record["code"]["sing_utils"],
        "note": _latex(", ".join(filter(None, said))),
    }
    lines = [f"  {key:<7} = {{{value}}}" for key, value in fields.items() if value]
    book = f"@misc{{{safe_name('singbook-' + record['run'])},\n" + ",\n".join(lines) + "\n}\n"
    return "\n".join(filter(None, [_paper(root), book]))


def _paper(root: Path) -> str:
    """The paper's entry in the book's references."""
    with contextlib.suppress(OSError):
        text = (root / "book" / "references.bib").read_text(encoding="utf-8")
        found = re.search(r"^@\w+\{makeitsing,.*?^\}", text, re.DOTALL | re.MULTILINE)
        return f"{found[0]}\n" if found else ""
    return ""


def _latex(text: str) -> str:
    return re.sub(r"([_&%#$])", r"\\\1", text)
